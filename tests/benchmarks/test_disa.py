"""The study of DiSa: its pictures, a table that fills up, and how large prompts are."""

import numpy as np
import pytest
import torch

from benchmarks import disa, disa_speed, disa_tasks
from benchmarks.disa_cells import METHODS, Cell, cells
from salhub.data.picture_archive import PictureArchive
from salhub.results import Results


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Pictures of 80 classes, whose names have synonyms."""
    generator = np.random.default_rng(0)
    counts = {"train": 3, "test": 2}
    content = {"class_names": np.array([f"thing {n}, res {n}" for n in range(80)])}
    for part, count in counts.items():
        shape = (80 * count, 8, 8, 3)
        content[f"{part}_images"] = generator.integers(0, 255, shape, dtype=np.uint8)
        content[f"{part}_labels"] = np.repeat(np.arange(80), count)
    path = tmp_path_factory.mktemp("data") / "things.npz"
    np.savez(path, **content)
    return path


def test_tasks_are_of_classes_that_were_met(archive, tmp_path):
    tasks = disa_tasks.write_tasks(archive, [archive], tmp_path)
    clean = PictureArchive(tasks.domains["clean"])
    assert len(clean.class_names) == 40
    assert "thing 9" not in clean.class_names and "thing 8" in clean.class_names
    assert len(PictureArchive(tasks.base["clean"]).class_names) == 20
    given = PictureArchive(archive)
    places = clean.test_places
    first = given.images(given.test_places[:2])
    assert torch.equal(clean.images(places[:2]), first)
    inverted = PictureArchive(tasks.domains["inverted"])
    assert torch.equal(inverted.images(places[:2]), 255 - first)
    other = PictureArchive(tasks.others["things"])
    assert len(other.class_names) == 80 and int(other.is_test.sum()) == 160
    before = (tmp_path / "base-clean.npz").stat().st_mtime_ns
    disa_tasks.write_tasks(archive, [archive], tmp_path)
    assert (tmp_path / "base-clean.npz").stat().st_mtime_ns == before


def test_domains_change_pictures_as_they_say():
    grey = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    assert disa_tasks.sketch(grey).unique().tolist() == [255]
    edge = grey.clone()
    edge[..., 4:] = 200
    lines = disa_tasks.sketch(edge)
    assert (lines[0, 0, :, 3:5] < 255).all() and (lines[0, 0, :, :3] == 255).all()
    pale = disa_tasks.pale(edge).float()
    assert pale[..., :4].mean() == pytest.approx(113.5, abs=3)
    assert pale[..., 4:].mean() == pytest.approx(163.5, abs=3)
    assert torch.equal(disa_tasks.clean(edge), edge)


def test_boxes_are_read_in_the_order_of_names(tmp_path):
    path = tmp_path / "boxes.tsv"
    path.write_text("val_2.JPEG\tn1\t0\t0\t31\t63\nval_10.JPEG\tn2\t2\t4\t5\t9\n")
    assert disa_tasks.read_boxes(path).tolist() == [[1, 2, 3, 5], [0, 0, 16, 32]]


def fake(asked):
    def measure(cell, source):
        asked.append(cell)
        base = {"DiSa": 0.6, "IVLP": 0.8}.get(cell.method, 0.5) + 0.02 * cell.seed
        if cell.method == "linear probe":
            return {"base": base}
        found = {"base": base, "novel": 0.4, "harmonic_mean": 0.0, "cpu_seconds": 2.0}
        found |= {"frozen_base": 0.3, "frozen_novel": 0.4, "to pale": 0.2, "on things": 0.1}
        return found

    return measure


def test_a_table_fills_up_and_nothing_is_measured_twice(archive, tmp_path, capsys):
    output, asked = tmp_path / "disa.json", []
    words = ["--data", str(archive), "--others", str(archive), "--runs", str(tmp_path / "runs"),
             "--output", str(output), "--domains", "clean", "--seeds", "2"]  # fmt: skip
    disa.main([*words, "--only", "DiSa", "linear probe"], fake(asked))
    assert len(asked) == 4
    disa.main([*words, "--only", "DiSa", "IVLP"], fake(asked))
    assert [(cell.method, cell.seed) for cell in asked[4:]] == [("IVLP", 0), ("IVLP", 1)]
    results = Results.load(output)
    tables = {table.title: table for table in results.tables}
    rows = {row[0]: row for row in tables["Base to novel, clean"].rows}
    assert rows["DiSa"][1:] == ["61.0 ± 1.4", "40.0 ± 0.0", "48.3 ± 0.4", "48.3", "2", "2"]
    assert rows["frozen CLIP"][1:3] == ["30.0 ± 0.0", "40.0 ± 0.0"]
    assert rows["linear probe"][2:5] == ["", "", ""]
    assert tables["Cross-dataset"].columns == ["method", "on things", "seeds"]
    assert tables["Domain generalisation"].columns == ["method", "to pale", "seeds"]
    lacking = {row[1] for row in tables["Not measured yet"].rows}
    assert lacking == set(METHODS) - {"DiSa", "IVLP", "linear probe"}
    disa.main([*words, "--minutes", "0"], fake(asked))
    assert len(asked) == 6 and "Stopped as the time is over" in capsys.readouterr().out


def test_main_methods_come_first():
    found = cells(("clean", "pale"), 2)
    assert found[0] == Cell("clean", "DiSa", 0)
    assert found[-1].method not in ("DiSa", "IVLP") and len(found) == 2 * 2 * len(METHODS)


def test_prompts_for_vit_b_16_are_small():
    assert 4 * 46_080 <= disa_speed.adapter_bytes() <= 200_000


def test_a_step_and_an_answer_are_timed_beside_their_passes(monkeypatch):
    small = {"_BATCH": 2, "_CLASSES": 12, "_WIDTH": 32, "_LAYERS": 1, "_HEADS": 1}
    for name, value in small.items():
        monkeypatch.setattr(disa_speed, name, value)
    monkeypatch.setattr(disa_speed, "adapter_bytes", lambda: 100.0)
    results = Results("disa", "", seed=0)
    required = disa_speed.add_speed(results, 2)
    assert [one.name for one in required][:2] == ["step / sum of its passes", "answer / plain CLIP"]
    [table] = results.tables
    assert len(table.rows) == 7 and all(seconds > 0 for _, seconds in table.rows)
