"""The page of NViT: a shape on it from the start, code that makes what is seen, and refusals."""

import json

import pytest
import torch

import salhub
from salhub.data.samples import sample_path
from salhub.entries import MODELS
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.models.nvit.page_nvit import NumbersTab, Page, PictureTab, ShapeTab, shape_chart
from salhub.models.nvit.shapes import NViTShape
from salhub.ui.controls import UploadedPicture

NAME = "salhub/nvit-cifar10-050"
ORIGINAL = "salhub/deit-nano-cifar10"


@pytest.fixture(scope="module")
def page():
    page = Page(NAME, MODELS["nvit"])
    page.build()
    return page


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """What the table was measured with, as another number is said once a page."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_shape_is_there_before_the_first_press(page):
    speed, shape = page.components["speed"].value, page.components["shape"].value
    for words in ("Predicted time", "Measured here", "residual channels"):
        assert words in speed
    config = salhub.NViTConfig.from_pretrained(ORIGINAL)
    assert shape.count("<tr>") == 1 + config.num_hidden_layers


def test_the_page_is_for_pruned_networks_of_shipped_originals(page, tmp_path):
    assert Page.serves(NAME) and not Page.serves(ORIGINAL)
    assert not Page.serves("salhub/salun-resnet8-cifar10")
    assert page.original == ORIGINAL
    assert list(page.family) == ["salhub/nvit-cifar10-075", NAME]
    with pytest.raises(ValueError, match="no 'other'; choose one of"):
        page.full_name("other")


def test_a_lower_target_leaves_less(page):
    found = [page.plan(target)[2] for target in (0.8, 0.5)]
    for one, target in zip(found, (0.8, 0.5), strict=True):
        assert target - 0.1 < one["predicted_ratio"] <= target and one["measured_ratio"] > 0
        assert json.loads(json.dumps(one)) == one
    assert found[0]["num_parameters"] > found[1]["num_parameters"]
    assert found[0]["macs"] > found[1]["macs"]


@pytest.mark.parametrize("score", ["saliency", "weight magnitude"])
def test_the_code_shown_makes_the_shape_shown(page, score, tmp_path, monkeypatch, capsys):
    query = {**page.first_state, "target": 0.7, "score": score, "kappa": 0.2}
    monkeypatch.chdir(tmp_path)
    exec(ShapeTab(page).code(query), {})
    found = page.plan(0.7, score, 0.2)[2]
    made = NViTForImageClassification.from_pretrained(tmp_path / "pruned").config
    for name in ("hidden_size", "num_attention_heads", "qk_head_dim", "intermediate_size"):
        assert getattr(made, name) == found[name]
    assert f"{found['predicted_ratio']:.3f}"[:-1] in capsys.readouterr().out


def test_both_networks_see_a_picture(page):
    path = sample_path("cat")
    picture = UploadedPicture(path, path.name)
    before, after = page.classify(picture)
    assert set(before) == set(after) == set(page.class_names)
    for name, found in ((ORIGINAL, before), (NAME, after)):
        result = salhub.pipeline(name)(path)
        assert found[result.label] == pytest.approx(result.score, abs=1e-6)
    query = {**page.first_state, "picture": picture, "network": "nvit-cifar10-075"}
    assert "nvit-cifar10-075" in PictureTab(page).code(query)
    shown = PictureTab(page).contents(query)["classes"]["value"]
    assert all(name in shown for name in page.class_names)
    with pytest.raises(ValueError, match="no picture yet"):
        page.classify(None)


def test_what_was_measured_is_that_of_the_results(page):
    shown = NumbersTab(page).contents(page.first_state)["measured"]["value"]
    assert shown.count("Pictures recognized") == len(page.family)
    for name in page.family:
        assert name.rpartition("/")[2] in shown
    assert f"original={ORIGINAL}" in NumbersTab(page).code(page.first_state)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ((1.5, "saliency", 0.1), "above 0 and below 1, such as 0.5, got 1.5"),
        ((0.01, "saliency", 0.1), "cannot be reached"),
        ((0.5, "size", 0.1), "no 'size'; choose one of saliency"),
        ((0.5, "saliency", 7), "kappa must be from 0 to 1, got 7"),
    ],
)
def test_values_out_of_range_are_refused(page, values, sentence):
    with pytest.raises(ValueError, match=sentence):
        page.plan(*values)


def test_the_chart_tells_what_is_left():
    before = NViTShape(8, (4, 4), (8, 8), (8, 8), (16, 16))
    chart = shape_chart(before, NViTShape(6, (2, 4), (8, 4), (8, 8), (4, 16)))
    assert "2 of 4" in chart and "width: 25.0%" in chart and chart.count("16 of 16") == 2
