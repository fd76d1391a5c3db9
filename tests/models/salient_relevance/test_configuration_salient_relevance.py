import pytest

from salhub.models.salient_relevance.configuration_salient_relevance import SalientRelevanceConfig
from salhub.models.salient_relevance.rules import PRESETS


def test_every_preset_can_be_configured():
    for preset in PRESETS:
        config = SalientRelevanceConfig(preset=preset)
        assert config.image_kind == ("abs_rgb" if preset == "sr_reference" else "pos_sum")
        assert config.image_levels == (256 if preset == "sr_reference" else 0)


def test_layer_types_can_be_overridden_one_by_one():
    config = SalientRelevanceConfig(
        preset="epsilon_plus", first_rule="flat", convolution_rule="alpha_beta", alpha=3, beta=2
    )
    rules = config.rules
    labels = (rules.first.label, rules.convolution.label, rules.linear.label)
    assert labels == ("flat", "alpha3beta2", "epsilon")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "deep_tailor"}, "Did you mean 'deep_taylor'"),
        ({"first_rule": "zbox"}, "Did you mean 'z_box'"),
        ({"linear_rule": "z_box"}, "only pixels have bounds"),
        ({"alpha": 2.0, "beta": 2.0}, "alpha - beta must be 1"),
        ({"alpha": 2.0, "beta": 1.0}, "has no effect"),
        ({"epsilon": 0.0}, "epsilon must be at least 1e-30"),
        ({"gamma": -1.0}, "gamma must be"),
        ({"bias_relevance": "absorbed"}, "Did you mean 'absorb'"),
        ({"start": "logits"}, "Did you mean 'logit'"),
        ({"contrast": "other"}, "Did you mean 'others'"),
        ({"contrast": "others", "start": "softmax_contrast"}, "use one of them"),
        ({"relevance_image": "abs"}, "relevance_image must be one of"),
        ({"relevance_levels": 1}, "relevance_levels must be 0 or from 2"),
        ({"input_low": [0.0]}, "must both be given"),
        ({"input_low": [0.0], "input_high": [1.0, 1.0]}, "one number per channel"),
        ({"input_low": [1.0], "input_high": [1.0]}, "input_low must be below"),
        ({"context_patch_size": 0}, "context_patch_size must be at least 1"),
        ({"context_neighbors": 0}, "context_neighbors must be at least 1"),
        ({"context_max_side": 4}, "context_max_side must be None or at least 7"),
        ({"context_scales": []}, "context_scales must be one or more"),
        ({"context_query_scales": [2.0]}, "must all be above 0 and at most 1"),
        ({"context_scales": [0.1]}, "no scale reaches context_min_scale"),
        ({"context_position_weight": -1.0}, "context_position_weight must be at least 0"),
        ({"foci_threshold": 1.0}, "foci_threshold must be at least 0 and below 1"),
    ],
)
def test_settings_that_cannot_be_used_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        SalientRelevanceConfig(**settings)
