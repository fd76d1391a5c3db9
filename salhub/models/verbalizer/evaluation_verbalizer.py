"""Evaluation of a verbalizer: is what it says true, does it say enough, and does it help."""

import copy
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from salhub.data.labelled_split import FILE_NAME, LabelledSplit
from salhub.data.labelled_texts import LabelledTexts, read_labelled_texts
from salhub.hub import resolve
from salhub.models.verbalizer.audit import Evidence
from salhub.models.verbalizer.candidates import find_candidates
from salhub.models.verbalizer.configuration_verbalizer import VerbalizerConfig
from salhub.models.verbalizer.evaluation_free_prose import audit_free_prose, free_prompt
from salhub.models.verbalizer.evaluation_removal import random_groups, removal_drops
from salhub.models.verbalizer.explaining import TextMap, explain_texts
from salhub.models.verbalizer.instruction import evidence_of, instruct
from salhub.models.verbalizer.modeling_verbalizer import SaliencyVerbalizerModel
from salhub.models.verbalizer.selection import select_greedily
from salhub.models.verbalizer.verbalizer import (
    TEXTS_AT_ONCE,
    Verbalization,
    Verbalizer,
    padded_rows,
)
from salhub.pipelines.chat import Chat, as_chat
from salhub.results import Results, Table, measured

_AUDITS = {
    "citation": "citation_precision",
    "sign": "sign_faithfulness",
    "number": "numeric_faithfulness",
    "superlative": "superlative_faithfulness",
}
_CONTROL_DRAWS = 3
_TIMINGS = 20
_TEXTS_TIMED = 1000


def evaluate(
    model: SaliencyVerbalizerModel,
    tokenizer: Any,
    data_path: str | os.PathLike[str],
    *,
    num_texts: int = 200,
    chat_model: str | None = None,
    num_chat_texts: int = 24,
    seed: int = 0,
) -> Results:
    """Measure a verbalizer on labelled texts that its classifier did not learn.

    Args:
        model: The verbalizer.
        tokenizer: Of its classifier.
        data_path: Labelled texts, see `read_labelled_texts`; where the model comes with the split
            of these very data, its test texts.
        num_texts: Texts that are explained.
        chat_model: Chat model whose answers are audited too, by name, or None.
        num_chat_texts: Texts that it explains.
        seed: Of the texts that are drawn, of the controls and of the bootstrap.

    Returns:
        `Results` with the tables of the card.

    Raises:
        FileNotFoundError, ValueError: There is no such file, or it has other classes.

    Source: Feldhus et al. 2023 (arXiv 2210.07222), section 5, for coverage and guessing;
        DeYoung et al. 2020 (arXiv 1911.03429) for removing words; the audit is ours.
    """
    texts = test_texts(model, read_labelled_texts(data_path))
    results = Results.of_model(model, Path(data_path).name, seed)
    results.data = texts.describe() | {"num_explained": min(num_texts, len(texts))}
    # What cannot be loaded is said before any work.
    chat = None if chat_model is None else as_chat(chat_model, model.config.max_new_tokens)
    with measured(results):
        places = np.random.default_rng(seed).permutation(len(texts))[:num_texts]
        drawn = texts.part(places.tolist()).texts
        maps = explain_texts(model, tokenizer, texts.texts)
        _add_accuracy(results, maps, texts)
        few = [maps[place] for place in places]
        told = told_of(model, few)
        _add_coverage(results, model, few, told)
        _add_audit(results, model, few, told)
        _add_removal(results, model, tokenizer, few, told)
        _add_speed(results, model, tokenizer, drawn, few)
        if chat is not None:
            _add_chat(results, model, few[:num_chat_texts], chat, Path(str(chat_model)).name)
    return results


def test_texts(model: SaliencyVerbalizerModel, texts: LabelledTexts) -> LabelledTexts:
    """The texts that a model did not learn, of the classes that it has."""
    names = list(model.id2label.values())
    texts = texts.in_order_of(names)
    if texts.class_names != names:
        raise ValueError(
            f"{texts.name} has the classes {', '.join(texts.class_names)}, but the model has "
            f"{', '.join(names)}; give data with the same classes."
        )
    folder = Path(resolve(model.config.name_or_path).config_folder)
    if not (folder / FILE_NAME).is_file():
        return texts
    split = LabelledSplit.load(folder)
    if split.data.get("fingerprint") != texts.describe()["fingerprint"]:
        return texts
    if not len(split.test):
        raise ValueError(
            f"The model was trained on all texts of {texts.name}; give texts that it has "
            "never seen."
        )
    return texts.part(split.test.tolist())


def told_of(
    model: SaliencyVerbalizerModel, maps: Sequence[TextMap], **settings: Any
) -> list[Verbalization]:
    """What a model says of maps, with other settings where some are given."""
    config = copy.deepcopy(model.config)
    for name, value in settings.items():
        setattr(config, name, value)
    labels = [model.id2label[one.class_label] for one in maps]
    words, scores = [one.words for one in maps], [one.scores for one in maps]
    return Verbalizer(config).verbalize_batch(words, scores, labels)


def _groups(told: Verbalization) -> list[tuple[int, ...]]:
    return [phrase.indices for phrase in told.phrases if phrase.sign == "+"]


def named_words(told: Verbalization) -> list[int]:
    """The words that are named for the class."""
    return [word for group in _groups(told) for word in group]


def _add_mean(results: Results, name: str, values: Sequence[float], unit: str = "fraction") -> str:
    """Record a mean with its bootstrap interval, and return it for a table."""
    return f"{results.add_mean(name, values, unit=unit):.3f}"


def _add_accuracy(results: Results, maps: Sequence[TextMap], texts: LabelledTexts) -> None:
    right = [one.predicted == label for one, label in zip(maps, texts.labels, strict=True)]
    shown = _add_mean(results, "accuracy", right)
    deltas = [one.convergence_delta for one in maps if one.convergence_delta is not None]
    rows: list[list[Any]] = [["accuracy of the classifier", shown, len(maps)]]
    if deltas:
        sums = np.array([abs(one.scores.sum()) for one in maps])
        results.add_metric("convergence_delta/mean", np.mean(deltas), n=len(maps), unit="logits")
        results.add_metric("convergence_delta/largest", max(deltas), n=len(maps), unit="logits")
        share = float(np.sum(deltas) / max(sums.sum(), 1e-12))
        results.add_metric("convergence_delta/share", share, n=len(maps), unit="fraction")
        rows.append(["mean error of the scores' sum (logits)", f"{np.mean(deltas):.4f}", len(maps)])
        rows.append(["largest error of the scores' sum (logits)", f"{max(deltas):.4f}", len(maps)])
    note = f"Test texts of {texts.name}; 95 % bootstrap interval."
    results.tables.append(
        Table("The classifier and its scores", note, ["what", "value", "n"], rows)
    )


def _add_coverage(
    results: Results,
    model: SaliencyVerbalizerModel,
    maps: Sequence[TextMap],
    told: Sequence[Verbalization],
) -> None:
    budget = model.config.max_words
    summaries = told_of(model, maps, mode="smv")
    evidence = [Evidence(one.words, one.scores, model.config) for one in maps]
    short = [named_words(one)[:budget] for one in summaries]
    first = [range(min(5, len(one.words))) for one in maps]
    rules: dict[str, Sequence[Sequence[int]]] = {
        "greedy": [named_words(one) for one in told],
        "smv": short,
        "greedy_as_short": _as_short(model, maps, [len(words) for words in short]),
        "first_5_words": first,
        "best_single_words": [_best_words(one.scores, budget) for one in maps],
    }
    titles = {
        "greedy": "this model, phrases and words",
        "smv": 'the summary of the paper (mode="smv")',
        "greedy_as_short": "this model, with as many words as that summary",
        "first_5_words": "the first five words",
        "best_single_words": f"the best {budget} words one by one (upper bound)",
    }
    rows = []
    for rule, named in rules.items():
        shares = [one.coverage(words) for one, words in zip(evidence, named, strict=True)]
        shown = _add_mean(results, f"coverage/{rule}", shares)
        counts = float(np.mean([len(words) for words in named]))
        results.add_metric(f"words_named/{rule}", counts, n=len(maps), unit="words")
        rows.append([titles[rule], shown, f"{counts:.1f}"])
    ratio = (
        results.metric("coverage/greedy").value / results.metric("coverage/best_single_words").value
    )
    results.add_metric("coverage/greedy_by_best", ratio, n=len(maps), unit="ratio")
    note = (
        f"Share of the positive evidence covered by at most {budget} words, over {len(maps)} "
        f"texts; 95 % bootstrap interval. The model reaches {100 * ratio:.1f} % of the upper "
        "bound."
    )
    columns = ["named", "coverage", "words"]
    results.tables.append(Table("Coverage at the same number of words", note, columns, rows))


def _best_words(scores: np.ndarray, count: int) -> list[int]:
    best = np.argsort(-scores, kind="stable")[:count]
    return best[scores[best] > 0].tolist()


def _as_short(
    model: SaliencyVerbalizerModel, maps: Sequence[TextMap], counts: Sequence[int]
) -> list[list[int]]:
    """What the model names of each text with a budget of its own."""
    named: dict[int, list[int]] = {place: [] for place, count in enumerate(counts) if not count}
    for count in set(counts) - {0}:
        places = [place for place, own in enumerate(counts) if own == count]
        told = told_of(model, [maps[place] for place in places], max_words=count)
        named |= {place: named_words(one) for place, one in zip(places, told, strict=True)}
    return [named[place] for place in range(len(maps))]


def _audit_rows(
    results: Results, name: str, title: str, audits: Sequence[Mapping[str, Any]]
) -> list[Any]:
    cells: list[Any] = [title]
    for kind, key in _AUDITS.items():
        shares = [one[key] for one in audits if one[key] is not None]
        value = float(np.mean(shares)) if shares else float("nan")
        results.add_metric(f"audit/{name}/{kind}", value, n=len(shares), unit="fraction")
        cells.append(f"{100 * value:.1f} %" if shares else None)
    ranks = [one["rank_faithfulness"] for one in audits if one["rank_faithfulness"] is not None]
    rank = float(np.mean(ranks)) if ranks else float("nan")
    results.add_metric(f"audit/{name}/rank", rank, n=len(ranks), unit="tau")
    faithful = float(np.mean([one["is_faithful"] for one in audits]))
    results.add_metric(f"audit/{name}/faithful", faithful, n=len(audits), unit="fraction")
    brevity = float(np.mean([one["brevity"] for one in audits]))
    results.add_metric(f"brevity/{name}", brevity, n=len(audits), unit="ratio")
    shown = f"{rank:.2f}" if ranks else None
    return [*cells, shown, f"{100 * faithful:.1f} %", f"{brevity:.2f}", len(audits)]


_AUDIT_COLUMNS = ["text", *_AUDITS, "rank (tau)", "all right", "brevity", "n"]
_AUDIT_NOTE = (
    "Share of the quotations that occur in the text, of the named words whose score has the "
    "claimed sign, of the printed numbers that are right within half a point, and of the "
    "words called most important that are; agreement of the order of mention with the order "
    "of coverage (1 is the same); texts without any fault; words relative to the words of "
    "the text."
)


def _add_audit(
    results: Results,
    model: SaliencyVerbalizerModel,
    maps: Sequence[TextMap],
    told: Sequence[Verbalization],
) -> None:
    rows = [_audit_rows(results, "template", "templates", [one.audit for one in told])]
    for language in ("de", "fr", "es", "zh"):
        spoken = [one.audit for one in told_of(model, maps, language=language)]
        rows.append(_audit_rows(results, f"template_{language}", f"templates, {language}", spoken))
    smv = [one.audit for one in told_of(model, maps, mode="smv")]
    rows.append(_audit_rows(results, "smv", 'mode="smv"', smv))
    results.tables.append(Table("Audit", _AUDIT_NOTE, _AUDIT_COLUMNS, rows))


def random_named(
    maps: Sequence[TextMap], told: Sequence[Verbalization], seed: int
) -> list[list[int]]:
    """Words of random phrases as long as those that are named."""
    generator = np.random.default_rng(seed)
    drawn = [
        random_groups(_groups(one), len(found.words), generator)
        for one, found in zip(told, maps, strict=True)
    ]
    return [[word for group in groups for word in group] for groups in drawn]


def _add_removal(
    results: Results,
    model: SaliencyVerbalizerModel,
    tokenizer: Any,
    maps: Sequence[TextMap],
    told: Sequence[Verbalization],
) -> None:
    found = removal_drops(model, tokenizer, maps, [named_words(one) for one in told])
    controls = [
        removal_drops(model, tokenizer, maps, random_named(maps, told, results.seed + draw))
        for draw in range(_CONTROL_DRAWS)
    ]
    rows = []
    for name in ("comprehensiveness", "sufficiency"):
        shown = _add_mean(results, name, getattr(found, name), "probability")
        control = np.mean([getattr(one, name) for one in controls], axis=0)
        shown_control = _add_mean(results, f"{name}/random_phrases", control, "probability")
        rows.append([name, shown, shown_control])
    note = (
        "How far the probability of the class falls without the named words (more is better) "
        "and with only these words (less is better), compared with phrases of the same length "
        f"elsewhere (mean of {_CONTROL_DRAWS} draws); {len(maps)} texts, 95 % bootstrap interval."
    )
    columns = ["what", "named words", "random phrases"]
    results.tables.append(Table("Words removed", note, columns, rows))


def _add_speed(
    results: Results,
    model: SaliencyVerbalizerModel,
    tokenizer: Any,
    texts: Sequence[str],
    maps: Sequence[TextMap],
) -> None:
    config = model.config
    rows_of = [one.scores for one in maps]
    scores, lengths, marks = padded_rows([one.words for one in maps], rows_of)
    order = np.resize(np.argsort(lengths), _TEXTS_TIMED)
    order = order[np.argsort(lengths[order], kind="stable")]
    middle = int(np.argsort(lengths)[len(lengths) // 2])
    told = Verbalizer(config)
    times = {
        "search_alone": _fastest(lambda: _search(scores, lengths, marks, [middle], config)),
        "search_together": _fastest(lambda: _search(scores, lengths, marks, order, config))
        / _TEXTS_TIMED,
        "sentences": _fastest(lambda: told.verbalize(maps[middle].words, rows_of[middle], "x")),
        "whole": _fastest(lambda: explain_texts(model, tokenizer, [texts[middle]])),
    }
    titles = {
        "search_alone": "search, one text",
        "search_together": f"search, per text in a batch of {_TEXTS_TIMED}",
        "sentences": "search, sentences and audit, one text",
        "whole": "scores of the words, one text",
    }
    for name, seconds in times.items():
        results.add_metric(f"microseconds/{name}", 1e6 * seconds, unit="us")
    rows = [[titles[name], f"{1e6 * seconds:.1f}"] for name, seconds in times.items()]
    note = f"Microseconds, best of {_TIMINGS}; the texts have {np.median(lengths):.0f} words."
    results.tables.append(Table("Speed", note, ["what", "microseconds"], rows))


def _search(
    scores: np.ndarray,
    lengths: np.ndarray,
    marks: np.ndarray,
    order: Sequence[int] | np.ndarray,
    config: VerbalizerConfig,
) -> None:
    """Search texts in the order of their lengths, so that little of each batch is padding."""
    for begin in range(0, len(order), TEXTS_AT_ONCE):
        part = np.asarray(order[begin : begin + TEXTS_AT_ONCE])
        width = int(lengths[part].max())
        own_marks = marks[part, :width]
        found = find_candidates(scores[part, :width], lengths[part], config, own_marks)
        select_greedily(found, config, own_marks)


def _fastest(function: Callable[[], Any]) -> float:
    times = []
    for _ in range(_TIMINGS):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return min(times)


def _add_chat(
    results: Results, model: SaliencyVerbalizerModel, maps: Sequence[TextMap], chat: Chat, name: str
) -> None:
    config = copy.deepcopy(model.config)
    config.on_unfaithful = "repair"
    told, names = told_of(model, maps), list(model.id2label.values())
    begin = time.perf_counter()
    found = instruct(told, chat, config, class_names=names)
    seconds = (time.perf_counter() - begin) / len(maps)
    results.add_metric("seconds/chat_phrases", seconds, n=len(maps), unit="s")
    kept = float(np.mean([one.audit["source"] != "template" for one in found]))
    results.add_metric("chat_phrases/answers_kept", kept, n=len(maps), unit="fraction")
    before, after = [one.audit["before"] for one in found], [one.audit for one in found]
    rows = [
        _audit_rows(results, "chat_phrases/before", "around slots, before repair", before),
        _audit_rows(
            results, "chat_phrases/after", f"after ({100 * kept:.0f} % kept in part)", after
        ),
        _audit_rows(results, "chat_free", "free prose", _free_audits(told, chat, config)),
    ]
    results.data["chat_model"] = name
    note = (
        f"Answers of {name}, which writes around numbered slots that are filled from the "
        "scores; the prompt shows one example with the same number of slots. Sentences that "
        "fail the check are removed, and if too little is left, the template is used. "
        "Below: what it writes freely about the same phrases, checked only by its "
        f"quotations and numbers. {_AUDIT_NOTE}"
    )
    results.tables.append(Table("A chat model, audited", note, _AUDIT_COLUMNS, rows))


def _free_audits(
    told: Sequence[Verbalization], chat: Chat, config: VerbalizerConfig
) -> list[dict[str, Any]]:
    maps = [evidence_of(one, config) for one in told]
    prompts = [free_prompt(one, evidence) for one, evidence in zip(told, maps, strict=True)]
    answers = chat.generate(prompts)
    return [audit_free_prose(text, one) for text, one in zip(answers, maps, strict=True)]
