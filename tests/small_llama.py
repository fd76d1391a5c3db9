"""A LLaMA of a few thousand weights that has learned nothing, with its tokenizer."""

import json
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


def save_gguf(file: Path) -> Path:
    """Both in one GGUF file, in half precision, and nothing beside it."""
    from gguf import GGUFWriter

    config, vocabulary = network().config, tokenizer().get_vocab()
    merges = json.loads(tokenizer().backend_tokenizer.to_str())["model"]["merges"]
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(VOCAB_SIZE)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.get))
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, values in network().half().state_dict().items():
        if name == "lm_head.weight":
            continue
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for layer, count in heads.items():
            if layer in name:
                # The two halves of a head are woven into one another there.
                halves = values.reshape(count, 2, -1, values.shape[-1])
                values = halves.transpose(1, 2).reshape(values.shape)
        if "norm" in name:
            values = values.float()
        for ours, theirs in _GGUF_NAMES.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, values.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


_GGUF_NAMES = {
    "model.layers.": "blk.",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "self_attn.": "attn_",
    "mlp.": "ffn_",
    "o_proj": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "_proj": "",
}
