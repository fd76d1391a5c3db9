"""A CLIP of some thousand weights that has learned nothing, with its processor."""

from functools import cache
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTokenizer

from salhub.backbones.tiny_clip.tokenizer_tiny_clip import make_processor, train_tokenizer

IMAGE_SIZE, PATCH_SIZE, POSITIONS, VOCAB_SIZE = 16, 4, 24, 560
NAMES = ("cat", "dog", "red car", "sea bird", "old tree", "house")


def texts() -> list[str]:
    """What its tokenizer was learned from."""
    return [f"{start} {name}." for name in NAMES for start in ("a photo of a", "a picture of the")]


@cache
def tokenizer() -> CLIPTokenizer:
    """Its tokenizer."""
    return train_tokenizer(texts(), VOCAB_SIZE, model_max_length=POSITIONS)


def processor() -> CLIPProcessor:
    """What prepares pictures and texts for it."""
    return make_processor(tokenizer(), IMAGE_SIZE)


def network(seed: int = 0, layers: int = 3) -> CLIPModel:
    """The network, which the caller may change."""
    torch.manual_seed(seed)
    both = {"num_hidden_layers": layers, "num_attention_heads": 2, "hidden_act": "gelu"}
    words = tokenizer()
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    text = {"hidden_size": 24, "intermediate_size": 48, "vocab_size": len(words), **ends, **both}
    sides = {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    config = CLIPConfig(
        text_config={**text, "max_position_embeddings": POSITIONS, "pad_token_id": len(words) - 1},
        vision_config={"hidden_size": 32, "intermediate_size": 64, **sides, **both},
        projection_dim=16,
    )
    return CLIPModel(config).eval()


def save(folder: Path, seed: int = 0) -> Path:
    """All of it, as `from_pretrained` reads it."""
    network(seed).save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder
