"""Weights of the losses of several tasks, by the loss weightings that Rep-MTL is compared with."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

Weighting = Literal["ew", "uw", "dwa", "rlw", "gls"]


class LossWeighting(nn.Module):
    """Multiplies losses by weights, of which equal ones are the simplest.

    Args:
        names: Of the tasks.
        weighting: "ew": all 1. "uw": learned uncertainties, L e^-s / 2 + s / 2 (Kendall et al.
            2018, arXiv 1705.07115, as in common libraries). "dwa": softmax of the ratios of the
            mean losses of the last two epochs, times the number of tasks (Liu et al. 2019, arXiv
            1803.10704). "rlw": softmax of a normal draw for each step, times the number of tasks
            (Lin et al. 2022, arXiv 2111.10603). "gls": the geometric mean of the losses (Chennupati
            et al. 2019, arXiv 1904.08492).
        temperature: Of "dwa".
        factors: Task -> constant factor of its loss; 1 where it is missing.

    Example:
        >>> weighting = LossWeighting(["a", "b"], factors={"b": 2.0})
        >>> losses = {"a": torch.tensor(1.0), "b": torch.tensor(3.0)}
        >>> {name: float(one) for name, one in weighting(losses, losses).items()}
        {'a': 1.0, 'b': 6.0}
    """

    def __init__(
        self,
        names: list[str],
        weighting: Weighting = "ew",
        temperature: float = 2.0,
        factors: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.names, self.weighting, self.temperature = names, weighting, temperature
        self.factors = dict(factors or {})
        if weighting == "uw":
            self.log_variances = nn.Parameter(torch.zeros(len(names)))
        if weighting == "dwa":
            # Mean losses of the last epoch and the one before; sums and counts of this one.
            self.register_buffer("history", torch.zeros(4, len(names)))
            self.register_buffer("epoch", torch.zeros(()))

    def begin_epoch(self, epoch: int) -> None:
        """Say which epoch the next losses are of; "dwa" goes by those before it.

        Args:
            epoch: Its number, from 0; nothing happens while it stays the same.
        """
        if self.weighting != "dwa" or int(self.epoch) == epoch:
            return
        sums, counts = self.history[2], self.history[3]
        means = sums / counts.clamp_min(1)
        zeros = torch.zeros_like(means)
        self.history.copy_(torch.stack([means, self.history[0], zeros, zeros]))
        self.epoch.fill_(epoch)

    def weights(self) -> Tensor:
        """Weights by now, (T,); of "rlw" a new draw, and of "gls" none."""
        last = torch.zeros(len(self.names))
        if self.weighting == "uw":
            return (-self.log_variances).exp() / 2
        if self.weighting == "rlw":
            return len(self.names) * torch.randn(len(self.names)).softmax(0)
        if self.weighting == "dwa":
            last, before = self.history[0], self.history[1]
            # The first two epochs have nothing to go by.
            if bool((last > 0).all()) and bool((before > 0).all()):
                return len(self.names) * (last / before / self.temperature).softmax(0)
        return torch.ones_like(last)

    def forward(
        self, terms: Mapping[str, Tensor], losses: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Weight the terms of some or all tasks; their sum is to be minimised.

        Args:
            terms: The losses or their logarithms, name -> ().
            losses: The losses, which "dwa" goes by.
        """
        terms = {name: self.factors.get(name, 1.0) * term for name, term in terms.items()}
        if self.weighting == "ew":
            return terms
        if self.weighting == "gls":
            product = torch.stack(list(terms.values())).log().mean().exp()
            # The derivative of the product, so that each task has a saliency of its own.
            return {
                name: term * (product / (len(terms) * term)).detach()
                for name, term in terms.items()
            }
        weights = self.weights().to(next(iter(terms.values())).device)
        places = {name: self.names.index(name) for name in terms}
        if self.weighting == "dwa" and self.training:
            with torch.no_grad():
                for name, loss in losses.items():
                    self.history[2, places[name]] += loss.detach()
                    self.history[3, places[name]] += 1
        weighted = {name: term * weights[places[name]] for name, term in terms.items()}
        if self.weighting == "uw":
            spread = self.log_variances / 2
            weighted = {name: one + spread[places[name]] for name, one in weighted.items()}
        return weighted
