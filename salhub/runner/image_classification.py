"""Training an image classifier: what methods with a classifier of their own build on."""

import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from salhub.data.labelled_split import LabelledSplit, balanced_places
from salhub.data.picture_archive import PictureArchive, as_rgb, resize_bytes
from salhub.data.subset import Subset, choose_subset, describe_spec
from salhub.model_card import Facts
from salhub.results import Results
from salhub.runner.arguments import RunArguments, Scheduler, TrainingArguments
from salhub.runner.batches import Batch, generator_of
from salhub.runner.classification import classification_numbers
from salhub.runner.recipe import Recipe, Stage, StepLoss, TrainingRecipe

USAGE = """
from transformers import AutoImageProcessor, AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained("{model}")
image_processor = AutoImageProcessor.from_pretrained("{model}")
"""
logger = logging.getLogger(__name__)

_CROP_PADDING = 4
_ROWS_TO_EVALUATE = 512
# Draws of one step are told apart by these.
_FLIP, _TOP, _LEFT = 0, 1, 2
# And those of a run: training pictures, test pictures, and a part of them.
_TRAIN, _TEST, _SUBSET = 0, 1, 2


@dataclass(kw_only=True)
class ClassifierArguments(TrainingArguments):
    """Options of `ClassifierRecipe`.

    Args:
        data: Archive of labelled pictures, see `PictureArchive`.
        augment: Shift each training picture by up to 4 pixels and mirror half of them.
        optimizer: "sgd" (with momentum) or "adamw".
        momentum: Momentum of "sgd".
        weight_decay: Pull of the weights towards 0.
    """

    data: str
    augment: bool = False
    learning_rate: float = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def validate(self) -> None:
        """Check the options of a classifier, and those of every run."""
        super().validate()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}.")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay must be 0 or more, got {self.weight_decay}.")


class PictureRecipe(Recipe):
    """What all work on a classifier of pictures has in common.

    Attributes:
        image_processor: Set in `build_model`.
    """

    image_processor: Any

    def learned_options(self) -> dict[str, Any]:
        # The place of the archive does not matter, and its content is in the split.
        options = super().learned_options()
        return {**options, "data": Path(self.arguments.data).stem}

    def prepared(self, images: Tensor) -> Tensor:
        """Pictures of bytes (B, C, H, W) as the network wants them."""
        mean, std = (
            torch.tensor(values, device=images.device).view(-1, 1, 1)
            for values in (self.image_processor.image_mean, self.image_processor.image_std)
        )
        return (images.float() / 255 - mean) / std

    @torch.no_grad()
    def predict(self, model: nn.Module, images: Tensor, accelerator: Any) -> Tensor:
        """Logits of pictures of bytes, (N, classes) on the CPU, shared among the processes.

        Args:
            model: In evaluation mode.
            images: uint8 (N, C, H, W).
            accelerator: Of the run.
        """
        if not len(images):  # a network may not take a batch of none
            return torch.empty(0, model.config.num_labels)
        places = torch.arange(len(images))
        with accelerator.split_between_processes(places, apply_padding=True) as own:
            parts = [
                model(self.prepared(images[rows].to(accelerator.device))).logits.float()
                for rows in own.split(_ROWS_TO_EVALUATE)
            ]
        gathered = accelerator.gather(torch.cat(parts))
        return gathered[: len(images)].cpu()


class ClassifierRecipe(PictureRecipe, TrainingRecipe):
    """What all training of a classifier of pictures has in common."""

    arguments_class = ClassifierArguments

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        options = self.arguments
        parameters = [p for p in model.parameters() if p.requires_grad]
        common = {"lr": options.learning_rate, "weight_decay": options.weight_decay}
        if options.optimizer == "sgd":
            return torch.optim.SGD(parameters, momentum=options.momentum, **common)
        return torch.optim.AdamW(parameters, **common)

    def fetch_from(self, images: Tensor, labels: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Pictures of bytes and their labels, augmented where that was asked for."""
        chosen = images[batch.rows]
        if self.arguments.augment:
            chosen = augmented(chosen, batch)
        return {"images": chosen, "labels": labels[batch.rows]}


@dataclass(kw_only=True)
class ImageClassificationArguments(ClassifierArguments):
    """Options of `ImageClassificationRecipe`.

    Args:
        num_train_images: Training pictures, as many of each class, drawn by the seed; None for all.
        num_test_images: The same of the test pictures.
        leave_out: Training pictures that are not learned, such as "class:3" or "random:0.1" (see
            `choose_subset`): for a model that never saw them, to compare an unlearned one with.
        image_size: Side that the pictures are resized to, in pixels; None to leave them as they
            are.
    """

    num_train_images: int | None = None
    num_test_images: int | None = None
    leave_out: str | None = None
    image_size: int | None = None
    num_train_epochs: int = 25
    lr_scheduler: Scheduler = "cosine"


class ImageClassificationRecipe(ClassifierRecipe):
    """Trains a classifier on an archive of labelled pictures, which stay in memory as bytes.

    The split that was drawn is written beside the model: whoever wants to unlearn a picture later
    has to know whether it was learned.
    """

    arguments_class = ImageClassificationArguments
    larger_is_better = True

    @abstractmethod
    def build_classifier(self, class_names: list[str]) -> PreTrainedModel:
        """The network to train, with these classes."""

    @abstractmethod
    def build_image_processor(self, model: PreTrainedModel) -> Any:
        """What prepares pictures for the network; its mean and deviation are used in training."""

    def build_model(self) -> nn.Module:
        archive = PictureArchive(self.arguments.data)
        self.split = draw_split(archive, self.arguments)
        if self.arguments.leave_out is not None:
            subset = named_subset(self.arguments.leave_out, archive, self.split, self.arguments)
            self.split = self.split.without(subset.places)
        self.train_images, self.train_labels = self._read(archive, self.split.train)
        self.test_images, self.test_labels = self._read(archive, self.split.test)
        model = self.build_classifier(archive.class_names)
        self.image_processor = self.build_image_processor(model)
        return model

    def _read(self, archive: PictureArchive, places: Tensor) -> tuple[Tensor, Tensor]:
        images = as_rgb(archive.images(places))
        size = self.arguments.image_size
        return (images if size is None else resize_bytes(images, size)), archive.labels[places]

    def learned_options(self) -> dict[str, Any]:
        options, left_out = super().learned_options(), self.arguments.leave_out
        return {**options, "leave_out": left_out and describe_spec(left_out)}

    def stages(self, epoch: int) -> Iterable[Stage]:
        return [Stage("train", len(self.train_labels), self._fetch)]

    def _fetch(self, batch: Batch) -> dict[str, Tensor]:
        return self.fetch_from(self.train_images, self.train_labels, batch)

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        logits = model(self.prepared(inputs["images"])).logits
        samples = F.cross_entropy(logits, inputs["labels"], reduction="none")
        is_right = (logits.argmax(-1) == inputs["labels"]).float()
        return StepLoss(samples, measures={"accuracy": is_right})

    def can_validate(self) -> bool:
        return len(self.test_labels) > 0

    def validate(self, model: nn.Module, accelerator: Any) -> dict[str, float]:
        logits = self.predict(model, self.test_images, accelerator)
        return classification_numbers(logits, self.test_labels)

    def evaluate(self, model: nn.Module, accelerator: Any, results: Results) -> None:
        results.data = {**self.split.data, "split": self.split.digest[:16]}
        for name, images, labels in (
            ("train", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            if not len(labels):
                logger.warning("There are no %s pictures, so accuracy/%s is left out.", name, name)
                continue
            logits = self.predict(model, images, accelerator)
            is_right = (logits.argmax(-1) == labels).double().numpy()
            results.add_mean(f"accuracy/{name}", is_right, unit="fraction")

    def export(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)
        self.split.save(folder)

    def card_facts(self) -> Facts:
        learned = f"{len(self.split.train)} pictures of {self.split.data['name']}"
        left_out = self.arguments.leave_out
        end = "" if left_out is None else f" It never saw {describe_spec(left_out)}."
        return Facts(
            summary=f"An image classifier trained on {learned}.{end}",
            example=USAGE,
            pipeline_tag="image-classification",
        )


def draw_split(archive: PictureArchive, arguments: Any) -> LabelledSplit:
    """Training and test places of an archive, drawn by the seed.

    Raises:
        ValueError: A class has fewer pictures than are asked for.
    """
    chosen = []
    for name, is_wanted in (("train", ~archive.is_test), ("test", archive.is_test)):
        places = is_wanted.nonzero()[:, 0]
        count = getattr(arguments, f"num_{name}_images")
        # Of its own: the test pictures are the same whatever the number of training pictures.
        generator = generator_of(arguments.seed, _TEST if name == "test" else _TRAIN)
        chosen.append(places[balanced_places(archive.labels[places], count, generator)])
    return LabelledSplit(archive.describe(), *chosen)


def named_subset(
    spec: str, archive: PictureArchive, split: LabelledSplit, arguments: RunArguments
) -> Subset:
    """Training pictures that some words name; "random" draws by the seed.

    Raises:
        FileNotFoundError, ValueError: As of `choose_subset`.
    """
    generator = generator_of(arguments.seed, _SUBSET)
    return choose_subset(spec, archive.labels, split.train, archive.class_names, generator)


def augmented(images: Tensor, batch: Batch) -> Tensor:
    """Shifts each picture by up to 4 pixels, zeros coming in, and mirrors half of them.

    Args:
        images: uint8 (B, C, H, W).
        batch: Draws for its rows.

    Returns:
        uint8 (B, C, H, W).

    Source: He et al. 2016 (arXiv 1512.03385), section 4.2.
    """
    height, width = images.shape[-2:]
    shifts = 2 * _CROP_PADDING + 1
    top, left = (
        batch.draw(lambda n, generator: torch.randint(shifts, (n,), generator=generator), name)
        for name in (_TOP, _LEFT)
    )
    flips = batch.draw(lambda n, generator: torch.rand(n, generator=generator) < 0.5, _FLIP)
    padded = F.pad(images, (_CROP_PADDING,) * 4)
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    picture = torch.arange(len(images))[:, None, None]
    cropped = padded[picture, :, rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)
    return cropped.permute(0, 3, 1, 2)
