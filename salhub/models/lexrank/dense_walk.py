"""The random walk of LexRank on batches of similarity matrices, on any device."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DenseWalk:
    """Where the walks of a batch are, in the long run.

    Args:
        probabilities: (B, N), sum 1 over the sentences that are there.
        degrees: Row sums of the similarities, (B, N).
        num_iterations: Steps taken by each, int64 (B,).
        residuals: Sums of absolute changes in the last one, (B,).
    """

    probabilities: Tensor
    degrees: Tensor
    num_iterations: Tensor
    residuals: Tensor


def dense_stationary(
    similarity: Tensor,
    mask: Tensor,
    *,
    damping: float,
    teleport: Tensor | None,
    tolerance: float,
    max_iterations: int,
) -> DenseWalk:
    """Stationary distributions of a batch, by the power method.

    Args:
        similarity: (B, N, N), symmetric, 0 or more, 1 on the diagonal.
        mask: Which sentences are there, bool (B, N).
        damping: Probability of following a link.
        teleport: Where a jump ends, (B, N), sum 1; uniform by default.
        tolerance: Sum of absolute changes at which a walk stops.
        max_iterations: Steps after which all stop.

    Source: Erkan and Radev 2004 (JAIR 22), equations 3 to 6.
    """
    there = mask.to(similarity.dtype)
    similarity = similarity * there[:, :, None] * there[:, None, :]
    degrees = similarity.sum(-1)
    uniform = there / there.sum(-1, keepdim=True)
    jump = (1 - damping) * (uniform if teleport is None else teleport)
    found, steps = uniform, torch.zeros(len(similarity), dtype=torch.int64, device=mask.device)
    residuals = torch.full_like(degrees[:, 0], float("inf"))
    for _ in range(max_iterations):
        is_moving = residuals >= tolerance
        if not bool(is_moving.any()):
            break
        shares = found / degrees.clamp(min=torch.finfo(degrees.dtype).tiny)
        new = jump + damping * torch.bmm(similarity, shares[..., None])[..., 0]
        new = new / new.sum(-1, keepdim=True)
        # A walk that has stopped stays, so that a batch gives what its items give.
        new = torch.where(is_moving[:, None], new, found)
        residuals = torch.where(is_moving, (new - found).abs().sum(-1), residuals)
        steps += is_moving
        found = new
    return DenseWalk(found, degrees, steps, residuals)
