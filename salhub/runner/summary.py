"""What a finished run says of itself, in words."""

import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salhub.results import Metric, Results
from salhub.results_markdown import cell_text

if TYPE_CHECKING:
    from salhub.runner.recipe import Recipe

_DONE = {"train": "Trained", "unlearn": "Unlearned", "compress": "Compressed"}
_SECONDS = "seconds/"
# Metrics that say how long the work took -> what it counts.
_WORK = {"seconds/steps": "step", "seconds/blocks": "block", "seconds/fit": ""}
# Of the work, time around it that is worth a word.
_SHARE_AROUND = 0.1
# The second part of a metric's name -> what comes before its first.
_PARTS = {"train": "training", "test": "held-out", "validation": "validation"}
_PERCENT = {"fraction": 100.0, "percent": 1.0}
# Their metrics say by their names what is counted or divided.
_WITHOUT_UNIT = ("count", "ratio")
# From here on the digits behind the point say nothing.
_LARGE = 1000


def summary(recipe: "type[Recipe]", results: Results, folder: str, example: str = "") -> list[str]:
    """Sentences for the end of a run: what was done, what was measured, and what to do with it.

    Args:
        recipe: Says what its metrics are called.
        results: What was measured.
        folder: Where everything is.
        example: A command that uses the model, `{folder}` standing for its place.
    """
    place, name = Path(folder).as_posix(), shlex.quote(str(folder))
    told = recipe.told(results)
    measured = _measured(recipe, results) if told is None else told
    lines = [_work(recipe.verb, results), *_best(results), *measured]
    lines.append(f"Saved in {place}/: the model, its card, log.jsonl and results.json.")
    if example:
        lines.append(f"Try: {example.format(folder=name)}")
    return lines


def duration(seconds: float) -> str:
    """A time for people.

    Example:
        >>> [duration(seconds) for seconds in (0.3, 7.4, 200, 3600, 93_700)]
        ['under 1 s', '7 s', '3 min 20 s', '1 h 0 min', '26 h 2 min']
    """
    whole = round(seconds)
    if whole < 1:
        return "under 1 s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def counted(number: float, thing: str) -> str:
    """A number of things.

    Example:
        >>> counted(1, "epoch"), counted(2.5, "epoch"), counted(1200, "step")
        ('1 epoch', '2.5 epochs', '1,200 steps')
    """
    return f"{number:,.10g} {thing}{'' if number == 1 else 's'}"


def _work(verb: str, results: Results) -> str:
    done = _DONE[verb]
    for metric in results.metrics:
        if metric.name in _WORK:
            epochs, thing = results.data.get("epochs"), _WORK[metric.name]
            amount = counted(round(epochs, 2), "epoch") if epochs else ""
            amount = amount or (counted(metric.n, thing) if metric.n and thing else "")
            work = f"{done} {amount + ' ' if amount else ''}in {duration(metric.value)}"
            # Bars also count what comes before, between and after, such as measuring.
            around = results.wall_seconds - metric.value
            if around < max(1, _SHARE_AROUND * metric.value):
                return f"{work}."
            return f"{work}; the whole run took {duration(results.wall_seconds)}."
    return f"{done} in {duration(results.wall_seconds)}."


def _best(results: Results) -> Iterator[str]:
    step = results.data.get("best_step")
    if step is not None:
        yield (
            f"The model is from step {step:,}, the best on held-out data; numbers on the "
            "same data are too optimistic."
        )


def held_out_words(recipe: "type[Recipe]", results: Results) -> str:
    """Sentences about what was measured on what was held out; "" where that is nothing.

    Args:
        recipe: Says what its metrics are called.
        results: What was measured.
    """
    measured = [metric for metric in results.metrics if _is_held_out(metric)]
    return " ".join(_sentences(recipe, measured))


def times_last(results: Results) -> Results:
    """The same results, with how long the work took behind what it came to."""
    metrics = sorted(results.metrics, key=lambda one: one.name.startswith(_SECONDS))
    return replace(results, metrics=metrics)


def _is_held_out(metric: Metric) -> bool:
    return "test" in metric.name.split("/")[1:]


def _measured(recipe: "type[Recipe]", results: Results) -> Iterator[str]:
    metrics = [metric for metric in results.metrics if not metric.name.startswith(_SECONDS)]
    # What was held out says most.
    return _sentences(recipe, sorted(metrics, key=lambda one: not _is_held_out(one)))


def _sentences(recipe: "type[Recipe]", metrics: Iterable[Metric]) -> Iterator[str]:
    for metric in metrics:
        words = _given_words(recipe.metric_words, metric)
        words = f"{_words(metric.name)} {_number(metric)}" if words is None else words
        if words:
            yield f"{words[0].upper()}{words[1:]}."


def _given_words(words: Mapping[str, str], metric: Metric) -> str | None:
    for pattern, template in words.items():
        found = re.fullmatch(re.escape(pattern).replace(r"\*", "(.+)"), metric.name)
        if found:
            return template.format(_number(metric), *found.groups())
    return None


def _words(name: str) -> str:
    first, *rest = name.replace("_", " ").split("/")
    if len(rest) == 1 and rest[0] in _PARTS:
        return f"{_PARTS[rest[0]]} {first}"
    return f"{first} ({', '.join(rest)})" if rest else first


def _plain(value: float) -> str:
    """A number as people write it: without exponents, thousands apart.

    Example:
        >>> [_plain(value) for value in (8_209_408.0, 108_600.4, 0.51234, 12.0)]
        ['8,209,408', '108,600', '0.5123', '12']
    """
    is_whole = float(value).is_integer() or abs(value) >= _LARGE
    return f"{value:,.0f}" if is_whole else cell_text(value)


def _number(metric: Metric) -> str:
    value, unit = metric.value, metric.unit
    if not math.isfinite(value):
        return "not a number"
    if unit == "bytes":
        return f"{value / 1e6:,.2f} MB"
    if unit not in _PERCENT:
        return f"{_plain(value)} {'' if unit in _WITHOUT_UNIT else unit}".strip()
    share: Any = _PERCENT[unit] * value
    of = ""
    if unit == "fraction" and metric.n and abs(round(value * metric.n) - value * metric.n) < 1e-6:
        of = f" ({round(value * metric.n):,} of {metric.n:,})"
    return f"{share:.1f} %{of}"
