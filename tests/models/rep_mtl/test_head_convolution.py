"""The convolution of heads against torch's own: values, gradients, and gradients of gradients."""

import copy

import pytest
import torch
from torch import nn

from salhub.models.rep_mtl.head_convolution import HeadConvolution


def pair(bias=True, **settings):
    torch.manual_seed(0)
    layer = HeadConvolution(3, 4, bias=bias, **settings).double()
    layer.is_differentiated_twice = True
    plain = nn.Conv2d(3, 4, bias=bias, **settings).double()
    plain.load_state_dict(layer.state_dict())
    return layer, plain


def gradients(layer, maps):
    """Of a loss with a term of the gradient: with respect to weights, and to what lies before."""
    maps = maps.clone().requires_grad_()
    answer = layer(maps * 2)
    [slope] = torch.autograd.grad(answer.tanh().square().sum(), maps, create_graph=True)
    loss = answer.sin().sum() + slope.square().sum()
    return [answer, *torch.autograd.grad(loss, [maps, *layer.parameters()])]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "settings",
    [{"kernel_size": 1}, {"kernel_size": 3, "padding": 1},
     {"kernel_size": 3, "padding": 2, "dilation": 2}],
    ids=["point", "square", "dilated"],
)  # fmt: skip
def test_all_derivatives_are_those_of_torch(settings, bias, layout):
    layer, plain = pair(bias, **settings)
    maps = torch.randn(2, 3, 6, 5, dtype=torch.float64).contiguous(memory_format=layout)
    for one, other in zip(gradients(layer, maps), gradients(plain, maps), strict=True):
        assert float(other.detach().abs().max()) > 1e-3
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_weights_have_no_gradient_where_only_the_input_is_asked_for(monkeypatch):
    from salhub.models.rep_mtl import head_convolution

    asked = []
    own = head_convolution._gradients

    def watched(*arguments):
        asked.append(arguments[-1])
        return own(*arguments)

    monkeypatch.setattr(head_convolution, "_gradients", watched)
    layer, _ = pair(kernel_size=3, padding=1)
    maps = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    torch.autograd.grad(layer(maps).sum(), maps, create_graph=True)
    assert asked == [(True, False, False)]


def test_what_cannot_be_differentiated_again_is_refused():
    layer, _ = pair(kernel_size=1)
    maps = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    slopes = torch.autograd.grad(layer(maps).square().sum(), layer.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slopes[0].sum().backward()


def test_otherwise_it_is_torch_s_own():
    layer, plain = pair(kernel_size=3, padding=1)
    maps = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(layer(maps), plain(maps))
    twin = copy.deepcopy(layer)
    twin.is_differentiated_twice = False
    assert torch.equal(twin(maps.requires_grad_()), plain(maps))
