"""What has changed, and nothing else, turns the original into the changed model."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from salhub.models.salun.masked_optimizer import MaskedOptimizer
from salhub.models.salun.weight_delta import FILE_NAME, apply_delta, save_delta, state_digest
from salhub.models.salun.weight_mask import make_mask
from tests.models.salun.networks import samples, small_network


@pytest.fixture
def changed(tmp_path):
    network = small_network()
    base = state_digest(network)
    mask = make_mask({n: p.detach().abs() for n, p in network.named_parameters()}, 0.1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
    inputs, labels = samples(8)
    with MaskedOptimizer(optimizer, network, mask):
        torch.nn.functional.cross_entropy(network.train()(inputs), labels).backward()
        optimizer.step()
    save_delta(network, mask, base, tmp_path)
    return network


def test_the_original_becomes_the_changed_model_exactly(tmp_path, changed):
    model = small_network()
    assert state_digest(model) != state_digest(changed)
    apply_delta(model, tmp_path)
    assert state_digest(model) == state_digest(changed)


def test_only_open_weights_and_buffers_are_written(tmp_path, changed):
    weights = sum(p.numel() for p in changed.parameters())
    written = load_file(tmp_path / FILE_NAME)
    names = dict(changed.named_parameters())
    assert sum(t.numel() for n, t in written.items() if n in names) == weights // 10
    assert {n for n in written if n not in names} == dict(changed.named_buffers()).keys()


def test_another_original_is_refused_and_left_alone(tmp_path, changed):
    other = small_network(seed=5)
    before = state_digest(other)
    with pytest.raises(ValueError, match="changes another model than this one"):
        apply_delta(other, tmp_path)
    assert state_digest(other) == before


def test_a_damaged_delta_is_refused_and_the_model_left_alone(tmp_path, changed):
    model = small_network()
    before = state_digest(model)
    path = tmp_path / FILE_NAME
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["0.weight"] += 1
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match="the result is not what was saved"):
        apply_delta(model, tmp_path)
    assert state_digest(model) == before
    save_file(tensors, path)
    with pytest.raises(ValueError, match="no delta that salhub has written"):
        apply_delta(model, tmp_path)
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match="damaged or no safetensors"):
        apply_delta(model, tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no delta at"):
        apply_delta(model, tmp_path)
