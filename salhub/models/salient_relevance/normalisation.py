"""Layer, group and instance normalisation: linear maps once the deviation is held constant."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class NormalisationMap:
    """y = w (x - mean) / deviation + b, the deviation of this very input counting as a constant.

    Args:
        weight: w, shaped so that it broadcasts over the inputs, or None for 1.
        bias: b likewise, or None for 0.
        name: path of the module it belongs to.
        rows: sizes in front of the values that share a mean.
        epsilon: what is added to the variance.
        precision: 1 / deviation of what the map was last applied to, of shape (*rows, 1).

    Source: Achtibat et al. 2024 (AttnLRP, arXiv 2402.05602), proposition 3.4.
    """

    weight: Tensor | None
    bias: Tensor | None
    name: str
    rows: tuple[int, ...]
    epsilon: float
    precision: Tensor | None = field(default=None, init=False)
    layer_type: str = field(default="normalisation", init=False)

    def apply(self, inputs: Tensor, weight: Tensor | None, bias: Tensor | None = None) -> Tensor:
        """The layer with these weights; the inputs are those of the call that it is the map of."""
        values = self._in_rows(inputs)
        size, own_shape = values.shape[-1:], inputs.shape[len(self.rows) :]
        if _fits(weight, own_shape) and _fits(bias, own_shape):  # in one step
            if values is not inputs:
                weight = None if weight is None else weight.reshape(size)
                bias = None if bias is None else bias.reshape(size)
            found = torch.native_layer_norm(values, size, weight, bias, self.epsilon)
            outputs, _, self.precision = found
            return outputs.view(inputs.shape)
        found = torch.native_layer_norm(values, size, None, None, self.epsilon)
        outputs, _, self.precision = found
        outputs = outputs.view(inputs.shape)
        if weight is None:
            return outputs + bias
        return outputs * weight if bias is None else torch.addcmul(bias, outputs, weight)

    def transpose(
        self,
        signal: Tensor,
        weight: Tensor | None,
        like: Tensor,
        *,
        scale: float = 1.0,
        onto: Tensor | None = None,
    ) -> Tensor:
        """The transposed map times `scale`, added in place to `onto`; of the shape of `like`."""
        scaled = signal.clone() if weight is None else signal * weight
        scaled = self._in_rows(scaled).mul_(self.precision)
        scaled = scaled if scale == 1 else scaled.mul_(scale)
        result = scaled.sub_(scaled.mean(dim=-1, keepdim=True)).view(like.shape)
        return result if onto is None else onto.add_(result)

    def align_bias(self, bias: Tensor) -> Tensor:
        """The bias, shaped so that it broadcasts over outputs."""
        return bias

    def spread(self, amount: Tensor, like: Tensor, support: Tensor | None = None) -> Tensor:
        """Give what every output has to the values it was normalised with, in equal shares."""
        values = self._in_rows(amount)
        return values.mean(dim=-1, keepdim=True).expand_as(values).reshape(like.shape)

    def _in_rows(self, values: Tensor) -> Tensor:
        """All that share a mean in the last axis."""
        return values if values.shape[:-1] == self.rows else values.reshape(*self.rows, -1)


def _fits(values: Tensor | None, shape: torch.Size) -> bool:
    return values is None or values.shape == shape


def layer_norm(
    name: str,
    input: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> NormalisationMap:
    """The map of a call of `torch.nn.functional.layer_norm` in the module called `name`."""
    rows = input.shape[: input.dim() - len(tuple(normalized_shape))]
    return NormalisationMap(weight, bias, name, tuple(rows), eps)


def group_norm(
    name: str,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> NormalisationMap:
    """The map of a call of `torch.nn.functional.group_norm`."""
    shape = (-1, *(1,) * (input.dim() - 2))
    weight, bias = (None if value is None else value.view(shape) for value in (weight, bias))
    return NormalisationMap(weight, bias, name, (len(input), num_groups), eps)


def instance_norm(
    name: str,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> NormalisationMap:
    """The map of a call of `torch.nn.functional.instance_norm` that normalises by the picture."""
    return group_norm(name, input, input.shape[1], weight, bias, eps)


NORMALISATIONS = {
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
}
