"""The page of the active contour: what is drawn is where it starts, and its code makes its mask."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import salhub
from salhub.data.samples import sample_path
from salhub.entries import MODELS
from salhub.models.active_contour.page_active_contour import (
    DRAWN,
    ContourTab,
    ModelsTab,
    Page,
)
from salhub.models.active_contour.stage import Marks
from salhub.ui.controls import UploadedPicture

NAME = "salhub/active-contour-saliency"
CELLS = UploadedPicture.of_sample(sample_path("cells"))


@pytest.fixture(scope="module")
def page():
    page = Page(NAME, MODELS["active_contour"])
    page.build()
    return page


def query_of(page, **changes):
    return page.query({**page.first_state, "picture": CELLS, **changes})


@pytest.mark.parametrize("text", ["box 20 30 90 80", "points 40 52, 60 70", ""])
def test_marks_are_read_as_they_are_written(text):
    assert Marks.read(text).write() == text


@pytest.mark.parametrize(
    "text", ["box 1 2 3", "points", "circle 3 4", "box a b c d", "box nan 1 2 3"]
)
def test_other_marks_are_refused(text):
    with pytest.raises(ValueError, match="' is not a start; write box LEFT TOP RIGHT BOTTOM, or"):
        Marks.read(text)
    with pytest.raises(ValueError, match="At most 20 points"):
        Marks.read("points " + "1 2, " * 21)


def test_what_is_drawn_is_where_it_starts(page):
    drawn = ContourTab(page).picked("points 10 20, 30 40", page.first_state)
    assert drawn == {"start": DRAWN, "marks": "points 10 20, 30 40"}
    with pytest.raises(ValueError, match="' is not a start; write box LEFT TOP RIGHT BOTTOM, or"):
        ContourTab(page).picked("rm -rf", page.first_state)


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({}, {}),
        ({"start": "disk"}, {"init": "disk"}),
        ({"start": DRAWN, "marks": "box 20 30 90 80"}, {"box": [20, 30, 90, 80]}),
        ({"start": DRAWN, "marks": "points 40 52"}, {"points": [[40, 52]]}),
        ({"start": "disk", "marks": "points 40 52"}, {"init": "disk"}),
        ({"alpha": 0.85, "sigma": 4.5}, {"alpha": 0.85, "sigma": 4.5}),
        ({"saliency": "ft", "min_area": 20.0}, {"saliency": "ft", "min_area": 20}),
        ({"fill_holes": True, "invert": True}, {"fill_holes": True, "invert": True}),
    ],
)
def test_controls_become_settings_of_the_call(page, changes, settings):
    assert page.call_settings(query_of(page, **changes)) == settings


def test_the_code_shown_makes_the_mask_shown(page, tmp_path, monkeypatch):
    query = query_of(page, start=DRAWN, marks="box 20 30 90 80", sigma=4.5)
    monkeypatch.chdir(tmp_path)
    exec(page.code(query), {})
    result, _ = page.timed_result(query)
    assert (np.asarray(Image.open("mask.png")) == 255 * result.mask).all()
    assert Image.open("film.gif").n_frames == len(result.film)


def test_nothing_drawn_gets_one_sentence(page):
    with pytest.raises(ValueError, match="Nothing is drawn yet"):
        page.timed_result(query_of(page, start=DRAWN, marks=""))


def test_marks_of_another_picture_are_forgotten(page):
    state = {**page.first_state, "marks": "points 3 4", "start": DRAWN}
    assert page.consequences(state, ["picture"]) == {"marks": "", "start": "saliency"}
    assert page.consequences(state, ["marks"]) == {"start": DRAWN}
    assert page.consequences(state, ["alpha"]) == {}


def test_the_stage_has_the_film_and_the_result(page):
    query = query_of(page)
    result, _ = page.timed_result(query)
    html = ContourTab(page).contents(query)["stage"]["value"]
    frames = json.loads(
        re.search(r'<div class="stage-film" hidden>(.*?)</div>', html)[1].replace("&quot;", '"')
    )
    assert len(frames) == len(result.film) + 1
    assert frames[-1][0] == f"result, {result.iterations} steps"
    assert frames[-1][1].count("M") == len(result.contours)
    assert 'data-size="420 320"' in html and len(html) < 400_000


def test_the_other_models_start_where_this_one_does(page):
    query = query_of(page, start=DRAWN, marks="box 20 30 90 80")
    settings = page.call_settings(query, "lif")
    assert settings == {"preset": "lif", "max_iterations": 100, "box": [20, 30, 90, 80]}
    code = page.comparison_code(query)
    assert "preset=preset, max_iterations=100, box=[20, 30, 90, 80]" in code


def test_a_program_gets_what_the_pipeline_gives(page):
    mask, polygons, facts = page.contour(CELLS, start="points 105 110", min_area=50)
    expected = salhub.pipeline(NAME)("sample:cells", points=[(105, 110)], min_area=50)
    assert (np.asarray(Image.open(mask)) == 255 * expected.mask).all()
    features = json.loads(Path(polygons).read_text(encoding="utf-8"))["features"]
    assert len(features) == len(expected.regions) == len(facts["regions"])
    for bad, sentence in (
        ({"start": "circle"}, "init must be one of"),
        ({"start": "box 1 2"}, "' is not a start; write box LEFT TOP RIGHT BOTTOM, or"),
        ({"saliency": "org/whatever"}, "saliency must be one of"),
        ({"min_area": -5}, "min_area must be at least 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            page.contour(CELLS, **bad)
    with pytest.raises(ValueError, match="no picture yet"):
        page.contour(None)


def test_the_tab_of_other_models_shows_what_its_code_makes(page, tmp_path, monkeypatch):
    query = query_of(page, start="box", alpha=0.85)
    contents = ModelsTab(page).contents(query)
    monkeypatch.chdir(tmp_path)
    exec(ModelsTab(page).code(query), {})
    for preset in ("tuned", "plain", "lif", "chan_vese"):
        assert (
            np.asarray(contents[preset]["value"]) == np.asarray(Image.open(f"{preset}.png"))
        ).all()
        assert "ms" in contents[f"{preset}_note"]["value"]
