"""How well the classes can be read off a layer: leave-one-out accuracy of a ridge regression."""

from collections.abc import Iterable

import torch
from torch import Tensor


def leave_one_out_accuracy(features: Tensor, labels: Tensor, *, ridge: float = 0.1) -> float:
    """Accuracy of a linear probe that never saw the example it is asked about.

    One-hot labels are regressed on the features; every left-out prediction follows in closed form
    from the one regression with all examples, so there is no split to choose.

    Args:
        features: (N, K).
        labels: Integers (N,), any values.
        ridge: Strength of the penalty, as a share of the mean squared length of the features.

    Returns:
        Accuracy in [0, 1].

    Raises:
        ValueError: When no class has two examples, so that nothing can be predicted.

    Example:
        >>> features = torch.tensor([[0.0], [0.1], [1.0], [1.1]])
        >>> leave_one_out_accuracy(features, torch.tensor([3, 3, 7, 7]))
        1.0
    """
    features, labels = features.detach().cpu().double(), labels.cpu()
    classes, targets, counts = labels.unique(return_inverse=True, return_counts=True)
    if len(classes) < 2 or int(counts.max()) < 2:
        raise ValueError(
            "a layer probe needs two or more classes and at least one class with two pictures, got "
            f"{len(labels)} pictures of {len(classes)} classes."
        )
    one_hot = torch.nn.functional.one_hot(targets, len(classes)).double()
    features = features - features.mean(0)
    kernel = features @ features.T
    # The constant column is the intercept; its scale is that of the features.
    scale = kernel.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    kernel = kernel + scale
    inverse = torch.linalg.inv(kernel + ridge * scale * torch.eye(len(kernel), dtype=kernel.dtype))
    # Leave-one-out residual of ridge regression: (inverse y)_i / inverse_ii.
    predicted = one_hot - (inverse @ one_hot) / inverse.diagonal()[:, None]
    return float((predicted.argmax(-1) == targets).double().mean())


def labelled_pictures(
    pixel_values: Tensor | Iterable[tuple[Tensor, int]], labels: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns pictures (N, 3, H, W) and labels (N,) of two tensors or of a dataset of pairs.

    Raises:
        ValueError: Labels missing, or not one a picture.
    """
    if isinstance(pixel_values, Tensor):
        if labels is None:
            raise ValueError("fit_layer_weights needs labels, one per picture.")
        labels = torch.as_tensor(labels)
    else:
        pairs = list(pixel_values)
        if not pairs:
            raise ValueError("the dataset is empty; give labelled pictures.")
        pixel_values = torch.stack([torch.as_tensor(picture) for picture, _ in pairs])
        labels = torch.as_tensor([int(label) for _, label in pairs])
    if labels.ndim != 1 or len(labels) != len(pixel_values):
        raise ValueError(
            f"labels must have shape ({len(pixel_values)},), one per picture, got "
            f"{tuple(labels.shape)}."
        )
    return pixel_values, labels
