"""A visitor looks at a shape, asks for a faster one, and shows both networks a picture."""

import pytest

from tests.ui.browsing import DESK, PHONE, visiting

pytestmark = [
    pytest.mark.browser,
    # gradio asks pandas for what pandas is about to drop.
    pytest.mark.filterwarnings("ignore:::gradio.queueing"),
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_a_faster_network_has_another_shape(browser, server, viewport, scheme, request):
    kind = request.node.callspec.id
    with visiting(browser, server + "nvit", viewport, color_scheme=scheme) as visit:
        page = visit.page
        visit.expect_text(".salhub-facts", "Predicted time")
        # A page that is only looked at asks the server for nothing.
        assert visit.asked == []
        assert all(ratio > 4.5 for _, ratio in visit.contrasts(".salhub-facts *"))
        visit.take_picture(f"nvit-{kind}-shape")
        page.get_by_label("chance").check()
        visit.expect_text(".cm-content", 'score="random"')
        visit.take_picture(f"nvit-{kind}-chance")


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_both_networks_see_the_same_picture(browser, server, viewport, request):
    kind = request.node.callspec.id
    with visiting(browser, server + "nvit", viewport) as visit:
        visit.open_tab("Try a picture")
        visit.expect_text(".salhub-bars:visible", "airplane")
        visit.take_picture(f"nvit-{kind}-picture")
        visit.open_tab("Measured")
        visit.expect_text(".salhub-facts:visible", "Pictures recognized")
        visit.take_picture(f"nvit-{kind}-measured")
