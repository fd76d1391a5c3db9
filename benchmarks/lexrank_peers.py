"""LexRank of other packages, called as their documentation calls them, as rankers of sentences."""

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from salhub.models.lexrank.evaluation_summaries import Ranker

# sumy's own tokenizer has to be downloaded; it gets the words that we read.
_WORDS = re.compile(r"[^\W_]+")


class _WordTokenizer:
    """What sumy asks of a tokenizer."""

    def to_words(self, sentence: str) -> list[str]:
        return _WORDS.findall(sentence.lower())


def sumy_summarizer() -> Callable[[Sequence[str], int], tuple[Any, ...]]:
    """The best sentences by sumy, with its stemmer and stop words; tokenising included."""
    models = importlib.import_module("sumy.models.dom")
    summarizer_class = importlib.import_module("sumy.summarizers.lex_rank").LexRankSummarizer
    stemmer = importlib.import_module("sumy.nlp.stemmers").Stemmer("english")
    utils = importlib.import_module("sumy.utils")
    summarizer = summarizer_class(stemmer)
    summarizer.stop_words = utils.get_stop_words("english")
    tokenizer = _WordTokenizer()

    def summarize(sentences: Sequence[str], count: int) -> tuple[Any, ...]:
        parts = [models.Sentence(sentence, tokenizer) for sentence in sentences]
        document = models.ObjectDocumentModel([models.Paragraph(parts)])
        return summarizer(document, count)

    return summarize


def sumy_ranker(budget: int) -> Ranker:
    """The same as a ranker of the sentences that a budget of words can need.

    It gives sentences in the order of the text, so it is asked for one more at a time.
    """
    summarize = sumy_summarizer()

    def rank(sentences: Sequence[str]) -> list[int]:
        places: dict[str, int] = {}
        for place, sentence in enumerate(sentences):
            places.setdefault(str(sentence).strip(), place)
        ranking: list[int] = []
        for count in range(1, len(places) + 1):
            found = [places[str(one)] for one in summarize(sentences, count)]
            ranking += [place for place in found if place not in ranking]
            if sum(len(sentences[place].split()) for place in ranking) >= budget:
                break
        return ranking

    return rank


def lexrank_scorer(
    documents: Sequence[Sequence[str]], threshold: float | None
) -> Callable[[Sequence[str]], Any]:
    """Scores of sentences by the package lexrank, with its stop words.

    Args:
        documents: Sentences of the documents that rareness is counted in.
        threshold: As it takes it; None for its continuous variant.
    """
    module = importlib.import_module("lexrank")
    lexrank = module.LexRank(documents, stopwords=module.STOPWORDS["en"])
    return lambda sentences: lexrank.rank_sentences(list(sentences), threshold=threshold)


def lexrank_ranker(documents: Sequence[Sequence[str]], threshold: float | None) -> Ranker:
    """The same as a ranker."""
    score = lexrank_scorer(documents, threshold)

    def rank(sentences: Sequence[str]) -> list[int]:
        scores = score(sentences)
        return sorted(range(len(sentences)), key=lambda place: -scores[place])

    return rank
