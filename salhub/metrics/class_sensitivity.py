"""Class sensitivity, by its opposite: how alike are the maps of two classes?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from salhub.metrics.checks import check_maps, check_same_shape, is_constant
from salhub.metrics.correlation import rank_correlation


@dataclass(frozen=True)
class ClassSensitivity:
    """Rank correlation of two classes' maps, one entry a picture.

    Attributes:
        rho: (N,) float64 in [-1, 1]; NaN where one of the maps is constant, so that rho does not
            exist. 1 means that the explanation ignores the class.
    """

    rho: Tensor

    @property
    def finite(self) -> Tensor:
        """(M,) the correlations that exist."""
        return self.rho[torch.isfinite(self.rho)]

    @property
    def num_not_finite(self) -> int:
        """Pictures with a constant map; to be reported beside every mean."""
        return int((~torch.isfinite(self.rho)).sum())

    @property
    def mean(self) -> float:
        """Mean rho over finite pictures; negative when the classes want opposite things."""
        return float(self.finite.mean())

    @property
    def mean_absolute(self) -> float:
        """Mean |rho| over finite pictures; 0 is most class-sensitive under this reading."""
        return float(self.finite.abs().mean())

    @property
    def standard_deviation(self) -> float:
        """Sample standard deviation of rho over finite pictures."""
        return float(self.finite.std())


def class_sensitivity(most_likely: Tensor, least_likely: Tensor) -> ClassSensitivity:
    """Compare the maps of the most and least likely class of each picture.

    Args:
        most_likely: (N, H, W) maps of the class with the largest logit, neither normalised nor
            made absolute.
        least_likely: (N, H, W) maps of the class with the smallest logit.

    Returns:
        `ClassSensitivity`. Constant maps give NaN and are counted, not dropped.

    Raises:
        ValueError: If the shapes differ or a map is not finite.

    Example:
        >>> maps = torch.rand(2, 8, 8)
        >>> round(class_sensitivity(maps, maps).mean, 6)
        1.0

    Source:
        Rebuffi et al. 2020 (There and Back Again), class sensitivity.
    """
    most_likely = check_maps(most_likely, "most_likely")
    least_likely = check_maps(least_likely, "least_likely")
    check_same_shape(most_likely, least_likely, ("most_likely", "least_likely"))
    rho = rank_correlation(most_likely, least_likely)
    undefined = is_constant(most_likely) | is_constant(least_likely)
    return ClassSensitivity(rho=rho.masked_fill(undefined, torch.nan))
