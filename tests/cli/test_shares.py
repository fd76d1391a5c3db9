"""`salhub run` on a folder that several jobs, or processes that work together, share."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from salhub.cli.shares import Share
from salhub.cli.sources import RUN_FILE
from salhub.files import write_bytes
from tests.cli.processes import run_together
from tests.machine import Machine


@pytest.fixture
def pile(tmp_path):
    """Twelve texts, two of them of one name."""
    folder = tmp_path / "pile"
    folder.mkdir()
    for name in (*(f"{number:02}.txt" for number in range(11)), "00.text"):
        (folder / name).write_text(f"a text called {name}")
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def lines_of(text):
    return [json.loads(line) for line in text.splitlines()]


def test_shards_write_what_one_job_writes_and_nothing_twice(call, letters, pile, tmp_path):
    call("run", "letters", "pile", "-o", "one", "budget=7")
    first = call("run", "letters", "pile", "-o", "two", "--shard", "1/2", "budget=7").stdout
    assert f"Wrote 6 to {tmp_path / 'two'}, shard 1/2 with 6 of 12 files\n" in first
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "two").glob("*.out")}
    # Another number: what is there is left alone, and a job without a part does the rest.
    second = call("run", "letters", "pile", "-o", "two", "--shard", "2/3", "budget=7").stdout
    assert "Wrote 2 to" in second and "shard 2/3 with 4 of 12 files, 2 already done" in second
    rest = call("run", "letters", "pile", "-o", "two", "budget=7").stdout
    assert "Wrote 4 to" in rest and "8 already done" in rest
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    # More parts than files.
    assert "Wrote 0 to" in call("run", "letters", "pile", "-o", "three", "--shard=13/13").stdout


def test_shards_that_never_meet_are_put_together_by_copying(call, letters, pile, tmp_path):
    call("run", "letters", "pile", "-o", "one")
    for number in (1, 2):
        call("run", "letters", "pile", "-o", f"there {number}", "--shard", f"{number}/2")
        shutil.copytree(tmp_path / f"there {number}", tmp_path / "both", dirs_exist_ok=True)
    assert content(tmp_path / "both") == content(tmp_path / "one")
    assert "12 already done" in call("run", "letters", "pile", "-o", "both").stdout


def test_a_file_that_another_job_has_written_meanwhile_is_left_alone(
    call, letters, pile, tmp_path, monkeypatch
):
    read = letters.read

    def slow(source):
        if source.name == "00.txt":
            (tmp_path / "kept" / "05-letters-en.out").write_text("by another job")
        return read(source)

    monkeypatch.setattr(letters, "read", staticmethod(slow))
    assert "Wrote 11 to" in call("run", "letters", "pile", "-o", "kept").stdout
    assert (tmp_path / "kept" / "05-letters-en.out").read_text() == "by another job"


def test_a_folder_that_another_job_has_just_made_is_shared(
    call, letters, pile, tmp_path, monkeypatch
):
    call("run", "letters", "pile", "-o", "one")
    record, looks = tmp_path / "two" / RUN_FILE, []

    def then_written(look):
        def looked(path, *args, **keywords):
            try:
                return look(path, *args, **keywords)
            finally:
                if path.name == RUN_FILE and path.parent.name == "two":
                    looks.append(path)
                    write_bytes(record, content(tmp_path / "one")[RUN_FILE])

        return looked

    monkeypatch.setattr(Path, "is_file", then_written(Path.is_file))
    monkeypatch.setattr(Path, "read_text", then_written(Path.read_text))
    call("run", "letters", "pile", "-o", "two")
    assert looks and content(tmp_path / "two") == content(tmp_path / "one")


def test_what_is_there_is_not_written_again(call, letters, pile, tmp_path):
    call("run", "letters", "pile", "-o", "kept")

    def written() -> dict[Path, tuple[int, int]]:
        found = {path: path.stat() for path in (tmp_path / "kept").iterdir()}
        return {path: (one.st_ino, one.st_mtime_ns) for path, one in found.items()}

    before = written()
    call("run", "letters", "pile", "-o", "kept", "--shard", "2/3")
    assert written() == before


def test_a_shard_does_not_replace_a_part_of_other_outputs(call, letters, pile):
    call("run", "letters", "pile", "-o", "kept")
    words = ["run", "letters", "pile", "-o", "kept", "--shard", "1/2", "--overwrite"]
    error = call(*words, "keep=all", code=1).stderr
    assert "a shard would replace only part of them; choose another folder with -o" in error
    assert "Wrote 6 to" in call(*words).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pile", "--shard", "0/4"], "parts are numbered from 1/4 to 4/4"),
        (["pile", "--shard", "5/4"], "--shard 5/4 is not valid"),
        (["pile", "--shard", "0/0"], "parts are numbered from 1/1 to 1/1"),
        (["pile", "--shard", "a/b"], "write it as 3/16, the third of sixteen parts"),
        (["pile/00.txt", "--shard", "1/2"], "--shard splits the files of a folder, but pile/00."),
        (["sample:abc", "--shard", "1/2"], "sample:abc is a single input; leave it out"),
        (["pile", "--together", "--shard", "1/2"], "pile --together is a single input"),
    ],
)
def test_parts_that_cannot_be(call, letters, pile, words, message):
    error = call("run", "letters", *words, code=2).stderr
    assert message in error.splitlines()[-1]
    assert letters.made == []


def test_launchers_that_cannot_be(call, letters, pile, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    error = call("run", "letters", "pile", "--shard", "1/2", code=2).stderr
    assert "these 2 processes already share the work; leave it out" in error
    monkeypatch.delenv("RANK", raising=False)
    error = call("run", "letters", "pile", code=1).stderr
    assert "WORLD_SIZE is 2, but RANK is not set; start the processes with torchrun" in error


def test_each_process_of_a_machine_has_an_accelerator_of_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert Share(5, 8).device(None) == "cuda:1"
    assert Share(5, 8).device("cpu") == "cpu"
    assert Share().device(None) is None and Share(1, 2, is_shard=True).device(None) is None
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="has 1 cuda device but more processes"):
        Share(5, 8).device(None)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert Share(5, 8).device(None) is None


@pytest.fixture(scope="module")
def machine():
    return Machine(os.environ)


def test_processes_that_work_together(call, call_json, letters, pile, tmp_path, machine):
    (pile / "11.txt").write_text("\0")
    alone = call("run", "letters", "pile", "-o", "one", code=1)
    found = run_together(machine, tmp_path, ["run", "letters", "pile", "-o", "two"])
    assert content(tmp_path / "two") == content(tmp_path / "one")
    # One report, as of one process, and each failure once; all end alike.
    assert found.codes == [1, 1]
    assert found.stdout == [alone.stdout.replace(str(tmp_path / "one"), str(tmp_path / "two")), ""]
    assert "".join(found.stderr) == alone.stderr
    # Gone on with by another number of them, in lines of JSON in the order of one process.
    for name in ("00.txt", "03", "04"):
        (tmp_path / "two" / f"{name}-letters-en.out").unlink()
        (tmp_path / "one" / f"{name}-letters-en.out").unlink()
    words = ["run", "letters", "pile", "--json", "-o"]
    found = run_together(machine, tmp_path, [*words, "two"], count=3)
    expected = call_json(*words[:3], "-o", "one", code=1)
    told = lines_of(found.stdout[0])
    assert [{**line, "output": None} for line in told] == [
        {**line, "output": None} for line in expected
    ]
    assert sum("skipped" in line for line in told) == 9
    assert found.codes == [1, 1, 1] and found.stdout[1:] == ["", ""]
    assert content(tmp_path / "two") == content(tmp_path / "one")
    # What is wrong for all is said once, and so is what goes wrong in one alone.
    found = run_together(machine, tmp_path, ["run", "letters", "pile/00.txt"])
    assert found.codes == [2, 2] and found.stderr[1] == ""
    assert found.stderr[0] == (
        "Error: 2 processes split the files of a folder, but pile/00.txt is a single input; start "
        "one process.\n"
    )
    for number in range(1, 12, 2):
        sorted(pile.iterdir())[number].write_text("poison")
    found = run_together(machine, tmp_path, ["run", "letters", "pile", "-o", "new"])
    assert found.codes == [1, 1]
    assert found.stderr[0].endswith("\nError: This text cannot be worked on.\n")
    assert "Error" not in found.stderr[1]
    assert len(list((tmp_path / "new").glob("*.out"))) == 6, "the other one has done its part"
    # One that is stopped from outside ends the other one.
    (pile / "00.txt").write_text("unwritable")
    found = run_together(machine, tmp_path, ["run", "letters", "pile", "-o", "newest"])
    assert found.codes == [1, 130] and found.stderr[1] == ""
    assert "Error: Another process of this command ended" in found.stderr[0]
