# ruff: noqa: RUF001 - letters of other languages are meant
"""Texts that a classifier cannot know carry a sentence of doubt, and ordinary ones do not."""

import json

import numpy as np
import pytest

import salhub
from salhub.data.labelled_texts import read_labelled_texts
from salhub.models.verbalizer.doubt import vocabulary_of
from salhub.models.verbalizer.evaluation_verbalizer import test_texts as held_out
from tests.conftest import DATA
from tests.models.verbalizer.networks import bert, bert_tokenizer

MOVIES, NEWS = "salhub/verbalizer-movie-reviews", "salhub/verbalizer-news-topics"
STRANGE = [
    "Ich fand die Schauspieler leider völlig unglaubwürdig.",
    "Une histoire drôle et touchante, à voir absolument",
    "Esta serie no vale nada, qué aburrimiento",
    "Una storia noiosa con attori mediocri",
    "Um enredo fraco mas com boas atuações",
    "Een prachtige film over vriendschap en verlies",
    "Skuespillerne var gode, men historien var kjedelig",
    "Nudny i przewidywalny, szkoda czasu",
    "Senaryo zayıf ama oyunculuk harika",
    "Näyttelijät olivat loistavia",
    "Jalan ceritanya lambat dan membingungkan",
    "Скучно и предсказуемо, не тратьте время",
    "剧情拖沓，演员的表演也很一般",
    "俳優の演技は素晴らしかったが脚本が弱い",
    "배우들의 연기가 훌륭했다",
    "القصة مملة والتمثيل ضعيف",
    "השחקנים היו מצוינים",
    "कहानी धीमी है लेकिन अभिनय अच्छा है",
    "Η πλοκή ήταν βαρετή",
    "นักแสดงเล่นดีมาก",
    "public static void main(String[] args) { System.out.println(1); }",
    "for row in rows:\n    total += row['price'] * row['count']\nreturn total",
    "SELECT title, year FROM films WHERE rating > 7 ORDER BY year DESC;",
    '<a href="/films/12" class="link">Next</a>',
    "npm install --save-dev eslint && npm run build",
    '[{"id": 1, "tags": ["a", "b"]}, {"id": 2, "tags": []}]',
    "k",
    "Q.",
    "8",
    "19.99 24.50 3,000 17",
    "+1 (555) 010-9999",
    "https://films.example.net/reviews?id=88&sort=new",
    "www.example.com/a/b/c.html",
    "someone.else@mail.example.org",
    "😭😭💔",
    "🍿🎥👏👏",
    "sdfg hjkl wert zuio",
    "lkjhgfdsa mnbvcxy",
    "oooooooooooo",
    "?!?!?!",
]
ORDINARY = {
    MOVIES: [
        "A wonderful film, but far too long.",
        "It isn't the worst comedy of the year, though it tries hard.",
        "great acting",
        "The plot makes no sense and the jokes fall flat.",
        "I've seen it three times, and I'd see it again!",
    ],
    NEWS: [
        "Oil prices fall again.",
        "The team won the cup after extra time in Madrid on Sunday.",
        "Shares of the company rose 3.5% to $41.20 after it raised its forecast (Reuters).",
        "Researchers at the university say a new chip needs half the power.",
    ],
}


@pytest.fixture(scope="module", params=[MOVIES, NEWS])
def explain(request):
    return salhub.pipeline(request.param, attribution="gradient_x_input")


def test_each_strange_text_carries_its_sentence(explain):
    assert len(STRANGE) == 40
    for text, result in zip(STRANGE, explain(STRANGE), strict=True):
        assert result.doubt and result.doubt.startswith("Doubtful: "), text
        assert result.text.startswith(result.doubt) and result.to_dict()["doubt"] == result.doubt
        assert result.audit["is_faithful"]


def test_ordinary_texts_carry_none(explain):
    texts = ORDINARY[explain.model.config.name_or_path]
    for text, result in zip(texts, explain(texts), strict=True):
        assert result.doubt is None and "Doubtful" not in result.text, text
        assert result.to_dict()["doubt"] is None


@pytest.mark.parametrize(("name", "file"), [(MOVIES, "sst2_test.tsv"), (NEWS, "ag_news_test.csv")])
def test_of_texts_that_were_not_learned_hardly_one_is_doubted(name, file):
    path = DATA / "text" / file
    if not path.is_file():
        pytest.skip(f"there is no {path}; set SALHUB_DATA to the folder above it")
    explain = salhub.pipeline(name, attribution="gradient_x_input")
    texts = held_out(explain.model, read_labelled_texts(path)).texts
    drawn = np.random.default_rng(1).permutation(len(texts))[:200]
    doubted = [one.doubt for one in explain([texts[place] for place in drawn]) if one.doubt]
    assert len(doubted) <= 4


def test_the_sentence_is_in_the_language_of_the_others_and_on_paper(tmp_path, caplog):
    explain = salhub.pipeline(MOVIES, language="de")
    result = explain("Der Film war grauenhaft")
    assert result.text.startswith("Zweifelhaft: ") and "Zweifelhaft" in caplog.text
    page = result.save(tmp_path / "page.html").read_text(encoding="utf-8")
    record = json.loads(result.save(tmp_path / "told.json").read_text(encoding="utf-8"))
    assert "Zweifelhaft: " in page and record["text"] == result.text
    long = explain("Ein wunderbarer Film. " * 300)
    assert long.text.endswith("Nur der Anfang des Textes wurde gelesen.")


def test_a_vocabulary_says_what_it_was_made_for():
    film = salhub.pipeline(MOVIES).tokenizer
    known = vocabulary_of(film)
    assert known.has_words and known.is_of_one_language
    assert "the" in known.own and any("und" in one for one in known.foreign)
    # Letters alone tell nothing of languages.
    letters = vocabulary_of(bert_tokenizer())
    assert not letters.has_words and not letters.own and not letters.is_of_one_language


def test_a_classifier_of_your_own_is_doubted_where_its_vocabulary_knows_nothing():
    explain = salhub.pipeline("verbalizer", classifier=bert(), tokenizer=bert_tokenizer())
    assert explain("a good plot.").doubt is None
    assert "does not know many of the words" in explain("这部电影 很好").text
    assert "too few words" in explain("x").text
