"""Language models with few bits a weight: packed on disk, and loaded by transformers alone."""

import json
import os
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.machine import Machine

_LOAD = """
{imports}
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

model, info = AutoModelForCausalLM.from_pretrained({folder!r}, output_loading_info=True)
assert not any(info.values()), info
with torch.no_grad():
    logits = model(**load_file("inputs.safetensors")).logits
save_file({{"logits": logits.contiguous()}}, "logits.safetensors")
"""


class QuantizerTester:
    """For every method that packs the weights of a language model."""

    # What a person runs before transformers knows the method.
    imports: ClassVar[str] = "import salhub"
    # As `quantization_config.quant_method` says.
    quant_method: ClassVar[str]
    # Largest difference of the logits that packing makes to the values it packs.
    tolerance: ClassVar[float] = 1e-5

    def quantized(self) -> Any:
        """Return a small language model whose weights are packed, always the same one."""
        raise AssertionError("say how a small model is quantized")

    def expected_bytes(self, model: Any) -> int:
        """Return how large its packed tensors and the rest are, counted by hand."""
        raise AssertionError("count the bytes by hand")

    def unpacked(self, model: Any) -> dict[str, Tensor]:
        """Return the weights that the packed layers stand for, by the names of the layers."""
        raise AssertionError("say which weights the packed ones stand for")

    def inputs(self) -> dict[str, Tensor]:
        return {"input_ids": torch.tensor([[3, 5, 7, 2, 9], [1, 8, 4, 6, 0]])}

    def logits(self, model: Any) -> Tensor:
        with torch.no_grad():
            return model(**self.inputs()).logits

    def test_a_new_process_loads_it_and_gives_the_same(self, tmp_path):
        model = self.quantized()
        model.save_pretrained(tmp_path / "packed")
        save_file(self.inputs(), tmp_path / "inputs.safetensors")
        code = _LOAD.format(imports=self.imports, folder=str(tmp_path / "packed"))
        machine = Machine(os.environ, preload=False)
        finished = machine.run(code, folder=tmp_path, environment=os.environ)
        machine.close()
        assert finished.returncode == 0, finished.stderr
        assert torch.equal(load_file(tmp_path / "logits.safetensors")["logits"], self.logits(model))

    def test_the_configuration_says_how_it_was_packed(self, tmp_path):
        self.quantized().save_pretrained(tmp_path)
        content = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
        assert content["quantization_config"]["quant_method"] == self.quant_method

    def test_it_is_as_small_as_it_says(self, tmp_path):
        model = self.quantized()
        model.save_pretrained(tmp_path)
        assert not list(tmp_path.glob("*.bin"))
        size = sum(
            values.numel() * values.element_size()
            for path in Path(tmp_path).glob("*.safetensors")
            for values in load_file(path).values()
        )
        assert size == self.expected_bytes(model)

    def test_saving_what_was_loaded_changes_nothing(self, tmp_path):
        model = self.quantized()
        model.save_pretrained(tmp_path / "once")
        type(model).from_pretrained(tmp_path / "once").save_pretrained(tmp_path / "twice")
        once, twice = (
            load_file(tmp_path / folder / "model.safetensors") for folder in ("once", "twice")
        )
        assert once.keys() == twice.keys()
        assert all(torch.equal(once[name], twice[name]) for name in once)

    def test_packed_weights_do_what_the_unpacked_ones_do(self):
        packed = self.quantized()
        plain = type(packed)(_without_quantization(packed.config)).eval()
        state = {
            name: values for name, values in packed.state_dict().items()
            if name in plain.state_dict()
        }  # fmt: skip
        state |= {f"{name}.weight": values for name, values in self.unpacked(packed).items()}
        plain.load_state_dict(state)
        torch.testing.assert_close(
            self.logits(packed), self.logits(plain), rtol=self.tolerance, atol=self.tolerance
        )


def _without_quantization(config: Any) -> Any:
    content = {key: value for key, value in config.to_dict().items() if "quantization" not in key}
    return type(config)(**content)
