"""The audit: true answers pass, whatever their wording, and false ones do not."""

import numpy as np
import pytest

from salhub.models.verbalizer.audit import Evidence, audit
from salhub.models.verbalizer.chat import CallableChat
from salhub.models.verbalizer.configuration_verbalizer import LANGUAGES, VerbalizerConfig
from salhub.models.verbalizer.instruction import instruct, prompt_for
from salhub.models.verbalizer.verbalizer import Verbalizer
from salhub.models.verbalizer.words import Words

TOKENS = ["the", "wonderful", "and", "touching", "film", "is", "boring"]
SCORES = [0, 0.6, 0, 0.3, 0.1, 0, -0.37]


def checked(answer, tokens=TOKENS, scores=SCORES, labels=("positive", "negative"), **settings):
    words = tokens if isinstance(tokens, Words) else Words.of_tokens(tokens)
    config = VerbalizerConfig(**settings)
    return audit(answer, Evidence(words, np.array(scores, dtype=float), config, labels))


@pytest.mark.parametrize(
    "answer",
    [
        '"wonderful" (30 %) and "touching" (60 %) are important.',
        '60 % is for "touching" and 30 % for "wonderful".',
        '"wonderful" and "touching" carry 60 %.',
        'The word "wonderful" does not matter at all.',
        "The word \"wonderful\" doesn\u2019t matter.",
        '"wonderful" made the classifier doubt that it is positive.',
        "Because of \u2018superb\u2019 and \"wonderful\".",
        'Because of \u2039superb\u203a and "wonderful".',
        'Because of 『superb』 and "wonderful".',
        'Because of »superb« and "wonderful".',
        'Because of ”superb” and "wonderful".',
        '"wonderful" (95 pct) is important.',
        '"wonderful" carries 95 per cent.',
        '"wonderful" carries 95\uff05.',
        '"wonderful" (.95) is important.',
        '"wonderful" (1/2 of it) is important.',
        '"wonderful" is important, 9 out of 10.',
        '"wonderful" has a score of 9.',
        '"wonderful" has a score of 9 here.',
        '"wonderful" makes half of it.',
        '"wonderful" is ninety percent of it.',
        '"wonderful" counts 3x.',
        '"touching" is the least important word.',
        '"touching", which matters more than "wonderful".',
        '"touching" is stronger than "wonderful".',
        '"wonderful" matters less than "touching".',
        '"touching" matters more than all others.',
        '"the" is important.',
        '"touching" is the most important.',
        '"touching" is the strongest word.',
        '"wonderful" is the second most important.',
        '"touching" is the third most important.',
        '"boring" is important, while "wonderful" speaks against it.',
        '"wonderful" is important and "touching" speaks against it.',
        '"boring" speaks against it, more than everything that speaks for it.',
        '"boring" is bad, while "touching", "wonderful" speak against it.',
        '"wonderful … superb" matters.',
        '"touching … wonderful" matters.',
        "No word of this text speaks for the prediction 'positive'. \"wonderful\" helps.",
        "No word stands out in this text.",
    ],
)  # fmt: skip
def test_what_is_false_or_cannot_be_checked_is_refused(answer):
    assert not checked(answer)["is_faithful"]


@pytest.mark.parametrize(
    "answer",
    [
        '"wonderful" (60 %) and "touching" (30 %) are important.',
        '30 % is for "touching" and 60 % for "wonderful".',
        '"wonderful" and "touching" carry 90 %.',
        '"wonderful" (60 %) and "touching" (30 %) together carry 90 %.',
        "Because of \u2018touching\u2019 and \"wonderful\".",
        '"wonderful" (60 pct) and "touching" (.30) matter, and "film" (1/10 of it) too.',
        '"wonderful" has a score of 0.6, which is 60 per cent.',
        'There are 2 reasons: "wonderful" and "touching".',
        '1. "wonderful"\n2. "touching"',
        '"wonderful", which matters more than "touching".',
        '"touching" matters less than "wonderful".',
        '"wonderful" is the most important.',
        '"touching" is the second most important.',
        '"wonderful" is important, while "boring" speaks against it.',
        '"wonderful" is important and "boring" speaks against it.',
        '"boring", however, speaks against it.',
        'Despite "boring", "wonderful" speaks for it.',
        '"boring" speaks against it (37 %).',
        '"boring" speaks against it (-37 %).',
        '"boring" does not support it.',
        '"wonderful … film" carries 70 %.',
        '"wonderful ... film" carries 70 %.',
        'Although "boring" speaks against it, "wonderful" is stronger.',
        "It chose positive rather than 'negative' because of \"wonderful\" (60 %).",
        "It was classified as 'positive' because of \"wonderful\".",
    ],
)  # fmt: skip
def test_what_is_true_passes(answer):
    assert checked(answer)["problems"] == []


ECHOED = [
    "good good bad good film and good bad end of a good day",
    "a film … that is good ... and long",
    'he said "wow" and "no" and "wow" again and left',
    "not a bad film , no , not at all bad",
    "it cost 100 % more than 3.5 or 7 times",
    "good . bad . good . bad . ugly . good",
    "the the the the the the the the the the",
    "这 部 电影 很 好看 , 但是 结尾 太 长",
    "» wow « and « oui » or „ ja “",
    "against all odds the most important film speaks",
    "it isn't , it wasn't and won't be 'fine'",
    "A a A a b B a A b a",
]


@pytest.mark.parametrize("text", ECHOED)
@pytest.mark.parametrize("seed", range(6))
def test_an_answer_that_repeats_the_evidence_is_faithful(text, seed):
    tokens = text.split()
    scores = np.random.default_rng(seed).normal(size=len(tokens)) + 0.15
    config = VerbalizerConfig(mode="instruct", on_unfaithful="flag")
    told = Verbalizer(config).verbalize(tokens, scores, "positive")

    def echo(messages):
        lines = []
        for phrase in told.phrases:
            says = "for" if phrase.sign == "+" else "against"
            number = round(100 * abs(phrase.coverage))
            with_share = f" with {number} %" if phrase.coverage >= -1 else ""
            lines.append(f'"{phrase.text}" speaks {says} it{with_share}.')
        return "\n".join(lines)

    found = instruct([told], CallableChat(echo), config)[0]
    assert not told.phrases or found.audit["problems"] == [], (found.text, scores)


def test_any_occurrence_may_be_meant():
    tokens, scores = ["good", "bad", "good"], [0.2, -0.5, 0.8]
    assert checked('"good" (20 %) matters.', tokens, scores)["is_faithful"]
    assert checked('"good" (80 %) matters.', tokens, scores)["is_faithful"]
    assert not checked('"good" (50 %) matters.', tokens, scores)["is_faithful"]
    assert checked('"x" speaks against it.', ["x", "y", "x"], [0.9, 0.1, -0.2])["is_faithful"]


@pytest.mark.parametrize("space", ["  ", "\n", " \t "])
def test_white_space_of_a_quotation_may_differ(space):
    words = Words(f"good{space}film", np.array([[0, 4], [4 + len(space), 8 + len(space)]]))
    assert checked('"good film" is important.', words, [0.5, 0.5])["is_faithful"]


def test_a_class_name_that_is_a_word_is_a_quotation():
    tokens, labels = ["business", "is", "good"], ["Business"]
    assert not checked('The word "business" mattered.', tokens, [-0.2, 0, 1], labels)["is_faithful"]
    found = checked('The word "business" mattered.', tokens, [0.2, 0, 1], labels)
    assert found["is_faithful"] and found["num_citations"] == 1
    found = checked("Classified as 'Business' because of \"good\".", tokens, [-0.2, 0, 1], labels)
    assert found["is_faithful"] and found["num_citations"] == 1
    assert not checked('The word "sports" mattered.', tokens, [0, 0, 1], ["Sports"])["is_faithful"]


@pytest.mark.parametrize("label", ["n", "in", "a", "gain", "0", "3.5 %", "against", "U.S. news"])
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("sign", ["+", "-"])
def test_no_class_name_breaks_the_audit_of_templates(label, language, sign):
    settings = {"language": language, "sign": sign}
    for other in (None, "not it"):
        for scores in (SCORES, [0, -1, 0, -0.5, 0, 0, -2], [0, 1, 0, 0.5, 0, 0, 2]):
            told = Verbalizer(VerbalizerConfig(**settings)).verbalize(TOKENS, scores, label, other)
            assert told.audit["problems"] == [], told.text
            read = checked(told.text, scores=scores, labels=[label, *([other] * bool(other))],
                           **settings)  # fmt: skip
            assert read["problems"] == [], told.text


# --- what speaks against ----------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_where_nothing_speaks_against_it_says_so(language):
    config = VerbalizerConfig(sign="-", language=language)
    told = Verbalizer(config).verbalize(["a", "wonderful", "film"], [0, 0.9, 0.1], "positive")
    lacking = Verbalizer(VerbalizerConfig(language=language)).verbalize(["bad"], [-1], "positive")
    assert told.phrases == [] and told.text != lacking.text
    assert told.audit["is_faithful"] and lacking.audit["is_faithful"]
    if language == "en":
        assert told.text == "No word of this text speaks against the prediction 'positive'."


def test_without_evidence_for_it_there_is_no_share():
    told = Verbalizer(VerbalizerConfig(sign="-")).verbalize(["bad", "film"], [-1.0, -0.5])
    assert "speaks against it." in told.text and "%" not in told.text
    assert told.audit["is_faithful"]


@pytest.mark.parametrize("mode", ["search", "smv"])
def test_with_the_papers_search_no_word_for_it_is_said_to_be_against(mode):
    config = VerbalizerConfig(compat="smv", sign="-", mode=mode)
    told = Verbalizer(config).verbalize(TOKENS, SCORES, "positive")
    assert "wonderful" not in told.text and told.audit["is_faithful"]


BEYOND = {
    "en": "more than everything that speaks for it",
    "de": "mehr als alles, was dafür spricht",
    "fr": "plus que tout ce qui parle pour",
    "es": "más que todo lo que habla a favor",
    "zh": "超过所有支持它的证据",
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("sign", ["+", "-"])
def test_what_outweighs_everything_is_said_in_words(language, sign):
    config = VerbalizerConfig(language=language, sign=sign)
    told = Verbalizer(config).verbalize(["bad", "fine"], [-23.3, 1.0], "positive")
    assert BEYOND[language] in told.text and "2330" not in told.text
    assert told.audit["problems"] == []
    lines = prompt_for(told, config)[1]["content"]
    assert "more than everything that speaks for it, against it" in lines and "2330" not in lines
    assert not checked(told.text, ["bad", "fine"], [-0.5, 1.0], language=language)["is_faithful"]
