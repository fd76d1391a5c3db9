# ruff: noqa: RUF001
"""Prose around numbered slots: what is put in is true, and what the prose gets wrong is refused."""

import numpy as np
import pytest

from salhub.models.verbalizer.audit import Evidence
from salhub.models.verbalizer.configuration_verbalizer import LANGUAGES, VerbalizerConfig
from salhub.models.verbalizer.evaluation_free_prose import audit_free_prose
from salhub.models.verbalizer.realization import Names
from salhub.models.verbalizer.slots import audited, repaired, slots_of, word_slots
from salhub.models.verbalizer.verbalizer import Verbalizer
from salhub.models.verbalizer.words import Words

THE = ["the"] * 4
TOKENS = ["a", "wonderful", "film", *THE, "touching", *THE, "half", "hour", "is", "slow"]
SCORES = [0, 0.5, 0.1, *[-0.01] * 4, 0.3, *[-0.01] * 4, -0.2, -0.1, -0.01, -0.3]
NAMES = ("positive", "negative", "mixed")


def answered(prose, label="positive", other=None, **settings):
    config = VerbalizerConfig(**settings)
    told = Verbalizer(config).verbalize(TOKENS, SCORES, label, other)
    evidence = Evidence(told.words, told.scores, config, Names(label, other, config.mask_label))
    return audited(prose, slots_of(told.phrases), evidence, NAMES)


def test_slots_are_filled_with_quotation_share_and_direction():
    text, found = answered("[1] carries the verdict; [3] softens it. It also has [2].")
    assert text == (
        "“wonderful film” (67 % of the evidence) carries the verdict; “half hour is slow” (offsets "
        "68 % of the evidence) softens it. It also has “touching” (33 %)."
    )
    assert found["is_faithful"] and found["num_citations"] == 3
    assert found["numeric_faithfulness"] == found["sign_faithfulness"] == 1.0
    again, found = answered("[1] carries it. Without [2] or not, [1] stays.")
    assert again.count("67 %") == 1 and not found["is_faithful"]


@pytest.mark.parametrize(
    "prose",
    [
        "[1] carries the verdict; [3] softens it.",
        "It’s positive because of [1] and [2].",
        "The film’s strength: [1]. The actors' work, [2], supports it too.",
        "Despite [3], [1] and [2] speak for it.",
        "[1] speaks for it and [3] against it.",
        "[1], [2] and, on the other side, [3].",
        "- [1] supports the verdict\n- [3] weakens the verdict",
        "1. [1] carries it.\n2. [2] helps.",
        "It was rated 'positive' mainly because of [1].",
        "[1] is the most important, [2] counts too, but [3] speaks against it.",
        "[ 1 ] leads to it.",
    ],
)
def test_what_is_right_passes(prose):
    text, found = answered(prose)
    assert found["problems"] == [], text
    assert "“wonderful film” (67 % of the evidence)" in text


@pytest.mark.parametrize(
    ("prose", "problem"),
    [
        ("[1] and [7] carry the verdict.", "there is no slot [7]"),
        ("[1] and [] carry the verdict.", "a slot without a number"),
        ("[2] carries the verdict.", "slot [1], which matters most, is missing"),
        ("It is a wonderful film.", "slot [1], which matters most, is missing"),
        ("[1] makes 55 % of it.", "numbers of its own"),
        ("[1] makes half of it.", "numbers of its own"),
        ("[1] makes ninety percent of it.", "numbers of its own"),
        ('[1] is "superb".', "quotation marks of its own"),
        ("[1] is “superb” and “fine”.", "quotation marks of its own"),
        ("[1] is ‘superb’.", "quotation marks of its own"),
        ("[1] is 'superb'.", "quotation marks of its own"),
        ("[1] is «superb».", "quotation marks of its own"),
        ("[1] is „superb“.", "quotation marks of its own"),
        ("[1] speaks against it.", "does not speak against it"),
        ("[1] carries it, and [3] supports it.", "does not speak for it"),
        ("[3] led to it, whereas [1] softens it.", "does not speak"),
        ("[1] and [3] speak against it.", "does not speak against it"),
        ("Because of [1] and [3] it is positive.", "does not speak for it"),
        ("[1] supports it against [3].", "said to speak for it and against it"),
        ("[1] counts, but [2] is the most important.", "is not the most important"),
        ("[1] does not matter.", "denies or doubts"),
        ("[1] doesn’t matter.", "denies or doubts"),
        ("[2] matters more than [1].", "a comparison cannot be checked"),
        ("It is negative because of [1].", "names the class 'negative'"),
    ],
)
def test_what_is_wrong_is_refused(prose, problem):
    _, found = answered(prose)
    assert not found["is_faithful"]
    assert any(problem in one for one in found["problems"]), found["problems"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_directions_hold_in_every_language(language):
    right = {
        "en": "[1] supports it, but [3] speaks against it.",
        "de": "[1] spricht dafür, aber [3] spricht dagegen.",
        "fr": "[1] soutient ce choix, mais [3] s’y oppose.",
        "es": "[1] lo apoya, pero [3] está en contra.",
        "zh": "[1]支持它，但[3]与之相反。",
    }[language]
    assert answered(right, language=language)[1]["problems"] == []
    wrong = right.replace("[1]", "[0]").replace("[3]", "[1]").replace("[0]", "[3]")
    problems = answered(wrong, language=language)[1]["problems"]
    assert sum("does not speak" in one for one in problems) == 2, problems


def test_the_verdict_is_never_given_to_the_class_that_it_is_compared_with():
    for prose in (
        "It is positive rather than negative because of [1].",
        "It is “positive”, not “negative”: [1].",
        "[1] makes it positive instead of negative.",
    ):
        assert answered(prose, other="negative")[1]["problems"] == [], prose
    for prose in (
        "It is negative: [1].",
        "It is negative rather than positive because of [1].",
        "Rated “negative” because of [1].",
    ):
        problems = answered(prose, other="negative")[1]["problems"]
        assert "it names the class 'negative', which is not explained" in problems, prose
    lie = "It is {other} because of [1]."
    assert not answered(lie, other="negative", mask_label=True)[1]["is_faithful"]
    right = "It is {placeholder} rather than {other}: [1]."
    assert answered(right, other="negative", mask_label=True)[1]["problems"] == []
    units = {"de": "und nicht als", "fr": "plutôt que", "es": "en lugar de", "zh": "而不是"}
    for language, unit in units.items():
        prose = f"positive {unit} negative: [1]."
        assert answered(prose, other="negative", language=language)[1]["problems"] == [], prose


def test_the_strongest_phrase_matters_most_and_not_a_list_that_weighs_more():
    tokens, scores = ["fine", *["b"] * 5, "good", *["b"] * 5, "fun"], [0.35, *[-0.1] * 5]
    scores = [*scores, 0.3, *[-0.1] * 5, 0.3]
    told = Verbalizer(VerbalizerConfig(max_phrases=1)).verbalize(tokens, scores, "positive")
    evidence = Evidence(told.words, told.scores, VerbalizerConfig(), Names("positive"))
    slots = slots_of(told.phrases)
    assert slots[1].share > slots[0].share
    assert audited("[1] carries the verdict.", slots, evidence)[1]["problems"] == []
    assert not audited("[2] carry the verdict.", slots, evidence)[1]["is_faithful"]


def test_a_masked_class_is_neither_named_nor_quoted():
    text, found = answered("It is {placeholder} because of [1].", mask_label=True)
    assert found["is_faithful"] and "{placeholder}" in text
    _, found = answered("It is Positive because of [1].", mask_label=True)
    assert found["problems"] == ["it names the class, which is masked"]
    text, found = answered("It rests on [1].", "wonderful", "film", mask_label=True)
    assert text == "It rests on “{placeholder} {other}” (67 % of the evidence)."
    assert found["is_faithful"]
    text, _ = answered("It is wonderful rather than film: [1].", "wonderful", "film")
    assert "“wonderful film”" in text


def test_without_shares_the_direction_is_said_in_words():
    text, found = answered("[1] and [3] are there.", show_coverage=False)
    assert text == "“wonderful film” and “half hour is slow” (against it) are there."
    assert found["problems"] == []


def test_single_words_of_the_list_share_a_slot():
    told = Verbalizer(VerbalizerConfig(max_phrases=1)).verbalize(TOKENS, SCORES, "positive")
    slots = slots_of(told.phrases)
    assert [len(slot.phrases) for slot in slots] == [1, 1, 1]
    more = ["fine", "b", "b", "b", "b", "b", "good", "b", "b", "b", "b", "b", "fun"]
    scores = [0.6, *[-0.1] * 5, 0.2, *[-0.1] * 5, 0.2]
    told = Verbalizer(VerbalizerConfig(max_phrases=1)).verbalize(more, scores, "positive")
    evidence = Evidence(told.words, told.scores, VerbalizerConfig(), Names("positive"))
    text, found = audited("[1] leads; [2] helps.", slots_of(told.phrases), evidence)
    assert "“good” and “fun” (40 %) helps" in text and found["problems"] == []


def test_every_word_that_weighs_something_may_be_a_slot():
    words = Words.of_tokens([*TOKENS, "."])
    scores = np.array([*SCORES, 0.001])
    evidence = Evidence(words, scores, VerbalizerConfig(), Names("positive"))
    slots = word_slots(evidence)
    # The first word weighs nothing, and the last one 0 %.
    assert [slot.phrases[0].indices[0] for slot in slots] == list(range(1, len(TOKENS)))
    assert [slot.number for slot in slots] == list(range(1, len(TOKENS)))
    text, found = audited("[1] supports it; [15] softens it.", slots, evidence)
    assert text.startswith("“wonderful” (55 % of the evidence) supports it; “slow” (offsets 33 %")
    assert found["problems"] == []
    assert not audited("[3] supports it.", slots, evidence)[1]["is_faithful"]


def test_repair_keeps_the_sentences_that_are_right():
    config = VerbalizerConfig()
    told = Verbalizer(config).verbalize(TOKENS, SCORES, "positive")
    evidence = Evidence(told.words, told.scores, config, Names("positive"))
    slots = slots_of(told.phrases)
    prose = "[1] carries it. It is great. [2] speaks against it. [3] softens it, [9] too."
    assert repaired(prose, slots, evidence) == "[1] carries it."
    assert repaired("It is great.", slots, evidence) == ""


ECHOED = [
    "good good bad good film and good bad end of a good day",
    'he said "wow" and "no" and "wow" again and left',
    "it cost 100 % more than 3.5 or 7 times",
    "这 部 电影 很 好看 , 但是 结尾 太 长",
    "“ wow ” and « oui » or „ ja “ [1] [2]",
    "against all odds the most important film speaks",
    "it isn't , it wasn't and won't be 'fine'",
]


@pytest.mark.parametrize("text", ECHOED)
@pytest.mark.parametrize("language", LANGUAGES)
def test_whatever_the_text_holds_what_is_put_in_is_right(text, language):
    for seed in range(6):
        tokens = text.split()
        scores = np.random.default_rng(seed).normal(size=len(tokens)) + 0.15
        config = VerbalizerConfig(language=language)
        told = Verbalizer(config).verbalize(tokens, scores, "positive")
        evidence = Evidence(told.words, told.scores, config, Names("positive"))
        slots = slots_of(told.phrases)
        prose = " ".join(f"[{slot.number}]." for slot in slots)
        filled, found = audited(prose, slots, evidence)
        assert found["problems"] == [], filled
        assert told.audit["problems"] == [], told.text


# --- free prose, the baseline -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "name", "value"),
    [
        ("Because of “wonderful” and “superb”.", "citation_precision", 0.5),
        ("Because of “wonderful” and “touching”.", "citation_precision", 1.0),
        ("Because of “wonderful” and “touching”.", "num_citations", 2),
        ("Wegen „wonderful“ und „touching“.", "num_citations", 2),
        ("Because of ‘wonderful’ and 'touching'.", "num_citations", 2),
        ("It’s “wonderful”, isn’t it, and the film’s “touching”.", "num_citations", 2),
        ("« wonderful » et « superbe »", "citation_precision", 0.5),
        ('It is "positive" because of "wonderful … slow".', "num_citations", 1),
        ('"wonder" is a part of a word.', "citation_precision", 0.0),
        ('"wonderful" (56 %) and "touching" (33 %).', "numeric_faithfulness", 1.0),
        ('"wonderful" (65 %) and "touching" (33 %).', "numeric_faithfulness", 0.5),
        ('"wonderful" has a score of 0.5.', "numeric_faithfulness", 1.0),
        ('There are 2 reasons: "wonderful".', "num_numbers", 0),
        ('"wonderful" counts.', "sign_faithfulness", None),
        ("It is nice.", "is_faithful", False),
        ('"wonderful" counts.', "is_faithful", True),
    ],
)
def test_free_prose_is_measured_by_its_quotations_and_numbers(answer, name, value):
    words = Words.of_tokens(TOKENS)
    evidence = Evidence(words, np.array(SCORES), VerbalizerConfig(), Names("positive"))
    found = audit_free_prose(answer, evidence)[name]
    assert found == (value if value is None else pytest.approx(value))
