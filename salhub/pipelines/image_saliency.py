"""The pipeline of the methods that draw a map over a picture."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoImageProcessor, Pipeline
from transformers.image_processing_utils import BaseImageProcessor

from salhub.auto import Method
from salhub.backbones.explained_classifier.modeling_explained_classifier import (
    ExplainedClassifierModel,
)
from salhub.errors import did_you_mean
from salhub.hub import resolve
from salhub.pipelines.image_saliency_figure import compare_results
from salhub.pipelines.image_saliency_result import OUTPUT_SUFFIXES, VIEWS, ImageSaliencyResult
from salhub.processing import load_image, map_to_picture, viewed_box

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
_TOP_PREDICTIONS = 5


class ImageSaliencyPipeline(Pipeline):
    """Explain pictures: what in them speaks for a class.

    Example:
        >>> import salhub
        >>> explain = salhub.pipeline("normgrad-efficientnet-lite0", batch_size=8)
        >>> result = explain("sample:cat")
        >>> result.saliency.shape == (result.image.height, result.image.width)
        True
    """

    input_type = "image"
    # Files that `salhub run` takes from a folder, and what it writes for each.
    input_suffixes = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
    output_suffix = ".png"
    output_suffixes = OUTPUT_SUFFIXES
    output_views = VIEWS
    call_settings = ("class_labels",)
    # What cards show, and the nearest task that the Hub knows.
    sample = "sample:cat"
    example = """
import salhub

result = salhub.pipeline("{model}")("photo.jpg")
result.save("explained.png")
"""
    hub_task = "image-classification"

    # How the command line reads one input of a person, and shows several results as one.
    read = staticmethod(load_image)
    compare = staticmethod(compare_results)

    _load_image_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_processor = False

    @classmethod
    def from_name(
        cls,
        name: str | None,
        method: Method,
        /,
        *,
        classifier: str | os.PathLike | nn.Module | None = None,
        image_processor: BaseImageProcessor | None = None,
        device: str | int | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        batch_size: int = 1,
        **settings: Any,
    ) -> "ImageSaliencyPipeline":
        """Load a model by name, or wrap `classifier` with the method.

        Args:
            name: The model; None to explain `classifier` with the method's own settings.
            method: The method of the model.
            classifier: A classifier of the user's, by name or as a module.
            image_processor: Needed only when the classifier is a module.
            device: Where to run; the CPU by default.
            dtype: Precision of the weights.
            batch_size: Pictures explained together.
            **settings: Fields of the configuration and keywords of the Hub.
        """
        model_class = method.model_class
        if classifier is None:
            load = {} if dtype is None else {"dtype": dtype}
            model = model_class.from_pretrained(name, **load, **settings)
        elif name is None:
            model = model_class.from_classifier(classifier, **settings)
        else:
            raise ValueError(
                f"'{name}' brings its own classifier; to explain another one, name the method: "
                f"salhub.pipeline('{method.name}', classifier=...)."
            )
        if image_processor is None:
            hub_arguments = {key: settings[key] for key in _HUB_ARGUMENTS if key in settings}
            image_processor = _load_processor(name or classifier, **hub_arguments)
        if classifier is not None and dtype is not None:
            model = model.to(dtype=_as_dtype(dtype))
        model.adopt_image_processor(image_processor)
        return cls(model, image_processor=image_processor, device=device, batch_size=batch_size)

    @classmethod
    def from_model(
        cls,
        model: ExplainedClassifierModel,
        *,
        image_processor: BaseImageProcessor | None = None,
        device: str | int | torch.device | None = None,
        batch_size: int = 1,
    ) -> "ImageSaliencyPipeline":
        """Make a pipeline of a model that is already loaded."""
        if image_processor is None:
            image_processor = _load_processor(model.config.name_or_path or model.config.backbone)
        model.adopt_image_processor(image_processor)
        return cls(model, image_processor=image_processor, device=device, batch_size=batch_size)

    def __call__(
        self,
        images: Any,
        class_labels: int | str | Sequence[int | str] | None = None,
        **kwargs: Any,
    ) -> ImageSaliencyResult | list[ImageSaliencyResult]:
        """Explain one picture or several.

        Args:
            images: What `salhub.load_image` takes, or a list, generator or dataset of it.
            class_labels: The class to explain, by index or name; by default the most likely one.
            **kwargs: As in transformers, such as `batch_size`.

        Returns:
            One result a picture.

        Raises:
            ValueError: A picture cannot be read, or there is no such class.
        """
        if class_labels is not None:
            kwargs["class_labels"] = class_labels
        return super().__call__(images, **kwargs)

    def _sanitize_parameters(self, class_labels=None, **unknown):
        if unknown:
            name = next(iter(unknown))
            raise ValueError(
                f"The call takes no '{name}'; it takes {', '.join(self.call_settings)}."
                f"{did_you_mean(name, self.call_settings)} Settings of the model go to "
                "salhub.pipeline(...)."
            )
        forward = {} if class_labels is None else {"class_label": self.class_index(class_labels)}
        return {}, forward, {}

    def class_index(self, class_label: int | str) -> int:
        """Return the index of a class given by index or by name.

        Raises:
            ValueError: The classifier has no class of that name.
        """
        if not isinstance(class_label, str):
            return int(class_label)
        if class_label.isdigit():
            return int(class_label)
        by_name = {name.lower(): index for index, name in self.model.id2label.items()}
        if class_label.lower() not in by_name:
            raise ValueError(
                f"The classifier has no class '{class_label}'."
                f"{did_you_mean(class_label.lower(), by_name)} Give a class name or an index."
            )
        return by_name[class_label.lower()]

    def choices(self) -> dict[str, list[str]]:
        """Return what settings can be set to in this very network, for `salhub info`."""
        if not hasattr(self.model, "saliency_layers"):
            return {}
        return {"layers": [str(layer) for layer in self.model.saliency_layers()]}

    def preprocess(self, image: Any) -> dict[str, Any]:
        picture = load_image(image)
        inputs = self.image_processor(images=picture, return_tensors="pt")
        return {
            "pixel_values": inputs["pixel_values"].to(self.dtype),
            "pictures": [picture],
        }

    def _forward(self, model_inputs, class_label=None):
        pixel_values = model_inputs["pixel_values"]
        labels = None if class_label is None else [class_label] * len(pixel_values)
        outputs = self.model(pixel_values=pixel_values, class_labels=labels)
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
            label=self._label(class_label),
            class_label=class_label,
            probability=float(probabilities[class_label]),
            predictions=[
                (self._label(int(index)), int(index), float(probability))
                for probability, index in zip(top.values, top.indices, strict=True)
            ],
            degenerate=bool(model_outputs["degenerate"][0]),
            model_name=self.model.config.name_or_path or self.model.config.backbone or "",
            viewed_box=viewed_box(self.image_processor, size),
        )

    def _label(self, index: int) -> str:
        return self.model.id2label.get(index, f"class {index}")


def _load_processor(source: Any, **hub_arguments: Any) -> BaseImageProcessor:
    if source is None or isinstance(source, nn.Module):
        raise ValueError(
            "The pictures must be prepared as the classifier wants them; give its image_processor."
        )
    resolved = resolve(source, **hub_arguments)
    if resolved.is_bundled:
        hub_arguments = {}
    with resolved.explain_missing():
        return AutoImageProcessor.from_pretrained(
            resolved.config_folder, backend="pil", **hub_arguments
        )


def _as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype
