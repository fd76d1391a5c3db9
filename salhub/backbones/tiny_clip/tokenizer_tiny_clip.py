"""The tokenizer of the small CLIP, learned from its captions, and the processor it is part of."""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPProcessor, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
# Every byte inside a word, and at the end of one.
_SINGLE_BYTES = 512


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, model_max_length: int
) -> CLIPTokenizer:
    """Learn byte pairs within words, as CLIP's tokenizer has them; every text can be written.

    Letters become lower case. As in CLIP, "<|startoftext|>" and "<|endoftext|>" come last, and a
    shorter text is padded with the end.

    Args:
        texts: Training texts.
        vocab_size: Most tokens: 512 for the bytes, the pairs, the start and the end.
        model_max_length: Most tokens of a text, for the model that it goes with.

    Raises:
        ValueError: Fewer tokens than that were asked for.

    Source: Radford et al. 2021 (arXiv 2103.00020), section 2.4.

    Example:
        >>> tokenizer = train_tokenizer(["a photo of a cat"] * 9, 540, model_max_length=16)
        >>> tokenizer.decode(tokenizer("A photo")["input_ids"], skip_special_tokens=True)
        'a photo'
    """
    least = _SINGLE_BYTES + 2
    if vocab_size < least:
        raise ValueError(f"vocab_size must be at least {least}, got {vocab_size}.")
    plain = CLIPTokenizer().backend_tokenizer
    learning = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    learning.normalizer, learning.pre_tokenizer = plain.normalizer, plain.pre_tokenizer
    alphabet = sorted(ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        min_frequency=2,
        end_of_word_suffix=END_OF_WORD,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    learning.train_from_iterator(texts, trainer)
    learned = json.loads(learning.to_str())["model"]
    # The trainer knows an end of a word only where it met one.
    tokens = [*alphabet, *(letter + END_OF_WORD for letter in alphabet)]
    known = set(tokens)
    merges = []
    for left, right in learned["merges"]:
        if len(tokens) == vocab_size - 2:
            break
        merges.append((left, right))
        if left + right not in known:
            known.add(left + right)
            tokens.append(left + right)
    vocabulary = {token: place for place, token in enumerate([*tokens, START, END])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=model_max_length)


def make_processor(tokenizer: CLIPTokenizer, image_size: int = 32) -> CLIPProcessor:
    """What prepares pictures and texts for a small CLIP: its central square, and its tokens.

    Args:
        tokenizer: Of the model.
        image_size: Side of its pictures, in pixels.

    Example:
        >>> tokenizer = train_tokenizer(["a photo of a cat"], 514, model_max_length=16)
        >>> make_processor(tokenizer).image_processor.crop_size.height
        32
    """
    sides = {"height": image_size, "width": image_size}
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=sides)
    return CLIPProcessor(image_processor, tokenizer)
