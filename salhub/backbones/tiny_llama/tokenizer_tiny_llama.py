"""The byte-level tokenizer of the small LLaMA, learned from its training texts."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, model_max_length: int
) -> PreTrainedTokenizerFast:
    """Learn byte pairs; every text can be written in them, and is given back as it was.

    Args:
        texts: Training texts.
        vocab_size: Most tokens, the 256 bytes and "<|endoftext|>" (0) included.
        model_max_length: Most tokens of a text, for the model that it goes with.

    Raises:
        ValueError: Fewer tokens than that were asked for.

    Source: Sennrich et al. 2016 (arXiv 1508.07909), section 3.2, over bytes as in GPT-2.

    Example:
        >>> tokenizer = train_tokenizer(["the film"] * 9, 300, model_max_length=64)
        >>> tokenizer.decode(tokenizer("the naïve film")["input_ids"])
        'the naïve film'
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + 1:
        raise ValueError(f"vocab_size must be at least {len(alphabet) + 1}, got {vocab_size}.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
