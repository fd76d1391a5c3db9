"""The study of the saliency map: its cells, what it trains, and what its tables say of them."""

import json

import numpy as np
import pytest

from benchmarks import sdl_seg_cells
from benchmarks.sdl_seg_cells import Cell, all_cells, cells_of_curve
from benchmarks.sdl_seg_study import curve_report, report


def test_every_cell_is_there_once_and_seeds_come_one_after_another():
    cells = all_cells()
    assert len(set(cells)) == len({cell.name for cell in cells}) == len(cells) == 84
    main = [c for c in cells if (c.patients, c.decoys, c.steps) == (20, 4, 100)]
    assert main == cells[:24] and [cell.seed for cell in main] == sorted(c.seed for c in main)
    for cell in main:
        assert Cell("none", cell.visible, cell.seed) in main


def rows(dice: float, hd95: float) -> list[dict]:
    return [
        {
            "patient": f"phantom-{n}", "dice": dice + 0.01 * n, "hd95": hd95, "assd": 2.0,
            "near dice": dice, "near hd95": hd95, "near assd": 2.0,
        }
        for n in range(8)
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "training_free.json").write_text(json.dumps({"map above 0.60": rows(0.5, 9.0)}))
    (tmp_path / "detection.json").write_text(json.dumps({"plain": {"phantoms": 9, "recall": 0.99}}))
    return tmp_path


def test_gaps_are_taken_seed_by_seed(folder):
    done = {}
    for seed, (plain, guided) in enumerate(((0.2, 0.6), (0.3, 0.65))):
        done[Cell("none", False, seed)] = {
            "cell": {"seed": seed}, "rows": rows(plain, np.inf if seed else 25.0)
        }  # fmt: skip
        done[Cell("edt_gauss", False, seed)] = {
            "cell": {"seed": seed}, "rows": rows(guided, 7.0),
            "changed": {"one clip lost": [0.5] * 6},
        }  # fmt: skip
    found = report(done, folder)
    assert found.metric("gap/clips painted out/edt_gauss").value == pytest.approx(0.375)
    tables = {table.title: table for table in found.tables}
    [gap] = tables["What the map adds to the CT"].rows
    assert gap[:4] == ["clips painted out", "EDT-Gauss", "+0.400 +0.350", "2 of 2"]
    assert gap[4] == pytest.approx(0.0078, abs=1e-3)  # 8 patients, all better
    arms = {row[0]: row for row in tables["Arms, clips painted out"].rows}
    assert arms["CT only"][1] == "0.235 0.335" and arms["CT only"][6] == "8 of 16"
    lost = tables["When clips are lost or moved"].rows
    assert lost[0][2] == pytest.approx(0.625) and lost[1][2:] == [0.5, -0.125]
    assert found.data["cells"] == "4 of 84"
    assert tables["Arms, clips visible"].rows[0][0] == "map above 0.60, no training"


def test_a_cell_is_measured_once(folder, monkeypatch):
    cell = Cell("points", True, 1)
    (folder / cell.name).mkdir()
    (folder / cell.name / "scores.json").write_text('{"rows": []}')
    monkeypatch.setattr(sdl_seg_cells, "run_once", lambda *_: pytest.fail("trained again"))
    assert sdl_seg_cells.run_cell(cell, folder) == {"rows": []}
    assert [found for found, _ in sdl_seg_cells.finished(folder)] == [cell]


def test_a_curve_keeps_the_seeds_that_were_known():
    cells = cells_of_curve("decoys")
    assert {cell.decoys for cell in cells} == {0, 4, 8} and len(cells) == 36
    assert {cell.steps for cell in cells} == {100} and {cell.arm for cell in cells} == {
        "none", "edt_gauss",
    }  # fmt: skip

    def found(seed, dice):
        return {Cell("none", True, seed, decoys=8): {"cell": {"seed": seed}, "rows": rows(dice, 5)}}

    key = "decoys/clips visible/none/8"
    former = curve_report(found(0, 0.6), "decoys")
    assert former.metric(key).n == 1
    both = curve_report(found(1, 0.7), "decoys", former)
    assert both.metric(key).value == pytest.approx(0.685) and both.metric(key).n == 2
    [table] = both.tables
    assert table.rows[0] == ["clips visible", "CT only", None, None, "0.685 (0.071, 2 seeds)"]
    again = curve_report(found(1, 0.8), "decoys", both)
    assert again.metric(key).value == pytest.approx(0.735)
