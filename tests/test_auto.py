"""Finding a class for a name, and registration with transformers."""

import json
import os

import pytest

from salhub.auto import AutoModelForSaliency
from salhub.entries import METHODS, method_of
from salhub.errors import UnknownNameError
from tests.machine import Machine


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_names_follow_from_the_folder(method):
    assert method.config_class.model_type == method.model_type == f"salhub_{method.name}"
    assert method.model_class.config_class is method.config_class


def test_an_unknown_method_names_the_near_ones():
    with pytest.raises(UnknownNameError, match="Did you mean 'normgrad'"):
        method_of("normgrd")


def test_a_foreign_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UnknownNameError, match="'vit' is no method of salhub"):
        AutoModelForSaliency.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnknownNameError, match="no model_type"):
        AutoModelForSaliency.from_pretrained(tmp_path)


def test_the_auto_class_is_not_built_directly():
    with pytest.raises(OSError, match="from_pretrained"):
        AutoModelForSaliency()


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
    ],
)
def test_transformers_knows_our_classes_in_whatever_order_things_are_imported(
    imports, machine, tmp_path
):
    code = f"""{imports}
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY
config = AutoConfig.for_model("salhub_efficientnet_lite", image_size=32)
assert type(config) in IMAGE_PROCESSOR_MAPPING
print(type(AutoModelForImageClassification.from_config(config)).__name__)
print("image-saliency" in PIPELINE_REGISTRY.get_supported_tasks())
"""
    run = machine.run(code, folder=tmp_path, environment=os.environ)
    assert run.stdout.split() == ["EfficientNetLiteForImageClassification", "True"], run.stderr
