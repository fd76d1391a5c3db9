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
        ("[1] makes 55 % of it.", "adds numbers"),
        ("[1] makes half of it.", "adds numbers"),
        ("[1] makes ninety percent of it.", "adds numbers"),
        ('[1] is "superb".', "adds quotation marks"),
        ("[1] is “superb” and “fine”.", "adds quotation marks"),
        ("[1] is ‘superb’.", "adds quotation marks"),
        ("[1] is 'superb'.", "adds quotation marks"),
        ("[1] is «superb».", "adds quotation marks"),
        ("[1] is „superb“.", "adds quotation marks"),
        ("[1] speaks against it.", "does not speak against it"),
        ("[1] carries it, and [3] supports it.", "does not speak for it"),
        ("[3] led to it, whereas [1] softens it.", "does not speak"),
        ("[1] and [3] speak against it.", "does not speak against it"),
        ("Because of [1] and [3] it is positive.", "does not speak for it"),
        ("[1] supports it against [3].", "cannot speak both for it and against it"),
        ("[1] counts, but [2] is the most important.", "is not the most important"),
        ("[1] does not matter.", "a denial or a doubt"),
        ("[1] doesn’t matter.", "a denial or a doubt"),
        ("[2] matters more than [1].", "a comparison cannot be checked"),
        ("It is negative because of [1].", "names the class 'negative'"),
        ("It is a bad review because of [1].", "names the class 'negative'"),
        ("The review is unfavourable because of [1].", "names the class 'negative'"),
        ("[1] undercuts the verdict.", "does not speak against it"),
        ("[1] drags the verdict down.", "does not speak against it"),
        ("[1] hinders the verdict.", "does not speak against it"),
        ("[1] spoils it, [2] as well.", "does not speak against it"),
        ("The verdict rests on [3], and on [1].", "does not speak for it"),
        ("[1] and [3] are there.", "does not speak for it"),
        ("[3] makes the film worth seeing, and so does [1].", "does not speak for it"),
        ("[2] is the decisive factor, [1] a mere footnote.", "is not the most important"),
        ("[2] is the main reason, [1] a side note.", "is not the most important"),
        ("[2] is the key, [1] is a detail.", "is not the most important"),
        ("Nearly all of the evidence is [2]; [1] is there too.", "adds numbers"),
        ("[1] makes up two out of five parts of it.", "adds numbers"),
        ("[1] is ½ of it.", "adds numbers"),
        ("[1] is **superb**.", "adds quotation marks"),
        ("[1] is _superb_.", "adds quotation marks"),
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


LIES = {
    "de": ("Die Kritik ist negativ wegen [1].", "[1] trägt ein Fünftel bei.", "Wegen [3] und [1]."),
    "fr": ("Elle est négative grâce à [1].", "[1] pèse un cinquième.", "C’est grâce à [3] et [1]."),
    "es": ("Es negativa debido a [1].", "[1] aporta un quinto.", "Destacan [3] y [1]."),
    "zh": ("这是负面评价，主要因为[1]。", "[1]占了三成。", "[3]很好，[1]也是。"),
}


@pytest.mark.parametrize("language", LIES)
def test_lies_are_refused_in_other_languages(language):
    rival, amount, direction = LIES[language]
    assert "names the class 'negative'" in str(answered(rival, language=language)[1]["problems"])
    assert "adds numbers" in str(answered(amount, language=language)[1]["problems"])
    assert "does not speak for it" in str(answered(direction, language=language)[1]["problems"])


@pytest.mark.parametrize(
    ("language", "prose"),
    [
        ("en", "Not only [1] but also [2] support it; no wonder."),
        ("en", "The third point, [2], supports it, after [1]."),
        ("en", "**[1]** carries the verdict, and [3] affects it negatively."),
        ("de", "[1] trägt die Bewertung, dazu kommt noch [2]."),
        ("de", "[1] und ebenso [2] stützen die Bewertung."),
        ("de", "[1] hebt das Gute hervor, nicht zuletzt auch [2]."),
        ("fr", "[1] est sans doute le plus important, [2] aide."),
        ("fr", "Sans surprise, [1] soutient ce choix."),
        ("es", "[1] lo apoya; sin embargo, [3] está en contra."),
        ("es", "[1] es, sin duda, lo más importante."),
        ("zh", "毫无疑问，主要因为[1]，不过[3]与之相反。"),
        ("zh", "[1]非常重要，比较明显。"),
    ],
)
def test_turns_of_speech_deny_and_compare_nothing(language, prose):
    assert answered(prose, language=language)[1]["problems"] == []


@pytest.mark.parametrize(
    "prose",
    [
        "[1, 2] carry it.",
        "[1][2] carry it.",
        "(1) and (2) carry it.",
        "Slots [1] and [2] carry it.",
    ],
)
def test_slots_may_be_written_in_other_ways(prose):
    text, found = answered(prose)
    assert text == "“wonderful film” (67 % of the evidence) and “touching” (33 %) carry it."
    assert found["problems"] == []


MASKED = {
    "en": ("It reads positively because of [1].", "Its positivity rests on [1]."),
    "de": ("Als positiv bewertet wegen [1].", "Die positive Wertung beruht auf [1]."),
    "fr": ("Jugé positif à cause de [1].",),
    "es": ("Es positivo gracias a [1].",),
    "zh": ("正面评价，因为[1]。",),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_masked_rating_is_not_named_in_other_words(language):
    for prose in MASKED[language]:
        problems = answered(prose, language=language, mask_label=True)[1]["problems"]
        assert problems == ["it names the class, which is masked"], prose
    config = VerbalizerConfig(mask_label=True, language=language)
    told = Verbalizer(config).verbalize(["positively", "charming"], [0.9, 0.5], "positive")
    assert "positiv" not in told.text and told.audit["is_faithful"]


def test_a_class_whose_name_holds_another_name_is_still_itself():
    config = VerbalizerConfig()
    # "mixed" alone is a rating, and not in the name of a sport.
    plain = VerbalizerConfig(mask_label=True)
    sport = Verbalizer(plain).verbalize(["mixed", "feelings"], [0.9, 0.8], "Mixed martial arts")
    assert "“mixed”" in sport.text
    told = Verbalizer(config).verbalize(TOKENS, SCORES, "class 1")
    evidence = Evidence(told.words, told.scores, config, Names("class 1"))
    names = ("class 1", "class 10", "very class 1")
    for prose, is_right in (
        ("It is class 1 because of [1].", True),
        ("It is class 10 because of [1].", False),
        ("It is very class 1 because of [1].", False),
    ):
        found = audited(prose, slots_of(told.phrases), evidence, names)[1]
        assert found["is_faithful"] is is_right, prose


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
    text, found = answered("[1] is there, but [3].", show_coverage=False)
    assert text == "“wonderful film” is there, but “half hour is slow” (against it)."
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
