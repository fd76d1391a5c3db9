"""Products with packed weights on a GPU, whose codes are unpacked in registers only."""

from typing import TYPE_CHECKING, Any

import torch
import triton  # ty: ignore[import-not-found]
import triton.language as tl  # ty: ignore[import-not-found]
from torch import Tensor

from salhub.quantization.bit_planes import PLANES

if TYPE_CHECKING:
    from salhub.quantization.packed_linear import PackedLinear

TYPES = (torch.float32, torch.float16, torch.bfloat16)
# The least that a product of tiles takes in each direction.
_LEAST = 16
_MOST_COLUMNS, _MOST_TOKENS = 64, 64
# Rows of the weight in a tile: few where one token must keep all of a GPU busy.
_ROWS_OF_ONE, _ROWS_OF_MANY = 16, 64


@triton.jit
def _codes(packed, place, low, high, start_low, start_high, mask):
    """Codes of a lower and an upper plane by their places among those of one width."""
    bit = place * low
    codes = tl.load(packed + start_low + bit // 8, mask=mask, other=0).to(tl.int32)
    codes = (codes >> (bit % 8)) & ((1 << low) - 1)
    upper = tl.load(packed + start_high + place // 8, mask=mask & (high > 0), other=0).to(tl.int32)
    return codes | (((upper >> (place % 8)) & 1) << low)


@triton.jit
def _product(
    inputs,
    outputs,
    weight,
    scales,
    zeros,
    means,
    table,
    num_tokens,
    num_rows,
    num_columns,
    row_bytes,
    num_groups,
    num_means,
    GROUP: tl.constexpr,
    FIELDS: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Each program makes a tile of the outputs, group by group."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(1).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    is_row, is_token = row < num_rows, token < num_tokens
    total = tl.zeros((TOKENS, ROWS), dtype=tl.float32)
    for group in range(num_groups):
        fields = table + group * FIELDS
        low, high = tl.load(fields), tl.load(fields + 1)
        first = tl.load(fields + 2)
        start_low, start_high = tl.load(fields + 3), tl.load(fields + 4)
        zero_first = tl.load(fields + 5)
        zero_low, zero_high = tl.load(fields + 6), tl.load(fields + 7)
        mean_place = tl.load(fields + 8)
        has_mean = mean_place >= 0
        scale = tl.load(scales + row * num_groups + group, mask=is_row, other=0).to(tl.float32)
        mean = tl.load(means + row * num_means + mean_place, mask=is_row & has_mean, other=0)
        is_zero_stored = is_row & (mean_place < 0)
        zero = _codes(zeros, zero_first + row, low, high, zero_low, zero_high, is_zero_stored)
        factor = tl.where(has_mean, 2, 1)
        offset = tl.where(has_mean, 1, zero)
        for start in range(0, GROUP, COLUMNS):
            inside = start + tl.arange(0, COLUMNS)
            column = group * GROUP + inside
            is_column = (inside < GROUP) & (column < num_columns)
            codes = _codes(
                weight + row[:, None].to(tl.int64) * row_bytes,
                (first + inside)[None, :],
                low,
                high,
                start_low,
                start_high,
                is_row[:, None] & is_column[None, :],
            )
            values = (codes * factor - offset[:, None]).to(tl.float32) * scale[:, None]
            values = tl.where(is_column[None, :], values + mean[:, None].to(tl.float32), 0.0)
            read = tl.load(
                inputs + token[:, None] * num_columns + column[None, :],
                mask=is_token[:, None] & is_column[None, :],
                other=0,
            )
            values = values.to(read.dtype)
            if TOKENS == 1:
                total += tl.sum(values.to(tl.float32) * read.to(tl.float32), 1)[None, :]
            else:
                total = tl.dot(read, tl.trans(values), total, input_precision="ieee")
    place = outputs + token[:, None] * num_rows + row[None, :]
    tl.store(
        place,
        total.to(outputs.dtype.element_ty),
        mask=is_token[:, None] & is_row[None, :],
    )


def table_of(layer: "PackedLinear") -> Tensor:
    """Where the codes of each group stand, (k, 9) int32.

    The bits of the lower and of the upper plane; among the codes of one width the place of the
    first, and the bytes at which the two planes begin; the same of the zeros; and the place of the
    mean, -1 where a group has zeros.
    """
    widths, rows = layer.widths, layer.out_features
    columns = [
        min(layer.group_size, layer.in_features - group * layer.group_size)
        for group in range(len(widths))
    ]
    codes = _places(widths, columns)
    zeros = _places([width if width > 1 else 0 for width in widths], [rows] * len(widths))
    ones = [group for group, width in enumerate(widths) if width == 1]
    fields = [
        [PLANES[width][0], sum(PLANES[width][1:]), *codes[group], *zeros[group],
         ones.index(group) if width == 1 else -1]
        for group, width in enumerate(widths)
    ]  # fmt: skip
    return torch.tensor(fields, dtype=torch.int32, device=layer.weight.device)


def _places(widths: Any, counts: list[int]) -> list[tuple[int, int, int]]:
    """Of each group: its first place among those of its width, and where their planes begin."""
    found, start = [(0, 0, 0)] * len(widths), 0
    for width in sorted({*widths} - {0}):
        groups = [group for group, one in enumerate(widths) if one == width]
        total = sum(counts[group] for group in groups)
        sizes = [-(-total * plane // 8) for plane in PLANES[width]]
        first = 0
        for group in groups:
            found[group] = first, start, start + sizes[0]
            first += counts[group]
        start += sum(sizes)
    return found


def triton_product(inputs: Tensor, layer: "PackedLinear", table: Tensor) -> Tensor:
    """Multiply by the weights of a packed layer, without its bias.

    Args:
        inputs: (..., m), of one of `TYPES`, on the device of the layer.
        layer: Its codes are as they are stored.
        table: Of `table_of`.

    Returns:
        (..., n) of the same type, summed in float32.
    """
    rows, columns = layer.out_features, layer.in_features
    flat = inputs.reshape(-1, columns).contiguous()
    outputs = flat.new_empty(len(flat), rows)
    if not outputs.numel():
        return outputs.reshape(*inputs.shape[:-1], rows)
    is_one = len(flat) == 1
    tokens = 1 if is_one else min(_MOST_TOKENS, _tile(len(flat)))
    tile_rows = _ROWS_OF_ONE if is_one else _ROWS_OF_MANY
    grid = triton.cdiv(rows, tile_rows), triton.cdiv(len(flat), tokens)
    with torch.cuda.device_of(inputs):
        _product[grid](
            flat,
            outputs,
            layer.weight,
            layer.scales,
            layer.zeros,
            layer.means,
            table,
            len(flat),
            rows,
            columns,
            layer.weight.numel() // rows,
            len(layer.widths),
            layer.means.shape[1],
            GROUP=layer.group_size,
            FIELDS=table.shape[1],
            TOKENS=tokens,
            ROWS=tile_rows,
            COLUMNS=min(_MOST_COLUMNS, _tile(layer.group_size)),
        )
    return outputs.reshape(*inputs.shape[:-1], rows)


def _tile(size: int) -> int:
    return max(_LEAST, triton.next_power_of_2(size))
