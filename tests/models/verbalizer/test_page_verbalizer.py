"""The page of the verbalizer: it shows what the pipeline finds, and its code does the same."""

import json
import re
from html import unescape

import pytest

import salhub
from salhub.data.text_sources import load_text
from salhub.entries import MODELS
from salhub.models.verbalizer.page_verbalizer import MOST_CHARACTERS, Page, _amount

NAME = "salhub/verbalizer-movie-reviews"


@pytest.fixture(scope="module")
def page():
    return Page(NAME, MODELS["verbalizer"])


def test_the_answer_is_that_of_the_pipeline_and_settings_do_not_stay(page):
    review = load_text("sample:review")
    plain = page.answer(review)
    other = page.answer(review, "Film reviews", "negative", 3, "de")
    assert page.answer(review) == plain
    assert plain[0] == salhub.pipeline(NAME)(review).text
    changed = salhub.pipeline(NAME, max_words=3, language="de")
    assert other[0] == changed(review, contrast="negative").text
    assert json.loads(plain[5])["text"] == plain[0]
    news = page.answer("Oil prices fall again.", "News")
    assert news[0].startswith("Classified as Business ")


def test_the_code_says_the_same(page, tmp_path, monkeypatch, capsys):
    review = load_text("sample:review")
    (tmp_path / "text.txt").write_text(review, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for settings in ((), ("Film reviews", "negative", 4, "fr"), ("News",)):
        said, *_, code, _ = page.answer(review, *settings)
        exec(compile(code, "page", "exec"), {})
        assert capsys.readouterr().out.strip() == said


def test_nothing_in_a_text_becomes_markup(page):
    text = '<script>alert(1)</script> wonderful <img src=x onerror="alert(1)"> & <b>moving</b>'
    _, shaded, phrases, audit, _, _ = page.answer(text)
    for html in (shaded, phrases, audit):
        assert "<script" not in html and "<img" not in html and "<b>" not in html
    plain = unescape(re.sub(r"<[^>]*>", "", shaded.partition("</p>")[2]))
    assert plain == text


def test_mistakes_get_one_sentence(page):
    with pytest.raises(ValueError, match="There is no text"):
        page.answer("  \n ")
    with pytest.raises(ValueError, match="at most 20000 are read here"):
        page.answer("a" * (MOST_CHARACTERS + 1))
    with pytest.raises(ValueError, match=r"language.*one of"):
        page.answer("A text.", language="it")
    with pytest.raises(ValueError, match="There is no classifier 'Songs'"):
        page.answer("A text.", "Songs")
    assert page.answer("A wonderful text.")[0]


def test_absurd_shares_are_said_in_words():
    assert _amount(-23.3) == "more than all that speaks for it"
    assert _amount(-0.4) == "-40 %" and _amount(0.6) == "60 %"
