"""From texts to a summary: sentences with places, budgets, repetitions, orders."""

import itertools
import sys

import numpy as np
import pytest

from salhub import LexRankConfig, LexRankModel
from salhub.data.text_sources import load_text
from salhub.models.lexrank import sentence_splitting
from salhub.models.lexrank.sentence_selection import Budget, select_sentences
from salhub.models.lexrank.sentence_splitting import split_sentences
from salhub.models.lexrank.similarity_graph import SentenceFeatures
from salhub.models.lexrank.summarizing import summarize
from salhub.models.lexrank.words import words_of

ARTICLE = load_text("sample:article")
SCRIPTS = {
    "ar": "الجسر القديم مغلق. سيعبر الناس الجسر الجديد؟ القطط تنام.",
    "zh": "旧桥已经关闭。人们走新桥。猫在睡觉。",
    "hi": "पुराना पुल बंद है। लोग नए पुल से जाएंगे। बिल्लियाँ सोती हैं।",
    "en": "🙂 The <b>old</b> bridge &amp; co. is shut! People take the new bridge 🌉. Cats sleep.",
}


def model(**settings) -> LexRankModel:
    return LexRankModel(LexRankConfig(**{"idf": "uniform", **settings}))


# --- sentences and words ------------------------------------------------------------------------


@pytest.mark.parametrize("splitter", ["sentencex", "punctuation"])
@pytest.mark.parametrize("language", SCRIPTS)
def test_every_sentence_is_a_slice_of_its_text_in_any_script(language, splitter):
    text = f"\n  {SCRIPTS[language]}\n\n"
    spans = split_sentences(text, language, splitter)
    assert len(spans) >= 3
    for span in spans:
        assert span.of(text) == span.of(text).strip() != ""
    # Nothing but white space lies between them.
    rest = "".join(text[a.end : b.start] for a, b in itertools.pairwise(spans))
    assert not rest.strip()
    found = summarize(model(language=language, splitter=splitter), text, budget=2)
    for sentence in found.sentences:
        assert text[sentence.start : sentence.end] == sentence.text
    assert len(found.chosen) == 2


def test_abbreviations_are_no_ends_of_sentences_and_empty_lines_are():
    text = "Dr. Fenner paid $5.2 million. A heading\n\nThe text below it"
    assert [span.of(text) for span in split_sentences(text)] == [
        "Dr. Fenner paid $5.2 million.", "A heading", "The text below it",
    ]  # fmt: skip
    assert split_sentences(" \n ") == []


def test_words_of_scripts_with_marks_and_without_spaces():
    assert words_of("बिल्लियाँ सोती") == ["बिल्लियाँ", "सोती"]
    assert words_of("旧桥 新桥路") == ["旧桥", "新桥", "桥路"]
    assert words_of("naïve_café x2 桥") == ["naïve", "café", "x2", "桥"]


def test_without_sentencex_sentences_end_at_full_stops_and_a_warning_says_so(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "sentencex", None)
    sentence_splitting._warn_once.cache_clear()
    text = "Dr. Fenner walked. She was glad."
    for _ in range(2):
        found = split_sentences(text)
    assert found == split_sentences(text, splitter="punctuation") and len(found) == 3
    [warning] = [r.message for r in caplog.records if "full stop" in r.message]
    assert "pip install 'salhub[text]'" in warning


# --- budgets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "amount", "unit"),
    [
        (3, 3, "sentences"), ("2 sentences", 2, "sentences"), ("100w", 100, "words"),
        ("100 Words", 100, "words"), ("665c", 665, "characters"), ("20%", 0.2, "ratio"),
        (0.25, 0.25, "ratio"), ("0.25", 0.25, "ratio"), (1, 1, "sentences"),
        (np.int64(2), 2, "sentences"),
    ],
)  # fmt: skip
def test_lengths_as_people_write_them(written, amount, unit):
    assert Budget.read(written) == Budget(pytest.approx(amount), unit)


@pytest.mark.parametrize(
    ("written", "error", "words"),
    [
        ("many", ValueError, "is not a length; write 100w"),
        ("5 pages", ValueError, "is not a length"),
        (0, ValueError, "1 or more, got 0"), ("0w", ValueError, "1 or more"),
        ("200%", ValueError, "at most the whole text"), ("1.5w", ValueError, "whole number"),
        (True, TypeError, "a number or a text"), (None, TypeError, "a number or a text"),
    ],
)  # fmt: skip
def test_what_is_no_length_is_refused(written, error, words):
    with pytest.raises(error, match=words):
        Budget.read(written)


def test_summaries_keep_to_their_budget_whatever_it_is_in():
    for budget, size in (
        ("60w", lambda text: len(text.split()) <= 60),
        ("300c", lambda text: len(text) <= 300),
        (4, lambda text: len(split_sentences(text)) == 4),
        ("10%", lambda text: len(text.split()) <= len(ARTICLE.split()) / 10),
    ):
        found = summarize(model(), ARTICLE, budget=budget)
        assert found.text and size(found.text), budget
    everything = summarize(model(redundancy=None), ARTICLE, budget="9999w")
    assert len(everything.chosen) == len(everything.sentences)
    # Two sentences and the space between them, in one line each.
    pair = "The  old bridge\nis shut. Cats sleep."
    assert summarize(model(), pair, budget="35c").text == "The old bridge is shut. Cats sleep."
    assert len(summarize(model(), pair, budget="34c").text) <= 34
    # Something is always there, cut where no sentence fits.
    found = summarize(model(), ARTICLE, budget="1w")
    assert len(found.chosen) == 1 and len(found.text.split()) == 1 and found.text.endswith("…")


# --- selection ----------------------------------------------------------------------------------


def features(similarity) -> SentenceFeatures:
    """Vectors that have these similarities."""
    values, vectors = np.linalg.eigh(np.array(similarity))
    return SentenceFeatures((vectors * np.sqrt(np.maximum(values, 0)),))


SIMILAR = [[1, 0.9, 0.1, 0.2], [0.9, 1, 0.1, 0.3], [0.1, 0.1, 1, 0.6], [0.2, 0.3, 0.6, 1]]
SCORES = np.array([0.4, 0.35, 0.15, 0.1])


def select(redundancy, limit=0.5, words=((),) * 4, most=3):
    return select_sentences(
        SCORES,
        [1] * 4,
        most,
        features(SIMILAR),
        words,
        redundancy=redundancy,
        redundancy_limit=limit,
    )


def test_repetitions_are_passed_over_and_told():
    assert select(None).places == [0, 1, 2]
    found = select("cosine", most=2)
    assert found.places == [0, 2]
    assert [(r.place, r.of) for r in found.repetitions] == [(1, 0)]
    assert [r.similarity for r in found.repetitions] == pytest.approx([0.9])
    assert select("cosine", limit=0.95).places == [0, 1, 2]
    # What resembles a chosen one fills the room that is left, and what says the same does not.
    found = select("cosine", most=4)
    assert found.places == [0, 2, 3] and [r.place for r in found.repetitions] == [1]


def test_maximal_marginal_relevance_equals_its_formula():
    chosen, scaled = [], SCORES / SCORES.max()
    for _ in range(3):
        rest = [place for place in range(4) if place not in chosen]

        def value(place):
            nearest = max((SIMILAR[place][other] for other in chosen), default=0)
            return 0.5 * (scaled[place] - nearest)

        chosen.append(max(rest, key=value))
    assert select("mmr", limit=0.5).places == chosen == [0, 2, 1]


def test_common_words_are_taken_off_by_csis():
    words = (("a", "b"), ("a", "b"), ("c", "d"), ("a", "c"))
    # The second has all words of the first: 0.875 - 1; the third none, the fourth one of two.
    assert select("csis", words=words).places == [0, 2, 1]


def test_a_sentence_that_is_too_long_for_what_is_left_is_passed_over():
    found = select_sentences(
        SCORES, [5, 9, 3, 2], 8, features(SIMILAR), (), redundancy=None, redundancy_limit=0.5
    )
    assert found.places == [0, 2]


def test_where_no_sentence_fits_the_best_is_cut_and_else_passed_over():
    def chosen(limit):
        return select_sentences(
            SCORES,
            [5, 9, 3, 2],
            limit,
            features(SIMILAR),
            (),
            redundancy=None,
            redundancy_limit=0.5,
        )

    assert (chosen(1).places, chosen(1).is_cut, chosen(1).too_long) == ([0], True, 0)
    assert (chosen(3).places, chosen(3).is_cut, chosen(3).too_long) == ([2], False, 0)
    assert chosen(8).too_long is None


FACTS = [
    "The bridge opened in 1950.",
    "The bridge cost nine million.",
    "The bridge is painted green.",
    "The bridge carries two tramlines.",
    "The bridge closes at midnight.",
    "The bridge was built by Fenner.",
]


@pytest.mark.parametrize("name", ["salhub/lexrank-news-en", None])
def test_short_sentences_with_facts_of_their_own_are_all_there(name):
    own = model() if name is None else LexRankModel.from_pretrained(name)
    found = summarize(own, " ".join(FACTS), budget=6)
    assert found.text == " ".join(FACTS) and not found.left_out and not found.notes
    # Copies are held back, and counted.
    found = summarize(own, " ".join(FACTS[:2] * 3), budget=6)
    assert found.text == " ".join(FACTS[:2])
    assert found.notes == (
        "The summary could be longer; 4 sentences were left out because they repeat chosen ones.",
    )


@pytest.mark.parametrize("budget", ["50w", "300c", "2%", 1, "7 words", "1c"])
def test_a_transcript_without_full_stops_keeps_to_its_budget(budget):
    phrase = "and so we walked on, over the old bridge that is shut now\nand met nobody at all "
    found = summarize(model(), phrase * 250, budget=budget)
    words, limit = found.text.split(), Budget.read(budget)
    most = {"sentences": 200, "ratio": 85, "characters": 300}.get(limit.unit, limit.amount)
    assert 0 < len(words) <= most
    if limit.unit == "characters":
        assert len(found.text) <= limit.amount
    assert (limit.unit == "sentences") or (
        found.text.endswith("…") and "it was cut" in found.notes[0]
    )
    assert all(len(one.text.split()) <= 200 for one in found.sentences)
    joined = "".join(phrase.split() * 250)
    assert "".join("".join(one.text.split()) for one in found.sentences) == joined


def test_scripts_without_spaces_count_by_characters_which_is_said():
    chinese = "这座桥在一九五〇年开放。老桥已经关闭、人们步行过河。猫在睡觉。"
    found = summarize(model(), chinese, budget="10w")
    assert 0 < sum(map(str.isalpha, found.text)) <= 10
    assert "each of its characters was counted as a word" in found.notes[0]
    assert len(summarize(model(), chinese, budget="50%").chosen) < 3
    assert summarize(model(), chinese, budget="99w").text.replace(" ", "") == chinese
    assert Budget.read("9w").cut("老桥已经关闭、人们步行过河", 9) == "老桥已经关闭…"
    # Vowel signs belong to their letters, and words with spaces stay words.
    assert Budget.read("9w").costs(["ที่ LexRank 2004", "No: it - is."]) == [3, 4]
    assert not summarize(model(), ARTICLE, budget="60w").notes


def test_a_query_that_changes_nothing_is_said():
    found = summarize(model(), ARTICLE, budget=2, query="xylophone")
    assert found.notes[0] == "The query was ignored: no sentence has anything in common with it."
    assert found.text == summarize(model(), ARTICLE, budget=2).text
    for settings in ({"damping": 1.0}, {"centrality": "degree"}):
        found = summarize(model(**settings), ARTICLE, budget=2, query="bridge")
        assert "has no jumps" in found.notes[0]
    assert not summarize(model(), ARTICLE, budget=2, query="bridge").notes


def test_a_sentence_is_cut_at_a_clause_where_there_is_one():
    text = "When it rained, the water rose over the quay, and the old bridge was shut again"
    assert Budget.read("11w").cut(text, 11) == "When it rained, the water rose over the quay…"
    assert Budget.read("7w").cut(text, 7) == "When it rained, the water rose over…"
    assert Budget.read("20c").cut(text, 20) == "When it rained…"
    assert Budget.read("3c").cut("桥已经关闭", 3) == "桥已…"


# --- summaries ----------------------------------------------------------------------------------


def test_orders_ranks_and_supporters():
    found = summarize(model(), ARTICLE, budget=3)
    best = summarize(model(), ARTICLE, budget=3, order="score")
    assert list(found.chosen) == sorted(best.chosen)
    scores = [found.sentences[place].score for place in best.chosen]
    assert scores == sorted(scores, reverse=True)
    assert sorted(s.rank for s in found.sentences) == list(range(1, len(found.sentences) + 1))
    for place in found.chosen:
        sentence = found.sentences[place]
        assert sentence.is_chosen and sentence.supporters and place not in sentence.supporters
    with pytest.raises(ValueError, match="Did you mean 'position'"):
        summarize(model(), ARTICLE, order="positon")


def test_several_texts_make_one_summary_with_places_in_each():
    texts = ["The old bridge is shut.\nPeople walk.", "Cats sleep. The old bridge is shut today."]
    found = summarize(model(redundancy_limit=0.7), texts, budget=2, order="score")
    for sentence in found.sentences:
        assert texts[sentence.document][sentence.start : sentence.end] == sentence.text
    [dropped] = found.left_out
    assert {found.sentences[n].document for n in (dropped.sentence, dropped.repeats)} == {0, 1}
    split = summarize(model(), [["The old bridge is shut.", "  ", "Cats sleep."]], budget=1)
    assert [s.text for s in split.sentences] == ["The old bridge is shut.", "Cats sleep."]
    [document] = split.documents
    for sentence in split.sentences:
        assert document[sentence.start : sentence.end] == sentence.text


def test_position_and_length_are_features_of_the_score():
    first = summarize(model(position_weight=100), ARTICLE, budget=1)
    assert first.chosen == (0,)
    plain = summarize(model(), ARTICLE, budget=1)
    cut = summarize(model(min_sentence_words=9), ARTICLE, budget=1)
    for sentence, before in zip(cut.sentences, plain.sentences, strict=True):
        is_short = len(words_of(sentence.text)) < 9
        assert sentence.score == (0 if is_short else before.score)


def test_a_query_changes_what_is_chosen():
    found = summarize(model(stopwords="en"), ARTICLE, budget=1, query="rust in the steel arches")
    assert "rust" in found.text


def test_texts_without_sentences_are_refused():
    for nothing in ("", " \n\n ", [], [""], [[]]):
        with pytest.raises(ValueError, match="no sentences to rank"):
            summarize(model(), nothing)
    with pytest.raises(TypeError, match="a sentence must be a str, got NoneType"):
        summarize(model(), [["a", None]])
    for data in (b"bytes", [b"bytes"]):
        with pytest.raises(TypeError, match="must be text, got bytes"):
            summarize(model(), data)
