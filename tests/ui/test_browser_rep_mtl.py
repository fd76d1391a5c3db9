"""A visitor looks at a room, at who reads what, and computes Δp of metrics of their own."""

import pytest

from tests.ui.browsing import DESK, PHONE, visiting

pytestmark = [
    pytest.mark.browser,
    # gradio asks pandas for what pandas is about to drop.
    pytest.mark.filterwarnings("ignore:::gradio.queueing"),
]


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_rooms_are_seen_and_what_each_task_reads(browser, server, viewport, request):
    with visiting(browser, server + "rep-mtl", viewport) as visit:
        page = visit.page
        first = page.locator(".salhub-table img").first
        first.wait_for()
        assert first.bounding_box()["y"] < viewport["height"] - 100
        visit.expect_text(".salhub-facts", "segmentation miou")
        # A page that is only looked at asks the server for nothing.
        assert visit.asked == []
        visit.take_picture(f"rep-mtl-{request.node.callspec.id}-tasks")
        scrolled = page.locator(".salhub-table > div").first
        assert scrolled.evaluate("one => one.scrollWidth <= one.clientWidth")
        before = first.get_attribute("src")
        page.get_by_role("button", name="Another room").click()
        visit.expect_text(".cm-content", "sample:room-1")
        visit.expect_another(first, before)

        page.get_by_role("tab", name="What each task reads").click()
        visit.expect_text(".salhub-facts:visible", "depth and normals")
        visit.take_picture(f"rep-mtl-{request.node.callspec.id}-sharing")
        page.get_by_role("tab", name="Δp calculator").click()
        visit.expect_text(".salhub-facts:visible", "+1.70 %")
        visit.take_picture(f"rep-mtl-{request.node.callspec.id}-improvement")
