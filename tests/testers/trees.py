"""Trees of outputs: dictionaries, lists, tuples and model outputs, nested, with tensors in them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def leaves(tree: Any, place: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its place, such as `maps[2].scores`; what is no number is left out."""
    if isinstance(tree, Tensor):
        yield place, tree
    elif isinstance(tree, np.ndarray):
        yield place, torch.from_numpy(tree)
    elif isinstance(tree, bool | int | float):
        yield place, torch.tensor(tree)
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, f"{place}.{key}".lstrip("."))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from leaves(value, f"{place}[{index}]")


def changed(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same tree with every tensor changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        return {key: changed(value, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(changed(value, change) for value in tree)
    return tree


def halved(tree: Any) -> Any:
    """The same tree with every tensor of fractions in bfloat16."""
    return changed(tree, lambda one: one.bfloat16() if one.is_floating_point() else one)


def item(tree: Any, index: int, size: int) -> Any:
    """What a tree of a batch says of one item, as a batch of one.

    Tensors are cut along their first dimension. A list holds one value an item where it has as many
    and they are no batches themselves. What has no dimension, such as a mean loss, is left out.
    """
    if isinstance(tree, Tensor | np.ndarray):
        if tree.ndim == 0:
            return None
        assert len(tree) == size, f"a batch of {size} gave a tensor of shape {tuple(tree.shape)}"
        return tree[index : index + 1]
    if isinstance(tree, Mapping):
        return {key: item(value, index, size) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        if not _holds_batches(tree, size) and len(tree) == size:
            return [tree[index]]
        return [item(value, index, size) for value in tree]
    return None


def assert_equal(actual: Any, expected: Any, tolerance: float = 0.0) -> None:
    """Both have the same tensors at the same places."""
    found, wanted = dict(leaves(actual)), dict(leaves(expected))
    assert found.keys() == wanted.keys()
    for place, value in wanted.items():
        torch.testing.assert_close(
            found[place],
            value,
            rtol=tolerance,
            atol=tolerance,
            equal_nan=True,
            msg=lambda text, place=place: f"{place}: {text}",
        )


def _holds_batches(tree: Any, size: int) -> bool:
    tensors = [tensor for _, tensor in leaves(tree)]
    return bool(tensors) and all(tensor.ndim and len(tensor) == size for tensor in tensors)
