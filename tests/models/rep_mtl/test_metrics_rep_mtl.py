"""What is measured of several tasks: by pixel, against the published rows, and of eigenvalues."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from salhub.models.rep_mtl.configuration_rep_mtl import Task
from salhub.models.rep_mtl.pl_alpha import fit_power_law, pl_alpha
from salhub.models.rep_mtl.task_metrics import TaskMeter, relative_improvement

# NYUv2, of the paper's table: single-task networks, and rows with both printed improvements.
COLUMNS = (
    ("segmentation", "miou"), ("segmentation", "pixel_accuracy"), ("depth", "abs_error"),
    ("depth", "rel_error"), ("normals", "mean_angle"), ("normals", "median_angle"),
    ("normals", "within_11.25"), ("normals", "within_22.5"), ("normals", "within_30"),
)  # fmt: skip
SINGLE = (53.50, 75.39, 0.3926, 0.1605, 21.99, 15.16, 39.04, 65.00, 75.16)
ROWS = {
    "EW": ((53.93, 75.53, 0.3825, 0.1577, 23.57, 17.01, 35.04, 60.99, 72.05), -1.78, -3.85),
    "GLS": ((54.59, 76.06, 0.3785, 0.1555, 22.71, 16.07, 36.89, 63.11, 73.81), 0.31, -1.10),
    "Rep-MTL": ((54.59, 76.04, 0.3750, 0.1542, 21.91, 15.28, 38.37, 64.72, 75.05), 1.70, 0.95),
}


def by_task(values):
    numbers = {}
    for (task, metric), value in zip(COLUMNS, values, strict=True):
        numbers.setdefault(task, {})[metric] = value
    return numbers


@pytest.mark.parametrize("row", ROWS)
def test_improvements_are_those_of_the_published_rows(row):
    values, of_tasks, of_metrics = ROWS[row]
    found = relative_improvement(by_task(values), by_task(SINGLE))
    # What the table's rounding leaves open.
    assert found[0] == pytest.approx(of_tasks, abs=0.02)
    assert found[1] == pytest.approx(of_metrics, abs=0.02)


@pytest.mark.parametrize(
    ("numbers", "baseline", "sentence"),
    [
        ({"a": {"miou": 1}}, {"b": {"miou": 1}}, "The tasks must be the same as in the baseline"),
        ({"a": {"miou": 1}}, {"a": {"f1": 1}}, "metrics of task 'a' must be the same"),
        (
            {"a": {"luck": 1}},
            {"a": {"luck": 1}},
            "is unknown whether a higher 'luck' is better; add it to",
        ),
        ({"a": {"f1": 1}}, {"a": {"f1": 0}}, "a f1 of 0 for task 'a'"),
        ({}, {}, "got none"),
    ],
)
def test_what_cannot_be_compared_is_refused(numbers, baseline, sentence):
    with pytest.raises(ValueError, match=sentence):
        relative_improvement(numbers, baseline)


def measured(task, batches):
    meter = TaskMeter(task)
    for predictions, labels in batches:
        meter.add(predictions, labels)
    return meter.numbers()


def test_segmentation_is_counted_over_the_whole_set():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 3, 5, 5, generator=generator)
    labels = torch.randint(0, 2, (4, 5, 5), generator=generator)  # the third class never occurs
    labels[0] = 255
    scores[:, 2] = -9
    batches = [(scores[:1], labels[:1]), (scores[1:], labels[1:])]
    found = measured(Task("s", "segmentation", 3), batches)
    counts = labels != 255
    answer = scores.argmax(1)
    shares = []
    for one in range(2):
        both = ((answer == one) & (labels == one) & counts).sum()
        either = (((answer == one) | (labels == one)) & counts).sum()
        shares.append(float(both / either))
    right = float(((answer == labels) & counts).sum() / counts.sum())
    assert found == pytest.approx({"miou": sum(shares) / 2, "pixel_accuracy": right})


def test_depth_leaves_out_what_has_none():
    truth = torch.tensor([[[1.0, 2.0], [0.0, 4.0]]])
    found = measured(Task("d", "depth"), [(truth + 0.5, truth)])
    assert found == pytest.approx({"abs_error": 0.5, "rel_error": (0.5 + 0.25 + 0.125) / 3})


def test_angles_between_normals():
    angles = torch.tensor([5.0, 20.0, 25.0, 40.0, 90.0])
    truth = torch.zeros(1, 3, 1, 6)
    truth[:, 2, 0, :5] = 1
    turned = torch.zeros(1, 3, 1, 6)
    turned[0, 0, 0, :5], turned[0, 2, 0, :5] = angles.deg2rad().sin(), angles.deg2rad().cos()
    found = measured(Task("n", "normals"), [(turned, truth)])
    expected = {
        "mean_angle": 36.0, "median_angle": 25.0,
        "within_11.25": 0.2, "within_22.5": 0.4, "within_30": 0.6,
    }  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-4)
    assert measured(Task("n", "normals"), [(truth, truth)])["mean_angle"] == 0


def test_other_kinds():
    edges = torch.tensor([[[1, 1, 0, 0, 255]]])
    logits = torch.tensor([[[2.0, -1.0, 3.0, -2.0, 5.0]]])
    assert measured(Task("e", "edge"), [(logits, edges)]) == {"f1": 0.5}
    ages = torch.tensor([[1.0, 2.0], [3.0, math.nan]])
    task = Task("r", "regression", 2)
    assert measured(task, [(torch.zeros(2, 2), ages)]) == {"mean_error": 2.0}
    assert math.isnan(measured(task, [])["mean_error"])


def test_a_power_law_is_fitted_as_by_trying_every_beginning():
    random = np.random.default_rng(0)
    values = np.concatenate([(1 - random.random(150)) ** (-1 / 2.0), random.random(60)])
    best = (None, math.inf)
    for start in np.sort(values)[:-1]:
        tail = np.sort(values[values >= start])
        alpha = 1 + len(tail) / np.log(tail / start).sum()
        fitted = 1 - (tail / start) ** (1 - alpha)
        distance = max(abs(f - i / len(tail)) for i, f in enumerate(fitted))
        if distance < best[1]:
            best = (alpha, distance)
    found = fit_power_law(values)
    assert found[0] == pytest.approx(best[0]) and found[2] == pytest.approx(best[1])
    # What weightwatcher 0.7.7 gives for these numbers.
    drawn = (1 - np.random.default_rng(0).random(300)) ** (-1 / 1.7)
    found = fit_power_law(drawn)
    assert found[0] == pytest.approx(2.47968464211632, rel=1e-9)
    assert found[2] == pytest.approx(0.02932576330608111, rel=1e-9)
    draws = (1 - random.random(20_000)) ** (-1 / 2.2)
    assert fit_power_law(draws[:2000])[0] == pytest.approx(3.2, abs=0.2)


def test_layers_are_told_apart_and_small_ones_marked():
    torch.manual_seed(0)
    model = nn.ModuleDict({
        "encoder": nn.Sequential(nn.Conv2d(8, 64, 3), nn.ReLU(), nn.Linear(70, 60)),
        "head": nn.Linear(60, 3),
    })  # fmt: skip
    found = pl_alpha(model, {"backbone": "encoder", "head": "head"})
    sizes = {layer.name: layer.num_eigenvalues for layer in found["backbone"].layers}
    assert sizes == {"0": 64, "2": 60}
    weights = model["encoder"][2].weight.detach().double().numpy()
    values = np.linalg.eigvalsh(weights @ weights.T)
    assert found["backbone"].layers[1].alpha == pytest.approx(fit_power_law(values)[0], rel=1e-6)
    assert found["head"].is_noise and not found["backbone"].is_noise
    slices = pl_alpha(model, ["encoder.0"], convolutions="slices")["encoder.0"]
    assert slices.layers[0].num_eigenvalues == 9 * 8
    assert math.isnan(pl_alpha(model, ["encoder.1"])["encoder.1"].alpha)
    with pytest.raises(ValueError, match="no module 'tail'"):
        pl_alpha(model, ["tail"])
    with pytest.raises(ValueError, match="two different numbers"):
        fit_power_law(np.ones(5))


def random_batch(task, pictures):
    generator = torch.Generator().manual_seed(3)
    if task.type == "segmentation":
        labels = torch.randint(0, 3, (pictures, 4, 4), generator=generator)
        return torch.randn(pictures, 3, 4, 4, generator=generator), labels
    if task.type == "classification":
        labels = torch.randint(0, 3, (pictures,), generator=generator)
        return torch.randn(pictures, 3, generator=generator), labels
    shape = (pictures, 3, 4, 4) if task.type == "normals" else (pictures, 4, 4)
    truth = torch.rand(shape, generator=generator) + 0.1
    return truth + torch.randn(shape, generator=generator), truth


@pytest.mark.parametrize(
    ("kind", "classes"),
    [("segmentation", 3), ("classification", 3), ("depth", None), ("normals", None)],
)
def test_intervals_resample_whole_pictures(kind, classes):
    task = Task("one", kind, classes)
    predictions, labels = random_batch(task, 7)
    meter = TaskMeter(task)
    meter.add(predictions[:3], labels[:3])
    meter.add(predictions[3:], labels[3:])
    assert meter.num_pictures == 7
    found = meter.intervals(num_resamples=40, seed=5)
    drawn = np.random.default_rng(5).integers(7, size=(40, 7))
    slow = [measured(task, [(predictions[places], labels[places])]) for places in drawn]
    for name in slow[0]:
        low, high = np.quantile([one[name] for one in slow], [0.025, 0.975])
        # An even number of angles has two medians.
        assert found[name] == pytest.approx((low, high), abs=0.7 if "median" in name else 1e-9)
        assert found[name][0] < found[name][1]


def test_one_picture_has_no_interval():
    meter = TaskMeter(Task("d", "depth"))
    meter.add(torch.ones(1, 2, 2), torch.full((1, 2, 2), 2.0))
    assert meter.intervals() == {}
