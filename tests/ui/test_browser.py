"""Journeys of visitors through the pages, in a real browser at the width of a desk and a phone."""

import re

import numpy as np
import pytest

from tests.ui.browsing import DESK, PHONE, visiting

pytestmark = [
    pytest.mark.browser,
    # gradio asks pandas for what pandas is about to drop.
    pytest.mark.filterwarnings("ignore:::gradio.queueing"),
]

SALIENT_RELEVANCE = "salient-relevance"


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("path", ["", SALIENT_RELEVANCE], ids=["normgrad", "salient_relevance"])
def test_a_useful_picture_is_there_before_the_first_press(browser, server, path, viewport, request):
    with visiting(browser, server + path, viewport) as visit:
        label = "Salient relevance" if path else "Map over the photo"
        picture = visit.pane(label)
        box = picture.bounding_box()
        assert box["width"] > 150 and box["height"] > 100  # as wide as the photo is
        assert "espresso" in picture.get_attribute("alt")
        visit.expect_text(".salhub-sentence", "espresso")
        visit.expect_text(".salhub-facts", "ms" if not path else "Conservation error")
        visit.take_picture(f"{request.node.callspec.id}-before")
        # Its top must be in sight without scrolling.
        top = visit.pane("Photo" if path else label).bounding_box()["y"]
        assert top < viewport["height"] - 80
        # A page that is only looked at asks the server for nothing.
        assert visit.asked == []
        if viewport is PHONE:
            assert visit.top_of(".salhub-asked") < visit.top_of(".salhub-result")
            assert visit.top_of(".salhub-result") < visit.top_of(".salhub-settings")


def test_a_debugger_at_a_desk(browser, server, tmp_path):
    """Another sample, another class, the whole family, two classes, and the files to take home."""
    with visiting(browser, server, DESK) as visit:
        page = visit.page
        first = visit.overlay()
        page.get_by_role("button", name="Sample: cat").click()
        visit.expect_text(".salhub-sentence", "Egyptian cat")
        visit.expect_another(visit.pane("Map over the photo"), first)

        page.get_by_role("radio", name=re.compile("^tabby")).check()
        visit.expect_text(".salhub-sentence", "tabby,")

        visit.open_tab("All methods")
        visit.expect_text(".salhub-sentence:visible", "one forward and one backward pass")
        assert page.locator(".salhub-table img").count() >= 48
        visit.take_picture("normgrad-desk-family")
        page.get_by_role("button", name="Grad-CAM at blocks.15").click()

        visit.expect_text(".cm-content", 'method="grad_cam"')
        visit.expect_value("Method", "Grad-CAM")
        visit.expect_value("Depth", "Deepest: blocks.15")
        page.get_by_role("tab", name="Map", exact=True, selected=True).wait_for()
        visit.overlay()
        visit.take_picture("normgrad-desk-after")

        with page.expect_download() as download:
            page.get_by_role("button", name="Save map (.npy)").click()
        taken = tmp_path / "map.npy"
        download.value.save_as(taken)
        assert np.allclose(np.load(taken), _run(visit.code(), tmp_path), atol=1e-5)

        visit.open_tab("Classes")
        visit.pane("tabby")
        visit.pane("Difference")
        visit.expect_text(".salhub-facts:visible", "rank correlation")
        visit.choose("Compare with the class", "Egyptian cat")
        visit.pane("Egyptian cat")
        visit.take_picture("normgrad-desk-classes")


def _run(code: str, folder) -> np.ndarray:
    """What the program on the page makes."""
    code = code.replace('"explained', f'"{folder}/explained')
    exec(compile(code, "the page", "exec"), {})
    return np.load(folder / "explained.npy")


def test_a_phone_with_good_and_bad_pictures(browser, server, sample, bad_uploads):
    with visiting(browser, server, PHONE) as visit:
        page = visit.page
        first = visit.overlay()
        page.get_by_role("button", name="Remove Image").click()
        visit.expect_text(".salhub-notice", "There is no picture yet")
        page.set_input_files("input[type=file]", sample)
        visit.expect_text(".salhub-sentence", "Egyptian cat")
        assert page.locator(".salhub-notice").count() == 0
        visit.expect_another(visit.pane("Map over the photo"), first)
        visit.check()
        visit.take_picture("normgrad-phone-after")

        for title in ("All methods", "Classes", "Models"):
            visit.open_tab(title)
            page.locator(".salhub-sentence:visible").first.wait_for()
            visit.check()
            visit.take_picture(f"normgrad-phone-{title.lower().replace(' ', '-')}")

        visit.open_tab("Map")
        for path, words in bad_uploads.values():
            page.set_input_files("input[type=file]", path)
            visit.expect_text(".salhub-notice", words)
            assert f"'{path.name}'" in page.locator(".salhub-notice").inner_text()
            # Neither the map of the picture before nor its classes may stay.
            assert page.locator(".salhub-pane:visible img").count() == 0
            assert page.get_by_role("radio").count() == 0
        visit.take_picture("normgrad-phone-refused")


def test_salient_relevance_at_a_desk(browser, server):
    with visiting(browser, server + SALIENT_RELEVANCE, DESK) as visit:
        first = visit.pane("Relevance (LRP)").get_attribute("src")
        visit.choose("Relevance rules", "Epsilon gamma box")
        visit.expect_text(".cm-content", 'preset="epsilon_gamma_box"')
        visit.expect_another(visit.pane("Relevance (LRP)"), first)
        visit.expect_text(".salhub-facts", "Attention areas")
        visit.take_picture("salient_relevance-desk-after")
        visit.open_tab("Models")
        visit.choose("Compare with", "salhub/normgrad-efficientnet-lite0")
        visit.pane("normgrad-efficientnet-lite0 · espresso")
        visit.expect_text(".salhub-facts:visible", "Agreement")
        visit.take_picture("salient_relevance-desk-models")


def test_salient_relevance_on_a_phone(browser, server):
    with visiting(browser, server + SALIENT_RELEVANCE, PHONE) as visit:
        visit.page.get_by_role("button", name="Sample: rocket").click()
        visit.expect_text(".salhub-sentence", "drilling platform")
        visit.pane("Salient relevance")
        visit.take_picture("salient_relevance-phone-after")


def test_the_page_that_every_method_has(browser, server):
    with visiting(browser, server + "any-method", PHONE) as visit:
        visit.overlay()
        visit.page.get_by_role("radio", name=re.compile("^cup")).check()
        visit.expect_text(".salhub-sentence", "cup,")
        visit.open_tab("Models")
        visit.pane("gradcam-efficientnet-lite0 · cup")
        visit.take_picture("any-method-phone-models")
        visit.page.get_by_label("Compare with", exact=True).fill("/etc")
        visit.page.keyboard.press("Enter")
        visit.expect_text(".salhub-notice", "'/etc' is not a model; choose one")


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_forgetting_a_class(browser, server, viewport, request):
    """Bars that can be compared, another class, a picture, and digits."""
    with visiting(browser, server + "salun", viewport) as visit:
        page = visit.page
        visit.expect_text(".salhub-bars .salhub-chosen", "cat")
        for row in page.locator(".salhub-bars td > div").all()[:20]:
            share = float(row.locator("b").inner_text().removesuffix(" %")) / 100
            length = row.locator("i").bounding_box()["width"]
            whole = row.locator("span").bounding_box()["width"]
            assert length == pytest.approx(share * whole, abs=0.01 * whole + 2)
        visit.take_picture(f"salun-{request.node.callspec.id}-classes")
        page.get_by_role("radio", name="dog").check()
        visit.expect_text(".salhub-bars .salhub-chosen", "dog")
        visit.expect_text(".cm-content", "forget=class:dog")
        visit.open_tab("Try a picture")
        visit.expect_text(".salhub-bars:visible", "Probability of each class")
        visit.open_tab("Digits")
        sheet = page.get_by_alt_text("After forgetting: one row of digits").first
        sheet.wait_for()
        assert sheet.bounding_box()["width"] > 100
        before = sheet.get_attribute("src")
        page.get_by_role("button", name="Draw others").click()
        visit.expect_text(".cm-content:visible", "manual_seed(1)")
        visit.expect_another(sheet, before)
        visit.take_picture(f"salun-{request.node.callspec.id}-digits")


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_summarising_a_text(browser, server, viewport, request):
    """A summary before the first press, another length, hostile text, and a mistake."""
    with visiting(browser, server + "lexrank", viewport) as visit:
        page = visit.page
        text, summary = page.get_by_label("Text").first, page.locator("textarea[disabled]").first
        assert "bridge" in summary.input_value()
        page.locator("mark:visible").nth(10).wait_for()
        visit.take_picture(f"lexrank-{request.node.callspec.id}")
        hostile = "<img src=x onerror=alert(1)> is old. The old bridge <b>is</b> shut. Cats sleep."
        text.fill(hostile)
        page.get_by_role("button", name="Summarize").click()
        visit.expect_text("mark:visible", "<img src=x onerror=alert(1)>")
        assert page.locator("mark img, mark b").count() == 0
        visit.open_tab("Why")
        visit.take_picture(f"lexrank-{request.node.callspec.id}-reasons")
        visit.expect_text(".cm-content:visible", 'salhub.pipeline("salhub/lexrank-news-en")')
        if viewport is PHONE:
            assert visit.top_of(".salhub-result") < visit.top_of(".salhub-settings")
        text.fill("   ")
        page.get_by_role("button", name="Summarize").click()
        page.get_by_text("There is no text yet; type or paste one.").first.wait_for()


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_continuing_a_text(browser, server, viewport, request):
    """A text before the first press, a sample, another seed, and hostile text."""
    with visiting(browser, server + "writer", viewport) as visit:
        page, given = visit.page, ".salhub-result strong"
        assert page.locator(given).inner_text() == "The film"
        visit.take_picture(f"writer-{request.node.callspec.id}")
        page.get_by_role("button", name="A story").click()
        # A press takes along what is written by then.
        page.wait_for_function("document.querySelector('textarea').value.startsWith('Once')")
        page.get_by_role("button", name="Continue").click()
        visit.expect_text(given, "Once there was a king who")
        visit.expect_text(".cm-content:visible", '"Once there was a king who"')
        before = page.locator(".salhub-result p:has(strong)").inner_text()
        page.get_by_label("Seed").first.fill("7")
        page.get_by_label("Seed").first.press("Tab")
        visit.expect_text(".salhub-notes:visible", "seed 7")
        page.wait_for_function(
            "(said) => document.querySelector('.salhub-result p:has(strong)').innerText !== said",
            arg=before,
        )
        page.locator(".salhub-text textarea").fill("<b>x</b>")
        page.get_by_role("button", name="Continue").click()
        visit.expect_text(given, "<b>x</b>")
        assert page.locator(f"{given} b").count() == 0


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_explaining_a_text(browser, server, viewport, request):
    """A sentence before the first press, another classifier, hostile text, and a mistake."""
    with visiting(browser, server + "verbalizer", viewport) as visit:
        page = visit.page
        said = page.locator(".salhub-said textarea")
        text = page.locator(".salhub-text textarea")
        assert "wonderful" in said.input_value()
        page.locator("mark:visible").nth(10).wait_for()
        visit.take_picture(f"verbalizer-{request.node.callspec.id}")
        hostile = "<img src=x onerror=alert(1)> A wonderful film <b>it</b> is."
        text.fill(hostile)
        page.get_by_role("button", name="Explain").click()
        visit.expect_text("mark:visible", "onerror")
        assert page.locator("mark img, mark b").count() == 0
        visit.open_tab("Phrases")
        visit.take_picture(f"verbalizer-{request.node.callspec.id}-phrases")
        visit.open_tab("Audit")
        page.get_by_text("All statements match the scores.").first.wait_for()
        visit.expect_text(
            ".cm-content:visible", 'salhub.pipeline("salhub/verbalizer-movie-reviews")'
        )
        page.get_by_role("button", name="More settings").click()
        visit.choose("Rather than", "negative")
        visit.expect_text(".cm-content:visible", 'contrast="negative"')
        # A class of the classifier before is let go, without a word of gradio's.
        page.get_by_role("radio", name="News").check()
        visit.expect_text(".cm-content:visible", "salhub/verbalizer-news-topics")
        visit.expect_value("Rather than", "nothing")
        assert page.locator(".toast-body").count() == 0
        text.fill("   ")
        page.get_by_role("button", name="Explain").click()
        page.get_by_text("There is no text yet; type or paste one.").first.wait_for()


def test_a_link_shows_the_same_view_to_somebody_else(browser, server):
    allowed = {"permissions": ["clipboard-read", "clipboard-write"]}
    with visiting(browser, server, DESK, **allowed) as visit:
        page = visit.page
        visit.overlay()
        page.get_by_role("radio", name=re.compile("^cup")).check()
        visit.expect_text(".salhub-sentence", "cup,")
        page.get_by_role("button", name="Copy a link to this view").click()
        page.get_by_text("Link copied").wait_for()
        page.wait_for_function(
            "navigator.clipboard.readText().then((t) => t.includes('class_label='))"
        )
        link = page.evaluate("navigator.clipboard.readText()")
    with visiting(browser, link, DESK) as visit:
        visit.expect_text(".salhub-sentence", "cup,")
        visit.overlay()
        assert visit.page.get_by_role("radio", name=re.compile("^cup")).is_checked()


def test_without_a_clipboard_the_link_goes_to_the_address_bar(browser, server):
    with visiting(browser, server + "any-method", PHONE) as visit:
        page = visit.page
        page.add_init_script("delete Navigator.prototype.clipboard")
        page.reload()
        visit.overlay()
        page.get_by_role("button", name="Sample: rocket").click()
        visit.expect_text(".salhub-sentence", "drilling platform")
        page.get_by_role("button", name="Copy a link to this view").click()
        page.get_by_text("The link is in the address bar").wait_for()
        assert page.url.startswith(f"{server}any-method?sample=rocket")
        page.get_by_role("button", name="Copy a link to this view").wait_for()


def test_a_link_to_what_is_gone_says_so(browser, server):
    gone = f"{server}?picture={'0' * 64}/photo.jpg&tab=Map"
    with visiting(browser, gone, PHONE) as visit:
        visit.expect_text(
            ".salhub-notice", "The picture of this link has been deleted, because pictures are"
        )
        visit.overlay()


def test_four_presses_in_a_second_end_in_the_last_ones_answer(browser, server):
    with visiting(browser, server, DESK) as visit:
        page = visit.page
        visit.overlay()
        for name in ("cat", "rocket", "cat", "astronaut"):
            # Requests of one instant may arrive in another order.
            visit.press_and_wait(page.get_by_role("button", name=f"Sample: {name}").click)
        visit.expect_text(".cm-content", "sample:astronaut")
        # Another picture, and before its classes are here, one of those of the picture before.
        visit.press_and_wait(page.get_by_role("button", name="Sample: rocket").click)
        # In one go: between two steps its classes may come, and another one would be pressed.
        chosen = page.get_by_role("radio").nth(1)
        index = chosen.evaluate("radio => { radio.click(); return radio.value; }")
        visit.choose("Method", "Grad-CAM")
        page.get_by_role("tab", name="Classes", exact=True).click()
        visit.expect_text(".cm-content", 'method="grad_cam"')
        visit.pane("Difference")
        assert '"sample:rocket"' in visit.code() and f"class_labels={index}" in visit.code()
        assert page.get_by_role("radio", checked=True).get_attribute("value") == index


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_reads_in_light_and_dark(browser, server, scheme):
    with visiting(browser, server + "verbalizer", PHONE, color_scheme=scheme) as visit:
        page = visit.page
        page.locator("mark:visible").nth(10).wait_for()
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        is_dark = max(map(int, re.findall(r"\d+", background)[:3])) < 60
        assert is_dark == (scheme == "dark")
        page.get_by_role("button", name="Explain").click()
        seen = visit.contrasts("button, mark, .salhub-header p, .salhub-header a")
        assert len(seen) > 20
        assert [one for one in seen if one[1] < 4.5] == []
        visit.take_picture(f"verbalizer-phone-{scheme}")
