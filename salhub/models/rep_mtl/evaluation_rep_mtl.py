"""Evaluation of a network of several tasks: each task's metrics, and what its tasks share."""

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from salhub.models.rep_mtl.configuration_rep_mtl import Task
from salhub.models.rep_mtl.modeling_rep_mtl import RepMTLForMultiTask
from salhub.models.rep_mtl.multi_task_data import (
    ROOMS,
    MultiTaskData,
    MultiTaskPart,
    read_multi_task,
)
from salhub.models.rep_mtl.pl_alpha import FEW_EIGENVALUES, pl_alpha
from salhub.models.rep_mtl.task_losses import check_learnable, sample_losses
from salhub.models.rep_mtl.task_metrics import HIGHER_IS_BETTER, TaskMeter, relative_improvement
from salhub.results import Results, Table, measured
from salhub.runner.loop import evaluation_mode

logger = logging.getLogger(__name__)

# What `salhub evaluate` can make by itself.
NAMED_DATA = (ROOMS,)
_ROWS = 32
# Pictures whose saliency is taken.
_ROWS_EXPLAINED = 64


def evaluate(
    model: RepMTLForMultiTask,
    image_processor: Any,
    data_path: str | os.PathLike[str],
    *,
    part: str = "test",
    derive_boundaries: bool = False,
    single_tasks: list[str] | None = None,
    num_images: int | None = None,
    seed: int = 0,
) -> Results:
    """Measure all tasks of a network, and how they share its map.

    Args:
        model: The network.
        image_processor: Its image processor.
        data_path: "rooms", or an archive, see `read_multi_task`; its tasks are those of the model.
        part: Which part of the data.
        derive_boundaries: As of `read_multi_task`, where the model was trained with it.
        single_tasks: Results files of single-task networks, one for each task, for Delta p.
        num_images: The first pictures of the part; None for all.
        seed: Of the rooms.

    Returns:
        `Results` with "TASK/METRIC", "shared/tsr" and "shared/alignment" of the trained network,
        and the tables of the card.

    Raises:
        FileNotFoundError, ValueError: As of `read_multi_task`; data without the part or a task.

    Example:
        >>> results = evaluate(model, processor, "rooms")  # doctest: +SKIP
    """
    data = read_multi_task(
        str(data_path),
        tasks=[] if str(data_path) == ROOMS else _words(model, derive_boundaries),
        image_size=image_processor.size.height,
        derive_boundaries=derive_boundaries,
        counts={part: num_images},
        seed=seed,
        parts=[part],
    )
    data = data.only([task.name for task in model.tasks])
    if part not in data.parts:
        raise ValueError(f"{data.name} has no part '{part}'.")
    results = Results.of_model(model, data.name, seed)
    results.data = {**data.describe(), "part": part}
    prepare = preparation(image_processor)
    with measured(results), evaluation_mode(model):
        numbers = add_numbers(results, model, data.parts[part], prepare, data.notes)
        add_sharing(results, model, data.parts[part], prepare)
        add_alphas(results, model)
        if single_tasks:
            add_improvement(results, numbers, [Results.load(path) for path in single_tasks])
    return results


def preparation(image_processor: Any) -> Callable[[Tensor], Tensor]:
    """Takes bytes (B, 3, H, W) of the right size, and gives what the network wants."""
    mean, std = (
        torch.tensor(values).view(-1, 1, 1)
        for values in (image_processor.image_mean, image_processor.image_std)
    )
    return lambda images: (images.float() / 255 - mean.to(images.device)) / std.to(images.device)


def batches_of(
    part: MultiTaskPart, rows: int = _ROWS
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Pictures (b, 3, H, W) and task -> labels, some rows at once.

    Where tasks have pictures of their own, those of one task after those of another.
    """
    if isinstance(part.images, Tensor):
        groups = [(part.images, part.labels)]
    else:
        groups = [(one, {name: part.labels[name]}) for name, one in part.images.items()]
    for images, labels in groups:
        for begin in range(0, len(images), rows):
            chosen = slice(begin, begin + rows)
            yield images[chosen], {name: one[chosen] for name, one in labels.items()}


def measure_tasks(
    model: RepMTLForMultiTask, part: MultiTaskPart, prepare: Callable[[Tensor], Tensor]
) -> dict[str, dict[str, float]]:
    """Metrics and mean loss of every task: task -> metric -> value, the loss as "loss".

    Args:
        model: In evaluation mode.
        part: What it is measured on.
        prepare: See `preparation`.
    """
    return _numbers(*_meters(model, part, prepare))


def _numbers(
    meters: Mapping[str, TaskMeter], losses: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    return {name: {**meter.numbers(), "loss": losses[name]} for name, meter in meters.items()}


@torch.no_grad()
def _meters(
    model: RepMTLForMultiTask, part: MultiTaskPart, prepare: Callable[[Tensor], Tensor]
) -> tuple[dict[str, TaskMeter], dict[str, float]]:
    """What was measured of every task, and its mean loss."""
    device = next(model.parameters()).device
    meters = {task.name: TaskMeter(task) for task in model.tasks}
    losses = {task.name: [0.0, 0] for task in model.tasks}
    for images, labels in batches_of(part):
        predictions = model(prepare(images.to(device))).predictions
        for task in model.tasks:
            if task.name in labels:
                own = labels[task.name].to(device)
                meters[task.name].add(predictions[task.name], own)
                values, has_labels = sample_losses(task, predictions[task.name], own)
                losses[task.name][0] += float(values.double().sum())
                losses[task.name][1] += int(has_labels.sum())
    means = {name: total / count if count else math.nan for name, (total, count) in losses.items()}
    return meters, means


def add_numbers(
    results: Results,
    model: RepMTLForMultiTask,
    part: MultiTaskPart,
    prepare: Callable[[Tensor], Tensor],
    notes: list[str],
) -> dict[str, dict[str, float]]:
    """Measure and record every task, with intervals over pictures, and return the numbers."""
    meters, losses = _meters(model, part, prepare)
    numbers = _numbers(meters, losses)
    rows = []
    for task, own in numbers.items():
        intervals = meters[task].intervals()
        for metric, value in own.items():
            interval = intervals.get(metric)
            results.add_metric(
                f"{task}/{metric}", value, interval=interval, n=meters[task].num_pictures
            )
            if metric != "loss":
                better = "more" if HIGHER_IS_BETTER[metric] else "less"
                spread = "" if interval is None else "[{:.4g}, {:.4g}]".format(*interval)
                rows.append([task, metric, value, spread, better])
    counts = sorted({meter.num_pictures for meter in meters.values()})
    note = " ".join([
        f"On {' to '.join(map(str, counts))} held-out pictures, with 95 % bootstrap intervals over "
        "pictures.", *notes,
    ])  # fmt: skip
    columns = ["task", "metric", "value", "95 % interval", "better is"]
    results.tables.append(Table("Tasks", note, columns, rows))
    return numbers


def add_sharing(
    results: Results,
    model: RepMTLForMultiTask,
    part: MultiTaskPart,
    prepare: Callable[[Tensor], Tensor],
) -> None:
    """Record how tasks share the map: entropy, affinities and the share that each of them rules."""
    if len(model.tasks) < 2 or not isinstance(part.images, Tensor):
        return
    device = next(model.parameters()).device
    entropies, affinities, dominance = [], [], []
    for number, (images, labels) in enumerate(batches_of(part)):
        if number * _ROWS >= _ROWS_EXPLAINED:
            break
        labels = {name: one.to(device) for name, one in labels.items()}
        found = model(prepare(images.to(device)), labels, output_saliency=True)
        is_heard = found.shares.sum(1) > 0
        entropies.append(found.entropy[is_heard])
        affinities.append(found.task_affinity)
        dominance.append(found.dominance[is_heard])
    names = [task.name for task in model.tasks]
    entropy = torch.cat(entropies) / math.log(len(names))
    results.add_metric("shared/entropy", float(entropy.mean()), n=len(entropy), unit="fraction")
    ruled = torch.cat(dominance)
    matrix = torch.cat(affinities).mean(0)
    rows = []
    for place, name in enumerate(names):
        share = float((ruled == place).double().mean())
        results.add_metric(f"shared/{name}/ruled", share, n=len(ruled), unit="fraction")
        rows.append([name, share, *(float(one) for one in matrix[place])])
    note = (
        "How the tasks share the feature map of the encoder on labelled pictures: the share "
        "of positions that each task dominates, and mean cosines between their saliencies, "
        "which are below 0 if two tasks pull in opposite directions. The mean entropy of a "
        f"position is {float(entropy.mean()):.3f} of its value when all tasks share equally."
    )
    results.tables.append(Table("Shared map", note, ["task", "rules", *names], rows))


def add_alphas(results: Results, model: RepMTLForMultiTask) -> None:
    """Record the power law of the eigenvalues of encoder and heads, which only describes."""
    parts = {"encoder": "encoder", **{task.name: f"heads.{task.name}" for task in model.tasks}}
    rows = []
    for part, found in pl_alpha(model, parts).items():
        if math.isnan(found.alpha):
            continue
        results.add_metric(f"pl_alpha/{part}", found.alpha, n=len(found.layers))
        few = sum(layer.is_noise for layer in found.layers)
        rows.append([part, found.alpha, len(found.layers), few])
    note = (
        "Mean exponent of the eigenvalues of W^T W. It describes the network and proves "
        f"nothing; layers with fewer than {FEW_EIGENVALUES} eigenvalues are noise."
    )
    columns = ["part", "PL alpha", "layers", "of them noise"]
    results.tables.append(Table("Power laws", note, columns, rows))


def add_improvement(
    results: Results,
    numbers: Mapping[str, Mapping[str, float]],
    single_tasks: list[Results],
) -> None:
    """Record Delta p over single-task networks.

    Raises:
        ValueError: A metric of a task is in none of their results.
    """
    known = {metric.name: metric.value for one in single_tasks for metric in one.metrics}
    own: dict[str, dict[str, float]] = {}
    baseline: dict[str, dict[str, float]] = {}
    for task, metrics in numbers.items():
        for metric in [one for one in metrics if one != "loss"]:
            name = f"{task}/{metric}"
            if name not in known:
                raise ValueError(
                    f"The single-task results have no '{name}'; give one results file for each "
                    "task."
                )
            if known[name] == 0:
                logger.warning("%s is 0 for the single task, so it is left out of Delta p.", name)
                continue
            own.setdefault(task, {})[metric] = metrics[metric]
            baseline.setdefault(task, {})[metric] = known[name]
    of_tasks, of_metrics = relative_improvement(own, baseline)
    count = sum(len(one) for one in own.values())
    results.add_metric("delta_p/tasks", of_tasks, n=count, unit="percent")
    results.add_metric("delta_p/metrics", of_metrics, n=count, unit="percent")


def _words(model: RepMTLForMultiTask, derive_boundaries: bool) -> list[str]:
    derived = ("edge", "distance") if derive_boundaries else ()
    return [
        f"{task.name}:{task.word}:{task.num_labels}:{task.ignore_index}"
        for task in model.tasks
        if task.name not in derived
    ]


def check_data(data: MultiTaskData) -> None:
    """Raises ValueError unless there is something to learn of every task."""
    if "train" not in data.parts:
        raise ValueError(f"{data.name} has no training pictures.")
    for task in map(Task.of, data.tasks):
        check_learnable(task, data.parts["train"].labels[task.name], f"{data.name} (train)")
