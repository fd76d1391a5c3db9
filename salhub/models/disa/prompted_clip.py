"""The two encoders of a CLIP with learned vectors among their tokens, by loops over its layers.

The CLIP itself is neither changed nor hooked: without prompts these give its own numbers.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# More classes than these pass through the text encoder in parts whose activations are made again.
_MOST_TEXTS = 256
_LEGACY_EOS = 2


@dataclass
class ImageFeatures:
    """What the image encoder gives.

    Args:
        image_embeds: Projected features, not normalised, (B, D).
        patch_embeds: Dense features of the patches in the same space, (B, N, D), where asked for.
        cls_attention: Attention of the class token to each patch in the last layer, mean over
            heads, (B, N), where asked for.
        grid: Rows and columns of patches.
    """

    image_embeds: Tensor
    grid: tuple[int, int]
    patch_embeds: Tensor | None = None
    cls_attention: Tensor | None = None


def encode_text(clip: Any, input_ids: Tensor, prompts: Tensor | None = None) -> Tensor:
    """Projected features of texts, with learned vectors at positions 1 to n.

    Sequences are cut behind the last end-of-text token: what follows it changes nothing, because
    attention is causal and the features are read at that token.

    Args:
        clip: A `CLIPModel`.
        input_ids: (K, L); the tokens whose place prompts take still count for positions.
        prompts: (J, n, d): the vectors of the input, and of layers 1 to J - 1, where they replace
            what the layer before has made of them; None for the CLIP as it is.

    Returns:
        (K, D), not normalised.

    Source: Zhou et al. 2022 (arXiv 2109.01134) for the input, Khattak et al. 2023 (arXiv
    2307.06948) for the layers.
    """
    ends = end_positions(clip, input_ids)
    length = int(ends.max()) + 1
    input_ids = input_ids[:, :length]
    if len(input_ids) <= _MOST_TEXTS:
        return _text_part(clip, input_ids, ends, prompts)
    needs_gradient = prompts is not None and prompts.requires_grad and torch.is_grad_enabled()
    parts = []
    for ids, own in zip(input_ids.split(_MOST_TEXTS), ends.split(_MOST_TEXTS), strict=True):
        if needs_gradient:
            part = checkpoint(_text_part, clip, ids, own, prompts, use_reentrant=False)
        else:
            part = _text_part(clip, ids, own, prompts)
        parts.append(part)
    return torch.cat(parts)


def _text_part(clip: Any, input_ids: Tensor, ends: Tensor, prompts: Tensor | None) -> Tensor:
    model = clip.text_model
    tokens = model.embeddings.token_embedding(input_ids)
    tokens = _with_text_prompts(tokens, prompts, 0)
    # The position embeddings are added to the vectors too.
    hidden = model.embeddings(inputs_embeds=tokens)
    mask = _causal_mask(model.config, hidden)
    for index, layer in enumerate(model.encoder.layers):
        if index:
            hidden = _with_text_prompts(hidden, prompts, index)
        hidden = layer(hidden, mask, is_causal=True)
    # Only the token that is read is normalised: layer norm works token by token.
    rows = torch.arange(len(hidden), device=hidden.device)
    return clip.text_projection(model.final_layer_norm(hidden[rows, ends]))


def _with_text_prompts(hidden: Tensor, prompts: Tensor | None, index: int) -> Tensor:
    if prompts is None or index >= len(prompts):
        return hidden
    own = prompts[index].to(hidden.dtype).expand(hidden.shape[0], -1, -1)
    return torch.cat([hidden[:, :1], own, hidden[:, 1 + own.shape[1] :]], dim=1)


def _causal_mask(config: Any, hidden: Tensor) -> Tensor | None:
    """None where the attention kernel is told that it is causal, and need not be shown."""
    if config._attn_implementation != "eager":
        return None
    length = hidden.shape[1]
    mask = torch.full((length, length), -torch.inf, device=hidden.device, dtype=hidden.dtype)
    return mask.triu(1)[None, None]


def end_positions(clip: Any, input_ids: Tensor) -> Tensor:
    """Where each text ends, as `CLIPTextModel` finds it, int64 (K,)."""
    end = clip.text_model.eos_token_id
    if end == _LEGACY_EOS:
        return input_ids.argmax(-1)
    return (input_ids == end).int().argmax(-1)


def encode_image(
    clip: Any,
    pixel_values: Tensor,
    prompts: Tensor | None = None,
    *,
    keep: Tensor | None = None,
    mask_mode: str = "drop",
    with_patches: bool = False,
    with_attention: bool = False,
) -> ImageFeatures:
    """Projected features of pictures, with learned vectors behind the patches.

    Args:
        clip: A `CLIPModel`.
        pixel_values: (B, 3, H, W); of other sizes than the CLIP was trained on, its position
            embeddings are interpolated.
        prompts: (J, n, d): the vectors of the input, which pass the first layer norm, and of layers
            1 to J - 1, which do not; None for the CLIP as it is.
        keep: The patches that are seen, in ascending order, int64 (B, k); None for all.
        mask_mode: How the others are hidden: "drop", "attention" or "zero".
        with_patches: Give `patch_embeds`: the value path of the last attention block, in which
            patches keep their own content.
        with_attention: Give `cls_attention`.

    Source: Khattak et al. 2023 (arXiv 2307.06948) for the prompts; Zhou et al. 2022 (arXiv
    2112.01071) for the dense features.
    """
    model = clip.vision_model
    patches, grid = _patch_tokens(model.embeddings, pixel_values)
    positions = _position_embeddings(model.embeddings, pixel_values)
    mask = None
    if keep is not None and mask_mode == "zero":
        seen = torch.zeros(patches.shape[:2], dtype=torch.bool, device=patches.device)
        patches = patches * seen.scatter(1, keep, value=True)[..., None]
    patches = patches + positions[:, 1:]
    if keep is not None and mask_mode == "drop":
        patches = patches.gather(1, keep[..., None].expand(-1, -1, patches.shape[-1]))
    start = model.embeddings.class_embedding.expand(patches.shape[0], 1, -1) + positions[:, :1]
    hidden = torch.cat([start, patches], dim=1)
    count = hidden.shape[1]
    if prompts is not None:
        own = prompts[0].to(hidden.dtype).expand(hidden.shape[0], -1, -1)
        hidden = torch.cat([hidden, own], dim=1)
    if keep is not None and mask_mode == "attention":
        mask = _key_mask(keep, hidden, count)
    hidden = model.pre_layrnorm(hidden)
    layers = model.encoder.layers
    found = ImageFeatures(hidden, grid)
    for index, layer in enumerate(layers):
        if prompts is not None and 0 < index < len(prompts):
            own = prompts[index].to(hidden.dtype).expand(hidden.shape[0], -1, -1)
            hidden = torch.cat([hidden[:, :count], own], dim=1)
        if index == len(layers) - 1 and (with_patches or with_attention):
            normed = layer.layer_norm1(hidden)
            if with_patches:
                found.patch_embeds = _dense_features(clip, layer, normed[:, 1:count])
            if with_attention:
                found.cls_attention = _class_attention(layer.self_attn, normed)[:, 1:count]
        hidden = layer(hidden, mask)
    found.image_embeds = clip.visual_projection(model.post_layernorm(hidden[:, 0]))
    return found


def _patch_tokens(embeddings: Any, pixel_values: Tensor) -> tuple[Tensor, tuple[int, int]]:
    weight = embeddings.patch_embedding.weight
    tokens = embeddings.patch_embedding(pixel_values.to(weight.dtype))
    # Not flatten, which the exporter of ONNX writes for one size of batches.
    flat = tokens.reshape(tokens.shape[0], tokens.shape[1], -1)
    return flat.transpose(1, 2), (tokens.shape[2], tokens.shape[3])


def _position_embeddings(embeddings: Any, pixel_values: Tensor) -> Tensor:
    height, width = pixel_values.shape[-2:]
    if height == width == embeddings.image_size:
        return embeddings.position_embedding(embeddings.position_ids)
    shape = torch.empty(1, 1 + (height // embeddings.patch_size) * (width // embeddings.patch_size),
                        embeddings.embed_dim, device="meta")  # fmt: skip
    return embeddings.interpolate_pos_encoding(shape, height, width)


def _key_mask(keep: Tensor, hidden: Tensor, count: int) -> Tensor:
    """What is added to attention scores so that hidden patches are no keys, (B, 1, L, L)."""
    length = hidden.shape[1]
    seen = torch.zeros(len(keep), length, dtype=torch.bool, device=hidden.device)
    seen[:, 0] = True
    seen[:, count:] = True
    seen.scatter_(1, keep + 1, value=True)
    mask = torch.zeros(len(keep), 1, 1, length, dtype=hidden.dtype, device=hidden.device)
    mask.masked_fill_(~seen[:, None, None], -torch.inf)
    return mask.expand(-1, -1, length, -1)


def _dense_features(clip: Any, layer: nn.Module, normed: Tensor) -> Tensor:
    attention: Any = layer.self_attn
    values = attention.out_proj(attention.v_proj(normed))
    return clip.visual_projection(clip.vision_model.post_layernorm(values))


def _class_attention(attention: Any, normed: Tensor) -> Tensor:
    """The row of the class token alone, as fused kernels give no weights, (B, L) in float32."""
    heads, size = attention.num_heads, attention.head_dim
    query = attention.q_proj(normed[:, :1]).unflatten(-1, (heads, size)).transpose(1, 2)
    keys = attention.k_proj(normed).unflatten(-1, (heads, size)).transpose(1, 2)
    scores = (query @ keys.transpose(-1, -2)).float() * attention.scale
    return scores.softmax(-1).mean(1)[:, 0]


def sizes_of(config: Any) -> dict[str, int]:
    """Sizes of a CLIP that prompts for it depend on.

    Args:
        config: A `CLIPConfig`.
    """
    text, vision = config.text_config, config.vision_config
    return {
        "text_hidden_size": text.hidden_size,
        "text_layers": text.num_hidden_layers,
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.max_position_embeddings,
        "vision_hidden_size": vision.hidden_size,
        "vision_layers": vision.num_hidden_layers,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "projection_dim": config.projection_dim,
    }


@torch.no_grad()
def fingerprint_of(clip: Any) -> list[float]:
    """Eight numbers of the weights of a CLIP that half precision changes by less than 0.02.

    Each is the inner product of a weight matrix with waves, over its norm, so that two CLIPs of the
    same sizes differ by about 1.
    """
    numbers = []
    for weight in (clip.visual_projection.weight, clip.text_projection.weight):
        flat = weight.detach().flatten().double().cpu()
        places = torch.arange(len(flat), dtype=torch.double)
        for wave in range(1, 5):
            signs = torch.cos(places * (0.7 + wave / 3))
            numbers.append(round(float(flat @ signs / flat.norm().clamp(min=1e-12)), 4))
    return numbers
