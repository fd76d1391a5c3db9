"""What the outputs of a classifier mean: one class of several, several at once, or numbers."""

from typing import Any, Literal

from torch import Tensor

ScoreFunction = Literal["softmax", "sigmoid", "none"]


def score_function(config: Any, num_outputs: int) -> ScoreFunction:
    """Return what turns the outputs of a classifier into scores, as the pipelines of the Hub do.

    Args:
        config: Of the classifier; its `problem_type` counts, where it has one. None for a module
            without a configuration.
        num_outputs: Outputs for one input.

    Returns:
        "none" for a network that predicts numbers ("regression"); "sigmoid" where each class has a
        probability of its own ("multi_label_classification", or one output); else "softmax".

    Example:
        >>> score_function(None, 10), score_function(None, 1)
        ('softmax', 'sigmoid')
    """
    problem_type = getattr(config, "problem_type", None)
    if problem_type == "regression":
        return "none"
    if problem_type == "multi_label_classification" or num_outputs == 1:
        return "sigmoid"
    return "softmax"


def apply_score_function(logits: Tensor, function: ScoreFunction) -> Tensor:
    """Return scores of the shape of the logits (..., C), float32, or float64 of float64 logits."""
    logits = logits if logits.element_size() == 8 else logits.float()
    if function == "none":
        return logits
    return logits.sigmoid() if function == "sigmoid" else logits.softmax(dim=-1)


def without_positions(logits: Tensor) -> Tensor:
    """Return class scores (B, C) of logits (B, C), or (B, C, h, w) of a convolutional classifier.

    Positions are averaged by their own spatial softmax.
    """
    if logits.ndim == 2:
        return logits
    positions = logits.float().flatten(2)
    return (positions * positions.softmax(dim=-1)).sum(dim=-1)
