"""The page of several tasks: a room on it from the start, and code that makes what is seen."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import salhub
from salhub.entries import MODELS
from salhub.models.rep_mtl.page_rep_mtl import ImprovementTab, Page, SharingTab, read_metrics

NAME = "salhub/rep-mtl-rooms"


@pytest.fixture(scope="module")
def page():
    page = Page(NAME, MODELS["rep_mtl"])
    page.build()
    return page


def test_a_room_is_there_before_the_first_press(page):
    shown = page.components["pictures"].value
    assert shown.count("<img") == 1 + 3 + 3 + 3
    for words in ("The network", "The truth", "What each task reads", "dominates"):
        assert words in shown
    assert "segmentation miou" in page.components["facts"].value


def test_another_room_is_the_next_one(page):
    assert page.picked("another", {"room": 4}) == {"room": 5}
    assert page.picked("another", {"room": 9999}) == {"room": 0}
    with pytest.raises(ValueError, match="no 'other'"):
        page.picked("other", {"room": 4})


def test_the_code_shown_makes_the_figure_shown(page, tmp_path, monkeypatch, capsys):
    query = {**page.first_state, "room": 3}
    monkeypatch.chdir(tmp_path)
    exec(page.code(query), {})
    expected = page.answer(query)
    assert (np.asarray(Image.open("tasks.png")) == np.asarray(expected.plot())).all()
    assert expected.summary() in capsys.readouterr().out


def test_who_reads_what_is_that_of_the_result(page):
    contents = SharingTab(page).contents({**page.first_state, "room": 3})
    affinity = page.answer({"room": 3}).affinity
    assert f"{affinity[0, 1]:+.2f}" in contents["affinity"]["value"]
    assert contents["ruling"]["value"].count("<img") == 2


def test_the_calculator_opens_with_the_row_that_the_paper_prints(page, capsys):
    tab = ImprovementTab(page)
    shown = tab.contents(page.first_state)["improvement"]["value"]
    assert "+1.70 %" in shown and "+0.95 %" in shown
    exec(tab.code(page.first_state), {})
    assert capsys.readouterr().out.startswith("(1.70")


@pytest.mark.parametrize("text", ["depth", "depth: abs_error", "depth: abs_error x", ": "])
def test_metrics_that_cannot_be_read_are_refused(text):
    with pytest.raises(
        ValueError, match="' is not a task; write its name, a colon, and metrics such"
    ):
        read_metrics(text)


def test_a_program_gets_what_the_pipeline_gives(page):
    figure, found = page.see(room=7)
    expected = salhub.pipeline(NAME)("sample:room-7")
    assert found == expected.to_dict() and json.dumps(found)
    assert Path(figure).suffix == ".png"
    for bad in (-1, 10_000, 1.5):
        with pytest.raises((TypeError, ValueError), match="room"):
            page.see(room=bad)
