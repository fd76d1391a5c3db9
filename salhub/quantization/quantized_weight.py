"""A weight matrix in few bits, a width for each group of columns."""

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_WIDTH = 5


def group_count(columns: int, group_size: int) -> int:
    """How many groups a matrix of some columns has; the last may be narrower than the rest.

    Example:
        >>> group_count(576, 64), group_count(576, 128)
        (9, 5)
    """
    return -(-columns // group_size)


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A matrix of `n` rows and `m` columns in `k = ceil(m / group_size)` groups of columns.

    A group of two bits or more stands for `(code - zero) * scale`, one of a single bit for
    `mean + (2 * code - 1) * scale`, with the zero, scale and mean of the row in this group.

    Args:
        codes: (n, m) uint8, each below two to the power of the bits of its group.
        group_size: Columns in a group.
        group_bits: (k,) uint8, from 1 to 5.
        scales: (n, k) float16.
        zeros: (n, k) uint8, each a code of its group; 0 in groups of one bit.
        means: (n, k) float16; 0 in groups of more than one bit.

    Raises:
        ValueError: A shape, type or value does not fit.
    """

    codes: Tensor
    group_size: int
    group_bits: Tensor
    scales: Tensor
    zeros: Tensor
    means: Tensor

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or self.group_size < 1:
            raise ValueError(
                "A quantized weight needs 2-D codes and a group_size of at least 1, got "
                f"codes of shape {tuple(self.codes.shape)} and {self.group_size}."
            )
        rows, groups = self.codes.shape[0], group_count(self.codes.shape[1], self.group_size)
        expected = {
            "codes": (torch.uint8, tuple(self.codes.shape)),
            "group_bits": (torch.uint8, (groups,)),
            "scales": (torch.float16, (rows, groups)),
            "zeros": (torch.uint8, (rows, groups)),
            "means": (torch.float16, (rows, groups)),
        }
        for name, (dtype, shape) in expected.items():
            found = getattr(self, name)
            if (found.dtype, tuple(found.shape)) != (dtype, shape):
                raise ValueError(
                    f"{name} must be {dtype} of shape {shape} for {tuple(self.codes.shape)} codes "
                    f"in groups of {self.group_size}, got {found.dtype} of {tuple(found.shape)}."
                )
        self._check_values()

    def _check_values(self) -> None:
        bits, is_one_bit = self.group_bits, self.group_bits == 1
        if bits.numel() and not 1 <= int(bits.min()) <= int(bits.max()) <= LARGEST_WIDTH:
            raise ValueError(
                f"group_bits must be from 1 to {LARGEST_WIDTH}, got {bits.unique().tolist()}."
            )
        levels = 2 ** bits.to(torch.int16)
        faults = {
            "codes must be below 2**bits of their group": self.codes >= levels[self.column_groups],
            "zeros must be below 2**bits of their group": self.zeros >= levels,
            "zeros must be 0 in groups of one bit": (self.zeros != 0) & is_one_bit,
            "means must be 0 in groups of more than one bit": (self.means != 0) & ~is_one_bit,
            "scales must be finite in float16": ~self.scales.isfinite(),
            "means must be finite in float16": ~self.means.isfinite(),
        }
        for sentence, is_wrong in faults.items():
            if is_wrong.any():
                raise ValueError(f"{sentence}; {int(is_wrong.sum())} are not.")

    @property
    def column_groups(self) -> Tensor:
        """The group of each column, (m,) int64."""
        columns = torch.arange(self.codes.shape[1], device=self.codes.device)
        return columns // self.group_size

    @property
    def column_bits(self) -> Tensor:
        """The bits of each column, (m,) uint8."""
        return self.group_bits[self.column_groups]

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the matrix that the codes stand for, computed in float32.

        Args:
            dtype: What it is rounded to.
        """
        return dequantize(
            self.codes, self.group_size, self.group_bits, self.scales, self.zeros, self.means
        ).to(dtype)

    def bits_per_weight(self, with_scales: bool = True) -> float:
        """Return how many bits a weight takes on average, rows not padded.

        Args:
            with_scales: Whether scales, zeros and means are counted beside the codes.

        Example:
            >>> one = torch.zeros(4, 1, dtype=torch.float16)
            >>> bits = torch.tensor([2], dtype=torch.uint8)
            >>> weight = QuantizedWeight(
            ...     torch.zeros(4, 64, dtype=torch.uint8), 64, bits, one, one.to(torch.uint8), one
            ... )
            >>> weight.bits_per_weight(with_scales=False), weight.bits_per_weight()
            (2.0, 2.28125)
        """
        bits = int(self.column_bits.sum())
        if with_scales:
            # A scale of 16 bits with a zero of the group's bits, or with a mean of 16.
            bits += sum(16 + (16 if one == 1 else one) for one in self.group_bits.tolist())
        return bits / self.codes.shape[1]


def dequantize(
    codes: Tensor,
    group_size: int,
    group_bits: Tensor,
    scales: Tensor,
    zeros: Tensor,
    means: Tensor,
) -> Tensor:
    """Return the float32 matrix of some rows; the arguments are those of `QuantizedWeight`."""
    groups = torch.arange(codes.shape[1], device=codes.device) // group_size
    # An integer of at most six bits times a float16 is exact in float32: no order of work matters.
    factor = 1 + (group_bits == 1).to(torch.int16)
    offset = torch.where(group_bits == 1, 1, zeros.to(torch.int16))
    steps = codes.to(torch.int16) * factor[groups] - offset[:, groups]
    return steps.float() * scales.float()[:, groups] + means.float()[:, groups]
