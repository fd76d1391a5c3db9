"""The pipeline of the methods that draw a map over a picture."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import torch
from torch import nn
from transformers import AutoImageProcessor, Pipeline
from transformers.image_processing_utils import BaseImageProcessor

from salhub.auto import Method
from salhub.backbones.explained_classifier.modeling_explained_classifier import (
    ExplainedClassifierModel,
)
from salhub.errors import NoImageProcessorError, did_you_mean
from salhub.hub import resolve
from salhub.pipelines.image_saliency_figure import compare_results
from salhub.pipelines.image_saliency_result import OUTPUT_SUFFIXES, VIEWS, ImageSaliencyResult
from salhub.processing import load_image, map_to_picture, viewed_box

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
_TOP_PREDICTIONS = 5
# An index written as text; no classifier has more classes than nine digits tell.
_INDEX = re.compile(r"[0-9]{1,9}")


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
    comparison_suffixes = (".png", ".jpg", ".jpeg")
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
            hub_arguments = {key: settings[key] for key in _HUB_ARGUMENTS if key in settings}
            if name is None:
                image_processor = _load_processor(classifier, **hub_arguments)
            else:
                image_processor = _processor_of(model, name, **hub_arguments)
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
        **settings: Any,
    ) -> "ImageSaliencyPipeline":
        """Make a pipeline of a model that is already loaded.

        Raises:
            ValueError: A setting was given, which only works while a model is loaded.
        """
        if settings:
            raise ValueError(
                f"'{next(iter(settings))}' can be set only for a model loaded by name; set it on "
                "the model or its config before making a pipeline of it."
            )
        if image_processor is None:
            image_processor = _processor_of(model, model.config.name_or_path)
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
            class_labels: The class to explain, by index or name, or a list of one a picture; by
                default the most likely one.
            **kwargs: As in transformers, such as `batch_size`.

        Returns:
            One result a picture.

        Raises:
            ValueError: A picture cannot be read, or there is no such class.
            TypeError: A class that is neither an integer nor a name.
        """
        if isinstance(images, list) and not images:
            return []
        if isinstance(class_labels, list | tuple):
            if not isinstance(images, list) or len(images) != len(class_labels):
                raise ValueError(
                    f"{len(class_labels)} classes need a list of as many pictures; give one "
                    "class, or one for each picture."
                )
            indices = [self.class_index(label) for label in class_labels]
            images = [_Asked(*pair) for pair in zip(images, indices, strict=True)]
        elif class_labels is not None:
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
        asked = {} if class_labels is None else {"class_label": self.class_index(class_labels)}
        return asked, {}, {}

    def class_index(self, class_label: int | str) -> int:
        """Return the index of a class given by index or by name.

        Raises:
            ValueError: The classifier has no class of that name, or several.
            TypeError: Neither an integer nor a text.
        """
        if isinstance(class_label, str) and not _INDEX.fullmatch(class_label):
            return self._index_of_name(class_label)
        if isinstance(class_label, bool) or not isinstance(class_label, str | SupportsIndex):
            raise TypeError(f"A class is given by index or name, got {class_label!r}.")
        return int(class_label)

    def _index_of_name(self, class_label: str) -> int:
        labels = self.model.id2label
        names = {index: name.lower() for index, name in labels.items()}
        found = [index for index, name in labels.items() if name == class_label]
        found = found or [i for i, name in names.items() if name == class_label.lower()]
        if not found:
            raise ValueError(
                f"The classifier has no class '{class_label}'."
                f"{did_you_mean(class_label.lower(), names.values())} Give a name or an index."
            )
        if len(found) > 1:
            raise ValueError(
                f"{len(found)} classes are called '{class_label}'; give an index, one of "
                f"{', '.join(map(str, found))}."
            )
        return found[0]

    def choices(self) -> dict[str, list[str]]:
        """Return what settings can be set to in this very network, for `salhub info`."""
        if not hasattr(self.model, "saliency_layers"):
            return {}
        return {"layers": [str(layer) for layer in self.model.saliency_layers()]}

    def preprocess(self, image: Any, class_label: int | None = None) -> dict[str, Any]:
        if isinstance(image, _Asked):
            image, class_label = image.image, image.class_label
        picture = load_image(image)
        inputs = self.image_processor(images=picture, return_tensors="pt")
        return {
            "pixel_values": inputs["pixel_values"].to(self.dtype),
            "pictures": [picture],
            "class_labels": [class_label],
        }

    def _forward(self, model_inputs):
        labels = _flat(model_inputs["class_labels"])
        outputs = self.model(
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
            label=self._label(class_label),
            class_label=class_label,
            probability=float(probabilities[class_label]),
            predictions=[
                (self._label(int(index)), int(index), float(probability))
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

    def _label(self, index: int) -> str:
        return self.model.id2label.get(index, f"class {index}")


class _Asked(NamedTuple):
    """A picture and the class to explain in it."""

    image: Any
    class_label: int


def _flat(values: list) -> list:
    # Transformers joins the one-item lists of a batch into a list of lists.
    return [item for value in values for item in (value if isinstance(value, list) else [value])]


def _processor_of(model: ExplainedClassifierModel, name: Any, **hub_arguments: Any) -> Any:
    """The model's own image processor, or else that of the classifier it was made of."""
    config = model.config
    if name:
        try:
            return _load_processor(name, **hub_arguments)
        except NoImageProcessorError:
            if config.backbone is None:
                raise
    # The revision of a model is none of its classifier's.
    hub_arguments.pop("revision", None)
    if config.backbone_revision is not None:
        hub_arguments["revision"] = config.backbone_revision
    return _load_processor(config.backbone, **hub_arguments)


def _load_processor(source: Any, **hub_arguments: Any) -> BaseImageProcessor:
    if source is None or isinstance(source, nn.Module):
        raise ValueError(
            "The pictures must be prepared as the classifier wants them; give its image_processor."
        )
    resolved = resolve(source, **hub_arguments)
    if resolved.source == "folder" and not _has_processor(Path(resolved.name)):
        raise NoImageProcessorError(
            f"{resolved.name} has no preprocessor_config.json, which says how pictures are "
            f"prepared; save it there with image_processor.save_pretrained('{resolved.name}')."
        )
    if resolved.is_bundled:
        hub_arguments = {}
    with resolved.explain_missing(**hub_arguments):
        return AutoImageProcessor.from_pretrained(
            resolved.config_folder, backend="pil", **hub_arguments
        )


def _has_processor(folder: Path) -> bool:
    names = ("preprocessor_config.json", "processor_config.json")
    return any((folder / name).is_file() for name in names)
