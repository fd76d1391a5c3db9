"""The benchmark of fine-tuning draws fairly, looks at every input first, and tells each seed."""

import csv
from types import SimpleNamespace

import pytest

from benchmarks import fine_tuning
from salhub.data.labelled_texts import LabelledTexts
from salhub.results import Results

TEXTS = LabelledTexts("news", [str(n) for n in range(40)], [0, 1] * 20, ["a", "b"])


def test_texts_to_measure_on_are_not_learned_and_balanced(tmp_path):
    fine_tuning.draw_texts(TEXTS, 10, 20, 3, tmp_path)
    parts = []
    for name in ("train", "test"):
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            parts.append(list(csv.DictReader(file)))
    assert [len(part) for part in parts] == [10, 20]
    assert not {row["text"] for row in parts[0]} & {row["text"] for row in parts[1]}
    assert [sum(row["label"] == "a" for row in part) for part in parts] == [5, 10]


def test_each_seed_has_a_column_and_both_starts_the_same_options(monkeypatch):
    asked = []

    def trained(recipe, seed, **settings):
        asked.append({**settings, "recipe": recipe})
        return 0.5 + seed / 10

    monkeypatch.setattr(fine_tuning, "trained", trained)
    monkeypatch.setattr(fine_tuning, "read_labelled_texts", lambda path: TEXTS)
    results = Results("fine_tuning", "c", seed=0)
    fine_tuning.fine_tuned_texts(
        results, SimpleNamespace(texts="x", seeds=2, num_texts=10, num_test_texts=20, epochs=10)
    )
    [table] = results.tables
    assert table.rows[0] == [fine_tuning.TEXT_MODEL, "55.0", "50.0", "60.0"]
    assert results.metric("texts/nothing").value == pytest.approx(0.55)
    assert {one["num_train_epochs"] for one in asked} == {10} and len(asked) == 4


def test_every_input_is_looked_at_before_any_work(tmp_path):
    options = [f"--{name}={tmp_path / 'none'}" for name in ("pictures", "photos", "texts")]
    with pytest.raises(SystemExit, match=r"There is no .*none; give"):
        fine_tuning.main(options)
