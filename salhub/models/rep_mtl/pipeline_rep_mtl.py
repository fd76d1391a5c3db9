"""The pipeline of networks that do several tasks at once."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from salhub.data.samples import PREFIX
from salhub.modeling import refuse_broken_weights
from salhub.models.rep_mtl.configuration_rep_mtl import Task
from salhub.models.rep_mtl.result_rep_mtl import MultiTaskResult
from salhub.models.rep_mtl.sample_rooms import number_of_room, sample_room
from salhub.pipelines.base import PicturePipeline
from salhub.processing import load_image

# Of the longer side to the shorter one, beyond what is asked for; more is said.
_UNSEEN_STRETCH = 1.02


class MultiTaskPipeline(PicturePipeline):
    """Do all tasks of a network on pictures, and say what each task reads in them.

    Example:
        >>> import salhub
        >>> see = salhub.pipeline("salhub/rep-mtl-rooms")  # doctest: +SKIP
        >>> result = see("sample:room-7")  # doctest: +SKIP
        >>> result.save("tasks.png")  # doctest: +SKIP
    """

    result_class = MultiTaskResult
    sample = f"{PREFIX}room"
    hub_task = "depth-estimation"
    example = """
import salhub

# a picture, or a rendered room such as "sample:room-7"
result = salhub.pipeline("{model}")("{sample}")
print(result.summary())
result.save("tasks.png")  # or .npz: all maps
"""

    @staticmethod
    def read(source: Any) -> Any:
        """Return a picture, or the name of a sample room as it is."""
        return source if number_of_room(source) is not None else load_image(source)

    def __call__(self, images: Any, **kwargs: Any) -> MultiTaskResult | list[MultiTaskResult]:
        """Do all tasks on one picture, or several.

        Args:
            images: What `salhub.load_image` takes, "sample:room", "sample:room-7" or another
                number, whose truth is known; or a list, generator or dataset of it.
            **kwargs: As in transformers, such as `batch_size`.

        Returns:
            One result a picture.

        Raises:
            ValueError: A picture cannot be read, there is no such room, or weights are no numbers.
            TypeError: An object that cannot be a picture.
        """
        return super().__call__(images, **kwargs)

    def _sanitize_parameters(self, **unknown):
        self._refuse_unknown(unknown)
        return {}, {}, {}

    def choices(self) -> dict[str, list[str]]:
        """Return the tasks, for `salhub info`."""
        return {"tasks": [f"{task.name} ({task.word})" for task in self.model.tasks]}

    def prepare(self, image: Any) -> dict[str, Any]:
        number = number_of_room(image)
        truth = {}
        if number is not None:
            # Of the size that the network sees, so that every pixel has its truth.
            room = sample_room(number, int(self.image_processor.size["height"]))
            picture, name = Image.fromarray(room.picture), f"room-{number}"
            truth = {one: getattr(room, one) for one in ("segmentation", "depth", "normals")}
        else:
            picture, name = load_image(image), _file_name(image)
        known = {task.name: task for task in self.model.tasks}
        # Other networks may call something else so.
        truth = {one: v for one, v in truth.items() if one in known and known[one].type == one}
        pixels = self.image_processor(picture, return_tensors="pt")["pixel_values"]
        return {
            "pixel_values": pixels.to(self.dtype),
            "pictures": [picture],
            "names": [name],
            "truths": [truth],
        }

    def _forward(self, model_inputs):
        found = self.model(pixel_values=model_inputs["pixel_values"], output_saliency=True)
        for prediction in found.predictions.values():
            refuse_broken_weights(self.model, prediction)
        flat = {f"prediction {name}": one for name, one in found.predictions.items()}
        return {
            **flat,
            "saliency": found.saliency,
            "shares": found.shares,
            "affinity": found.task_affinity,
            **{name: model_inputs[name] for name in ("pictures", "names", "truths")},
        }

    def postprocess(self, model_outputs) -> MultiTaskResult:
        [picture], [name], [truth] = (model_outputs[one] for one in ("pictures", "names", "truths"))
        answers = {
            task.name: _answer(task, model_outputs[f"prediction {task.name}"][0])
            for task in self.model.tasks
        }
        saliency, shares, affinity = (
            model_outputs[one][0].float().numpy() for one in ("saliency", "shares", "affinity")
        )
        return MultiTaskResult(
            image=picture,
            tasks=self.model.tasks,
            answers=answers,
            saliency=saliency,
            shares=shares,
            affinity=affinity,
            truth=truth,
            model_name=self._model_name(),
            image_name=name,
            notes=self._squeezed(picture),
        )

    def _squeezed(self, picture: Image.Image) -> list[str]:
        """Say that a picture was brought to another shape."""
        height, width = (int(self.image_processor.size[one]) for one in ("height", "width"))
        stretch = picture.width * height / (picture.height * width)
        if max(stretch, 1 / stretch) <= _UNSEEN_STRETCH:
            return []
        return [
            f"The picture of {picture.width} x {picture.height} pixels was resized to "
            f"{width} x {height}, which changes its proportions; crop it to that shape to "
            "keep them."
        ]


def _answer(task: Task, prediction: torch.Tensor) -> np.ndarray:
    """What a task says, as `task_picture` takes it."""
    values = prediction.float()
    if task.type == "segmentation":
        return values.argmax(0).numpy()
    if task.type == "classification":
        return values.softmax(0).numpy()
    return (values.sigmoid() if task.type == "edge" else values).numpy()


def _file_name(source: Any) -> str:
    is_place = isinstance(source, str) and (":" not in source or Path(source).is_file())
    return Path(source).name if is_place or isinstance(source, os.PathLike) else ""
