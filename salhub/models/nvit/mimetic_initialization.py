"""Fresh weights with which a vision transformer learns fast from few pictures."""

import torch
from torch import Tensor, nn

from salhub.models.nvit.modeling_nvit import NViTAttention, NViTForImageClassification

# How much of a product of two projections is noise, and how much the identity.
_NOISE_QK, _IDENTITY_QK = 0.7, 0.7
_NOISE_VO, _IDENTITY_VO = 0.4, 0.4
# Of the longest wave, as in the transformers of text.
_LONGEST = 10_000.0


@torch.no_grad()
def initialize_mimetic(model: NViTForImageClassification) -> None:
    """Give a network attention that begins as that of trained ones: near, and alike.

    In every head W_Q W_K^T is about 0.7 Z + 0.7 I, so that tokens look at those like themselves,
    and W_V W_O about 0.4 Z - 0.4 I, Z being noise of variance 1 / E; both are split by a singular
    value decomposition. Position embeddings are waves in two directions, which make neighbours
    alike. What reads patches and tokens is drawn with variance 1 / inputs, so that narrow networks
    begin with numbers of order one [C]; biases and classifiers stay as they are.

    Args:
        model: Is changed; drawn from torch's global generator.

    Source: Trockman and Kolter 2023 (arXiv 2305.09828), section 4; Dosovitskiy et al. 2021 (arXiv
    2010.11929), appendix D.4, for positions in two directions.

    Example:
        >>> from salhub.models.nvit.configuration_nvit import NViTConfig
        >>> model = NViTForImageClassification(NViTConfig(hidden_size=32, num_hidden_layers=1,
        ...     num_attention_heads=2, qk_head_dim=16, v_head_dim=16, intermediate_size=64,
        ...     image_size=32, patch_size=8))
        >>> initialize_mimetic(model)
        >>> attention = model.nvit.layers[0].attention
        >>> bool((attention.o_proj.weight @ attention.v_proj.weight).diagonal().mean() < -0.2)
        True
    """
    embeddings = model.nvit.embeddings
    _draw_by_inputs(embeddings.patch_projection)
    side = model.config.image_size // model.config.patch_size
    places = embeddings.position_embeddings
    places[0, embeddings.num_extra :] = waves(side, places.shape[-1])
    for layer in model.nvit.layers:
        _initialize_attention(layer.attention)
        _draw_by_inputs(layer.mlp.fc1)
        _draw_by_inputs(layer.mlp.fc2)


def waves(side: int, width: int) -> Tensor:
    """Position embeddings of a square of patches: sines and cosines of row and column.

    Args:
        side: Patches of a row.
        width: Channels; what is left over of a multiple of four is 0.

    Returns:
        float32 (side ** 2, width), row by row.

    Example:
        >>> [round(value, 2) for value in waves(2, 4)[1].tolist()]
        [0.0, 1.0, 0.84, 0.54]
    """
    quarter = width // 4
    rates = _LONGEST ** -(torch.arange(quarter) / max(1, quarter))
    angles = torch.arange(side)[:, None] * rates  # (side, quarter)
    one = torch.cat([angles.sin(), angles.cos()], 1)
    rows, columns = one[:, None].expand(-1, side, -1), one[None].expand(side, -1, -1)
    found = torch.zeros(side * side, width)
    found[:, : 4 * quarter] = torch.cat([rows, columns], -1).flatten(0, 1)
    return found


def _initialize_attention(attention: NViTAttention) -> None:
    width = attention.q_proj.in_features
    for head in range(attention.heads):
        rows = slice(head * attention.qk, (head + 1) * attention.qk)
        left, right = _split(width, attention.qk, _NOISE_QK, _IDENTITY_QK)
        attention.q_proj.weight[rows], attention.k_proj.weight[rows] = left.T, right.T
    total = attention.heads * attention.v
    left, right = _split(width, total, _NOISE_VO, -_IDENTITY_VO)
    attention.v_proj.weight.copy_(left.T)
    attention.o_proj.weight.copy_(right)


def _split(width: int, rank: int, noise: float, identity: float) -> tuple[Tensor, Tensor]:
    """Two (width, rank) matrices whose product is nearest to noise and a multiple of one."""
    wanted = noise * width**-0.5 * torch.randn(width, width) + identity * torch.eye(width)
    left, sizes, right = torch.linalg.svd(wanted)
    found = torch.zeros(2, width, rank)
    kept = min(rank, width)
    found[:, :, :kept] = torch.stack([left, right.T])[:, :, :kept] * sizes[:kept].sqrt()
    return found[0], found[1]


def _draw_by_inputs(module: nn.Linear | nn.Conv2d) -> None:
    weight = module.weight
    if weight.numel():
        nn.init.trunc_normal_(weight, std=weight[0].numel() ** -0.5)
