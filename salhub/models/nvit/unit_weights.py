"""Which weights belong to which unit: sums over units, and networks without some of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from salhub.models.nvit.configuration_nvit import NViTConfig
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.models.nvit.shapes import NViTShape, UnitLayout


class WeightAxes(NamedTuple):
    """How a weight is cut into units.

    Args:
        block: The block that it is in; None outside of them.
        axes: Structure along each axis of its view, or None; "head" and "qk", or "head" and "v",
            share an axis of the weight itself.
    """

    block: int | None
    axes: tuple[str | None, ...]

    def key(self, axis: int) -> tuple[str, int | None] | None:
        """Structure and block along an axis of the view."""
        name = self.axes[axis]
        return None if name is None else (name, None if name == "embedding" else self.block)


_OF_BLOCK: dict[str, tuple[str | None, ...]] = {
    "attention_norm.weight": ("embedding",),
    "attention_norm.bias": ("embedding",),
    "mlp_norm.weight": ("embedding",),
    "mlp_norm.bias": ("embedding",),
    "attention.q_proj.weight": ("head", "qk", "embedding"),
    "attention.q_proj.bias": ("head", "qk"),
    "attention.k_proj.weight": ("head", "qk", "embedding"),
    "attention.k_proj.bias": ("head", "qk"),
    "attention.v_proj.weight": ("head", "v", "embedding"),
    "attention.v_proj.bias": ("head", "v"),
    "attention.o_proj.weight": ("embedding", "head", "v"),
    "attention.o_proj.bias": ("embedding",),
    "mlp.fc1.weight": ("mlp", "embedding"),
    "mlp.fc1.bias": ("mlp",),
    "mlp.fc2.weight": ("embedding", "mlp"),
    "mlp.fc2.bias": ("embedding",),
}
_OUTSIDE: dict[str, tuple[str | None, ...]] = {
    "nvit.embeddings.patch_projection.weight": ("embedding", None, None, None),
    "nvit.embeddings.patch_projection.bias": ("embedding",),
    "nvit.embeddings.cls_token": (None, None, "embedding"),
    "nvit.embeddings.distillation_token": (None, None, "embedding"),
    "nvit.embeddings.position_embeddings": (None, None, "embedding"),
    "nvit.final_norm.weight": ("embedding",),
    "nvit.final_norm.bias": ("embedding",),
    "classifier.weight": (None, "embedding"),
    "classifier.bias": (None,),
    "distillation_classifier.weight": (None, "embedding"),
    "distillation_classifier.bias": (None,),
}


def weight_axes(name: str) -> WeightAxes:
    """How the weight of that name in `NViTForImageClassification` is cut into units.

    Example:
        >>> weight_axes("nvit.layers.3.mlp.fc2.weight")
        WeightAxes(block=3, axes=('embedding', 'mlp'))
    """
    if name in _OUTSIDE:
        return WeightAxes(None, _OUTSIDE[name])
    _, _, block, own = name.split(".", 3)
    return WeightAxes(int(block), _OF_BLOCK[own])


def _view(value: Tensor, cut: WeightAxes, shape: NViTShape) -> Tensor:
    """A weight with heads and their channels on axes of their own."""
    if "head" not in cut.axes or cut.block is None:
        return value
    place = cut.axes.index("head")
    inner = getattr(shape, str(cut.axes[place + 1]))[cut.block]
    return value.unflatten(place, (shape.head[cut.block], inner))


def unit_sums(layout: UnitLayout, values: Mapping[str, Tensor]) -> Tensor:
    """Sum numbers of weights over the weights of each unit.

    A unit has all weights that are removed with it, so that a weight may count for several units.

    Args:
        layout: Of the units.
        values: Name of a weight -> a number for each of its entries, in the shape of the weight.

    Returns:
        (size,) in the dtype of the values.
    """
    first = next(iter(values.values()))
    total = torch.zeros(layout.size, dtype=first.dtype, device=first.device)
    for name, value in values.items():
        cut = weight_axes(name)
        seen = _view(value, cut, layout.shape)
        for axis in range(seen.ndim):
            if (key := cut.key(axis)) is not None:
                others = [other for other in range(seen.ndim) if other != axis]
                total[layout.place(*key)] += seen.sum(others) if others else seen
    return total


def without_units(
    model: NViTForImageClassification,
    mask: Tensor,
    *,
    keep_norm_width: bool = True,
    allow_empty: bool = False,
    record: dict[str, Any] | None = None,
) -> NViTForImageClassification:
    """The network without the units that a mask says are dead, as a smaller one.

    Args:
        model: Stays as it is.
        mask: bool (units,), True for what lives.
        keep_norm_width: Let layer norms average over as many channels as before, which makes the
            answers those of the masked network; without it they only do where no residual channel
            was removed.
        allow_empty: Whether blocks may be left without heads or neurons; their biases stay.
        record: For `pruning_record` of the configuration.

    Raises:
        ValueError: No residual channel is left, or a block without any head, QK or V channel, or
            neuron.
    """
    config, layout = model.config, model.layout
    live = {(name, block): mask[place].nonzero()[:, 0].cpu() for name, block, place in layout}
    state = {}
    for name, value in model.state_dict().items():
        cut = weight_axes(name)
        kept = _view(value, cut, layout.shape)
        for axis in range(kept.ndim):
            if (key := cut.key(axis)) is not None:
                kept = kept.index_select(axis, live[key].to(kept.device))
        if "head" in cut.axes:
            place = cut.axes.index("head")
            kept = kept.flatten(place, place + 1)
        state[name] = kept.clone()
    small_config = smaller_config(
        config,
        layout.shape_of(mask),
        keep_norm_width=keep_norm_width,
        allow_empty=allow_empty,
        record=record,
    )
    small = NViTForImageClassification(small_config).to(model.device, model.dtype)
    small.load_state_dict(state)
    return small.train(model.training)


def smaller_config(
    config: NViTConfig,
    shape: NViTShape,
    *,
    keep_norm_width: bool = True,
    allow_empty: bool = False,
    record: dict[str, Any] | None = None,
) -> NViTConfig:
    """The configuration of a network of another shape that computes as this one does.

    Args:
        config: Of the original, whose attention scale is kept.
        shape: The new widths.
        keep_norm_width, allow_empty, record: See `without_units`.
    """
    fields: dict[str, Any] = shape.fields()
    fields["attention_scale"] = config.attention_scale
    if config.attention_scale is None:
        scales = [config.scale_of(block) for block in range(config.num_hidden_layers)]
        fields["attention_scale"] = scales if len(set(scales)) > 1 else scales[0]
    width = config.layer_norm_width or config.hidden_size
    is_narrower = shape.hidden_size < width
    fields["layer_norm_width"] = width if keep_norm_width and is_narrower else None
    if allow_empty and 0 in (*shape.head, *shape.mlp):
        fields["allow_empty_blocks"] = True
    if record is not None:
        fields["pruning_record"] = record
    return type(config).from_dict({**config.to_dict(), **fields})
