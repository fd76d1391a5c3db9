"""Spearman's rank correlation of many pairs at once."""

import torch
from torch import Tensor


def average_ranks(values: Tensor) -> Tensor:
    """Rank the values of each row from 1, ties sharing the mean of their ranks.

    Args:
        values: (..., P), any real dtype.

    Returns:
        (..., P) float64 ranks in [1, P]; a row that holds NaN is NaN.

    Example:
        >>> average_ranks(torch.tensor([3.0, 1.0, 3.0])).tolist()
        [2.5, 1.0, 2.5]
    """
    ordered, order = values.sort(dim=-1)
    count = values.shape[-1]
    places = torch.arange(count, device=values.device).expand_as(order)
    starts = torch.ones_like(order, dtype=torch.bool)
    starts[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    ends = starts.roll(-1, dims=-1)
    # Equal values take the places first..last, and share their mean.
    first = torch.where(starts, places, 0).cummax(dim=-1).values
    last = torch.where(ends, places, count - 1).flip(-1).cummin(dim=-1).values.flip(-1)
    shared = (first + last).double() / 2 + 1
    ranks = torch.empty_like(shared).scatter_(-1, order, shared)
    if values.is_floating_point():
        ranks = ranks.masked_fill(values.isnan().any(dim=-1, keepdim=True), torch.nan)
    return ranks


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation between paired examples, over all their values.

    Args:
        first: (N, ...) any real dtype.
        second: The same shape.

    Returns:
        (N,) float64 in [-1, 1]; NaN where either side is constant or holds NaN.

    Raises:
        ValueError: If the shapes differ or there is no example dimension.

    Example:
        >>> rank_correlation(torch.tensor([[1.0, 2.0]]), torch.tensor([[9.0, 4.0]])).round()
        tensor([-1.], dtype=torch.float64)

    Source:
        Spearman's rho: the Pearson correlation of average ranks.
    """
    if first.shape != second.shape or first.ndim < 2:
        raise ValueError(
            "rank_correlation needs two tensors of the same shape (N, ...), got "
            f"{tuple(first.shape)} and {tuple(second.shape)}."
        )
    first_ranks = average_ranks(first.flatten(1))
    second_ranks = average_ranks(second.flatten(1))
    first_ranks = first_ranks - first_ranks.mean(dim=1, keepdim=True)
    second_ranks = second_ranks - second_ranks.mean(dim=1, keepdim=True)
    # Spread is taken before the product so that a constant row gives 0/0 = NaN, not a huge number.
    spread = first_ranks.norm(dim=1) * second_ranks.norm(dim=1)
    return ((first_ranks * second_ranks).sum(dim=1) / spread).clamp(-1.0, 1.0)
