"""The page: what it shows is what the pipeline finds, and films are made once."""

import json
import re
from pathlib import Path

import pytest

import salhub
from salhub.entries import MODELS

pytest.importorskip("gradio", reason="the pages need the extra 'demo'")
pytest.importorskip("av", reason="films need the extra 'video'")

from salhub.models.editiq import stage_sample
from salhub.models.editiq.film_reading import FilmFile
from salhub.models.editiq.film_writing import write_film
from salhub.models.editiq.page_editiq import Page
from salhub.models.editiq.stage_scene import make_stage_scene
from salhub.ui.film_input import MAX_FILE_BYTES, FilmInput, UploadedFilm


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_sample, "HF_HOME", str(folder))
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "gradio"))
        page = Page("salhub/editiq-stage", MODELS["editiq"])
        page.build()
        yield page


@pytest.fixture
def state(page):
    return dict(page.first_state)


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    scene = make_stage_scene(8, 2, seconds=8, size=(640, 180))
    path = tmp_path_factory.mktemp("sent") / "my talk.mp4"
    write_film(path, (p for _, p in scene.frames()), scene.frame_rate, encoder="mpeg4")
    return scene, UploadedFilm(path, "my talk.mp4")


def after(page, state, pick):
    """The state after a press, with all that follows from it."""
    found = page.picked(pick, state)
    moved = [name for name in found if found[name] != state[name]]
    given = {**state, **found}
    return {**given, **page.consequences(given, moved)}


def played(component) -> FilmFile:
    value = component.value
    return FilmFile.open(value["path"] if isinstance(value, dict) else value.path)


def test_an_edit_is_there_before_the_first_press(page, state):
    edited, wide = played(page.components["after"]), played(page.components["before"])
    assert (edited.size, wide.size) == ((640, 360), (1280, 360))
    assert edited.num_frames == wide.num_frames == 250 and edited.has_sound
    html = page.components["view"].value
    assert html.count('data-pick="shot') >= 4 and "rather than" in html
    assert page.components["code"].value.startswith("import salhub")
    assert page.components["edl"].value and state["seed"] == "4"


def test_it_shows_what_the_pipeline_finds(page, state):
    result = salhub.pipeline("editiq-stage", resume=False)("sample:stage-4", longest_shot=5.0)
    contents = page.contents({**state, "longest_shot": 5.0, "shown": ""})
    names = re.findall(r'aria-label="Shot \d+: ([^,]+),', contents["view"]["value"])
    assert names == [span.shot.name for span in result.decision.spans]
    edl = Path(contents["edl"]["value"]).read_text()
    # A visitor finds the film by its name, and not by a path of the server.
    assert "FROM CLIP: stage-4.mp4" in edl and "file:" not in edl
    again = json.loads(Path(contents["json"]["value"]).read_text())
    assert [one["frames"] for one in again["shots"]] == [
        [span.start, span.stop] for span in result.decision.spans
    ]


def test_a_shot_is_pressed_and_no_film_is_made_again(page, state):
    first = page.contents({**state, "shown": ""})
    pressed = after(page, {**state, "shown": first["shown"]["value"]}, "shot 3")
    assert pressed["chosen"] == "3"
    contents = page.contents(pressed)
    assert "Shot 3, " in contents["view"]["value"]
    assert {"after", "before", "edl"}.isdisjoint(contents)
    # The same edit is asked for again: its film is still there.
    assert page.contents({**state, "shown": ""})["after"] == first["after"]
    with pytest.raises(ValueError, match="no shot 99"):
        page.contents({**state, "chosen": "99"})
    with pytest.raises(ValueError, match="no 'dance'"):
        page.picked("dance", state)


def test_sliders_and_locks_change_the_edit_at_once(page, state):
    base = page.contents({**state, "shown": ""})["view"]["value"]
    fewer = page.contents({**state, "transition_weight": 5.0, "shown": ""})["view"]["value"]
    assert fewer.count('data-pick="shot') <= base.count('data-pick="shot')
    locked = page.contents({**state, "locks": "8.0-10.0=MS:ben", "shown": ""})
    assert locked["view"]["value"] != base
    with pytest.raises(ValueError, match="' is not a lock; write it as '12"):
        page.contents({**state, "locks": "now", "shown": ""})
    code = page.code({**state, "transition_weight": 5.0, "locks": "8.0-10.0=MS:ben"})
    assert 'locks=["8.0-10.0=MS:ben"]' in code and "transition_weight=5.0" in code


def test_a_film_is_sent_with_its_transcript_and_told_about(page, state, sent):
    scene, film = sent
    given = {**state, "film": film, "transcript": scene.srt(), "cast": "Anna, Ben", "shown": ""}
    contents = page.contents(given)
    assert "The film has no sound." in contents["notes"]["value"]
    assert FilmFile.open(contents["after"]["value"]).num_frames == scene.num_frames
    assert "my talk.mp4" in Path(contents["otio"]["value"]).read_text()
    assert str(film.path.parent) not in Path(contents["otio"]["value"]).read_text()
    assert 'edit("my talk.mp4"' in page.code(given) or '"my talk.mp4",' in page.code(given)
    nobody = {**given, "transcript": ""}
    assert page.contents(nobody)["subtitles"] == {"value": None, "visible": False}
    assert "no dialogue" in page.contents(nobody)["notes"]["value"]
    assert after(page, given, "another")["film"] is None


def test_films_that_a_page_does_not_take(page, state, sent, tmp_path, monkeypatch):
    _, film = sent
    (tmp_path / "a.mp4").write_bytes(b"no film")
    bad = UploadedFilm(tmp_path / "a.mp4", "holiday.mp4")
    with pytest.raises(ValueError, match=r"is not a readable film, or is damaged") as error:
        page.contents({**state, "film": bad})
    assert str(tmp_path) not in str(error.value)
    with pytest.raises(ValueError, match="no longer on the server"):
        page.contents({**state, "film": UploadedFilm(tmp_path / "gone.mp4", "gone.mp4")})
    large = tmp_path / "large.mp4"
    with large.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ValueError, match="MB; this page accepts at most 64 MB"):
        page.contents({**state, "film": UploadedFilm(large, "large.mp4")})
    monkeypatch.setattr("salhub.models.editiq.page_editiq._LONGEST_SECONDS", 5)
    with pytest.raises(ValueError, match="pixels; this page accepts up to 5 s at 3840x2160"):
        page.contents({**state, "film": film, "cast": "A, B"})
    with pytest.raises(ValueError, match=r"^The transcript cannot be read as subtitles"):
        page.contents({**state, "transcript": "Dear all, this is prose."})
    with pytest.raises(ValueError, match="no sample scene"):
        page.contents({**state, "seed": "-1"})


def test_a_program_asks_for_an_edit(page):
    film, found = page.edit(4, "8.0-10.0=MS:ben")
    assert FilmFile.open(film).size == (640, 360)
    assert found["shots"][0]["shot"] == "WIDE" and found["frame_rate"] == "25/2"
    with pytest.raises(ValueError, match="seed"):
        page.edit(-3)


def test_only_what_was_sent_is_opened(tmp_path):
    import gradio as gr
    from gradio.data_classes import FileData

    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"")
    box = FilmInput()
    assert box.preprocess(None) is None
    with pytest.raises(gr.Error, match="Send the film as an upload"):
        box.preprocess(FileData(path=str(secret), orig_name="a.mp4"))
