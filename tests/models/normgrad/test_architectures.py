"""Networks of transformers, tiny and random: the same settings work on all of them."""

import pytest
import torch
import transformers

from salhub.models.normgrad.methods import METHODS
from salhub.models.normgrad.modeling_normgrad import NormGradForImageSaliency
from tests.models.normgrad.networks import FAMILIES, TINY_TRANSFORMER, family

RECTIFIED = ("resnet", "mobilenet_v2")
AVERAGED = ("resnet", "mobilenet_v2", "swin")
LABELS = torch.tensor([[0, 4, 2], [1, 1, 3]])


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 64, 64)


def explain(network, **settings):
    return NormGradForImageSaliency.from_classifier(network, **settings)


def folded(values, grid):
    """A layer's values as (B, K, H, W), written out for these six families."""
    if values.ndim == 4:
        return values
    patches = values[:, values.shape[1] - grid[0] * grid[1] :]
    return patches.transpose(1, 2).reshape(len(values), -1, *grid)


def plain_activation_and_gradient(network, name, pixels, labels):
    kept = []

    def keep(module, args, output):
        kept.append(output[0] if isinstance(output, tuple) else output)

    handle = network.get_submodule(name).register_forward_hook(keep)
    score = network(pixels).logits.gather(1, labels[:, None]).sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, kept[0])
    return kept[0].detach(), gradient


@pytest.mark.parametrize("name", FAMILIES)
def test_default_layer_and_its_normgrad_by_the_formula(name, pixels):
    network = family(name)
    _, layer, grid = FAMILIES[name]
    output = explain(network, output_size="native")(pixels, LABELS[:, 0])
    assert output.saliency.shape == (2, *grid)
    x, g = plain_activation_and_gradient(network, layer, pixels, LABELS[:, 0])
    expected = folded(x, grid).norm(dim=1) * folded(g, grid).norm(dim=1)
    assert expected.max() > 0
    assert (output.saliency - expected).abs().max() <= 1e-5 * expected.max()
    assert explain(network)(pixels).saliency.shape == (2, 64, 64)


@pytest.mark.parametrize("name", FAMILIES)
def test_batches_and_classes(name, pixels):
    model = explain(family(name), method="norm_grad_selective", normalize="minmax")
    together = model(pixels, LABELS)
    assert together.saliency.shape == (2, 3, 64, 64)
    for index in range(2):
        alone = model(pixels[index : index + 1], LABELS[index : index + 1])
        torch.testing.assert_close(
            alone.saliency[0], together.saliency[index], rtol=1e-4, atol=1e-5
        )
    for column in range(3):
        alone = model(pixels, LABELS[:, column])
        torch.testing.assert_close(
            alone.saliency, together.saliency[:, column], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_several_classes_go_backward_together(name, pixels, monkeypatch):
    def refuse(*_):
        raise AssertionError("the classes were taken one by one")

    model = explain(family(name))
    model(pixels)  # the probe for the default layer goes backward once by itself
    monkeypatch.setattr("salhub.models.normgrad.class_scores._backward", refuse)
    assert model(pixels, LABELS).saliency.isfinite().all()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_method_where_it_is_defined(name, pixels):
    network = family(name)
    refused = {
        method.name
        for method in METHODS.values()
        if (method.use_head_weights and name not in AVERAGED)
        or (method.relu_rule and name not in RECTIFIED)
    }
    for method in METHODS:
        model = explain(network, method=method, output_size="native")
        if method in refused:
            with pytest.raises(ValueError, match=r"cam needs|rectifiers only"):
                model(pixels)
        else:
            output = model(pixels)
            assert output.saliency.isfinite().all()
            if not METHODS[method].do_rectify:
                assert not output.degenerate.any(), method


@pytest.mark.parametrize("name", FAMILIES)
def test_meta_step_works_and_leaves_the_network(name, pixels):
    network = family(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    stepped = explain(network, meta_step=0.05)(pixels)
    assert (stepped.saliency - explain(network)(pixels).saliency).abs().max() > 0
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["vit", "deit"])
def test_patches_of_a_transformers_last_block_have_no_gradient(name, pixels):
    model = explain(family(name))
    layers = {layer.name: layer for layer in model.saliency_layers()}
    assert not layers[f"{name}.layers.2"].has_gradient
    assert layers[f"{name}.layers.1"].has_gradient
    output = explain(family(name), layers=[f"{name}.layers.2"])(pixels)
    assert output.degenerate.all() and output.saliency.eq(0).all()


# Where a LayerNorm reads each position of the usual layer, and the layer before.
CANCELLED = {"vit": "vit.layers.0", "deit": "deit.layers.0", "swin": "swin.encoder.layers.0"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CANCELLED)
def test_sums_that_cancel_are_no_map(name, dtype, pixels, caplog):
    network, layer = family(name).to(dtype), FAMILIES[name][1]
    for settings in ({"method": "linear_approx"}, {"method": "hires_cam"}, {"extract": "bias"}):
        settings = {"aggregate": "sum", **settings}
        output = explain(network, layers=[layer], **settings)(pixels)
        assert output.degenerate.all() and not output.saliency.any()
    assert f"at {layer} are constant" in caplog.text and "the channels cancel" in caplog.text
    pairs = [("scaling", "sum"), ("conv1x1", "sum"), ("conv3x3", "sum"), ("scaling", "max")]
    grid = explain(network).forward_grid(pixels, methods=pairs, layers=[layer])
    assert [one.degenerate.all().item() for one in grid.values()] == [True, True, True, False]


@pytest.mark.parametrize("name", CANCELLED)
def test_sums_are_taken_where_they_do_not_cancel(name, pixels):
    network = family(name)
    model = explain(network, method="linear_approx", output_size="native")
    assert model.default_layer("linear_approx") == CANCELLED[name]
    assert model.default_layer("norm_grad") == FAMILIES[name][1]
    found = model(pixels, LABELS)
    exact = explain(network.double(), method="linear_approx", output_size="native")(pixels, LABELS)
    assert not found.degenerate.any()
    torch.testing.assert_close(found.saliency, exact.saliency.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", AVERAGED)
def test_cam_averages_to_the_logit_without_bias(name, pixels):
    network = family(name)
    output = explain(network, method="cam", output_size="native")(pixels, LABELS)
    bias = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1].bias
    torch.testing.assert_close(
        output.saliency.mean((2, 3)) + bias[LABELS].detach(),
        output.logits.gather(1, LABELS),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_saving_with_the_classifier_inside(name, pixels, tmp_path):
    model = explain(family(name), method="norm_grad_selective")
    model.save_pretrained(tmp_path)
    loaded = NormGradForImageSaliency.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(pixels).saliency, model(pixels).saliency)


@pytest.mark.parametrize("name", ["vit", "siglip"])
def test_a_table_of_positions_that_does_not_fit_is_said(name, pixels):
    if name == "vit":
        network = family("vit")
    else:
        vision = TINY_TRANSFORMER
        network = transformers.SiglipForImageClassification(
            transformers.SiglipConfig(vision_config=vision)
        )
    with pytest.raises(
        ValueError, match="only accepts pictures of 64 x 64 pixels, got 32 x 48; give"
    ):
        explain(network)(pixels[..., :32, :48])
    with pytest.raises(ValueError, match="'nope' is not in the network"):
        explain(network, layers=["nope"])(pixels)
