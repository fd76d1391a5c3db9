"""The instruction-based form: a chat model explains the map, and is held to it."""

import dataclasses
import logging
from collections.abc import Sequence

from salhub.models.verbalizer.audit import Evidence
from salhub.models.verbalizer.configuration_verbalizer import VerbalizerConfig
from salhub.models.verbalizer.realization import Names
from salhub.models.verbalizer.slots import (
    MOST_WORDS,
    Slot,
    audited,
    repaired,
    slots_of,
    word_slots,
)
from salhub.models.verbalizer.verbalizer import Verbalization
from salhub.pipelines.chat import Chat, Messages, has_text, text_of

logger = logging.getLogger(__name__)

_ROLE = (
    "You explain decisions of a text classifier to people who know nothing about machine learning. "
    "For words of the text you write their number in brackets; the words are filled in for you."
)
_TASK = (
    "Say in one or two short sentences{language} why the verdict is {label}. Write the numbers in "
    "brackets for the words; use no quotation marks and no other numbers."
)
# Small models do as they have seen it done, so the example has as many slots as what is asked.
_EXAMPLE = "Shares fell after the bank cut its forecast for oil, and fans were upset."
_EXAMPLE_FOR = ("shares fell", "bank cut", "forecast", "oil")
_EXAMPLE_AGAINST = "fans"
_LANGUAGES = {"de": "German", "fr": "French", "es": "Spanish", "zh": "Chinese"}
_MOST_FAILURES = 3


def prompt_for(
    told: Verbalization, config: VerbalizerConfig, slots: Sequence[Slot] | None = None
) -> Messages:
    """The conversation that asks for an explanation.

    Args:
        told: What the search found.
        config: `evidence` says whether the found phrases, all words or both are told.
        slots: That the chat model may use; those of `told` by default.

    Source: Feldhus et al. 2023 (arXiv 2210.07222), section 4, for what a prompt has to hold; the
        wording, and that words are put in for numbers, is ours.
    """
    evidence = evidence_of(told, config)
    slots = told_slots(told, evidence) if slots is None else slots
    names, (label, rival) = evidence.names, evidence.names.shown
    verdict = f"{label or 'this class'} rather than {rival}" if rival else label or "this class"
    own = [names.masked(", ".join(one.text for one in slot.phrases)) for slot in slots]
    signs = [slot.sign for slot in slots]
    language = f" in {_LANGUAGES[config.language]}" if config.language in _LANGUAGES else ""
    asked = _question(names.masked(told.words.text), verdict, own, signs, language)
    if config.evidence == "both":
        asked = f"All words with their scores:\n{scored_words(told, evidence)}\n\n{asked}"
    messages = [{"role": "system", "content": _ROLE}, *_example(signs)]
    return [*messages, {"role": "user", "content": asked}]


def _question(
    text: str, label: str, words: Sequence[str], signs: Sequence[str], language: str = ""
) -> str:
    numbered = [f"[{number}] {one}" for number, one in enumerate(words, 1)]
    sides = []
    for sign, says in (("+", "for"), ("-", "against")):
        own = [one for one, side in zip(numbered, signs, strict=True) if side == sign]
        sides += [f"Words {says} it: {'; '.join(own)}"] if own else []
    return "\n".join(
        [
            f"Text: {text}",
            f"Verdict: {label}",
            *(sides or ["No word stands out."]),
            _TASK.format(label=label, language=language),
        ]
    )


def _and(items: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def _example(signs: Sequence[str]) -> Messages:
    """A conversation about another text, with as many slots for the class, up to four."""
    count, has_against = min(max(1, list(signs).count("+")), len(_EXAMPLE_FOR)), "-" in signs
    words = [*_EXAMPLE_FOR[:count], *[_EXAMPLE_AGAINST] * has_against]
    others = [f"[{number}]" for number in range(2, count + 1)]
    answer = "The verdict rests on [1]"
    if others:
        answer += ", with support from " + _and(others)
    if has_against:
        answer += f"; [{count + 1}] speaks against it"
    shown = ["+"] * count + ["-"] * has_against
    return [
        {"role": "user", "content": _question(_EXAMPLE, "Business", words, shown)},
        {"role": "assistant", "content": f"{answer}."},
    ]


def evidence_of(told: Verbalization, config: VerbalizerConfig) -> Evidence:
    """The map that an answer is held to."""
    names = Names(told.label, told.other, config.mask_label, told.is_asked)
    return Evidence(told.words, told.scores, config, names)


def told_slots(told: Verbalization, evidence: Evidence) -> list[Slot]:
    """The slots that a chat model is told: of phrases, or with `evidence="tokens"` of words."""
    is_words = evidence.config.evidence == "tokens"
    return word_slots(evidence) if is_words else slots_of(told.phrases)


def scored_words(told: Verbalization, evidence: Evidence) -> str:
    """As in "warm (0.90) film (0.10)"."""
    pairs = zip(told.words.strings, told.scores.tolist(), strict=True)
    words = [f"{word} ({score:.2f})" for word, score in list(pairs)[:MOST_WORDS]]
    return evidence.names.masked(" ".join(words))


def instruct(
    found: Sequence[Verbalization],
    chat: Chat,
    config: VerbalizerConfig,
    *,
    class_names: Sequence[str] = (),
    strict: bool | None = None,
) -> list[Verbalization]:
    """Let a chat model explain what the search found, and hold its answers to the map.

    It writes prose around numbered slots, in which quotation, share and direction are put. Every
    answer is audited. One that fails is replaced by the template ("fallback_template"),
    reduced to its right sentences ("repair", and the template where none is left), or only marked
    ("flag"), as `on_unfaithful` says. `audit["before"]` holds the audit of the untouched answer.

    Args:
        found: From `Verbalizer`.
        chat: The chat model.
        config: See `VerbalizerConfig`.
        class_names: All classes of the classifier; an answer that names another than is explained
            is refused.
        strict: Let a failing chat model fail, instead of giving the template for what it did not
            answer; as the configuration says where None.

    Raises:
        RuntimeError: The chat model fails, and `strict`.
    """
    maps = [evidence_of(told, config) for told in found]
    slots = [told_slots(told, one) for told, one in zip(found, maps, strict=True)]
    prompts = [prompt_for(told, config, own) for told, own in zip(found, slots, strict=True)]
    answers = _answers(chat, prompts, config.strict if strict is None else strict)
    return [
        _held(told, prompt, answer, own, evidence, class_names)
        for told, prompt, answer, own, evidence in zip(
            found, prompts, answers, slots, maps, strict=True
        )
    ]


def _answers(chat: Chat, prompts: Sequence[Messages], strict: bool) -> list[str | None]:
    """One answer a conversation, None where the chat model failed."""
    if not hasattr(chat, "answer") and len(prompts) > 1:
        try:
            return _asked(chat, prompts, strict)
        except RuntimeError:
            if strict:
                raise
    answers: list[str | None] = []
    for prompt in prompts:
        # What does not answer at all is not asked for every text.
        is_silent = len(answers) >= _MOST_FAILURES and not any(answers)
        try:
            answers += [None] if is_silent else _asked(chat, [prompt], strict)
        except RuntimeError as error:
            if strict:
                raise
            logger.warning("%s The template is used instead.", error)
            answers.append(None)
    return answers


def _asked(chat: Chat, prompts: Sequence[Messages], strict: bool) -> list[str | None]:
    """The answers of a chat model, whose errors all become RuntimeError; None for no text."""
    try:
        answers = list(chat.generate(prompts))
    except RuntimeError:
        raise
    except Exception as error:
        raise RuntimeError(f"The chat model failed ({type(error).__name__}: {error}).") from error
    if len(answers) != len(prompts):
        raise RuntimeError(
            f"The chat model gave {len(answers)} answers to {len(prompts)} conversations."
        )
    return [text_of(one) if strict or has_text(one) else None for one in answers]


def _held(
    told: Verbalization,
    prompt: Messages,
    answer: str | None,
    slots: Sequence[Slot],
    evidence: Evidence,
    class_names: Sequence[str],
) -> Verbalization:
    asked = "\n\n".join(message["content"] for message in prompt)
    if answer is None:
        checked = {**told.audit, "source": "template", "before": None}
        return dataclasses.replace(told, prompt=asked, audit=checked)
    text, before = audited(answer, slots, evidence, class_names)
    after, source, how = before, "llm", evidence.config.on_unfaithful
    if not before["is_faithful"]:
        source = "llm, unfaithful"
        if how == "repair":
            left = repaired(answer, slots, evidence, class_names)
            text, after = audited(left, slots, evidence, class_names)
            source = "llm, repaired"
        if how != "flag" and not after["is_faithful"]:
            text, after, source = told.text, told.audit, "template"
    checked = {**after, "source": source, "before": before}
    return dataclasses.replace(told, text=text, audit=checked, prompt=asked, llm_text=answer)
