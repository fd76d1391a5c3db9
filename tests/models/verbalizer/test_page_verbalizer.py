"""The page of the verbalizer: it shows what the pipeline finds, and its code does the same."""

import json
import re
from html import unescape

import pytest

import salhub
from salhub.data.text_sources import load_text
from salhub.entries import MODELS
from salhub.models.verbalizer.page_verbalizer import Page

NAME = "salhub/verbalizer-movie-reviews"


@pytest.fixture(scope="module")
def page():
    return Page(NAME, MODELS["verbalizer"])


def test_the_answer_is_that_of_the_pipeline_and_settings_do_not_stay(page):
    review = load_text("sample:review")
    plain = page.verbalize(review)
    other = page.verbalize(review, "Film reviews", "negative", 3, "de")
    assert page.verbalize(review) == plain
    assert plain[0] == salhub.pipeline(NAME)(review).text
    changed = salhub.pipeline(NAME, max_words=3, language="de")
    assert other[0] == changed(review, contrast="negative").text
    assert json.loads(plain[5])["text"] == plain[0]
    news = page.verbalize("Oil prices fall again.", "News")
    assert news[0].startswith("Classified as Business ")


def test_the_code_says_the_same(page, tmp_path, monkeypatch, capsys):
    review = load_text("sample:review")
    (tmp_path / "text.txt").write_text(review, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for settings in ((), ("Film reviews", "negative", 4, "fr"), ("News",)):
        said, *_, code, _ = page.verbalize(review, *settings)
        exec(compile(code, "page", "exec"), {})
        assert capsys.readouterr().out.strip() == said


def test_a_doubt_is_what_a_visitor_reads_first(page):
    said, *_, record = page.verbalize("Der Film war grauenhaft")
    assert said.startswith("Doubtful: ") and '"doubt": "Doubtful: ' in record


def test_nothing_in_a_text_becomes_markup(page):
    text = '<script>alert(1)</script> wonderful <img src=x onerror="alert(1)"> & <b>moving</b>'
    _, shaded, phrases, audit, _, _ = page.verbalize(text)
    for html in (shaded, phrases, audit):
        assert "<script" not in html and "<img" not in html and "<b>moving" not in html
    plain = unescape(re.sub(r"<[^>]*>", "", shaded.partition("</p>")[2]))
    assert plain == text


def test_mistakes_get_one_sentence(page):
    with pytest.raises(ValueError, match="There is no text"):
        page.verbalize("  \n ")
    with pytest.raises(
        ValueError, match="the limit on this page is 20000; use salhub run for longer"
    ):
        page.verbalize("a" * (Page.most_characters + 1))
    with pytest.raises(ValueError, match=r"language.*one of"):
        page.verbalize("A text.", language="it")
    with pytest.raises(ValueError, match="There is no classifier 'Songs'"):
        page.verbalize("A text.", "Songs")
    assert page.verbalize("A wonderful text.")[0]


def test_another_classifier_gets_a_text_of_its_own_kind(page):
    page.build()
    state = page.first_state
    assert state["text"] == load_text("sample:review")
    moved = page.consequences({**state, "classifier": "News"}, ["classifier"])
    assert moved == {"text": load_text("sample:news")}
    own = {**state, "classifier": "News", "text": "My own."}
    assert page.consequences(own, ["classifier"]) == {}
    assert page.picked("News", state) == {**moved, "classifier": "News"}


def test_a_rival_of_another_classifier_is_let_go(page):
    page.build()
    state = {**page.first_state, "contrast": "negative"}
    answer = page._respond(state, {"classifier": "News"})
    assert answer[page.state]["contrast"] == "nothing"
    said = answer[page.outputs["said"]]["value"]
    assert said.startswith("Classified as Business ")
    # It may still stand on a page that stayed open.
    stale = page._respond(answer[page.state], {"contrast": "negative"})
    assert "no class &#x27;negative&#x27;" in stale[page.outputs["notice"]]["value"]
    assert stale[page.outputs["said"]]["value"] == ""


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), [3]])
def test_a_number_that_is_none_gets_one_sentence(page, value):
    with pytest.raises(TypeError, match="max_words must be a number, got"):
        page.verbalize("A wonderful text.", max_words=value)
    page.build()
    answer = page._respond(page.first_state, {"max_words": value})
    assert "Maximum number of words must be a number" in answer[page.outputs["notice"]]["value"]


def test_a_list_of_classifiers_gets_one_sentence(page):
    with pytest.raises(ValueError, match=r"There is no classifier '\['News'\]'"):
        page.verbalize("A wonderful text.", ["News"])
    page.build()
    answer = page._respond(page.first_state, {"classifier": ["News"]})
    assert "Classifier has no option" in answer[page.outputs["notice"]]["value"]


def test_a_link_says_only_what_was_changed(page):
    page.build()
    answer = page._respond(page.first_state, {"max_words": 5})
    assert answer[page.outputs["link"]]["value"] == "max_words=5"
    answer = page._respond(answer[page.state], {"contrast": "negative"})
    assert "contrast=negative" in answer[page.outputs["link"]]["value"]
