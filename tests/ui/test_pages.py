"""What the pages are made of, without a server."""

import ast
import importlib
import logging
import sys
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from huggingface_hub.errors import OfflineModeIsEnabled
from PIL import Image

from salhub.data.samples import sample_path
from salhub.entries import MODELS, Model
from salhub.errors import MissingExtraError, UnknownNameError
from salhub.models.normgrad import page_normgrad
from salhub.models.normgrad.configuration_normgrad import NormGradConfig
from salhub.models.salient_relevance import page_salient_relevance
from salhub.ui import build_gallery, build_page, launch, models_tab
from salhub.ui.assembly import PageAssembly
from salhub.ui.faults import OUR_FAULT, plain_errors, plain_sentence
from salhub.ui.image_saliency import ImageSaliencyPage
from salhub.ui.models_tab import load_other
from salhub.ui.picture_input import UploadedPicture
from salhub.ui.query import Query
from salhub.ui.reproducing import pipeline_code
from salhub.ui.tasks import page_class
from salhub.ui.theme import page_head, salhub_theme

VISIBLE_CONTROLS = (gr.Dropdown, gr.Radio, gr.Slider, gr.Checkbox, gr.Textbox, gr.Image)


@pytest.fixture(scope="module")
def normgrad_page():
    return page_normgrad.Page("salhub/normgrad-efficientnet-lite0", MODELS["normgrad"])


@pytest.fixture(scope="module")
def relevance_page():
    name = "salhub/salient-relevance-efficientnet-lite0"
    return page_salient_relevance.Page(name, MODELS["salient_relevance"])


@pytest.fixture
def query():
    path = sample_path("cat")
    return Query.of_upload(UploadedPicture(path, path.name), 281, {"opacity": 0.6, "colors": ""})


def with_settings(query, **settings):
    return replace(query, settings={**query.settings, **settings})


# --- which page -------------------------------------------------------------------------------


def test_a_method_without_a_page_of_its_own_gets_that_of_its_task():
    toy = Model("toy", "toy", "image-saliency", "ToyConfig", "Toy")
    assert page_class(toy) is ImageSaliencyPage
    assert page_class(MODELS["normgrad"]) is page_normgrad.Page


def test_a_task_without_a_page_says_what_works(monkeypatch):
    toy = Model("toy", "toy", "telepathy", "ToyConfig", "Toy", default="toy-model")
    monkeypatch.setitem(MODELS, "toy", toy)
    with pytest.raises(UnknownNameError, match=r"'telepathy' have no page yet.*salhub run"):
        build_page("toy")


def test_an_unknown_name_is_refused_with_a_hint():
    with pytest.raises((UnknownNameError, OSError), match="normgrad"):
        build_page("normgrat-efficientnet-lite0")


@pytest.mark.parametrize("name", ["normgrad", "salient-relevance", "gradcam-efficientnet-lite0"])
def test_a_page_starts_explained_with_few_controls(name):
    page = build_page(name)
    accordions = [one for one in page.blocks.values() if isinstance(one, gr.Accordion)]
    folded = {id(child) for one in accordions for child in _inside(one)}
    tabs = [one for one in page.blocks.values() if isinstance(one, gr.Tab)]
    folded |= {id(child) for tab in tabs[1:] for child in _inside(tab)}
    hidden = [one for one in page.blocks.values() if getattr(one, "visible", True) is not True]
    folded |= {id(child) for one in hidden for child in [one, *_inside(one)]}
    controls = [
        one
        for one in page.blocks.values()
        if isinstance(one, VISIBLE_CONTROLS)
        and id(one) not in folded
        and one.interactive is not False
    ]
    assert 2 <= len(controls) <= 4
    panes = [one for one in page.blocks.values() if "salhub-pane" in (one.elem_classes or [])]
    assert panes[0].value["path"].endswith(".png")
    assert page.title in ("NormGrad", "Salient Relevance")


def _inside(block) -> list:
    children = getattr(block, "children", [])
    return [*children, *(one for child in children for one in _inside(child))]


def test_a_gallery_has_a_page_for_every_method_and_tells_endpoints_apart(monkeypatch):
    # A method whose task has no page is left out.
    toy = Model("toy", "toy", "telepathy", "ToyConfig", "Toy", default="toy-model")
    monkeypatch.setitem(MODELS, "toy", toy)
    gallery = build_gallery()
    titles = [title for _, title, _ in gallery.pages]
    known = ["Salient Relevance", "LexRank", "SalUn", "SalUn for diffusion", "Saliency verbalizer"]
    assert titles[1:] == known
    names = {one.api_name for one in gallery.fns.values()}
    assert {"normgrad", "salient_relevance"} <= names
    with pytest.raises(ValueError, match="at least one page"):
        build_gallery({})


# --- what NormGrad's page shows ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {}),
        ({"method": "norm_grad", "layer": ""}, {}),
        ({"method": "grad_cam"}, {"method": "grad_cam", "layers": ["blocks.15"]}),
        ({"method": "gradient"}, {"method": "gradient", "layers": ["input"]}),
        ({"layer": "blocks.10"}, {"layers": ["blocks.10"]}),
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
    assert tab.picked("grad_cam blocks.4") == {"method": "grad_cam", "layer": "blocks.4"}
    with pytest.raises(ValueError, match=r"There is no 'rm blocks\.4' to open"):
        tab.picked("rm blocks.4")


def test_class_sensitivity_is_the_rank_correlation_of_both_maps(normgrad_page, query):
    from scipy.stats import spearmanr

    page = normgrad_page
    other = page.classes.least_likely(query)
    outputs, _ = page.timed_run(query, [281, other])
    maps = outputs.saliency[0].flatten(1).numpy()
    expected = spearmanr(maps[0], maps[1])[0]
    html = page_normgrad.SensitiveMapTab(page).contents(query)["facts"]["value"]
    assert f"<strong>{expected:.2f}</strong>" in html
    assert page.class_name(other) in html


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


# --- what salient relevance's page shows ------------------------------------------------------


def test_the_stages_have_their_numbers(relevance_page, query):
    contents = page_salient_relevance.StagesTab(relevance_page).contents(query)
    outputs = relevance_page.run(query)
    lost = abs(outputs.relevance_sum - outputs.start_relevance) / abs(outputs.start_relevance)
    assert f"<strong>{float(lost):.2%}</strong>" in contents["facts"]["value"]
    sizes = {contents[name]["value"].size for name in ("photo", "relevance", "context", "overlay")}
    assert len(sizes) == 1


def test_areas_are_counted_with_corners():
    mask = np.zeros((5, 5), dtype=bool)
    mask[0, 0] = mask[1, 1] = mask[4, 4] = True
    assert page_salient_relevance.count_areas(mask) == 2
    values = np.arange(9.0).reshape(3, 3)
    assert page_salient_relevance.largest(values, 2).sum() == 2
    assert page_salient_relevance.largest(values, 2)[2, 1:].all()
    assert not page_salient_relevance.largest(values, 0).any()


def test_a_preset_is_built_once(relevance_page, query):
    asked = with_settings(query, preset="epsilon_plus")
    assert relevance_page.model_for(asked) is relevance_page.model_for(asked)
    assert relevance_page.model_for(query) is relevance_page.pipeline.model


# --- two models -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "/etc", "../weights", "a/../b", "resnet", "http://host/model", "a/b/c", "a b/c"]
)
def test_only_names_of_models_are_loaded(name):
    with pytest.raises(ValueError, match="names no model"):
        load_other(name, "normgrad")


def test_a_folder_of_the_server_is_not_a_model(tmp_path, monkeypatch):
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="names no model"):
        load_other("org/model", "normgrad")


def test_a_classifier_that_cannot_be_had_gets_one_sentence():
    with pytest.raises(ValueError, match="'nobody/nothing' could not be loaded from the Hub"):
        load_other("nobody/nothing", "normgrad")


def _hub_says(monkeypatch, answer):
    """Let the Hub answer with sizes of files by name, or with an error; note what is loaded."""
    asked = []

    def info(name, **given):
        asked.append(given)
        if isinstance(answer, Exception):
            raise answer
        files = [SimpleNamespace(rfilename=file, size=size) for file, size in answer.items()]
        return SimpleNamespace(siblings=files)

    def load(method, **given):
        asked.append(given)
        return "loaded"

    monkeypatch.setattr(models_tab, "model_info", info)
    monkeypatch.setattr(models_tab, "pipeline", load)
    models_tab._load_classifier.cache_clear()
    return asked


def test_a_classifier_of_a_visitor_is_loaded_without_the_servers_token(monkeypatch):
    sizes = {
        "model.safetensors": 346_000_000,
        "pytorch_model.bin": 346_000_000,
        "model.onnx": 10**9,
    }
    asked = _hub_says(monkeypatch, sizes)
    assert load_other("org/small", "normgrad") == "loaded"
    assert [one["token"] for one in asked] == [False, False]
    assert "local_files_only" not in asked[1]
    models_tab._load_classifier.cache_clear()


def test_a_classifier_too_large_is_refused_before_it_is_fetched(monkeypatch):
    sizes = {"model-1-of-2.safetensors": 300_000_000, "sub/model-2-of-2.safetensors": 300_000_000}
    asked = _hub_says(monkeypatch, sizes)
    with pytest.raises(ValueError, match="'org/large' has 600 MB of weights; at most 500 MB"):
        load_other("org/large", "normgrad")
    assert len(asked) == 1


def test_without_the_hub_only_what_is_here_is_loaded(monkeypatch):
    asked = _hub_says(monkeypatch, OfflineModeIsEnabled("offline"))
    assert load_other("org/cached", "normgrad") == "loaded"
    assert asked[1]["local_files_only"] is True
    models_tab._load_classifier.cache_clear()


# --- code, faults, looks ----------------------------------------------------------------------


def test_the_code_of_a_page_makes_its_map(normgrad_page, query, tmp_path):
    asked = with_settings(query, method="linear_approx", layer="blocks.10", meta_step=0.001)
    code = normgrad_page.code(asked).replace('"explained', f'"{tmp_path}/explained')
    exec(compile(code, "page", "exec"), {})
    expected, _ = normgrad_page.timed_explain(asked)
    assert np.allclose(np.load(tmp_path / "explained.npy"), expected.saliency, atol=1e-5)


def test_the_code_quotes_any_file_name():
    query = Query(Image.new("RGB", (8, 8)), "x", 'a "b" \\ c.jpg', None)
    code = pipeline_code("salhub/model", query, None, {})
    calls = []
    compile(code, "page", "exec")
    fake = type("S", (), {"pipeline": lambda name: lambda path: calls.append(path) or _Saved()})
    exec(code.replace("import salhub", ""), {"salhub": fake})
    assert calls == ['a "b" \\ c.jpg']


@pytest.mark.parametrize("label", ["cat\nimport os", "cat\r import os", "cat\u2028import\0 os"])
def test_a_label_starts_no_line_of_the_code(label):
    query = Query(Image.new("RGB", (8, 8)), "x", "sample:cat", 281)
    code = pipeline_code("salhub/model", query, label, {})
    assert "class_labels=281,  # cat import os" in code
    imports = [one for one in ast.walk(ast.parse(code)) if isinstance(one, ast.Import)]
    assert [alias.name for one in imports for alias in one.names] == ["salhub"]


def test_pictures_of_the_same_bytes_are_told_apart():
    wide, tall = (
        Query(Image.new("RGB", size, "white"), "", "") for size in [(200, 100), (100, 200)]
    )
    assert wide.image.tobytes() == tall.image.tobytes()
    assert wide.fingerprint != tall.fingerprint
    assert wide.fingerprint == Query(wide.image.copy(), "other", "other.png").fingerprint


def test_a_link_to_a_class_that_there_is_not_gets_a_notice(normgrad_page):
    assembly = PageAssembly(normgrad_page)
    assembly.build()
    updates = assembly._on_link("?sample=cat&class_label=123456789&other_class=123456789&tab=Map")
    by_name = {name: updates[one] for name, one in assembly.inputs.items() if one in updates}
    assert by_name["other_class"]["value"] is None
    assert "123456789" in updates[assembly.outputs["notice"]]["value"]


def test_pictures_are_kept_for_hours_and_not_for_days():
    assert build_page("normgrad").delete_cache == (3600, 7200)


class _Saved:
    def save(self, path):
        assert path.startswith("explained")


def test_our_own_sentences_are_passed_on_and_faults_are_logged(caplog):
    assert plain_sentence(ValueError("Too small; send more.")) == "Too small; send more."
    with caplog.at_level(logging.ERROR, logger="salhub.ui"):
        assert plain_sentence(KeyError("weights")) == OUR_FAULT
        assert plain_sentence(FileNotFoundError(2, "No such file", "/srv/secret")) == OUR_FAULT
    assert "KeyError" in caplog.text

    @plain_errors
    def broken():
        raise RuntimeError("/secret/path exploded")

    with pytest.raises(gr.Error) as caught:
        broken()
    assert caught.value.message == OUR_FAULT


def test_without_gradio_one_sentence_says_what_to_install(monkeypatch):
    import salhub.ui

    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'salhub\[demo\]'"):
        importlib.reload(salhub.ui)


def test_the_theme_loads_nothing_from_the_web():
    theme = salhub_theme()
    assert theme._stylesheets == []
    assert "http" not in page_head()


def test_a_launch_keeps_what_the_caller_asks_for(monkeypatch):
    asked = {}
    monkeypatch.setattr(gr.Blocks, "launch", lambda self, **given: asked.update(given))
    with gr.Blocks() as page:
        gr.Markdown("hello")
    launch(page, server_port=7999, show_error=False)
    assert (asked["server_port"], asked["show_error"], asked["ssr_mode"]) == (7999, False, False)
    assert page.analytics_enabled is False


def test_explaining_leaves_the_network_as_it_was(normgrad_page, query):
    model = normgrad_page.pipeline.model
    before = {name: one.clone() for name, one in model.named_parameters()}
    normgrad_page.timed_explain(with_settings(query, meta_step=0.005, method="guided_backprop"))
    assert all(torch.equal(one, before[name]) for name, one in model.named_parameters())
    assert not any(one._forward_hooks for one in model.modules())
