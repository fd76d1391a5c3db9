"""The pipeline of the methods that draw a map over a picture."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.image_processing_utils import BaseImageProcessor

from salhub.data.picture_fit import FITS, FittedPicture, PictureFitter
from salhub.entries import Model
from salhub.errors import NoImageProcessorError, did_you_mean
from salhub.explaining.modeling_explained_classifier import (
    ExplainedClassifierModel,
)
from salhub.hub import hub_keywords
from salhub.ops.class_scores import ScoreFunction, apply_score_function, score_function
from salhub.pipelines.base import PicturePipeline, load_image_processor
from salhub.pipelines.doubts import doubts_of_picture, doubts_of_scores
from salhub.pipelines.image_saliency_result import ImageSaliencyResult
from salhub.pipelines.picture_view import Explained, View
from salhub.processing import load_image, place_map

_TOP_PREDICTIONS = 5


class _Prepared(dict):
    """One picture; whole ones differ in size, so no collation may meet their pixel values."""

    def __missing__(self, key: str) -> Any:
        if key != "pixel_values":
            raise KeyError(key)
        return self["views"][0].fitted.pixel_values


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
    # Whether the network takes pictures of other sizes than its own; None until it was tried.
    _any_size: bool | None = None
    call_settings = ("class_labels", "fit")
    example = """
import salhub

# a sample photo; you can also give a path, a URL, a PIL image or an array
result = salhub.pipeline("{model}")("{sample}")
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
                f"'{name}' has its own classifier; to explain another one, name the method: "
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
            **kwargs: `fit`, how a picture is brought to the network: "whole", the default, so that
                the map covers all of it, or "crop", as the image processor cuts it, which is how
                models are evaluated; settings of the model for this call alone, such as `method`
                and `layers` of NormGrad; and as in transformers, such as `batch_size`.

        Returns:
            One result a picture.

        Raises:
            ValueError: A picture cannot be read, or there is no such class or setting.
            TypeError: A class that is neither an integer nor a name.
        """
        if isinstance(class_labels, list | tuple):
            if not isinstance(images, list) or len(images) != len(class_labels):
                raise ValueError(
                    f"Got {len(class_labels)} classes for a different number of pictures; "
                    "give one class, or one class per picture."
                )
            indices = [self.class_index(label) for label in class_labels]
            images = self._with_own_each(images, {"class_label": indices})
        elif class_labels is not None:
            kwargs["class_labels"] = class_labels
        return super().__call__(images, **kwargs)

    def _sanitize_parameters(self, class_labels=None, fit=None, **settings):
        self._model_with(settings)
        asked = {"settings": settings}
        if class_labels is not None:
            asked["class_label"] = self.class_index(class_labels)
        if fit is not None:
            asked["fit"] = _checked_fit(fit)
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

    def prepare(
        self,
        image: Any,
        class_label: int | None = None,
        fit: str = FITS[0],
        settings: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        view = self.view(image, fit, settings)
        return _Prepared(views=[view], class_labels=[class_label])

    def view(
        self, image: Any, fit: str = FITS[0], settings: Mapping[str, Any] | None = None
    ) -> View:
        """Prepare one picture as a call does.

        Args:
            image: What `salhub.load_image` takes.
            fit: As of a call.
            settings: Fields of the configuration for this picture alone.

        Raises:
            ValueError: It cannot be read, or is none for this network.
        """
        picture = load_image(image)
        model = self._model_with(settings or {})
        crop = self.fitter.crop(picture)
        if _checked_fit(fit) == "crop" or crop.fit != "crop":
            return View(picture, crop)
        whole = self.fitter.whole(picture, lambda one: self._takes_any_size(model, one))
        return View(picture, whole, crop)

    @cached_property
    def fitter(self) -> PictureFitter:
        """What prepares pictures, whole or cut."""
        patch_size = getattr(self.model.config.backbone_config, "patch_size", None)
        patch_size = patch_size if isinstance(patch_size, int) else None
        return PictureFitter(self.image_processor, self.model.num_channels, patch_size)

    def _takes_any_size(self, model: ExplainedClassifierModel, crop: FittedPicture) -> bool:
        """Whether the network takes pictures of other sizes; tried once, as networks are many."""
        if self._any_size is None:
            unit = self.fitter.stride(crop.size)
            other = (crop.size[0] + unit, crop.size[1] + 2 * unit)
            pixels = crop.pixel_values.to(self.device, self.dtype)
            expected = model.class_scores(pixels).shape
            try:
                found = model.class_scores(
                    nn.functional.interpolate(pixels.float(), other).to(pixels)
                ).shape
            except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
                found = None
            self._any_size = found == expected
        return self._any_size

    def _forward(self, model_inputs, **settings):
        views, labels = _flat(model_inputs["views"]), _flat(model_inputs["class_labels"])
        model = self._model_with(settings)
        found: list[Explained | None] = [None] * len(views)
        # Pictures seen whole differ in size; those of one size pass together.
        groups: dict[tuple[int, int], list[int]] = {}
        for place, view in enumerate(views):
            groups.setdefault(view.fitted.size, []).append(place)
        for places in groups.values():
            pixels = torch.cat([views[place].fitted.pixel_values for place in places])
            wanted = [labels[place] for place in places]
            outputs = model(
                pixel_values=pixels.to(self.device, self.dtype),
                class_labels=None if wanted[0] is None else wanted,
                **model.answer_keywords,
            )
            for row, place in enumerate(places):
                found[place] = Explained.of_outputs(views[place], outputs, row)
        self._classify_crops(views)
        return {"explained": found}

    def _classify_crops(self, views: Sequence[View]) -> None:
        """Have the network answer the crops of pictures that it sees whole."""
        waiting = [one for one in views if one.crop is not None and one.crop_logits is None]
        if not waiting:
            return
        pixels = torch.cat([one.crop.pixel_values for one in waiting])
        scores = self.model.class_scores(pixels.to(self.device, self.dtype)).cpu()
        for view, row in zip(waiting, scores, strict=True):
            view.crop_logits = row

    def postprocess(self, model_outputs) -> ImageSaliencyResult:
        [explained] = _flat([model_outputs["explained"]])
        return self.result_of(explained)

    def result_of(self, explained: Explained) -> ImageSaliencyResult:
        """Return what a person is given, of one map of one picture."""
        view = explained.view
        self._classify_crops([view])
        size = (view.picture.height, view.picture.width)
        function = self.score_function(len(explained.logits))
        scores = apply_score_function(explained.logits, function)
        predictions = self.likeliest(scores)
        label = self.class_name(explained.class_label)
        # One output, or numbers that are no scores of classes, leave nothing to compare with.
        has_others = len(explained.logits) > 1 and function != "none"
        on_class = self.model.class_notes(explained.class_similarity, label) if has_others else ()
        on_map = [*self.model.layer_notes(explained.silent_layers), *on_class]
        return ImageSaliencyResult(
            image=view.picture,
            saliency=place_map(explained.saliency, view.fitted.box, size),
            label=label,
            class_label=explained.class_label,
            probability=float(scores[explained.class_label]),
            predictions=predictions,
            degenerate=explained.degenerate,
            model_name=self._model_name(),
            viewed_box=view.fitted.box,
            fit=view.fitted.fit,
            score_function=function,
            notes=[
                *doubts_of_picture(view.picture, max(view.fitted.enlargement)),
                *doubts_of_scores(predictions, function),
                *view.notes(predictions, self._crop_answer(view, function)),
                *(self.model.constant_notes() if explained.degenerate else on_map),
            ],
        )

    def score_function(self, num_outputs: int) -> ScoreFunction:
        """Return what makes scores of the network's outputs."""
        return score_function(self.model.config.backbone_config, num_outputs)

    def likeliest(self, scores: torch.Tensor) -> list[tuple[str, int, float]]:
        """Return the classes with the highest scores (C,) as (name, index, score)."""
        top = scores.topk(min(_TOP_PREDICTIONS, len(scores)))
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return [(self.class_name(index), index, score) for index, score in pairs]

    def _crop_answer(self, view: View, function: ScoreFunction) -> tuple[str, int, float] | None:
        if view.crop_logits is None:
            return None
        return self.likeliest(apply_score_function(view.crop_logits, function))[0]

    def _model_name(self) -> str:
        config = self.model.config
        # A classifier of the user's gives its name where the method was only wrapped around it.
        own = getattr(getattr(self.model.backbone, "config", None), "name_or_path", "") or ""
        return config.name_or_path or config.backbone or Path(own).name


def _checked_fit(fit: Any) -> str:
    if fit not in FITS:
        raise ValueError(
            f"fit must be one of {', '.join(FITS)}, got {fit!r}.{did_you_mean(str(fit), FITS)}"
        )
    return fit


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
