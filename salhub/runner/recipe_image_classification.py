"""`salhub train image-classification`: an image classifier, from any checkpoint."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel

from salhub.data.labelled_pictures import PictureData, PictureRows
from salhub.data.picture_preparation import PicturePreparation, with_image_size
from salhub.hub import load
from salhub.model_card import Facts
from salhub.runner.batches import Batch
from salhub.runner.fine_tuning import FineTuningArguments, FineTuningRecipe, decayed_groups
from salhub.runner.image_classification import PictureTrainingArguments, PictureTrainingRecipe
from salhub.runner.plan import share_of
from salhub.runner.prefetching import Prefetcher
from salhub.runner.recipe import StepLoss

logger = logging.getLogger(__name__)

# Tells the draw of a view apart from the others of a step, and how many numbers say which it is.
_VIEW, _NUMBERS = 30, 5


@dataclass(kw_only=True)
class ImageClassificationArguments(FineTuningArguments, PictureTrainingArguments):
    """Options of `ImageClassificationRecipe`.

    Args:
        image_size: Side of the network's square input, in pixels; None for the size of its image
            processor. Smaller is faster.
        augment: Use a new random part of each picture in each epoch, from a third to all of it,
            mirrored half of the time.
        optimizer: "adamw" or "sgd" (with momentum).
    """

    augment: bool = True
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 3e-4


class ImageClassificationRecipe(FineTuningRecipe, PictureTrainingRecipe):
    """Fine-tunes an image classifier, or trains one from its configuration.

    Pictures of any sizes are read in threads when they are needed. What is saved loads by
    `AutoModelForImageClassification`, with its image processor beside it.

    Example:
        >>> arguments = ImageClassificationArguments(
        ...     output_dir="out", data="pictures", model="efficientnet-lite0"
        ... )
        >>> ImageClassificationRecipe(arguments).arguments.model
        'salhub/efficientnet-lite0'
    """

    name = "image-classification"
    arguments_class = ImageClassificationArguments
    auto_class = AutoModelForImageClassification
    measured_parts = ("test",)
    _prefetcher: Prefetcher | None = None

    @cached_property
    def preparation(self) -> PicturePreparation:
        """What prepares pictures for the network."""
        processor = self._image_processor()
        size = self.arguments.image_size
        preparation = PicturePreparation(
            processor if size is None else with_image_size(processor, size)
        )
        _ = preparation.input_size  # refuses what makes no batches
        return preparation

    def read_data(self) -> PictureData:
        return self.arguments.read_pictures(self.start.class_names)

    def pictures(self, data: PictureData, places: Tensor) -> PictureRows:
        return PictureRows(data, places, self.preparation)

    def build_classifier(self, class_names: list[str]) -> PreTrainedModel:
        height, _ = self.preparation.input_size
        model = self.start.build(class_names, image_size=height)
        self.preparation.check_fits(self.images["train"], model)
        return model

    def build_image_processor(self, model: PreTrainedModel) -> Any:
        return self.preparation.image_processor

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        options = self.arguments
        if options.optimizer == "adamw":
            return super().build_optimizer(model)
        groups = decayed_groups(model, options.weight_decay)
        return torch.optim.SGD(groups, lr=options.learning_rate, momentum=options.momentum)

    def prepare(self, model: nn.Module, accelerator: Any) -> None:
        super().prepare(model, accelerator)
        self._prefetcher = Prefetcher(self, share_of(accelerator), self._read)

    def fetch(self, batch: Batch) -> Mapping[str, Tensor]:
        return (self._prefetcher or self._read)(batch)

    def _read(self, batch: Batch) -> dict[str, Tensor]:
        views = None
        if self.arguments.augment:
            views = batch.draw(lambda n, g: torch.rand(n, _NUMBERS, generator=g), _VIEW)
        images = self.images["train"].read(batch.rows, views)
        return {"images": images, "labels": self.labels["train"][batch.rows]}

    def prepared(self, images: Tensor) -> Tensor:
        return images

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        self.start.hold_frozen()
        return super().loss(model, inputs, batch)

    def card_facts(self) -> Facts:
        return self.with_notes(super().card_facts())

    def _image_processor(self) -> Any:
        from transformers import ViTImageProcessor

        name = self.start.name
        try:
            return load(AutoImageProcessor, name, backend="pil", trust_remote_code=False)
        except (OSError, ValueError):
            if self.arguments.model is not None:
                raise
        size = getattr(self.start.config, "image_size", None) or 224
        logger.warning(
            "%s has no image processor; pictures are resized to %d x %d and normalized to "
            "-1 to 1.",
            Path(name).name, size, size,
        )  # fmt: skip
        return ViTImageProcessor(size={"height": size, "width": size})
