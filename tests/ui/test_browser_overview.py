"""The first page of the gallery, at the width of a desk and a phone, in light and dark."""

import gradio as gr
import pytest

from salhub.entries import METHODS
from salhub.model_facts import method_in_short
from salhub.ui import build_gallery, launch
from salhub.ui.overview import TITLE, build_overview
from tests.ui.browsing import DESK, PHONE, visiting

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def overview():
    """Address of the overview of all methods, whose own pages are empty here."""
    addresses = {name: name.replace("_", "-") for name in METHODS}
    pages = {name: gr.Blocks(title=f"Page of {name}") for name in METHODS}
    gallery = build_gallery({"": build_overview(pages, addresses), **pages})
    _, address, _ = launch(gallery, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield address
    gallery.close(verbose=False)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_every_method_has_a_picture_a_sentence_and_its_page(browser, overview, viewport, scheme):
    with visiting(browser, overview, viewport, color_scheme=scheme) as visit:
        cards = visit.page.locator(".salhub-methods a")
        cards.first.wait_for()
        said = cards.locator("p").all_inner_texts()
        assert said == [method_in_short(name) for name in METHODS]
        assert cards.locator("img").count() == len(METHODS)
        visit.page.wait_for_function(
            "[...document.querySelectorAll('.salhub-methods a img')]"
            ".every((one) => one.complete && one.naturalWidth > 100)"
        )
        for text, contrast in visit.contrasts(".salhub-methods h2, .salhub-methods p"):
            assert contrast > 4.5, text
        visit.take_picture(f"overview-{scheme}-{viewport['width']}")
        cards.nth(1).click()
        visit.page.wait_for_url("**/salient-relevance")
        visit.page.get_by_role("link", name=TITLE).click()
        cards.first.wait_for()
