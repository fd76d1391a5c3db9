"""Which score is differentiated, and its gradient for several classes in one backward pass."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# Gradients of all layers for one group of classes stay below this many bytes.
GRADIENT_BYTES = 2**28
MAX_CLASSES_AT_ONCE = 32


def class_scores(logits: Tensor) -> Tensor:
    """Scores (B, C) of logits (B, C) or, averaged by their own spatial softmax, (B, C, h, w).

    Raises:
        ValueError: Logits of another shape.

    Example:
        >>> class_scores(torch.zeros(2, 10, 7, 7)).shape
        torch.Size([2, 10])
    """
    check_logits(logits)
    if logits.ndim == 2:
        return logits
    return (logits * _position_weights(logits)).sum((-2, -1))


def check_logits(logits: Tensor) -> None:
    """Raises ValueError for logits that are neither (B, C) nor (B, C, h, w)."""
    if logits.ndim not in (2, 4):
        raise ValueError(
            "the classifier must return logits of shape (batch, classes) or (batch, "
            f"classes, height, width), got {tuple(logits.shape)}."
        )


def are_probabilities(scores: Tensor) -> bool:
    """True for scores (B, C) that look like the output of a softmax.

    Example:
        >>> are_probabilities(torch.tensor([[0.25, 0.75]]))
        True
    """
    # Half precision rounds each of many probabilities.
    tolerance = 1e-4 if scores.dtype.itemsize >= 4 else 2e-2
    sums = scores.detach().double().sum(-1)
    is_positive = scores.shape[-1] > 1 and bool((scores >= 0).all())
    return is_positive and bool(((sums - 1).abs() <= tolerance).all())


def class_directions(class_labels: Tensor, num_classes: int, *, contrastive: bool) -> Tensor:
    """Weight of each class score in the explained score, one row a class asked for.

    Args:
        class_labels: int64 (B, T).
        num_classes: C.
        contrastive: Subtract the mean of the other classes.

    Returns:
        float32 (T, B, C), one-hot unless contrastive.

    Raises:
        ValueError: Contrastive with a single class.

    Example:
        >>> class_directions(torch.tensor([[1]]), 3, contrastive=True)
        tensor([[[-0.5000,  1.0000, -0.5000]]])
    """
    one_hot = torch.nn.functional.one_hot(class_labels.T, num_classes).float()
    if not contrastive:
        return one_hot
    if num_classes < 2:
        raise ValueError("contrastive=True needs a classifier with at least two classes.")
    return one_hot - (1 - one_hot) / (num_classes - 1)


def output_seeds(logits: Tensor, directions: Tensor) -> Tensor:
    """Seeds b of the backward pass, the explained score being <b, logits>.

    For fully convolutional logits (B, C, h, w) a class's weight is spread over the positions as
    the softmax of that class's logits, held constant.

    Args:
        logits: (B, C) or (B, C, h, w).
        directions: (T, B, C) from `class_directions`.

    Returns:
        (T, *logits.shape), in the dtype of the logits.
    """
    directions = directions.to(logits.dtype)
    if logits.ndim == 2:
        return directions
    return directions[..., None, None] * _position_weights(logits.detach())


def layer_gradients(
    logits: Tensor, layers: Sequence[Tensor], directions: Tensor, at_once: int | None = None
) -> Iterator[list[Tensor | None]]:
    """Yields, a group of classes at a time, each layer's gradient (T', *layer.shape).

    Several classes go backward together, as one batch of seeds. A layer that does not reach the
    logits gives None.

    Args:
        logits: With a graph, (B, C) or (B, C, h, w).
        layers: Recorded outputs in that graph.
        directions: (T, B, C) from `class_directions`.
        at_once: Classes that go backward together; None for as many as memory allows.
    """
    per_class = sum(layer.numel() * layer.element_size() for layer in layers)
    group = max(1, min(MAX_CLASSES_AT_ONCE, GRADIENT_BYTES // max(1, per_class)))
    groups = directions.split(at_once or group)
    for index, part in enumerate(groups):
        seeds = output_seeds(logits, part)
        yield _gradients(logits, layers, seeds, keep_graph=index < len(groups) - 1)


def _gradients(logits, layers, seeds: Tensor, *, keep_graph: bool) -> list[Tensor | None]:
    if len(seeds) == 1:
        found = _backward(logits, layers, seeds[0], keep_graph)
        return [None if gradient is None else gradient[None] for gradient in found]
    try:
        return list(
            torch.autograd.grad(
                logits, layers, seeds, retain_graph=True, allow_unused=True, is_grads_batched=True
            )
        )
    except RuntimeError as error:
        if not _is_about_batching(error):
            raise
    # An operator of the network cannot take a batch of seeds, so they go one by one.
    last = len(seeds) - 1
    singles = [
        _backward(logits, layers, seed, keep_graph or index < last)
        for index, seed in enumerate(seeds)
    ]
    return [
        None if column[0] is None else torch.stack(column) for column in zip(*singles, strict=True)
    ]


def _backward(logits, layers, seed: Tensor, keep_graph: bool) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(logits, layers, seed, retain_graph=keep_graph, allow_unused=True)


def _is_about_batching(error: RuntimeError) -> bool:
    message = str(error).lower()
    return any(word in message for word in ("vmap", "batching rule", "is_grads_batched"))


def _position_weights(logits: Tensor) -> Tensor:
    return logits.flatten(-2).softmax(-1).reshape(logits.shape)
