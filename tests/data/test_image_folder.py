"""Labelled folders in both layouts."""

import json
import os
import shutil

import pytest
from PIL import Image

from salhub.data.image_folder import LabelledImageFolder


def save_picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3)).save(path)


def write_index(folder, entries):
    (folder / "index.json").write_text(json.dumps(entries))


def test_index_finds_files_beside_it_and_in_images(tmp_path):
    save_picture(tmp_path / "a.png")
    save_picture(tmp_path / "images" / "b.png")
    write_index(
        tmp_path,
        [
            {"file": "a.png", "index": 7, "name": "tench", "extra": 1},
            {"file": "b.png", "index": 2, "name": "hen"},
        ],
    )
    folder = LabelledImageFolder(tmp_path)
    assert len(folder) == 2
    assert [(p.name, i, n) for p, i, n in folder] == [("a.png", 7, "tench"), ("b.png", 2, "hen")]
    assert folder[1].path == tmp_path / "images" / "b.png"


def test_sub_folders_are_classes_in_sorted_order(tmp_path):
    for name in ("n02/x.jpg", "n01/y.JPEG", "n01/z.png", ".cache/q.png"):
        save_picture(tmp_path / name)
    (tmp_path / "n01" / "notes.txt").write_text("not a picture")
    folder = LabelledImageFolder(tmp_path)
    assert [(p.name, i, n) for p, i, n in folder] == [
        ("y.JPEG", 0, "n01"),
        ("z.png", 0, "n01"),
        ("x.jpg", 1, "n02"),
    ]


LABELS = {3: "crane", 7: "cock", 8: "Tiger cat", 9: "tench, Tinca tinca", 12: "crane", 20: "hen"}


@pytest.mark.parametrize(
    ("name", "index"),
    [("hen", 20), ("tiger_cat", 8), ("Cock", 7), ("tench", 9), ("12", 12), ("tiger cat", 8)],
)
def test_sub_folders_are_called_by_name_or_index(tmp_path, name, index):
    save_picture(tmp_path / name / "x.png")
    assert LabelledImageFolder(tmp_path, id2label=LABELS)[0] == (
        tmp_path / name / "x.png", index, name,
    )  # fmt: skip


def test_sub_folders_that_are_no_class_are_named(tmp_path):
    for name in ("cock", "hens", "n02", "21"):
        save_picture(tmp_path / name / "x.png")
    with pytest.raises(ValueError, match=r"^'21', 'hens', 'n02' are not classes of the classifier"):
        LabelledImageFolder(tmp_path, id2label=LABELS)
    shutil.rmtree(tmp_path / "n02")
    shutil.rmtree(tmp_path / "21")
    message = r"'hens' is not a class of the classifier\. Did you mean 'hen'\?"
    with pytest.raises(ValueError, match=message):
        LabelledImageFolder(tmp_path, id2label=LABELS)


def test_a_name_of_two_classes_asks_for_the_index(tmp_path):
    save_picture(tmp_path / "crane" / "x.png")
    with pytest.raises(ValueError, match=r"2 classes .* called 'crane'.* one of 3, 12\."):
        LabelledImageFolder(tmp_path, id2label=LABELS)


def test_other_names_are_numbered_when_every_class_has_a_folder(tmp_path):
    for name in ("n01", "n02", "n03"):
        save_picture(tmp_path / name / "x.png")
    three = {0: "hen", 1: "cock", 2: "crane"}
    assert [i for _, i, _ in LabelledImageFolder(tmp_path, id2label=three)] == [0, 1, 2]
    with pytest.raises(ValueError, match=r"each of the 4 classes in sorted order"):
        LabelledImageFolder(tmp_path, id2label={**three, 3: "tench"})


def test_description_has_a_fingerprint_and_no_path(tmp_path):
    save_picture(tmp_path / "set" / "a" / "x.png")
    described = LabelledImageFolder(tmp_path / "set").describe()
    assert described["name"] == "set"
    assert (described["num_images"], described["num_classes"]) == (1, 1)
    assert str(tmp_path) not in json.dumps(described)
    save_picture(tmp_path / "set" / "a" / "y.png")
    assert LabelledImageFolder(tmp_path / "set").describe() != described


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere' does not exist; expected a folder"):
        LabelledImageFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no labelled picture"):
        LabelledImageFolder(tmp_path)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("{", ValueError, "is not JSON"),
        ('{"file": 1}', ValueError, "must hold a list of objects .* got dict"),
        ('[{"file": "a.png"}]', ValueError, "entry 0 .* must have the keys file, index, name"),
        ('[{"file": "a.png", "index": "3", "name": "x"}]', ValueError, "class number .* got '3'"),
        ('[{"file": "a.png", "index": 3, "name": "x"}]', FileNotFoundError, "names 'a.png'"),
    ],
)
def test_bad_indexes_are_named(tmp_path, content, error, message):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(error, match=message):
        LabelledImageFolder(tmp_path)


def test_reads_the_sample(imagenet_sample):
    folder = LabelledImageFolder(imagenet_sample)
    assert len(folder) == 1000
    assert [image.class_index for image in folder] == list(range(1000))


def test_a_folder_copied_from_a_mac_and_what_is_left_out(tmp_path, caplog):
    for name in ("hen/x.jpg", "hen/y.jfif", "cock/z.PPM", "loose.png"):
        save_picture(tmp_path / name)
    for name in ("hen/._x.jpg", "hen/Thumbs.db", "__MACOSX/hen/._x.jpg", "hen/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\26\7")
    (tmp_path / "cock" / "raw").mkdir()
    folder = LabelledImageFolder(tmp_path, id2label={0: "hen", 1: "cock"})
    assert [image.path.name for image in folder] == ["z.PPM", "x.jpg", "y.jfif"]
    assert {path.name for path in folder.left_out} == {"loose.png", "notes.txt", "raw"}
    assert "Left out 2 files of another kind (loose.png, notes.txt)" in caplog.text
    assert "1 sub-folder (raw)" in caplog.text
    assert folder.describe()["num_left_out"] == 3


def test_names_that_are_no_text_are_described(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    save_picture(folder / "hen" / os.fsdecode(b"na\xefve.png"))
    described = LabelledImageFolder(folder).describe()
    assert described["num_images"] == 1
    assert json.loads(json.dumps(described))["name"] == folder.name
