"""A visitor draws where a contour starts, and watches it move."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from gradio_client import handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from salhub.data.samples import sample_path
from tests.ui.browsing import DESK, PHONE, visiting

pytestmark = [
    pytest.mark.browser,
    # gradio asks pandas for what pandas is about to drop.
    pytest.mark.filterwarnings("ignore:::gradio.queueing"),
]
PATH = "active-contour"


def drag(visit, start, end) -> None:
    """Drag on the stage, by shares of its width and height."""
    stage = visit.page.locator(".stage-picture")

    def move(x: float, y: float) -> None:
        # In sight, and once nothing above it moves it any more.
        box = stage.bounding_box()
        stage.hover(position={"x": x * box["width"], "y": y * box["height"]})

    move(*start)
    visit.page.mouse.down()
    move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    move(*end)
    visit.page.mouse.up()


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_contour_is_there_before_a_press_and_moves_after_a_drag(
    browser, server, viewport, scheme
):
    name = f"contour-{viewport['width']}-{scheme}"
    with visiting(browser, server + PATH, viewport, color_scheme=scheme) as visit:
        page = visit.page
        visit.expect_text(".stage-title", "result")
        assert page.locator(".stage-line").get_attribute("d").count("M") >= 4
        assert visit.asked == []
        visit.take_picture(f"{name}-before")

        drag(visit, (0.6, 0.1), (0.9, 0.6))
        visit.expect_text(".salhub-sentence", "The contour started at a box")
        visit.expect_text(".stage-title", "result")
        visit.take_picture(f"{name}-after")
        visit.expect_value("Start", "Drawn")
        assert "box=[25" in visit.code()  # 0.6 of 420 pixels, to one of the screen

        page.locator(".stage-range").fill("0")
        visit.expect_text(".stage-title", "iteration 0")
        assert page.locator(".stage-line").get_attribute("d").count("M") == 1
        assert page.locator(".stage-marks").is_visible()
        page.get_by_role("button", name="Play").click()
        visit.expect_text(".stage-title", "result")
        lowest = min(contrast for _, contrast in visit.contrasts(".stage-title, .stage-play"))
        assert lowest >= 4.5


def test_points_are_gathered_and_files_taken_home(browser, server, tmp_path):
    with visiting(browser, server + PATH, DESK) as visit:
        page = visit.page
        visit.expect_text(".stage-title", "result")
        # The second arrives after the first, and may be before its answer.
        for place in ((0.25, 0.3), (0.4, 0.65)):
            visit.press_and_wait(lambda place=place: drag(visit, place, place))
        visit.expect_text(".salhub-sentence", "The contour started at 2 points")
        # A quarter of 420 pixels, to one of the screen.
        assert re.search(r"points=\[\[10[456], 9[567]\], \[16[789], 20[789]\]\]", visit.code())

        visit.open_tab("Files")
        visit.pane("Film")
        for name, taken in (("Mask (.png)", "mask.png"), ("Polygons (.geojson)", "all.geojson")):
            with page.expect_download() as download:
                page.get_by_role("button", name=name).click()
            download.value.save_as(tmp_path / taken)
        mask = np.asarray(Image.open(tmp_path / "mask.png"))
        features = json.loads((tmp_path / "all.geojson").read_text())["features"]
        assert sum(one["properties"]["area"] for one in features) == (mask == 255).sum()


def test_a_link_opens_what_was_drawn(browser, server):
    query = "?sample=cells&start=drawn&marks=box+60+40+200+180"
    with visiting(browser, server + PATH + query, DESK) as visit:
        visit.expect_text(".salhub-sentence", "The contour started at a box")
        assert "box=[60, 40, 200, 180]" in visit.code()


def test_a_program_gets_a_mask_polygons_and_facts(client):
    mask, polygons, facts = client.predict(
        handle_file(sample_path("cells")),
        start="box 60 40 200 180",
        min_area=50,
        api_name="/contour",
    )
    area = int((np.asarray(Image.open(mask).convert("L")) == 255).sum())
    features = json.loads(Path(polygons).read_text())["features"]
    assert area == facts["area"] == sum(one["properties"]["area"] for one in features)
    assert facts["start"] == "a box"
    for bad, sentence in (
        ({"start": "circle"}, "init must be one of"),
        ({"saliency": "org/whatever"}, "saliency must be one of"),
        ({"min_area": -5}, "min_area must be at least 0"),
    ):
        with pytest.raises(AppError, match=sentence):
            client.predict(handle_file(sample_path("cells")), **bad, api_name="/contour")
    with pytest.raises(AppError, match="no picture yet"):
        client.predict(None, api_name="/contour")
