"""The picture of a training: loss, accuracy and the like, on what is learned and what is not."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from salhub.viz.curves import CurvePanel, Points, draw_curves

TRAINING, HELD_OUT = "training", "held out"
# What the log calls the numbers of `TrainingRecipe.validate`.
VALIDATION = "validation/"
_NO_CURVES = frozenset({"step", "epoch", "stage", "learning_rate"})
_MOST_PANELS = 3
_MOST_POINTS = 150


def curves_of(log: Path, course: Mapping[str, float]) -> Image.Image | None:
    """Draw what the log of a training holds.

    Args:
        log: log.jsonl.
        course: With "steps" and "epochs" where x counts epochs.

    Returns:
        A picture, or None where nothing was measured twice.
    """
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    per_epoch = course["steps"] / course["epochs"] if course.get("epochs", 0) > 1 else 1
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    stages = {line["stage"] for line in lines if "stage" in line}
    for line in lines:
        for key in line.keys() - _NO_CURVES:
            if isinstance(line[key], int | float):
                name, kind = key.removeprefix(VALIDATION), _kind(key, line, len(stages))
                point = (line["step"] / per_epoch, float(line[key]))
                found.setdefault(name, {}).setdefault(kind, []).append(point)
    panels = [
        CurvePanel(name, dict(sorted(curves.items(), reverse=True)), "accuracy" in name)
        for name, curves in sorted(found.items(), key=_place)
        if max(map(len, curves.values())) > 1
    ]
    if not panels or not course:
        return None
    thinned = [
        CurvePanel(p.title, {k: _thinned(v) for k, v in p.curves.items()}, p.is_share)
        for p in panels[:_MOST_PANELS]
    ]
    return draw_curves(thinned, "step" if per_epoch == 1 else "epoch")


def _kind(key: str, line: Mapping[str, object], stages: int) -> str:
    if key.startswith(VALIDATION):
        return HELD_OUT
    return TRAINING if stages < 2 else f"{TRAINING}: {line['stage']}"


def _place(item: tuple[str, object]) -> tuple[int, str]:
    known = ("loss", "accuracy")
    name = item[0]
    return (known.index(name) if name in known else len(known), name)


def _thinned(points: Sequence[tuple[float, float]]) -> Points:
    """The means of neighbours, where there are more points than can be seen."""
    size = -(-len(points) // _MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
