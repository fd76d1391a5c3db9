"""A small LLaMA with its own tokenizer, trained from scratch."""
