"""The page of LexRank: what it shows is what the pipeline finds, and its code does the same."""

import re
from concurrent.futures import ThreadPoolExecutor
from html import unescape

import pytest

import salhub
from salhub.data.text_sources import load_text
from salhub.entries import MODELS
from salhub.models.lexrank.page_lexrank import Page

NAME = "salhub/lexrank-news-en"


@pytest.fixture(scope="module")
def page():
    return Page(NAME, MODELS["lexrank"])


def test_the_answer_is_that_of_the_pipeline_and_settings_do_not_stay(page):
    article = load_text("sample:article")
    plain = page.summarise(article)
    other = page.summarise(article, 2, "rust in the steel", 0.1, 0.5, False)
    assert page.summarise(article) == plain
    pipeline = salhub.pipeline(NAME)
    assert plain[0] == pipeline(article).text
    changed = salhub.pipeline(NAME, threshold=0.1, damping=0.5, redundancy=None)
    assert other[0] == changed(article, budget=2, query="rust in the steel").text


def test_the_code_says_the_same_summary(page, tmp_path, monkeypatch, capsys):
    article = load_text("sample:article")
    (tmp_path / "text.txt").write_text(article, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for settings in ((), (2, "shops", 0.1, 0.6, False)):
        summary, *_, code = page.summarise(article, *settings)
        exec(compile(code, "page", "exec"), {})
        assert capsys.readouterr().out.strip() == summary


def test_the_code_for_several_texts_says_the_same_too(page, tmp_path, monkeypatch, capsys):
    texts = ["The old bridge is shut.\n-----\nPeople walk.\n", "The old bridge, shut.", "Cats."]
    summary, *_, code = page.summarise("\n---\n".join(texts), 1)
    monkeypatch.chdir(tmp_path)
    for number, text in enumerate(texts, 1):
        (tmp_path / f"text{number}.txt").write_text(text, encoding="utf-8")
    exec(compile(code, "page", "exec"), {})
    assert capsys.readouterr().out.strip() == summary


def test_nothing_in_a_text_becomes_markup(page):
    text = (
        '<script>alert(1)</script> is old. The <b>old</b> bridge is old & shut.\n---\nOld "cats".'
    )
    _, shaded, reasons, others, _ = page.summarise(text)
    for html in (shaded, reasons, others):
        assert "<script" not in html and "<b>" not in html
        assert "&lt;" in html
    plain = unescape(re.sub(r"<[^>]*>", "", shaded))
    assert plain == text.replace("---", "")


def test_two_visitors_at_once_each_get_their_own_answer(page):
    article = load_text("sample:article")
    asked = [(3, "", 0.0, 0.85, True), (2, "", 0.1, 0.3, False)] * 6
    alone = [page.summarise(article, *settings)[0] for settings in asked[:2]] * 6
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda settings: page.summarise(article, *settings)[0], asked))
    assert together == alone and alone[0] != alone[1]


def test_mistakes_get_one_sentence(page):
    with pytest.raises(ValueError, match="There is no text"):
        page.summarise("  \n ")
    with pytest.raises(
        ValueError, match="the limit on this page is 200000; use salhub run for longer"
    ):
        page.summarise("a" * (Page.most_characters + 1))
    with pytest.raises(ValueError, match="threshold must be"):
        page.summarise("A text.", threshold=2)
    assert page.summarise("A text.")[0] == "A text."  # nothing of the mistake stays
