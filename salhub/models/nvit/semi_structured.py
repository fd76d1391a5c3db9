"""2:4 sparsity: two of four neighbouring weights are zero, which some GPUs multiply faster."""

import copy
import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from salhub.models.nvit.modeling_nvit import NViTForImageClassification

logger = logging.getLogger(__name__)

_MULTIPLE = 16
_LEAST_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Sparsified:
    """A network with 2:4 sparse layers.

    Args:
        model: The network; its weights have zeros in place, and save and load like others.
        layers: Names of the layers that are sparse.
        skipped: Those that stay dense -> why.
        is_accelerated: Whether the layers run on the sparse kernels of a GPU.
    """

    model: NViTForImageClassification
    layers: list[str]
    skipped: dict[str, str]
    is_accelerated: bool


def mask_2to4(weight: Tensor) -> Tensor:
    """The two largest absolute values of each four neighbouring inputs, earlier ones at a tie.

    Args:
        weight: (out, in), in a multiple of 4.

    Returns:
        bool (out, in), half of it True.

    Example:
        >>> mask_2to4(torch.tensor([[1.0, -3.0, 2.0, 0.5]])).tolist()
        [[False, True, True, False]]

    Source: Mishra et al. 2021 (arXiv 2104.08378), section 3.
    """
    groups = weight.detach().abs().unflatten(-1, (-1, 4))
    order = groups.argsort(dim=-1, descending=True, stable=True)[..., :2]
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order, True)
    return kept.flatten(-2)


@torch.no_grad()
def sparsify_2to4(model: NViTForImageClassification, *, accelerate: bool = False) -> Sparsified:
    """Set two of each four neighbouring weights of the blocks' linear layers to zero.

    The halves that are left are those of a network that was fine-tuned dense [P]; further
    fine-tuning has to keep the zeros. The number of multiplications is unchanged on machines
    without sparse kernels, and so is the size of the file.

    Args:
        model: Stays as it is.
        accelerate: Run on torch's semi-structured kernels, where the GPU has them (compute
            capability 8.0 and float16 or bfloat16); said, and dense, elsewhere. Such a model is not
            to be saved.

    Returns:
        The sparse network, with the layers that stay dense because a side of them is no multiple of
        16, which is said as well.

    Example:
        >>> sparsify_2to4(model).layers  # doctest: +SKIP

    Source: Yang et al. 2023 (arXiv 2110.04869), section 4.1.
    """
    sparse = copy.deepcopy(model)
    layers: list[str] = []
    skipped: dict[str, str] = {}
    for name, module in sparse.named_modules():
        if not isinstance(module, nn.Linear) or ".layers." not in name:
            continue
        sides = tuple(module.weight.shape)
        if any(side % _MULTIPLE for side in sides) or not all(sides):
            skipped[name] = (
                f"its weight is {sides[0]} x {sides[1]}, and both must be multiples of 16"
            )
            continue
        module.weight.mul_(mask_2to4(module.weight))
        layers.append(name)
    if skipped:
        name, reason = next(iter(skipped.items()))
        logger.warning(
            "%d of %d layers stay dense, such as %s: %s.",
            len(skipped), len(skipped) + len(layers), name, reason,
        )  # fmt: skip
    is_fast = accelerate and _has_kernels(sparse)
    if is_fast:
        from torch.sparse import to_sparse_semi_structured

        for name in layers:
            module = sparse.get_submodule(name)
            module.weight = nn.Parameter(
                to_sparse_semi_structured(module.weight.detach()), requires_grad=False
            )
    return Sparsified(sparse, layers, skipped, is_fast)


def _has_kernels(model: NViTForImageClassification) -> bool:
    if model.device.type != "cuda":
        logger.warning("Device '%s' has no sparse kernels; layers stay dense.", model.device.type)
        return False
    found = torch.cuda.get_device_capability(model.device)
    if found < _LEAST_CAPABILITY or model.dtype not in (torch.float16, torch.bfloat16):
        logger.warning(
            "Sparse kernels need compute capability 8.0 and float16 or bfloat16, got %s and "
            "%s; layers stay dense.", ".".join(map(str, found)), model.dtype,
        )  # fmt: skip
        return False
    return True
