"""What a task says of a picture, as a picture: classes, depths, normals, edges, numbers."""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from salhub.models.rep_mtl.configuration_rep_mtl import Task
from salhub.viz import colorize, message_panel

# Told apart by people who see few colours (Okabe and Ito); repeated after the last.
COLORS = (
    "e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00", "cc79a7", "999999",
)  # fmt: skip
_UNKNOWN = (60, 60, 60)


def task_picture(
    task: Task, values: np.ndarray, size: tuple[int, int], span: tuple[float, float] | None = None
) -> Image.Image:
    """Draw the answer of a task, or its truth.

    Args:
        task: The task.
        values: "segmentation": classes (H, W). "depth": (H, W). "normals": (3, H, W). "edge":
            probabilities (H, W). "classification": probabilities (K,). "regression": (K,), or
            (K, H, W) of a dense one, of which the first is drawn.
        size: Width and height of the picture.
        span: What the darkest and the brightest colour of a map of numbers mean; its own range
            unless given.

    Returns:
        RGB picture of that size; depths are darker the farther they are.
    """
    if not task.dense:
        return message_panel(size, answer_words(task, values))
    if task.type == "segmentation":
        drawn = label_colors(values.astype(np.int64), task.num_labels or 1)
    elif task.type == "normals":
        drawn = np.rint(255 * (values.transpose(1, 2, 0).clip(-1, 1) + 1) / 2).astype(np.uint8)
    else:
        numbers = values[0] if values.ndim == 3 else values
        low, high = span or number_span(task, [numbers])
        scaled = (np.nan_to_num(numbers, nan=low) - low) / max(high - low, 1e-12)
        scaled = 1 - scaled if task.type == "depth" else scaled
        drawn = colorize(scaled.clip(0, 1), "gray" if task.type == "edge" else "viridis")
        drawn[~np.isfinite(numbers)] = _UNKNOWN
    return Image.fromarray(drawn).resize(size, Image.Resampling.NEAREST)


def label_colors(labels: np.ndarray, num_labels: int) -> np.ndarray:
    """The colour of each label, uint8 (H, W, 3); grey where it is no class, as of what is ignored.

    Example:
        >>> label_colors(np.array([[0, 9]]), 2).tolist()
        [[[230, 159, 0], [60, 60, 60]]]
    """
    table = np.array([tuple(bytes.fromhex(COLORS[n % len(COLORS)])) for n in range(num_labels)])
    is_class = (labels >= 0) & (labels < num_labels)
    colors = table[np.where(is_class, labels, 0)]
    return np.where(is_class[..., None], colors, _UNKNOWN).astype(np.uint8)


def number_span(task: Task, several: list[np.ndarray]) -> tuple[float, float]:
    """The range of numbers that are to be compared; of edges always 0 to 1."""
    if task.type == "edge":
        return 0.0, 1.0
    values = np.concatenate([one.ravel() for one in several])
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)


def answer_words(task: Task, values: np.ndarray) -> str:
    """What a task says, in a few words."""
    if task.type == "segmentation":
        counts = np.bincount(values.ravel().astype(np.int64), minlength=task.num_labels or 1)
        order = np.argsort(-counts, kind="stable")[:3]
        return ", ".join(
            f"{task.class_name(n)} {100 * counts[n] / values.size:.0f} %"
            for n in order
            if counts[n]
        )
    if task.type == "classification":
        best = int(values.argmax())
        return f"{task.class_name(best)} ({100 * float(values[best]):.0f} %)"
    if task.type == "edge":
        return f"edges on {100 * float((values > 0.5).mean()):.0f} %"
    if task.type == "normals":
        turned = np.rad2deg(np.arccos(values[2].clip(-1, 1)))
        return f"surfaces tilted by {float(np.median(turned)):.0f} degrees (median)"
    finite = values[np.isfinite(values)]
    if task.type == "regression" and not task.dense:
        return ", ".join(f"{one:.3g}" for one in values.ravel()[:4])
    return f"{float(finite.min()):.2f} to {float(finite.max()):.2f}" if finite.size else "nothing"


def metric_words(numbers: Mapping[str, float]) -> str:
    """Metrics of an answer against its truth, in one line."""
    return ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in numbers.items())
