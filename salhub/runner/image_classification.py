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

from salhub.data.labelled_pictures import (
    PictureData,
    PictureRows,
    read_labelled_pictures,
)
from salhub.data.labelled_split import (
    LabelledSplit,
    balanced_places,
    noting_repetitions,
    stratified_places,
)
from salhub.data.picture_archive import as_rgb
from salhub.data.subset import Subset, choose_subset, describe_spec
from salhub.model_card import Facts
from salhub.results import Results
from salhub.runner.arguments import (
    RunArguments,
    Scheduler,
    TrainingArguments,
    check_not_negative,
    check_share,
)
from salhub.runner.batches import Batch, generator_of
from salhub.runner.classification import classification_numbers, places_to_choose_by
from salhub.runner.fine_tuning import data_name
from salhub.runner.recipe import Recipe, Stage, StepLoss, TrainingRecipe

USAGE = """
from transformers import AutoImageProcessor, AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained("{model}")
image_processor = AutoImageProcessor.from_pretrained("{model}")
"""
logger = logging.getLogger(__name__)

_CROP_PADDING = 4
# At once; of those that are read from files, which may be large, fewer.
_ROWS_TO_EVALUATE, _ROWS_TO_READ = 512, 32
# Draws of one step are told apart by these.
_FLIP, _TOP, _LEFT = 0, 1, 2
# And those of a run: training pictures, test pictures, a part of them, and what is held out.
_TRAIN, _TEST, _SUBSET, _HELD_OUT = 0, 1, 2, 3


@dataclass(kw_only=True)
class PictureArguments(RunArguments):
    """What every recipe that reads labelled pictures takes.

    Args:
        data: Labelled pictures: a folder with one sub-folder per class, a folder saved by
            `save_to_disk` of `datasets`, Parquet, a name on the Hub, or an .npz archive; see
            `read_labelled_pictures`.
        image_column: Column with the pictures, if there are columns; None to find it.
        label_column: Column with the classes, if there are columns; None to find it.
        dataset_config_name: The configuration of a data set on the Hub.
    """

    data: str
    image_column: str | None = None
    label_column: str | None = None
    dataset_config_name: str | None = None

    def read_pictures(self, class_names: Iterable[str] = ()) -> PictureData:
        """The pictures, with their classes in the order of a model's where they are the same."""
        return read_labelled_pictures(
            self.data,
            image_column=self.image_column,
            label_column=self.label_column,
            dataset_config_name=self.dataset_config_name,
            class_names=list(class_names),
        )


@dataclass(kw_only=True)
class ClassifierArguments(PictureArguments, TrainingArguments):
    """Options of `ClassifierRecipe`.

    Args:
        augment: Shift each training picture by up to 4 pixels and mirror half of them.
        optimizer: "sgd" (with momentum) or "adamw".
        momentum: Momentum of "sgd".
        weight_decay: Weight decay.
    """

    augment: bool = False
    learning_rate: float = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def validate(self) -> None:
        """Check the options of a classifier, and those of every run."""
        super().validate()
        check_share("momentum", self.momentum)
        check_not_negative("weight_decay", self.weight_decay)


class PictureRecipe(Recipe):
    """What all work on a classifier of pictures has in common.

    Attributes:
        image_processor: Set in `build_model`.
    """

    image_processor: Any

    def learned_options(self) -> dict[str, Any]:
        # The place of the data does not matter, and their content is in the split.
        options = super().learned_options()
        return {**options, "data": data_name(self.arguments.data)}

    def prepared(self, images: Tensor) -> Tensor:
        """Pictures of bytes (B, C, H, W) as the network wants them."""
        mean, std = (
            torch.tensor(values, device=images.device).view(-1, 1, 1)
            for values in (self.image_processor.image_mean, self.image_processor.image_std)
        )
        return (images.float() / 255 - mean) / std

    @torch.no_grad()
    def predict(self, model: nn.Module, images: Tensor | PictureRows, accelerator: Any) -> Tensor:
        """Logits of pictures, (N, classes) on the CPU, shared among the processes.

        Args:
            model: In evaluation mode.
            images: uint8 (N, C, H, W), or pictures that are read when they are needed.
            accelerator: Of the run.
        """
        if not len(images):  # a network may not take a batch of none
            return torch.empty(0, model.config.num_labels)
        places = torch.arange(len(images))
        with accelerator.split_between_processes(places, apply_padding=True) as own:
            parts = [
                model(self.prepared(images[rows].to(accelerator.device))).logits.float()
                for rows in own.split(
                    _ROWS_TO_EVALUATE if isinstance(images, Tensor) else _ROWS_TO_READ
                )
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

    def fetch_from(
        self, images: Tensor | PictureRows, labels: Tensor, batch: Batch
    ) -> dict[str, Tensor]:
        """Pictures and their labels, augmented where that was asked for."""
        chosen = images[batch.rows]
        if self.arguments.augment:
            chosen = augmented(chosen, batch)
        return {"images": chosen, "labels": labels[batch.rows]}


@dataclass(kw_only=True)
class PictureTrainingArguments(ClassifierArguments):
    """Options of `PictureTrainingRecipe`.

    Args:
        num_train_images: Number of training pictures, the same for each class, drawn with the
            seed; None for all.
        num_test_images: Number of test pictures, drawn in the same way; None for all.
        leave_out: Training pictures to leave out, such as "class:3" or "random:0.1" (see
            `choose_subset`): for a model that never saw them, as a reference for unlearning.
        image_size: Side to which the pictures are resized, in pixels; None to keep their size.
        train_val_split: Share of each class to hold out if the data have no validation or test
            part; 0 for none.
    """

    num_train_images: int | None = None
    num_test_images: int | None = None
    leave_out: str | None = None
    image_size: int | None = None
    train_val_split: float = 0.15
    num_train_epochs: int = 25
    lr_scheduler: Scheduler = "cosine"

    def validate(self) -> None:
        """Check the options, and those of every classifier."""
        super().validate()
        check_share("train_val_split", self.train_val_split)


class PictureTrainingRecipe(ClassifierRecipe):
    """Trains a classifier of pictures from scratch; small ones of one size, held in memory.

    The split that was drawn is written beside the model: whoever wants to unlearn a picture later
    has to know whether it was learned.
    """

    arguments_class = PictureTrainingArguments
    larger_is_better = True
    # What `evaluate` measures the model on.
    measured_parts: tuple[str, ...] = ("train", "test")

    @abstractmethod
    def build_classifier(self, class_names: list[str]) -> PreTrainedModel:
        """The network to train, with these classes."""

    @abstractmethod
    def build_image_processor(self, model: PreTrainedModel) -> Any:
        """What prepares pictures for the network; its mean and deviation are used in training."""

    def read_data(self) -> PictureData:
        """The labelled pictures."""
        return self.arguments.read_pictures()

    def pictures(self, data: PictureData, places: Tensor) -> Tensor | PictureRows:
        """Some pictures of the data."""
        return as_rgb(data.images(places, self.arguments.image_size))

    def build_model(self) -> nn.Module:
        data = self.read_data()
        self.split = draw_split(data, self.arguments)
        if self.arguments.leave_out is not None:
            subset = named_subset(self.arguments.leave_out, data, self.split, self.arguments)
            self.split = self.split.without(subset.places)
        parts = {"train": self.split.train, "test": self.split.test}
        if len(self.split.validation):
            parts["validation"] = self.split.validation
        self.images = {name: self.pictures(data, places) for name, places in parts.items()}
        self.labels = {name: data.labels[places] for name, places in parts.items()}
        model = self.build_classifier(data.class_names)
        self.image_processor = self.build_image_processor(model)
        return model

    def learned_options(self) -> dict[str, Any]:
        options, left_out = super().learned_options(), self.arguments.leave_out
        return {**options, "leave_out": left_out and describe_spec(left_out)}

    def stages(self, epoch: int) -> Iterable[Stage]:
        return [Stage("train", len(self.labels["train"]), self.fetch)]

    def fetch(self, batch: Batch) -> Mapping[str, Tensor]:
        """Training pictures of a pass, with their labels."""
        return self.fetch_from(self.images["train"], self.labels["train"], batch)

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        logits = model(self.prepared(inputs["images"])).logits
        samples = F.cross_entropy(logits, inputs["labels"], reduction="none")
        is_right = (logits.argmax(-1) == inputs["labels"]).float()
        return StepLoss(samples, measures={"accuracy": is_right})

    def can_validate(self) -> bool:
        return len(self.split.held_out) > 0

    def validate(self, model: nn.Module, accelerator: Any) -> dict[str, float]:
        name = "validation" if "validation" in self.images else "test"
        logits = self.predict(model, self.images[name], accelerator)
        return classification_numbers(logits, self.labels[name])

    def evaluate(self, model: nn.Module, accelerator: Any, results: Results) -> None:
        results.data = {**self.split.data, "split": self.split.digest[:16]}
        for name in self.measured_parts:
            labels = self.labels[name]
            if not len(labels):
                kind = {"train": "training"}.get(name, name)
                logger.warning(
                    "There are no %s pictures, so the accuracy on them is not measured.", kind
                )
                continue
            logits = self.predict(model, self.images[name], accelerator)
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


def draw_split(data: PictureData, arguments: Any) -> LabelledSplit:
    """Training and test places of labelled pictures, drawn by the seed.

    Args:
        data: The pictures.
        arguments: With `seed`, `num_train_images`, `num_test_images` and perhaps `train_val_split`.

    Raises:
        ValueError: A class has fewer pictures than are asked for, or the best model would be chosen
            by test pictures.
    """
    is_train = ~(data.is_test | data.is_validation)
    is_test, share = data.is_test, getattr(arguments, "train_val_split", 0.0)
    if share and not (data.is_test.any() or data.is_validation.any()):
        generator = generator_of(arguments.seed, _HELD_OUT)
        is_test = torch.zeros_like(is_train)
        is_test[stratified_places(data.labels, share, generator)] = True
        is_train = ~is_test
        logger.warning(
            "%s has no validation or test part, so %d of its %d pictures are held out (%.0f %%, "
            "from every class), drawn with the seed.",
            data.title, int(is_test.sum()), len(data), 100 * int(is_test.sum()) / len(data),
        )  # fmt: skip
    validation = data.is_validation.nonzero()[:, 0]
    if getattr(arguments, "keep_best", False) and not len(validation):
        learned = is_train.nonzero()[:, 0]
        validation = places_to_choose_by(data.title, data.labels, learned, arguments)
        is_train[validation] = False
    chosen = []
    for name, is_wanted in (("train", is_train), ("test", is_test)):
        places = is_wanted.nonzero()[:, 0]
        count = getattr(arguments, f"num_{name}_images")
        # Of its own: the test pictures are the same whatever the number of training pictures.
        generator = generator_of(arguments.seed, _TEST if name == "test" else _TRAIN)
        chosen.append(places[balanced_places(data.labels[places], count, generator)])
    split = LabelledSplit(data.describe(), *chosen, validation=validation)
    return noting_repetitions(split, data.digests, "pictures")


def named_subset(
    spec: str, data: PictureData, split: LabelledSplit, arguments: RunArguments
) -> Subset:
    """Training pictures that some words name; "random" draws by the seed.

    Raises:
        FileNotFoundError, ValueError: As of `choose_subset`.
    """
    generator = generator_of(arguments.seed, _SUBSET)
    return choose_subset(spec, data.labels, split.train, data.class_names, generator)


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
    flips = mirrored_rows(batch)
    padded = F.pad(images, (_CROP_PADDING,) * 4)
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    picture = torch.arange(len(images))[:, None, None]
    cropped = padded[picture, :, rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)
    return cropped.permute(0, 3, 1, 2)


def mirrored_rows(batch: Batch) -> Tensor:
    """Which pictures `augmented` mirrors, bool (B,).

    Args:
        batch: Draws for its rows.
    """
    return batch.draw(lambda n, generator: torch.rand(n, generator=generator) < 0.5, _FLIP)
