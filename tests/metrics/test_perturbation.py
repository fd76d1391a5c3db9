"""Insertion and deletion against one-pixel-at-a-time loops."""

import math

import pytest
import torch

from salhub.metrics.perturbation import deletion, insertion


class TinyClassifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.randn(5, 3 * 6 * 8, generator=generator)

    def forward(self, pixel_values):
        return torch.tanh(pixel_values.flatten(1)) @ self.weight.T


def slow_blur(picture):
    """11 x 11 Gaussian, sigma 5, zeros outside, written as loops."""
    taps = {(y, x): math.exp(-(y * y + x * x) / 50) for y in range(-5, 6) for x in range(-5, 6)}
    total = sum(taps.values())
    _, height, width = picture.shape
    blurred = torch.zeros_like(picture)
    for row in range(height):
        for column in range(width):
            for (y, x), weight in taps.items():
                if 0 <= row + y < height and 0 <= column + x < width:
                    blurred[:, row, column] += weight / total * picture[:, row + y, column + x]
    return blurred


def slow_curve(classify, start, end, saliency, label, step):
    order = sorted(range(saliency.numel()), key=lambda p: -saliency.flatten()[p].item())
    picture, found, fractions = start.clone(), [], []
    for stop in [*range(0, len(order), step), len(order)]:
        for pixel in order[:stop]:
            row, column = divmod(pixel, saliency.shape[1])
            picture[:, row, column] = end[:, row, column]
        found.append(classify(picture[None]).softmax(dim=1)[0, label].item())
        fractions.append(stop / len(order))
    area = sum(
        (found[i] + found[i + 1]) / 2 * (fractions[i + 1] - fractions[i])
        for i in range(len(found) - 1)
    )
    return fractions, found, area


@pytest.mark.parametrize(("step", "batch_size"), [(None, 16), (5, 4), (7, 1), (48, 16)])
@pytest.mark.parametrize("metric", [deletion, insertion])
def test_equals_the_loop(metric, step, batch_size):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(3, 3, 6, 8, generator=generator)
    saliency = torch.randint(9, (3, 6, 8), generator=generator).float()
    labels = torch.tensor([0, 4, 2])
    classify = TinyClassifier()
    curves = metric(
        classify, pictures, saliency, labels, pixels_per_step=step, batch_size=batch_size
    )
    for row in range(3):
        start, end = pictures[row], torch.zeros_like(pictures[row])
        if metric is insertion:
            start, end = slow_blur(pictures[row]), pictures[row]
        fractions, expected, area = slow_curve(
            classify, start, end, saliency[row], int(labels[row]), step or 8
        )
        assert curves.fractions.tolist() == pytest.approx(fractions)
        assert curves.probabilities[row].tolist() == pytest.approx(expected, abs=1e-5)
        assert curves.area[row].item() == pytest.approx(area, abs=1e-5)


def test_published_number_of_steps_and_no_gradient():
    curves = deletion(
        lambda x: x.mean(dim=(2, 3)).requires_grad_() * 1.0,
        torch.rand(1, 3, 16, 16),
        torch.rand(1, 16, 16),
        torch.tensor([1]),
    )
    assert curves.probabilities.shape == (1, 17)
    assert not curves.probabilities.requires_grad


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"saliency": torch.rand(1, 7, 7)}, r"maps must have the pictures' size \(6, 8\)"),
        ({"class_labels": torch.tensor([0.0])}, "class_labels must be 1 integers"),
        ({"pixels_per_step": 0}, "at least 1, got 0 and 16"),
        ({"pixel_values": torch.rand(2, 3, 6, 8)}, "with one picture per map, got"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {
        "pixel_values": torch.rand(1, 3, 6, 8),
        "saliency": torch.rand(1, 6, 8),
        "class_labels": torch.tensor([0]),
    } | changes
    with pytest.raises(ValueError, match=message):
        deletion(TinyClassifier(), **arguments)


@pytest.mark.parametrize("metric", [deletion, insertion])
def test_labels_that_cannot_be_are_named_before_work(metric):
    calls = []

    def classify(pictures):
        calls.append(len(pictures))
        return TinyClassifier()(pictures)

    pictures, maps = torch.rand(2, 3, 6, 8), torch.rand(2, 6, 8)
    with pytest.raises(TypeError, match=r"class_labels must be a torch tensor .*got list"):
        metric(classify, pictures, maps, [0, 1])
    with pytest.raises(ValueError, match="class_labels must be 0 or more, got -1"):
        metric(classify, pictures, maps, torch.tensor([0, -1]))
    assert calls == []
    with pytest.raises(
        ValueError, match="class_labels contains 5, but `classify` returns 5 classes"
    ):
        metric(classify, pictures, maps, torch.tensor([0, 5]), batch_size=2)
    assert calls == [2]  # only classifying tells how many classes there are
