"""The page of NormGrad: its controls are settings of the pipeline, and its code makes its map."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from salhub.data.samples import sample_path
from salhub.entries import MODELS
from salhub.models.normgrad import page_normgrad
from salhub.models.normgrad.configuration_normgrad import NormGradConfig
from salhub.ui.controls import UploadedPicture
from salhub.ui.picture_page import Query


@pytest.fixture(scope="module")
def normgrad_page():
    page = page_normgrad.Page("salhub/normgrad-efficientnet-lite0", MODELS["normgrad"])
    page.build()
    return page


@pytest.fixture
def query():
    picture = UploadedPicture.of_sample(sample_path("cat"))
    return Query.of_upload(picture, 281, {"opacity": 0.6, "colors": ""})


def with_settings(query, **settings):
    return replace(query, settings={**query.settings, **settings})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {}),
        ({"method": "norm_grad_selective", "layer": ""}, {}),
        ({"method": "norm_grad"}, {"method": "norm_grad", "layers": ["blocks.15"]}),
        ({"method": "grad_cam"}, {"method": "grad_cam", "layers": ["blocks.15"]}),
        ({"method": "gradient"}, {"method": "gradient", "layers": ["input"]}),
        ({"layer": "blocks.10"}, {}),
        ({"layer": "blocks.4"}, {"layers": ["blocks.4"]}),
        (
            {"layer": "joined"},
            {"layers": ["blocks.2", "blocks.4", "blocks.10", "blocks.15"]},
        ),
        ({"meta_step": 0.002}, {"meta_step": 0.002}),
    ],
)
def test_controls_become_settings_of_the_pipeline(normgrad_page, query, settings, expected):
    assert normgrad_page.pipeline_settings(with_settings(query, **settings)) == expected


@pytest.mark.parametrize("model", ["normgrad-efficientnet-lite0", "gradcam-efficientnet-lite0"])
@pytest.mark.parametrize("method", ["norm_grad", "grad_cam", "gradient_sum", "linear_approx"])
@pytest.mark.parametrize("layer", ["", "blocks.15"])
def test_the_code_shown_makes_the_map_shown(model, method, layer, query):
    page = page_normgrad.Page(f"salhub/{model}", MODELS["normgrad"])
    settings = page.pipeline_settings(with_settings(query, method=method, layer=layer))
    config = NormGradConfig.from_pretrained(f"salhub/{model}", **settings)
    assert config.method == method
    assert config.layers == page.layers_for(with_settings(query, method=method, layer=layer))


def test_the_family_is_what_the_model_says_one_by_one(normgrad_page, query):
    tab = page_normgrad.FamilyTab(normgrad_page)
    contents = tab.contents(with_settings(query, method="norm_grad", layer="blocks.10"))
    assert contents["by_depth"]["value"].count("<img") == 24
    assert contents["by_pair"]["value"].count("<img") == 30
    assert contents["by_depth"]["value"].count("salhub-chosen") == 1
    assert "The whole family at blocks.10" in contents["by_pair"]["value"]
    opened = {"method": "grad_cam", "layer": "blocks.4", "tab": "Map"}
    assert tab.picked("grad_cam blocks.4", {}) == opened
    with pytest.raises(ValueError, match=r"There is no 'rm blocks\.4' to open"):
        tab.picked("rm blocks.4", {})


def test_class_sensitivity_is_the_rank_correlation_of_both_maps(normgrad_page, query):
    from scipy.stats import spearmanr

    page = normgrad_page
    other = page.least_likely(query)
    outputs, _ = page.timed_run(query, [281, other])
    maps = outputs.saliency[0].flatten(1).numpy()
    expected = spearmanr(maps[0], maps[1])[0]
    html = page_normgrad.SensitiveMapTab(page).contents(query)["facts"]["value"]
    assert f"<strong>{expected:.2f}</strong>" in html
    assert page.pipeline.class_name(other) in html


def test_two_classes_are_subtracted_as_shares_of_the_whole(normgrad_page, query):
    from salhub.models.normgrad.page_tabs import difference_of

    page = normgrad_page
    outputs, _ = page.timed_run(query, [281, 282])
    first, second = (page.result_of(query, outputs, place) for place in (0, 1))
    difference = difference_of(first, second)
    expected = (
        first.saliency / np.abs(first.saliency).sum()
        - second.saliency / np.abs(second.saliency).sum()
    )
    assert np.allclose(difference, expected, atol=1e-9)
    assert abs(float(difference.sum())) < 1e-4
    contents = page_normgrad.ClassesTab(page).contents(with_settings(query, other_class=282))
    assert contents["other_class"]["value"] == 282
    assert contents["first_class"]["label"] == "tabby"


def test_a_class_is_never_compared_with_itself(normgrad_page, query):
    contents = page_normgrad.ClassesTab(normgrad_page).contents(
        with_settings(query, other_class=281)
    )
    assert contents["other_class"]["value"] != 281


def test_a_question_is_asked_once(normgrad_page, query):
    calls = []
    asked = with_settings(query, meta_step=0.0035)
    for opacity in (0.2, 0.9):
        normgrad_page.timed(with_settings(asked, opacity=opacity), lambda: calls.append(1), "test")
    assert len(calls) == 1
    normgrad_page.timed(with_settings(asked, meta_step=0.0045), lambda: calls.append(1), "test")
    assert len(calls) == 2


def test_the_code_of_a_page_makes_its_map(normgrad_page, query, tmp_path):
    asked = with_settings(query, method="linear_approx", layer="blocks.10", meta_step=0.001)
    code = normgrad_page.code(asked).replace('"explained', f'"{tmp_path}/explained')
    exec(compile(code, "page", "exec"), {})
    expected, _ = normgrad_page.timed_explain(asked)
    assert np.allclose(np.load(tmp_path / "explained.npy"), expected.saliency, atol=1e-5)


def test_explaining_leaves_the_network_as_it_was(normgrad_page, query):
    model = normgrad_page.pipeline.model
    before = {name: one.clone() for name, one in model.named_parameters()}
    normgrad_page.timed_explain(with_settings(query, meta_step=0.005, method="guided_backprop"))
    assert all(torch.equal(one, before[name]) for name, one in model.named_parameters())
    assert not any(one._forward_hooks for one in model.modules())


def test_a_class_that_there_is_not_gets_a_notice(normgrad_page):
    page = normgrad_page
    link = "?sample=cat&class_label=123456789&other_class=123456789&tab=Map"
    updates = page._open_link(page.first_state, link)
    assert updates[page.outputs["other_class"]]["value"] is None
    assert "no class &#x27;123456789&#x27;" in updates[page.outputs["notice"]]["value"]


def test_the_method_of_a_page_that_stayed_open_gets_a_notice(normgrad_page):
    page = normgrad_page
    updates = page._respond(page.first_state, {"method": "grad_camm"})
    said = updates[page.outputs["notice"]]["value"]
    assert "Method has no option &#x27;grad_camm&#x27;" in said
    assert "Did you mean &#x27;grad_cam&#x27;" in said
    assert updates[page.outputs["overlay"]]["value"] is None


def test_a_class_pressed_while_another_picture_comes_is_explained_in_that_picture(normgrad_page):
    page = normgrad_page
    state = page._respond(page.first_state, page.picked("cat", {}), page.picked("cat", {}))
    late = page._respond(state[page.state], {"class_label": 968})
    picker = late[page.outputs["class_label"]]
    assert late[page.state]["picture"].name == "cat.jpg"
    assert picker["value"] == 968 and ("cup", 968) in picker["choices"]
    assert ">cup, under 1 %." in late[page.outputs["reading"]]["value"]
