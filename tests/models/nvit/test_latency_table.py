"""The latency table: interpolation, what is measured, files, and the machine it is of."""

import itertools
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from salhub.models.nvit.configuration_nvit import NViTConfig
from salhub.models.nvit.latency_table import LatencyTable, default_grid
from salhub.models.nvit.shapes import NViTShape
from tests.models.nvit.small_vit import UNEVEN, even_table

CONFIG = NViTConfig(**UNEVEN)


def seconds_written_out(shape: NViTShape) -> float:
    """What the table of `even_table` is of."""
    width = shape.hidden_size
    total = width
    for head, qk, v, mlp in shape.blocks:
        total += width * head * (2 * qk + 2 * v) + 10 if head else 0
        total += 2 * width * mlp + 10 if mlp else 0
    return 1e-6 * total


def test_what_is_multilinear_is_interpolated_without_error():
    table = even_table(CONFIG)
    for shape in (
        NViTShape.of(CONFIG),
        NViTShape(17, (2, 1, 3), (3, 5, 2), (1, 4, 6), (31, 2, 9)),
        NViTShape(5, (0, 1, 2), (3, 1, 6), (2, 2, 2), (7, 0, 32)),
    ):
        assert table.predict(shape) == pytest.approx(seconds_written_out(shape), rel=1e-12)


def test_a_cell_of_five_axes_is_the_weighted_mean_of_its_corners():
    generator = np.random.default_rng(0)
    table = even_table(CONFIG)
    table.seconds["attention"] = generator.random(table.seconds["attention"].shape)
    point = [11.0, 3.0, 4.0, 2.0]
    axes = list(table.grids["attention"].values())
    expected = 0.0
    for corner in itertools.product((0, 1), repeat=4):
        share = 1.0
        for at, (low, high), side in zip(point, axes, corner, strict=True):
            along = (at - low) / (high - low)
            share *= along if side else 1 - along
        expected += share * table.seconds["attention"][corner]
    assert float(table.part("attention", point)) == pytest.approx(expected, rel=1e-12)


def test_beyond_the_grid_the_border_counts_and_is_said(caplog):
    table = even_table(CONFIG)
    shape = NViTShape(24, (2, 3, 4), (5, 6, 4), (6, 4, 4), (64, 20, 24))
    expected = seconds_written_out(NViTShape(24, (2, 3, 4), (5, 6, 4), (6, 4, 4), (32, 20, 24)))
    assert table.predict(shape) == pytest.approx(expected)
    assert "mlp of 20 to 64 lies outside the latency table" in caplog.text


def test_parts_of_a_network_are_measured_and_whole_ones_compared(tmp_path):
    grid = {"embedding": [8, 24], "head": [1, 4], "qk": [2, 6], "v": [2, 6], "mlp": [16, 32]}
    table = LatencyTable.measure(CONFIG, batch_size=2, grid=grid, repeats=3, warmup=1)
    assert {part: one.shape for part, one in table.seconds.items()} == {
        "attention": (2, 2, 2, 2), "mlp": (2, 2), "rest": (2,),
    }  # fmt: skip
    assert all((one > 0).all() for one in table.seconds.values())
    assert table.threads == torch.get_num_threads() and table.num_tokens == 18
    error = table.validate(CONFIG, 3, repeats=2)
    assert len(error.measured) == 3 and min(error.measured) > 0
    assert error.relative[0] == pytest.approx(abs(error.predicted[0] / error.measured[0] - 1))
    assert error.median <= error.maximum < 20
    loaded = LatencyTable.load(table.save(tmp_path / "table.json"))
    assert loaded.validation == {
        "networks": 3, "median": error.median, "maximum": error.maximum
    }  # fmt: skip


def test_the_grid_ends_at_the_widths_of_the_network():
    grid = default_grid(NViTShape.of(NViTConfig(hidden_size=768, num_attention_heads=12,
                                                intermediate_size=3072)))  # fmt: skip
    assert [len(grid[n]) for n in ("embedding", "head", "qk", "v", "mlp")] == [4, 4, 3, 3, 7]
    assert (grid["embedding"][-1], grid["mlp"][-1], grid["head"][0]) == (768, 3072, 1)
    assert all(width % 16 == 0 for width in (*grid["embedding"], *grid["mlp"]))
    assert min(map(len, default_grid(NViTShape(1, (1,), (1,), (1,), (1,))).values())) == 2


def test_a_table_is_read_as_it_was_written(tmp_path):
    table = even_table(CONFIG)
    loaded = LatencyTable.load(table.save(tmp_path / "table.json"))
    assert loaded.digest == table.digest and loaded.device == table.device
    assert loaded.predict(CONFIG) == table.predict(CONFIG)
    content = json.loads((tmp_path / "table.json").read_text())
    content["seconds"]["mlp"] = [[1.0]]
    for broken in (json.dumps(content), "{}", "no json"):
        (tmp_path / "table.json").write_text(broken)
        with pytest.raises(ValueError, match=r"table\.json is not a latency table of"):
            LatencyTable.load(tmp_path / "table.json")
    with pytest.raises(FileNotFoundError):
        LatencyTable.load(tmp_path / "none.json")


def test_a_table_of_another_machine_is_said_or_refused(caplog):
    table = even_table(CONFIG)
    assert table.check(CONFIG) == []
    table.device = "a toaster"
    with caplog.at_level(logging.WARNING):
        assert len(table.check(CONFIG)) == 1
    assert "measured with device=a toaster, but here it is cpu" in caplog.text
    with pytest.raises(ValueError, match=r"measure it again with LatencyTable"):
        table.check(CONFIG, strict=True)
    with pytest.raises(ValueError, match="num_tokens=99"):
        replace(even_table(CONFIG), num_tokens=99).check(CONFIG, strict=True)


def test_bad_grids_and_clocks_are_refused(monkeypatch):
    grid = {"embedding": [24], "head": [1, 4], "qk": [2, 6], "v": [2, 6], "mlp": [16, 32]}
    with pytest.raises(ValueError, match="grid of 'embedding' must be two or more ascending"):
        LatencyTable.measure(CONFIG, grid=grid)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(ValueError, match="clock='cpu' counts the seconds of one CPU thread, got"):
        LatencyTable.measure(CONFIG, clock="cpu")
