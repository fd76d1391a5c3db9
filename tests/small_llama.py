"""A LLaMA of a few thousand weights that has learned nothing, with its tokenizer."""

from functools import cache
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from salhub.backbones.tiny_llama.tokenizer_tiny_llama import train_tokenizer

POSITIONS, VOCAB_SIZE = 64, 280
WORDS = ("the", "a", "film", "story", "king", "was", "is", "good", "old", "once", "there", "said")


def documents(number: int, seed: int = 0) -> list[str]:
    """Documents of a few lines, drawn by the seed."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(20, 40, (number,), generator=generator).tolist()
    picked = [torch.randint(len(WORDS), (one,), generator=generator).tolist() for one in lengths]
    return [" ".join(WORDS[word] for word in words) + "." for words in picked]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Its tokenizer."""
    return train_tokenizer(documents(20), VOCAB_SIZE, model_max_length=POSITIONS)


def network(seed: int = 0) -> LlamaForCausalLM:
    """The network, which the caller may change."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "max_position_embeddings": POSITIONS}
    config = LlamaConfig(vocab_size=VOCAB_SIZE, **sizes, **heads, **ends)
    return LlamaForCausalLM(config).eval()


def save(folder: Path) -> Path:
    """Both, as `from_pretrained` reads them."""
    network().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
