"""Meta-saliency: one step for each picture, and the network as it was afterwards."""

import copy

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from salhub.models.normgrad.modeling_normgrad import NormGradForImageSaliency
from tests.models.normgrad.networks import SmallNet, spread_weights

STEP = 0.05


def network_with_batch_norm():
    network = SmallNet()
    network.blocks.append(nn.Sequential(nn.BatchNorm2d(8), nn.Dropout(0.5)))
    spread_weights(network)
    network.blocks[2][0].running_mean.normal_()
    network.blocks[2][0].running_var.uniform_(0.5, 2.0)
    return network


def explain(network, **settings):
    return NormGradForImageSaliency.from_classifier(
        network, layers=["blocks.0", "blocks.1"], **settings
    )


@pytest.fixture
def network():
    return network_with_batch_norm()


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 12, 12)


def stepped_by_hand(network, picture, label, step):
    """A copy of the network after one step of plain gradient descent on one picture."""
    moved = copy.deepcopy(network).eval()
    for parameter in moved.parameters():
        parameter.requires_grad_()
    F.cross_entropy(moved(picture), torch.tensor([label])).backward()
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter -= step * parameter.grad
    return moved


@pytest.mark.parametrize(
    "method", ["norm_grad", "norm_grad_selective", "grad_cam_signed", "gradient"]
)
@pytest.mark.parametrize("negate", [False, True])
def test_the_map_is_that_of_the_stepped_network(network, pixels, method, negate):
    labels = [0, 3, 4]
    model = explain(network, method=method, meta_step=STEP, meta_negate=negate)
    output = model(pixels, torch.tensor(labels))
    plain = explain(network, method=method)(pixels, torch.tensor(labels))
    for index, label in enumerate(labels):
        picture = pixels[index : index + 1]
        moved = stepped_by_hand(network, picture, label, -STEP if negate else STEP)
        expected = explain(moved, method=method)(picture, label).saliency[0]
        torch.testing.assert_close(output.saliency[index], expected, rtol=1e-4, atol=1e-5)
        assert (plain.saliency[index] - expected).abs().max() > 1e-3 * expected.abs().max()
    # The logits reported are those of the network a person has, not of the stepped one.
    torch.testing.assert_close(output.logits, network(pixels).detach())


def test_a_batch_gives_what_its_items_give(network, pixels):
    model = explain(network, meta_step=STEP)
    together = model(pixels)
    for index in range(3):
        alone = model(pixels[index : index + 1])
        torch.testing.assert_close(
            alone.saliency[0], together.saliency[index], rtol=1e-5, atol=1e-6
        )
        assert alone.class_labels[0] == together.class_labels[index]


def test_several_classes_are_several_calls(network, pixels):
    model = explain(network, meta_step=STEP)
    labels = torch.tensor([[0, 4], [1, 1], [2, 3]])
    together = model(pixels, labels)
    assert together.saliency.shape == (3, 2, 12, 12)
    for column in range(2):
        alone = model(pixels, labels[:, column])
        torch.testing.assert_close(
            alone.saliency, together.saliency[:, column], rtol=1e-5, atol=1e-6
        )


def test_no_step_is_the_base_method_bit_for_bit(network, pixels):
    base, none = explain(network)(pixels), explain(network, meta_step=0.0)(pixels)
    assert torch.equal(base.saliency, none.saliency)


def test_a_vanishing_step_tends_to_the_base_method(network, pixels):
    base = explain(network)(pixels).saliency
    almost = explain(network, meta_step=1e-9)(pixels).saliency
    torch.testing.assert_close(base, almost, rtol=1e-4, atol=1e-5)


def test_the_network_is_left_as_it_was(network, pixels):
    before = copy.deepcopy(network.state_dict())
    network.train()
    for index, parameter in enumerate(network.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    flags = [parameter.requires_grad for parameter in network.parameters()]
    model = explain(network, meta_step=STEP)
    network.train()
    model(pixels)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert [parameter.requires_grad for parameter in network.parameters()] == flags
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.training and network.blocks[2][1].training


def test_frozen_parameters_step_too(network, pixels):
    moving = explain(network, meta_step=STEP)(pixels).saliency
    network.requires_grad_(False)
    torch.testing.assert_close(explain(network, meta_step=STEP)(pixels).saliency, moving)


def test_guided_after_a_step_uses_the_true_gradient_for_the_step(network, pixels):
    settings = {"method": "guided_backprop", "layers": ["input"]}
    stepped = NormGradForImageSaliency.from_classifier(network, meta_step=STEP, **settings)
    moved = stepped_by_hand(network, pixels[:1], 2, STEP)
    expected = NormGradForImageSaliency.from_classifier(moved, **settings)(pixels[:1], 2)
    found = stepped(pixels[:1], 2)
    torch.testing.assert_close(found.saliency, expected.saliency, rtol=1e-4, atol=1e-6)


def test_proper_and_cam_follow_the_step(network, pixels):
    network.last = nn.Sequential(network.last, nn.ReLU())
    methods = {"norm_grad_proper": "last.0", "cam": "last"}
    moved = stepped_by_hand(network, pixels[:1], 2, STEP)
    for method, layer in methods.items():
        settings = {"method": method, "layers": [layer]}
        found = NormGradForImageSaliency.from_classifier(network, meta_step=STEP, **settings)
        expected = NormGradForImageSaliency.from_classifier(moved, **settings)
        torch.testing.assert_close(
            found(pixels[:1], 2).saliency, expected(pixels[:1], 2).saliency, rtol=1e-4, atol=1e-5
        )


def test_a_loss_without_a_finite_gradient_is_refused(network, pixels):
    network.classifier.weight.data.fill_(float("inf"))
    with pytest.raises(ValueError, match=r"NaN or infinite .*'classifier\.weight'"):
        explain(network, meta_step=STEP)(pixels, 0)


def levit():
    torch.manual_seed(0)
    config = transformers.LevitConfig(
        image_size=64,
        hidden_sizes=[8, 12, 16],
        num_attention_heads=[1, 1, 2],
        depths=[1, 1, 1],
        key_dim=[4, 4, 4],
        attention_ratio=[2, 2, 2],
        mlp_ratio=[2, 2, 2],
        num_labels=5,
        down_ops=[["Subsample", 4, 2, 4, 2, 2], ["Subsample", 4, 3, 4, 2, 2]],
    )
    network = spread_weights(transformers.LevitForImageClassification(config))
    for name, parameter in network.named_parameters():
        if "attention_biases" in name:
            parameter.data.normal_()
    return network


@pytest.mark.parametrize("step", [0.0, STEP])
@pytest.mark.parametrize("layers", [None, ["levit.encoder.stages.1"]])
def test_a_network_with_caches_still_works_afterwards(step, layers):
    network, pixels = levit(), torch.randn(1, 3, 64, 64)
    model = NormGradForImageSaliency.from_classifier(network, meta_step=step, layers=layers)
    saliency = model(pixels).saliency
    copy.deepcopy(network)
    network(pixels).logits.sum().backward()
    assert all(p.grad is not None for n, p in network.named_parameters() if "attention_bias" in n)
    # What the user's own passes left in the cache is used by neither the step nor the map.
    with torch.no_grad():
        expected = network(pixels).logits
    assert torch.equal(model(pixels).saliency, saliency)
    assert torch.equal(network(pixels).logits, expected)


def test_all_of_a_cache_moves_with_the_step():
    network, pixels = levit(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        network(pixels)
    layer, label = "levit.encoder.stages.1", 2
    model = NormGradForImageSaliency.from_classifier(network, layers=[layer], meta_step=1e-5)
    moved = levit()
    F.cross_entropy(moved(pixels).logits, torch.tensor([label])).backward()
    with torch.no_grad():
        for parameter in moved.parameters():
            if parameter.grad is not None:
                parameter -= 1e-5 * parameter.grad
    moved.train().eval()
    plain = NormGradForImageSaliency.from_classifier(moved, layers=[layer])
    expected = plain(pixels, label).saliency
    assert (model(pixels, label).saliency - expected).abs().max() <= 1e-5 * expected.max()


class Cached(SmallNet):
    """Keeps a table for the last size, a list and a late buffer, as position codes do."""

    def __init__(self):
        super().__init__()
        self.size, self.table, self.kept, self.count = None, None, [], 0

    def forward(self, pixel_values):
        self.count += 1
        if self.size != pixel_values.shape[-1]:
            self.size = pixel_values.shape[-1]
            self.table = self.classifier.bias * self.size
            self.kept.append(self.table)
            self.register_buffer("late", self.table * 2, persistent=False)
        return super().forward(pixel_values) + self.table + self.late


def test_tables_in_attributes_go_back_with_what_describes_them(pixels):
    network = spread_weights(Cached())
    explain(network, meta_step=STEP)(pixels)
    assert (network.size, network.table, network.kept) == (None, None, [])
    assert not hasattr(network, "late")
    network(pixels).sum().backward()
    table = network.table
    explain(network, meta_step=STEP)(pixels[..., :10])
    assert network.table is table and network.size == 12 and network.kept == [table]
