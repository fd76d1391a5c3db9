"""Layers whose output has no row for each picture are neither offered nor taken."""

import pytest
import torch
from torch import nn
from transformers import (
    MobileViTConfig,
    MobileViTForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    Swinv2Config,
    Swinv2ForImageClassification,
)

from salhub.models.normgrad.modeling_normgrad import NormGradForImageSaliency
from tests.models.normgrad.networks import spread_weights

WINDOWED = {"image_size": 64, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2]}


def mobilevit():
    return MobileViTForImageClassification(
        MobileViTConfig(
            image_size=64, hidden_sizes=[16, 16, 16], neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 8],
            num_attention_heads=2, num_labels=3,
        )
    )  # fmt: skip


def swin():
    return SwinForImageClassification(SwinConfig(window_size=4, num_labels=3, **WINDOWED))


def swinv2():
    return Swinv2ForImageClassification(Swinv2Config(window_size=4, num_labels=3, **WINDOWED))


class Table(nn.Module):
    """A table that all pictures share, with as many rows as a probe has pictures."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Parameter(torch.rand(3, 4, 8, 8))
        self.look_up = nn.Identity()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(4, 3)

    def forward(self, pixels):
        shared = self.look_up(self.table).mean(0)
        return self.head((self.features(pixels) * shared).mean((2, 3)))


def explain(network, **settings):
    torch.manual_seed(0)
    return NormGradForImageSaliency.from_classifier(network.eval(), **settings)


@pytest.mark.parametrize("build", [mobilevit, swin, swinv2])
def test_what_is_offered_gives_a_batch_what_it_gives_singles(build):
    torch.manual_seed(0)
    model = explain(spread_weights(build()))
    pixels = torch.randn(3, 3, 64, 64)
    offered = [one for one in model.saliency_layers(64, blocks_only=False) if one.has_gradient]
    assert len(offered) > 5
    # From the first to the deepest.
    for layer in {offered[round(share * (len(offered) - 1))].name for share in (0.1, 0.4, 0.7, 1)}:
        one = model.with_settings(layers=[layer])
        together = one(pixels).saliency
        assert together.shape == (3, 64, 64)
        apart = torch.cat([one(row).saliency for row in pixels.split(1)])
        assert (together - apart).abs().max() <= 1e-4 * apart.abs().max() + 1e-12


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (mobilevit, ("transformer", "layer")),
        (swin, ("attention",)),
        (swinv2, ("continuous_position_bias_mlp",)),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_layers_on_windows_and_tables_are_refused(build, words, count):
    network = build()
    name = next(
        name
        for name, module in network.named_modules()
        if all(word in name for word in words) and not isinstance(module, nn.ModuleList)
        and (name[-1].isdigit() or words != ("transformer", "layer"))
        and not name.endswith(("attention.self", "transformer"))
    )  # fmt: skip
    model = explain(network, layers=[name])
    offered = {layer.name for layer in model.saliency_layers(64, blocks_only=False)}
    assert name not in offered
    with pytest.raises(ValueError, match=f"'{name}' does not return one row per picture"):
        model(torch.randn(count, 3, 64, 64))


def test_a_shared_table_is_refused_whatever_its_rows_are():
    for count in (1, 3):
        with pytest.raises(ValueError, match="one row per picture"):
            explain(Table(), layers=["look_up"])(torch.randn(count, 3, 8, 8))
    model = explain(Table())
    assert "look_up" not in {one.name for one in model.saliency_layers(8, blocks_only=False)}
    assert model(torch.randn(3, 3, 8, 8)).saliency.shape == (3, 8, 8)


def test_named_layers_are_probed_once():
    network = Table()
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    model = explain(network, layers=["features.0"])
    for _ in range(3):
        model(torch.randn(1, 3, 8, 8))
    model.with_settings(method="grad_cam", layers=["features.0"])(torch.randn(1, 3, 8, 8))
    assert len(calls) == 5
