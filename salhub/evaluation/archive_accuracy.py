"""Accuracy of a classifier on an archive of labelled pictures."""

from collections.abc import Mapping

from torch import Tensor

from salhub.metrics.bootstrap import bootstrap_mean
from salhub.results import Results, Table


def add_accuracies(
    results: Results, outputs: Mapping[str, tuple[Tensor, Tensor]], titles: Mapping[str, str]
) -> None:
    """Write how often the true class is the most likely one, with the table of the card.

    Args:
        results: To be filled; its seed is that of the bootstrap.
        outputs: Name of a set, such as "test" -> logits (n, K) and labels (n,).
        titles: Name of a set -> what the table calls it.
    """
    rows = []
    for name, (logits, labels) in outputs.items():
        right = (logits.argmax(-1) == labels).double().numpy()
        found = bootstrap_mean(right, seed=results.seed)
        results.add_metric(
            f"accuracy/{name}",
            found.mean,
            interval=(found.low, found.high),
            n=len(labels),
            unit="fraction",
        )
        cell = f"{100 * found.mean:.2f} [{100 * found.low:.2f}, {100 * found.high:.2f}]"
        rows.append([titles[name], cell, len(labels)])
    note = "Percent of pictures whose true class is the most likely one; 95 % bootstrap interval."
    results.tables.append(Table("Accuracy", note, ["of", "accuracy", "n"], rows))
