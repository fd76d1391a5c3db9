"""Masks against a stable double sort, and everything that is done with them."""

import itertools
import math

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from salhub.models.salun.weight_mask import FILE_NAME, WeightMask, make_mask
from tests.models.salun.networks import small_network


def scores(levels: int = 7) -> dict[str, torch.Tensor]:
    """Few levels, so that there are ties everywhere."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randint(levels, p.shape, generator=generator).float()
        for name, p in small_network().named_parameters()
    }


def sorted_mask(values: torch.Tensor, ratio: float) -> np.ndarray:
    """By the ranks of a stable sort of the flat scores."""
    order = np.argsort(-values.numpy().reshape(-1), kind="stable")
    opened = np.zeros(values.numel(), dtype=bool)
    opened[order[: math.floor(ratio * values.numel())]] = True
    return opened


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors.values()])


@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.5, 0.77, 1, 1.0])
@pytest.mark.parametrize("levels", [1, 2, 7, 10**6])
def test_equal_to_the_ranks_of_a_stable_sort(ratio, levels):
    values = scores(levels)
    mask = make_mask(values, ratio)
    np.testing.assert_array_equal(flat(mask.tensors).numpy(), sorted_mask(flat(values), ratio))
    assert mask.num_open == math.floor(ratio * mask.num_weights)


def test_smaller_ratios_lie_inside_larger_ones():
    masks = [make_mask(scores(), ratio) for ratio in (0.1, 0.2, 0.5, 0.9)]
    for small, large in itertools.pairwise(masks):
        assert (small & large) == small


def test_scopes_rank_what_belongs_together():
    values = scores(1000)
    for name, opened in make_mask(values, 0.25, scope="per_tensor").tensors.items():
        np.testing.assert_array_equal(opened.reshape(-1), sorted_mask(values[name], 0.25))
    blocks = {f"blocks.{i}.{part}": torch.rand(7) for i in range(2) for part in "ab"}
    found = make_mask({**blocks, "head.weight": torch.rand(5)}, 0.5, scope="per_block").tensors
    for names in (["blocks.0.a", "blocks.0.b"], ["blocks.1.a", "blocks.1.b"]):
        together = torch.cat([blocks[name] for name in names])
        opened = torch.cat([found[name] for name in names])
        np.testing.assert_array_equal(opened, sorted_mask(together, 0.5))
    assert int(found["head.weight"].sum()) == 2


def test_excluded_parameters_stay_closed_and_are_not_counted():
    mask = make_mask(scores(), 0.5, exclude=["1.*"])
    assert mask.per_tensor()["1.weight"] == mask.per_tensor()["1.bias"] == 0
    rest = sum(t.numel() for name, t in mask.tensors.items() if not name.startswith("1."))
    assert mask.num_open == rest // 2


def test_sets_of_weights():
    a, b = make_mask(scores(1000), 0.5), make_mask(scores(1000), 0.2)
    x, y = flat(a.tensors), flat(b.tensors)
    assert torch.equal(flat((a & b).tensors), x & y)
    assert torch.equal(flat((a | b).tensors), x | y)
    assert torch.equal(flat((~a).tensors), ~x)
    assert a.iou(b) == pytest.approx(float((x & y).sum() / (x | y).sum()))
    assert (a & ~a).density() == 0 and (a & ~a).iou(a & ~a) == 1
    assert a.density() == pytest.approx(0.5, abs=1e-2)


def test_a_file_takes_one_bit_a_weight_and_comes_back(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "z.first": torch.rand(1000, 99, generator=generator) > 0.5,
        "a.second": torch.rand(3, 5, 7, generator=generator) > 0.5,
        "scalar": torch.tensor(True),
        "empty": torch.zeros(0, 4, dtype=torch.bool),
    }
    mask = WeightMask(tensors, "fisher")
    path = mask.save_pretrained(tmp_path / "new")
    assert path.stat().st_size < 99_000 / 8 + 1000
    for source in (path, path.parent):
        loaded = WeightMask.from_pretrained(source)
        assert loaded == mask and loaded.saliency == "fisher" and loaded.ratio is None
        assert list(loaded.tensors) == list(tensors)
    assert [entry.name for entry in path.parent.iterdir()] == [FILE_NAME]
    again = [mask.save_pretrained(tmp_path / str(n)).read_bytes() for n in range(4)]
    assert set(again) == {path.read_bytes()}


def test_files_that_are_no_masks_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no mask at"):
        WeightMask.from_pretrained(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="damaged or not a safetensors"):
        WeightMask.from_pretrained(tmp_path)
    save_file({"weight": torch.ones(2)}, tmp_path / FILE_NAME)
    with pytest.raises(ValueError, match="not a mask written by salhub"):
        WeightMask.from_pretrained(tmp_path)


@pytest.mark.parametrize("damage", ["bit", "short", "other", "shapes", "lost"])
def test_damaged_masks_are_refused(tmp_path, damage):
    path = WeightMask({"weight": torch.arange(100) < 50}, ratio=0.5).save_pretrained(tmp_path)
    assert WeightMask.from_pretrained(path).ratio == 0.5
    with safe_open(path, framework="pt") as file:
        metadata, bits = file.metadata(), file.get_tensor("weight")
    if damage == "bit":
        bits[3] += 1
    elif damage == "short":
        bits = bits[:5].clone()
    elif damage == "shapes":
        metadata["shapes"] = "{"
    elif damage == "lost":
        del metadata["sha256"]
    save_file({"other" if damage == "other" else "weight": bits}, path, metadata=metadata)
    with pytest.raises(ValueError, match="differs from what was saved"):
        WeightMask.from_pretrained(path)


def test_frozen_parameters_need_no_mask():
    network = small_network()
    network[0].weight.requires_grad_(False)
    some = {name: values for name, values in scores().items() if name != "0.weight"}
    mask = make_mask(some).for_model(network)
    assert not bool(mask.tensors["0.weight"].any()) and mask.ratio == 0.5
    with pytest.raises(KeyError, match=r"missing: '0\.weight'; extra: none"):
        make_mask(some).for_model(network.requires_grad_(True))


def test_a_part_called_module_is_no_wrapper():
    network = nn.Module()
    network.weight, network.module = nn.Parameter(torch.ones(3)), nn.Module()
    network.module.weight = nn.Parameter(torch.ones(3))
    mask = make_mask({"weight": torch.tensor([3.0, 2, 1]), "module.weight": torch.zeros(3)}, 0.5)
    assert mask.for_model(network) == mask
    wrapped = nn.Module()
    wrapped.module = network
    assert mask.for_model(wrapped).tensors["module.module.weight"].tolist() == [False] * 3


def test_scores_of_any_precision_and_ratios_of_any_kind():
    near = torch.tensor([1, 1 + 1e-12, 1 + 3e-12, 1 + 2e-12], dtype=torch.float64)
    assert make_mask({"a": near}, np.float32(0.5)).tensors["a"].tolist() == [False] * 2 + [True] * 2
    coarse = torch.tensor([[1, 3], [3, 2]], dtype=torch.bfloat16).t()
    assert make_mask({"a": coarse}, 0.25).tensors["a"].tolist() == [[False, True], [False, False]]
    assert make_mask({"a": torch.tensor(2.0), "b": torch.ones(1)}).tensors["a"].item() is True


def test_names_may_carry_what_wrappers_add():
    network = small_network()
    mask = make_mask({f"module._orig_mod.{name}": s for name, s in scores().items()})
    assert list(mask.for_model(network).tensors) == list(dict(network.named_parameters()))
    wrapped = nn.Module()
    wrapped.module = network
    assert mask.for_model(wrapped).tensors.keys() == dict(wrapped.named_parameters()).keys()


def test_a_mask_of_another_model_is_refused_by_name():
    mask = make_mask(scores())
    with pytest.raises(KeyError, match=r"missing: '6\.weight'; extra: none"):
        mask.for_model(nn.Sequential(*small_network(), nn.Linear(5, 2, bias=False)))
    other = small_network()
    other[5] = nn.Linear(4 * 16, 6)
    with pytest.raises(ValueError, match=r"'5.weight' has shape \(5, 64\), but the parameter has"):
        mask.for_model(other)


@pytest.mark.parametrize(
    ("ratio", "error", "words"),
    [
        (1.5, ValueError, "ratio must be a share above 0 and at most 1, such as 0.5, got 1.5"),
        (0, ValueError, "above 0 and at most 1"),
        (-0.1, ValueError, "above 0 and at most 1"),
        (float("nan"), ValueError, "above 0 and at most 1"),
        (True, ValueError, "such as 0.5, got True"),
        ("half", TypeError, "must be a number"),
        (1e-9, ValueError, "of 409 weights, ranked global, selects none"),
    ],
)
def test_ratios_that_make_no_mask_are_refused(ratio, error, words):
    with pytest.raises(error, match=words):
        make_mask(scores(), ratio)


def test_other_bad_input_is_refused():
    with pytest.raises(ValueError, match="Did you mean 'global'"):
        make_mask(scores(), scope="globl")
    with pytest.raises(ValueError, match=r"'norm\*' in exclude matches no parameter"):
        make_mask(scores(), exclude="norm*")
    with pytest.raises(ValueError, match="exclude fewer"):
        make_mask(scores(), exclude="*")
    for value in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match=r"'5\.bias' have NaN or infinite"):
            make_mask({**scores(), "5.bias": torch.full((5,), value)})
    with pytest.raises(TypeError, match="must be boolean"):
        WeightMask({"weight": torch.ones(2)})
    with pytest.raises(ValueError, match="at least one parameter"):
        WeightMask({})
