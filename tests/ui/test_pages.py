"""What the pages are made of, without a server."""

import importlib
import logging
import sys
from types import SimpleNamespace

import gradio as gr
import pytest
import torch
from huggingface_hub.errors import OfflineModeIsEnabled
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import salhub
from salhub.entries import METHODS, MODELS, Method, Model
from salhub.errors import MissingExtraError, UnknownNameError
from salhub.models.normgrad import page_normgrad
from salhub.ui import build_gallery, build_page, gallery, launch, model_comparison
from salhub.ui.gallery import page_class
from salhub.ui.image_classification import ImageClassificationPage
from salhub.ui.image_saliency import ImageSaliencyPage
from salhub.ui.launching import page_head, salhub_theme
from salhub.ui.model_comparison import load_other
from salhub.ui.page import OUR_FAULT, Page, plain_sentence
from salhub.ui.picture_page import Query
from tests import small_llama

VISIBLE_CONTROLS = (gr.Dropdown, gr.Radio, gr.Slider, gr.Checkbox, gr.Textbox, gr.Image)


# --- which page -------------------------------------------------------------------------------


def test_a_method_without_a_page_of_its_own_gets_that_of_its_task():
    toy = Model("toy", "toy", "image-saliency", "ToyConfig", "Toy")
    assert page_class("toy", toy) is ImageSaliencyPage
    assert page_class("normgrad-efficientnet-lite0", MODELS["normgrad"]) is page_normgrad.Page


def test_models_that_a_page_does_not_serve_get_that_of_their_task():
    salun = MODELS["salun"]
    assert page_class("salhub/salun-resnet8-cifar10-original", salun) is ImageClassificationPage
    assert page_class("salhub/salun-resnet8-cifar10", salun) is not ImageClassificationPage


def test_a_classifier_by_itself_is_shown_by_a_method_that_explains_it(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "my-network"
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    page = build_page(folder)
    assert page.title == "NormGrad" and "The network is my-network." in str(page.config)
    assert f'classifier="{folder}"' in _program(page)
    other = build_page("salient-relevance", str(folder))
    assert other.title == "Salient Relevance"
    assert f'"salient_relevance",\n    classifier="{folder}"' in _program(other)
    with pytest.raises(ValueError, match="The method 'lexrank' does not explain"):
        build_page("lexrank", str(folder))
    writer = small_llama.save(tmp_path / "writer")
    with pytest.raises(ValueError, match="/writer' does not explain classifiers; leave"):
        build_page(writer, str(folder))


def test_a_classifier_of_texts_is_shown_by_the_page_of_texts(tmp_path):
    explain = salhub.pipeline("verbalizer-movie-reviews")
    explain.model.backbone.save_pretrained(tmp_path / "mine")
    explain.tokenizer.save_pretrained(tmp_path / "mine")
    page = build_page(tmp_path / "mine")
    assert page.title == "Saliency verbalizer"
    assert f'classifier="{tmp_path / "mine"}"' in _program(page)


def _program(page) -> str:
    return "\n".join(
        one.value for one in page.blocks.values() if isinstance(one, gr.Code) and one.value
    )


def test_a_task_without_a_page_says_what_works(monkeypatch):
    sentences = {
        "image-generation": r"'image-generation' have no page yet.*salhub run",
        "telepathy": "', for which salhub has no pipeline; load it with",
    }
    for task, sentence in sentences.items():
        toy = Model("toy", "toy", task, "ToyConfig", "Toy")
        monkeypatch.setattr(gallery, "network_entry", lambda name: None)
        monkeypatch.setattr(gallery, "find_entry", lambda name, classifier, toy=toy: (name, toy))
        with pytest.raises(UnknownNameError, match=sentence):
            build_page("toy")
    assert page_class("toy", Model("toy", "toy", "image-generation", "", "")) is None


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
    monkeypatch.setitem(METHODS, "toy", Method("toy", "arXiv:0000.00000", "toy-model"))
    blocks = build_gallery()
    titles = [title for _, title, _ in blocks.pages]
    assert titles[1] == "NormGrad" and {"EditIQ", "SDL-Seg", "SalUn"} < set(titles)
    # All but the toy have one, and the first shows all of them.
    assert len(set(titles)) == len(titles) == len(METHODS)
    names = {one.api_name for one in blocks.fns.values()}
    assert {"normgrad", "salient_relevance", "classify", "nvit", "disa", "slim_llm"} <= names
    with pytest.raises(ValueError, match="at least one page"):
        build_gallery({})


def test_pages_of_a_task_side_by_side_keep_their_endpoints_apart():
    names = ("salun-resnet8-cifar10-original", "salun-resnet8-cifar10-retrained")
    blocks = build_gallery({name: build_page(name) for name in names})
    public = [one.api_name for one in blocks.fns.values() if one.api_visibility == "public"]
    assert public == ["classify", "salun-resnet8-cifar10-retrained"]


# --- two models -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "/etc", "../weights", "a/../b", "resnet", "http://host/model", "a/b/c", "a b/c"]
)
def test_only_names_of_models_are_loaded(name):
    with pytest.raises(ValueError, match="' is not a model; choose one from the list, or type the"):
        load_other(name, "normgrad")


def test_a_folder_of_the_server_is_not_a_model(tmp_path, monkeypatch):
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="' is not a model; choose one from the list, or type the"):
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

    monkeypatch.setattr(model_comparison, "model_info", info)
    monkeypatch.setattr(model_comparison, "pipeline", load)
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


def test_a_classifier_too_large_is_refused_before_it_is_fetched(monkeypatch):
    sizes = {"model-1-of-2.safetensors": 300_000_000, "sub/model-2-of-2.safetensors": 300_000_000}
    asked = _hub_says(monkeypatch, sizes)
    with pytest.raises(
        ValueError,
        match="The image classifier 'org/large' has 600 MB of weights; the limit on this page is",
    ):
        load_other("org/large", "normgrad")
    assert len(asked) == 1


def test_without_the_hub_only_what_is_here_is_loaded(monkeypatch):
    asked = _hub_says(monkeypatch, OfflineModeIsEnabled("offline"))
    assert load_other("org/cached", "normgrad") == "loaded"
    assert asked[1]["local_files_only"] is True


# --- code, faults, looks ----------------------------------------------------------------------


def test_pictures_of_the_same_bytes_are_told_apart():
    wide, tall = (
        Query(Image.new("RGB", size, "white"), "", "") for size in [(200, 100), (100, 200)]
    )
    assert wide.image.tobytes() == tall.image.tobytes()
    assert wide.fingerprint != tall.fingerprint
    assert wide.fingerprint == Query(wide.image.copy(), "other", "other.png").fingerprint


def test_pictures_are_kept_for_hours_and_not_for_days():
    assert build_page("normgrad").delete_cache == (3600, 7200)


def test_our_own_sentences_are_passed_on_and_faults_are_logged(caplog):
    assert plain_sentence(ValueError("Too small; send more.")) == "Too small; send more."
    with caplog.at_level(logging.ERROR, logger="salhub.ui"):
        assert plain_sentence(KeyError("weights")) == OUR_FAULT
        assert plain_sentence(FileNotFoundError(2, "No such file", "/srv/secret")) == OUR_FAULT
    assert "KeyError" in caplog.text

    def broken():
        raise RuntimeError("/secret/path exploded")

    with pytest.raises(gr.Error) as caught:
        Page("toy", MODELS["normgrad"])._guarded(broken)()
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
