"""Relevance rules restated as dense matrices, one output at a time, for small layers."""

import torch
from torch import Tensor, nn


def dense_layer(layer: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (out, in), biases (out,) and connections (out, in; 1 or 0) of an affine layer.

    Args:
        layer: Maps (1, ...) to (1, ...).
        inputs: (1, ...), used for its shape only.
    """
    zero = torch.zeros_like(inputs)
    matrix = torch.autograd.functional.jacobian(layer, zero).reshape(-1, inputs.numel())
    with torch.no_grad():
        bias = layer(zero).flatten()
        saved = {name: p.clone() for name, p in layer.named_parameters()}
        for name, parameter in layer.named_parameters():
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    connections = torch.autograd.functional.jacobian(layer, zero).reshape(matrix.shape)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(saved[name])
    return matrix, bias, (connections != 0).to(matrix.dtype)


def dense_relevance(
    rule: str,
    layer: nn.Module,
    inputs: Tensor,
    *,
    epsilon: float,
    gamma: float = 0.25,
    alpha: float = 2.0,
    beta: float = 1.0,
    low: float = 0.0,
    high: float = 0.0,
    bias_relevance: str = "absorb",
) -> Tensor:
    """Relevance (outputs, inputs) that each output hands down when its relevance is 1."""
    weight, bias, connections = dense_layer(layer, inputs)
    values = inputs.flatten()
    if bias_relevance == "ignore":
        bias = torch.zeros_like(bias)
    handed = torch.zeros_like(weight)
    for j in range(len(weight)):
        handed[j] = _one_output(
            rule, weight[j], float(bias[j]), connections[j], values, epsilon,
            gamma, alpha, beta, low, high,
        )  # fmt: skip
    if bias_relevance == "uniform":
        lost = 1 - handed.sum(dim=1, keepdim=True)
        handed = handed + lost * connections / connections.sum(dim=1, keepdim=True)
    return handed


def _one_output(
    rule, weight, bias, connections, values, epsilon, gamma, alpha, beta, low, high
):  # fmt: skip
    """Relevance of the inputs of one output with relevance 1, straight from the definitions."""
    contributions = weight * values
    up, down = contributions.clamp(min=0), contributions.clamp(max=0)
    bias_up, bias_down = max(bias, 0.0), min(bias, 0.0)
    if rule in ("epsilon", "lrp_0"):
        return contributions / away_from_zero(contributions.sum() + bias, epsilon)
    if rule == "z_plus":
        return up / away_from_zero(up.sum() + bias_up, epsilon)
    if rule == "alpha_beta":
        positive = up / away_from_zero(up.sum() + bias_up, epsilon)
        negative = down / away_from_zero(down.sum() + bias_down, -epsilon)
        return alpha * positive - beta * negative
    if rule == "gamma":
        if contributions.sum() + bias >= 0:
            favoured, total = contributions + gamma * up, bias + gamma * bias_up
        else:
            favoured, total = contributions + gamma * down, bias + gamma * bias_down
        return favoured / away_from_zero(favoured.sum() + total, epsilon)
    if rule == "positive_weights":
        kept = weight.clamp(min=0) * values
        return kept / away_from_zero(kept.sum(), epsilon)
    if rule == "z_box":
        box = contributions - low * weight.clamp(min=0) - high * weight.clamp(max=0)
        return box / away_from_zero(box.sum(), epsilon)
    if rule == "flat":
        return connections / connections.sum()
    if rule == "w_square":
        return weight**2 / away_from_zero((weight**2).sum(), epsilon)
    raise AssertionError(rule)


def away_from_zero(value, epsilon):
    """value + epsilon * sign(value); at zero the sign is that of the given epsilon."""
    if float(value) == 0:
        return value + epsilon
    return value + abs(epsilon) * (1 if value > 0 else -1)
