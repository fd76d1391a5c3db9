"""The protocol on a classifier of coloured squares, whose right answers are known."""

import numpy as np
import pytest
import torch

from salhub.data.image_folder import LabelledImageFolder
from salhub.data.mosaic import confident_pictures, draw_mosaics
from salhub.evaluation.image_saliency.classified_sample import ClassifiedSample
from salhub.evaluation.image_saliency.scores import (
    explain_all,
    measure_class_sensitivity,
    measure_grid_game,
    measure_perturbation,
    measure_randomization,
    record_table,
)
from salhub.results import Results
from tests.evaluation.coloured_squares import ColourClassifier, SquareProcessor, make_folder


@pytest.fixture
def classifier():
    return ColourClassifier().eval()


@pytest.fixture
def sample(tmp_path, classifier):
    folder = LabelledImageFolder(make_folder(tmp_path))
    return ClassifiedSample(folder, SquareProcessor(), classifier, batch_size=3, progress=False)


def exact_maps(model):
    def explain(pixel_values, class_labels):
        responses = model.responses(pixel_values).detach()
        chosen = torch.stack([r[labels] for r, labels in zip(responses, class_labels, strict=True)])
        return {"exact": chosen, "positive": chosen.clamp(min=0)}

    return explain


def silent(pixel_values, class_labels):
    return torch.zeros(*class_labels.shape, 4, 4)


def class_blind(pixel_values, class_labels):
    grey = pixel_values.mean(dim=1, keepdim=True)[:, :, ::2, ::2]
    return grey.expand(-1, class_labels.shape[1], -1, -1)


def explainers_of(model):
    return {"colour": exact_maps(model), "silent": silent, "blind": class_blind}


def test_sample_knows_labels_and_accuracy(sample, classifier):
    assert sample.logits.shape == (8, 4)
    alone = classifier(sample.pixel_values([5]))[0]
    torch.testing.assert_close(sample.logits[5], alone)
    right = (sample.logits.argmax(dim=1) == sample.class_labels).double().mean().item()
    assert sample.top_accuracy(1) == pytest.approx(right)
    assert sample.top_accuracy(4) == 1.0
    classes = sample.extreme_classes([0, 5])
    assert classes[1].tolist() == [sample.logits[5].argmax(), sample.logits[5].argmin()]
    assert sorted(sample.draw(99, seed=0)) == list(range(8))
    assert sample.draw(3, seed=1) == sample.draw(3, seed=1)


def test_labels_beyond_the_classifier_are_refused(sample):
    with pytest.raises(
        ValueError,
        match="pictures have labels up to 3, but the classifier has 2 classes; the folder uses",
    ):
        ClassifiedSample(
            sample.folder, SquareProcessor(), lambda x: x.mean(dim=(2, 3))[:, :2], progress=False
        )


def test_grid_game_scores_every_cell(sample, classifier):
    candidates = confident_pictures(sample.probabilities, sample.class_labels, 0.5)
    mosaics = draw_mosaics(candidates, sample.class_labels, 3, seed=0)
    scores = measure_grid_game(explainers_of(classifier), sample, mosaics, progress=False)
    assert set(scores) == {"exact", "positive", "silent", "blind"}
    assert scores["exact"]["mass"].groups == [0] * 4 + [1] * 4 + [2] * 4
    assert scores["silent"]["mass"].values == [0.0] * 12
    assert scores["silent"]["empty"].total == 12
    assert scores["exact"]["empty"].total == 0
    # Only a cell's own tile shows its colour.
    assert all(scores["exact"]["hit"].values)
    masses = scores["positive"]["mass"].values
    assert masses == pytest.approx(scores["exact"]["mass"].values)
    # A class-blind map gives the four cells of a mosaic shares that sum to one.
    assert np.reshape(scores["blind"]["mass"].values, (3, 4)).sum(axis=1) == pytest.approx([1] * 3)


def test_class_sensitivity_tells_blind_from_sensitive(sample, classifier):
    scores = measure_class_sensitivity(
        explainers_of(classifier), sample, list(range(8)), progress=False
    )
    assert scores["blind"]["rho"].values == pytest.approx([1.0] * 8)
    assert max(scores["exact"]["rho"].values) < 0.9
    assert np.isnan(scores["silent"]["rho"].values).all()
    absolute = np.abs(scores["exact"]["rho"].values)
    assert scores["exact"]["absolute_rho"].values == pytest.approx(absolute)


def test_deletion_prefers_the_exact_map(sample, classifier):
    right = list(range(8))
    scores = measure_perturbation(
        explainers_of(classifier), classifier, sample, right, pixels_per_step=16, progress=False
    )
    exact, silent_scores = scores["exact"], scores["silent"]
    assert np.mean(exact["deletion"].values) < np.mean(silent_scores["deletion"].values)
    assert np.mean(exact["insertion"].values) > np.mean(silent_scores["insertion"].values)


@pytest.mark.parametrize("mode", ["cascade", "independent"])
def test_randomization_moves_maps_of_the_weights_and_not_others(sample, classifier, mode):
    before = {name: p.clone() for name, p in classifier.named_parameters()}
    found = measure_randomization(
        classifier,
        explainers_of,
        lambda model, pixel_values: model(pixel_values),
        sample,
        [0, 1, 2],
        ["blocks.0"],
        mode=mode,
        progress=False,
    )
    scores = found["blocks.0"]
    assert scores["blind"]["rho"].values == pytest.approx([1.0] * 3)
    assert scores["blind"]["ssim"].values == pytest.approx([1.0] * 3)
    assert min(scores["exact"]["rho"].values) < 0.9
    assert len(scores["exact"]["predicted_rho"].values) == 3
    assert scores["silent"]["constant"].total == 3
    assert all(torch.equal(before[name], p) for name, p in classifier.named_parameters())


def test_wrong_shapes_and_repeated_names_are_refused(sample):
    pixel_values, labels = sample.pixel_values([0]), torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match=r"'bad' must return .* \(1, 2\), got \(1, 16, 16\)"):
        list(explain_all({"bad": lambda x, c: torch.zeros(1, 16, 16)}, pixel_values, labels))
    with pytest.raises(ValueError, match="map called 'silent'"):
        explainers = {"silent": silent, "group": lambda x, c: {"silent": silent(x, c)}}
        list(explain_all(explainers, pixel_values, labels))


def test_records_have_intervals_by_group_and_count_what_is_undefined(sample, classifier):
    scores = measure_class_sensitivity(
        explainers_of(classifier), sample, list(range(8)), progress=False
    )
    results = Results(model="m", command="c", seed=0)
    estimates = record_table(results, "sensitivity", scores, ["rho"], unit="rho")
    metric = results.metric("sensitivity/rho/exact")
    assert metric.value == pytest.approx(np.mean(scores["exact"]["rho"].values))
    assert metric.interval[0] <= metric.value <= metric.interval[1]
    assert (metric.n, metric.unit) == (8, "rho")
    assert results.metric("sensitivity/rho/silent/not_finite").value == 8
    assert f"{estimates['silent']['rho']:.3f}" == "8 of 8 undefined"
    assert f"{estimates['blind']['rho']:.1f}" == "1.0 [1.0, 1.0]"
    again = Results(model="m", command="c", seed=0)
    assert scores["exact"]["rho"].record(again, "a") == estimates["exact"]["rho"]


def test_a_damaged_picture_is_named_before_anything_is_classified(tmp_path):
    folder = LabelledImageFolder(make_folder(tmp_path))
    folder[-1].path.write_bytes(b"no picture")

    def classify(pixel_values):
        pytest.fail("has begun")

    with pytest.raises(ValueError, match=f"{folder[-1].path.name}' cannot be read as a picture"):
        ClassifiedSample(folder, SquareProcessor(), classify, progress=False)
