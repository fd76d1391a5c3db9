"""Configurations: strict, helpful, and compatible with what transformers writes."""

import dataclasses
import json
import math
import re
from typing import Literal

import pytest
from transformers import ResNetConfig, ViTConfig

from salhub.backbones.cifar_resnet.configuration_cifar_resnet import CifarResNetConfig
from salhub.backbones.conditional_unet.configuration_conditional_unet import ConditionalUNetConfig
from salhub.backbones.efficientnet_lite.configuration_efficientnet_lite import (
    EfficientNetLiteConfig,
)
from salhub.backbones.text_classifier.configuration_text_classifier import TextClassifierConfig
from salhub.configuration import SaliencyConfig, strict
from salhub.entries import MODELS
from salhub.errors import UnknownNameError
from salhub.explaining.configuration_explained_classifier import (
    ExplainedClassifierConfig,
)
from salhub.models.normgrad.configuration_normgrad import NormGradConfig
from salhub.models.normgrad.modeling_normgrad import NormGradForImageSaliency


def test_unknown_keys_are_refused_with_the_nearest_field():
    with pytest.raises(ValueError, match=r"no field 'image_sise'\. Did you mean 'image_size'"):
        EfficientNetLiteConfig(image_sise=64)


def test_overrides_when_loading_pass_the_same_checks(tmp_path):
    EfficientNetLiteConfig().save_pretrained(tmp_path)
    assert EfficientNetLiteConfig.from_pretrained(tmp_path, image_size=96).image_size == 96
    with pytest.raises(ValueError, match="image_size must be at least 1"):
        EfficientNetLiteConfig.from_pretrained(tmp_path, image_size=-1)


def test_unknown_keys_in_a_file_are_refused(tmp_path):
    EfficientNetLiteConfig().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "depht": 3}))
    with pytest.raises(ValueError, match="no field 'depht'"):
        EfficientNetLiteConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "legacy", [{"torch_dtype": "float32"}, {"use_cache": True}, {"transformers_version": "4.0"}]
)
def test_keys_of_older_saves_are_accepted(legacy):
    EfficientNetLiteConfig(**legacy)


def test_wrong_types_are_refused_at_construction_and_on_assignment():
    with pytest.raises(Exception, match="image_size"):
        EfficientNetLiteConfig(image_size="224")
    config = EfficientNetLiteConfig()
    with pytest.raises(Exception, match="image_size"):
        config.image_size = "224"


def test_rules_between_values_are_checked():
    with pytest.raises(ValueError, match=r"at least 0 and below 1, got 1\.5"):
        EfficientNetLiteConfig(dropout_rate=1.5)
    with pytest.raises(ValueError, match="image_size must be at least 1"):
        EfficientNetLiteConfig(image_size=0)


@pytest.mark.parametrize(
    ("variant", "blocks", "size"), [("lite0", 16, 224), ("lite1", 21, 240), ("lite2", 21, 260)]
)
def test_published_variants(variant, blocks, size):
    config = EfficientNetLiteConfig.for_variant(variant)
    assert (len(config.block_specifications), config.image_size) == (blocks, size)


def test_an_unknown_variant_names_the_known_ones():
    with pytest.raises(UnknownNameError, match="choose one of lite0, lite1, lite2"):
        EfficientNetLiteConfig.for_variant("lite9")


@pytest.mark.parametrize("backbone", [ViTConfig(hidden_size=16), ResNetConfig(depths=[1, 1, 1, 1])])
def test_a_nested_configuration_survives_a_round_trip(tmp_path, backbone):
    ExplainedClassifierConfig(backbone_config=backbone).save_pretrained(tmp_path)
    loaded = ExplainedClassifierConfig.from_pretrained(tmp_path)
    assert type(loaded.backbone_config) is type(backbone)
    assert loaded.backbone_config.to_dict() == backbone.to_dict()


def test_a_nested_configuration_without_a_type_is_refused():
    with pytest.raises(ValueError, match="no 'model_type'"):
        ExplainedClassifierConfig(backbone_config={"hidden_size": 3})


def test_a_value_of_no_accepted_type_is_one_plain_sentence():
    with pytest.raises(TypeError) as caught:
        EfficientNetLiteConfig(dropout_rate="nan")
    assert str(caught.value) == "Field 'dropout_rate' expected one of float, int; got 'nan'."


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"side": "lefft"},
            r"side must be one of left, right, got 'lefft'\. Did you mean 'left'",
        ),
        ({"side": None}, "side must be one of left, right, got None"),
        ({"fill": 3}, "fill must be one of black, white or None, got 3"),
    ],
)
def test_a_field_of_words_takes_these_alone(settings, message):
    @strict
    class SidedConfig(SaliencyConfig):
        side: Literal["left", "right"] = "left"
        fill: Literal["black", "white"] | None = None

    assert SidedConfig(fill="white", side="right").fill == "white"
    with pytest.raises(ValueError, match=message):
        SidedConfig(**settings)
    config = SidedConfig()
    [(name, value)] = settings.items()
    with pytest.raises(ValueError, match=message):
        setattr(config, name, value)


BACKBONES = {
    CifarResNetConfig, ConditionalUNetConfig, EfficientNetLiteConfig, TextClassifierConfig,
}  # fmt: skip
BEYOND = [math.nan, math.inf, -math.inf, 1e308, -1, 10**400]


def ranged_fields():
    methods = {entry.config_class for entry in MODELS.values() if entry.is_ours}
    for config in methods | BACKBONES:
        for field in dataclasses.fields(config):
            is_number = re.search(r"\b(int|float)\b", str(field.type))
            if is_number and field.name in config.field_names():
                yield config, field


@pytest.mark.parametrize("value", BEYOND, ids=lambda one: f"{one!r:.9}")
def test_numbers_beyond_all_use_are_refused_by_the_name_of_their_field(value):
    tried = set()
    for config, field in ranged_fields():
        values = [value, [value, value]] if "list" in str(field.type) else [value]
        for one in values:
            with pytest.raises((ValueError, TypeError)) as caught:
                config(**{field.name: one})
            said = str(caught.value)
            assert field.name in said and len(said) < 300, (config.__name__, field.name, said)
        tried.add(config)
    assert len(tried) >= 9


@pytest.mark.parametrize("size", [(10**6, 10**6), (0, 4), (-3, 4)])
def test_a_map_has_sides_that_fit_in_memory(size):
    with pytest.raises(ValueError, match=r"output_size .*at most") as caught:
        NormGradConfig(output_size=size)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("given", [dict, ViTConfig.from_dict])
def test_an_activation_that_there_is_not_is_named(given):
    fields = {"model_type": "vit", "hidden_act": "gellu"}
    with pytest.raises(ValueError, match=r"hidden_act in backbone_config .*'gellu'\. Did you mean"):
        NormGradForImageSaliency(NormGradConfig(backbone_config=given(fields)))
