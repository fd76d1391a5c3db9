"""How well a student guesses a classifier's decision from what a verbalizer names of it.

    python -m benchmarks.verbalizer_student MODEL --data FILE

Run it from the repository after `salhub evaluate MODEL`; it adds its table to the results file of
the model's card.
"""

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.experiments import CARDS, add_to_results, results_file
from benchmarks.report import existing_file
from salhub.data.labelled_texts import read_labelled_texts
from salhub.metrics.bootstrap import bootstrap_mean
from salhub.models.verbalizer.evaluation_verbalizer import (
    named_words,
    random_named,
    test_texts,
    told_of,
)
from salhub.models.verbalizer.explaining import explain_texts
from salhub.pipelines import pipeline
from salhub.results import Results, Table, noted_as_it_comes

_WORD = re.compile(r"\w+")
_MIN_TEXTS = 2
_TITLES = {
    "explanation": "the words that are named",
    "random_phrases": "random phrases of the same length",
    "whole_text": "the whole text",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask the student, and add what it guesses to the results file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.verbalizer_student",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="short name of a verbalizer that comes with salhub")
    parser.add_argument(
        "--data", type=existing_file, required=True, help="labelled texts of its classes"
    )
    parser.add_argument("--texts", type=int, default=1600, help="texts that are learned or guessed")
    parser.add_argument(
        "--results", type=results_file, help="results file; that of the model's card"
    )
    options = parser.parse_args(arguments)
    try:
        target = options.results or results_file(str(CARDS / f"{options.model}.results.json"))
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    command = f"python -m benchmarks.verbalizer_student {options.model} --data {options.data.name}"
    results = Results(model=options.model, command=command, seed=0)
    with noted_as_it_comes(target):
        add_guesses(results, options.model, options.data, options.texts)
        add_to_results(results, target)


def add_guesses(results: Results, name: str, data: Path, num_texts: int) -> None:
    """Let students read what is named, random phrases, or everything."""
    explain = pipeline(name)
    model, tokenizer = explain.model, explain.tokenizer
    texts = test_texts(model, read_labelled_texts(data))
    places = np.random.default_rng(results.seed).permutation(len(texts))[:num_texts]
    read = texts.part(places.tolist()).texts
    maps = explain_texts(model, tokenizer, read)
    told = told_of(model, maps, mask_label=True)
    labels = [one.class_label for one in maps]

    def quoted(named: Sequence[Sequence[int]]) -> list[str]:
        return [
            " ".join(one.words.strings[word] for word in sorted(words))
            for one, words in zip(maps, named, strict=True)
        ]

    material = {
        "explanation": quoted([named_words(one) for one in told]),
        "random_phrases": quoted(random_named(maps, told, results.seed)),
        "whole_text": list(read),
    }
    rows = []
    for what, given in material.items():
        value, interval = student_accuracy(given, labels, len(model.id2label), seed=results.seed)
        results.add_metric(
            f"simulatability/{what}", value, interval=interval, n=len(maps), unit="fraction"
        )
        shown = f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
        rows.append([_TITLES[what], shown])
    note = (
        "Percent of the classifier's decisions that a bag-of-words student guesses from what it "
        "reads, which never holds the class; it learns from the other half of "
        f"{len(maps)} texts. Named words tell more than the text where it also holds words against "
        "the class. 95 % bootstrap interval."
    )
    results.tables.append(Table("Guessing the decision", note, ["reads", "right"], rows))


def student_accuracy(
    texts: Sequence[str], labels: Sequence[int], num_classes: int, *, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Let a bag-of-words student learn decisions from one half of texts, and guess the others.

    Args:
        texts: What the student reads of each decision.
        labels: The classifier's decisions.
        num_classes: Of the classifier.
        seed: Of the halves, which are both learned once, and of the bootstrap.

    Returns:
        Share guessed right, and its 95 % bootstrap interval.

    Raises:
        ValueError: Fewer than two texts.

    Source: Feldhus et al. 2023 (arXiv 2210.07222), section 5, for guessing decisions from
        explanations; that the student is a logistic regression on words is ours.

    Example:
        >>> student_accuracy(["good", "bad"] * 8, [1, 0] * 8, 2)[0]
        1.0
    """
    if len(texts) < _MIN_TEXTS:
        raise ValueError(f"A student needs {_MIN_TEXTS} texts or more, got {len(texts)}.")
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    halves = (order[: len(order) // 2], order[len(order) // 2 :])
    right = torch.zeros(len(texts))
    for learned, guessed in (halves, halves[::-1]):
        guesses = _guess(
            [texts[place] for place in learned],
            torch.tensor([labels[place] for place in learned]),
            [texts[place] for place in guessed],
            num_classes,
        )
        right[guessed] = (guesses == torch.tensor([labels[place] for place in guessed])).float()
    found = bootstrap_mean(right.double().numpy(), seed=seed)
    return found.mean, (found.low, found.high)


def _guess(learned: list[str], labels: Tensor, guessed: list[str], num_classes: int) -> Tensor:
    counts = Counter(word for text in learned for word in set(_words(text)))
    index = {word: place for place, word in enumerate(sorted(counts))}
    features, wanted = _bag(learned, index), _bag(guessed, index)
    weight = torch.zeros(len(index) + 1, num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(features @ weight, labels, reduction="sum")
        loss = loss + 0.5 * weight[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (wanted @ weight.detach()).argmax(dim=-1)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _bag(texts: list[str], index: dict[str, int]) -> Tensor:
    """Which words a text holds, and a column of ones, float32 (n, words + 1)."""
    bag = torch.zeros(len(texts), len(index) + 1)
    bag[:, -1] = 1
    for row, text in enumerate(texts):
        known = [index[word] for word in set(_words(text)) if word in index]
        bag[row, known] = 1
    return bag


if __name__ == "__main__":
    main()
