"""Controls that hand on what visitors send."""

import os
from pathlib import Path

import gradio as gr
import pytest
from gradio.data_classes import ImageData
from PIL import Image

from salhub.data.samples import sample_path
from salhub.ui.controls import (
    MAX_FILE_BYTES,
    MAX_SIDE,
    Dropdown,
    PictureInput,
    Radio,
    UploadedPicture,
    open_picture,
    slider,
)


def test_the_component_hands_on_the_file_unread(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    path = tmp_path / "notes.jpg"
    path.write_text("not a picture")
    given = PictureInput().preprocess(ImageData(path=str(path), orig_name="a/b/notes.jpg"))
    assert given == UploadedPicture(path, "notes.jpg")
    assert PictureInput().preprocess(None) is None


@pytest.mark.parametrize("kind", ["other", "parent", "link", "relative", "null", "gone"])
def test_only_files_that_were_sent_are_taken(tmp_path, monkeypatch, kind):
    store = tmp_path / "store"
    store.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(store))
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(sample_path("cat").read_bytes())
    (store / "link.jpg").symlink_to(secret)
    path = {
        "other": str(secret),
        "parent": f"{store}/../secret.jpg",
        "link": f"{store}/link.jpg",
        "relative": "secret.jpg",
        "null": f"{store}/a\0b.jpg",
        "gone": str(tmp_path / "nobody.jpg"),
    }[kind]
    with pytest.raises(gr.Error) as caught:
        PictureInput().preprocess(ImageData(path=path, orig_name="cat.jpg"))
    assert caught.value.message == "Send the picture as an upload."
    assert caught.value.print_exception is False


def test_a_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "cat.jpg"
    os.mkfifo(path)
    picture = UploadedPicture(path, "cat.jpg")
    with pytest.raises(ValueError, match=r"'cat\.jpg' is no longer on the server"):
        picture.open()
    assert picture.sample is None


def test_a_file_too_large_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "big.jpg"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 2**20)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("it was read"))
    with pytest.raises(
        ValueError, match=r"'big\.jpg' has 33 MB; the limit is 32 MB: save a smaller version\."
    ):
        UploadedPicture(path, "big.jpg").open()


def test_it_is_drawn_as_gradios_image():
    assert PictureInput().get_config()["name"] == "image"


def test_a_bad_file_gets_a_sentence_with_the_visitors_name_for_it(tmp_path):
    path = tmp_path / "0123.bin"
    path.write_text("not a picture")
    with pytest.raises(ValueError, match=r"'holiday\.jpg' cannot be read as a picture: it is"):
        UploadedPicture(path, "holiday.jpg").open()


def test_a_file_that_was_cleaned_away_gets_a_sentence(tmp_path):
    with pytest.raises(
        ValueError, match=r"'old\.jpg' is no longer on the server; upload it again\."
    ):
        UploadedPicture(tmp_path / "gone.jpg", "old.jpg").open()


def test_no_picture_gets_a_sentence():
    with pytest.raises(ValueError, match="There is no picture yet"):
        open_picture(None)


def test_large_pictures_are_made_small_and_small_ones_stay(tmp_path):
    path = tmp_path / "wide.png"
    Image.new("L", (3 * MAX_SIDE, MAX_SIDE)).save(path)
    picture = UploadedPicture(path, "wide.png").open()
    assert (picture.size, picture.mode) == ((MAX_SIDE, round(MAX_SIDE / 3)), "RGB")
    assert UploadedPicture(sample_path("cat"), "cat.jpg").open().size == (451, 300)


def test_a_sample_is_known_by_its_content_and_not_by_its_name(tmp_path):
    copy = tmp_path / "mine.jpg"
    copy.write_bytes(sample_path("cat").read_bytes())
    assert UploadedPicture(copy, "mine.jpg").sample == "cat"
    other = tmp_path / "cat.jpg"
    Image.new("RGB", (9, 9)).save(other)
    assert UploadedPicture(other, "cat.jpg").sample is None


def test_a_sample_is_shown_byte_for_byte():
    shown = PictureInput().postprocess(sample_path("cat"))
    assert shown.orig_name == "cat.jpg"
    assert Path(shown.path).read_bytes() == sample_path("cat").read_bytes()


@pytest.mark.parametrize("kind", [Radio, Dropdown])
def test_a_value_that_is_no_longer_a_choice_is_handed_on(kind):
    control = kind(["cat"], value="cat", render=False)
    assert control.preprocess("dog") == "dog"
    assert control.preprocess(["a", 1]) == ["a", 1]
    assert control.get_block_name() == kind.__name__.lower()


def test_a_slider_reaches_as_far_as_its_first_value_and_hands_on_any():
    control = slider(1, 30, 40, label="Words", render=False)
    assert (control.minimum, control.maximum, control.value) == (1, 40, 40)
    assert [control.preprocess(value) for value in (41, None)] == [41, None]
    config = control.get_config()
    assert (config["name"], config["label"], config["maximum"]) == ("slider", "Words", 40)
    control.check(40)
    with pytest.raises(ValueError, match="Words must be from 1 to 40, got 41"):
        control.check(41)
    with pytest.raises(TypeError, match="Words must be a number, got None"):
        control.check(None)
