"""Files and folders appear whole or not at all."""

import os
import subprocess
import time

import pytest

from salhub.data.picture_archive import PictureArchive
from salhub.files import draft, put_in_place, remove_stale_drafts, scratch_folder, write_text
from salhub.models.lexrank.evaluation_summaries import read_summarization_set
from salhub.models.salun.weight_mask import WeightMask
from salhub.results import Results
from salhub.runner.arguments import read_settings_file


def test_a_file_appears_when_the_block_ends_in_a_folder_made_for_it(tmp_path):
    target = tmp_path / "new" / "folder" / "map.png"
    with draft(target) as path:
        path.write_bytes(b"content")
        assert path.name == target.name and not target.exists()
    assert target.read_bytes() == b"content"
    assert [entry.name for entry in target.parent.iterdir()] == ["map.png"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    target = tmp_path / "map.png"
    target.write_bytes(b"old")
    with pytest.raises(failure), draft(target) as path:
        path.write_bytes(b"half")
        raise failure
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_replaced_with_all_that_was_in_it(tmp_path):
    target = tmp_path / "model"
    for name in ("old", "new"):
        with draft(target) as path:
            path.mkdir()
            (path / name).write_text(name)
    assert [entry.name for entry in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "results.json"
    write_text(target, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_others_may_read_what_was_written(tmp_path):
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "results.json", "{}")
        with draft(tmp_path / "model") as path:
            path.mkdir()
    finally:
        os.umask(before)
    assert (tmp_path / "results.json").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o755


def test_what_a_library_wrote_for_itself_alone_is_for_others_too(tmp_path):
    with draft(tmp_path / "model") as folder:
        folder.mkdir()
        for name, mode in (("weights", 0o600), ("program", 0o700)):
            (folder / name).touch(mode)
    (tmp_path / "plain").touch()
    plain = (tmp_path / "plain").stat().st_mode & 0o777
    assert (tmp_path / "model" / "weights").stat().st_mode & 0o777 == plain | 0o600
    assert (tmp_path / "model" / "program").stat().st_mode & 0o777 == plain | 0o700


def test_a_draft_that_several_processes_wrote_gets_its_name(tmp_path):
    shared = tmp_path / ".checkpoint-3"
    for folder, content in ((shared, "new"), (tmp_path / "checkpoint-3", "old")):
        folder.mkdir()
        (folder / "state").write_text(content)
    put_in_place(shared, tmp_path / "checkpoint-3")
    assert (tmp_path / "checkpoint-3" / "state").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-3"]


def test_a_file_never_takes_the_place_of_a_folder(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.tex").write_text("five years of work")
    with pytest.raises(IsADirectoryError, match="mine is a folder; give a file in it"):
        write_text(folder, "card")
    assert (folder / "thesis.tex").read_text() == "five years of work"
    assert list(tmp_path.iterdir()) == [folder]


def replace_model(folder):
    with draft(folder / "model") as path:
        path.mkdir()
        (path / "weights").write_text("new")


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("old")
    replace, done = os.replace, []

    def fail_once(*places):
        done.append(places)
        if len(done) == 2:
            raise OSError("disk full")
        replace(*places)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(OSError, match="disk full"):
        replace_model(tmp_path)
    assert (tmp_path / "model" / "weights").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_folder_comes_back_after_a_kill_while_it_was_replaced(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("old")
    child = os.fork()
    if not child:
        replace, done = os.replace, []

        def die_at_the_second(*places):
            done.append(places)
            if len(done) == 2:
                os._exit(9)
            replace(*places)

        os.replace = die_at_the_second
        replace_model(tmp_path)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not (tmp_path / "model").exists()
    remove_stale_drafts(tmp_path)
    assert (tmp_path / "model" / "weights").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("step", ["made", "moved", "made again"])
def test_a_folder_that_another_process_puts_in_place_meanwhile(
    tmp_path, monkeypatch, step, replace
):
    target, mine, other = (tmp_path / name / "model" for name in ("", "mine", "other"))
    for folder in (mine, other, *([target] if step != "made" else [])):
        folder.mkdir(parents=True)
        (folder / "weights").write_text(folder.parent.name)
    rename, done = os.replace, []

    def meanwhile(source, place):
        done.append(place)
        if len(done) == 1 + (step == "made again"):
            if step == "moved":
                rename(target, tmp_path / "other" / "old")
            rename(other, target)
        rename(source, place)

    monkeypatch.setattr(os, "replace", meanwhile)
    put_in_place(mine, target, replace=replace)
    stays = "mine" if replace else "other" if step == "made" else tmp_path.name
    assert (target / "weights").read_text() == stays
    assert {entry.name for entry in tmp_path.iterdir()} == {"model", "mine", "other"}


def age(folder, *more):
    for path in (folder, *more):
        os.utime(path, (time.time() - 7200,) * 2)


def test_drafts_stay_while_somebody_may_write_them(tmp_path):
    with subprocess.Popen(["sleep", "60"]) as other:
        with scratch_folder(tmp_path) as mine:
            host = mine.name.partition("@")[2].rpartition("-")[0]
            names = (
                f".salhub-{other.pid}@{host}-a",
                ".salhub-1@elsewhere-b",
                ".salhub-1@elsewhere-c",
            )
            living, growing, old = folders = [tmp_path / name for name in names]
            for folder in folders:
                folder.mkdir()
                (folder / "half").touch()
            (mine / "half").touch()
            age(mine)  # whose file has grown since
            age(living, living / "half")
            age(growing)
            age(old, old / "half")
            remove_stale_drafts(tmp_path)
            assert set(tmp_path.iterdir()) == {mine, living, growing}
        other.kill()
        other.wait()
    remove_stale_drafts(tmp_path)
    assert list(tmp_path.iterdir()) == [growing]


def test_a_folder_where_a_file_is_wanted_is_said_to_be_one(tmp_path):
    for read in (
        PictureArchive,
        read_settings_file,
        read_summarization_set,
        WeightMask.from_pretrained,
    ):
        with pytest.raises(FileNotFoundError, match=f"There is no .* at {tmp_path}/none"):
            read(tmp_path / "none")
    for read in (PictureArchive, read_settings_file, read_summarization_set):
        with pytest.raises(IsADirectoryError, match=r"is needed; give the file"):
            read(tmp_path)


def test_names_that_are_no_text_are_written_and_read_back(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    results = Results(model=name, command=f"salhub evaluate {name}", seed=0)
    results.save(tmp_path / "r.json")
    assert Results.load(tmp_path / "r.json").model == name
    write_text(tmp_path / "card.md", f"# {name}")
    assert (tmp_path / "card.md").read_text() == "# caf\\udce9"
