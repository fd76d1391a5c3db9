"""A visitor sees a photo named, types classes of their own, and looks at every kind of map."""

import pytest

from tests.ui.browsing import DESK, PHONE, visiting

pytestmark = [
    pytest.mark.browser,
    # gradio asks pandas for what pandas is about to drop.
    pytest.mark.filterwarnings("ignore:::gradio.queueing"),
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_a_photo_is_named_among_typed_classes(browser, server, viewport, scheme, request):
    kind = request.node.callspec.id
    with visiting(browser, server + "disa", viewport, color_scheme=scheme) as visit:
        page = visit.page
        visit.expect_text(".salhub-facts", "Patches kept")
        visit.pane("Map of the text")
        before = visit.pane("Patches most similar to it").get_attribute("src")
        # A page that is only looked at asks the server for nothing.
        assert visit.asked == []
        assert all(ratio > 4.5 for _, ratio in visit.contrasts(".salhub-facts *"))
        visit.take_picture(f"disa-{kind}-before")

        classes = page.get_by_role("textbox", name="Classes")
        classes.fill("ship, frog")
        classes.press("Enter")
        visit.expect_text(".cm-content", "frog")
        page.wait_for_function(
            "(before) => ![...document.images].some((one) => one.src === before)", arg=before
        )
        visit.take_picture(f"disa-{kind}-after")


def test_every_kind_of_map_is_drawn(browser, server):
    with visiting(browser, server + "disa", DESK) as visit:
        visit.open_tab("Maps")
        visit.expect_text(".salhub-table:visible", "Random (control)")
        assert visit.page.locator(".salhub-table:visible img").count() == 10
        visit.take_picture("disa-maps")
