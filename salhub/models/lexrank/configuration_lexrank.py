"""Configuration of LexRank."""

from typing import Literal

from salhub.config_fields import ranged
from salhub.configuration import SaliencyConfig, strict
from salhub.models.lexrank.words import stopwords_of


@strict
class LexRankConfig(SaliencyConfig):
    """Settings of `LexRankModel`: what resembles what, and how a summary is chosen.

    Args:
        representation: How sentences are compared: "tfidf", words weighted by their rarity;
            "embedding", vectors of `encoder`; "hybrid", both.
        centrality: "lexrank", the random walk, or "degree", the number of neighbours.
        threshold: Similarity that two sentences must exceed to be linked, in [0, 1); None for the
            continuous method, which weights each link by its similarity. The paper finds 0.1 best
            for clusters of news.
        cluster_threshold: The same when several documents are ranked together; None for
            `threshold`.
        damping: Probability of following a link of the graph instead of jumping to any sentence,
            above 0 and at most 1. The paper's 0.85 is this value, although its formula uses d
            differently.
        tolerance: Sum of absolute changes of the probabilities at which the power method stops.
        max_iterations: Maximum number of steps.
        solver: "dense" stores all pairs; "sparse" only neighbours; "matrix_free" none, for the
            continuous method; or "auto".
        top_edges: Maximum number of neighbours per sentence; None for all.
        normalize: Scores with sum 1 ("sum"), largest 1 ("max", as the paper prints them) or mean 1
            ("mean").
        idf: Where word rarity is counted: in the "collection" that the model was fitted on, in the
            "cluster" that is ranked, or "uniform" to ignore it.
        lowercase: Whether "The" and "the" are the same word.
        stopwords: Language of a built-in list, such as "en"; a list of words; or None.
        stemmer: Language of a Snowball stemmer, such as "english"; None for no stemming.
        language: Code of the language, such as "en", for splitting sentences.
        splitter: "sentencex", or "punctuation", which needs no further package.
        encoder: Sentence encoder: a folder or a Hub repository that AutoModel loads.
        pooling: How its states become one vector: "mean" or "cls".
        negative: How cosines below 0 are handled: "clip" makes them 0, "shift" uses (1 + cos) / 2;
            None refuses them.
        lexical_weight: Share of the words in "hybrid", from 0 to 1.
        centrality_weight: Weight of the centrality, scaled to [0, 1], in the score; only used with
            `position_weight`.
        position_weight: Weight of the position, which is 1 for the first sentence of a document
            and falls linearly.
        min_sentence_words: Sentences with fewer words get the score 0; the paper uses 9.
        redundancy: How repetitions are avoided: "cosine" skips sentences whose similarity to a
            chosen one exceeds the limit, "csis" lowers their score by the share of common words,
            "mmr" by the similarity; or None.
        redundancy_limit: Limit of "cosine", and weight of the penalty of "mmr"; 0 to 1.
        vocab_size: Number of words of the fitted collection; set by `fit_idf`.
        vocab_bytes: Bytes that they take; set by `fit_idf`.
        num_documents: Number of texts of the fitted collection; set by `fit_idf`.

    Raises:
        ValueError: A setting out of its range, or an unknown choice.

    Example:
        >>> LexRankConfig(threshold=0.1).damping
        0.85

    Source: Erkan and Radev, "LexRank: Graph-based Lexical Centrality as Salience in Text
    Summarization", JAIR 22, 2004. Defaults: damping from the paper; the continuous method, the
    tolerance and the limit of redundancy are ours.
    """

    model_type = "salhub_lexrank"
    loaded_fields = frozenset({"vocab_size", "vocab_bytes", "num_documents"})

    representation: Literal["tfidf", "embedding", "hybrid"] = "tfidf"
    centrality: Literal["lexrank", "degree"] = "lexrank"
    # At 1 every sentence would be alone.
    threshold: float | int | None = ranged(None, least=0, below=1)
    cluster_threshold: float | int | None = ranged(None, least=0, below=1)
    damping: float | int = ranged(
        0.85, above=0, most=1, hint="it is the probability of following a link"
    )
    tolerance: float = ranged(1e-6, above=0, most=1)
    max_iterations: int = ranged(200, least=1, most=10**6)
    solver: Literal["auto", "dense", "sparse", "matrix_free"] = "auto"
    top_edges: int | None = ranged(None, least=1)
    normalize: Literal["sum", "max", "mean"] = "sum"
    idf: Literal["collection", "cluster", "uniform"] = "collection"
    lowercase: bool = True
    stopwords: str | list[str] | None = None
    stemmer: str | None = None
    language: str = "en"
    splitter: Literal["sentencex", "punctuation"] = "sentencex"
    encoder: str | None = None
    pooling: Literal["mean", "cls"] = "mean"
    negative: Literal["clip", "shift"] | None = "clip"
    lexical_weight: float | int = ranged(0.5, least=0, most=1)
    centrality_weight: float | int = ranged(1.0, least=0, most=10**6)
    position_weight: float | int = ranged(0.0, least=0, most=10**6)
    min_sentence_words: int = ranged(0, least=0)
    redundancy: Literal["cosine", "csis", "mmr"] | None = "cosine"
    redundancy_limit: float | int = ranged(0.5, least=0, most=1)
    vocab_size: int = ranged(0, least=0)
    vocab_bytes: int = ranged(0, least=0)
    num_documents: int = ranged(0, least=0)

    def validate_combinations(self) -> None:
        """Settings must not contradict each other."""
        if self.representation != "tfidf" and self.encoder is None:
            raise ValueError(
                f"representation='{self.representation}' needs an encoder, such as "
                "encoder='sentence-transformers/all-MiniLM-L6-v2'."
            )
        stopwords_of(self.stopwords)
        for name in ("threshold", "cluster_threshold", "top_edges"):
            if self.solver == "matrix_free" and getattr(self, name) is not None:
                raise ValueError(
                    f"solver='matrix_free' does not compare pairs; set {name}=None, or use "
                    "solver='sparse'."
                )
