"""Numbers of the evaluation against arithmetic by hand."""

import numpy as np
import pytest
import torch

from salhub.models.disa import evaluation_disa
from salhub.models.disa.evaluation_disa import (
    calibration_error,
    evaluate,
    harmonic_mean,
    mask_quality,
    patches_in_boxes,
    short_names,
)
from tests import small_clip
from tests.evaluation.sharing import check_shared
from tests.models.disa.small_disa import small_model


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    generator = np.random.default_rng(0)
    names = ["cat, Felis catus", "dog", "sea bird", "house", "red car"]
    labels = np.arange(20) % 5
    path = tmp_path_factory.mktemp("data") / "things.npz"
    pictures = generator.integers(0, 255, (20, 16, 16, 3), dtype=np.uint8)
    np.savez(
        path, train_images=pictures[:5], train_labels=labels[:5], test_images=pictures,
        test_labels=labels, class_names=np.array(names),
    )  # fmt: skip
    return str(path)


def test_accuracy_is_how_often_the_likeliest_class_is_right(data):
    model = small_model(class_names=["cat", "dog", "sea bird"])
    processor = small_clip.processor().image_processor
    results = evaluate(model, processor, data, first_names=True)
    with np.load(data) as content:
        pictures, labels = content["test_images"], torch.tensor(content["test_labels"])
    names = ["cat", "dog", "sea bird", "house", "red car"]
    pixels = processor(list(pictures), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        prompted = model(pixels, class_names=names).logits.argmax(-1)
        frozen = model.zero_shot_logits(pixels, names).argmax(-1)
        among = model(pixels, class_names=names[3:]).logits.argmax(-1)
    values = {metric.name: metric.value for metric in results.metrics}
    assert values["accuracy/all/prompts"] == pytest.approx(
        float((prompted == labels).float().mean())
    )
    assert values["accuracy/all/frozen"] == pytest.approx(float((frozen == labels).float().mean()))
    assert values["agreement/all"] == pytest.approx(float((prompted == frozen).float().mean()))
    new = labels >= 3
    expected = float((among[new] == labels[new] - 3).float().mean())
    assert values["accuracy/new/prompts"] == pytest.approx(expected)
    pair = values["accuracy/learned/prompts"], values["accuracy/new/prompts"]
    assert values["harmonic_mean/prompts"] == pytest.approx(harmonic_mean(*pair))


def test_one_learned_class_alone_is_not_measured_among_itself(data, caplog):
    processor = small_clip.processor().image_processor
    model = small_model(class_names=["dog", "zebra"])
    results = evaluate(model, processor, data, first_names=True)
    names = [metric.name for metric in results.metrics]
    assert "accuracy/new/prompts" in names and "accuracy/learned/prompts" not in names
    assert "harmonic_mean/prompts" not in names
    assert "'dog' is the only learned class; its accuracy would" in caplog.text


def test_fewer_pictures_are_drawn_by_the_seed(data):
    processor = small_clip.processor().image_processor
    results = evaluate(small_model(), processor, data, first_names=True, max_pictures=8)
    assert results.metric("accuracy/all/prompts").n == 8
    assert "8 of them were drawn with the seed" in results.tables[0].note


def test_calibration_is_the_gap_between_sureness_and_accuracy():
    # Ten answers, each 80 % sure, of which six are right.
    logits = torch.tensor([[0.8, 0.2]]).log().repeat(10, 1)
    labels = torch.tensor([0] * 6 + [1] * 4)
    assert calibration_error(logits, labels) == pytest.approx(0.2, abs=1e-6)


def test_masks_are_measured_by_boxes():
    boxes = torch.tensor([[0, 0, 16, 32], [8, 8, 16, 16]])
    inside = patches_in_boxes((4, 4), boxes, 32)
    assert inside[0].tolist() == [[True, True, False, False]] * 4
    assert inside[1].nonzero().tolist() == [[1, 1]]
    keep = torch.zeros(2, 4, 4, dtype=torch.bool)
    keep[:, 1] = True
    assert mask_quality(keep, boxes, 32).tolist() == [0.5, 0.25]
    everything = torch.ones(2, 4, 4, dtype=torch.bool)
    assert mask_quality(everything, boxes, 32).tolist() == [0.5, 1 / 16]


def test_first_names_that_agree_are_refused():
    with pytest.raises(ValueError, match="Some classes have the same first name; leave out"):
        short_names(["ox, one", "ox, two"])


def test_two_jobs_measure_what_one_measures(data, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_disa, "_ROWS", 3)
    model = small_model(class_names=["cat", "dog", "sea bird"])
    processor = small_clip.processor().image_processor
    jobs = check_shared(
        lambda: evaluate(model, processor, data, first_names=True), tmp_path / "rows"
    )
    assert jobs == 2
