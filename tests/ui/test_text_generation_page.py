"""The page of language models, without a server."""

import contextlib
import io

import pytest

from salhub.entries import network_entry
from salhub.ui import build_page
from salhub.ui.text_generation import TextGenerationPage
from tests import small_llama


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = str(small_llama.save(tmp_path_factory.mktemp("models") / "small-llama"))
    found = TextGenerationPage(folder, network_entry(folder))
    found.build()
    return found


def state(page, **changes):
    return {name: one.value for name, one in page.inputs.items()} | changes


def test_a_text_is_continued_before_the_first_press(page):
    assert page.display_title == "small-llama"
    written = page.components["written"].value
    result = page.pipeline("The film", max_new_tokens=32, temperature=0.8, seed=0)
    text, _ = page.continue_text("The film", 32)
    assert "<strong>The film</strong>" in written and text == result.text
    assert "Sampled with temperature 0.8 and seed 0." in page.components["notes"].value
    assert page.components["max_new_tokens"].maximum == 32


def test_the_program_writes_what_is_in_sight(page):
    given = state(page, text='He said "no"\n', seed=3, max_new_tokens=6.0, temperature=1)
    written, code = page.values_of(given, "written", "code")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {})
    text, facts = page.continue_text('He said "no"\n', 6, 1, 3)
    assert said.getvalue() == f"{text}\n" and facts["text"] == text
    assert "<strong>He said &quot;no&quot;\n</strong>" in written
    assert "seed=3" in code and "max_new_tokens=6" in code


def test_samples_are_put_where_a_text_is_written_and_nothing_becomes_markup(page):
    assert page.picked("A story", state(page)) == {"text": "Once there was a king who"}
    [written] = page.values_of(state(page, text="<img src=x>"), "written")
    assert "&lt;img src=x&gt;" in written and "<img" not in written
    with pytest.raises(ValueError, match="There is no text yet; type or paste one"):
        page.query(state(page, text="  "))
    with pytest.raises(TypeError, match="seed must be a number, got None"):
        page.continue_text("The film", 3, 1, None)


def test_any_language_model_has_the_page(page):
    blocks = build_page(page.name)
    assert blocks.title == "small-llama"
    public = [one.api_name for one in blocks.fns.values() if one.api_visibility == "public"]
    assert public == ["continue_text"]
