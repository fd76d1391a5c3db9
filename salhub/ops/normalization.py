"""Normalisation layers that a pass gives a single value: they take their running statistics."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

logger = logging.getLogger(__name__)

_WATCHED = (_BatchNorm, _InstanceNorm, nn.GroupNorm)
_HELD = "_held_for_one_pass"


@contextmanager
def single_values_normalized(network: nn.Module) -> Generator[None]:
    """Let normalisation layers work where a channel has a single value in a pass.

    One value has no deviation, so that torch refuses it: a last batch of one picture where the
    network has come down to 1 x 1, say. Batch and instance norms use their running statistics for
    that pass, and leave them as they are; the first one says so in the log. All other passes are as
    ever.

    Args:
        network: Its layers are watched inside the context.

    Raises:
        ValueError: In a pass, naming the layer: it has a single value and keeps no running
            statistics.

    Example:
        >>> import torch
        >>> network = nn.BatchNorm1d(2)
        >>> with single_values_normalized(network):
        ...     network(torch.ones(1, 2)).shape
        torch.Size([1, 2])
    """
    said: list[str] = []
    handles = []
    for name, module in network.named_modules():
        # Processes that share their statistics have more values than one of them sees.
        if isinstance(module, _WATCHED) and not isinstance(module, nn.SyncBatchNorm):
            handles.append(module.register_forward_pre_hook(partial(_hold, name=name, said=said)))
            handles.append(module.register_forward_hook(_let_go, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hold(module: nn.Module, inputs: tuple[Any, ...], *, name: str, said: list[str]) -> None:
    """Put a layer that would have a single value a channel into evaluation mode for this pass."""
    has_statistics = getattr(module, "running_mean", None) is not None
    if (has_statistics and not module.training) or _values_a_channel(module, inputs[0]) != 1:
        return
    kind = f"'{name}' ({type(module).__name__})"
    if not has_statistics:
        raise ValueError(
            f"{kind} normalizes over the current batch, but a single value per channel has "
            "no deviation; use larger pictures, or a batch_size that does not leave a batch "
            "of one."
        )
    if not said:
        said.append(name)
        logger.warning(
            "%s gets a single value per channel, which has no deviation; it and similar "
            "layers use their running statistics unchanged.",
            kind,
        )
    module.training = False
    vars(module)[_HELD] = True


def _let_go(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    if vars(module).pop(_HELD, False):
        module.training = True


def _values_a_channel(module: nn.Module, values: Tensor) -> int:
    """Over how many values a mean is taken, as torch counts them."""
    if isinstance(module, nn.GroupNorm):
        return values.numel() // module.num_groups
    if isinstance(module, _BatchNorm):
        return values.numel() // max(1, values.shape[1])
    positions = values.shape[1 if values.ndim == module._get_no_batch_dim() else 2 :]
    return positions.numel()
