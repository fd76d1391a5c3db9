"""The page: what it shows is what the pipeline finds, and clips go where they are sent."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import salhub
from salhub.entries import MODELS
from salhub.models.sdl_seg.clip_edits import ClipEdits
from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig
from salhub.models.sdl_seg.modeling_sdl_seg import SDLSegForVolumeSegmentation

pytest.importorskip("gradio", reason="the pages need the extra 'demo'")

from salhub.models.sdl_seg.page_sdl_seg import Page, phantom_of


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    torch.manual_seed(0)
    config = SDLSegConfig(channels=[4, 8], anisotropic_levels=1, foreground_prior=0.5)
    folder = tmp_path_factory.mktemp("model")
    SDLSegForVolumeSegmentation(config).save_pretrained(folder)
    page = Page(str(folder), MODELS["sdl_seg"])
    page.build()
    return page


@pytest.fixture
def state(page):
    return dict(page.first_state)


def after(page, state, pick):
    """The state after a press, with all that follows from it."""
    found = page.picked(pick, state)
    moved = [name for name in found if found[name] != state[name]]
    given = {**state, **found}
    return {**given, **page.consequences(given, moved)}


def test_something_is_there_before_the_first_press(page, state):
    shown = page.components["viewer"].value
    assert "data:image/webp" in shown and shown.count("<tr") == 1 + len(page.found_clips(0))
    assert "Dice" in page.components["facts"].value
    assert page.components["code"].value.startswith("import salhub")
    assert state["slice"] == phantom_of(0).mask.sum(axis=(1, 2)).argmax()


def test_it_shows_what_the_pipeline_finds(page, state):
    result = salhub.pipeline(page.name)("sample:phantom-0", threshold=0.45)
    contents = page.contents({**state, "threshold": 0.45})
    assert f"{result.volume_cc:.1f} cm³" in contents["facts"]["value"]
    assert f"{result.scores['dice']:.2f}" in contents["facts"]["value"]
    _, found = page.segment(0, "", 8.0, 0.45)
    assert found == {**result.to_dict(), "model": found["model"]}


def test_a_clip_is_moved_and_taken_away_and_the_answer_follows(page, state):
    clips = page.found_clips(0)
    state = after(page, state, "choose 2")
    assert state["slice"] == round(clips[1, 0])
    for pick in ("left", "left", "up", "head"):
        state = after(page, state, pick)
    assert ClipEdits.read(state["edits"]).moves == {2: (2.0, 2.0, 4.0)}
    state = after(page, state, "toggle 1")
    expected = clips[1:].copy()
    expected[0] += np.array([2.0, 2.0, 4.0]) / (3.0, 1.5, 1.5)
    result = page.answer(0, state["edits"], {})
    np.testing.assert_allclose(result.markers, expected, atol=0.006)
    contents = page.contents(state)
    assert "with the original clips" in contents["facts"]["value"]
    assert f"{len(clips) - 1} of {len(phantom_of(0).markers)}" in contents["facts"]["value"]
    assert 'aria-label="Put back clip 1"' in contents["viewer"]["value"]
    assert (page.answer(0, "", {}).mask != result.mask).any()
    # And back again.
    assert after(page, state, "toggle 1")["edits"] == "2:2,2,4"
    assert after(page, state, "reset")["edits"] == ""


def test_a_press_in_the_slice_chooses_a_clip_or_brings_the_chosen_one(page, state):
    clips = page.found_clips(0)
    z, y, x = clips[0]
    state["slice"] = round(z)
    # As it is drawn: the patient's right on the left, the front on top.
    at = f"at {1 - (x + 0.5) / 96:.4f} {1 - (y + 0.5) / 96:.4f}"
    state = after(page, state, at)
    assert state["chosen"] == "1" and state["edits"] == ""
    state = after(page, state, "at 0.3000 0.6000")
    [moved] = page.places(0, state["edits"])[:1]
    np.testing.assert_allclose(moved, [round(z), 95 - (0.6 * 96 - 0.5), 95 - (0.3 * 96 - 0.5)],
                               atol=0.06)  # fmt: skip


def test_another_phantom_has_its_clips_as_they_were_found(page, state):
    state = after(page, after(page, state, "choose 1"), "left")
    other = after(page, state, "another")
    assert (other["seed"], other["edits"], other["chosen"]) == (1, "", "0")
    assert other["slice"] == phantom_of(1).mask.sum(axis=(1, 2)).argmax()


def test_the_code_finds_the_same(page, state, tmp_path, monkeypatch, capsys):
    pytest.importorskip("nibabel", reason="NIfTI needs the extra 'medical'")
    monkeypatch.chdir(tmp_path)
    for edits, sigma in (("", 8.0), ("1:0,4,-2 3:off", 6.0)):
        query = {**state, "edits": edits, "sigma_d_mm": sigma}
        exec(compile(page.code(query), "page", "exec"), {})
        expected = page.answer(0, ClipEdits.read(edits).write(), page._settings(query))
        assert capsys.readouterr().out.strip() == expected.summary()
        assert (tmp_path / "bed.nii.gz").exists()


def test_files_are_those_of_the_answer(page, state):
    nib = pytest.importorskip("nibabel", reason="NIfTI needs the extra 'medical'")
    contents, result = page.contents(state), page.answer(0, "", {})
    mask = np.asarray(nib.load(contents["nifti"]["value"]).dataobj)
    np.testing.assert_array_equal(mask.T.astype(bool), result.mask)
    polygons = json.loads(Path(contents["polygons"]["value"]).read_text(encoding="utf-8"))
    assert polygons == json.loads(json.dumps(result.to_dict()))


MISTAKES = {
    "choose 99": r"There is no clip '99'; there are \d+",
    "toggle x": "There is no clip 'x'",
    "left": "No clip is chosen; choose one in the table first",
    "at 0.1 0.1": "No clip is chosen; click a ring, or choose one in the table",
    "at here": "needs two numbers",
    "at 3 4": "lies outside the slice, whose coordinates run from 0 to 1",
    "fly": "There is no 'fly' to open",
}


@pytest.mark.parametrize(("pick", "sentence"), MISTAKES.items(), ids=MISTAKES)
def test_presses_that_lead_nowhere_get_one_sentence(page, state, pick, sentence):
    with pytest.raises(ValueError, match=sentence):
        page.picked(pick, state)


def test_the_last_clip_stays(page, state):
    for number in range(1, len(page.found_clips(0))):
        state = after(page, state, f"toggle {number}")
    with pytest.raises(ValueError, match="At least one clip must remain; the network cannot work"):
        page.picked(f"toggle {len(page.found_clips(0))}", state)


def test_what_a_program_sends_is_checked(page):
    with pytest.raises(ValueError, match="'<b>' is not a valid change"):
        page.segment(0, "<b>")
    with pytest.raises(ValueError, match="There is no clip 99"):
        page.segment(0, "99:off")
    with pytest.raises(ValueError, match="seed"):
        page.segment(-1)
    with pytest.raises((ValueError, TypeError), match="threshold"):
        page.segment(0, "", 8.0, 7.0)


def test_changes_are_read_as_they_are_written():
    text = "1:0,0.5,-2 3:1,1,1 2:off 4:off"
    assert ClipEdits.read(text).write() == text
    assert ClipEdits.read(text).toggled(2).toggled(2) == ClipEdits.read(text)
    assert ClipEdits().moved(1, (1, 0, 0)).moved(1, (-1, 0, 0)).write() == ""
    for wrong in ("1", "1:", "1:2,3", "x:off", "1:nan,0,0", "1:a,b,c"):
        with pytest.raises(
            ValueError, match="' is not a valid change; write 2:0,4,-2 to move clip 2 by"
        ):
            ClipEdits.read(wrong)


def test_all_that_is_pressed_has_a_name(page):
    shown = page.components["viewer"].value
    for button in re.findall(r"<button[^>]*>(.*?)</button>", shown):
        assert button.strip()
    assert re.search(r'<img [^>]*alt="Slice \d+ of the CT', shown)
