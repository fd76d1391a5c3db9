"""Results files: strict JSON, atomic, complete."""

import json
import math
import os
from pathlib import Path

import pytest

from salhub.metrics.bootstrap import bootstrap_mean
from salhub.results import Metric, Results, Table, measured, noted_as_it_comes


def make_results():
    results = Results(model="salhub/x", command="salhub evaluate salhub/x", seed=3)
    results.data = {"name": "sample", "num_images": 2}
    results.add_metric("grid_mass/a", 0.5, interval=(0.4, math.inf), n=7, unit="fraction")
    results.add_metric("rho/a", math.nan, n=0)
    results.tables.append(
        Table("Title", "Note.", ["method", "mass"], [["a", 0.5], ["b", math.nan]])
    )
    return results


def test_saved_file_is_strict_json_and_loads_back(tmp_path):
    path = make_results().save(tmp_path / "x.results.json")
    text = path.read_text()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert content["metrics"][1]["value"] is None
    assert content["metrics"][0]["interval"] == [0.4, None]
    assert content["tables"][0]["rows"] == [["a", 0.5], ["b", None]]
    loaded = Results.load(path)
    assert loaded.metric("grid_mass/a").value == 0.5
    assert loaded.metric("grid_mass/a").interval[0] == 0.4
    assert math.isnan(loaded.metric("rho/a").value)
    assert loaded.tables[0].columns == ["method", "mass"]
    assert loaded.save(tmp_path / "again.json").read_text() == text


def test_environment_is_recorded_without_names_or_paths():
    with measured(Results(model="m", command="c", seed=0)) as results:
        results.add_metric("a", 1.0)
    assert results.wall_seconds >= 0
    assert {"python", "torch", "transformers"} <= set(results.versions)
    assert results.machine["torch_threads"] >= 1
    assert results.machine["peak_memory_mib"] is None or results.machine["peak_memory_mib"] > 10
    recorded = json.dumps([results.machine, results.versions])
    assert os.uname().nodename not in recorded
    assert str(Path.home()) not in recorded


def test_names_are_unique_and_near_names_are_offered():
    results = make_results()
    with pytest.raises(ValueError, match="'rho/a' is already recorded"):
        results.add_metric("rho/a", 1.0)
    with pytest.raises(KeyError, match="Did you mean 'grid_mass/a'"):
        results.metric("grid_mas/a")


def test_table_rows_must_fill_the_columns():
    with pytest.raises(ValueError, match="2 columns but a row of 1 cells"):
        Table("t", "", ["a", "b"], [["x"]])


@pytest.mark.parametrize("content", ["{", "[]", '{"model": "m"}', '{"model": 1, "other": 2}'])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=r"x\.json is not"):
        Results.load(tmp_path / "x.json")


def test_a_mean_has_the_interval_of_its_groups_and_counts_what_is_undefined():
    values, groups = [0.0, 1.0, math.nan, 1.0, 0.5], [0, 0, 1, 1, 2]
    results = Results(model="m", command="c", seed=3)
    found = results.add_mean("mass", values, groups=groups, unit="fraction")
    assert found == bootstrap_mean(values, groups, seed=3)
    assert results.metric("mass") == Metric("mass", 0.625, (found.low, found.high), 4, "fraction")
    assert results.metric("mass/not_finite") == Metric("mass/not_finite", 1.0, None, 5, "count")
    assert f"{found:.3f}" == f"0.625 [{found.low:.3f}, {found.high:.3f}], 1 of 5 undefined"


def test_a_file_of_a_former_version_is_read_with_the_present_words(tmp_path):
    # A high number never meant that a map is sensitive to the class.
    former = make_results()
    former.add_metric("class_sensitivity/rho/a", 0.9, n=3, unit="rho")
    former.tables.append(Table("Class sensitivity: rho", "", ["map"], [["class sensitivity, rho"]]))
    found = Results.load(former.save(tmp_path / "former.json"))
    assert found.metric("class_similarity/rho/a").value == 0.9
    assert found.metric("class_sensitivity/rho/a").value == 0.9  # by the word of a former program
    assert found.tables[-1].title == "Class similarity: rho"
    assert found.tables[-1].rows == [["class similarity, rho"]]
    assert "sensitivity" not in found.save(tmp_path / "present.json").read_text()


def test_what_was_measured_is_there_when_the_rest_fails(tmp_path, caplog):
    target = tmp_path / "out" / "m.json"
    notes = tmp_path / "out" / "m.json.partial.jsonl"
    with pytest.raises(RuntimeError), noted_as_it_comes(target):
        results = Results(model="m", command="c", seed=0)
        results.add_metric("first", 0.5, n=3)
        results.add_mean("second", [1.0, math.nan])
        assert len(notes.read_text().splitlines()) == 3
        raise RuntimeError
    found = [json.loads(line) for line in notes.read_text().splitlines()]
    assert [(one["name"], one["value"]) for one in found][:2] == [("first", 0.5), ("second", 1.0)]
    assert f"The measurements so far are in {notes}" in caplog.text
    with noted_as_it_comes(target):
        assert not notes.exists(), "what is measured again is not noted twice"
        results.add_metric("third", 1.0)
        results.save(target)
    assert not notes.exists()
    results.add_metric("fourth", 1.0)
    assert not notes.exists()
