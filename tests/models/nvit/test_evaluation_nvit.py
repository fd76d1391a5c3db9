"""Evaluation: accuracy, shape and speed beside the network that it was pruned from."""

import json

import numpy as np
import pytest
import torch

from salhub.evaluation import image_classification
from salhub.evaluation.shared_rows import ranges
from salhub.models.nvit import speed
from salhub.models.nvit.distilling_recipe import load_classifier, load_nvit
from salhub.models.nvit.evaluation_nvit import evaluate
from salhub.models.nvit.image_processing_nvit import NViTImageProcessor
from salhub.models.nvit.shapes import STRUCTURES
from salhub.models.nvit.unit_weights import without_units
from tests.evaluation.sharing import check_shared
from tests.models.nvit.small_vit import even_table, network
from tests.models.nvit.test_reference import mask_of

NAMES = ("a", "b", "c", "d", "e")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The original, the pruned network, and forty pictures for them."""
    place = tmp_path_factory.mktemp("evaluation")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (40, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(40) % 5
    np.savez(
        place / "noise.npz", train_images=images[:10], train_labels=labels[:10],
        test_images=images[10:], test_labels=labels[10:], class_names=np.array(NAMES),
    )  # fmt: skip
    model = network(id2label=dict(enumerate(NAMES)))
    record = {"predicted_ratio": 0.5, "latency_device": "a toaster"}
    small = without_units(model, mask_of(model, STRUCTURES), record=record)
    for one, name in ((model, "original"), (small, "small")):
        one.save_pretrained(place / name)
        NViTImageProcessor.for_image_size(16).save_pretrained(place / name)
    table = even_table(model.config)
    table.validation = {"networks": 30, "median": 0.034, "maximum": 0.1}
    table.save(place / "small" / "latency_table.json")
    return place


def test_a_pruned_network_is_measured_beside_its_original(folder, monkeypatch):
    model, processor = load_classifier(folder / "small")
    # A clock by which the original takes twice as long; a busy machine may say anything.
    monkeypatch.setattr(speed, "_seconds", lambda network, pixels: 1.0 if network is model else 2.0)
    results = evaluate(
        model, processor, folder / "noise.npz", original=str(folder / "original"),
        latency_batch_size=2, latency_rounds=4, audit_images=10,
    )  # fmt: skip
    archive = np.load(folder / "noise.npz")
    pixels = torch.from_numpy(archive["test_images"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        for name, one in (("test", model), ("original", load_nvit(folder / "original"))):
            right = one(pixels).logits.argmax(-1) == torch.from_numpy(archive["test_labels"])
            found = results.metric(f"accuracy/{name}")
            assert found.value == pytest.approx(float(right.float().mean()))
    assert results.metric("parameters").value == model.num_parameters()
    assert results.metric("latency_ratio/predicted").value == 0.5
    assert results.metric("latency_ratio/measured").value == 0.5
    assert -1 <= results.metric("audit/per_sample").value <= 1
    tables = {table.title: table for table in results.tables}
    assert tables["Shape"].rows[0] == [1, "1 of 2", "3 of 5", "4 of 6", "21 of 32"]
    assert "Residual channels: 16 of 24" in tables["Shape"].note
    assert "predicted for a toaster" in tables["Speed"].note
    assert "On 30 whole networks of random shapes, the table was off by 3" in tables["Speed"].note
    assert len(tables["Score audit"].rows) == 5
    assert str(folder) not in json.dumps([table.note for table in results.tables])


def test_without_an_original_the_network_alone_is_measured(folder):
    model, processor = load_classifier(folder / "original")
    results = evaluate(model, processor, folder / "noise.npz")
    names = {metric.name for metric in results.metrics}
    assert {"accuracy/test", "parameters", "macs"} <= names
    assert not {"accuracy/original", "latency_ratio/measured"} & names


def test_two_jobs_measure_what_one_measures(folder, tmp_path, monkeypatch):
    few = lambda images, batch_size: ranges(len(images), 3)  # noqa: E731
    monkeypatch.setattr(image_classification, "batches_of_pictures", few)
    model, processor = load_classifier(folder / "small")
    settings = {"original": str(folder / "original"), "latency_batch_size": 2, "latency_rounds": 2}
    jobs = check_shared(
        lambda: evaluate(model, processor, folder / "noise.npz", **settings), tmp_path / "rows"
    )
    assert jobs == 2
