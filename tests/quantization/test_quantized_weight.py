"""What codes, zeros, scales and means stand for, and which are refused."""

import dataclasses

import pytest
import torch

from tests.quantization.packed_toy import random_weight

WEIGHT = random_weight(5, 37, 8, [1, 2, 3, 4, 5])


def test_every_weight_is_what_the_words_say():
    expected = torch.empty(5, 37)
    for row in range(5):
        for column in range(37):
            group = column // 8
            code, scale = int(WEIGHT.codes[row, column]), WEIGHT.scales[row, group].float()
            if group == 0:  # of one bit
                expected[row, column] = WEIGHT.means[row, 0].float() + (2 * code - 1) * scale
            else:
                expected[row, column] = (code - int(WEIGHT.zeros[row, group])) * scale
    assert torch.equal(WEIGHT.dequantize(), expected)
    assert torch.equal(WEIGHT.dequantize(torch.bfloat16), expected.bfloat16())


def test_bits_are_counted_group_by_group():
    codes = 8 * (1 + 2 + 3 + 4) + 5 * 5
    assert WEIGHT.bits_per_weight(with_scales=False) == codes / 37
    assert WEIGHT.bits_per_weight() == (codes + 32 + 18 + 19 + 20 + 21) / 37


WRONG = {
    "codes must be below 2": ("codes", WEIGHT.codes | 2),
    "zeros must be below 2": ("zeros", WEIGHT.zeros + 32),
    "zeros must be 0 in groups of one bit; 5 are not": ("zeros", WEIGHT.zeros | 1),
    "means must be 0 in groups of more than one bit; 20 are not": ("means", WEIGHT.means + 1),
    "scales must be finite": ("scales", WEIGHT.scales * torch.inf),
    "group_bits must be from 1 to 5, got": ("group_bits", WEIGHT.group_bits + 1),
    "scales must be torch.float16 of shape": ("scales", WEIGHT.scales.float()),
    "means must be .* of shape \\(5, 5\\) for \\(5, 37\\) codes": ("means", WEIGHT.means[:, :4]),
    "group_size of at least 1": ("group_size", 0),
    "group_bits must be .* of shape \\(3,\\)": ("group_size", 16),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_what_does_not_fit_is_refused(sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(WEIGHT, **dict([WRONG[sentence]]))
