"""The default layer: found once, kept between sizes, and the same whatever came before."""

import re
import weakref

import pytest
import torch
from torch import nn

from salhub.models.normgrad import layer_choice
from salhub.models.normgrad.modeling_normgrad import NormGradForImageSaliency
from tests.models.normgrad.networks import SmallNet, family, spread_weights


class Halving(nn.Module):
    """Blocks that halve the grid, so that small pictures run out of positions."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Conv2d(3 if index == 0 else 4, 4, 3, stride=2, padding=1) for index in range(4)
        )
        self.classifier = nn.Linear(4, 3)

    def forward(self, x):
        for block in self.blocks:
            x = torch.relu(block(x))
        return self.classifier(x.mean((2, 3)))


def explain(network, **settings):
    return NormGradForImageSaliency.from_classifier(network, **settings)


def chosen_layer(model, size):
    (key,) = model.forward_grid(torch.randn(1, 3, *size))
    return key[1]


class Counter:
    def __init__(self, network):
        self.calls = 0
        network.register_forward_hook(self)

    def __call__(self, *_):
        self.calls += 1


@pytest.mark.parametrize("name", [None, "resnet", "vit"])
def test_one_probe_serves_all_sizes(name):
    network = spread_weights(SmallNet()) if name is None else family(name)
    sizes = [(64, 64)] * 3 if name == "vit" else [(64, 64), (48, 40), (96, 80), (64, 65)]
    model, counter = explain(network), Counter(network)
    model(torch.randn(1, 3, *sizes[0]))
    assert counter.calls <= 4  # the structure, the gradient of at most two groups, the map
    counter.calls = 0
    for size in sizes[1:]:
        model(torch.randn(1, 3, *size))
    assert counter.calls == len(sizes) - 1


SIZES = [(64, 64), (16, 16), (4, 4), (8, 8), (32, 16), (64, 64)]


def test_the_choice_does_not_depend_on_what_was_explained_before():
    network = spread_weights(Halving())
    alone = {size: chosen_layer(explain(network), size) for size in SIZES}
    assert alone[64, 64] == "blocks.3" and alone[4, 4] == "blocks.0"
    for order in (SIZES, SIZES[::-1], sorted(SIZES)):
        model = explain(network)
        assert [chosen_layer(model, size) for size in order] == [alone[size] for size in order]


def test_what_is_remembered_is_bounded():
    network = spread_weights(Halving())
    model = explain(network)
    model(torch.randn(1, 3, 64, 64))
    for width in range(4, 30):
        model(torch.randn(1, 3, 4, width))
        model.saliency_layers((4, width))
    kept = [value for value in vars(model._choice).values() if hasattr(value, "__len__")]
    assert max(len(value) for value in kept) == layer_choice.MAX_SIZES


def test_the_probe_keeps_no_output_alive():
    network = spread_weights(SmallNet())
    model, alive = explain(network), []

    class Watched(nn.Module):
        def forward(self, x):
            # Outputs of the first block, a long way below the default layer.
            alive.append(weakref.ref(x))
            return x

    network.blocks[0].append(Watched())
    counts = []
    network.classifier.register_forward_pre_hook(
        lambda *_: counts.append(sum(one() is not None for one in alive))
    )
    model(torch.randn(1, 3, 32, 32))
    assert counts[0] == 0
    assert alive and all(one() is None for one in alive)


def test_layers_left_in_place_and_views_have_their_gradient():
    class View(nn.Module):
        def forward(self, x):
            return x[:, :]

    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        View(),
        nn.ReLU(inplace=True),
        nn.Identity(),
        nn.Flatten(),
        nn.LazyLinear(3),
    )
    network(torch.zeros(1, 3, 8, 8))
    layers = explain(spread_weights(network)).saliency_layers((8, 8))
    assert [layer.name for layer in layers] == ["input", "0", "1", "2", "3"]
    assert all(layer.has_gradient for layer in layers)


class Scrambled(nn.Module):
    """A block whose output nobody can read, above one that anybody can."""

    class Flat(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1).flatten(1)[..., None].expand(-1, -1, 2)

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(3, 5, 3, padding=1), Scrambled.Flat()])
        self.classifier = nn.Linear(5 * 49, 3)

    def forward(self, x):
        return self.classifier(self.blocks[1](self.blocks[0](x))[..., 0])


def unscramble(output):
    if output.ndim == 4:
        return output
    return output[..., 0].unflatten(1, (7, 7, 5)).permute(0, 3, 1, 2)


class Unscramble(nn.Module):
    def forward(self, output):
        return unscramble(output)


@pytest.mark.parametrize("transform", [unscramble, Unscramble()])
def test_another_reshape_transform_asks_anew(transform):
    model = explain(spread_weights(Scrambled()))
    assert chosen_layer(model, (7, 7)) == "blocks.0"
    assert [layer.name for layer in model.saliency_layers(7)] == ["input", "blocks.0"]
    model.reshape_transform = transform
    assert chosen_layer(model, (7, 7)) == "blocks.1"
    assert str(model.saliency_layers(7)[-1]) == "blocks.1 (5x7x7)"
    assert not any("reshape" in name for name, _ in model.named_modules())
    model.reshape_transform = None
    assert chosen_layer(model, (7, 7)) == "blocks.0"


def test_a_reshape_transform_that_fails_is_named():
    model = explain(spread_weights(Scrambled()), layers=["blocks.1"])
    model.reshape_transform = lambda output: output.reshape(1, 1000, 7, 7)
    sentence = r"reshape_transform failed at layer 'blocks.1' for an output of shape \(\d, 245, 2\)"
    with pytest.raises(ValueError, match=sentence):
        model(torch.randn(1, 3, 7, 7))
    model.config.layers = None
    with pytest.raises(ValueError, match=re.escape("reshape_transform failed at layer 'blocks.")):
        model(torch.randn(1, 3, 7, 7))
    model.reshape_transform = lambda output: None
    with pytest.raises(ValueError, match=r"must return .*, got NoneType at layer 'blocks\."):
        model(torch.randn(1, 3, 7, 7))
    with pytest.raises(TypeError, match="reshape_transform must be None or a function"):
        model.reshape_transform = (7, 7)
