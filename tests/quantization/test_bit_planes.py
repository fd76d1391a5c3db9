"""Codes of few bits: what stands where in the bytes, and nothing lost."""

import pytest
import torch

from salhub.quantization.bit_planes import bytes_per_row, pack_codes, unpack_codes
from salhub.quantization.packed_linear import PackedLinear
from tests.quantization.packed_toy import random_weight

WIDTHS = (1, 2, 3, 4, 5)


def slowly_packed(codes: list[int], bits: list[int]) -> list[int]:
    """A row by the words of the format: widths ascend, low bits first, whole bytes a plane."""
    row = []
    for width in WIDTHS:
        own = [code for code, one in zip(codes, bits, strict=True) if one == width]
        for low, plane in {3: [(0, 2), (2, 1)], 5: [(0, 4), (4, 1)]}.get(width, [(0, width)]):
            text = "".join(f"{code >> low & (1 << plane) - 1:0{plane}b}"[::-1] for code in own)
            row += [int(text[start : start + 8][::-1], 2) for start in range(0, len(text), 8)]
    return row


@pytest.mark.parametrize("seed", range(60))
def test_any_shape_and_widths_come_back(seed):
    draw = torch.Generator().manual_seed(seed)
    rows, columns = (int(torch.randint(0 if seed < 3 else 1, 70, (), generator=draw)) for _ in "ab")
    kinds = torch.tensor(WIDTHS)[torch.randperm(5, generator=draw)[: 1 + seed % 5]]
    bits = kinds[torch.randint(len(kinds), (columns,), generator=draw)]
    codes = (torch.rand(rows, columns, generator=draw) * 2**bits).to(torch.uint8)
    packed = pack_codes(codes, bits)
    counts = {width: int((bits == width).sum()) for width in WIDTHS}
    assert packed.dtype == torch.uint8 and packed.shape == (rows, bytes_per_row(counts))
    assert packed.tolist() == [slowly_packed(row, bits.tolist()) for row in codes.tolist()]
    assert torch.equal(unpack_codes(packed, bits), codes)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_takes_its_bits_and_no_more(width):
    assert bytes_per_row({width: 64}) == 8 * width


@pytest.mark.parametrize("seed", range(20))
def test_a_layer_gives_back_what_it_was_made_of(seed):
    rows, columns, group_size = 1 + 3 * seed, 1 + 7 * seed % 61, 1 + 5 * seed % 23
    weight = random_weight(rows, columns, group_size, seed=seed)
    layer = PackedLinear.from_quantized(weight)
    found = layer.to_quantized()
    for name in ("codes", "group_bits", "scales", "zeros", "means"):
        assert torch.equal(getattr(found, name), getattr(weight, name)), name
    assert torch.equal(layer.to_linear().weight, weight.dequantize())
    # The shapes known before there are any values, as on the meta device.
    empty = PackedLinear(columns, rows, group_size, weight.group_bits.tolist())
    shapes = {name: values.shape for name, values in layer.state_dict().items()}
    assert shapes == {name: values.shape for name, values in empty.state_dict().items()}
