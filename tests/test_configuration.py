"""Configurations: strict, helpful, and compatible with what transformers writes."""

import json
from typing import Literal

import pytest
from transformers import ResNetConfig, ViTConfig

from salhub.backbones.efficientnet_lite.configuration_efficientnet_lite import (
    EfficientNetLiteConfig,
)
from salhub.configuration import SaliencyConfig, strict
from salhub.errors import UnknownNameError
from salhub.explaining.configuration_explained_classifier import (
    ExplainedClassifierConfig,
)


def test_unknown_keys_are_refused_with_the_nearest_field():
    with pytest.raises(ValueError, match=r"no field 'image_sise'\. Did you mean 'image_size'"):
        EfficientNetLiteConfig(image_sise=64)


def test_overrides_when_loading_pass_the_same_checks(tmp_path):
    EfficientNetLiteConfig().save_pretrained(tmp_path)
    assert EfficientNetLiteConfig.from_pretrained(tmp_path, image_size=96).image_size == 96
    with pytest.raises(ValueError, match="image_size must be positive"):
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
    with pytest.raises(ValueError, match=r"in \[0, 1\), got 1.5"):
        EfficientNetLiteConfig(dropout_rate=1.5)
    with pytest.raises(ValueError, match="image_size must be positive"):
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
