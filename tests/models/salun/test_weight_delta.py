"""What has changed, and nothing else, turns the original into the changed model."""

import copy
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from salhub.cli import app
from salhub.models.salun.masked_optimizer import MaskedOptimizer
from salhub.models.salun.weight_delta import FILE_NAME, apply_delta, save_delta, state_digest
from salhub.models.salun.weight_mask import WeightMask, make_mask
from tests.models.salun.networks import samples, small_network
from tests.models.salun.small_archive import load, unlearn


@pytest.fixture
def changed(tmp_path):
    network = small_network()
    base = copy.deepcopy(network.state_dict())
    mask = make_mask({n: p.detach().abs() for n, p in network.named_parameters()}, 0.1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
    inputs, labels = samples(8)
    with MaskedOptimizer(optimizer, network, mask):
        torch.nn.functional.cross_entropy(network.train()(inputs), labels).backward()
        optimizer.step()
    save_delta(network, base, mask, tmp_path)
    return network


def test_the_original_becomes_the_changed_model_exactly(tmp_path, changed):
    model = small_network()
    assert state_digest(model.state_dict()) != state_digest(changed.state_dict())
    apply_delta(model, tmp_path)
    assert state_digest(model.state_dict()) == state_digest(changed.state_dict())


def test_only_open_weights_and_buffers_are_written(tmp_path, changed):
    weights = sum(p.numel() for p in changed.parameters())
    written = load_file(tmp_path / FILE_NAME)
    names = dict(changed.named_parameters())
    assert sum(t.numel() for n, t in written.items() if n in names) == weights // 10
    assert {n for n in written if n not in names} == dict(changed.named_buffers()).keys()


def test_another_original_is_refused_and_left_alone(tmp_path, changed):
    other = small_network(seed=5)
    before = state_digest(other.state_dict())
    with pytest.raises(ValueError, match="belongs to another model"):
        apply_delta(other, tmp_path)
    assert state_digest(other.state_dict()) == before


def test_a_damaged_delta_is_refused_and_the_model_left_alone(tmp_path, changed):
    model = small_network()
    before = state_digest(model.state_dict())
    path = tmp_path / FILE_NAME
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["0.weight"] += 1
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match="the result differs from what was saved"):
        apply_delta(model, tmp_path)
    assert state_digest(model.state_dict()) == before
    save_file(tensors, path)
    with pytest.raises(ValueError, match="not a delta written by salhub"):
        apply_delta(model, tmp_path)
    del tensors["5.weight"]
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match="the result differs from what was saved"):
        apply_delta(model, tmp_path)
    assert state_digest(model.state_dict()) == before
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match="damaged or not a safetensors"):
        apply_delta(model, tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no delta at"):
        apply_delta(model, tmp_path)


def test_closed_weights_that_have_moved_are_refused_before_anything_is_written(tmp_path):
    network = small_network()
    base = copy.deepcopy(network.state_dict())
    mask = make_mask({n: p.detach().abs() for n, p in network.named_parameters()}, 0.1)
    with torch.no_grad():
        network[5].weight += 1
    with pytest.raises(ValueError, match=r"masked weights of '5\.weight' have changed"):
        save_delta(network, base, mask, tmp_path / "new")
    with pytest.raises(ValueError, match=r"is torch\.float64 of shape"):
        save_delta(network.double(), base, mask, tmp_path / "new")
    with pytest.raises(KeyError, match="is in only one of them"):
        save_delta(network, {"5.bias": base["5.bias"]}, mask, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_tied_weights_stay_tied(tmp_path):
    def tied():
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
        network[1].weight = network[0].weight
        return network

    network, model = tied(), tied()
    mask = WeightMask(
        {n: torch.ones_like(p, dtype=torch.bool) for n, p in tied().named_parameters()}
    )
    with torch.no_grad():
        network[0].weight += 1
    save_delta(network, tied().state_dict(), mask, tmp_path)
    apply_delta(model, tmp_path)
    assert state_digest(model.state_dict()) == state_digest(network.state_dict())
    assert model[1].weight is model[0].weight


def test_a_command_makes_the_model_of_the_original_and_the_delta(tmp_path, small):
    unlearn(small, tmp_path / "made", "salun", save_delta=True)
    sent, rebuilt = tmp_path / "sent", tmp_path / "rebuilt"
    shutil.copytree(tmp_path / "made", sent, ignore=shutil.ignore_patterns("model.safetensors"))
    words = [f"model={small.original}", f"delta={sent}", f"output_dir={rebuilt}", "cpu=true"]
    found = CliRunner().invoke(app, ["unlearn", "apply-delta", *words])
    assert found.exit_code == 0, found.output
    for name in (
        "model.safetensors", "config.json", "preprocessor_config.json", "mask.safetensors",
        "delta.safetensors", "split.json", "unlearning.json",
    ):  # fmt: skip
        assert (rebuilt / name).read_bytes() == (tmp_path / "made" / name).read_bytes(), name
    assert load(rebuilt).config.forget == "random:16"
    words[1:3] = f"delta={sent / 'delta.safetensors'}", f"output_dir={tmp_path / 'by-file'}"
    found = CliRunner().invoke(app, ["unlearn", "apply-delta", *words])
    assert found.exit_code == 0, found.output
    weights = (tmp_path / "by-file" / "model.safetensors").read_bytes()
    assert weights == (rebuilt / "model.safetensors").read_bytes()
    words[2] = f"output_dir={sent}"
    found = CliRunner().invoke(app, ["unlearn", "apply-delta", *words, "overwrite=true"])
    assert found.exit_code == 1 and "output_dir is the folder of delta=" in found.output
    assert (sent / "delta.safetensors").is_file()
    words[1:3] = f"delta={sent}", f"output_dir={rebuilt}"
    (sent / "delta.safetensors").unlink()
    found = CliRunner().invoke(app, ["unlearn", "apply-delta", *words, "overwrite=true"])
    assert found.exit_code == 1 and "sent has no delta.safetensors; give a folder" in found.output
    other = CliRunner().invoke(
        app,
        ["unlearn", "apply-delta", f"model={tmp_path / 'made'}", f"delta={tmp_path / 'made'}",
         f"output_dir={tmp_path / 'other'}"],
    )  # fmt: skip
    assert other.exit_code == 1 and "belongs to another model" in other.output
