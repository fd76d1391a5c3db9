"""The pipeline of the methods that draw a map over a picture."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.image_processing_utils import BaseImageProcessor

from salhub.entries import Model
from salhub.errors import NoImageProcessorError
from salhub.explaining.modeling_explained_classifier import (
    ExplainedClassifierModel,
)
from salhub.hub import hub_keywords
from salhub.pipelines.base import PicturePipeline, load_image_processor
from salhub.pipelines.image_saliency_result import ImageSaliencyResult
from salhub.processing import map_to_picture, viewed_box

_TOP_PREDICTIONS = 5


class ImageSaliencyPipeline(PicturePipeline):
    """Explain pictures: what in them speaks for a class.

    Example:
        >>> import salhub
        >>> explain = salhub.pipeline("normgrad-efficientnet-lite0", batch_size=8)
        >>> result = explain("sample:cat")
        >>> result.saliency.shape == (result.image.height, result.image.width)
        True
    """

    result_class = ImageSaliencyResult
    call_settings = ("class_labels",)
    example = """
import salhub

result = salhub.pipeline("{model}")("photo.jpg")
result.save("explained.png")
"""

    @classmethod
    def from_name(
        cls,
        name: str | None,
        method: Model,
        /,
        *,
        classifier: str | os.PathLike | nn.Module | None = None,
        image_processor: BaseImageProcessor | None = None,
        device: str | int | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> "ImageSaliencyPipeline":
        """Load a model by name, or wrap `classifier` with the method.

        Args:
            name: The model; None to explain `classifier` with the method's own settings.
            method: The method of the model.
            classifier: A classifier of the user's, by name or as a module.
            image_processor: Needed only when the classifier is a module.
            device: Where to run; an accelerator where there is one, else the CPU.
            dtype: Precision of the weights.
            batch_size: Pictures explained together, 1 by default.
            **settings: Keywords of every call, fields of the configuration, and keywords of the
                Hub.
        """
        calling = cls._take_calling(settings)
        model_class = method.model_class
        precision = {} if dtype is None else {"dtype": dtype}
        if classifier is None:
            model = model_class.from_pretrained(name, **precision, **settings)
        elif name is None:
            model = model_class.from_classifier(classifier, **precision, **settings)
        else:
            raise ValueError(
                f"'{name}' brings its own classifier; to explain another one, name the method: "
                f"salhub.pipeline('{method.name}', classifier=...)."
            )
        if image_processor is None:
            where = hub_keywords(settings)
            if name is None:
                image_processor = load_image_processor(classifier, **where)
            else:
                image_processor = _processor_of(model, name, **where)
        model.adopt_image_processor(image_processor)
        parts = {"device": device, "batch_size": batch_size, "image_processor": image_processor}
        return cls(model, **parts, **calling)

    @classmethod
    def from_model(
        cls,
        model: ExplainedClassifierModel,
        *,
        image_processor: BaseImageProcessor | None = None,
        device: str | int | torch.device | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> "ImageSaliencyPipeline":
        """Make a pipeline of a model that is already loaded.

        Raises:
            ValueError: A setting was given, which only works while a model is loaded.
        """
        cls._refuse_loading_settings(settings)
        if image_processor is None:
            image_processor = _processor_of(model, model.config.name_or_path)
        model.adopt_image_processor(image_processor)
        parts = {"device": device, "batch_size": batch_size, "image_processor": image_processor}
        return cls(model, **parts, **settings)

    def __call__(
        self,
        images: Any,
        class_labels: int | str | Sequence[int | str] | None = None,
        **kwargs: Any,
    ) -> ImageSaliencyResult | list[ImageSaliencyResult]:
        """Explain one picture or several.

        Args:
            images: What `salhub.load_image` takes, or a list, generator or dataset of it.
            class_labels: The class to explain, by index or name, or a list of one a picture; by
                default the most likely one.
            **kwargs: Settings of the model for this call alone, such as `method` and `layers` of
                NormGrad; and as in transformers, such as `batch_size`.

        Returns:
            One result a picture.

        Raises:
            ValueError: A picture cannot be read, or there is no such class or setting.
            TypeError: A class that is neither an integer nor a name.
        """
        if isinstance(class_labels, list | tuple):
            if not isinstance(images, list) or len(images) != len(class_labels):
                raise ValueError(
                    f"{len(class_labels)} classes need a list of as many pictures; give one "
                    "class, or one for each picture."
                )
            indices = [self.class_index(label) for label in class_labels]
            images = self._with_own_each(images, {"class_label": indices})
        elif class_labels is not None:
            kwargs["class_labels"] = class_labels
        return super().__call__(images, **kwargs)

    def _sanitize_parameters(self, class_labels=None, **settings):
        self._model_with(settings)
        asked = {} if class_labels is None else {"class_label": self.class_index(class_labels)}
        return asked, settings, {}

    @property
    def class_names(self) -> Mapping[int, str]:
        """Names of the explained classifier's classes by index; empty when it has none."""
        return self.model.id2label

    def choices(self) -> dict[str, list[str]]:
        """Return what settings can be set to in this very network, for `salhub info`."""
        if not hasattr(self.model, "saliency_layers"):
            return {}
        return {"layers": [str(layer) for layer in self.model.saliency_layers()]}

    def prepare(self, image: Any, class_label: int | None = None) -> dict[str, Any]:
        return {**super().prepare(image), "class_labels": [class_label]}

    def _forward(self, model_inputs, **settings):
        labels = _flat(model_inputs["class_labels"])
        outputs = self._model_with(settings)(
            pixel_values=model_inputs["pixel_values"],
            class_labels=None if labels[0] is None else labels,
        )
        return {
            "saliency": outputs.saliency,
            "logits": outputs.logits,
            "class_labels": outputs.class_labels,
            "degenerate": outputs.degenerate,
            "pictures": model_inputs["pictures"],
        }

    def postprocess(self, model_outputs) -> ImageSaliencyResult:
        picture = model_outputs["pictures"][0]
        size = (picture.height, picture.width)
        [saliency] = map_to_picture(model_outputs["saliency"].float(), self.image_processor, [size])
        probabilities = model_outputs["logits"][0].float().softmax(dim=-1)
        class_label = int(model_outputs["class_labels"][0])
        top = probabilities.topk(min(_TOP_PREDICTIONS, len(probabilities)))
        return ImageSaliencyResult(
            image=picture,
            saliency=saliency,
            label=self.class_name(class_label),
            class_label=class_label,
            probability=float(probabilities[class_label]),
            predictions=[
                (self.class_name(int(index)), int(index), float(probability))
                for probability, index in zip(top.values, top.indices, strict=True)
            ],
            degenerate=bool(model_outputs["degenerate"][0]),
            model_name=self._model_name(),
            viewed_box=viewed_box(self.image_processor, size),
        )

    def _model_name(self) -> str:
        config = self.model.config
        # A classifier of the user's gives its name where the method was only wrapped around it.
        own = getattr(getattr(self.model.backbone, "config", None), "name_or_path", "") or ""
        return config.name_or_path or config.backbone or Path(own).name


def _flat(values: list) -> list:
    # Transformers joins the one-item lists of a batch into a list of lists.
    return [item for value in values for item in (value if isinstance(value, list) else [value])]


def _processor_of(model: ExplainedClassifierModel, name: Any, **hub_arguments: Any) -> Any:
    """The model's own image processor, or else that of the classifier it was made of."""
    config = model.config
    if name:
        try:
            return load_image_processor(name, **hub_arguments)
        except NoImageProcessorError:
            if config.backbone is None:
                raise
    # The revision and the subfolder of a model are none of its classifier's.
    for own in ("revision", "subfolder"):
        hub_arguments.pop(own, None)
    return load_image_processor(config.backbone, **config.backbone_place, **hub_arguments)
