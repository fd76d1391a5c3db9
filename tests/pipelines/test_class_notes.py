"""A map that hardly depends on the class says so, and points to one that does."""

import json

import pytest
import torch
from transformers import ViTImageProcessorPil

import salhub
from salhub.backbones.cifar_resnet.configuration_cifar_resnet import CifarResNetConfig
from salhub.backbones.cifar_resnet.modeling_cifar_resnet import CifarResNetForImageClassification
from salhub.models.normgrad.finished_maps import ALIKE, words_on_similarity
from salhub.results import read_results
from tests.models.normgrad.networks import SmallNet, spread_weights

NAME = "normgrad-efficientnet-lite0"
SENTENCE = "This map hardly depends on the class"


@pytest.fixture(scope="module")
def explain():
    return salhub.pipeline(NAME, device="cpu")


def test_the_answer_and_its_file_say_so(explain, tmp_path):
    result = explain("sample:cat", method="norm_grad", layers=["blocks.15"])
    [note] = [note for note in result.notes if note.startswith(SENTENCE)]
    assert SENTENCE in result.summary() and f"'{result.label}'" in note
    result.save(tmp_path / "cat.json")
    assert note in json.loads((tmp_path / "cat.json").read_text())["notes"]
    pixels = explain.view("sample:cat").fitted.pixel_values
    model = explain.model.with_settings(method="norm_grad", layers=["blocks.15"])
    output = model(pixels, return_class_similarity=True)
    assert float(output.class_similarity) >= ALIKE
    assert f"(rank correlation {float(output.class_similarity):.2f})" in note


@pytest.mark.parametrize("method", ["linear_approx", "grad_cam"])
def test_a_map_that_depends_on_it_says_nothing(explain, method):
    assert not [n for n in explain("sample:cat", method=method).notes if n.startswith(SENTENCE)]


def test_what_the_note_points_to_depends_on_the_class_by_the_measured_numbers():
    [note] = words_on_similarity(0.9, "cat")
    assert "method='grad_cam'" in note
    for name in (NAME, "gradcam-efficientnet-lite0"):
        found = read_results(name).metric("class_similarity/rho/grad_cam/blocks.15")
        assert found.value < 0.3


@pytest.mark.parametrize("similarity", [None, float("nan"), -0.9, 0.79])
def test_no_words_where_nothing_is_alike(similarity):
    assert words_on_similarity(similarity, "cat") == []


def test_a_network_of_ones_own_is_compared_by_each_answer():
    network = spread_weights(SmallNet())
    with torch.no_grad():  # one output for all classes: any map is the same for each
        network.classifier.weight[:] = network.classifier.weight[:1]
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    pipe = salhub.pipeline("normgrad", classifier=network, image_processor=processor, device="cpu")
    for result in pipe(["sample:cat", "sample:cat"], batch_size=2):
        assert any("(rank correlation 1.00)" in note for note in result.notes)


def test_salient_relevance_says_what_was_measured_of_it():
    measured = read_results("salient-relevance-efficientnet-lite0")
    rho = measured.metric("class_similarity/rho/salient relevance").value
    model = salhub.AutoModelForSaliency.from_pretrained("salient-relevance-efficientnet-lite0")
    [note] = model.class_notes(None, "cat")
    assert rho > ALIKE and f": {rho:.2f})" in note and "contrast='others'" in note
    # Against the other classes it was measured otherwise.
    assert model.with_settings(contrast="others").class_notes(None, "cat") == []


def test_numbers_that_a_network_predicts_are_no_classes_to_be_compared():
    torch.manual_seed(0)
    sizes = {"width": 4, "image_size": 16, "id2label": {0: "age", 1: "weight"}}
    notes = {}
    for kind in ("regression", "single_label_classification"):
        config = CifarResNetConfig(**sizes, problem_type=kind)
        network = spread_weights(CifarResNetForImageClassification(config))
        with torch.no_grad():
            network.classifier.weight[1] = network.classifier.weight[0]
        processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
        pipe = salhub.pipeline(
            "normgrad", classifier=network.eval(), image_processor=processor, device="cpu"
        )
        notes[kind] = [note for note in pipe("sample:cat").notes if "hardly depend" in note]
    assert not notes["regression"] and notes["single_label_classification"]


def test_one_output_has_no_other_class_to_be_compared_with():
    network = spread_weights(SmallNet())
    network.classifier = torch.nn.Linear(network.classifier.in_features, 1)
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    pipe = salhub.pipeline("normgrad", classifier=network, image_processor=processor, device="cpu")
    assert not [note for note in pipe("sample:cat").notes if note.startswith(SENTENCE)]


def test_a_layer_that_a_joined_map_has_nothing_of_is_named():
    network = spread_weights(SmallNet())
    with torch.no_grad():
        network.last.bias[:] = 100  # which keeps what it puts out positive,
        network.classifier.weight[1] = 1
        network.classifier.weight[2] = -1  # and this its part in class 2 negative
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    settings = {"method": "grad_cam", "layers": ["blocks.0", "last"], "combine": "sum"}
    pipe = salhub.pipeline(
        "normgrad", classifier=network, image_processor=processor, device="cpu", **settings
    )
    start = "Nothing to show at last: "
    result = pipe("sample:cat", class_labels=2)
    assert not result.degenerate
    assert [note for note in result.notes if note.startswith(start)]
    assert start in result.summary()
    assert not [note for note in pipe("sample:cat", class_labels=1).notes if start in note]
    # A setting of one call is told by its own names.
    one = pipe("sample:cat", class_labels=2, layers=["blocks.0"])
    assert not [note for note in one.notes if "Nothing to show" in note]
    pixels = pipe.view("sample:cat").fitted.pixel_values
    output = pipe.model(pixels, class_labels=torch.tensor([[1, 2]]))
    assert output.silent_layers == (((), ("last",)),)
