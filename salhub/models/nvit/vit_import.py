"""Weights of vision transformers of transformers and timm, under the names that they have here."""

import os
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from salhub.hub import load
from salhub.saving import plain_state, unwrapped

_SUPPORTED = (
    "ViTForImageClassification, DeiTForImageClassification and "
    "DeiTForImageClassificationWithTeacher of transformers, and state dictionaries of timm's ViT "
    "and DeiT"
)
# Pattern -> what stands in its place; the first one that is found counts.
_TRANSFORMERS = (
    (r"^(vit|deit)\.embeddings\.patch_embeddings\.projection", "nvit.embeddings.patch_projection"),
    (r"^(vit|deit)\.embeddings\.", "nvit.embeddings."),
    (r"^(vit|deit)\.layernorm\.", "nvit.final_norm."),
    (r"^(vit|deit)\.layers\.(\d+)\.layernorm_before\.", r"nvit.layers.\2.attention_norm."),
    (r"^(vit|deit)\.layers\.(\d+)\.layernorm_after\.", r"nvit.layers.\2.mlp_norm."),
    (r"^(vit|deit)\.layers\.(\d+)\.", r"nvit.layers.\2."),
    (r"^cls_classifier\.", "classifier."),
    (r"^(distillation_)?classifier\.", r"\1classifier."),
)  # fmt: skip
_TIMM = (
    (r"^cls_token$", "nvit.embeddings.cls_token"),
    (r"^dist_token$", "nvit.embeddings.distillation_token"),
    (r"^pos_embed$", "nvit.embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "nvit.embeddings.patch_projection."),
    (r"^blocks\.(\d+)\.norm1\.", r"nvit.layers.\1.attention_norm."),
    (r"^blocks\.(\d+)\.norm2\.", r"nvit.layers.\1.mlp_norm."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"nvit.layers.\1.attention.o_proj."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"nvit.layers.\1.attention.qkv_proj."),
    (r"^blocks\.(\d+)\.mlp\.", r"nvit.layers.\1.mlp."),
    (r"^norm\.", "nvit.final_norm."),
    (r"^head_dist\.", "distillation_classifier."),
    (r"^head\.", "classifier."),
)


def nvit_state(source: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fields of `NViTConfig` and weights of a vision transformer.

    Args:
        source: See `NViTForImageClassification.from_vit`.

    Raises:
        TypeError: Another architecture.
        ValueError: A state dictionary that is not one of timm.
    """
    if isinstance(source, str | os.PathLike):
        from transformers import AutoConfig, AutoModelForImageClassification

        kind = load(AutoConfig, source, trust_remote_code=False).model_type
        if kind not in ("vit", "deit"):
            raise TypeError(f"'{source}' is a model of type '{kind}'; supported are {_SUPPORTED}.")
        source = load(_class_of(kind, source) or AutoModelForImageClassification, source)
    if isinstance(source, Mapping):
        return _of_timm(source)
    if isinstance(source, nn.Module):
        return _of_transformers(unwrapped(source))
    raise TypeError(
        f"{type(source).__name__} is not a vision transformer; supported: {_SUPPORTED}."
    )


def _class_of(kind: str, name: str | os.PathLike) -> Any:
    """The class with both heads, where the checkpoint has two; the Auto class would drop one."""
    from transformers import AutoConfig, DeiTForImageClassificationWithTeacher

    names = load(AutoConfig, name, trust_remote_code=False).architectures or []
    is_double = "DeiTForImageClassificationWithTeacher" in names
    return DeiTForImageClassificationWithTeacher if kind == "deit" and is_double else None


def _of_transformers(model: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    names = {
        "ViTForImageClassification",
        "DeiTForImageClassification",
        "DeiTForImageClassificationWithTeacher",
    }
    if type(model).__name__ not in names:
        raise TypeError(f"{type(model).__name__} cannot be pruned; supported are {_SUPPORTED}.")
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    is_distilled = "deit" in model.base_model_prefix
    fields = {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "qk_head_dim": head_dim,
        "v_head_dim": head_dim,
        "intermediate_size": config.intermediate_size,
        "attention_scale": head_dim**-0.5,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_act": config.hidden_act,
        "image_size": _side("image_size", config.image_size),
        "patch_size": _side("patch_size", config.patch_size),
        "num_channels": config.num_channels,
        "qkv_bias": config.qkv_bias,
        "distilled": is_distilled,
        "has_distillation_classifier": hasattr(model, "distillation_classifier"),
        "id2label": dict(config.id2label),
        "label2id": dict(config.label2id),
    }
    # A mask token is of pretraining, and classifiers have no pooler.
    state = {name: one for name, one in plain_state(model).items() if "mask_token" not in name}
    return fields, _renamed(state, _TRANSFORMERS)


def _of_timm(weights: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if "patch_embed.proj.weight" not in weights or "blocks.0.attn.qkv.weight" not in weights:
        raise ValueError(
            "The state dictionary has no 'patch_embed.proj.weight' and "
            "'blocks.0.attn.qkv.weight', so it is not a timm ViT; supported are "
            f"{_SUPPORTED}."
        )
    width, channels, patch, _ = weights["patch_embed.proj.weight"].shape
    is_distilled = "dist_token" in weights
    tokens = weights["pos_embed"].shape[1] - (2 if is_distilled else 1)
    side = round(tokens**0.5)
    if side * side != tokens:
        raise ValueError(
            f"pos_embed has {tokens} patch positions, which do not form a square picture; "
            "give the weights of a ViT with a class token and square input."
        )
    state = {}
    for name, value in _renamed(weights, _TIMM).items():
        if ".qkv_proj." not in name:
            state[name] = value
            continue
        for part, one in zip("qkv", value.chunk(3), strict=True):
            state[name.replace("qkv_proj", f"{part}_proj")] = one.clone()
    blocks = {name.split(".")[2] for name in state if name.startswith("nvit.layers.")}
    fields = {
        "hidden_size": width,
        "num_hidden_layers": len(blocks),
        "intermediate_size": weights["blocks.0.mlp.fc1.weight"].shape[0],
        "image_size": side * patch,
        "patch_size": patch,
        "num_channels": channels,
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
        "distilled": is_distilled,
        "has_distillation_classifier": "head_dist.weight" in weights,
        "num_labels": weights["head.weight"].shape[0],
    }
    return fields, state


def timm_heads(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of heads that a state dictionary does not tell, from the number of heads given.

    Raises:
        ValueError: None was given, or one that does not divide the width.
    """
    heads, width = fields.get("num_attention_heads"), fields["hidden_size"]
    if not isinstance(heads, int) or width % heads:
        raise ValueError(
            "A state dictionary does not contain the number of heads; give "
            f"num_attention_heads, a divisor of {width}, got {heads!r}."
        )
    side = width // heads
    return {"qk_head_dim": side, "v_head_dim": side, "attention_scale": side**-0.5}


def _renamed(state: Mapping[str, Tensor], table: Any) -> dict[str, Tensor]:
    found = {}
    for name, value in state.items():
        for pattern, words in table:
            if re.search(pattern, name):
                found[re.sub(pattern, words, name)] = value.detach().clone()
                break
        else:
            raise ValueError(
                f"The network has '{name}', which a plain vision transformer does not have; "
                f"supported are {_SUPPORTED}."
            )
    return found


def _side(name: str, value: Any) -> int:
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1:
        raise ValueError(f"{name} must be square, got {value}.")
    return sides.pop()
