"""Fréchet distance: how far two sets of feature vectors are apart, as normal distributions."""

import torch
from torch import Tensor


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """|m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)) of the means and covariances of two sets.

    Its value depends on the features: only distances by the same network can be compared, and
    only those of sets of the same sizes.

    Args:
        first: Features, floating point (n, d), n at least 2.
        second: Features, (m, d), m at least 2.

    Returns:
        The distance, 0 or more.

    Raises:
        ValueError: Shapes that do not fit, or values that are not finite.

    Example:
        >>> frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]]))
        9.0

    Source: Dowson and Landau 1982; Heusel et al. 2017 (arXiv 1706.08500), equation 6.
    """
    width = first.shape[1] if first.ndim == 2 else "d"
    for name, features in (("first", first), ("second", second)):
        if features.ndim != 2 or len(features) < 2 or features.shape[1] != first.shape[1]:
            raise ValueError(
                f"{name} must have shape (n, {width}) with n at least 2, got "
                f"{tuple(features.shape)}."
            )
        if not bool(torch.isfinite(features).all()):
            raise ValueError(f"{name} has NaN or infinite features; check the network.")
    first, second = first.double(), second.double()
    shift = (first.mean(0) - second.mean(0)).square().sum()
    one, other = torch.atleast_2d(torch.cov(first.T)), torch.atleast_2d(torch.cov(second.T))
    root = _root(one)
    # The eigenvalues of C1 C2 are those of this product, which is symmetric.
    cross = torch.linalg.eigvalsh(root @ other @ root).clamp_min(0).sqrt().sum()
    return max(0.0, float(shift + one.trace() + other.trace() - 2 * cross))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp_min(0).sqrt() @ vectors.T
