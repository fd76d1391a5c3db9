"""LexRank against the worked example of its paper, and against slow and obvious arithmetic."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import sparse

from salhub import LexRankConfig, LexRankModel
from salhub.models.lexrank.random_walk import FeatureWalk, MatrixWalk, stationary_distribution
from salhub.models.lexrank.similarity_graph import similarity_graph

# Similarities of eleven sentences of five news stories, two decimals, the upper triangle.
ROWS = (
    ".45 .02 .17 .03 .22 .03 .28 .06 .06 .00", ".16 .27 .03 .19 .03 .21 .03 .15 .00",
    ".03 .00 .01 .03 .04 .00 .01 .00", ".01 .16 .28 .17 .00 .09 .01", ".29 .05 .15 .20 .04 .18",
    ".05 .29 .04 .20 .03", ".06 .00 .00 .01", ".25 .20 .17", ".26 .38", ".12",
)  # fmt: skip
# Two that are printed as .20 are above it, and one is not.
ABOVE = ((5, 9), (7, 9))
SCORES = {
    0.1: ".6007 .8466 .3491 .7520 .5907 .7993 .3548 1 .5921 .6910 .5921",
    0.2: ".6944 .7317 .6773 .6550 .4344 .8718 .4993 1 .7399 .6967 .4501",
    0.3: "1 1 1 1 1 1 1 1 1 1 1",
}
DEGREES = {0.1: "5 7 2 6 5 7 2 9 5 6 5", 0.2: "4 4 1 3 2 5 2 6 4 4 2"}
WORDS = ("old", "bridge", "town", "car", "walk", "steel", "shop", "bus", "river", "path")


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]


def worked_example() -> np.ndarray:
    matrix = np.eye(11)
    for row, values in enumerate(ROWS):
        for column, value in enumerate(numbers(values), row + 1):
            matrix[row, column] = matrix[column, row] = value
    for row, column in ABOVE:
        matrix[row, column] = matrix[column, row] = 0.2001
    return matrix


def solved(similarity: np.ndarray, damping: float, jump: np.ndarray | None = None) -> np.ndarray:
    """The stationary distribution by elimination: (1 - d B^T) p = (1 - d) jump."""
    number = len(similarity)
    steps = similarity / similarity.sum(axis=1, keepdims=True)
    jump = np.full(number, 1 / number) if jump is None else jump
    return np.linalg.solve(np.eye(number) - damping * steps.T, (1 - damping) * jump)


def random_sentences(number: int, seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, size=generator.integers(1, 9))) for _ in range(number)]


def plain_similarity(sentences: list[str], idf: dict[str, float]) -> np.ndarray:
    """Equation 1 of the paper, a pair at a time."""
    counts = [Counter(sentence.split()) for sentence in sentences]
    lengths = [math.sqrt(sum((n * idf[w]) ** 2 for w, n in c.items())) for c in counts]
    matrix = np.eye(len(sentences))
    for row, first in enumerate(counts):
        for column, second in enumerate(counts):
            common = sum(first[w] * second[w] * idf[w] ** 2 for w in first if w in second)
            if row != column:
                scale = lengths[row] * lengths[column]
                matrix[row, column] = common / scale if scale else 0.0
    return matrix


# --- the worked example -----------------------------------------------------------------------


@pytest.mark.parametrize("threshold", SCORES)
def test_scores_and_degrees_printed_in_the_paper(threshold):
    model = LexRankModel(LexRankConfig(threshold=threshold, normalize="max"))
    found = model(torch.from_numpy(worked_example()))
    assert found.scores.tolist() == pytest.approx(numbers(SCORES[threshold]), abs=1e-3)
    if threshold in DEGREES:
        assert found.degrees.tolist() == numbers(DEGREES[threshold])


def test_damping_is_the_probability_of_following_a_link():
    other = LexRankModel(LexRankConfig(threshold=0.1, normalize="max", damping=0.15))
    scores = other(torch.from_numpy(worked_example())).scores.numpy()
    assert np.abs(scores - numbers(SCORES[0.1])).max() > 0.4


# --- equal to an independent solver -----------------------------------------------------------


@pytest.mark.parametrize("threshold", [None, 0.1, 0.2])
@pytest.mark.parametrize("solver", ["auto", "dense", "sparse"])
def test_scores_of_texts_equal_elimination(threshold, solver):
    sentences = random_sentences(40)
    config = LexRankConfig(threshold=threshold, solver=solver, tolerance=1e-13, idf="cluster")
    found = LexRankModel(config).rank(sentences)
    documents = Counter(word for sentence in sentences for word in set(sentence.split()))
    idf = {word: math.log(len(sentences) / n) for word, n in documents.items()}
    similarity = plain_similarity(sentences, idf)
    if threshold is not None:
        similarity = (similarity > threshold).astype(float)
    assert found.scores.numpy() == pytest.approx(solved(similarity, 0.85), abs=1e-8)
    assert found.degrees.numpy() == pytest.approx(similarity.sum(axis=1), abs=1e-8)


def test_without_a_matrix_the_walk_is_the_same():
    generator = np.random.default_rng(0)
    features = sparse.random_array((200, 60), density=0.1, rng=generator).tocsr()
    lengths = np.sqrt(features.multiply(features).sum(axis=1))
    features = sparse.diags_array(1 / np.where(lengths > 0, lengths, 1)) @ features
    features = sparse.vstack([features, sparse.csr_array((3, 60))]).tocsr()  # without words
    similarity = (features @ features.T).toarray()
    np.fill_diagonal(similarity, 1)
    options = {"tolerance": 1e-14, "max_iterations": 1000}
    free = stationary_distribution(FeatureWalk([features]), **options)
    dense = stationary_distribution(MatrixWalk(similarity), **options)
    assert np.abs(free.probabilities - dense.probabilities).max() < 1e-10
    assert np.abs(free.probabilities - solved(similarity, 0.85)).max() < 1e-10


def test_with_damping_one_scores_are_degrees():
    # Connected, so that the walk has one stationary distribution.
    matrix = worked_example() > 0.1
    found = LexRankModel(LexRankConfig(damping=1.0, tolerance=1e-14, max_iterations=10_000))(
        torch.from_numpy(matrix.astype(float))
    )
    degrees = matrix.sum(axis=1)
    assert found.scores.numpy() == pytest.approx(degrees / degrees.sum(), abs=1e-8)
    degree = LexRankModel(LexRankConfig(centrality="degree", threshold=0.1))
    plain = degree(torch.from_numpy(worked_example()))
    assert plain.scores.numpy() == pytest.approx(degrees / degrees.sum())


def test_a_query_pulls_the_walk_towards_what_resembles_it():
    sentences = [*random_sentences(20), "cats sleep"]
    config = LexRankConfig(idf="uniform", tolerance=1e-13)
    found = LexRankModel(config).rank(sentences, query="shop bus")
    similarity = plain_similarity(
        [*sentences, "shop bus"], dict.fromkeys([*WORDS, "cats", "sleep"], 1.0)
    )
    jump = similarity[:-1, -1] / similarity[:-1, -1].sum()
    expected = solved(similarity[:-1, :-1], 0.85, jump)
    assert found.scores.numpy() == pytest.approx(expected, abs=1e-8)
    assert found.scores[-1] < 1e-9  # nothing leads there


@pytest.mark.parametrize("top_edges", [None, 3])
def test_the_graph_equals_all_pairs_looked_at(top_edges):
    generator = np.random.default_rng(1)
    words = sparse.random_array((300, 500), density=0.05, rng=generator).tocsr()
    lengths = np.sqrt(words.multiply(words).sum(axis=1))
    words = (sparse.diags_array(1 / np.maximum(lengths, 1e-12)) @ words).tocsr()
    similarity = (words.astype(np.float32) @ words.astype(np.float32).T).toarray()
    np.fill_diagonal(similarity, 1)
    expected = similarity > 0.2
    if top_edges is not None:
        nearest = np.zeros_like(expected)
        for row in range(300):
            order = np.argsort(-similarity[row], kind="stable")[:top_edges]
            nearest[row, order] = similarity[row, order] > 0.2
        expected = nearest | nearest.T | np.eye(300, dtype=bool)
    found = similarity_graph([words], 0.2, top_edges=top_edges).toarray()
    assert (found == expected).all()


def test_too_many_neighbours_are_refused_before_memory_runs_out():
    ones = np.ones((100, 1))
    with pytest.raises(ValueError, match=r"more than 5000 pairs.*top_edges=50.*threshold=None"):
        similarity_graph([ones], 0.5, max_edges=5000)
