"""Finding a class for a name, and registration with transformers."""

import copy
import json
import os
import pickle

import pytest
from transformers import AutoConfig, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import get_default_model_and_revision

from salhub import LexRankConfig, LexRankModel, hub, hub_reach
from salhub.auto import AutoModelForSaliency
from salhub.entries import METHODS, MODELS, TASKS, entry_of, find_entry
from salhub.errors import ModelNotFoundError, UnknownNameError, UnknownSettingError
from salhub.hub import read_config
from salhub.manifest import read_manifest
from tests.machine import Machine


@pytest.mark.parametrize("entry", MODELS.values(), ids=lambda entry: entry.name)
def test_names_follow_from_the_folder(entry):
    assert entry.config_class.model_type == entry.model_type
    assert entry.model_class.config_class is entry.config_class
    assert (entry.model_type == f"salhub_{entry.name}") is entry.is_ours


@pytest.mark.parametrize("name", METHODS)
def test_the_main_kind_of_model_is_called_like_its_method(name):
    assert MODELS[name].method == name
    assert entry_of(METHODS[name].default) is MODELS[name]


@pytest.mark.parametrize("name", read_manifest())
def test_shipped_models_say_of_which_method_they_are(name):
    entry = entry_of(name)
    assert entry.method == read_manifest()[name].method
    assert entry_of(hub.load(AutoConfig, f"salhub/{name}")) is entry
    # A configuration of transformers' own says it only where it says how it is quantized.
    if entry.is_ours:
        assert entry_of(read_config(f"salhub/{name}")) is entry


def test_a_method_may_have_several_kinds_of_model():
    salun = [entry.name for entry in MODELS.values() if entry.method == "salun"]
    assert salun == ["salun", "salun_diffusion"]
    named = find_entry("salun-diffusion")
    assert named == ("salhub/salun-ddpm-mnist", MODELS["salun_diffusion"])
    assert find_entry("salun") == ("salhub/salun-resnet8-cifar10", MODELS["salun"])


def test_a_shipped_model_needs_no_namespace():
    for load in (AutoModelForSaliency.from_pretrained, LexRankModel.from_pretrained):
        assert load("lexrank-news-en").config.name_or_path == "salhub/lexrank-news-en"
    assert LexRankConfig.from_pretrained("lexrank-news-en").vocab_size > 0
    assert read_config("lexrank-news-en") == read_config("salhub/lexrank-news-en")
    assert type(hub.load(AutoConfig, "lexrank-news-en")) is LexRankConfig


def test_a_network_by_itself_is_no_method():
    with pytest.raises(
        UnknownNameError, match="' is a network, not a method; give the name of a method and"
    ):
        find_entry("efficientnet-lite0")
    with pytest.raises(
        UnknownNameError, match="' is a network, not a method; give the name of a method and"
    ):
        AutoModelForSaliency.from_pretrained("salhub/efficientnet-lite0")


def test_a_foreign_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UnknownNameError, match="is a model of type 'vit', which salhub does not"):
        AutoModelForSaliency.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnknownNameError, match="no model_type"):
        AutoModelForSaliency.from_pretrained(tmp_path)


def test_the_auto_class_is_not_built_directly():
    with pytest.raises(OSError, match="from_pretrained"):
        AutoModelForSaliency()


def pickled(mapping):
    return pickle.loads(pickle.dumps(mapping))


def own_copy(mapping):
    return mapping.copy()


@pytest.mark.parametrize("copied", [dict, copy.copy, copy.deepcopy, pickled, own_copy])
def test_what_is_registered_gives_classes_however_it_is_read(copied):
    config, model = MODELS["lexrank"].config_class, MODELS["lexrank"].model_class
    models = AutoModel._model_mapping._extra_content
    task = PIPELINE_REGISTRY.supported_tasks["image-saliency"]
    for mapping in (models, copied(models)):
        assert mapping[config] is mapping.get(config) is {**mapping}[config] is model
        assert (config, model) in mapping.items() and model in mapping.values()
    for mapping in (task, copied(task)):
        assert mapping["impl"] is mapping.get("impl") is TASKS["image-saliency"].pipeline_class
    assert task.get("none") is None


@pytest.fixture(scope="module")
def machine():
    """Processes in which neither transformers nor salhub was imported."""
    return Machine(os.environ, preload=False)


@pytest.mark.parametrize(
    "imports",
    [
        "import salhub; from transformers import AutoModel",
        "from transformers import AutoModel; AutoModel; import salhub",
        "import salhub, transformers.modeling_utils",
        "import salhub; from transformers import pipeline",
        "import salhub; from transformers import AutoImageProcessor, ViTModel",
        "import salhub, salhub.quantization.quantizer",
    ],
)
def test_transformers_knows_our_classes_in_whatever_order_things_are_imported(
    imports, machine, tmp_path
):
    # The pipelines import what they run.
    pipelines = "early" if "pipeline" in imports else ""
    code = f"""import sys
{imports}
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification
early = [name for name in sys.modules if name.startswith(("salhub.models.", "salhub.backbones."))]
assert {pipelines or "not any('.modeling_' in name for name in early), early"}
from transformers import AutoImageProcessor
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import get_default_model_and_revision
config = AutoConfig.for_model("salhub_efficientnet_lite", image_size=32)
assert type(config) in IMAGE_PROCESSOR_MAPPING
print(type(AutoModelForImageClassification.from_config(config)).__name__)
print("image-saliency" in PIPELINE_REGISTRY.get_supported_tasks())
"""
    run = machine.run(code, folder=tmp_path, environment=os.environ)
    assert run.stdout.split() == ["EfficientNetLiteForImageClassification", "True"], run.stderr


def test_a_task_of_ours_has_a_default_model_in_transformers():
    for name, model in (
        ("image-saliency", "salhub/normgrad-efficientnet-lite0"),
        ("extractive-summarization", "salhub/lexrank-news-en"),
        ("image-generation", "salhub/salun-ddpm-mnist"),
        ("saliency-verbalization", "salhub/verbalizer-movie-reviews"),
    ):
        task = PIPELINE_REGISTRY.supported_tasks[name]
        assert get_default_model_and_revision(task, None) == (model, "main")
        assert find_entry(model)[1].task == name


def test_a_word_that_nobody_knows_is_refused_without_asking_the_hub(monkeypatch):
    monkeypatch.setattr(
        "salhub.hub.read_config",
        lambda *_, **__: pytest.fail("was asked"),
    )
    for load in (AutoModelForSaliency.from_pretrained, entry_of, find_entry):
        with pytest.raises(ModelNotFoundError, match="Did you mean 'gradcam-efficientnet-lite0'"):
            load("gradcam")


def test_a_shipped_name_is_never_suggested_for_itself():
    sentence = hub_reach.missing_message("salhub/normgrad-efficientnet-lite0")
    assert (
        "Did you mean" not in sentence
        and "leave them out to load the version shipped with salhub, revision" in sentence
    )
    sentence = hub_reach.missing_message("salhub/normgrad-efficientnet-lite9")
    assert "Did you mean 'normgrad-efficientnet-lite0'" in sentence


def test_that_the_hub_was_not_asked_is_said(monkeypatch):
    for offline, why in ((True, "HF_HUB_OFFLINE is set"), (False, "private or unreachable")):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        for name in ("somebody/unknown", "salhub/normgrad-efficientnet-lite0"):
            assert why in hub_reach.missing_message(name)


def test_a_setting_that_nobody_takes_is_named_with_the_nearest():
    for load in (AutoModelForSaliency.from_pretrained, LexRankModel.from_pretrained):
        with pytest.raises(UnknownSettingError, match=r"no setting 'treshold'.*'threshold'"):
            load("lexrank-news-en", treshold=0.1)
