"""The power law of the eigenvalues of a network's layers, as a number that describes training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

# Fewer say little about a tail.
FEW_EIGENVALUES = 50


@dataclass(frozen=True)
class LayerAlpha:
    """The fit of one layer.

    Args:
        name: Of the layer.
        alpha: Exponent of the tail of its eigenvalues.
        smallest: Where the tail begins.
        distance: Kolmogorov-Smirnov distance of the fit, in [0, 1].
        num_tail: Eigenvalues in the tail.
        num_eigenvalues: All of them.
    """

    name: str
    alpha: float
    smallest: float
    distance: float
    num_tail: int
    num_eigenvalues: int

    @property
    def is_noise(self) -> bool:
        """Whether there are too few eigenvalues for the fit to mean anything."""
        return self.num_eigenvalues < FEW_EIGENVALUES


@dataclass(frozen=True)
class PartAlpha:
    """The mean of a part of a network.

    Args:
        alpha: Over its layers; NaN where it has none.
        layers: All its fits.
    """

    alpha: float
    layers: tuple[LayerAlpha, ...]

    @property
    def is_noise(self) -> bool:
        """Whether all its layers have too few eigenvalues."""
        return all(layer.is_noise for layer in self.layers)


def pl_alpha(
    model: nn.Module,
    parts: Sequence[str] | Mapping[str, str],
    *,
    convolutions: Literal["matrix", "slices"] = "matrix",
) -> dict[str, PartAlpha]:
    """Fit a power law to the eigenvalues of W^T W of every linear and convolutional layer.

    The paper reports the mean of each part. Between 2 and 6 is what well-trained layers are said to
    have; it describes, and proves nothing. Layers of fewer than 50 eigenvalues are noise, and say
    so.

    Args:
        model: Any network.
        parts: Names of modules, or name of a part -> name of its module; "" for the whole.
        convolutions: Kernels as one matrix (out, in k k), or the eigenvalues of the k k slices
            (out, in) together.

    Raises:
        ValueError: There is no such module.

    Example:
        >>> found = pl_alpha(nn.Sequential(nn.Linear(64, 64)), ["0"])
        >>> found["0"].layers[0].num_eigenvalues
        64

    Source: Martin and Mahoney 2021 (arXiv 1810.01075), as used by arXiv 2507.21049; maximum
    likelihood and the choice of x_min are Clauset et al. 2009 (arXiv 0706.1062), equation 3.1.
    """
    named = parts if isinstance(parts, Mapping) else {name: name for name in parts}
    modules = dict(model.named_modules())
    found = {}
    for part, place in named.items():
        if place not in modules:
            raise ValueError(f"There is no module '{place}' in {type(model).__name__}.")
        layers = []
        for name, layer in modules[place].named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                values = _eigenvalues(layer.weight, convolutions)
                if len(values) > 1:
                    layers.append(LayerAlpha(name or place, *fit_power_law(values), len(values)))
        alphas = [layer.alpha for layer in layers]
        found[part] = PartAlpha(float(np.mean(alphas)) if alphas else float("nan"), tuple(layers))
    return found


def fit_power_law(values: np.ndarray) -> tuple[float, float, float, int]:
    """The exponent of the tail of some numbers.

    Args:
        values: (N,), two or more above 0.

    Returns:
        alpha, where the tail begins, the Kolmogorov-Smirnov distance, and the size of the tail.

    Raises:
        ValueError: Fewer than two different numbers above 0.

    Example:
        >>> draws = (1 - np.random.default_rng(0).random(5000)) ** (-1 / 1.5)  # of exponent 2.5
        >>> round(fit_power_law(draws)[0], 1)
        2.5
    """
    values = np.sort(np.asarray(values, dtype=np.float64))
    values = values[values > 0]
    if len(np.unique(values)) < 2:
        raise ValueError("A power law needs two different numbers above 0.")
    starts = np.unique(values, return_index=True)[1][:-1]
    logs = np.log(values)
    # Sums of logarithms from each place to the end.
    tails = np.cumsum(logs[::-1])[::-1]
    best = (np.nan, np.nan, np.inf, 0)
    for start in starts:
        count = len(values) - start
        alpha = 1 + count / (tails[start] - count * logs[start])
        fitted = 1 - np.exp((1 - alpha) * (logs[start:] - logs[start]))
        distance = float(np.abs(fitted - np.arange(count) / count).max())
        if distance < best[2]:
            best = float(alpha), float(values[start]), distance, int(count)
    return best


def _eigenvalues(weight: torch.Tensor, convolutions: str) -> np.ndarray:
    matrix = weight.detach().double().cpu()
    if matrix.ndim == 4 and convolutions == "slices":
        matrix = matrix.permute(2, 3, 0, 1).flatten(0, 1)
    elif matrix.ndim == 4:
        matrix = matrix.flatten(1)
    values = torch.linalg.svdvals(matrix).flatten().square().numpy()
    # What is 0 but for rounding has no logarithm worth anything.
    return values[values > values.max(initial=0) * 1e-12]
