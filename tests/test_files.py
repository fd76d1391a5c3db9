"""Files and folders appear whole or not at all."""

import os

import pytest

from salhub.files import draft, put_in_place, write_text


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


def test_a_draft_that_several_processes_wrote_gets_its_name(tmp_path):
    shared = tmp_path / ".checkpoint-3"
    for folder, content in ((shared, "new"), (tmp_path / "checkpoint-3", "old")):
        folder.mkdir()
        (folder / "state").write_text(content)
    put_in_place(shared, tmp_path / "checkpoint-3")
    assert (tmp_path / "checkpoint-3" / "state").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-3"]
