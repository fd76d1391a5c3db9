"""One block at a time: nothing of the size of a block stays when it is done.

What a compression takes as a process is measured by `benchmarks/compression_memory.py`.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM

from salhub.quantization.quantizer import loaded_bytes, one_block_unpacked, packed_layers
from salhub.runner.run import run
from tests.models.slim_llm.compressing import recipe


@pytest.mark.parametrize("options", [{}, {"preset": "plus", "clip_epochs": 1}])
def test_nothing_of_a_block_stays_but_its_packed_weights(tmp_path, sources, options):
    given = {"test_data": sources["calibration"], "test_context_length": 24, "num_test_tokens": 96}
    made = recipe(tmp_path / "out", {**sources, **given}, **options)
    results = run(made)
    assert results.metric("perplexity/after").value > 0
    # Measuring has unpacked them, one block at a time.
    assert not any(layer.kept_tensors() for layer in packed_layers(made.run.model).values())
    assert made.plain_inputs is None and not hasattr(made, "inputs")


def test_a_pass_with_one_block_unpacked_computes_the_same(tmp_path, sources):
    run(recipe(tmp_path / "out", sources))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens, packed = torch.tensor([[3, 1, 4, 1, 5]]), loaded_bytes(model)
    with torch.no_grad():
        with one_block_unpacked(model.model.layers):
            found = model(tokens).logits
        assert loaded_bytes(model) == packed
        assert torch.equal(model(tokens).logits, found)
    assert loaded_bytes(model) > packed
