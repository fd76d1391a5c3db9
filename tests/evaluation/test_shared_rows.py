"""Rows that processes and jobs share are those of one process, however often it is stopped."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from salhub.evaluation import row_store
from salhub.evaluation.row_store import RowStore, fingerprint_of
from salhub.evaluation.shared_rows import (
    RowSharing,
    RowsMissingError,
    measured_once,
    ranges,
    rows_shared,
    shared_batches,
    shared_rows,
)


class Killed(BaseException):
    pass


def measuring(done, most=None):
    """Notes what is measured; is killed before the row of number `most`."""

    def measure(unit):
        if most is not None and len(done) == most:
            raise Killed
        done.append(unit)
        return {"unit": unit, "values": torch.full((2,), unit / 3), "nested": [(0.1 * unit, None)]}

    return measure


def the_same(one, other):
    return all(
        torch.equal(a["values"], b["values"]) and {**a, "values": 0} == {**b, "values": 0}
        for a, b in zip(one, other, strict=True)
    )


def test_alone_it_is_a_loop(tmp_path):
    assert shared_rows("squares", [3, 1, 2], lambda number: number**2) == [9, 1, 4]
    assert measured_once("time", lambda: 5) == 5
    assert ranges(0, 3) == [] and ranges(6, 3) == [range(3), range(3, 6)]


def test_processes_that_work_together_all_get_all_rows():
    barrier, table, found, done = threading.Barrier(3), [None] * 3, [None] * 3, [[], [], []]

    def gather_of(index):
        def gather(value):
            table[index] = value
            barrier.wait()
            values = list(table)
            barrier.wait()
            return values

        return gather

    def work(index):
        with rows_shared(RowSharing(index, 3, gather_of(index))):
            rows = shared_rows("rows", range(10, 20), measuring(done[index]))
            once = measured_once("time", lambda: index)
            none = shared_rows("nothing", [], measuring(done[index]))
            found[index] = (rows, once, none)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    expected = shared_rows("rows", range(10, 20), measuring([]))
    for rows, once, none in found:
        assert the_same(rows, expected) and once == 0 and none == []
    assert done == [[10, 13, 16, 19], [11, 14, 17], [12, 15, 18]]


def test_what_was_killed_goes_on_with_any_number(tmp_path):
    done = []
    for index, count, most in ((0, 1, 3), (1, 2, 5), (2, 3, None), (0, 1, None)):
        sharing = RowSharing(index, count, None, RowStore(tmp_path, "it"))
        try:
            with rows_shared(sharing):
                rows = shared_rows("rows", range(8), measuring(done, most))
        except Killed:
            continue
    assert sorted(done) == list(range(8)) and sharing.missing == []
    assert the_same(rows, shared_rows("rows", range(8), measuring([])))


def test_a_job_goes_on_to_its_next_rows_unless_others_decide_them(tmp_path):
    def evaluation(index, done, is_decisive=False):
        sharing = RowSharing(index, 2, None, RowStore(tmp_path / str(is_decisive), "it"))
        with rows_shared(sharing):
            try:
                first = shared_rows("one", range(3), measuring(done), is_decisive=is_decisive)
            except RowsMissingError:
                return sharing.missing
            second = shared_rows("two", range(5), measuring(done))
        assert sharing.missing or [row["unit"] for row in (*first, *second)] == [
            0, 1, 2, 0, 1, 2, 3, 4,
        ]  # fmt: skip
        return sharing.missing

    done = []
    assert [row for _, row in evaluation(1, done)] == [0, 2, 0, 2, 4]
    assert evaluation(0, done) == [] and len(done) == 8
    done = []
    assert [row for _, row in evaluation(1, done, True)] == [0, 2]
    assert evaluation(0, done, True) != []
    assert evaluation(1, done, True) == [] and len(done) == 8


def test_rows_that_hang_on_earlier_ones_are_measured_when_those_are_known(tmp_path):
    for index in (0, 1, 0):
        sharing = RowSharing(index, 2, None, RowStore(tmp_path, "it"))
        with rows_shared(sharing):
            known = sum(shared_rows("one", range(4), lambda number: 10 * number))
            rows = shared_rows("two", [(row, known) for row in range(2)], sum)
    assert rows == [60, 61] and not sharing.missing


@pytest.mark.parametrize("index", [0, 1])
def test_a_job_has_room_for_batches_of_any_size_that_it_does_not_know(tmp_path, index):
    sharing = RowSharing(index, 2, None, RowStore(tmp_path, "it"))
    with rows_shared(sharing):
        for number in (1, 5, 7):
            batches = ranges(number, 3)
            assert len(shared_batches("rows", batches, lambda rows: torch.zeros(len(rows), 2))) == (
                number
            )
    assert sharing.missing


def test_rows_of_anything_else_are_not_taken(tmp_path):
    store = RowStore(tmp_path, "one model")
    store.add("step", 0, 1.5)
    for name in ("one model", "another"):
        other = RowStore(tmp_path, name)
        other.refresh()
        assert other.has("step", 0) == (name == "one model")
        assert not other.has("step", 1) and not other.has("another step", 0)
    # A line that was cut off is no row.
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-5])
    cut = RowStore(tmp_path, "one model")
    cut.refresh()
    assert not cut.has("step", 0)
    with pytest.raises(TypeError, match="got float64"):
        store.add("step", 1, {"a": [np.float64(1)]})
    store.clear()
    assert not tmp_path.exists()


def test_rows_may_be_removed_at_any_moment_by_a_job_that_has_them_all(tmp_path, monkeypatch):
    first, last = RowStore(tmp_path / "rows", "it"), RowStore(tmp_path / "rows", "it")
    first.add("step", 0, 1.5)
    last.add("step", 1, 2.5)
    assert not first.is_cleared
    glob, mkdir = Path.glob, Path.mkdir

    def found(path, pattern):
        entries = list(glob(path, pattern))
        last.clear()
        return entries

    def made(path, *args, **keywords):
        mkdir(path, *args, **keywords)
        last.clear()

    monkeypatch.setattr(Path, "glob", found)
    first.refresh()
    assert first.is_cleared and not first.has("step", 1)
    monkeypatch.setattr(Path, "mkdir", made)
    first.add("step", 2, 3.5)
    assert first.get("step", 0) == 1.5 and first.get("step", 2) == 3.5


def test_what_is_measured_is_told_by_content(tmp_path, monkeypatch):
    def told(seed=0, text="a", name="data.txt", **settings):
        torch.manual_seed(seed)
        (tmp_path / "data").mkdir(exist_ok=True)
        for old in (tmp_path / "data").iterdir():
            old.unlink()
        (tmp_path / "data" / name).write_text(text)
        model = torch.nn.Linear(2, 2).to(torch.bfloat16)
        return fingerprint_of({"model": model, "data_path": tmp_path / "data"}, settings)

    assert told() == told()
    before = told()
    (tmp_path / "data" / "x.json.rows").mkdir()
    (tmp_path / "data" / "x.json.rows" / "rows.jsonl").write_text("")
    # Nor are results that another job is about to write.
    half = tmp_path / "data" / ".salhub-1@elsewhere-a"
    half.mkdir()
    (half / "x.json").write_text("{")
    torch.manual_seed(0)
    inputs = {"model": torch.nn.Linear(2, 2).to(torch.bfloat16), "data_path": tmp_path / "data"}
    # Rows that lie among the data are not of them.
    assert fingerprint_of(inputs, {}, tmp_path / "data" / "x.json") == before
    shutil.rmtree(tmp_path / "data" / "x.json.rows")
    shutil.rmtree(half)
    others = [told(seed=1), told(text="b"), told(name="other.txt"), told(context=2)]
    (tmp_path / "code").mkdir()
    monkeypatch.setattr(row_store, "_PACKAGE", tmp_path / "code")
    for text in ("one = 1", "one = 2"):
        (tmp_path / "code" / "module.py").write_text(text)
        others.append(told())
    assert len({before, *others}) == 7
