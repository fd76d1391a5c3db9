"""Codes of few bits side by side in bytes, those of each width in planes that straddle no byte."""

from collections.abc import Mapping

import torch
from torch import Tensor

# Width of a code -> bits of it in each plane, the lowest first.
PLANES = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1)}


def bytes_per_row(columns: Mapping[int, int]) -> int:
    """Return how many bytes a packed row takes.

    Args:
        columns: How many columns there are of each width.

    Example:
        >>> bytes_per_row({2: 64, 3: 64}), bytes_per_row({3: 3})
        (40, 2)
    """
    return sum(-(-columns[width] * plane // 8) for width in columns for plane in PLANES[width])


def pack_codes(codes: Tensor, bits: Tensor) -> Tensor:
    """Pack every row into whole bytes.

    Columns of one width stand together, in their order, and widths ascend; the first code is in the
    lowest bits of a byte.

    Args:
        codes: (n, m) uint8, each below two to the power of the bits of its column.
        bits: (m,) widths of the columns, from 1 to 5.

    Returns:
        (n, bytes) uint8.

    Example:
        >>> codes = torch.tensor([[1, 2, 3, 0, 1]], dtype=torch.uint8)
        >>> pack_codes(codes, torch.tensor([2, 2, 2, 2, 1])).tolist()
        [[1, 57]]
    """
    planes = [codes.new_empty(codes.shape[0], 0)]
    for width, columns in _columns_of_widths(bits):
        rest = codes[:, columns]
        for plane in PLANES[width]:
            planes.append(_pack_plane(rest & (2**plane - 1), plane))
            rest = rest >> plane
    return torch.cat(planes, 1)


def unpack_codes(packed: Tensor, bits: Tensor) -> Tensor:
    """Return the codes that `pack_codes` has packed.

    Args:
        packed: (n, bytes) uint8.
        bits: (m,) widths of the columns.

    Returns:
        (n, m) uint8.
    """
    codes = packed.new_empty(packed.shape[0], len(bits))
    start = 0
    for width, columns in _columns_of_widths(bits):
        values, shift = packed.new_zeros(()), 0
        for plane in PLANES[width]:
            stop = start + -(-len(columns) * plane // 8)
            part = _unpack_plane(packed[:, start:stop], plane)[:, : len(columns)]
            values = values | (part << shift)
            start, shift = stop, shift + plane
        codes[:, columns] = values
    return codes


def _columns_of_widths(bits: Tensor) -> list[tuple[int, Tensor]]:
    return [(width, (bits == width).nonzero()[:, 0]) for width in bits.unique().tolist()]


def _shifts(plane: int, like: Tensor) -> Tensor:
    return torch.arange(0, 8, plane, dtype=torch.uint8, device=like.device)


def _pack_plane(values: Tensor, plane: int) -> Tensor:
    missing = -values.shape[1] % (8 // plane)
    values = torch.nn.functional.pad(values, (0, missing)).unflatten(1, (-1, 8 // plane))
    return (values << _shifts(plane, values)).sum(-1, dtype=torch.uint8)


def _unpack_plane(packed: Tensor, plane: int) -> Tensor:
    return ((packed[..., None] >> _shifts(plane, packed)) & (2**plane - 1)).flatten(1)
