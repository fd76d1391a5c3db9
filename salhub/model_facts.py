"""What is said of shipped models: the facts of card.yaml, and the one number that matters."""

import importlib.util
import inspect
import math
from dataclasses import dataclass
from pathlib import Path

from salhub import manifest
from salhub.entries import MODELS, Model, entry_of
from salhub.errors import CardError, UnknownNameError, did_you_mean
from salhub.manifest import CARD_FILE, NAMESPACE, BundledModel
from salhub.model_card import Facts
from salhub.results import Metric, Results, read_results
from salhub.results_markdown import cell_text

# What every card says; a fact may stand in the file of the method or in that of the model.
REQUIRED_FACTS = (
    "intended_use",
    "not_for",
    "limits",
    "citation",
    "trained_on",
    "source",
    "license",
)


@dataclass(frozen=True)
class KeyNumber:
    """The one number that matters of a model, beside that of something simpler.

    Args:
        what: What was measured.
        value: The number as text, such as "65.8 %".
        beside: What it is compared with, or None where nothing was measured beside it.
        beside_value: The number of that, as text.
    """

    what: str
    value: str
    beside: str | None = None
    beside_value: str | None = None


def read_facts(name: str) -> Facts:
    """Read what is said of a model: the facts of its method, overruled by its own.

    Raises:
        CardError: A fact that every card needs is in neither file, or one that no card has.
    """
    model = shipped_model(name)
    files = fact_files(model)
    facts = Facts.read(*files)
    missing = [fact for fact in REQUIRED_FACTS if not getattr(facts, fact)]
    if missing:
        places = " or ".join(str(path) for path in files)
        raise CardError(f"The card of {name} lacks {', '.join(missing)}; write it in {places}.")
    return facts


def method_in_short(method: str) -> str:
    """What a method does, in one sentence: that of its card.yaml, or else of its model class."""
    entry = MODELS[method]
    said = Facts.read(*_card_files(entry)).in_short
    return said or (inspect.getdoc(entry.model_class) or "").partition("\n")[0]


def key_number(name: str) -> KeyNumber | None:
    """Read the number that matters of a shipped model from its results file.

    Args:
        name: A shipped model, with or without "salhub/".

    Returns:
        The number and that of its baseline; None where its card.yaml names none, or where it was
        not measured.

    Example:
        >>> key_number("nvit-cifar10-050").beside
        'the original'
    """
    facts = Facts.read(*fact_files(shipped_model(name)))
    named = facts.key_number
    if named is None:
        return None
    own = _metric(read_results(name), named["metric"])
    if own is None:
        return None
    unit = named.get("unit")
    text = _with_unit(own, unit)
    if "beside" not in named:
        return KeyNumber(named["what"], text)
    other = _metric(read_results(named.get("beside_model", name)), named["beside_metric"])
    if other is None:
        return KeyNumber(named["what"], text)
    return KeyNumber(named["what"], text, named["beside"], _with_unit(other, unit))


def _metric(results: Results, name: str) -> Metric | None:
    found = next((metric for metric in results.metrics if metric.name == name), None)
    return None if found is None or not math.isfinite(found.value) else found


def _with_unit(metric: Metric, unit: str | None) -> str:
    unit = unit or metric.unit
    if unit == "fraction":
        return f"{100 * metric.value:.1f} %"
    text = f"{metric.value:.1f}" if abs(metric.value) >= 10 else cell_text(metric.value)
    return f"{text} %" if unit == "percent" else text


def shipped_model(name: str) -> BundledModel:
    """Return a shipped model by its name, with or without "salhub/".

    Raises:
        UnknownNameError: No such model is shipped.
    """
    models = manifest.read_manifest()
    short = name.removeprefix(NAMESPACE)
    if short not in models:
        hint = did_you_mean(short, models)
        raise UnknownNameError(f"Only shipped models have a card, and '{name}' is none.{hint}")
    return models[short]


def fact_files(model: BundledModel) -> list[Path]:
    """Facts of its method, and its own, which overrule them."""
    return [*_card_files(entry_of(model)), manifest.WEIGHTS_ROOT / model.name / CARD_FILE]


def _card_files(entry: Model) -> list[Path]:
    """The facts of a kind of model; none where it has no folder."""
    found = importlib.util.find_spec(entry.home)
    return [] if found is None else [Path(found.submodule_search_locations[0]) / CARD_FILE]
