"""A visitor sees an edited film, sends one of their own, and takes the edit home."""

import pytest

from tests.ui.browsing import DESK, PHONE, visiting

pytest.importorskip("av", reason="films need the extra 'video'")

pytestmark = [
    pytest.mark.browser,
    # gradio asks pandas for what pandas is about to drop.
    pytest.mark.filterwarnings("ignore:::gradio.queueing"),
]

# How many pictures of the edited film were shown, some at least, and how wide they are.
_PLAY = """
async (video) => {
    video.muted = true;
    await video.play();
    const before = video.getVideoPlaybackQuality().totalVideoFrames;
    const shown = () => video.getVideoPlaybackQuality().totalVideoFrames - before;
    for (let tries = 0; tries < 200 && shown() < 5; tries += 1)
        await new Promise((done) => setTimeout(done, 100));
    return [video.videoWidth, video.videoHeight, shown(), video.duration];
}
"""


# A film of that name with pictures in it.
_FIND = """
(name) => [...document.querySelectorAll('video')]
    .find((one) => one.currentSrc.includes(name) && one.videoWidth > 0)
"""


def edited(page, name="-edited", timeout=20_000):
    """The edited film, once its first picture is there."""
    return page.wait_for_function(_FIND, arg=name, timeout=timeout).as_element()


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_an_edited_film_plays_before_the_first_click(browser, server, viewport, request):
    with visiting(browser, server + "editiq", viewport) as visit:
        page = visit.page
        edited(page)
        assert visit.asked == []
        width, height, shown, seconds = edited(page).evaluate(_PLAY)
        assert (width, height) == (640, 360) and shown >= 5 and abs(seconds - 20) < 0.2
        assert page.locator(".edit-line button").count() >= 4
        visit.take_picture(f"editiq-{request.node.callspec.id}-before")
        page.locator(".edit-line button").nth(2).click()
        visit.expect_text(".edit-why h3", "Shot 3")
        ratios = visit.contrasts(".edit-line button, .edit-why td")
        assert [one for one in ratios if one[1] <= 4.5] == []
        visit.take_picture(f"editiq-{request.node.callspec.id}-after")


def test_a_sent_film_is_edited_with_a_bar_and_taken_home(browser, server, tmp_path):
    from salhub.models.editiq.film_writing import write_film
    from salhub.models.editiq.stage_scene import make_stage_scene

    # Half a minute.
    scene = make_stage_scene(8, 2, seconds=30, size=(640, 180))
    path = tmp_path / "talk.mp4"
    write_film(
        path,
        (picture for _, picture in scene.frames()),
        scene.frame_rate,
        (scene.sound(), 16_000),
        encoder="libx264",
    )
    with visiting(browser, server + "editiq", DESK) as visit:
        page = visit.page
        edited(page)
        page.get_by_label("Transcript").fill(scene.srt())
        page.get_by_label("Names of the people, from left to right").fill("Anna, Ben")
        page.locator(".salhub-film input[type=file]").set_input_files(path)
        page.locator(".progress-text, .progress-level").first.wait_for()
        film = edited(page, "talk-edited", timeout=60_000)
        width, height, shown, seconds = film.evaluate(_PLAY)
        assert (width, height) == (640, 360) and shown >= 5 and abs(seconds - 30) < 0.2
        visit.expect_text(".cm-content", '"talk.mp4"')
        visit.take_picture("editiq-sent")
        with page.expect_download() as download:
            page.get_by_role("button", name="Edit list (.edl)").click()
        download.value.save_as(tmp_path / "edit.edl")
        assert "FROM CLIP: talk.mp4" in (tmp_path / "edit.edl").read_text()


def test_a_file_that_is_no_film_gets_a_sentence(browser, server, tmp_path):
    path = tmp_path / "notes.mp4"
    path.write_text("a shopping list")
    with visiting(browser, server + "editiq", DESK) as visit:
        edited(visit.page)
        visit.page.locator(".salhub-film input[type=file]").set_input_files(path)
        visit.expect_text(".salhub-notice", "is not a readable film, or is damaged")
