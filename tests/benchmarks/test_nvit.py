"""The benchmarks of NViT at the smallest size: what they compare, and what they say of it."""

import statistics

import numpy as np
import pytest
import torch

from benchmarks import nvit, nvit_latency
from benchmarks.nvit_peers import isomorphic
from benchmarks.peers import find_peer
from benchmarks.report import Requirement, add_requirements
from salhub.models.nvit.configuration_nvit import NViTConfig
from salhub.models.nvit.importance import score_units
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.models.nvit.shapes import NViTShape
from salhub.results import Results, Table
from tests.models.nvit.small_vit import even_table
from tests.models.nvit.test_recipes_nvit import data, nano  # noqa: F401

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "qk_head_dim": 16,
    "v_head_dim": 16, "intermediate_size": 64, "image_size": 8, "patch_size": 4,
    "num_channels": 1, "num_labels": 10,
}  # fmt: skip


def empty() -> Results:
    return Results(model="nvit", command="python -m benchmarks.nvit", seed=0)


def test_scores_are_compared_over_seeds(monkeypatch):
    monkeypatch.setattr(nvit, "NETWORK", SMALL)
    monkeypatch.setattr(nvit, "KEPT", (0.7,))
    digits = nvit.read_digits()
    few = nvit.Digits(digits.pixels[:128], digits.labels[:128], digits.test_pixels[:60],
                      digits.test_labels[:60])  # fmt: skip
    results = empty()
    peer = find_peer("torch_pruning")
    nvit.add_fidelity(results, few, 2, 2, peer)
    names = [*nvit.SCORES]
    if peer.reason is None:
        names += ["torch-pruning, Taylor", "torch-pruning, Hessian"]
    tables = {table.title: table for table in results.tables}
    assert [row[0] for row in tables["Which scores tell"].rows] == names
    assert [row[0] for row in tables["Removed at once"].rows] == [*names, "uniform"]
    [requirement] = nvit.fidelity_requirements(results)
    assert requirement.is_met == (requirement.value >= 0.75)
    assert -1 <= results.metric("fidelity/random").value <= 1


def test_shares_of_weights_are_removed_by_a_table_of_weights(monkeypatch):
    config = NViTConfig(**SMALL)
    table = nvit.weights_table(config)
    shape = NViTShape(17, (3,), (9,), (4,), (30,))
    assert table.predict(shape) == pytest.approx(shape.num_block_parameters(config))
    torch.manual_seed(0)
    model = NViTForImageClassification(config).eval()
    scores = score_units(model, [], score="random")
    whole = NViTShape.of(config).num_block_parameters(config)
    for small in (
        nvit.pruned_by(model, scores, table, [0.6])[0.6],
        nvit.uniform(model, scores, table, 0.6),
    ):
        left = NViTShape.of(small.config).num_block_parameters(config)
        assert 0.2 * whole < left <= 0.6 * whole
    with pytest.raises(ValueError, match="cannot be reached"):
        nvit.pruned_by(model, scores, table, [0.001])


def test_isomorphic_scores_take_the_same_share_of_every_structure():
    torch.manual_seed(0)
    model = NViTForImageClassification(NViTConfig(**SMALL)).eval()
    scores = isomorphic(score_units(model, [], score="random"))
    for name, size in (("mlp", 64), ("embedding", 32)):
        values = scores.values[scores.layout.places_of(name)]
        # A quarter of the units lies below a quarter of the largest group's worth.
        assert int((values * 16 <= 0.25).sum()) == size // 4


def test_ways_are_compared_at_one_latency(tmp_path, data, nano, monkeypatch):  # noqa: F811
    ways = {name: nvit_latency.WAYS[name] for name in ("NViT", "random", "uniform")}
    monkeypatch.setattr(nvit_latency, "WAYS", ways)
    monkeypatch.setattr(nvit_latency, "TARGETS", (0.9,))
    monkeypatch.setattr(nvit_latency, "use_one_thread", lambda: None)
    # Not measured: on a busy machine no width may be faster than another.
    monkeypatch.setattr(nvit_latency, "_table", lambda base, options: even_table(base.config))
    monkeypatch.setattr(
        "benchmarks.nvit_latency.finish", lambda results, peers, path: kept.append(results)
    )
    kept: list[Results] = []
    nvit_latency.main([
        "--data", data, "--base", nano, "--seeds", "2", "--images", "30", "--test-images", "15",
        "--epochs", "1", "--calibration", "30", "--rounds", "2", "--runs", str(tmp_path),
        "--mixed-precision", "no",
    ])  # fmt: skip
    [results] = kept
    [_, table, _] = results.tables
    assert [row[:2] for row in table.rows] == [[way, 0.9] for way in ways]
    found = results.metric("random/0.9/accuracy")
    assert found.n == 2 and 0 <= found.value <= 100
    assert results.metric("NViT/0.9/said").value <= 0.9 < 1


def test_ties_are_called_ties():
    found = {
        ("NViT", 0.5): {"accuracy": [70.0, 71.0, 72.0]},
        ("random", 0.5): {"accuracy": [60.0, 61.5, 62.0]},
        ("uniform", 0.5): {"accuracy": [71.0, 70.0, 72.5]},
    }
    assert nvit_latency._verdict(found, "NViT", 0.5) == ""
    assert nvit_latency._verdict(found, "uniform", 0.5) == "tie"
    difference = statistics.mean(np.subtract([60.0, 61.5, 62.0], [70.0, 71.0, 72.0]))
    assert nvit_latency._verdict(found, "random", 0.5) == f"{difference:+.2f}"


def test_one_part_keeps_what_the_other_has_measured():
    first, second = empty(), empty()
    add_requirements(first, [Requirement("correlation", 0.8, 0.75, is_least=True)])
    first.tables.append(Table("Which scores tell", "", ["score"], [["batch"]]))
    add_requirements(second, [Requirement("time", 1.2, 1.3)])
    nvit.keep_other_part(second, first)
    assert [table.title for table in second.tables] == ["Required", "Which scores tell"]
    assert [row[0] for row in second.tables[0].rows] == ["time", "correlation"]
    assert second.metric("required/correlation").value == 0.8
    nvit.keep_other_part(second, first)
    assert len(second.tables[0].rows) == 2 and len(second.metrics) == 2
