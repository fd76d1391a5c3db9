"""Steps that cannot move a closed weight, whatever momentum and weight decay do."""

import hashlib
from typing import Any, Self

import torch
from torch import Tensor, nn

from salhub.models.salun.weight_mask import WeightMask

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class MaskedOptimizer:
    """Makes an optimizer leave every closed weight as it is, bit by bit.

    The optimizer stays the one it was, for schedulers, checkpoints and Accelerate: two hooks go
    with its steps. Before a step the gradients of closed weights are set to 0, so that momentum
    stays 0 too. After it, closed weights get back the bits they had at the beginning, which undoes
    weight decay; that is exact for any optimizer, where the update of each would have to be written
    anew and trusted. A parameter that is closed as a whole takes no gradient at all, so the
    backward pass leaves it out.

    Args:
        optimizer: Any optimizer of torch over parameters of the model, such as SGD, Adam or AdamW.
        model: The model, before it is wrapped for several processes.
        mask: Which of its weights may move.

    Raises:
        KeyError, ValueError: The mask is of another model.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> before = model.weight.detach().clone()
        >>> mask = WeightMask({"weight": torch.tensor([[True, False]])})
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        >>> with MaskedOptimizer(sgd, model, mask):
        ...     model(torch.ones(1, 2)).sum().backward()
        ...     sgd.step()
        >>> (model.weight == before).tolist()
        [[False, True]]

    Source: Fan et al. 2024 (arXiv 2310.12508), equation 5: theta = m (theta_o + delta) +
    (1 - m) theta_o. Masking gradients alone lets weight decay and momentum move closed weights.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, mask: WeightMask
    ) -> None:
        mask = mask.for_model(model)
        self._closed: list[nn.Parameter] = []
        self._partial: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        for name, parameter in model.named_parameters():
            opened = mask.tensors[name]
            if not bool(opened.any()):
                self._close(parameter)
            elif not bool(opened.all()):
                bits = _bits(parameter)
                opened = torch.empty_like(bits).copy_(opened).neg_()  # all bits of an open weight
                self._partial.append((parameter, opened, bits & ~opened))
        self._handles = [
            optimizer.register_step_pre_hook(self._mask_gradients),
            optimizer.register_step_post_hook(self._put_back),
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Let the optimizer move all weights again."""
        for handle in self._handles:
            handle.remove()
        for parameter in self._closed:
            parameter.requires_grad_(True)
        self._closed.clear()
        self._partial.clear()

    def _close(self, parameter: nn.Parameter) -> None:
        if parameter.requires_grad:
            self._closed.append(parameter.requires_grad_(False))
        parameter.grad = None

    # Bits, because 0 times NaN is NaN, and because torch.where takes ten times as long.
    def _mask_gradients(self, *step: Any) -> None:
        for parameter, opened, _ in self._partial:
            if parameter.grad is not None:
                _bits(parameter.grad).bitwise_and_(opened)

    def _put_back(self, *step: Any) -> None:
        for parameter, opened, kept in self._partial:
            _bits(parameter).bitwise_and_(opened).bitwise_or_(kept)


def closed_weights_digest(model: nn.Module, mask: WeightMask) -> str:
    """SHA-256 over the bits of all closed weights: equal before and after, none has moved.

    Args:
        model: The model.
        mask: Which of its weights may move.

    Returns:
        64 hexadecimal digits.

    Raises:
        KeyError, ValueError: The mask is of another model.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> mask = WeightMask({"weight": torch.tensor([[True, False]])})
        >>> before = closed_weights_digest(model, mask)
        >>> model.weight.data[0, 0] += 1
        >>> closed_weights_digest(model, mask) == before
        True
    """
    mask = mask.for_model(model)
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        closed = _bits(parameter)[~mask.tensors[name]]
        digest.update(f"{name}:{closed.numel()}\n".encode())
        digest.update(closed.cpu().numpy().tobytes())
    return digest.hexdigest()


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().view(_BITS[tensor.element_size()])
