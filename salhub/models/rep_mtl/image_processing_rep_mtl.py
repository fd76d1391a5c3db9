"""Image processor of several tasks: a picture and all its labels go through one geometry."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers.image_processing_utils import BatchFeature

from salhub.backbones.cifar_resnet.image_processing_cifar_resnet import CifarResNetImageProcessor
from salhub.models.rep_mtl.configuration_rep_mtl import Task
from salhub.models.rep_mtl.joint_geometry import cropped, mirrored, resized
from salhub.processing import load_image

# As torch names them, for numbers and for classes.
_WHOLE = (np.integer, np.bool_)


class RepMTLImageProcessor(CifarResNetImageProcessor):
    """Turn pictures into the input of `RepMTLForMultiTask`, and their labels into its labels.

    The whole picture is resized to `size`, whatever its shape; dense labels are resized with it,
    each pixel taking the nearest value. Needs no torchvision.

    Args:
        size: Height and width of the output in pixels, 64 by default.
        image_mean: Subtracted from values in [0, 1].
        image_std: Divides what is left.

    Raises:
        ValueError: A setting out of range, or a picture that cannot be read.

    Example:
        >>> processor = RepMTLImageProcessor(size={"height": 32, "width": 48})
        >>> labels = {"parts": [np.zeros((300, 451), dtype=np.uint8)]}
        >>> tasks = [Task("parts", "segmentation", 6)]
        >>> found = processor.with_labels(["sample:cat"], labels, tasks)
        >>> found["pixel_values"].shape, found["labels"]["parts"].shape
        (torch.Size([1, 3, 32, 48]), torch.Size([1, 32, 48]))
    """

    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.25, 0.25, 0.25]
    size = {"height": 64, "width": 64}

    def with_labels(
        self,
        images: Sequence[Any],
        labels: Mapping[str, Sequence[Any]],
        tasks: Sequence[Task],
        *,
        flip_probability: float = 0.0,
        least_crop: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> BatchFeature:
        """Prepare pictures and their labels together.

        Args:
            images: B pictures, as `salhub.processing.load_image` reads them.
            labels: Task -> B labels: arrays (H, W) of the size of their picture, of normals
                (3, H, W) or (H, W, 3); a number a picture for classes, (K,) for regression. Tasks
                may be missing.
            tasks: The tasks of the model, `config.task_list`.
            flip_probability: Share of the pictures that are mirrored, in [0, 1].
            least_crop: Shortest side of a random crop, as a share of the picture, in (0, 1]; 1
                for none. Depths are divided by the enlargement.
            generator: Draws crops and flips.

        Returns:
            `pixel_values` float32 (B, 3, H, W), and `labels`, task -> tensor, as the model takes
            them.

        Raises:
            ValueError: A task that there is not, not one label a picture, labels of another size
                than their picture, or a share out of range.
        """
        if not 0 <= flip_probability <= 1 or not 0 < least_crop <= 1:
            raise ValueError(
                "flip_probability must be in [0, 1] and least_crop in (0, 1], got "
                f"{flip_probability} and {least_crop}."
            )
        by_name = {task.name: task for task in tasks}
        if unknown := sorted(labels.keys() - by_name.keys()):
            raise ValueError(
                f"There is no task '{unknown[0]}'; labels can be given for {', '.join(by_name)}."
            )
        pictures = [load_image(one) for one in images]
        sizes = [(picture.height, picture.width) for picture in pictures]
        prepared = {
            name: _stacked(by_name[name], of_task, sizes, self.size)
            for name, of_task in labels.items()
        }
        pixels = self(pictures, return_tensors="pt")["pixel_values"]
        if least_crop < 1:
            side = least_crop + (1 - least_crop) * torch.rand(len(pixels), generator=generator)
            corner = torch.rand(len(pixels), 2, generator=generator) * (1 - side)[:, None]
            boxes = torch.cat([corner, side[:, None]], 1)
            pixels, prepared = cropped(pixels, prepared, tasks, boxes)
        if flip_probability:
            flips = torch.rand(len(pixels), generator=generator) < flip_probability
            pixels, prepared = mirrored(pixels, prepared, tasks, flips)
        return BatchFeature({"pixel_values": pixels, "labels": prepared})


def _stacked(
    task: Task, labels: Sequence[Any], sizes: list[tuple[int, int]], size: Any
) -> torch.Tensor:
    if len(labels) != len(sizes):
        raise ValueError(
            f"Task '{task.name}' has {len(labels)} labels for {len(sizes)} pictures; give "
            "one per picture."
        )
    prepared = []
    for index, (one, picture_size) in enumerate(zip(labels, sizes, strict=True)):
        array = np.asarray(one)
        if task.dense:
            if task.type == "normals" and array.ndim == 3 and array.shape[0] != 3:
                array = np.moveaxis(array, -1, 0)
            expected = (3, *picture_size) if task.type == "normals" else picture_size
            if array.shape[-2:] != picture_size or (
                task.type != "regression" and array.shape != expected
            ):
                raise ValueError(
                    f"Label {index} of task '{task.name}' ({task.type}) must have the shape "
                    f"of its picture, {expected}, got {array.shape}."
                )
        is_whole = task.type in ("segmentation", "classification", "edge")
        if is_whole and not issubclass(array.dtype.type, _WHOLE):
            raise ValueError(
                f"Label {index} of task '{task.name}' ({task.type}) must hold whole numbers, got "
                f"{array.dtype}."
            )
        tensor = torch.from_numpy(array.astype(np.int64 if is_whole else np.float32))
        if task.dense:
            tensor = resized(tensor[None], (size.height, size.width))[0]
        prepared.append(tensor)
    return torch.stack(prepared)
