"""Measure the own maps of a model whose setting has changed, and put them into its results file.

    python -m benchmarks.own_numbers normgrad-efficientnet-lite0 --data imagenet_sample

What the other methods of the family do on the same network does not depend on that setting, and
takes most of the time: their numbers stay, by the same draws of the same pictures.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import salhub
from benchmarks.experiments import CARDS
from salhub.models.normgrad.evaluation_normgrad import evaluate
from salhub.results import Results


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and replace what is there by the same name."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.own_numbers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="a shipped model of the family")
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled pictures")
    parser.add_argument("--results", type=Path, help="results file of the whole evaluation")
    options = parser.parse_args(arguments)
    path = options.results or CARDS / f"{options.name}.results.json"
    found = Results.load(path)
    pipeline = salhub.pipeline(options.name, device="cpu")
    counts = {name: found.data[name] for name in ("num_mosaics", "grid_size", "min_probability")}
    counts["num_images"] = found.data["num_measured_images"]
    own = evaluate(
        pipeline.model,
        pipeline.image_processor,
        options.data,
        seed=found.seed,
        only_own=True,
        progress=False,
        **counts,
    )
    own.command = f"python -m benchmarks.own_numbers {options.name} --data {options.data.name}"
    replace_rows(found, own)
    found.save(path)
    print(f"Wrote {path}")


def replace_rows(found: Results, own: Results) -> None:
    """Put numbers, and the rows of tables that begin alike, in place of older ones.

    Args:
        found: Of the whole evaluation; changed.
        own: Of a part of it, on the same data.

    Raises:
        ValueError: They are of other data or of other draws.
    """
    if (found.data, found.seed) != (own.data, own.seed):
        raise ValueError(
            f"the results are of {found.data} with seed {found.seed}, and the new numbers of "
            f"{own.data} with seed {own.seed}; measure on the same data, or everything anew."
        )
    # What the whole took stays: times of a part would not belong to it.
    measured = {one.name: one for one in own.metrics if "seconds/" not in one.name}
    known = [metric.name for metric in found.metrics]
    found.metrics = [
        measured.get(one.name, one)
        for one in found.metrics
        if one.name in measured or one.name.removesuffix("/not_finite") not in measured
    ]
    found.metrics += [one for name, one in measured.items() if name not in known]
    for table in own.tables:
        target = next(one for one in found.tables if one.title == table.title)
        fresh = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
        target.rows = [
            [fresh[row[0]].get(column) for column in target.columns] if row[0] in fresh else row
            for row in target.rows
        ]
    if own.command not in found.command:
        found.command += f" && {own.command}"


if __name__ == "__main__":
    main()
