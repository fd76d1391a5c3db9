"""Files of tensors: equal bytes for equal content."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from salhub.ops.tensor_files import sort_metadata, write_tensors

METADATA = {f"name {index}": f"é{index}\n\"'" for index in range(12)}


def test_equal_content_is_equal_bytes_and_reads_back(tmp_path):
    tensors = {f"layer.{i}": torch.arange(i + 1) for i in range(5)}
    turned = dict(reversed(tensors.items())), dict(reversed(METADATA.items()))
    one = write_tensors(tensors, tmp_path / "one" / "a.safetensors", METADATA)
    two = write_tensors(turned[0], tmp_path / "two.safetensors", turned[1])
    assert one.read_bytes() == two.read_bytes()
    plain = tmp_path / "plain.safetensors"
    save_file(tensors, plain, METADATA)
    assert sorted(plain.read_bytes()) == sorted(one.read_bytes())
    with safe_open(one, framework="pt") as file:
        assert file.metadata() == METADATA
    found = load_file(one)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("metadata", [None, {}])
def test_without_metadata(tmp_path, metadata):
    path = write_tensors({"x": torch.ones(2)}, tmp_path / "x.safetensors", metadata)
    assert load_file(path)["x"].tolist() == [1, 1]


def test_tied_weights_of_a_model(tmp_path):
    layers = [nn.Linear(2, 2) for _ in range(6)]
    for layer in layers[1:]:
        layer.weight = layers[0].weight
    files = set()
    for _ in range(8):
        save_model(nn.Sequential(*layers), str(tmp_path / "m.safetensors"))
        sort_metadata(tmp_path / "m.safetensors")
        files.add((tmp_path / "m.safetensors").read_bytes())
    assert len(files) == 1
