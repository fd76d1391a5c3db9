"""`method` fills the fields, explicit ones win, contradictions are refused."""

import pytest
from transformers import ResNetConfig

from salhub.models.normgrad.configuration_normgrad import NormGradConfig
from salhub.models.normgrad.methods import METHODS, method_of


@pytest.mark.parametrize("name", METHODS)
def test_a_method_fills_what_is_not_given(name):
    recipe, method = NormGradConfig(method=name).recipe, METHODS[name]
    assert recipe == method


def test_explicit_fields_win():
    recipe = NormGradConfig(method="norm_grad", extract="conv3x3", aggregate="max").recipe
    assert (recipe.extract, recipe.aggregate) == ("conv3x3", "max")
    assert NormGradConfig(method="linear_approx", relu_rule="guided").recipe.relu_rule == "guided"
    own = NormGradConfig(virtual_identity=False, aggregate="sum").recipe
    assert (own.virtual_identity, own.layer, own.aggregate) == (False, "convolution", "sum")


def test_a_pair_is_a_method_without_a_name():
    method = method_of(("conv3x3", "max"))
    assert (method.name, method.extract, method.aggregate) == ("conv3x3/max", "conv3x3", "max")
    with pytest.raises(ValueError, match="Did you mean 'conv3x3'"):
        method_of(("conv3", "max"))
    with pytest.raises(TypeError, match="a name or an \\(extract, aggregate\\) pair"):
        method_of(3)


def test_round_trip_keeps_what_was_given(tmp_path):
    config = NormGradConfig(
        backbone_config=ResNetConfig(num_labels=3),
        method="grad_cam",
        layers=("a", "b"),
        layer_weights=(1, 2.5),
        output_size=(7, 9),
        meta_step=1e-3,
        meta_negate=True,
        smooth_sigma=0.02,
        normalize="minmax",
    )
    config.save_pretrained(tmp_path)
    loaded = NormGradConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert (loaded.layers, loaded.layer_weights) == (["a", "b"], [1, 2.5])
    assert NormGradConfig.from_pretrained(tmp_path, method="hires_cam").recipe.name == "hires_cam"


def test_another_method_than_the_saved_one_finds_its_own_layers(tmp_path):
    NormGradConfig(layers=["a", "b"], layer_weights=[1, 2]).save_pretrained(tmp_path)
    other = NormGradConfig.from_pretrained(tmp_path, method="grad_cam")
    assert (other.layers, other.layer_weights) == (None, None)
    same = NormGradConfig.from_pretrained(tmp_path, method="norm_grad", product_eps=0.1)
    assert (same.layers, same.layer_weights) == (["a", "b"], [1, 2])
    given = NormGradConfig.from_pretrained(tmp_path, method="grad_cam", layers=["c"])
    assert (given.layers, given.layer_weights) == (["c"], None)
    # Without a method in the file it is the default one.
    assert NormGradConfig.from_dict({"layers": ["a"]}, method="norm_grad").layers == ["a"]


def test_another_method_than_the_saved_one_drops_what_was_set_beside_it(tmp_path):
    NormGradConfig(method="linear_approx", aggregate="max", relu_rule="guided").save_pretrained(
        tmp_path
    )
    for name in ("norm_grad", "grad_cam"):
        assert NormGradConfig.from_pretrained(tmp_path, method=name).recipe == METHODS[name]
    given = NormGradConfig.from_pretrained(tmp_path, method="norm_grad", aggregate="sum")
    assert given.recipe.aggregate == "sum"


def test_other_layers_than_the_saved_ones_drop_their_weights(tmp_path):
    NormGradConfig(layers=["a", "b"], layer_weights=[1, 2]).save_pretrained(tmp_path)
    for layers in (None, ["c"]):
        loaded = NormGradConfig.from_pretrained(tmp_path, layers=layers)
        assert (loaded.layers, loaded.layer_weights) == (layers, None)


def test_one_layer_may_be_a_plain_string():
    assert NormGradConfig(layers="blocks.3").layers == ["blocks.3"]


def test_weighting_follows_from_the_weights():
    assert NormGradConfig().weighting == "uniform"
    assert NormGradConfig(layers=["a"], layer_weights=[1.0]).weighting == "custom"
    assert NormGradConfig(layer_weighting="linear").weighting == "linear"


BAD = {
    "an unknown method": ({"method": "norm_gard"}, "Did you mean 'norm_grad'"),
    "an unknown extract": ({"extract": "conv2x2"}, "extract must be one of"),
    "an unknown aggregate": ({"aggregate": "nrom"}, "Did you mean 'norm'"),
    "an unknown rule": ({"relu_rule": "gided"}, "Did you mean 'guided'"),
    "a changed definition": (
        {"method": "grad_cam", "extract": "bias"},
        "'grad_cam' is defined by extract='scaling', got 'bias'",
    ),
    "cam with an aggregate": ({"method": "cam", "aggregate": "norm"}, "defined by aggregate="),
    "cam with a rule": ({"method": "cam", "relu_rule": "guided"}, "cam' uses no gradient"),
    "two rules": (
        {"method": "deconvnet", "relu_rule": "guided"},
        "defined by relu_rule='deconvnet', got 'guided'",
    ),
    "proper and virtual": (
        {"method": "norm_grad_proper", "virtual_identity": True},
        "contradicts virtual_identity=True",
    ),
    "own convolution of the bias": (
        {"method": "gradient_sum", "virtual_identity": False},
        "choose method='norm_grad'",
    ),
    "own convolution and another": (
        {"virtual_identity": False, "extract": "conv3x3"},
        "extract='conv3x3' contradicts",
    ),
    "no layers": ({"layers": []}, "at least one layer"),
    "an empty name": ({"layers": [""]}, "at least one layer"),
    "a layer twice": ({"layers": ["a", "a"]}, "names a layer twice"),
    "weights without layers": ({"layer_weights": [1.0]}, "needs layers"),
    "too few weights": ({"layers": ["a", "b"], "layer_weights": [1]}, "one number per layer"),
    "a negative weight": ({"layers": ["a"], "layer_weights": [-1]}, "must all be at least 0"),
    "weights and a weighting": (
        {"layers": ["a"], "layer_weights": [1], "layer_weighting": "linear"},
        "layer_weights contradicts layer_weighting='linear'",
    ),
    "custom without weights": ({"layer_weighting": "custom"}, "needs layer_weights"),
    "a weighted plain product": (
        {"combine": "plain_product", "layer_weighting": "linear"},
        "does not support layer weights",
    ),
    "an unknown weighting": ({"layer_weighting": "linaer"}, "Did you mean 'linear'"),
    "an unknown combination": ({"combine": "prodcut"}, "Did you mean 'product'"),
    "an offset in a sum": ({"combine": "sum", "product_eps": 0.1}, "no effect with combine='sum'"),
    "a negative offset": ({"product_eps": -0.1}, "product_eps must be at least 0"),
    "a negative step": ({"meta_step": -1.0}, "meta_step must be at least 0"),
    "an endless step": ({"meta_step": 1e308}, "at most 1,000, got 1e\\+308"),
    "a direction without a step": ({"meta_negate": True}, "needs meta_step above 0"),
    "an unknown size": ({"output_size": "big"}, "'input', 'native' or"),
    "an empty size": ({"output_size": (0, 4)}, "must all be at least 1"),
    "three sides": ({"output_size": [3, 4, 5]}, "'input', 'native' or"),
    "an unknown scale": ({"normalize": "zscore"}, "normalize must be one of minmax"),
    "smoothing in pixels": ({"smooth_sigma": 4.5}, "fraction of the map's longer side"),
    "a number for a name": ({"method": 3}, "method"),
    "a text for a number": ({"meta_step": "1e-3"}, "meta_step"),
}


@pytest.mark.parametrize("case", BAD)
def test_contradictions_are_refused(case):
    fields, sentence = BAD[case]
    with pytest.raises((ValueError, TypeError), match=sentence):
        NormGradConfig(**fields)


def test_a_misspelt_field_is_refused():
    with pytest.raises(ValueError, match="Did you mean 'meta_step'"):
        NormGradConfig(meta_stp=0.1)


def test_the_help_of_the_method_names_every_method():
    assert all(f'"{name}"' in NormGradConfig.__doc__ for name in METHODS)
