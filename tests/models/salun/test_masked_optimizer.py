"""Closed weights keep their bits, and open ones move as they would alone."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from salhub.models.salun.masked_optimizer import MaskedOptimizer, closed_weights_digest
from salhub.models.salun.weight_mask import WeightMask, make_mask
from salhub.models.salun.weight_saliency import compute_saliency
from tests.models.salun.networks import samples, small_network

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05),
    "nesterov": lambda p: torch.optim.SGD(
        p, lr=0.1, momentum=0.9, weight_decay=0.05, nesterov=True
    ),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, weight_decay=0.1),
}


def random_mask(network: nn.Module, ratio: float = 0.5) -> WeightMask:
    generator = torch.Generator().manual_seed(3)
    scores = {n: torch.rand(p.shape, generator=generator) for n, p in network.named_parameters()}
    return make_mask(scores, ratio)


def train(network: nn.Module, optimizer, steps: int = 4) -> None:
    inputs, labels = samples(8)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network.eval()(inputs), labels).backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_closed_weights_keep_their_bits_and_open_ones_move(name):
    network = small_network()
    before, mask = copy.deepcopy(network), random_mask(network)
    digest = closed_weights_digest(network, mask)
    optimizer = OPTIMIZERS[name](network.parameters())
    with MaskedOptimizer(optimizer, network, mask):
        train(network, optimizer)
    assert closed_weights_digest(network, mask) == digest
    for key, parameter in network.named_parameters():
        opened = mask.tensors[key]
        old = before.get_parameter(key)
        assert torch.equal(parameter[~opened], old[~opened])
        assert bool((parameter[opened] != old[opened]).any())
        for value in optimizer.state[parameter].values():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                assert not bool(value[~opened].any()) and bool(value[opened].any())


@pytest.mark.parametrize("name", ["momentum", "nesterov", "adam", "adamw"])
def test_open_weights_move_as_an_update_written_out_moves_them(name):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6))
    opened = torch.tensor([True, False, True, True, False, False])
    module = nn.Module()
    module.weight = weight
    optimizer = OPTIMIZERS[name]([weight])
    start, slope = weight.detach().double().clone(), torch.randn(6, 6).double()
    with MaskedOptimizer(optimizer, module, WeightMask({"weight": opened})):
        for _ in range(5):
            optimizer.zero_grad()
            (slope.float() @ weight).square().sum().backward()
            optimizer.step()
    w, m, v = start.clone(), torch.zeros(6).double(), torch.zeros(6).double()
    decay = 0.05 if name in ("momentum", "nesterov") else 0.1
    for step in range(1, 6):
        g = 2 * slope.T @ (slope @ w)
        if name in ("momentum", "nesterov"):
            g = g + decay * w
            m = g if step == 1 else 0.9 * m + g
            update = 0.1 * (g + 0.9 * m if name == "nesterov" else m)
        else:
            g = g + decay * w if name == "adam" else g
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            scale = math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            update = 0.01 * scale * m / (v.sqrt() + 1e-8 * math.sqrt(1 - 0.999**step))
            update = update + (0.01 * decay * w if name == "adamw" else 0)
        w = torch.where(opened, w - update, start)
    torch.testing.assert_close(weight.detach().double(), w, rtol=2e-5, atol=1e-6)


def test_every_kind_of_number_keeps_its_bits():
    odd = torch.tensor([-0.0, torch.nan, torch.inf, 1e-45, 1.0])
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        module = nn.Module()
        module.weight = nn.Parameter(odd.to(dtype))
        mask = WeightMask({"weight": torch.tensor([False] * 4 + [True])})
        digest = closed_weights_digest(module, mask)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        with MaskedOptimizer(optimizer, module, mask):
            for _ in range(2):
                module.weight.grad = torch.full((5,), torch.inf, dtype=dtype)
                module.weight.grad[-1] = 1
                optimizer.step()
        assert closed_weights_digest(module, mask) == digest
        assert float(module.weight[-1].detach()) < 1


def test_weights_in_another_memory_layout():
    network = small_network().to(memory_format=torch.channels_last)
    mask = random_mask(network)
    digest = closed_weights_digest(network, mask)
    optimizer = OPTIMIZERS["momentum"](network.parameters())
    with MaskedOptimizer(optimizer, network, mask):
        train(network, optimizer)
    assert closed_weights_digest(network, mask) == digest
    plain = small_network()
    optimizer = OPTIMIZERS["momentum"](plain.parameters())
    with MaskedOptimizer(optimizer, plain, random_mask(plain)):
        train(plain, optimizer)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter, plain.get_parameter(name), rtol=1e-4, atol=1e-5)


def test_a_parameter_closed_as_a_whole_takes_no_gradient_until_released():
    network = small_network()
    mask = random_mask(network)
    mask.tensors["0.weight"].fill_(False)
    mask.tensors["5.bias"].fill_(True)
    optimizer = OPTIMIZERS["adamw"](network.parameters())
    masked = MaskedOptimizer(optimizer, network, mask)
    train(network, optimizer)
    assert network[0].weight.grad is None and not network[0].weight.requires_grad
    masked.release()
    assert network[0].weight.requires_grad
    before = network[0].weight.detach().clone()
    train(network, optimizer)
    assert bool((network[0].weight != before).all())


def test_schedulers_checkpoints_and_accelerate_do_not_notice():
    def run(steps: int, restart_at: int | None) -> nn.Module:
        network = small_network()
        mask = random_mask(network)
        accelerator = Accelerator(cpu=True)
        optimizer = OPTIMIZERS["adamw"](network.parameters())
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.1)
        MaskedOptimizer(optimizer, network, mask)
        network, optimizer = accelerator.prepare(network, optimizer)
        for step in range(steps):
            if step == restart_at:
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
                scheduler.load_state_dict(scheduler.state_dict())
            train(network, optimizer, 1)
            scheduler.step()
        start = small_network()
        assert closed_weights_digest(network, mask) == closed_weights_digest(start, mask)
        return network

    whole, restarted = run(5, None), run(5, 3)
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, restarted.get_parameter(name))


def test_stands_in_for_the_optimizer_it_steps():
    def run(wrapped: bool) -> nn.Module:
        network = small_network()
        start, mask = copy.deepcopy(network), random_mask(network)
        accelerator = Accelerator(cpu=True)
        inside = OPTIMIZERS["momentum"](network.parameters())
        masked = MaskedOptimizer(inside, network, mask)
        optimizer = masked if wrapped else inside
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        network, prepared, scheduler = accelerator.prepare(network, optimizer, scheduler)
        inputs, labels = samples(8)
        for _ in range(4):
            with accelerator.accumulate(network):
                prepared.zero_grad()
                accelerator.backward(F.cross_entropy(network.eval()(inputs), labels))
                prepared.step()
                scheduler.step()
        assert prepared.param_groups[0]["lr"] == inside.param_groups[0]["lr"] == 0.1 / 16
        prepared.load_state_dict(prepared.state_dict())
        assert closed_weights_digest(network, mask) == closed_weights_digest(start, mask)
        return network

    for one, other in zip(run(True).parameters(), run(False).parameters(), strict=True):
        assert torch.equal(one, other)


def test_clipping_can_leave_out_closed_weights():
    network = small_network()
    mask = random_mask(network)
    masked = MaskedOptimizer(OPTIMIZERS["sgd"](network.parameters()), network, mask)
    network(samples(8)[0]).sum().backward()
    masked.mask_gradients()
    grads = [p.grad[mask.tensors[name]] for name, p in network.named_parameters()]
    norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    torch.testing.assert_close(norm, torch.cat(grads).norm())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_the_mask_goes_where_the_model_goes():
    network = small_network()
    mask = random_mask(network)
    optimizer = OPTIMIZERS["momentum"](network.parameters())
    digest = closed_weights_digest(network, mask)
    MaskedOptimizer(optimizer, network, mask)
    network.cuda()(samples(8)[0].cuda()).sum().backward()
    optimizer.step()
    assert closed_weights_digest(network, mask) == digest


def test_a_model_that_changes_its_precision_is_refused():
    network = small_network()
    optimizer = OPTIMIZERS["sgd"](network.parameters())
    MaskedOptimizer(optimizer, network, random_mask(network))
    network.double()(samples(8)[0].double()).sum().backward()
    with pytest.raises(ValueError, match=r"is torch\.float64 now"):
        optimizer.step()


def test_the_digest_does_not_mind_wrappers():
    network = small_network()
    mask, wrapped = random_mask(network), nn.Module()
    wrapped.module = network
    assert closed_weights_digest(wrapped, mask) == closed_weights_digest(network, mask)


def test_frozen_parts_of_a_model_stay_frozen():
    network = small_network()
    network[0].weight.requires_grad_(False)
    scores = compute_saliency(network, [samples(8)])
    mask = make_mask(scores)
    optimizer = OPTIMIZERS["adamw"](network.parameters())
    digest = closed_weights_digest(network, mask)
    with MaskedOptimizer(optimizer, network, mask):
        train(network, optimizer)
    assert closed_weights_digest(network, mask) == digest
    assert not network[0].weight.requires_grad


def test_a_mask_of_another_model_is_refused():
    network = small_network()
    optimizer = OPTIMIZERS["sgd"](network.parameters())
    with pytest.raises(KeyError, match="the mask belongs to another model"):
        MaskedOptimizer(optimizer, network, WeightMask({"weight": torch.tensor([True])}))
    with pytest.raises(
        ValueError, match="6 of the 6 parameters of the optimizer do not belong to this"
    ):
        MaskedOptimizer(optimizer, small_network(), random_mask(network))
