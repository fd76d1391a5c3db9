"""Scores of Torch-Pruning over the units of NViT.

Its own pruner narrows queries, keys and values together, and knows neither heads nor their channels
apart on such a network; so its importance classes are handed groups of weights that stand for our
units, and give the scores that they would give.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from salhub.models.nvit.importance import NViTScores
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.models.nvit.ranking import GROUP_SIZES
from salhub.models.nvit.shapes import STRUCTURES


@dataclass
class _Dependency:
    """What an importance of Torch-Pruning asks of a dependency."""

    layer: nn.Module
    handler: Any

    @property
    def target(self) -> Any:
        return self

    @property
    def module(self) -> nn.Module:
        return self.layer

    @property
    def pruning_fn(self) -> Any:
        return self.handler


@dataclass
class _Item:
    dep: _Dependency
    idxs: list[int]

    @property
    def root_idxs(self) -> list[int]:
        return self.idxs

    def __iter__(self) -> Iterator[Any]:
        return iter((self.dep, self.idxs))


def torch_pruning_scores(
    model: NViTForImageClassification,
    batches: Sequence[tuple[Tensor, Tensor]],
    kind: str,
) -> NViTScores:
    """Scores as Torch-Pruning's importance classes give them with their defaults.

    Args:
        model: The network.
        batches: Pictures and labels. "Taylor" takes the gradient of their mean; "Hessian" one
            backward pass a picture, as its documentation does.
        kind: "Taylor" or "Hessian".
    """
    import torch_pruning

    model.zero_grad()
    if kind == "Taylor":
        importance = torch_pruning.importance.TaylorImportance()
        for pixels, labels in batches:
            (model(pixels, labels=labels).loss / len(batches)).backward()
    else:
        importance = torch_pruning.importance.HessianImportance()
        importance.zero_grad()
        for pixels, labels in batches:
            for one, label in zip(pixels.split(1), labels.split(1), strict=True):
                model.zero_grad()
                model(one, labels=label).loss.backward()
                importance.accumulate_grad(model)
    values = torch.zeros(model.layout.size)
    for name, block, place in model.layout:
        group, rows = _group(model, name, block, torch_pruning)
        found = importance(group)
        values[place] = torch.stack([found[own].sum() for own in rows])
    model.zero_grad()
    return NViTScores(model.layout, values, f"torch-pruning {kind}", len(batches))


def isomorphic(scores: NViTScores) -> NViTScores:
    """Scores that take the same share of every structure, the least units of all blocks first.

    As Torch-Pruning's isomorphic mode, which ranks parts of one kind among themselves.
    """
    values = torch.zeros_like(scores.values)
    for name in STRUCTURES:
        places = scores.layout.places_of(name)
        order = scores.values[places].argsort().argsort()
        # Groups of every structure have the same sum at the same rank.
        values[places] = (order.to(values) + 1) / len(places) / GROUP_SIZES[name]
    return NViTScores(scores.layout, values, f"{scores.score}, isomorphic", scores.num_batches)


def _group(
    model: NViTForImageClassification, name: str, block: int | None, package: Any
) -> tuple[list[_Item], list[list[int]]]:
    """The weights of a structure as a group, and which of its channels each unit has."""
    rows, columns = package.prune_linear_out_channels, package.prune_linear_in_channels
    if block is None:
        width = model.config.hidden_size
        parts = [(model.nvit.embeddings.patch_projection, package.prune_conv_out_channels)]
        norm = package.prune_layernorm_out_channels
        parts.append((_plain_norm(model.nvit.final_norm), norm))
        for layer in model.nvit.layers:
            attention, mlp = layer.attention, layer.mlp
            parts += [(_plain_norm(one), norm) for one in (layer.attention_norm, layer.mlp_norm)]
            inputs = (attention.q_proj, attention.k_proj, attention.v_proj, mlp.fc1)
            parts += [(one, columns) for one in inputs]
            parts += [(one, rows) for one in (attention.o_proj, mlp.fc2)]
        parts.append((model.classifier, columns))
        return _items(parts, width), [[place] for place in range(width)]
    layer = model.nvit.layers[block]
    attention, mlp = layer.attention, layer.mlp
    if name == "mlp":
        width = mlp.fc1.out_features
        return _items([(mlp.fc1, rows), (mlp.fc2, columns)], width), [[p] for p in range(width)]
    heads, qk, v = attention.heads, attention.qk, attention.v
    of_keys = [(attention.q_proj, rows), (attention.k_proj, rows)]
    of_values = [(attention.v_proj, rows), (attention.o_proj, columns)]
    if name == "qk":
        units = [[head * qk + place for head in range(heads)] for place in range(qk)]
        return _items(of_keys, heads * qk), units
    if name == "v":
        units = [[head * v + place for head in range(heads)] for place in range(v)]
        return _items(of_values, heads * v), units
    if qk != v:
        raise ValueError("Torch-Pruning needs heads whose queries and values are as wide.")
    units = [list(range(head * v, (head + 1) * v)) for head in range(heads)]
    return _items(of_keys + of_values, heads * v), units


def _items(parts: Sequence[tuple[nn.Module, Any]], width: int) -> list[_Item]:
    return [_Item(_Dependency(layer, handler), list(range(width))) for layer, handler in parts]


def _plain_norm(norm: nn.Module) -> nn.Module:
    """The layer norm as one of torch, which the importance classes look for."""
    plain = nn.LayerNorm(len(norm.weight))
    plain.weight, plain.bias = norm.weight, norm.bias
    return plain
