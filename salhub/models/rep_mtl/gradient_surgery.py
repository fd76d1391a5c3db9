"""Baselines that combine the gradients of tasks instead of their losses, by the library torchjd."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from salhub.errors import MissingExtraError, require_extra

Surgery = Literal["pcgrad", "cagrad", "nash_mtl", "mgda", "imtl_g", "aligned_mtl", "upgrad"]
_CLASSES = {
    "pcgrad": "PCGrad", "cagrad": "CAGrad", "nash_mtl": "NashMTL", "mgda": "MGDA",
    "imtl_g": "IMTLG", "aligned_mtl": "AlignedMTL", "upgrad": "UPGrad",
}  # fmt: skip
# As the authors of CAGrad use it on scenes.
_CAGRAD_C = 0.4


def aggregator_of(name: Surgery, num_tasks: int) -> Callable[[Tensor], Tensor]:
    """What combines the gradients of some tasks, (T, P) -> (P,).

    "nash_mtl" keeps its last weights, so that a run that goes on from a checkpoint does not end
    with the same bits.

    Args:
        name: Of the method.
        num_tasks: T.

    Raises:
        MissingExtraError: torchjd, or what it needs for this method, is not installed.
    """
    aggregation = require_extra("torchjd.aggregation", "bench")
    options: dict[str, Any] = {}
    if name == "cagrad":
        options = {"c": _CAGRAD_C}
    elif name == "nash_mtl":
        options = {"n_tasks": num_tasks}
    try:
        return getattr(aggregation, _CLASSES[name])(**options)
    except ImportError as error:  # torchjd has extras of its own
        raise MissingExtraError(
            f"{_CLASSES[name]} of torchjd needs packages that are not installed; install them "
            "with: pip install 'salhub[bench]'"
        ) from error


def surgery_loss(
    losses: Mapping[str, Tensor],
    shared: nn.Module,
    heads: Sequence[nn.Module],
    aggregator: Callable[[Tensor], Tensor],
) -> Tensor:
    """A loss whose gradient is the combined one in the encoder, and each head's own in the heads.

    Its value is that of the sum of the losses. It is linear in the weights, so that a gradient
    scaler, clipping and processes that average their gradients work as with any other loss.

    Args:
        losses: Task -> loss, ().
        shared: The encoder.
        heads: The heads.
        aggregator: Combines the tasks' gradients of the encoder, (T, P) -> (P,).
    """
    encoder = [p for p in shared.parameters() if p.requires_grad]
    own = [p for head in heads for p in head.parameters() if p.requires_grad]
    total = torch.stack(list(losses.values())).sum()
    jacobian = torch.stack([
        torch.cat([
            one.flatten()
            for one in torch.autograd.grad(loss, encoder, retain_graph=True, materialize_grads=True)
        ])
        for loss in losses.values()
    ])  # fmt: skip
    # Its small products decide directions, and autocast would round them.
    with torch.autocast(jacobian.device.type, enabled=False):
        combined = aggregator(jacobian.float()).to(jacobian.dtype)
    sizes = [p.numel() for p in encoder]
    gradients = [
        part.view_as(p) for part, p in zip(combined.split(sizes), encoder, strict=True)
    ] + list(torch.autograd.grad(total, own, materialize_grads=True))
    slope = torch.stack([
        (p * g.detach()).sum() for p, g in zip([*encoder, *own], gradients, strict=True)
    ]).sum()  # fmt: skip
    return slope - slope.detach() + total.detach()
