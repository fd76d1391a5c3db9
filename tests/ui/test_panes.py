"""Pieces of HTML: escaped, readable by screen readers, nothing fetched."""

import ast
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from salhub.ui.panes import (
    BarRow,
    Fact,
    PictureCell,
    bar_rows,
    facts,
    header,
    legend,
    notice,
    picture_buttons,
    picture_table,
    pipeline_program,
    python,
    sentence,
    text_buttons,
)
from salhub.viz import DIVERGING, ColorBar, colorize

NASTY = '<img src=x onerror="alert(1)"> & "co"'


class Reader(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.mark.parametrize(
    "html",
    [
        header(NASTY, NASTY, NASTY),
        notice(NASTY),
        legend(ColorBar("viridis", NASTY, NASTY, NASTY)),
        facts([Fact(NASTY, NASTY, NASTY)]),
        sentence(NASTY),
        picture_table(NASTY, [NASTY], [(NASTY, [PictureCell(None, NASTY, note=NASTY)])]),
    ],
)
def test_names_from_outside_cannot_become_markup(html):
    reader = Reader(html)
    assert reader.all("img") == []
    assert not any("onerror" in attributes for _, attributes in reader.tags)
    assert "<img src=x" in reader.text


def test_a_notice_is_announced_and_an_empty_one_is_nothing():
    assert Reader(notice("Too large.")).all("p")[0]["role"] == "alert"
    assert notice("") == ""


def test_the_legend_has_the_colours_of_the_map():
    html = legend(ColorBar(DIVERGING, "against", "for", "no effect"))
    for value in (0.0, 0.5, 1.0):
        red, green, blue = colorize(np.array(value), DIVERGING)
        assert f"rgb({red} {green} {blue})" in html
    assert Reader(html).text == "againstno effectfor"


def test_pictures_in_a_table_have_texts_and_need_no_request():
    picture = Image.new("RGB", (4, 4))
    cells = [
        PictureCell(picture, "Grad-CAM at blocks.10", pick="grad_cam blocks.10", is_chosen=True),
        PictureCell(None, "constant: no information here", note="CAM"),
    ]
    reader = Reader(picture_table("By depth", ["blocks.10", "max_abs"], [("Grad-CAM", cells)]))
    [image] = reader.all("img")
    assert image["alt"] == "Grad-CAM at blocks.10"
    assert image["src"].startswith("data:image/webp;base64,")
    assert reader.all("button")[0]["data-pick"] == "grad_cam blocks.10"
    assert "constant: no information here" in reader.text
    assert [one.get("scope") for one in reader.all("th")] == ["col", "col", "row"]


def test_samples_are_buttons_with_names():
    html = picture_buttons("Samples", [("cat", Image.new("RGB", (40, 20)))])
    [button] = Reader(html).all("button")
    assert (button["data-pick"], button["aria-label"]) == ("cat", "Sample: cat")


def test_words_to_press_are_escaped():
    [button] = Reader(text_buttons("Samples", [NASTY])).all("button")
    assert button["data-pick"] == NASTY


def test_bars_are_as_long_as_their_shares_and_text_is_escaped():
    html = bar_rows("<b>", ["before", "after"], [BarRow("<i>", (0.25, 1.5), is_marked=True)])
    assert "width: 25.0%" in html and "width: 100.0%" in html
    assert "25 %" in html and "over 100 %" in html
    assert "&lt;b&gt;" in html and "&lt;i&gt;" in html
    assert bar_rows("a", ["for", "against"], [BarRow("b", (None, 0.4))]).count("width: ") == 1


def test_a_program_quotes_any_file_name():
    name, calls = 'a "b" \\ c.jpg', []
    code = pipeline_program("explain", "salhub/model", python(name), [])
    fake = SimpleNamespace(pipeline=lambda model: calls.append)
    exec(compile(code.replace("import salhub", ""), "page", "exec"), {"salhub": fake})
    assert calls == [name]


@pytest.mark.parametrize("label", ["cat\nimport os", "cat\r import os", "cat\u2028import\0 os"])
def test_a_label_starts_no_line_of_a_program(label):
    code = pipeline_program(
        "explain", "m", '"x"', [], call={"class_labels": 281}, comments={"class_labels": label}
    )
    assert "class_labels=281,  # cat import os" in code
    imports = [one for one in ast.walk(ast.parse(code)) if isinstance(one, ast.Import)]
    assert [alias.name for one in imports for alias in one.names] == ["salhub"]
