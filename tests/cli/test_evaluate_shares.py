"""`salhub evaluate` shared by jobs and by processes: the file is that of one process."""

import os

import numpy as np
import pytest
from PIL import Image

from salhub.data.picture_preparation import PicturePreparation
from salhub.evaluation.row_store import RowStore
from salhub.results import Results
from tests.cli.processes import run_together
from tests.evaluation.sharing import without_times
from tests.machine import Machine


@pytest.fixture
def fruit(tmp_path):
    """Eleven pictures of three classes, so that the last batch is short."""
    drawn = np.random.default_rng(0)
    for number in range(11):
        folder = tmp_path / "fruit" / ("apple", "pear", "plum")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = drawn.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "fruit"


@pytest.fixture
def measured(monkeypatch):
    """How many pictures each batch had that was measured."""
    sizes, logits = [], PicturePreparation.logits

    def counted(self, network, images, batch_size=None):
        sizes.append(len(images))
        return logits(self, network, images, batch_size)

    monkeypatch.setattr(PicturePreparation, "logits", counted)
    return sizes


WORDS = ["--data", "fruit", "batch_size=2"]


def test_the_shard_that_is_last_writes_the_file(
    call, call_json, own_network, fruit, measured, tmp_path
):
    call("evaluate", own_network, *WORDS, "-o", "one.json")
    words = ["evaluate", own_network, *WORDS, "-o", "two.json", "--shard"]
    measured.clear()
    said = call(*words, "1/2").stdout
    assert said == (
        "Measured shard 1/2; 3 of 6 rows are missing. The shard that finishes last writes "
        "two.json.\n"
    )
    [line] = call_json(*words, "3/3")
    assert line == {"output": None, "shard": "3/3", "missing": 2}
    assert not (tmp_path / "two.json").exists()
    assert "Wrote" in call(*words[:-1]).stdout  # without a part
    assert sorted(measured) == [1, 2, 2, 2, 2, 2]
    one, two = (Results.load(f"{name}.json") for name in ("one", "two"))
    assert without_times(one) == without_times(two).replace("two.json", "one.json")
    assert not list(tmp_path.glob("*.rows")) and not list(tmp_path.glob("*.partial.jsonl"))
    assert "two.json exists" in call(*words, "2/2", code=1).stderr


def test_a_shard_that_another_one_overtakes_says_who_wrote_the_file(
    call, own_network, fruit, measured, tmp_path, monkeypatch
):
    words = ["evaluate", own_network, *WORDS, "-o", "two.json", "--shard"]
    refresh, looks = RowStore.refresh, []

    def overtaken(self):
        looks.append(self)
        # After its own rows, and before it looks for those of others for the last time.
        if looks.count(looks[0]) == 3 and self is looks[0]:
            assert "Wrote" in call(*words, "2/2").stdout
        refresh(self)

    monkeypatch.setattr(RowStore, "refresh", overtaken)
    assert call(*words, "1/2").stdout == (
        "Measured shard 1/2; another shard has written two.json.\n"
    )
    assert sorted(measured) == [1, 2, 2, 2, 2, 2]
    assert [path.name for path in tmp_path.glob("two*")] == ["two.json"]


def test_an_evaluation_that_was_stopped_goes_on(call, own_network, fruit, measured, monkeypatch):
    call("evaluate", own_network, *WORDS, "-o", "one.json")
    measured.clear()
    counted = PicturePreparation.logits

    def stopped(self, network, images, batch_size=None):
        if len(measured) == 3:
            raise KeyboardInterrupt
        return counted(self, network, images, batch_size)

    with monkeypatch.context() as patch:
        patch.setattr(PicturePreparation, "logits", stopped)
        call("evaluate", own_network, *WORDS, "-o", "two.json", code=130)
    call("evaluate", own_network, *WORDS, "-o", "two.json")
    assert measured == [2] * 5 + [1]
    one, two = (Results.load(f"{name}.json") for name in ("one", "two"))
    assert without_times(one) == without_times(two)
    # Another picture makes another evaluation.
    measured.clear()
    with monkeypatch.context() as patch:
        patch.setattr(PicturePreparation, "logits", stopped)
        call("evaluate", own_network, *WORDS, "-o", "three.json", code=130)
    Image.new("RGB", (30, 20)).save(fruit / "apple" / "0.png")
    call("evaluate", own_network, *WORDS, "-o", "three.json")
    assert len(measured) == 9


def test_an_evaluation_whose_rows_cannot_be_shared_is_done_by_one(call, letters, texts, tmp_path):
    words = ["evaluate", "letters", "--data", "texts", "--shard"]
    second = call(*words, "2/3")
    assert second.stderr == (
        "The evaluation of letters-en cannot be shared, so shard 1 measures all of it.\n"
    )
    assert second.stdout == "" and not (tmp_path / "letters-en.results.json").exists()
    assert "Wrote" in call(*words, "1/3").stdout
    every = ["evaluate", "--all", "--data", "texts", "--shard", "1/2"]
    assert "several models at once with --jobs; leave out --shard" in call(*every, code=2).stderr
    assert "3/16, the third of sixteen" in call(*words, "three", code=2).stderr
    assert len(letters.made) == 1


def test_processes_that_work_together(call, own_network, fruit, texts, tmp_path):
    machine = Machine(os.environ)
    call("evaluate", own_network, *WORDS, "-o", "one.json")
    (fruit / "apple" / "notes.txt").write_text("no picture")
    words = ["evaluate", own_network, *WORDS, "-o", "two.json", "--json"]
    found = run_together(machine, tmp_path, words)
    assert found.codes == [0, 0] and found.stderr[1] == ""
    assert "Left out 1 file of another kind (notes.txt)" in found.stderr[0]
    assert found.stdout == ['{"output": "two.json", "metrics": 4}\n', ""]
    one, two = (Results.load(f"{name}.json") for name in ("one", "two"))
    assert without_times(one) == without_times(two)
    assert not list(tmp_path.glob("*.rows"))
    found = run_together(machine, tmp_path, ["evaluate", "letters", "--data", "texts"])
    assert found.codes == [0, 0] and found.stdout[1] == ""
    assert found.stderr == [
        "The evaluation of letters-en cannot be shared, so one process measures all of it.\n", ""
    ]  # fmt: skip
    # A refusal is said once, also where only some have come so far.
    found = run_together(machine, tmp_path, words)
    assert found.codes == [1, 1] and found.stderr[1] == ""
    assert found.stderr[0].startswith("Error: two.json exists")
