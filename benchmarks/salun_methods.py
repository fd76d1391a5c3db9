"""All ways of unlearning beside each other: settings chosen on a pilot seed, measured on others.

    python -m benchmarks.salun_methods --data cifar10_jpeg.npz

Hours; the numbers go into the results file of the shipped model, whose card shows them. The
"mini-CIFAR" protocol: a small classifier that has learned its training pictures by heart, a
tenth of which are to be forgotten; the same classifier trained without them is what the others are
compared with.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from benchmarks.experiments import add_to_results, new_results, read_options, run_once
from salhub.models.salun.recipe_boundary import BoundaryExpandingRecipe, BoundaryShrinkRecipe
from salhub.models.salun.recipe_influence import InfluenceRecipe
from salhub.models.salun.recipe_salun import (
    FineTuneRecipe,
    GradientAscentRecipe,
    L1SparseRecipe,
    RandomLabelRecipe,
    SalUnRecipe,
    SalUnSoftRecipe,
)
from salhub.models.salun.recipe_salun_training import SalUnClassifierRecipe
from salhub.models.salun.unlearning import ForgettingRecipe
from salhub.models.salun.unlearning_report import RULE, choose_setting
from salhub.results import Results, Table, measured, noted_as_it_comes
from salhub.runner.recipe import Recipe

SCRIPT, MODEL = "salun_methods", "salun-resnet8-cifar10"
MEASURES = ("UA", "RA", "TA", "MIA")
GAP = "average_gap"
BLIND = "without retraining"
_SMALL = {
    "num_train_images": 10_000,
    "num_test_images": 2_000,
    "num_train_epochs": 25,
    "augment": False,
}
_LABEL_RATES = (0.01, 0.02, 0.03, 0.05, 0.1)
_RETAIN_RATES = (0.01, 0.03, 0.05, 0.1)
_FORGET_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Args:
        label: What the table calls it.
        recipe: How it unlearns.
        options: Options that are the same in every run.
        tried: Option -> values that the pilot chooses among.
    """

    label: str
    recipe: type[ForgettingRecipe]
    options: Mapping[str, Any]
    tried: tuple[str, tuple[float, ...]]


CONTENDERS = (
    Contender("SalUn", SalUnRecipe, {}, ("learning_rate", _LABEL_RATES)),
    Contender("SalUn-soft", SalUnSoftRecipe, {}, ("learning_rate", _LABEL_RATES)),
    Contender(
        "SalUn, random mask", SalUnRecipe, {"saliency": "random"}, ("learning_rate", _LABEL_RATES)
    ),
    Contender(
        "SalUn, magnitude mask",
        SalUnRecipe,
        {"saliency": "magnitude"},
        ("learning_rate", _LABEL_RATES),
    ),
    Contender("RL", RandomLabelRecipe, {}, ("learning_rate", _LABEL_RATES)),
    Contender("FT", FineTuneRecipe, {}, ("learning_rate", _RETAIN_RATES)),
    Contender("l1-sparse", L1SparseRecipe, {"l1_weight": 1e-4}, ("learning_rate", _RETAIN_RATES)),
    Contender("GA", GradientAscentRecipe, {}, ("learning_rate", (3e-3, 1e-2, 1.5e-2, 2e-2, 3e-2))),
    Contender("IU", InfluenceRecipe, {}, ("influence_scale", (10.0, 30.0, 100.0, 300.0, 1000.0))),
    Contender("BE", BoundaryExpandingRecipe, {}, ("learning_rate", _FORGET_RATES)),
    Contender("BS", BoundaryShrinkRecipe, {}, ("learning_rate", _FORGET_RATES)),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything that is missing, and add the numbers to the results file."""
    options = read_options(SCRIPT, __doc__, MODEL, arguments)
    results = new_results(SCRIPT, options)
    with noted_as_it_comes(options.results), measured(results):
        MethodComparison(str(options.data), options.runs).measure(results)
    add_to_results(results, options.results)


@dataclass(frozen=True)
class MethodComparison:
    """Runs of all contenders in one folder; what is there already is not run again.

    Args:
        data: Archive of CIFAR-10.
        folder: Where the runs go.
        pilot_seed: Seed that settings are chosen on; it is not in the table.
        seeds: Seeds of the table.
        forget: What is forgotten.
        small: Options of the classifier, other than those of the protocol.
        epochs: Passes of every method.
        contenders: Rows of the table.
    """

    data: str
    folder: Path
    pilot_seed: int = 0
    seeds: Sequence[int] = (1, 2, 3)
    forget: str = "random:0.1"
    small: Mapping[str, Any] | None = None
    epochs: int = 5
    contenders: Sequence[Contender] = CONTENDERS

    def measure(self, results: Results) -> None:
        """Run whatever is missing, and write the table and its numbers into a results file."""
        pilot = {contender.label: self.pilot_runs(contender) for contender in self.contenders}
        results.tables.append(self._pilot_table(pilot))
        chosen = {label: _least_gap(found) for label, found in pilot.items()}
        self._measure(results, chosen, GAP)
        blind = {
            label: list(found)[choose_setting(list(found.values()))]
            for label, found in pilot.items()
        }
        self._measure(results, blind, BLIND)

    def _measure(self, results: Results, chosen: Mapping[str, float], chosen_by: str) -> None:
        rows: dict[str, list[Results]] = {"Original": [], "Retrain": []}
        for seed in tqdm(self.seeds, desc="Seeds", unit="seed"):
            original, reference = self.trained(seed), self.trained(seed, self.forget)
            for contender in self.contenders:
                found = self.run_contender(
                    contender, seed, original, reference, chosen[contender.label]
                )
                rows.setdefault(contender.label, []).append(found)
            # Every run measures these two as well; they are the same in all.
            rows["Original"].append(_part(found, "before/"))
            rows["Retrain"].append(_part(found, "reference/"))
        results.tables.append(self._table(rows, chosen, chosen_by))
        suffix = "" if chosen_by == GAP else f"/chosen {chosen_by}"
        for label, found in rows.items():
            for name in (*MEASURES, GAP):
                values = _values(found, name)
                mean, deviation = statistics.mean(values), _deviation(values)
                results.add_metric(f"{name}/{label}{suffix}", mean, n=len(values))
                results.add_metric(f"{name} sd/{label}{suffix}", deviation, n=len(values))

    def trained(self, seed: int, leave_out: str | None = None) -> Path:
        """The classifier of a seed: the original, or the one trained without what is forgotten."""
        name = "original" if leave_out is None else "retrained"
        folder = self.folder / f"seed-{seed}" / name
        options = {**_SMALL, **(self.small or {}), "leave_out": leave_out, "seed": seed}
        self._run(SalUnClassifierRecipe, folder, options)
        return folder

    def pilot_runs(self, contender: Contender) -> dict[float, Results]:
        """The runs of a contender on the pilot seed, by the value of what is tried."""
        seed = self.pilot_seed
        original, reference = self.trained(seed), self.trained(seed, self.forget)
        return {
            value: self.run_contender(contender, seed, original, reference, value)
            for value in contender.tried[1]
        }

    def run_contender(
        self, contender: Contender, seed: int, original: Path, reference: Path, value: float
    ) -> Results:
        """One run of a contender."""
        label = contender.label.lower().replace(", ", "-").replace(" ", "-")
        folder = self.folder / f"seed-{seed}" / f"{label}-{value:g}"
        # A method of one step has no epochs.
        descent = {"num_train_epochs": self.epochs, "batch_size": 128}
        kind = contender.recipe.arguments_class
        options = {
            "model": str(original),
            "reference": str(reference),
            "forget": self.forget,
            "seed": seed,
            **{name: value for name, value in descent.items() if hasattr(kind, name)},
            **contender.options,
            contender.tried[0]: value,
        }
        return self._run(contender.recipe, folder, options)

    def _run(self, recipe: type[Recipe], folder: Path, options: dict[str, Any]) -> Results:
        command = f"comparison of methods: {recipe.name}"
        return run_once(recipe, folder, {"data": self.data, **options}, command)

    def _table(
        self, rows: Mapping[str, list[Results]], chosen: Mapping[str, float], chosen_by: str
    ) -> Table:
        settings = {c.label: f"{c.tried[0]} {chosen[c.label]:g}" for c in self.contenders}
        cells = []
        for label, found in rows.items():
            numbers = [_mean_and_deviation(_values(found, name)) for name in (*MEASURES, GAP)]
            seconds = statistics.mean(_seconds(one) for one in found)
            cells.append([label, *numbers, seconds / 60 or None, settings.get(label)])
        rule = "the average gap" if chosen_by == GAP else RULE
        note = (
            f"Mean ± standard deviation over seeds {', '.join(map(str, self.seeds))}, in percent "
            f"and points; forgotten: {self.forget} of the training pictures. The setting of each "
            f"row was chosen by {rule}, on seed {self.pilot_seed} alone. "
            "Nearer to Retrain is better; the average gap is the mean distance from it over the "
            "four columns."
        )
        columns = ["", "UA", "RA", "TA", "MIA", "average gap", "minutes", "setting"]
        title = "Methods compared" if chosen_by == GAP else "Settings chosen without retraining"
        return Table(title, note, columns, cells)

    def _pilot_table(self, pilot: Mapping[str, Mapping[float, Results]]) -> Table:
        names = (*MEASURES, "confidence_distance", GAP)
        rows = []
        for contender in self.contenders:
            for value, found in pilot[contender.label].items():
                numbers = [_values([found], name)[0] for name in names]
                rows.append([contender.label, f"{contender.tried[0]} {value:g}", *numbers])
        note = (
            f"Every setting that was tried, on seed {self.pilot_seed}; the two tables below choose "
            "from these. The distance is that between the confidence on forgotten and on test "
            "pictures, 0 to 1, which needs no retrained model."
        )
        columns = ["", "setting", *MEASURES, "distance", "average gap"]
        return Table("Settings tried on the pilot", note, columns, rows)


def _least_gap(found: Mapping[float, Results]) -> float:
    return min(found, key=lambda value: _values([found[value]], GAP)[0])


def _part(found: Results, prefix: str) -> Results:
    """The numbers of another model that stand in the results of a run."""
    part = Results(model=prefix, command=found.command, seed=found.seed)
    for metric in found.metrics:
        if metric.name.startswith(prefix):
            part.add_metric(metric.name.removeprefix(prefix), metric.value)
    return part


def _values(found: Iterable[Results], name: str) -> list[float]:
    return [{m.name: m.value for m in one.metrics}[name] for one in found]


def _seconds(found: Results) -> float:
    """Time of the unlearning itself: steps and what comes before them, the mask left out."""
    values = {metric.name: metric.value for metric in found.metrics}
    preparation = values.get("seconds/preparation", 0.0) - values.get("seconds/mask", 0.0)
    work = values.get("seconds/steps", 0.0) + values.get("seconds/fit", 0.0)
    return work + preparation


def _mean_and_deviation(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f} ± {_deviation(values):.2f}"


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
