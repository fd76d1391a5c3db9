"""Sentences in five languages, and the audit that holds them to the map."""

import math
import re

import numpy as np
import pytest
import torch

from salhub.models.verbalizer.audit import Evidence, audit
from salhub.models.verbalizer.configuration_verbalizer import LANGUAGES, VerbalizerConfig
from salhub.models.verbalizer.realization import Names, templates_of
from salhub.models.verbalizer.verbalizer import Verbalizer
from salhub.models.verbalizer.words import Words

TEXT = "This is a warm , funny and moving story , but the ending is too long ."
TOKENS = TEXT.split(" ")
SCORES = [0, 0, 0, 0.9, 0.05, 0.8, 0.1, 0.7, 0.2, 0, -0.1, 0, -0.1, 0, -0.6, -0.4, 0]


def told(tokens=TOKENS, scores=SCORES, label="positive", other=None, **settings):
    return Verbalizer(VerbalizerConfig(**settings)).verbalize(tokens, scores, label, other)


def test_the_sentences_say_what_the_map_shows():
    result = told()
    assert result.text == (
        "Rated positive mainly because of “warm , funny and moving story” (100 % of the evidence). "
        "Against it: “ending is too long” (offsets 40 % of the evidence)."
    )
    first, against = result.phrases
    assert (first.rank, against.rank, against.sign) == (1, 0, "-")
    assert first.coverage == pytest.approx(1.0)
    assert against.coverage == pytest.approx(-1.1 / 2.75)
    assert result.coverage == pytest.approx(1.0)
    for phrase in result.phrases:
        start, end = phrase.char_spans[0]
        assert " ".join(TOKENS)[start:end] == phrase.text


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("mode", ["search", "smv"])
@pytest.mark.parametrize("seed", range(6))
def test_every_sentence_of_every_language_passes_its_own_audit(language, mode, seed):
    generator = np.random.default_rng(seed)
    tokens = [TOKENS[place] for place in generator.integers(0, len(TOKENS), 25)]
    scores = generator.normal(size=25) + 0.3
    result = told(tokens, scores, "positive", "negative", language=language, mode=mode)
    checked = result.audit
    assert checked["problems"] == [] and checked["is_faithful"]
    for name in ("citation_precision", "sign_faithfulness", "numeric_faithfulness"):
        assert checked[name] in (1.0, None), (name, result.text)
    assert checked["citation_precision"] == 1.0 and checked["num_citations"] > 0
    assert checked["rank_faithfulness"] in (1.0, None)


def test_coverage_is_the_share_of_the_positive_evidence_named():
    result = told(min_word_gain=1.0, max_phrases=1)
    assert result.coverage == pytest.approx(2.55 / 2.75)
    assert result.audit["coverage_at_k"][:4] == pytest.approx(
        [0.9 / 2.75, 1.7 / 2.75, 2.4 / 2.75, 2.4 / 2.75]
    )
    assert result.audit["share_of_best"] == pytest.approx(2.55 / 2.7)


def test_words_that_are_not_neighbours_are_quoted_with_a_gap():
    scores = [0, 0, 0, 0.9, -0.1, -0.1, -0.2, 0.8, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    result = told(scores=scores, show_against=False)
    assert "“warm … moving” (100 % of the evidence)" in result.text
    assert result.phrases[0].char_spans == ((10, 14), (27, 33))
    assert result.audit["is_faithful"] and result.audit["num_citations"] == 1


def test_contrast_masked_labels_and_own_templates():
    assert told(other="mixed").text.startswith("Rated positive rather than mixed mainly because")
    assert told(label="Business").text.startswith("Classified as Business mainly because of")
    assert told(label=None).text.startswith("Decided this way mainly because of “warm")
    assert "%" not in told(show_coverage=False).text
    own = {"first": "{kind} {quotes} decides {prediction}{share}{note}.", "against": "{quotes}?"}
    assert told(templates=own).text == (
        "The phrase “warm , funny and moving story” decides the prediction positive (100 % of the "
        "evidence) (including punctuation). “ending is too long”?"
    )
    with pytest.raises(ValueError, match="templates cannot set 'frist'"):
        told(templates={"frist": "x"})


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("label", ["positive", "warm", "a", "Funny", "evidence of it", "it"])
def test_a_masked_class_is_nowhere_in_the_sentences(language, label):
    tokens = [*TOKENS, "positive", "evidence", "of", "it", ",", "negative", "too"]
    scores = [*SCORES, 0.5, 0.4, 0.3, 0.3, 0, 0.2, 0.3]
    masked = told(tokens, scores, label, "negative", language=language, mask_label=True)
    bare = told(tokens, scores, language=language, mask_label=True, label="xyz", other="xyy").text
    assert "{placeholder}" in masked.text and "{other}" in masked.text
    assert masked.audit["is_faithful"] and masked.audit["citation_precision"] == 1.0
    for name in (label, "negative"):
        own = re.compile(rf"(?<!\w){name}(?!\w)", re.IGNORECASE)
        # Only words of the sentence itself that are there whatever the class is.
        fixed = re.sub("[“„«][^“”„«»]*[”“»]", "", bare)
        assert len(own.findall(masked.text)) == len(own.findall(fixed)), masked.text


def test_a_phrase_is_mainly_the_reason_only_where_it_is_half_of_it():
    assert told(["fine", "film"], [0.5, 0.5]).text.startswith("Rated positive mainly because of")
    third = told(["fine", "x", "film", "x", "fun"], [0.4, -1, 0.35, -1, 0.25], show_against=False)
    assert third.text == (
        "Rated positive above all because of “fine” (40 % of the evidence). “film” and “fun” add "
        "another 60 %. Together, that is 100 %."
    )


def test_phrases_are_whole_and_have_no_function_words_at_their_ends():
    tokens = ["and", "the", "leads", "are", "a", "joy", "to", "watch", ",", "of", "the"]
    scores = [0.05, 0.1, 0.5, 0.05, 0.1, 0.9, 0.1, 0.3, 0.0, 0.1, 0.01]
    result = told(tokens, scores)
    assert result.phrases[0].text == "leads are a joy to watch"
    for phrase in result.phrases:
        words = phrase.text.split()
        assert len(words) == 1 or not {words[0], words[-1]} & {"and", "the", "a", "to", "of", ","}
    # A single function word is named where it carries something.
    assert "“and”" in told(["and", "x", "fine"], [0.5, -1.0, 0.5]).text


def test_a_word_that_stands_twice_is_listed_once():
    named = {0: ("fine", 0.6), 8: ("film", 0.05), 16: ("fun", 0.2), 24: ("Film", 0.05)}
    tokens = [named.get(place, ("x",))[0] for place in range(25)]
    scores = [named.get(place, ("x", -1.0))[1] for place in range(25)]
    result = told(tokens, scores, show_against=False, max_phrases=1)
    assert "“film”" in result.text and "Film" not in result.text
    assert result.coverage == pytest.approx(1.0)
    assert result.audit["is_faithful"]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("find", "put"),
    [
        ("100", "50"),
        ("40", "90"),
        ("warm", "cold"),
        ("moving story", "moving"),
        ("too long", "too"),
    ],
)
def test_the_audit_sees_what_is_altered_in_a_sentence(language, find, put):
    result = told(language=language)
    evidence = Evidence(
        result.words, result.scores, VerbalizerConfig(language=language), Names("positive")
    )
    assert audit(result.text, evidence, result.phrases)["is_faithful"]
    altered = result.text.replace(find, put)
    assert altered != result.text
    assert not audit(altered, evidence, result.phrases)["is_faithful"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_audit_sees_a_wrong_direction_and_a_wrong_first(language):
    result = told(language=language, label="positive")
    config = VerbalizerConfig(language=language)
    turned = Evidence(result.words, -result.scores, config, Names("positive"))
    assert audit(result.text, turned, result.phrases)["sign_faithfulness"] < 0.5
    scores = result.scores.copy()
    scores[0] = 9.0
    better = Evidence(result.words, scores, config, Names("positive"))
    assert audit(result.text, better, result.phrases)["superlative_faithfulness"] == 0.0


def test_all_languages_have_the_same_sentences():
    names = {
        language: set(templates_of(VerbalizerConfig(language=language))) for language in LANGUAGES
    }
    assert all(own == names["en"] for own in names.values())


def test_words_against_can_be_searched_for():
    result = told(sign="-")
    assert result.text == (
        "Rated positive. Against it: “ending is too long” (offsets 40 % of the evidence) and “but” "
        "(offsets 4 % of the evidence)."
    )
    assert all(phrase.sign == "-" for phrase in result.phrases) and result.audit["is_faithful"]


def test_a_map_of_zeros_says_that_nothing_stands_out():
    result = told(scores=[0.0] * len(TOKENS))
    assert result.text == "No word stands out in this text."
    assert result.coverage == 0 and result.audit["empty"] and result.phrases == []


def test_without_positive_scores_the_evidence_is_lacking():
    result = told(["bad", "film"], [-1.0, -0.5])
    assert result.text == "Rated positive, though no word of the text speaks for it."
    assert result.coverage == 0 and not result.audit["empty"]
    assert told(["bad"], [-1.0], mode="smv").coverage == 0


def test_texts_shorter_than_a_window():
    for mode in ("search", "smv"):
        result = told(["fine"], [0.5], mode=mode, filter_length=5)
        assert "“fine”" in result.text and result.coverage == 1.0


@pytest.mark.parametrize(
    ("tokens", "scores", "pattern"),
    [
        (["a", "b"], [1.0], r"Got 2 tokens and 1 scores; use scores from the same tokenizer"),
        (["a", "b"], [1.0, math.nan], r"scores\[1\] is nan; scores must be finite"),
        (["a", "b"], [math.inf, 0], r"scores\[0\] is inf"),
        ([], [], "empty, or has only special tokens"),
        (["a"], [[1.0, 2.0]], r"array of shape \(1, 2\); sum over its last dimension"),
    ],
)
def test_bad_maps_are_refused(tokens, scores, pattern):
    with pytest.raises(ValueError, match=pattern):
        told(tokens, scores)


def test_texts_and_scores_must_be_as_many():
    with pytest.raises(ValueError, match="Got 1 texts and 2 lists of scores"):
        Verbalizer().verbalize_batch([["a"]], [[1.0], [2.0]])


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        (
            {"metric": "top_maen"},
            "one of .*top_mean.*std.*variance.*quantile",
        ),
        ({"filter_length": 13}, "filter_length must be at least 1 and at most 12, got 13; the"),
        ({"metric_value": 1.5}, "metric_value of top_mean must be at most 1"),
        ({"metric": "std", "metric_value": -1.0}, "metric_value must be at least 0"),
        ({"sign": "plus"}, r"one of .*\+.*-.*any"),
        ({"mode": "serach"}, "mode.* one of .*search.*smv.*instruct"),
        ({"language": "it"}, "language.* one of .*en.*de.*fr.*es.*zh"),
        ({"max_words": 0}, "max_words must be at least 1"),
        ({"min_gain": 2}, "min_gain must be at least 0 and at most 1"),
        ({"compat": "old"}, "compat.*smv.*None.*old"),
        ({"internal_batch_size": 0}, "internal_batch_size must be at least 1"),
    ],
)
def test_bad_settings_are_refused(settings, pattern):
    with pytest.raises((ValueError, TypeError), match=pattern):
        VerbalizerConfig(**settings)


def test_the_papers_names_of_the_metrics():
    assert VerbalizerConfig(metric="mean").metric == "top_mean"


def test_a_batch_gives_what_its_texts_give():
    generator = np.random.default_rng(0)
    texts = [[f"w{place}" for place in range(size)] for size in (1, 3, 8, 40, 40)]
    scores = [generator.normal(size=len(text)) for text in texts]
    together = Verbalizer().verbalize_batch(texts, scores)
    for text, values, found in zip(texts, scores, together, strict=True):
        assert Verbalizer().verbalize(text, values).text == found.text


HARD = [
    "فيلم جميل جدا لكن النهاية طويلة",
    "这部电影很好看",
    "यह फ़िल्म बहुत अच्छी है",
    "so good 🎬🎬 👩‍👩‍👧 yes",
    '<script>alert("x")</script> & <b>bold</b>',
    "he said » wow « and « oui » loudly",
    'a "quoted" word and 100 % effort 3.5',
]


@pytest.mark.parametrize("text", HARD)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_quoted_stands_in_the_text_to_the_letter(text, seed):
    tokens = text.split() if " " in text else list(text)
    words = Words.of_tokens(tokens)
    scores = np.random.default_rng(seed).normal(size=len(tokens)) + 0.4
    result = Verbalizer().verbalize(words, scores, "positive")
    for phrase in result.phrases:
        for start, end in phrase.char_spans:
            assert words.text[start:end] in result.text
    assert result.audit["citation_precision"] == 1.0
    assert result.audit["sign_faithfulness"] == 1.0
    assert result.audit["numeric_faithfulness"] == 1.0


def test_evidence_that_is_spread_evenly_is_still_named():
    tokens = [f"w{place}" for place in range(300)]
    scores = np.random.default_rng(0).uniform(0.9, 1.1, 300)
    for values in (scores, np.ones(300)):
        result = told(tokens, values)
        assert result.phrases and result.audit["is_faithful"] and result.coverage > 0


def test_punctuation_alone_is_no_word_that_speaks():
    result = told(["bad", "!"], [-1.0, 0.5])
    assert result.text.startswith("Rated positive, though no word of the text speaks for it")
    assert result.audit["is_faithful"]


def test_as_many_labels_as_texts_are_needed():
    verbalizer = Verbalizer()
    for names in ({"labels": ["x"]}, {"others": ["x"]}, {"labels": []}):
        with pytest.raises(ValueError, match=r"Got 2 texts and [01] (labels|others)"):
            verbalizer.verbalize_batch([["a"], ["b"]], [[1.0], [1.0]], **names)


@pytest.mark.parametrize(
    ("templates", "pattern"),
    [
        ({"first": "{kind} {qoutes} decides."}, r"'first' has no \{qoutes\}; it may use"),
        ({"unit": "{percent}"}, r"'unit' has no \{percent\}; it may use \{number\}"),
        ({"nothing": "{kind} is nothing."}, r"'nothing' has no \{kind\}; it may use none"),
        ({"against": "{kind} {quotes"}, "'against' cannot be read"),
    ],
)
def test_unknown_placeholders_of_templates_are_refused(templates, pattern):
    with pytest.raises(ValueError, match=pattern):
        told(templates=templates)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_are_scores(dtype):
    scores = torch.tensor([0.0, 1.0, 0.5], dtype=dtype, requires_grad=True)
    assert told(["a", "warm", "film"], scores).text == told(["a", "warm", "film"], [0, 1, 0.5]).text
