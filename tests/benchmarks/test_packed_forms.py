"""What races for packed layers compare is one product."""

import pytest
import torch

from benchmarks.packed_forms import form_contenders
from tests.quantization.packed_toy import random_weight


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_all_ways_give_the_same(dtype, tolerance):
    contenders = form_contenders(random_weight(32, 128, 64, [2, 3]), 3, dtype)
    plain, *packed = (one.run().float() for one in contenders)
    assert [one.name.split(",")[0] for one in contenders] == ["plain", "dequantized", "packed"]
    for outputs in packed:
        assert (outputs - plain).abs().max() < tolerance * plain.abs().max()
