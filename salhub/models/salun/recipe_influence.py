"""`salhub unlearn iu`: one Newton-like step, its inverse Hessian after WoodFisher.

Source: Izzo et al. 2021 (arXiv 2002.10077) for the step; Singh and Alistarh 2020 (arXiv
2004.14340), equation 4, for the inverse; Fan et al. 2024 (arXiv 2310.12508) for the combination,
with the signs and weights of the code published with it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from salhub.modeling import attribution_scope
from salhub.models.salun.unlearning import ForgettingArguments, ForgettingRecipe
from salhub.models.salun.weight_saliency import (
    gives_numbers,
    gradient_sums,
    gradients_of_samples,
)
from salhub.runner.arguments import check_count, check_positive
from salhub.runner.batches import generator_of
from salhub.runner.recipe import FitRecipe

# Tells the draw apart from the others of a run.
_FISHER_ORDER = 8


@dataclass(kw_only=True)
class InfluenceArguments(ForgettingArguments):
    """Options of `InfluenceRecipe`.

    Args:
        influence_scale: Factor on the step.
        num_fisher_samples: Retained pictures whose gradients estimate the curvature.
    """

    influence_scale: float = 1.0
    num_fisher_samples: int = 1000

    def validate(self) -> None:
        """Check the options of the method, and those of all."""
        super().validate()
        check_positive("influence_scale", self.influence_scale)
        check_count("num_fisher_samples", self.num_fisher_samples)


class InfluenceRecipe(ForgettingRecipe, FitRecipe):
    """IU: removes the influence of the pictures to forget in one step, without training."""

    name = "iu"
    arguments_class = InfluenceArguments

    def fit(self, model: nn.Module, accelerator: Any) -> None:
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        with attribution_scope(model):
            direction = self._difference(model, parameters)
            step = woodfisher(direction, self._retained(model, parameters), self._fisher_count)
        self._move(parameters, self.arguments.influence_scale * step)
        if not gives_numbers(model, self.batches(self.forget, self.arguments.mask_batch_size)):
            self.run.fail(
                "the model no longer gives finite numbers after a step of "
                f"influence_scale={self.arguments.influence_scale}; use a smaller one."
            )

    @property
    def _fisher_count(self) -> int:
        return min(self.arguments.num_fisher_samples, len(self.retain) - 1)

    def _difference(self, model: nn.Module, parameters: dict[str, nn.Parameter]) -> Tensor:
        """Gradient on what is forgotten less that on what is retained, both as shares of all."""
        size = self.arguments.mask_batch_size
        forget, num_forget = gradient_sums(model, parameters, self.batches(self.forget, size))
        retain, num_retain = gradient_sums(model, parameters, self.batches(self.retain, size))
        total = num_forget + num_retain
        return _flat(forget) / total - _flat(retain) * (num_forget / (total * num_retain))

    def _retained(self, model: nn.Module, parameters: dict[str, nn.Parameter]) -> Iterator[Tensor]:
        """Gradients of single retained pictures, flat, in an order drawn by the seed."""
        # Data sets are often sorted by class, and only the first pictures are used.
        order = torch.randperm(
            len(self.retain), generator=generator_of(self.arguments.seed, _FISHER_ORDER)
        )
        batches = self.batches(self.retain.in_order(order), 64)
        for gradients in gradients_of_samples(model, parameters, batches):
            yield from torch.cat([g.flatten(1) for g in gradients.values()], dim=1)

    @torch.no_grad()
    def _move(self, parameters: dict[str, nn.Parameter], step: Tensor) -> None:
        parts = step.split([p.numel() for p in parameters.values()])
        for (name, parameter), part in zip(parameters.items(), parts, strict=True):
            change = part.view(parameter.shape).to(parameter.dtype)
            if self.weight_mask is None:
                parameter += change
            else:
                opened = self.weight_mask.tensors[name].to(parameter.device)
                parameter.copy_(torch.where(opened, parameter + change, parameter))


def woodfisher(direction: Tensor, gradients: Iterable[Tensor], count: int) -> Tensor:
    """A direction, turned by the curvature that the gradients of some samples show.

    The recursion of the code published with SalUn, which keeps two vectors instead of a matrix:
    with o the first gradient and k the direction, for every further gradient g
    k <- k - (k g) / (N + o g) o and then o <- o - (o g) / (N + o g) o.

    Args:
        direction: (d,).
        gradients: Of single samples, (d,) each. The first one only begins the recursion; `count`
            more are used.
        count: N of the recursion, and how many gradients are used.

    Returns:
        (d,).
    """
    gradients = iter(gradients)
    along, found = next(gradients).clone(), direction.clone()
    for _, gradient in zip(range(count), gradients):  # noqa: B905 - stops after `count`
        along_gradient = along @ gradient
        scale = count + along_gradient
        found -= (found @ gradient) / scale * along
        along -= along_gradient / scale * along
    return found


def _flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])
