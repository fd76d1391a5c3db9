"""The Gaussian average of prompts over epochs."""

import math
from typing import Any

import torch
from torch import Tensor, nn


def gaussian_weights(epochs: int, mean: float, std: float) -> list[float]:
    """What each epoch weighs, in sum 1.

    Args:
        epochs: Number of them.
        mean: The epoch, from 1, that weighs most.
        std: Width of the Gaussian in epochs.

    Source: Khattak et al. 2023 (arXiv 2307.06948), section 3.3.

    Example:
        >>> [round(weight, 2) for weight in gaussian_weights(3, mean=3, std=1)]
        [0.08, 0.35, 0.57]
    """
    logs = [-((epoch - mean) ** 2) / (2 * std**2) for epoch in range(1, epochs + 1)]
    powers = [math.exp(one - max(logs)) for one in logs]
    return [one / sum(powers) for one in powers]


def check_epochs(epochs: int, warmup: float, mean: float | None, *, gpa: bool) -> None:
    """Refuse epochs that a training does not have.

    Args:
        epochs: Number of them.
        warmup: Epochs over which the learning rate rises; 1 fits any training.
        mean: As of `gaussian_weights`, or None.
        gpa: Whether prompts are averaged.

    Raises:
        ValueError: Says which option is out of range.
    """
    if warmup > max(1, epochs / 2):
        raise ValueError(
            f"warmup_epochs={warmup:g} is more than half of num_train_epochs={epochs}; give at "
            f"most {max(1, epochs / 2):g}."
        )
    if mean is not None and not gpa:
        raise ValueError(f"gpa_mean={mean:g} has no effect without gpa=true; give both or none.")
    if mean is not None and not 1 <= mean <= epochs:
        raise ValueError(
            f"gpa_mean is an epoch, from 1 to num_train_epochs={epochs}, got {mean:g}."
        )


class PromptAverage:
    """Adds up the prompts at the end of each epoch; what else a model holds is no part of it.

    Args:
        model: Its trainable parameters are averaged.
        weights: One a epoch, see `gaussian_weights`.
    """

    def __init__(self, model: nn.Module, weights: list[float]) -> None:
        self._weights, self._done = weights, 0
        self.sums: dict[str, Tensor] = {
            name: torch.zeros_like(p, dtype=torch.float64, device="cpu")
            for name, p in model.named_parameters()
            if p.requires_grad
        }

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        """Add the prompts of an epoch that is over."""
        if self._done < len(self._weights):
            for name, own in model.named_parameters():
                if name in self.sums:
                    self.sums[name] += self._weights[self._done] * own.detach().double().cpu()
        self._done += 1

    @torch.no_grad()
    def put_into(self, model: nn.Module) -> None:
        """Make the average the prompts of a model; of a run that ended early, of its epochs."""
        weight = sum(self._weights[: self._done])
        if weight > 0:
            for name, own in model.named_parameters():
                if name in self.sums:
                    own.copy_((self.sums[name] / weight).to(own.device, own.dtype))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"sums": self.sums, "done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.sums, self._done = state["sums"], state["done"]
