"""From texts to a summary: sentences with their places, their scores, and which were chosen."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from salhub.data.text_sources import whole_text
from salhub.errors import check_choice
from salhub.models.lexrank.modeling_lexrank import LexRankModel
from salhub.models.lexrank.sentence_selection import Budget, Selection, select_sentences
from salhub.models.lexrank.sentence_splitting import Span, split_sentences
from salhub.models.lexrank.similarity_graph import SentenceFeatures

logger = logging.getLogger(__name__)

ORDERS = ("position", "score")
DEFAULT_BUDGET = 3
# Neighbours that are named for a chosen sentence.
_NUM_SUPPORTERS = 3


@dataclass(frozen=True)
class RankedSentence:
    """A sentence of the texts.

    Args:
        text: As it stands in its text.
        document: Number of its text.
        start: Place of its first character there.
        end: Place after its last one.
        score: How central it is; with the weights of the configuration.
        rank: 1 for the highest score.
        is_chosen: Whether it is in the summary.
        supporters: Numbers of the sentences that resemble it most, of chosen ones only.
    """

    text: str
    document: int
    start: int
    end: int
    score: float
    rank: int
    is_chosen: bool = False
    supporters: tuple[int, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """A sentence that repeats a chosen one.

    Args:
        sentence: Its number.
        repeats: Number of the chosen one.
        similarity: How much they resemble each other.
    """

    sentence: int
    repeats: int
    similarity: float


@dataclass(frozen=True)
class Summary:
    """The sentences of some texts, and which of them stand for all.

    Args:
        text: The summary.
        documents: The texts.
        sentences: All sentences, in the order of the texts.
        chosen: Numbers of those in the summary, in its order.
        left_out: Those that would have been chosen if they did not repeat others.
        notes: What a reader should know of it: that it was cut, or why it is short.
    """

    text: str
    documents: tuple[str, ...]
    sentences: tuple[RankedSentence, ...]
    chosen: tuple[int, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


def summarize(
    model: LexRankModel,
    documents: str | Sequence[str] | Sequence[Sequence[str]],
    *,
    budget: Any = DEFAULT_BUDGET,
    query: str | None = None,
    order: str = "position",
) -> Summary:
    """Choose the sentences that carry a text, or several texts together.

    Args:
        model: Scores the sentences.
        documents: A text; several texts; or texts that are lists of their sentences already.
        budget: Length of the summary, as of `Budget.read`.
        query: What the summary should be about; None for nothing in particular.
        order: Of the summary: "position", as in the texts, or "score", best first.

    Returns:
        The summary, with every sentence.

    Raises:
        TypeError: Something that is no text.
        ValueError: No sentences, no length, or an unknown order.

    Example:
        >>> from salhub import LexRankConfig
        >>> model = LexRankModel(LexRankConfig(idf="uniform"))
        >>> text = "The bridge is old. The old bridge is shut. Cats sleep."
        >>> summarize(model, text, budget=1).text
        'The bridge is old.'
    """
    length = Budget.read(budget)
    check_choice("order", order, ORDERS)
    texts, spans = _sentences_of(documents, model)
    numbers = [number for number, found in enumerate(spans) for _ in found]
    sentences = [span.of(texts[n]) for n, found in enumerate(spans) for span in found]
    features = model.features(sentences, numbers, query)
    scores = model.rank_features(features, numbers, query).scores.numpy()
    ignored = None if query is None else model.why_ignored(features)
    words = _words_of(sentences, model)
    scores = weighted_scores(scores, spans, [len(one) for one in words], model.config)
    if query is not None:
        features = SentenceFeatures(tuple(p[:-1] for p in features.parts), features.clips)
    costs = length.costs(sentences)
    limit = length.limit(costs)
    selection = select_sentences(
        scores,
        [cost + length.joint for cost in costs],
        limit + length.joint,
        features,
        words,
        redundancy=model.config.redundancy,
        redundancy_limit=model.config.redundancy_limit,
    )
    chosen = sorted(selection.places) if order == "position" else selection.places
    shown = [" ".join(sentences[place].split()) for place in chosen]
    if selection.is_cut:
        shown = [length.cut(shown[0], limit)]
    return Summary(
        text=" ".join(shown),
        documents=tuple(texts),
        sentences=_ranked(sentences, numbers, spans, scores, chosen, features),
        chosen=tuple(chosen),
        left_out=tuple(LeftOut(r.place, r.of, r.similarity) for r in selection.repetitions),
        notes=(
            *filter(None, (ignored, length.note(sentences))),
            *_notes(selection, costs, length, limit),
        ),
    )


def _notes(selection: Selection, costs: Sequence[int], budget: Budget, limit: int) -> Iterator[str]:
    unit = "words" if budget.unit == "ratio" else budget.unit
    if selection.too_long is not None:
        became = "cut" if selection.is_cut else "passed over"
        yield (
            f"The most central sentence has {costs[selection.too_long]} {unit}, but the "
            f"summary may only have {limit}; it was {became}."
        )
    held = sum(costs[one.place] + budget.joint <= selection.left for one in selection.repetitions)
    if held:
        verb, what = ("was", "it repeats") if held == 1 else ("were", "they repeat")
        number = "1 sentence" if held == 1 else f"{held} sentences"
        yield f"The summary could be longer; {number} {verb} left out because {what} chosen ones."


def weighted_scores(
    centrality: np.ndarray, spans: Sequence[Sequence[Span]], lengths: Sequence[int], config: Any
) -> np.ndarray:
    """Centrality, position and length as one score.

    Args:
        centrality: (N,), 0 or more.
        spans: Sentences of each document, N in all.
        lengths: Words of each sentence, (N,).
        config: Has the weights.

    Source: Erkan and Radev 2004 (JAIR 22), section 4.2: features scaled to [0, 1], weighted and
    added; sentences below a length score 0.
    """
    scores = centrality
    if config.position_weight:
        places = [1 - place / len(found) for found in spans for place in range(len(found))]
        scaled = centrality / centrality.max()
        scores = config.centrality_weight * scaled + config.position_weight * np.array(places)
    if config.min_sentence_words:
        scores = np.where(np.array(lengths) < config.min_sentence_words, 0.0, scores)
    return scores


def _words_of(sentences: Sequence[str], model: LexRankModel) -> list[list[str]]:
    """Words of each sentence where a setting looks at them, which takes as long as scoring."""
    config = model.config
    is_needed = config.redundancy == "csis" or config.min_sentence_words
    return list(map(model.read_words, sentences)) if is_needed else [[]] * len(sentences)


def _sentences_of(documents: Any, model: LexRankModel) -> tuple[list[str], list[list[Span]]]:
    """The texts, and the places of their sentences."""
    config = model.config
    if isinstance(documents, str):
        documents = [documents]
    if isinstance(documents, bytes):
        raise TypeError("documents must be text, got bytes; decode them first.")
    texts, spans = [], []
    for document in documents:
        if isinstance(document, str):
            texts.append(whole_text(document, "A text"))
            spans.append(split_sentences(document, config.language, config.splitter))
        elif isinstance(document, bytes):
            raise TypeError("documents must be text, got bytes; decode them first.")
        else:
            joined, places = _joined(document)
            texts.append(joined)
            spans.append(places)
    if not any(spans):
        raise ValueError("there are no sentences to rank; give a text that is not blank.")
    return texts, spans


def _joined(sentences: Sequence[str]) -> tuple[str, list[Span]]:
    """Sentences of a text that was split before, with their places in the text they make."""
    spans, place = [], 0
    for sentence in sentences:
        if not isinstance(sentence, str):
            raise TypeError(f"a sentence must be a str, got {type(sentence).__name__}.")
        whole_text(sentence, "A sentence")
        if sentence.strip():
            spans.append(Span(place, place + len(sentence)))
        place += len(sentence) + 1
    return "\n".join(sentences), spans


def _ranked(
    sentences: Sequence[str],
    numbers: Sequence[int],
    spans: Sequence[Sequence[Span]],
    scores: np.ndarray,
    chosen: Sequence[int],
    features: SentenceFeatures,
) -> tuple[RankedSentence, ...]:
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    places = [span for found in spans for span in found]
    supporters = {place: _supporters(features, place) for place in chosen}
    return tuple(
        RankedSentence(
            text=sentence,
            document=numbers[place],
            start=places[place].start,
            end=places[place].end,
            score=float(scores[place]),
            rank=int(ranks[place]),
            is_chosen=place in supporters,
            supporters=supporters.get(place, ()),
        )
        for place, sentence in enumerate(sentences)
    )


def _supporters(features: SentenceFeatures, place: int) -> tuple[int, ...]:
    similar = features.similarity_to([place])[:, 0]
    similar[place] = 0
    nearest = np.argsort(-similar, kind="stable")[:_NUM_SUPPORTERS]
    return tuple(int(other) for other in nearest if similar[other] > 0)
