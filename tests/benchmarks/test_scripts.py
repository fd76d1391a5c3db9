"""The benchmarks themselves: what they compare is right, and what they wrote is up to date."""

import json

import numpy as np
import pytest
import torch

import salhub
from benchmarks import normgrad, salient_relevance, segmentation_metrics, verbalizer
from benchmarks.classifier import load_classifier, own_copy, sixteen_photos
from benchmarks.folded_lite import fold
from benchmarks.normgrad_agreement import RULES, agreements
from benchmarks.normgrad_peers import Task
from benchmarks.peers import find_peers
from benchmarks.plain_context_saliency import plain_context_aware_saliency
from benchmarks.report import RESULTS, markdown
from salhub.results import Results

SCRIPTS = (
    "active_contour", "lexrank", "normgrad", "salient_relevance", "salun", "sdl_seg",
    "segmentation_metrics", "verbalizer",
)  # fmt: skip


@pytest.fixture(scope="module")
def classifier():
    return load_classifier()


@pytest.fixture(scope="module")
def photos(classifier):
    return sixteen_photos(classifier[1])


@pytest.fixture(scope="module")
def task(classifier, photos):
    peers = find_peers("captum", "pytorch_grad_cam", "torchcam")
    label = int(classifier[0](photos[:1]).logits.argmax())
    return Task(classifier[0], photos[:1], label, peers)


@pytest.fixture
def no_memory_profile(monkeypatch):
    """Memory has tests of its own, and takes its time."""
    monkeypatch.setattr("benchmarks.report.peak_tensor_memory", lambda run: 2**20)


def test_sixteen_different_photos(photos):
    assert photos.shape == (16, 3, 224, 224)
    assert len({tuple(photo.flatten()[::997].tolist()) for photo in photos}) == 16


def test_truncated_pass_is_the_gradient_at_the_block(task):
    kept = []
    block = task.backbone.blocks[normgrad.LAST_BLOCK]
    handle = block.register_forward_hook(lambda module, args, output: kept.append(output))
    photo = task.photo.clone().requires_grad_()
    logits = task.backbone(photo).logits
    handle.remove()
    expected = torch.autograd.grad(logits[0, task.label], kept[0])[0]
    torch.testing.assert_close(normgrad.truncated_pass(task), expected)


def test_peers_get_copies_that_compute_the_same(task):
    copied = own_copy(task.backbone, frozen=True)
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert all(parameter.requires_grad for parameter in task.backbone.parameters())
    torch.testing.assert_close(copied(task.photo), task.backbone(task.photo).logits)


def test_folded_copy_computes_the_same(task):
    folded = fold(task.backbone, 224)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(
        folded(task.photo), task.backbone(task.photo).logits, rtol=0, atol=1e-4
    )


def test_plain_formula_is_that_of_the_product():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, size=(60, 52), mode="bicubic").clamp(0, 1)
    for one in (picture, picture[:, :1]):
        stretched = one if one.shape[1] == 3 else (one - one.min()) / (one.max() - one.min())
        found = salhub.context_aware_saliency(stretched, max_side=None).saliency[0]
        plain = plain_context_aware_saliency(stretched[0].double().numpy())
        np.testing.assert_allclose(found.numpy(), plain, atol=1e-4)


def test_last_block_race_runs_and_says_what_is_required(task, no_memory_profile):
    results = Results(model="normgrad", command="c", seed=0)
    required = normgrad.last_block(results, task, rounds=1)
    assert required[0].limit == 1.15
    names = [row[0] for row in results.tables[0].rows]
    assert {normgrad.FORWARD, normgrad.TO_LAYER, "salhub norm_grad"} <= set(names)
    assert all(row[2] > 0 for row in results.tables[0].rows)


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_shared_maps_equal_captum(task):
    pytest.importorskip("captum")
    found = agreements(task)
    assert all(one.difference < normgrad.TOLERANCE for one in found if one.expected)
    by_name = {one.what: one for one in found}
    for ours, name in RULES:
        silent = by_name[f"Captum {name}, ReLU6 network"]
        assert silent.difference == 0
        assert silent.note.startswith("equal")
        assert by_name[f"salhub {ours}, ReLU6 network"].difference > 0.1


def test_relevance_race_runs_the_presets(classifier, task, no_memory_profile, monkeypatch):
    monkeypatch.setattr(salient_relevance, "PRESETS", ("deep_taylor", "epsilon_plus_flat"))
    results = Results(model="salient_relevance", command="c", seed=0)
    peers = find_peers("zennit", "captum")
    whole = salient_relevance.Task(*classifier, task.photo, task.label, peers)
    required, found = salient_relevance.relevance(results, whole, rounds=1)
    assert [one.limit for one in required] == [salient_relevance.LRP_LIMIT] * 2
    assert all(one.difference < salient_relevance.TOLERANCE for one in found if one.expected)


def test_vision_transformer_race_runs_and_agrees_with_lxt(classifier, task, no_memory_profile):
    results = Results(model="salient_relevance", command="c", seed=0)
    peers = find_peers(salient_relevance.LXT)
    whole = salient_relevance.Task(*classifier, task.photo, task.label, peers)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "image_size": 32, "intermediate_size": 32}
    found = salient_relevance.vision_transformer(results, whole, rounds=1, **sizes)
    assert all(one.difference < salient_relevance.TOLERANCE for one in found)
    assert "salhub epsilon" in [row[0] for row in results.tables[0].rows]


def test_the_verbalizers_races_run(no_memory_profile):
    results = Results(model="verbalizer", command="c", seed=0)
    captum = find_peers("captum")["captum"]
    task = verbalizer.tasks()[0]
    required, agreed = verbalizer.gradients(results, task, captum, rounds=1)
    assert [one.limit for one in required] == [1.15]
    assert all(one.difference < verbalizer.TOLERANCE for one in agreed)
    limits = [one.limit for one in verbalizer.searches(results, 20, rounds=1)]
    assert limits == [200.0, 10.0]


def test_masks_are_scored_without_monai_too(no_memory_profile):
    results = Results(model="segmentation metrics", command="c", seed=0)
    [monai] = find_peers("no_such_monai").values()
    crop = segmentation_metrics.pairs()[:1]
    assert segmentation_metrics.measure(results, monai, crop, rounds=1) == []
    assert [row[0] for row in results.tables[0].rows] == [
        segmentation_metrics.OURS, "salhub, all nine",
    ]  # fmt: skip
    scores = segmentation_metrics.our_scores(crop[0])
    assert scores.items() <= segmentation_metrics.all_scores(crop[0]).items()


def test_scores_of_masks_are_monais():
    pytest.importorskip("monai")
    for pair in segmentation_metrics.pairs()[:2]:
        found = segmentation_metrics.differences(pair)
        assert max(found.values()) < segmentation_metrics.TOLERANCE


@pytest.mark.parametrize("name", SCRIPTS)
def test_results_in_the_repository_belong_together(name):
    results = Results.load(RESULTS / f"{name}.json")
    page = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    assert page == markdown(results)
    assert results.command.startswith(f"python -m benchmarks.{name} ")
    assert results.tables[0].title == "Required"
    assert results.tables[-1].title == "Peers"


@pytest.mark.parametrize("name", SCRIPTS)
def test_results_name_no_place_of_a_machine(name):
    text = (RESULTS / f"{name}.json").read_text(encoding="utf-8")
    assert "/home" not in text and "/root" not in text and "site-packages" not in text
    # Strict JSON: no NaN.
    json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
