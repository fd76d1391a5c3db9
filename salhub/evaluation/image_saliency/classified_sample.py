"""A folder of labelled pictures as one classifier sees it."""

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from salhub.data.image_folder import LabelledImageFolder
from salhub.data.picture_fit import PictureFitter
from salhub.evaluation.shared_rows import ranges, shared_batches
from salhub.ops.class_scores import apply_score_function, score_function
from salhub.processing import load_image

logger = logging.getLogger(__name__)

Classify = Callable[[Tensor], Tensor]  # pixel_values (B, 3, H, W) -> logits (B, C)


class ClassifiedSample:
    """Labelled pictures and the logits a classifier gives them; pixels are read when asked for.

    Args:
        folder: The pictures.
        image_processor: The classifier's own image processor.
        classify: pixel_values (B, 3, H, W) -> logits (B, C), both in main memory.
        batch_size: Pictures classified at once.
        progress: Whether to show a bar.
        config: Configuration of the classifier, which says what its logits mean; None for one
            class of several.

    Raises:
        ValueError: If a label is no class of the classifier, a file is no picture, or the network
            predicts numbers.

    Example:
        >>> sample = ClassifiedSample(folder, processor, classify)  # doctest: +SKIP
        >>> sample.top_accuracy(1)  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: LabelledImageFolder,
        image_processor: Any,
        classify: Classify,
        *,
        batch_size: int = 16,
        progress: bool = True,
        config: Any = None,
    ) -> None:
        _check_readable(folder)
        self.folder = folder
        self.image_processor = image_processor
        self._config = config
        self._is_grey = getattr(config, "num_channels", None) == 1
        self.classify = classify
        self.class_labels = torch.tensor([image.class_index for image in folder])

        def of_batch(positions: range) -> Tensor:
            logits = classify(self.pixel_values(positions))
            # The first batch tells; the others would be work for nothing.
            self._check_classes(logits.shape[1])
            return logits

        with torch.no_grad():
            # What is explained afterwards is drawn from those that are classified right.
            batches = ranges(len(folder), batch_size)
            self.logits = shared_batches(
                "classifying", batches, of_batch, is_decisive=True, progress=progress
            )
        self._check_classes(self.logits.shape[1])
        logger.info("classified %d pictures, top-1 %.3f", len(folder), self.top_accuracy(1))

    def _check_classes(self, num_classes: int) -> None:
        largest = int(self.class_labels.max())
        if largest >= num_classes:
            raise ValueError(
                f"the pictures have labels up to {largest}, but the classifier has "
                f"{num_classes} classes; the folder uses another numbering than the "
                "classifier."
            )
        self.score_function = score_function(self._config, num_classes)
        if self.score_function == "none":
            raise ValueError(
                "the network predicts numbers (problem_type 'regression'), so there are no classes "
                "to measure by; give a classifier."
            )

    def __len__(self) -> int:
        return len(self.folder)

    @property
    def probabilities(self) -> Tensor:
        """(N, C) probabilities, float64."""
        return apply_score_function(self.logits.double(), self.score_function)

    def pixel_values(self, positions: Sequence[int]) -> Tensor:
        """Read and process some pictures, cut as the processor cuts them; (B, C, H, W) float32."""
        pictures = [load_image(self.folder[position].path) for position in positions]
        if self._is_grey:
            fitter = PictureFitter(self.image_processor, num_channels=1)
            return torch.cat([fitter.pixel_values(picture) for picture in pictures])
        return self.image_processor(images=pictures, return_tensors="pt")["pixel_values"]

    def top_accuracy(self, k: int) -> float:
        """Share of pictures whose label is among the k most likely classes."""
        best = self.logits.topk(min(k, self.logits.shape[1]), dim=1).indices
        return float((best == self.class_labels[:, None]).any(dim=1).double().mean())

    def extreme_classes(self, positions: Sequence[int]) -> Tensor:
        """(B, 2) int64: the most and the least likely class of some pictures."""
        logits = self.logits[list(positions)]
        return torch.stack([logits.argmax(dim=1), logits.argmin(dim=1)], dim=1)

    def check_confident(self, confident: Tensor, min_probability: float, grid_size: int) -> None:
        """Refuse a sample with too few confident pictures for a mosaic.

        Args:
            confident: Positions of the pictures classified right with enough probability, (M,).
            min_probability: What was enough.
            grid_size: Tiles on a side of a mosaic.

        Raises:
            ValueError: They show fewer classes than a mosaic has tiles.
        """
        num_classes = len(self.class_labels[confident].unique())
        if num_classes < grid_size**2:
            raise ValueError(
                f"{len(confident)} of {len(self)} pictures are classified correctly with a "
                f"probability of at least min_probability={min_probability}, from "
                f"{num_classes} classes; a {grid_size}x{grid_size} mosaic needs pictures of "
                f"{grid_size**2} classes. Lower min_probability, add pictures of other "
                "classes, or check that the labels match the classifier (top-1 accuracy is "
                f"{100 * self.top_accuracy(1):.0f} %)."
            )

    def draw(self, num_images: int, seed: int) -> list[int]:
        """Positions of a random sub-sample without repetition, all pictures if there are fewer."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(len(self), generator=generator)[:num_images].tolist()


def _check_readable(folder: LabelledImageFolder) -> None:
    """Look at the head of every picture, so that none stops an evaluation that has begun."""
    for image in folder:
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(image.path):
                continue
        except Exception:
            load_image(image.path)  # says what is wrong with it
