"""LexRank: the sentences that many others resemble, found by a random walk."""

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers.utils import ModelOutput

from salhub.data.text_sources import whole_text
from salhub.modeling import ParameterFreeModel, refuse_broken_weights
from salhub.models.lexrank.configuration_lexrank import LexRankConfig
from salhub.models.lexrank.random_walk import (
    Stationary,
    Walk,
    count_components,
    dense_stationary,
    stationary_distribution,
)
from salhub.models.lexrank.similarity_graph import SentenceFeatures
from salhub.models.lexrank.tfidf import (
    WordReader,
    document_frequencies,
    idf_of,
    term_counts,
    unit_vectors,
)
from salhub.models.lexrank.words import stemmer_of, stopwords_of
from salhub.sentence_encoder import SentenceEncoder

logger = logging.getLogger(__name__)


@dataclass
class LexRankOutput(ModelOutput):
    """How central each sentence is.

    Args:
        scores: (N,) or (B, N), scaled as `normalize` says.
        degrees: Similarities of a sentence to all, itself included, summed; with a threshold the
            number of its neighbours and itself. Of the shape of the scores.
        num_iterations: Steps of the power method, int64 () or (B,).
        residuals: Sum of absolute changes in the last one, () or (B,).
    """

    scores: Tensor | None = None
    degrees: Tensor | None = None
    num_iterations: Tensor | None = None
    residuals: Tensor | None = None


class LexRankModel(ParameterFreeModel):
    """Scores sentences by how central they are among others.

    It learns nothing but how rare words are in a collection of texts (`fit_idf`), which is saved
    and loaded like weights.

    Example:
        >>> model = LexRankModel(LexRankConfig(idf="uniform"))
        >>> sentences = ["The bridge is old.", "The old bridge is closed.", "Cats sleep."]
        >>> model.rank(sentences).scores.argmax().item()
        0

    Source: Erkan and Radev 2004 (JAIR 22).
    """

    config: LexRankConfig
    main_input_name = "similarity"
    input_modalities = ["text"]

    def __init__(self, config: LexRankConfig) -> None:
        super().__init__(config)
        self.register_buffer("idf", torch.zeros(config.vocab_size))
        # Words in UTF-8, one a line: they travel in the same file as their weights.
        self.register_buffer("words", torch.zeros(config.vocab_bytes, dtype=torch.uint8))
        self.post_init()

    # --- the collection ---------------------------------------------------------------------------

    def fit_idf(
        self,
        texts: Iterable[str],
        *,
        min_documents: int = 2,
        max_words: int | None = None,
        progress: bool = False,
    ) -> Self:
        """Learn how rare words are: log(N / n), n of N texts having the word.

        Args:
            texts: The collection, one text after another; an iterator is enough.
            min_documents: Words of fewer texts are forgotten; they count as the rarest ones, as
                words of a single text do anyway.
            max_words: The most frequent words that are kept; None for all.
            progress: Whether to show a bar.

        Returns:
            The model.

        Raises:
            TypeError: One text instead of several, or something that is no text.
            ValueError: Fewer than two texts, of which every word would weigh nothing.

        Source: Erkan and Radev 2004 (JAIR 22), section 2.
        """
        if max_words is not None and max_words < 1:
            raise ValueError(f"max_words must be 1 or more, got {max_words}.")
        if isinstance(texts, str | bytes):
            raise TypeError("fit_idf takes several texts; give a list or an iterator of them.")
        bar = tqdm(texts, desc="Counting words", unit="text", disable=not progress)
        counts, number = document_frequencies(map(_checked_text, bar), self.read_words)
        if number < 2:
            raise ValueError(
                f"a collection needs at least two texts, got {number}; in a single text all "
                "words are equally common."
            )
        kept = [(-n, word) for word, n in counts.items() if n >= min_documents]
        kept = sorted(kept)[:max_words]
        if not kept:
            raise ValueError(f"no word occurs in {min_documents} or more texts; give more texts.")
        words = "\n".join(word for _, word in kept).encode()
        frequencies = np.array([-n for n, _ in kept], dtype=np.float64)
        device, dtype = self.idf.device, self.idf.dtype
        self.idf = torch.from_numpy(idf_of(frequencies, number)).to(device, dtype)
        self.words = torch.frombuffer(bytearray(words), dtype=torch.uint8).to(device)
        self.config.vocab_size, self.config.vocab_bytes = len(kept), len(words)
        self.config.num_documents = number
        return self

    @property
    def vocabulary(self) -> dict[str, int]:
        """Words of the fitted collection -> their places in `idf`."""
        return _vocabulary(self.words.cpu().numpy().tobytes())

    @property
    def read_words(self) -> Callable[[str], list[str]]:
        """What gives the words of a text, as the configuration wants them."""
        config = self.config
        stopwords = stopwords_of(config.stopwords)
        return WordReader(config.lowercase, stopwords, stemmer_of(config.stemmer))

    # --- texts ------------------------------------------------------------------------------------

    def rank(
        self,
        sentences: Sequence[str],
        documents: Sequence[int] | None = None,
        query: str | None = None,
    ) -> LexRankOutput:
        """Score the sentences of one text, or of several texts together.

        Args:
            sentences: N sentences.
            documents: Which text each of them is of, N numbers; None for one text.
            query: Words that the walk prefers to jump to; None for no preference.

        Returns:
            Scores, degrees and how the walk went, in float64.

        Raises:
            TypeError: A text instead of sentences.
            ValueError: No sentences, or another number of documents.

        Source: Erkan and Radev 2004 (JAIR 22); Otterbacher, Erkan and Radev 2005 (HLT/EMNLP) for
        the query.
        """
        return self.rank_features(self.features(sentences, documents, query), documents, query)

    def rank_features(
        self,
        features: SentenceFeatures,
        documents: Sequence[int] | None = None,
        query: str | None = None,
    ) -> LexRankOutput:
        """As `rank`, of vectors that `features` has made, of a query with that query."""
        config = self.config
        is_cluster = documents is not None and len(set(documents)) > 1
        is_other = is_cluster and config.cluster_threshold is not None
        threshold = config.cluster_threshold if is_other else config.threshold
        teleport = None
        if query is not None:
            if (reason := self.why_ignored(features)) is not None:
                logger.warning("%s", reason)
            teleport = _preference(features)
            features = SentenceFeatures(tuple(p[:-1] for p in features.parts), features.clips)
        walk = features.walk(threshold, config.solver, config.top_edges)
        found = self._centrality(walk, teleport)
        return LexRankOutput(
            scores=torch.from_numpy(_scaled(found.probabilities, config.normalize)),
            degrees=torch.from_numpy(walk.degrees),
            num_iterations=torch.tensor(found.num_iterations),
            residuals=torch.tensor(found.residual, dtype=torch.float64),
        )

    def why_ignored(self, features: SentenceFeatures) -> str | None:
        """Say why a query, whose vector is the last one, changes nothing; None where it does."""
        if self.config.centrality == "degree" or self.config.damping == 1:
            is_degree = self.config.centrality == "degree"
            setting = "centrality='degree'" if is_degree else "damping=1"
            return (
                "The query was ignored: it steers the random jumps of the walk, and "
                f"{setting} has no jumps."
            )
        if _preference(features) is None:
            return "The query was ignored: no sentence has anything in common with it."
        return None

    def _centrality(self, walk: Walk, teleport: np.ndarray | None) -> Stationary:
        config = self.config
        if config.damping == 1 and count_components(walk) > 1:
            logger.warning(
                "With damping=1 the walk never leaves a group of sentences that has nothing "
                "in common with the others, so the groups keep the shares they start with."
            )
        if config.centrality == "degree":
            return Stationary(walk.degrees / walk.degrees.sum(), 0, 0.0, converged=True)
        found = stationary_distribution(
            walk,
            damping=config.damping,
            teleport=teleport,
            tolerance=config.tolerance,
            max_iterations=config.max_iterations,
        )
        if not found.converged:
            logger.warning(
                "The walk has not converged: it still moved by %.2g after %d steps; raise "
                "max_iterations.",
                found.residual,
                found.num_iterations,
            )
        return found

    def features(
        self,
        sentences: Sequence[str],
        documents: Sequence[int] | None = None,
        query: str | None = None,
    ) -> SentenceFeatures:
        """Vectors of sentences, and of a query behind them."""
        sentences = _checked_sentences(sentences)
        if documents is not None and len(documents) != len(sentences):
            raise ValueError(
                f"got {len(sentences)} sentences and {len(documents)} documents; give one "
                "document for every sentence."
            )
        texts = sentences if query is None else [*sentences, _checked_text(query)]
        kind, config = self.config.representation, self.config
        parts: list[Any] = []
        if kind != "embedding":
            parts.append(self._word_vectors(texts, documents))
        if kind != "tfidf":
            vectors = _encoder(config.encoder, config.pooling, str(self.device))(texts)
            parts.append(_shifted(vectors) if config.negative == "shift" else vectors)
        if kind == "hybrid":
            weights = (config.lexical_weight, 1 - config.lexical_weight)
            parts = [part * weight**0.5 for part, weight in zip(parts, weights, strict=True)]
        clips = kind != "tfidf" and config.negative == "clip"
        features = SentenceFeatures(tuple(parts), clips)
        if kind != "tfidf" and config.negative is None:
            _refuse_negative(features)
        return features

    def _word_vectors(self, sentences: list[str], documents: Sequence[int] | None) -> Any:
        words = list(map(self.read_words, sentences))
        is_fitted = self.config.vocab_size > 0
        if self.config.idf == "collection" and is_fitted:
            refuse_broken_weights(self, self.idf)
            counts, unseen = term_counts(words, self.vocabulary)
            rarest = np.full(len(unseen), np.log(self.config.num_documents))
            idf = np.concatenate([self.idf.double().cpu().numpy(), rarest])
            if not idf.any():
                logger.warning(
                    "Every word occurs in all texts of the collection, so all words count equally."
                )
                idf = np.ones_like(idf)
        else:
            if self.config.idf == "collection":
                logger.warning(
                    "No collection was fitted; word rarity is computed from the text that is "
                    "ranked."
                )
            counts, unseen = term_counts(words, {})
            is_uniform = self.config.idf == "uniform"
            idf = np.ones(len(unseen)) if is_uniform else _cluster_idf(counts, documents)
        return unit_vectors(counts, idf if len(idf) else np.zeros(1))

    # --- matrices ---------------------------------------------------------------------------------

    def forward(
        self,
        similarity: Tensor | None = None,
        attention_mask: Tensor | None = None,
        personalization: Tensor | None = None,
    ) -> LexRankOutput:
        """Score the rows of similarity matrices, of whatever they are; `top_edges` is for texts.

        Args:
            similarity: Similarities of N items, symmetric, (N, N) or a batch (B, N, N).
            attention_mask: 1 for the items that are there, 0 for padding, of the shape of the
                scores; None for all.
            personalization: Where the walk jumps to, 0 or more, of the shape of the scores; None
                for anywhere.

        Returns:
            Scores and degrees, (N,) or (B, N); padding has the score 0.

        Raises:
            TypeError: No floating-point tensor.
            ValueError: A matrix that is not square or not symmetric, or has NaN, infinite or, with
                `negative=None`, negative entries; nothing that is there.
        """
        matrix, mask = _checked_similarity(similarity, attention_mask, self.config.negative)
        config, dtype = self.config, similarity.dtype
        # Sums over many steps need more than half precision.
        matrix = matrix.to(torch.float64 if matrix.device.type == "cpu" else torch.float32)
        if config.threshold is not None:
            matrix = (matrix > config.threshold).to(matrix.dtype)
        teleport = None
        if personalization is not None:
            teleport = _checked_teleport(personalization.reshape(mask.shape), mask).to(matrix.dtype)
        found = dense_stationary(
            matrix,
            mask,
            damping=config.damping,
            teleport=teleport,
            tolerance=config.tolerance,
            max_iterations=config.max_iterations,
        )
        if bool((found.residuals >= config.tolerance).any()) and config.centrality == "lexrank":
            logger.warning(
                "A walk has not converged: it still moved by %.2g after %d steps; raise "
                "max_iterations.",
                float(found.residuals.max()),
                config.max_iterations,
            )
        scores = found.probabilities
        if config.centrality == "degree":
            scores = found.degrees / found.degrees.sum(-1, keepdim=True)
        if config.normalize == "max":
            scores = scores / scores.amax(-1, keepdim=True)
        elif config.normalize == "mean":
            scores = scores * mask.sum(-1, keepdim=True)
        fields = (scores.to(dtype), found.degrees.to(dtype), found.num_iterations, found.residuals)
        if similarity.ndim == 2:
            fields = tuple(field[0] for field in fields)
        return LexRankOutput(*fields)


@functools.lru_cache(maxsize=8)
def _vocabulary(words: bytes) -> dict[str, int]:
    found = words.decode().split("\n") if words else []
    return {word: place for place, word in enumerate(found)}


@functools.lru_cache(maxsize=2)
def _encoder(name: str, pooling: str, device: str) -> SentenceEncoder:
    return SentenceEncoder(name, pooling, device)


def _checked_text(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"a text must be a str, got {type(text).__name__}; decode bytes first.")
    return whole_text(text, "A text")


def _checked_sentences(sentences: Sequence[str]) -> list[str]:
    if isinstance(sentences, str | bytes):
        raise TypeError(
            "sentences must be a list of texts, got one text; split it, or give it to the pipeline."
        )
    found = [_checked_text(sentence) for sentence in sentences]
    if not any(sentence.strip() for sentence in found):
        raise ValueError("there are no sentences to rank; give at least one that is not blank.")
    return found


def _cluster_idf(counts: Any, documents: Sequence[int] | None) -> np.ndarray:
    """Rareness among the documents that are ranked, or among the sentences of a single one."""
    rows, columns = counts.tocoo().coords
    unit = np.arange(counts.shape[0])
    if documents is not None and len(set(documents)) > 1:
        # A query is a unit of its own.
        numbers = np.unique(np.asarray(documents), return_inverse=True)[1]
        unit = np.concatenate([numbers, np.arange(len(unit) - len(numbers)) + numbers.max() + 1])
    pairs = np.unique(np.stack([unit[rows], columns]), axis=1)
    frequencies = np.bincount(pairs[1], minlength=counts.shape[1])
    idf = idf_of(np.maximum(frequencies, 1), int(unit.max()) + 1)
    if not idf.any():
        logger.warning("Every word occurs in every text, so all words count equally.")
        return np.ones_like(idf)
    return idf


def _shifted(vectors: np.ndarray) -> np.ndarray:
    """Vectors whose inner products are (1 + cos) / 2."""
    return np.concatenate([vectors, np.ones((len(vectors), 1))], axis=1) / 2**0.5


def _refuse_negative(features: SentenceFeatures) -> None:
    lowest = min(float(features.similarity_to([place]).min()) for place in range(len(features)))
    if lowest < 0:
        raise ValueError(
            f"similarities go down to {lowest:.3f}; set negative='clip' or negative='shift'."
        )


def _preference(features: SentenceFeatures) -> np.ndarray | None:
    """Where a walk with a query jumps to: sentences as they resemble the last row, the query."""
    similar = features.similarity_to([len(features) - 1])[:-1, 0]
    total = similar.sum()
    return similar / total if total > 0 else None


def _scaled(probabilities: np.ndarray, normalize: str) -> np.ndarray:
    if normalize == "max":
        return probabilities / probabilities.max()
    return probabilities * len(probabilities) if normalize == "mean" else probabilities


def _checked_similarity(
    similarity: Any, mask: Tensor | None, negative: str | None
) -> tuple[Tensor, Tensor]:
    """A batch of matrices with nothing below 0, and which items are there, bool (B, N)."""
    if not isinstance(similarity, Tensor) or not similarity.is_floating_point():
        kind = getattr(similarity, "dtype", type(similarity).__name__)
        raise TypeError(f"similarity must be a floating-point tensor, got {kind}.")
    shape = tuple(similarity.shape)
    if similarity.ndim not in (2, 3) or shape[-1] != shape[-2] or 0 in shape:
        raise ValueError(f"similarity must be (N, N) or (B, N, N), got {shape}.")
    matrix = similarity.reshape(-1, *shape[-2:])
    present = torch.ones(matrix.shape[:2], dtype=torch.bool, device=matrix.device)
    if mask is not None:
        if mask.numel() != present.numel():
            raise ValueError(
                f"attention_mask must have shape {shape[:-1]}, got {tuple(mask.shape)}."
            )
        present = mask.reshape(present.shape).bool()
    if not bool(present.any(-1).all()):
        raise ValueError("attention_mask hides all items of a matrix; keep at least one.")
    _refuse(~torch.isfinite(similarity), "is not finite")
    # Rounding of products in half precision is no asymmetry.
    tolerance = 10 * torch.finfo(matrix.dtype).eps
    is_lopsided = (similarity - similarity.mT).abs() > tolerance
    _refuse(is_lopsided, "differs from the transposed entry")
    if negative is None:
        _refuse(similarity < 0, "is below 0; set negative='clip' or negative='shift'")
    return (1 + matrix) / 2 if negative == "shift" else matrix.clamp(min=0), present


def _refuse(is_wrong: Tensor, what: str) -> None:
    if bool(is_wrong.any()):
        place = tuple(is_wrong.nonzero()[0].tolist())
        raise ValueError(f"similarity {what} at {place}.")


def _checked_teleport(personalization: Tensor, mask: Tensor) -> Tensor:
    there = personalization * mask
    total = there.sum(-1, keepdim=True)
    if not bool(torch.isfinite(there).all()) or bool((there < 0).any()) or bool((total <= 0).any()):
        raise ValueError("personalization must be finite, 0 or more, and not 0 everywhere.")
    return there / total
