"""The recipe of the shipped classifier with other seeds: how much the seed matters.

    python -m benchmarks.salun_seeds --data cifar10_jpeg.npz

An hour; the numbers go into the results file of the original, whose card shows them.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.experiments import add_to_results, new_results, read_options, run_once
from salhub.models.salun.recipe_salun_training import SalUnClassifierRecipe
from salhub.results import Results, Table, measured, noted_as_it_comes

SCRIPT, MODEL = "salun_seeds", "salun-resnet8-cifar10-original"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything that is missing, and add the numbers to the results file."""
    options = read_options(SCRIPT, __doc__, MODEL, arguments)
    results = new_results(SCRIPT, options)
    with noted_as_it_comes(options.results), measured(results):
        train_again(results, options.data, options.runs)
    add_to_results(results, options.results)


def train_again(
    results: Results,
    data: Path,
    folder: Path,
    *,
    num_seeds: int = 3,
    small: Mapping[str, Any] | None = None,
) -> None:
    """Train with the seeds 0 to `num_seeds`, of which 0 is that of the shipped model.

    Args:
        results: To be filled.
        data: Archive of CIFAR-10.
        folder: Where the runs go.
        num_seeds: Other seeds.
        small: Options other than those of the shipped model.
    """
    found = {}
    for seed in range(num_seeds + 1):
        options = {"data": str(data), "seed": seed, **(small or {})}
        command = f"salun-resnet8 again, seed {seed}"
        run = run_once(SalUnClassifierRecipe, folder / f"seed-{seed}", options, command)
        found[seed] = run.metric("accuracy/test").value
    others = [100 * value for seed, value in found.items() if seed]
    mean, deviation = statistics.mean(others), statistics.stdev(others)
    results.add_metric("repeats/test accuracy", mean, n=len(others), unit="percent")
    results.add_metric("repeats/test accuracy sd", deviation, n=len(others), unit="percent")
    note = (
        f"The recipe of this model, run again. Seeds 1 to {num_seeds}: {mean:.2f} ± "
        f"{deviation:.2f} % of the test pictures (mean and standard deviation). Seed 0 is that of "
        "the shipped model; on another kind of machine sums are rounded otherwise."
    )
    rows = [[seed, 100 * value] for seed, value in found.items()]
    results.tables.append(Table("Trained again", note, ["seed", "test accuracy"], rows))


if __name__ == "__main__":
    main()
