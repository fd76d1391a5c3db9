"""Other ways to make the shipped diffusion model forget, beside which SalUn is shown.

    python -m benchmarks.salun_diffusion --data mnist.npz

An hour; rows and numbers go into the results file of the shipped model, whose card shows them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.experiments import add_to_results, new_results, read_options, run_once
from salhub.models.salun.evaluation_salun_diffusion import TABLE, evaluate
from salhub.models.salun.modeling_salun_diffusion import SalUnForConditionalDiffusion
from salhub.models.salun.recipe_salun_diffusion import (
    DiffusionUnlearningRecipe,
    GradientAscentDiffusionRecipe,
    RandomClassRecipe,
    SalUnDiffusionRecipe,
)
from salhub.results import Results, Table, measured, noted_as_it_comes

SCRIPT, MODEL = "salun_diffusion", "salun-ddpm-mnist"
# As the shipped model was unlearned.
SHIPPED: Mapping[str, Any] = {
    "model": f"salhub/{MODEL}-original",
    "forget": "class:3",
    "learning_rate": 3e-4,
    "max_train_steps": 300,
}
# Climbing a loss goes wrong soon; at the rate of the others nothing would be left.
_ASCENT_RATE = 2e-5
OTHERS: Mapping[str, tuple[type[DiffusionUnlearningRecipe], dict[str, Any]]] = {
    "SalUn, random mask": (SalUnDiffusionRecipe, {"saliency": "random"}),
    "RL, no mask": (RandomClassRecipe, {}),
    "redirect to no class": (RandomClassRecipe, {"target": "null"}),
    "GA": (GradientAscentDiffusionRecipe, {"learning_rate": _ASCENT_RATE}),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything that is missing, and add the numbers to the results file."""
    options = read_options(SCRIPT, __doc__, MODEL, arguments)
    results = new_results(SCRIPT, options)
    shown = next(one for one in Results.load(options.results).tables if one.title == TABLE)
    with noted_as_it_comes(options.results), measured(results):
        add_others(results, shown, options.data, options.runs)
    add_to_results(results, options.results)


def add_others(
    results: Results,
    shown: Table,
    data: Path,
    folder: Path,
    *,
    shipped: Mapping[str, Any] = SHIPPED,
    **judging: Any,
) -> None:
    """Unlearn in other ways, and let the judge look.

    Args:
        results: To be filled with the numbers of `evaluate`, "LABEL/" before them, and the table.
        shown: The table of the shipped model, which gets a row for each.
        data: Archive that the original was trained on.
        folder: Where the runs go.
        shipped: Options of all runs.
        **judging: Settings of `evaluate`.
    """
    rows = [row for row in shown.rows if row[0] not in OTHERS]
    for label, (recipe, own) in OTHERS.items():
        run = folder / label.replace(", ", "-").replace(" ", "-").lower()
        options = {"data": str(data), **shipped, **own}
        run_once(recipe, run, options, f"comparison of methods: {label}")
        model = SalUnForConditionalDiffusion.from_pretrained(str(run))
        found = evaluate(model, data, **judging)
        for metric in found.metrics:
            results.add_metric(f"{label}/{metric.name}", metric.value, unit=metric.unit)
        [row] = next(table.rows for table in found.tables if table.title == TABLE)
        rows.append([label, *row[1:]])
    results.tables.append(Table(TABLE, shown.note, shown.columns, rows))


if __name__ == "__main__":
    main()
