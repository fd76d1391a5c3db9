"""A visitor moves clips about in a phantom and takes the mask home."""

import numpy as np
import pytest

from tests.ui.browsing import DESK, PHONE, visiting

pytestmark = [
    pytest.mark.browser,
    # gradio asks pandas for what pandas is about to drop.
    pytest.mark.filterwarnings("ignore:::gradio.queueing"),
]

SLICE = ".slice-picture img"


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_clips_are_moved_and_removed_and_the_contour_follows(browser, server, viewport, request):
    with visiting(browser, server + "sdl-seg", viewport) as visit:
        page = visit.page
        picture = page.locator(SLICE)
        picture.wait_for()
        box = picture.bounding_box()
        assert box["width"] > 250 and abs(box["width"] - box["height"]) < 3
        assert box["y"] < viewport["height"] - 150
        visit.expect_text(".salhub-facts", "Dice")
        # A page that is only looked at asks the server for nothing.
        assert visit.asked == []
        visit.take_picture(f"sdl-seg-{request.node.callspec.id}-before")

        first = picture.get_attribute("src")
        page.get_by_role("button", name="Choose clip 2").click()
        page.get_by_role("button", name="→ right").click()
        visit.expect_text(".clip-table", "2.0 mm")
        visit.expect_text(".salhub-facts", "with the original clips")
        visit.expect_another(picture, first)
        page.get_by_role("button", name="Remove clip 1").click()
        page.get_by_role("button", name="Put back clip 1").wait_for()
        # A press in the slice brings the chosen clip there.
        picture.click(position={"x": 0.3 * box["width"], "y": 0.6 * box["height"]})
        page.wait_for_function(
            "parseFloat(document.querySelector('.clip-table .is-chosen td:nth-child(3)')"
            ".innerText) > 5"
        )
        visit.expect_text(".cm-content", "markers=")
        visit.take_picture(f"sdl-seg-{request.node.callspec.id}-after")

        page.get_by_role("button", name="Original clips").click()
        page.get_by_role("button", name="Remove clip 1").wait_for()
        assert page.locator(".salhub-notice").count() == 0
        page.get_by_role("button", name="Another phantom").click()
        visit.expect_text(".cm-content", "sample:phantom-1")


def test_the_mask_is_taken_home_and_a_press_without_a_clip_is_a_sentence(browser, server, tmp_path):
    nib = pytest.importorskip("nibabel", reason="NIfTI needs the extra 'medical'")
    with visiting(browser, server + "sdl-seg", DESK) as visit:
        page = visit.page
        # Once it can be pressed.
        page.get_by_role("button", name="Remove clip 1").click()
        page.get_by_role("button", name="Put back clip 1").click()
        page.get_by_role("button", name="Remove clip 1").wait_for()
        page.locator(SLICE).click(position={"x": 10, "y": 10})
        visit.expect_text(".salhub-notice", "No clip is chosen")
        with page.expect_download() as download:
            page.get_by_role("button", name="Mask (.nii.gz)").click()
        download.value.save_as(tmp_path / "mask.nii.gz")
        mask = np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj)
        assert mask.shape == (96, 96, 24) and 100 < mask.sum() < 20_000
        for selector in (".clip-table", ".slice-picture figcaption span"):
            assert all(ratio > 4.5 for _, ratio in visit.contrasts(selector))
