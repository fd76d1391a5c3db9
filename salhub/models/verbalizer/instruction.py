"""The instruction-based form: a chat model explains the map, and is held to it."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from salhub.models.verbalizer.audit import Evidence, audit, repaired
from salhub.models.verbalizer.chat import Chat, Messages
from salhub.models.verbalizer.configuration_verbalizer import VerbalizerConfig
from salhub.models.verbalizer.realization import PLACEHOLDER, Phrase
from salhub.models.verbalizer.verbalizer import Verbalization

logger = logging.getLogger(__name__)

_ROLE = (
    "You explain decisions of a text classifier to people who know nothing about machine learning. "
    "You only use the evidence that you are given."
)
_TASK = (
    "In one or two short sentences, explain why the classifier chose {label}. Put the words of the "
    'text that you name in "double quotes", exactly as they stand there. Do not name other words '
    "and do not invent numbers."
)
# As in templates/en.yaml, so that the audit knows it.
_BEYOND = "more than everything that speaks for it"
# Longer lists would fill the window of a small model.
_MOST_TOKENS = 60
_MOST_FAILURES = 3


def prompt_for(told: Verbalization, config: VerbalizerConfig) -> Messages:
    """The conversation that asks for an explanation.

    Args:
        told: What the search found.
        config: `evidence` says whether the found phrases, all words or both are told.

    Source: Feldhus et al. 2023 (arXiv 2210.07222), section 4, for what a prompt has to hold; the
        wording, and that found phrases are told, is ours.
    """
    label = f"'{_shown_label(told, config)}'"
    parts = [
        f"A classifier read this text:\n{told.words.text}",
        f"It chose {label}. After that, it was computed how much each word mattered for this "
        "choice; the classifier itself never saw these scores.",
    ]
    if config.evidence in ("phrases", "both"):
        parts.append("What mattered most:\n" + "\n".join(_phrase_lines(told)))
    if config.evidence in ("tokens", "both"):
        parts.append("All words with their scores:\n" + _scored_words(told))
    parts.append(_TASK.replace("{label}", label))
    return [
        {"role": "system", "content": _ROLE},
        {"role": "user", "content": "\n\n".join(parts)},
    ]


def _shown_label(told: Verbalization, config: VerbalizerConfig) -> str:
    return PLACEHOLDER if config.mask_label else (told.label or "this class")


def _phrase_lines(told: Verbalization) -> list[str]:
    lines = []
    for phrase in told.phrases:
        says = "for it" if phrase.sign == "+" else "against it"
        lines.append(f'- "{phrase.text}": {_amount(phrase)}{says}')
    return lines or ["- no word stands out"]


def _amount(phrase: Phrase) -> str:
    """How much a phrase weighs, in words where it is more than all that speaks for the class."""
    if phrase.coverage < -1:
        return f"{_BEYOND}, "
    return f"{round(100 * abs(phrase.coverage))} % " if phrase.coverage else ""


def _scored_words(told: Verbalization) -> str:
    pairs = zip(told.words.strings[:_MOST_TOKENS], told.scores.tolist(), strict=False)
    return " ".join(f"{word} ({score:.2f})" for word, score in pairs)


def instruct(
    found: Sequence[Verbalization],
    chat: Chat,
    config: VerbalizerConfig,
    *,
    probabilities: Sequence[float | None] | None = None,
    strict: bool | None = None,
) -> list[Verbalization]:
    """Let a chat model explain what the search found, and hold its answers to the map.

    Every answer is audited. One that fails is replaced by the template ("fallback_template"),
    reduced to its right sentences ("repair", and the template where none is left), or only marked
    ("flag"), as `on_unfaithful` says. `audit["before"]` holds the audit of the untouched answer.

    Args:
        found: From `Verbalizer`.
        chat: The chat model.
        config: See `VerbalizerConfig`.
        probabilities: Of the explained classes, which an answer may print.
        strict: Let a failing chat model fail, instead of giving the template for what it did not
            answer; as the configuration says where None.

    Raises:
        RuntimeError: The chat model fails, and `strict`.
    """
    prompts = [prompt_for(told, config) for told in found]
    answers = _answers(chat, prompts, config.strict if strict is None else strict)
    known = list(probabilities or [None] * len(found))
    return [
        _held(told, prompt, answer, config, probability)
        for told, prompt, answer, probability in zip(found, prompts, answers, known, strict=True)
    ]


def _answers(chat: Chat, prompts: Sequence[Messages], strict: bool) -> list[str | None]:
    """One answer a conversation, None where the chat model failed."""
    if not hasattr(chat, "answer") and len(prompts) > 1:
        try:
            return list(_asked(chat, prompts))
        except RuntimeError:
            if strict:
                raise
    answers: list[str | None] = []
    for prompt in prompts:
        # What does not answer at all is not asked for every text.
        is_silent = len(answers) >= _MOST_FAILURES and not any(answers)
        try:
            answers.append(None if is_silent else _asked(chat, [prompt])[0])
        except RuntimeError as error:
            if strict:
                raise
            logger.warning("%s The template is given instead.", error)
            answers.append(None)
    return answers


def _asked(chat: Chat, prompts: Sequence[Messages]) -> list[str]:
    """The answers of a chat model, whose errors all become RuntimeError."""
    try:
        answers = list(chat.generate(prompts))
    except RuntimeError:
        raise
    except Exception as error:
        raise RuntimeError(f"The chat model failed ({type(error).__name__}: {error}).") from error
    if len(answers) != len(prompts) or not all(isinstance(one, str) for one in answers):
        raise RuntimeError(
            f"The chat model gave {len(answers)} answers to {len(prompts)} conversations, or some "
            "that are no text."
        )
    return answers


def _held(
    told: Verbalization,
    prompt: Messages,
    answer: str | None,
    config: VerbalizerConfig,
    probability: float | None,
) -> Verbalization:
    prompt_text = "\n\n".join(message["content"] for message in prompt)
    if answer is None:
        checked = {**told.audit, "source": "template", "before": None}
        return dataclasses.replace(told, prompt=prompt_text, audit=checked)
    labels = [name for name in (told.label, told.other) if name]
    evidence = Evidence(told.words, told.scores, config, labels, probability, told.phrases)
    before = audit(answer, evidence)
    text, source = _final(answer, before, told, evidence, config)
    after = told.audit if source == "template" else audit(text, evidence)
    checked: dict[str, Any] = {**after, "source": source, "before": before}
    return dataclasses.replace(told, text=text, audit=checked, prompt=prompt_text, llm_text=answer)


def _final(
    answer: str,
    before: dict[str, Any],
    told: Verbalization,
    evidence: Evidence,
    config: VerbalizerConfig,
) -> tuple[str, str]:
    """The text that is given, and where it comes from."""
    if before["is_faithful"]:
        return answer, "llm"
    if config.on_unfaithful == "flag":
        return answer, "llm, unfaithful"
    left = repaired(answer, evidence) if config.on_unfaithful == "repair" else ""
    return (left, "llm, repaired") if left else (told.text, "template")
