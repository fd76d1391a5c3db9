"""A small CLIP with its own tokenizer, trained from scratch on labelled pictures."""
