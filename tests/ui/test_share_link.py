"""Addresses that open a page as somebody else saw it."""

from urllib.parse import parse_qsl

import gradio as gr
import pytest

from salhub.data.samples import sample_path
from salhub.ui.controls import UploadedPicture
from salhub.ui.share_link import link_query, read_link

CLASSES = ("class_label",)


@pytest.fixture
def controls():
    return {
        "picture": gr.Image(),
        "class_label": gr.Radio([("cup", 968)]),
        "method": gr.Dropdown([("CAM", "cam"), ("Grad-CAM", "grad_cam")]),
        "model": gr.Dropdown(["a/b"], allow_custom_value=True),
        "step": gr.Slider(0, 0.01, step=0.001),
        "contrast": gr.Checkbox(),
    }


DEFAULTS = {"method": "grad_cam", "model": "a/b", "step": 0, "contrast": False}


def test_what_was_written_is_read(controls):
    path = sample_path("rocket")
    given = {
        "picture": UploadedPicture(path, "rocket.jpg"),
        "class_label": 968,
        "method": "cam",
        "model": "c/d",
        "step": 0.002,
        "contrast": True,
    }
    query = link_query({**given, "tab": "Models"}, {**DEFAULTS, "tab": "Map"})
    found = read_link("?" + query, controls, CLASSES, ["Map", "Models"])
    assert found.pop("tab") == "Models"
    assert found.pop("picture").sample == "rocket"
    given.pop("picture")
    assert found == given


def test_what_is_as_it_was_is_left_out():
    assert link_query({"picture": None, **DEFAULTS}, DEFAULTS) == ""
    assert link_query({"tab": "Map"}, {"tab": "Models"}) == "tab=Map"


def test_a_text_goes_along_unless_it_is_too_long_for_an_address():
    box = {"text": gr.Textbox()}
    query = link_query({"text": "Is <b> & c?"}, {"text": ""})
    assert read_link(f"?{query}", box) == {"text": "Is <b> & c?"}
    assert link_query({"text": "long " * 1000}, {"text": ""}) == ""


def test_a_visitors_picture_goes_by_its_name_in_the_store(controls, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    stored = tmp_path / ("ab" * 32) / "my photo.jpg"
    stored.parent.mkdir()
    stored.write_bytes(b"a picture")
    query = link_query({"picture": UploadedPicture(stored, stored.name)}, {})
    assert dict(parse_qsl(query))["picture"] == f"{'ab' * 32}/my photo.jpg"
    assert read_link(query, controls)["picture"].path == stored


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/passwd", f"{'ab' * 32}/../../secret", "ab/photo.jpg"]
)
def test_no_other_file_of_the_server_can_be_named(controls, tmp_path, monkeypatch, name):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "store"))
    (tmp_path / "store" / ("ab" * 32)).mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    with pytest.raises(
        ValueError, match="The picture of this link has been deleted, because pictures are"
    ):
        read_link(f"?picture={name}", controls)


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ("?method=camm", "Did you mean 'cam'"),
        ("?step=5", r"to 5, but it must be from 0 to 0\.01\."),
        ("?step=nan", "to nan, but it must be from 0 to"),
        ("?step=far", "to far, but it must be from 0 to"),
        ("?class_label=cup", "class 'cup', but it must be a number"),
        ("?class_label=²", "class '²', but it must be a number"),
        ("?class_label=٣", "class '٣', but it must be a number"),
        (f"?class_label={'9' * 5000}", "class '9{60}…', but it must be a number"),
        (f"?step={'9' * 5000}", "to 9{60}…, but it must be from 0 to"),
        (f"?method={'c' * 5000}", "to 'c{60}…', which does not exist"),
        (
            f"?picture={'ab' * 32}/{'c' * 5000}",
            "The picture of this link has been deleted, because pictures are",
        ),
    ],
)
def test_a_value_that_no_control_takes_is_refused(controls, search, words):
    with pytest.raises(ValueError, match=words):
        read_link(search, controls, CLASSES)


def test_what_belongs_to_others_is_ignored(controls):
    assert read_link("?__theme=dark&utm_source=x&sample=nobody", controls) == {}
