"""Square patches of a picture at several scales, and how unlike their nearest ones they are."""

import logging
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

logger = logging.getLogger(__name__)

# A row's K smallest entries lie in the K groups with the smallest minima: most are never sorted.
_GROUP = 8


@dataclass(frozen=True)
class PatchGrid:
    """All patches of one scale of a picture.

    size: (height, width) of the scaled picture. vectors: (B, rows * cols, D). centre_y (rows,) and
    centre_x (cols,): patch centres in units of the picture's larger side, whatever the scale.
    """

    size: tuple[int, int]
    vectors: Tensor
    centre_y: Tensor
    centre_x: Tensor

    @property
    def rows(self) -> int:
        return len(self.centre_y)

    @property
    def cols(self) -> int:
        return len(self.centre_x)


def resize(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of (B, C, H, W), antialiased when it shrinks; unchanged at the same size."""
    if tuple(picture.shape[-2:]) == tuple(size):
        return picture
    return F.interpolate(picture, size=tuple(size), mode="bilinear", antialias=True)


class PatchPyramid:
    """Patches of a picture at every scale that is asked for, cut once each.

    Args:
        features: (B, C, H, W) floating point.
        patch_size: side of the patches in pixels of the scaled picture.
        stride: step between patches in the same pixels.

    Example:
        >>> PatchPyramid(torch.rand(1, 3, 32, 32), patch_size=7, stride=3).grid(0.5).vectors.shape
        torch.Size([1, 16, 147])
    """

    def __init__(self, features: Tensor, patch_size: int, stride: int) -> None:
        self.features = features
        self.patch_size = patch_size
        self.stride = stride
        self._grids: dict[tuple[int, int], PatchGrid | None] = {}

    def grid(self, scale: float) -> PatchGrid | None:
        """The patches at one scale, or None when the scaled picture is smaller than a patch."""
        height, width = self.features.shape[-2:]
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        if size not in self._grids:
            self._grids[size] = self._cut(size) if min(size) >= self.patch_size else None
        return self._grids[size]

    def judged(
        self, scales: tuple[float, ...], query_scales: tuple[float, ...], min_scale: float
    ) -> list[tuple[PatchGrid, list[PatchGrid]]]:
        """The patches of each usable scale r with their candidates at the scales r * q.

        Raises:
            ValueError: when the picture is too small for every scale.
        """
        height, width = self.features.shape[-2:]
        pairs = []
        for scale in scales:
            grid = self.grid(scale)
            candidates = self._candidates(scale, query_scales, min_scale)
            if grid is not None and sum(c.rows * c.cols for c in candidates) > 1:
                pairs.append((grid, candidates))
                continue
            logger.warning(
                "A picture of %d x %d pixels is too small for %d-pixel patches at scale %g; "
                "this scale is left out.", height, width, self.patch_size, scale,
            )  # fmt: skip
        if not pairs:
            raise ValueError(
                f"a picture of {height} x {width} pixels is too small for patches of "
                f"{self.patch_size} pixels at any scale; raise max_side or lower patch_size."
            )
        return pairs

    def _candidates(
        self, scale: float, query_scales: tuple[float, ...], min_scale: float
    ) -> list[PatchGrid]:
        found: dict[tuple[int, int], PatchGrid] = {}
        for query in query_scales:
            # 0.8 * 0.25 may come out a hair below 0.2 in floating point, and is meant to be used
            grid = self.grid(scale * query) if scale * query >= min_scale - 1e-9 else None
            if grid is not None:
                found[grid.size] = grid
        return list(found.values())

    def _cut(self, size: tuple[int, int]) -> PatchGrid:
        scaled = resize(self.features, size)
        vectors = F.unfold(scaled, self.patch_size, stride=self.stride).transpose(1, 2)
        full = self.features.shape[-2:]
        centre_y, centre_x = (
            (
                torch.arange(0, side - self.patch_size + 1, self.stride, device=scaled.device)
                + self.patch_size / 2
            )
            * (length / side / max(full))
            for side, length in zip(size, full, strict=True)
        )
        return PatchGrid(size, vectors, centre_y, centre_x)


def mean_nearest_distance(
    grid: PatchGrid,
    candidates: list[PatchGrid],
    *,
    neighbors: int,
    position_weight: float,
    normalizer: float | None,
    chunk_size: int,
) -> Tensor:
    """Mean of d = d_color / (1 + c d_pos) over every patch's nearest candidates, itself excluded.

    Args:
        grid: the judged patches.
        candidates: grids of the same picture to choose neighbours from.
        neighbors: K, how many nearest are averaged; all when there are fewer.
        position_weight: c.
        normalizer: divisor of the colour distances; None takes the largest of each picture.
        chunk_size: judged patches compared at a time.

    Returns:
        (B, rows, cols), in the precision of the patches; 0 where all patches are equal.

    Source: Goferman, Zelnik-Manor and Tal, Context-Aware Saliency Detection, equations 1 and 3.
    """
    batch = grid.vectors.shape[0]
    left, right = _homogeneous(grid.vectors, torch.cat([c.vectors for c in candidates], dim=1))
    total = right.shape[2]
    itself = _column_of_itself(grid, candidates)
    nearest = min(neighbors, total - (itself is not None))
    rows = max(1, chunk_size // grid.cols)
    padded = -(-total // _GROUP) * _GROUP
    # inf in the padding is never among the smallest; the buffer is reused because it is large
    squared = left.new_full((rows * grid.cols, padded), torch.inf, dtype=torch.float32)
    sums = left.new_empty((batch, grid.rows * grid.cols))
    largest = torch.zeros(batch, device=left.device)
    for first in range(0, grid.rows, rows):
        span = slice(first * grid.cols, min(first + rows, grid.rows) * grid.cols)
        discount = _position_discount(grid, candidates, first, rows, position_weight)
        block = squared[: span.stop - span.start]
        for item in range(batch):
            block[:, :total] = left[item, span] @ right[item]
            largest[item] = torch.maximum(largest[item], block[:, :total].amax())
            block[:, :total] *= discount
            if itself is not None:
                block[:, itself + span.start : itself + span.stop].fill_diagonal_(torch.inf)
            sums[item, span] = _smallest(block, nearest).clamp_(min=0).sqrt_().sum(dim=1).to(sums)
    largest = largest.clamp(min=0).sqrt().to(sums) if normalizer is None else normalizer
    return _divide(sums / nearest, largest).view(batch, grid.rows, grid.cols)


def _homogeneous(patches: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Two matrices whose product is the squared distance: [p, |p|^2, 1] [-2 q, 1, |q|^2]."""
    mean = patches.mean(dim=1, keepdim=True)
    patches, queries = patches - mean, queries - mean
    norm_p = patches.square().sum(dim=2, keepdim=True)
    norm_q = queries.square().sum(dim=2, keepdim=True)
    left = torch.cat((patches, norm_p, torch.ones_like(norm_p)), dim=2)
    right = torch.cat((-2 * queries, torch.ones_like(norm_q), norm_q), dim=2)
    return left, right.transpose(1, 2)


def _divide(values: Tensor, divisor: Tensor | float) -> Tensor:
    if not isinstance(divisor, Tensor):
        return values / divisor
    return values / torch.where(divisor > 0, divisor, torch.inf)[:, None]


def _column_of_itself(grid: PatchGrid, candidates: list[PatchGrid]) -> int | None:
    """First column of the candidates that are the judged patches themselves."""
    start = 0
    for candidate in candidates:
        if candidate.size == grid.size:
            return start
        start += candidate.rows * candidate.cols
    return None


def _position_discount(
    grid: PatchGrid, candidates: list[PatchGrid], first: int, rows: int, weight: float
) -> Tensor:
    """1 / (1 + c d_pos)^2 for the patches of some grid rows (equation 1, squared)."""
    centre_y = grid.centre_y[first : first + rows]
    parts = []
    for candidate in candidates:
        squared_y = (centre_y[:, None] - candidate.centre_y).square()
        squared_x = (grid.centre_x[:, None] - candidate.centre_x).square()
        squared = squared_y[:, None, :, None] + squared_x[None, :, None, :]
        parts.append(squared.reshape(len(centre_y) * grid.cols, -1))
    distance = torch.cat(parts, dim=1).sqrt_()
    return distance.mul_(weight).add_(1).square_().reciprocal_()


def _smallest(values: Tensor, count: int) -> Tensor:
    """The `count` smallest entries of every row, exactly and in no order."""
    groups = values.view(values.shape[0], _GROUP, -1)
    if count < groups.shape[2]:
        best = groups.amin(dim=1).topk(count, dim=1, largest=False, sorted=False).indices
        values = groups.gather(2, best[:, None].expand(-1, _GROUP, -1)).flatten(1)
    return values.topk(count, dim=1, largest=False, sorted=False).values
