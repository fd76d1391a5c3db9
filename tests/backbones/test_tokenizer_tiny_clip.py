"""The tokenizer of the small CLIP: what it writes, and that plain transformers reads it."""

import pytest
import torch
from transformers import AutoProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from salhub.backbones.tiny_clip.tokenizer_tiny_clip import train_tokenizer
from tests import small_clip


def test_every_text_is_given_back_in_small_letters():
    tokenizer = small_clip.tokenizer()
    for text in ("a photo of a cat", "naïve 电影 🎬", "the old tree house"):
        ids = tokenizer(text.title())["input_ids"]
        assert ids[0] == len(tokenizer) - 2 and ids[-1] == len(tokenizer) - 1
        assert tokenizer.unk_token_id not in ids[1:-1]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text.title().lower()


def test_words_that_come_often_are_one_token_and_nothing_is_unknown():
    tokenizer = train_tokenizer(["a photo of a goldfish"] * 9, 540, model_max_length=16)
    assert len(tokenizer) <= 540 and len(tokenizer("goldfish")["input_ids"]) == 3
    assert len(tokenizer("电")["input_ids"]) == 2 + 3
    with pytest.raises(ValueError, match="vocab_size must be at least 514, got 513"):
        train_tokenizer(["a photo"], 513, model_max_length=16)


def test_no_more_tokens_than_asked_for_and_all_of_them_can_be_written():
    texts = [f"{first}{second}{first}" for first in "abcdefgh" for second in "stuvwxyz"] * 2
    tokenizer = train_tokenizer(texts, 530, model_max_length=16)
    assert len(tokenizer) == 530
    assert tokenizer.get_vocab()["<|endoftext|>"] == 529
    assert all(tokenizer.decode(tokenizer(text)["input_ids"][1:-1]) == text for text in texts)


def test_plain_transformers_loads_it_with_its_model(tmp_path):
    small_clip.save(tmp_path)
    names = ["a photo of a cat.", "a photo of an old red zebra."]
    pictures = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    inputs = {"text": names, "images": list(pictures), "return_tensors": "pt"}
    settings = {**inputs, "padding": "longest"}
    expected = small_clip.network()(**small_clip.processor()(**settings)).logits_per_image
    model = CLIPModel.from_pretrained(tmp_path).eval()
    for kind in (AutoProcessor, CLIPProcessor):
        processor = kind.from_pretrained(tmp_path)
        assert type(processor.tokenizer) is CLIPTokenizer
        found = model(**processor(**settings)).logits_per_image
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_text_that_is_too_long_is_refused_and_can_be_cut(caplog):
    tokenizer, model = small_clip.tokenizer(), small_clip.network()
    text = "a photo of a very old house beside a tree " * 3
    tokens = tokenizer(text, return_tensors="pt")
    with pytest.raises(ValueError, match="Sequence length must be less than max_position_emb"):
        model.get_text_features(**tokens)
    cut = tokenizer(text, truncation=True, return_tensors="pt")
    assert cut["input_ids"].shape[1] == small_clip.POSITIONS
    assert int(cut["input_ids"][0, -1]) == tokenizer.eos_token_id
    assert model.get_text_features(**cut).pooler_output.shape == (1, 16)
