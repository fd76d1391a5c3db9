"""Steps that cannot move a closed weight, whatever momentum and weight decay do."""

import hashlib
from typing import Any, Self

import torch
from torch import Tensor, nn

from salhub.models.salun.weight_mask import WeightMask, bare_names

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class MaskedOptimizer(torch.optim.Optimizer):
    """An optimizer that leaves every closed weight as it is, bit by bit.

    It steps the optimizer it is given, and shows that one's groups, state and checkpoints as its
    own, so schedulers and Accelerate take either of them. Before a step the gradients of closed
    weights are set to 0; after it, closed weights get back the bits they had at the beginning,
    which undoes weight decay, and their momentum is 0. That is exact for any optimizer, where the
    update of each would have to be written anew and trusted. A parameter that is closed as a whole
    takes no gradient at all, so the backward pass leaves it out.

    Args:
        optimizer: Any optimizer of torch over parameters of the model, such as SGD, Adam or AdamW.
        model: The model in its final precision, before it is wrapped for several processes.
        mask: Which of its weights may move.

    Raises:
        KeyError: The mask has other parameters than the model.
        ValueError: A parameter of another shape, or an optimizer of another model.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> before = model.weight.detach().clone()
        >>> mask = WeightMask({"weight": torch.tensor([[True, False]])})
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        >>> with MaskedOptimizer(sgd, model, mask) as optimizer:
        ...     model(torch.ones(1, 2)).sum().backward()
        ...     optimizer.step()
        >>> (model.weight == before).tolist()
        [[False, True]]

    Source: Fan et al. 2024 (arXiv 2310.12508), equation 5: theta = m (theta_o + delta) +
    (1 - m) theta_o. Masking gradients alone lets weight decay and momentum move closed weights.
    """

    # Like the wrapper of Accelerate, it has no groups of its own to begin with.
    def __init__(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, mask: WeightMask
    ) -> None:
        _check_same_parameters(optimizer, model)
        mask = mask.for_model(model)
        self.optimizer = optimizer
        self._closed: list[nn.Parameter] = []
        self._partial: list[_PartlyOpen] = []
        for name, parameter in model.named_parameters():
            opened = mask.tensors[name]
            if not bool(opened.any()):
                self._close(parameter)
            elif not bool(opened.all()):
                self._partial.append(_PartlyOpen(name, parameter, opened))
        # Hooks of the optimizer itself, so that a step of it by whatever way is masked.
        self._handles = [
            optimizer.register_step_pre_hook(lambda *step: self.mask_gradients()),
            optimizer.register_step_post_hook(lambda *step: self._put_back()),
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"MaskedOptimizer({self.optimizer!r})"

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # ty: ignore[incompatible-property-override]
        """Those of the optimizer inside."""
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:  # ty: ignore[incompatible-property-override]
        """That of the optimizer inside."""
        return self.optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:
        """Those of the optimizer inside."""
        return self.optimizer.defaults

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step() if closure is None else self.optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.optimizer.add_param_group(param_group)

    def mask_gradients(self) -> None:
        """Set the gradients of closed weights to 0, as every step does.

        Call it before clipping, which would otherwise count the gradients of closed weights.
        """
        entries = [entry for entry in self._partial if entry.parameter.grad is not None]
        for entry in entries:
            entry.follow_parameter()
        _close_bits([entry.parameter.grad for entry in entries], entries)

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

    def _put_back(self) -> None:
        for entry in self._partial:
            entry.follow_parameter()
        _close_bits([entry.parameter for entry in self._partial], self._partial)
        if self._partial:
            kept = [entry.kept for entry in self._partial]
            torch._foreach_add_([_bits(entry.parameter) for entry in self._partial], kept)
        # Weight decay that is added to the gradient has put closed weights into the momentum.
        momenta = [
            (value, entry)
            for entry in self._partial
            for value in self.optimizer.state.get(entry.parameter, {}).values()
            if isinstance(value, Tensor) and entry.is_like(value)
        ]
        _close_bits([value for value, _ in momenta], [entry for _, entry in momenta])


class _PartlyOpen:
    """A parameter of which some weights may move: where, and the bits of the others."""

    def __init__(self, name: str, parameter: nn.Parameter, opened: Tensor) -> None:
        self.name, self.parameter = name, parameter
        bits = _bits(parameter)
        self.opened = torch.empty_like(bits).copy_(opened)  # 1 or 0
        self.kept = bits * (1 - self.opened)

    def is_like(self, tensor: Tensor) -> bool:
        """Whether a tensor of the optimizer's state has a number for each weight."""
        same_place = tensor.device == self.opened.device and tensor.shape == self.opened.shape
        return same_place and _BITS.get(tensor.element_size()) == self.opened.dtype

    def follow_parameter(self) -> None:
        """Goes where the model has gone; Accelerate moves it late."""
        if self.parameter.element_size() != self.opened.element_size():
            raise ValueError(
                f"'{self.name}' is {self.parameter.dtype} now but had another precision when "
                "it was masked; convert the model before you create the MaskedOptimizer."
            )
        if self.parameter.device != self.opened.device:
            self.opened = self.opened.to(self.parameter.device)
            self.kept = self.kept.to(self.parameter.device)


def _close_bits(tensors: list[Tensor], entries: list[_PartlyOpen]) -> None:
    """Sets closed places to the bits of 0: a product of floats would keep NaN and the sign of 0.

    Products of integers take a tenth of the time of torch.where, and one call for all tensors.
    """
    if tensors:
        torch._foreach_mul_([_bits(t) for t in tensors], [entry.opened for entry in entries])


def _check_same_parameters(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    own = set(map(id, model.parameters()))
    stepped = [p for group in optimizer.param_groups for p in group["params"]]
    strange = sum(id(parameter) not in own for parameter in stepped)
    if strange:
        raise ValueError(
            f"{strange} of the {len(stepped)} parameters of the optimizer do not belong to "
            "this model, so the mask cannot protect them; create the optimizer from the "
            "model's own parameters."
        )


def closed_weights_digest(model: nn.Module, mask: WeightMask) -> str:
    """SHA-256 over the bits of all closed weights: equal before and after, none has moved.

    Args:
        model: The model, wrapped or not.
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
    parameters = dict(model.named_parameters())
    digest = hashlib.sha256()
    for name, bare in zip(parameters, bare_names(parameters), strict=True):
        closed = _bits(parameters[name])[~mask.tensors[name]]
        digest.update(f"{bare}:{closed.numel()}\n".encode())
        digest.update(closed.cpu().numpy().tobytes())
    return digest.hexdigest()


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().view(_BITS[tensor.element_size()])
