"""What is measured of every classifier while it is trained."""

import torch.nn.functional as F
from torch import Tensor


def classification_numbers(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy and mean cross-entropy, for `validate`.

    Args:
        logits: float (N, classes).
        labels: int64 (N,).

    Example:
        >>> classification_numbers(torch.zeros(2, 4), torch.tensor([0, 1]))["accuracy"]
        0.5
    """
    accuracy = (logits.argmax(-1) == labels).double().mean()
    return {"accuracy": float(accuracy), "loss": float(F.cross_entropy(logits, labels))}
