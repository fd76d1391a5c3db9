"""Folders as people have them: copied from a Mac, looked at by Windows, with notes between."""

from pathlib import Path

import pytest
from PIL import Image

from salhub.data.folder_listing import describe_left_out, is_companion, list_folder
from salhub.data.picture_decoding import picture_endings
from salhub.processing import load_image


def test_what_systems_put_into_folders_is_passed_over(tmp_path):
    for name in ("b.JPG", "a.png", "._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("raw", "__MACOSX", ".cache", "@eaDir"):
        (tmp_path / name).mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    found = list_folder(tmp_path, (".png", ".jpg"))
    assert [path.name for path in found.files] == ["a.png", "b.JPG"]
    assert [path.name for path in found.folders] == ["raw"]
    assert [path.name for path in found.left_out] == ["gone.png", "notes.txt"]
    assert is_companion("THUMBS.DB") and not is_companion("thumbs.jpg")


def test_what_is_left_out_is_counted_and_named_once():
    files = [Path(f"set/{name}") for name in "abcde"]
    assert describe_left_out(files) == "Left out 5 files of another kind (a, b, c and 2 more)."
    assert describe_left_out([], [Path("set/raw")]) == "Left out 1 sub-folder (raw)."
    assert describe_left_out([]) == ""


@pytest.mark.parametrize("ending", [".jfif", ".avif", ".jpe", ".jp2", ".ppm", ".tga", ".ico"])
def test_all_that_the_reader_opens_is_taken_for_a_picture(tmp_path, ending):
    assert ending in picture_endings()
    path = tmp_path / f"photo{ending}"
    Image.new("RGB", (16, 16), "red").save(path)
    assert load_image(path).size == (16, 16)


def test_what_only_looks_like_a_picture_is_not():
    assert not {".pdf", ".eps", ".mpg", ".h5", ".txt"} & set(picture_endings())
