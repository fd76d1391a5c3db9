"""Accuracy of a classifier on an archive of labelled pictures."""

import logging
from collections.abc import Mapping

from torch import Tensor

from salhub.results import Results, Table

logger = logging.getLogger(__name__)


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
        if not len(labels):
            logger.warning("There are no %s, so accuracy/%s is left out.", titles[name], name)
            continue
        right = (logits.argmax(-1) == labels).double().numpy()
        found = results.add_mean(f"accuracy/{name}", right, unit="fraction")
        cell = f"{100 * found.mean:.2f} [{100 * found.low:.2f}, {100 * found.high:.2f}]"
        rows.append([titles[name], cell, len(labels)])
    note = "Percent of pictures whose true class is the most likely one; 95 % bootstrap interval."
    results.tables.append(Table("Accuracy", note, ["of", "accuracy", "n"], rows))
