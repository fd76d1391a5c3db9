"""`RepMTLRegularizer`: Rep-MTL in anybody's own training loop."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from salhub.models.rep_mtl.rep_mtl_terms import (
    Denominator,
    Losses,
    Pairing,
    Reduction,
    check_choices,
    log_losses,
    named_losses,
    rep_mtl_terms,
)

logger = logging.getLogger(__name__)


class RepMTLLoss(NamedTuple):
    """What is minimised, and what it is made of.

    Args:
        loss: Losses and terms together, (): call `backward` on it.
        tsr: Of `RepMTLTerms`, without its factor; None where it was not computed.
        csa: The same.
        similarity: The same.
        saliency: The same, (T, B, C, N).
    """

    loss: Tensor
    tsr: Tensor | None = None
    csa: Tensor | None = None
    similarity: Tensor | None = None
    saliency: Tensor | None = None


class RepMTLRegularizer(nn.Module):
    """Adds both terms of Rep-MTL to the losses of several tasks.

    It has no weights, changes neither the network nor the optimizer, and adds nothing in evaluation
    mode. Under DDP, call it on the output of the wrapped model, then call `backward` once. With a
    GradScaler, scale `loss`, not the losses that you pass in. Inside autocast, terms are computed
    in float32. If gradients are accumulated, each pass has its own negatives and logarithms.

    Args:
        lambda_tsr: Factor of the entropy over tasks, 0 or more; 0 does not compute it.
        lambda_csa: Factor of the alignment across tasks, 0 or more; 0 does not compute it.
        csa_temperature: tau of equation 9, above 0.
        csa_reduction: Reduction over tasks.
        csa_denominator: "negatives" as printed, or "infonce".
        log_transform: Minimize the logarithms of the losses, as the paper's benchmarks do.
        multi_input: See `rep_mtl_terms`.
        start_step: First optimizer step with the terms.
        apply_every: Compute the terms only every so many steps.

    Raises:
        TypeError: A factor, temperature or step that is not a number.
        ValueError: A factor below 0, a temperature that is not above 0, an unknown choice, a step
            below 0, `apply_every` below 1, or `lambda_tsr` with "per_task".

    Example:
        >>> encoder, heads = nn.Linear(3, 8), {"a": nn.Linear(8, 1), "b": nn.Linear(8, 1)}
        >>> regularizer, shared = RepMTLRegularizer(), encoder(torch.rand(4, 3)).relu()
        >>> losses = {name: head(shared).square().mean() for name, head in heads.items()}
        >>> regularizer(shared, losses).loss.backward()
        >>> encoder.weight.grad.shape
        torch.Size([8, 3])

    Source: equation 10 of arXiv 2507.21049. Factors of 0.9 lie in the paper's grid of 0.7 to 1.5,
    to be tuned for each data set; temperature, `start_step` and `apply_every` are ours.
    """

    def __init__(
        self,
        lambda_tsr: float = 0.9,
        lambda_csa: float = 0.9,
        *,
        csa_temperature: float = 0.5,
        csa_reduction: Reduction = "mean",
        csa_denominator: Denominator = "negatives",
        log_transform: bool = True,
        multi_input: Pairing = "index",
        start_step: int = 0,
        apply_every: int = 1,
    ) -> None:
        super().__init__()
        numbers = {
            "lambda_tsr": lambda_tsr,
            "lambda_csa": lambda_csa,
            "csa_temperature": csa_temperature,
        }
        for name, value in numbers.items():
            _check_kind(name, value, (int, float), "a number")
            if name != "csa_temperature" and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {value}.")
        if not 0 < csa_temperature < math.inf:
            raise ValueError(f"csa_temperature must be above 0, got {csa_temperature}.")
        for name, value, least in (("start_step", start_step, 0), ("apply_every", apply_every, 1)):
            _check_kind(name, value, (int,), "a whole number")
            if value < least:
                raise ValueError(f"{name} must be {least} or more, got {value}.")
        check_choices(csa_reduction, csa_denominator, multi_input, "csa_")
        if multi_input == "per_task" and lambda_tsr:
            raise ValueError(
                "multi_input='per_task' shares no positions between tasks; set "
                "lambda_tsr=0, or multi_input='index'."
            )
        self.lambda_tsr, self.lambda_csa = lambda_tsr, lambda_csa
        self.temperature, self.log_transform = csa_temperature, log_transform
        self.reduction, self.denominator = csa_reduction, csa_denominator
        self.multi_input = multi_input
        self.start_step, self.apply_every = start_step, apply_every
        self._said: set[str] = set()

    def extra_repr(self) -> str:
        """Factors and temperature, for printing."""
        return (
            f"lambda_tsr={self.lambda_tsr}, lambda_csa={self.lambda_csa}, "
            f"csa_temperature={self.temperature}, log_transform={self.log_transform}"
        )

    def is_due(self, step: int | None) -> bool:
        """Whether a step has the terms: one without a number always, in training mode."""
        if not self.training or not (self.lambda_tsr or self.lambda_csa):
            return False
        return step is None or (
            step >= self.start_step and (step - self.start_step) % self.apply_every == 0
        )

    def forward(
        self,
        shared: Tensor | Sequence[Tensor],
        losses: Losses,
        *,
        weighting: Callable[[dict[str, Tensor], dict[str, Tensor]], Mapping[str, Tensor]]
        | None = None,
        step: int | None = None,
    ) -> RepMTLLoss:
        """Join losses and terms.

        Args:
            shared: The features that the heads were given, as of `rep_mtl_terms`.
            losses: Mean loss of each task over the batch, name -> () or a sequence; a task without
                labels in this batch is left out.
            weighting: Takes what is to be weighted, and the losses themselves, and gives the former
                weighted; see `LossWeighting`. Saliency is that of the weighted ones.
            step: Number of the optimizer step, for `start_step` and `apply_every`.

        Raises:
            ValueError: As of `rep_mtl_terms`, or a negative loss where logarithms are taken.
        """
        plain = named_losses(losses)
        if not plain:
            raise ValueError("No task has a loss; give labels of at least one task.")
        terms = log_losses(plain) if self.log_transform else plain
        weighted = dict(terms if weighting is None else weighting(terms, plain))
        total = torch.stack(list(weighted.values())).sum()
        if not self.is_due(step) or not torch.is_grad_enabled():
            return RepMTLLoss(total)
        if len(weighted) < 2:
            self._say(f"Only task '{next(iter(weighted))}' has a loss in this batch")
            return RepMTLLoss(total)
        found = rep_mtl_terms(
            shared,
            weighted,
            temperature=self.temperature,
            reduction=self.reduction,
            denominator=self.denominator,
            multi_input=self.multi_input,
        )
        if found.csa is None and self.lambda_csa:
            self._say("A batch of one picture has nothing to compare with")
        if self.lambda_tsr and found.tsr is not None:
            total = total + self.lambda_tsr * found.tsr
        if self.lambda_csa and found.csa is not None:
            total = total + self.lambda_csa * found.csa
        return RepMTLLoss(total, found.tsr, found.csa, found.similarity, found.saliency)

    def _say(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            logger.warning(
                "%s; the terms that need more are left out. This warning appears once.", what
            )


def _check_kind(name: str, value: Any, kinds: tuple[type, ...], words: str) -> None:
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise TypeError(f"{name} must be {words}, got {value!r}.")
