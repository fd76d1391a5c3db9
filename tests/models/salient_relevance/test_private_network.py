"""The folded private copy: exact, up to date, and without traces on the user's network."""

import copy
import pickle
import threading
import time
import types

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from salhub.explaining.concurrency import exclusive_use
from salhub.models.salient_relevance.network_state import NetworkState
from salhub.models.salient_relevance.private_network import PrivateNetwork
from salhub.models.salient_relevance.relevance_engine import RelevanceEngine, exact_convolutions
from salhub.models.salient_relevance.rules import rule_set
from tests.models.salient_relevance.networks import SmallNet, trained

RULES = rule_set("epsilon_plus")


def identity(logits):
    return logits


def pixels(count=2):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, 3, 12, 12, generator=generator) * 2 - 1


def normalised(layer, norm):
    return trained(nn.Sequential(layer, norm, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)))


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6), (4, 7, 7)),
        (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6, affine=False), (4, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6), (4, 4, 4)),
        (nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6), (4, 5)),
        (nn.Linear(4, 6), nn.BatchNorm1d(6), (4,)),
    ],
)
def test_folding_is_exact(layer, norm, shape):
    torch.manual_seed(0)
    images = torch.rand(3, *shape)
    network = nn.Sequential(layer, norm, nn.ReLU(), nn.Flatten())
    network.append(nn.Linear(network.eval()(images).shape[1], 3))
    network = trained(network)
    private = PrivateNetwork(network, identity, images)
    assert private.folded == 1
    assert not [m for m in private.network.modules() if "BatchNorm" in type(m).__name__]
    torch.testing.assert_close(private.logits(images), network(images), rtol=1e-5, atol=1e-5)


def test_batch_norm_without_a_layer_before_it_is_an_affine_step():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4))
    network = trained(network.append(nn.Flatten()).append(nn.Linear(400, 2)))
    engine = RelevanceEngine(identity)
    found = engine.propagate(network, pixels(), None, RULES, with_audit=True)
    torch.testing.assert_close(found.logits, network(pixels()), rtol=1e-5, atol=1e-5)
    rows = found.ledgers[0].rows()
    assert [row.layer_type for row in rows] == ["linear", "affine", "convolution"]
    assert all(row.accounted_error < 1e-4 for row in rows)


def test_a_normalisation_that_is_not_alone_is_not_folded():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)
            self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(sum(norm(self.layer(x)).relu() for norm in self.norms).mean((2, 3)))

    network = trained(Twice())
    private = PrivateNetwork(network, identity, pixels())
    assert private.folded == 0
    torch.testing.assert_close(private.logits(pixels()), network(pixels()))


class Peeking(nn.Module):
    """relu(norm(y) + y): the convolution has a second reader, so nothing may be folded."""

    def __init__(self, peek=lambda y: y, scale=1.0):
        super().__init__()
        self.layer, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.peek, self.scale = peek, scale

    def forward(self, x):
        y = self.layer(x)
        return (self.norm(y) + self.peek(y)).relu().mean((2, 3)) * self.scale


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_output_used_beside_its_normalisation_is_not_folded(scale):
    network = trained(Peeking(scale=scale))
    private = PrivateNetwork(network, identity, pixels())
    assert private.folded == 0
    found = RelevanceEngine(identity).propagate(network, pixels(), None, RULES)
    torch.testing.assert_close(found.logits, network(pixels()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_wrong_fold_is_refused_however_small_the_logits(scale):
    def peek_where_nobody_looks(y):
        return torch.from_numpy(y.numpy().copy())

    network = trained(Peeking(peek_where_nobody_looks, scale))
    with pytest.raises(ValueError, match=r"changed the logits by .*NormGrad"):
        PrivateNetwork(network, identity, pixels())


def explained(network):
    return RelevanceEngine(identity).propagate(network, pixels(), None, RULES)


def test_hook_that_changes_the_logits_is_refused_by_name():
    network, engine = trained(SmallNet()), RelevanceEngine(identity)
    engine.propagate(network, pixels(), None, RULES)  # a copy from before the hook is no excuse
    handle = network.block.branch.register_forward_hook(lambda module, inputs, output: output * 3)
    with pytest.raises(ValueError, match=r"hook on 'block.branch' \(Conv2d\) changes the logits"):
        engine.propagate(network, pixels(), None, RULES)
    handle.remove()
    network.stem.register_forward_pre_hook(lambda module, inputs: (inputs[0].flip(3),))
    with pytest.raises(ValueError, match=r"hook on 'stem'"):
        explained(network)


def test_network_whose_copy_differs_is_refused():
    network = trained(SmallNet())
    numbers = iter(range(100))
    network.block.forward = lambda x: x * next(numbers)
    with pytest.raises(ValueError, match="a copy of SmallNet gives logits that differ"):
        explained(network)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("make", ["weight_norm", "spectral_norm", "pruning"])
@pytest.mark.parametrize("has_run", [False, True])
def test_weights_made_by_hooks_are_explained_as_what_they_compute(make, has_run):
    network = trained(SmallNet(norm=False))
    layer = network.block.branch
    if make == "weight_norm":
        nn.utils.weight_norm(layer)
        layer.weight_g.data *= 2
    elif make == "spectral_norm":
        nn.utils.spectral_norm(layer)
    else:
        prune.l1_unstructured(layer, "weight", 0.5)
    if has_run:
        network.eval()(pixels())  # leaves a weight with a graph behind
    found = explained(network)
    torch.testing.assert_close(found.logits, network(pixels()).detach(), rtol=1e-5, atol=1e-6)
    assert len(layer._forward_pre_hooks) == 1


def test_low_precision_networks_are_copied():
    network = trained(SmallNet()).bfloat16()
    network.stem.register_forward_hook(lambda module, inputs, output: None)
    found = explained(network)
    expected = explained(trained(SmallNet()).bfloat16().float())
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=0, atol=0)
    network.stem.register_forward_hook(lambda module, inputs, output: output * 1.5)
    with pytest.raises(ValueError, match="hook on 'stem'"):
        explained(network)


def test_logits_that_are_not_finite_are_refused():
    network = trained(SmallNet())
    network.classifier.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="SmallNet gives NaN or infinite logits"):
        explained(network)


def test_swapped_rows_and_changed_settings_are_noticed():
    network, engine = trained(SmallNet()), RelevanceEngine(identity)
    copies = [engine.private_network(network, pixels())]

    def swap(weight):
        weight.data.copy_(weight.data.flip(0))  # the same sum, storage and version

    def stride():
        network.depthwise.stride = (2, 2)

    def activation():
        network.activation = nn.ReLU6()

    def settings():
        network.activation.max_val = 0.5

    edits = [lambda: swap(network.classifier.weight), stride, activation, settings]
    for edit in edits:
        edit()
        copies.append(engine.private_network(network, pixels()))
        assert copies[-1] not in copies[:-1]
        assert engine.private_network(network, pixels()) is copies[-1]
    expected = explained(network).relevance
    found = engine.propagate(network, pixels(), None, RULES).relevance
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.bool, torch.complex64]
)
@pytest.mark.parametrize(("start", "end"), [(0, 9), (0, 16), (1, 9), (4, 12)])
def test_state_sees_every_value(dtype, start, end):
    module = nn.Module()
    module.register_buffer("values", torch.arange(end).to(dtype)[start:])
    seen = [NetworkState(module)]
    for place in range(2, end - start):
        module.values.data[place] = not module.values.data[place]
        assert not any(state.is_of(module) for state in seen)
        seen.append(NetworkState(module))
        assert seen[-1].is_of(module)


def test_state_sees_plain_tensor_attributes():
    module = WithAttributes()
    module.mean = torch.arange(3.0)
    state = NetworkState(module)
    module.mean.data[0] = 7
    assert not state.is_of(module)


def test_values_that_are_not_finite_do_not_make_the_copy_again():
    network, engine = trained(SmallNet()), RelevanceEngine(identity)
    network.register_buffer("unused", torch.tensor([torch.nan, torch.inf, -torch.inf]))
    first = engine.private_network(network, pixels())
    assert engine.private_network(network, pixels()) is first


def test_modified_weights_of_settings_that_are_over_are_let_go():
    network, engine = trained(SmallNet()), RelevanceEngine(identity)
    for step in range(4):
        rules = rule_set("epsilon_gamma_box", first_rule="z_plus", gamma=0.1 * (step + 1))
        engine.propagate(network, pixels(), None, rules)
        cache = engine.private_network(network, pixels()).parts_cache((rules, "absorb"))
        assert len(cache) == 3  # the linear layer uses its own weights


def test_waits_while_another_method_has_exchanged_the_weights():
    network, engine = trained(SmallNet()), RelevanceEngine(identity)
    expected = explained(network).relevance
    stepped = {name: p.detach() * 2 for name, p in network.named_parameters()}
    is_inside, found = threading.Event(), []

    def other_method():
        with exclusive_use(network):
            originals = {name: p.detach().clone() for name, p in network.named_parameters()}
            _write(network, stepped)
            is_inside.set()
            time.sleep(0.3)
            _write(network, originals)

    thread = threading.Thread(target=other_method)
    thread.start()
    assert is_inside.wait(10)
    found = engine.propagate(network, pixels(), None, RULES).relevance
    thread.join()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def _write(network, values):
    for name, parameter in network.named_parameters():
        parameter.data = values[name]


def test_weights_that_change_are_noticed_however_they_change():
    network, engine = trained(SmallNet()), RelevanceEngine(identity)

    def relevance():
        return engine.propagate(network, pixels(), torch.tensor([[0], [1]]), RULES).relevance

    seen = [relevance()]
    with torch.no_grad():
        network.stem.weight.mul_(1.5)
    seen.append(relevance())
    network.norm.running_var.data.mul_(2.0)
    seen.append(relevance())
    network.classifier.weight.data = network.classifier.weight.data.flip(0)
    seen.append(relevance())
    for index, one in enumerate(seen):
        assert not any(torch.equal(one, other) for other in seen[:index])
    fresh = RelevanceEngine(identity)
    expected = fresh.propagate(network, pixels(), torch.tensor([[0], [1]]), RULES).relevance
    torch.testing.assert_close(seen[-1], expected, rtol=0, atol=0)


def test_copy_is_kept_while_nothing_changes():
    network, engine = trained(SmallNet()), RelevanceEngine(identity)
    first = engine.private_network(network, pixels())
    engine.propagate(network, pixels(), None, RULES)
    assert engine.private_network(network, pixels()) is first
    assert vars(copy.deepcopy(engine))["_private"] is None
    assert vars(pickle.loads(pickle.dumps(engine)))["_private"] is None


def test_training_mode_dropout_and_hooks_of_the_user_are_left_alone():
    network = trained(SmallNet())
    network.add_module("drop", nn.Dropout(0.9))
    expected = RelevanceEngine(identity).propagate(network, pixels(), None, RULES).relevance
    calls = []
    network.stem.register_forward_hook(lambda *_: calls.append(1))
    network.train()
    found = RelevanceEngine(identity).propagate(network, pixels(), None, RULES).relevance
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert len(calls) == 1  # the copy is compared with the network itself, once
    assert network.training
    assert len(network.stem._forward_hooks) == 1
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_parametrised_weights_are_explained_as_what_they_compute():
    plain = trained(SmallNet(norm=False))
    wrapped = copy.deepcopy(plain)
    parametrizations.weight_norm(wrapped.block.branch)
    expected, found = (
        RelevanceEngine(identity).propagate(net, pixels(), None, RULES).relevance
        for net in (plain, wrapped)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert parametrize.is_parametrized(wrapped.block.branch)
    torch.testing.assert_close(wrapped(pixels()), plain(pixels()))  # the user's still works


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiled_networks_and_parts_are_unwrapped():
    plain, whole, part = trained(SmallNet()), trained(SmallNet()), trained(SmallNet())
    part.block = torch.compile(part.block)
    expected, *found = (
        RelevanceEngine(identity).propagate(net, pixels(), None, RULES).relevance
        for net in (plain, torch.compile(whole), part)
    )
    for one in found:
        torch.testing.assert_close(one, expected, rtol=0, atol=0)
    assert hasattr(part.block, "_orig_mod")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(mode):
    network = trained(SmallNet())
    expected = RelevanceEngine(identity).propagate(network, pixels(), None, RULES).relevance
    with mode():
        born_here = trained(SmallNet())
        found = RelevanceEngine(identity).propagate(born_here, pixels(), None, RULES)
    torch.testing.assert_close(found.relevance, expected, rtol=0, atol=0)
    assert not found.relevance.requires_grad


def test_convolutions_are_not_rounded_on_a_gpu():
    was_allowed = torch.backends.cudnn.allow_tf32
    with pytest.raises(KeyError), exact_convolutions(torch.device("cuda")):
        assert not torch.backends.cudnn.allow_tf32
        raise KeyError
    assert torch.backends.cudnn.allow_tf32 == was_allowed


def test_autocast_does_not_lower_the_precision():
    network = trained(SmallNet())
    expected = RelevanceEngine(identity).propagate(network, pixels(), None, RULES).relevance
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = RelevanceEngine(identity).propagate(network, pixels(), None, RULES).relevance
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


class WithAttributes(nn.Module):
    """Reads numbers and tensors from lists and dictionaries, and keeps what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = trained(SmallNet())
        self.gains, self.tensors = [1.0, 2.0], [torch.ones(1)]
        self.options = {"flip": False}
        self.calls, self.seen = 0, None

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen = pictures
        pictures = pictures.flip(1) if self.options["flip"] else pictures
        return self.inner(pictures * self.gains[0] * self.tensors[0])


def _flip_forward(network: nn.Module) -> None:
    network.forward = types.MethodType(
        lambda self, pictures: WithAttributes.forward(self, pictures.flip(1)), network
    )


@pytest.mark.parametrize(
    "edit",
    [
        lambda network: network.gains.__setitem__(0, -1.0),
        lambda network: network.tensors[0].mul_(-1),
        lambda network: network.options.__setitem__("flip", True),
        _flip_forward,
        lambda network: setattr(
            network.inner.classifier.weight, "data", network.inner.classifier.weight.data.flip(0)
        ),
        lambda network: setattr(
            network.inner.classifier.weight,
            "data",
            network.inner.classifier.weight.data[:1].expand_as(network.inner.classifier.weight),
        ),
    ],
    ids=["list", "tensor in a list", "dictionary", "forward", "flipped", "expanded"],
)
def test_edits_of_any_kind_make_the_copy_again(edit):
    network, engine = WithAttributes(), RelevanceEngine(identity)
    engine.propagate(network, pixels(), None, RULES)
    edit(network)
    found = engine.propagate(network, pixels(), None, RULES).relevance
    torch.testing.assert_close(found, explained(network).relevance, rtol=0, atol=0)


def test_a_transposed_weight_is_seen():
    layer = nn.Linear(3, 3)
    state = NetworkState(layer)
    layer.weight.data = layer.weight.data.t()
    assert not state.is_of(layer)


def test_a_hook_that_takes_the_place_of_another_is_seen():
    network = trained(SmallNet())
    handle = network.register_forward_hook(lambda module, given, output: None)
    state = NetworkState(network)
    handle.remove()
    network.register_forward_hook(lambda module, given, output: -output)
    assert not state.is_of(network)


def test_what_a_pass_keeps_is_put_back_and_does_not_make_the_copy_again():
    network, engine = WithAttributes(), RelevanceEngine(identity)
    first = engine.private_network(network, pixels())
    assert network.seen is None
    network(pixels())
    assert engine.private_network(network, pixels()) is first


def test_a_network_that_changes_its_input_is_explained_and_the_input_kept():
    def make(first: nn.Module) -> nn.Module:
        return nn.Sequential(first, trained(SmallNet())).eval()

    in_place, plain = make(nn.ReLU(inplace=True)), make(nn.ReLU())
    given = pixels() - 0.5
    before = given.clone()
    found = RelevanceEngine(identity).propagate(in_place, given, None, RULES).relevance
    assert torch.equal(given, before)
    torch.testing.assert_close(
        found, RelevanceEngine(identity).propagate(plain, given, None, RULES).relevance
    )
