"""Rules of attention and normalisation restated as loops over single entries, for one picture."""

import torch
from torch import Tensor

from tests.models.salient_relevance.dense import away_from_zero


def normalisation(rows, weight, bias, inputs, relevance, epsilon, deviation_epsilon=1e-5):
    """Relevance of the inputs of w (x - mean) / deviation + b, all lists of numbers flattened.

    `rows` are lists of indices that share a mean.
    """
    values, handed = inputs.flatten(), torch.zeros_like(inputs.flatten())
    for row in rows:
        chosen = values[row]
        mean = sum(chosen) / len(row)
        deviation = (sum((v - mean) ** 2 for v in chosen) / len(row) + deviation_epsilon) ** 0.5
        for j in row:
            output = weight[j] * (values[j] - mean) / deviation + bias[j]
            signal = relevance.flatten()[j] / away_from_zero(output, epsilon)
            for i in row:
                slope = weight[j] * ((1.0 if i == j else 0.0) - 1 / len(row)) / deviation
                handed[i] += values[i] * slope * signal
    return handed.view_as(inputs)


def product(first, second, relevance, epsilon):
    """Relevance of both matrices of a product: half each, in proportion to a_ik b_kj."""
    outputs = first @ second
    of_first, of_second = torch.zeros_like(first), torch.zeros_like(second)
    for i in range(outputs.shape[0]):
        for j in range(outputs.shape[1]):
            signal = relevance[i, j] / away_from_zero(outputs[i, j], epsilon) / 2
            for k in range(first.shape[1]):
                of_first[i, k] += first[i, k] * second[k, j] * signal
                of_second[k, j] += first[i, k] * second[k, j] * signal
    return of_first, of_second


def softmax(scores, relevance):
    """R_i = x_i (R_i - s_i sum_j R_j), along the last axis."""
    handed = torch.zeros_like(scores)
    for q, row in enumerate(scores):
        weights = [float(torch.exp(x)) for x in row]
        total = sum(float(r) for r in relevance[q])
        for k, x in enumerate(row):
            handed[q, k] = x * (relevance[q, k] - weights[k] / sum(weights) * total)
    return handed


def linear(layer, inputs, relevance, epsilon):
    """The epsilon rule of a linear layer of tokens (tokens, in)."""
    handed = torch.zeros_like(inputs)
    for t, token in enumerate(inputs):
        for j, weight in enumerate(layer.weight.detach()):
            contributions = weight * token
            output = contributions.sum() + layer.bias.detach()[j]
            handed[t] += contributions / away_from_zero(output, epsilon) * relevance[t, j]
    return handed


def attention(
    layers: dict, tokens: Tensor, relevance: Tensor, heads: int, epsilon: float
) -> Tensor:
    """Relevance of tokens (tokens, size) of multi-head attention, from that of its outputs."""
    states = {key: layers[key](tokens).detach() for key in ("query", "key", "value")}
    size = tokens.shape[1] // heads
    parts = [slice(head * size, (head + 1) * size) for head in range(heads)]
    scale = size**-0.5
    scores = [states["query"][:, p] @ states["key"][:, p].T * scale for p in parts]
    mixed = torch.cat(
        [s.softmax(-1) @ states["value"][:, p] for s, p in zip(scores, parts, strict=True)], dim=1
    )
    of_mixed = linear(layers["output"], mixed, relevance, epsilon)
    of_states = {key: torch.zeros_like(state) for key, state in states.items()}
    for score, p in zip(scores, parts, strict=True):
        of_weights, of_states["value"][:, p] = product(
            score.softmax(-1), states["value"][:, p], of_mixed[:, p], epsilon
        )
        of_scores = softmax(score, of_weights)
        of_query, of_key = product(states["query"][:, p], states["key"][:, p].T, of_scores, epsilon)
        of_states["query"][:, p], of_states["key"][:, p] = of_query, of_key.T
    return sum(linear(layers[key], tokens, of_states[key], epsilon) for key in states)
