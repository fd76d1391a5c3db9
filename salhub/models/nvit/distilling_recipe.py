"""What training, pruning and fine-tuning of NViT have in common: teachers and quick validations."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModelForImageClassification

from salhub.data.labelled_pictures import PictureData
from salhub.data.labelled_split import spread_places
from salhub.data.picture_archive import as_rgb
from salhub.hub import canonical_name, load, read_config
from salhub.models.nvit.configuration_nvit import NViTConfig
from salhub.models.nvit.image_processing_nvit import NViTImageProcessor
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.runner.arguments import check_not_negative
from salhub.runner.classification import classification_numbers
from salhub.runner.image_classification import PictureTrainingArguments, PictureTrainingRecipe
from salhub.runner.sources import MODEL

# Beside a pruned network: what it was pruned by.
TABLE_NAME, SCORES_NAME = "latency_table.json", "unit_scores.safetensors"
# Of the pictures that are held out, those that are looked at while training.
_ROWS_TO_VALIDATE = 2000


@dataclass(kw_only=True)
class DistillingArguments(PictureTrainingArguments):
    """Options of recipes with a teacher.

    Args:
        teacher: A classifier with the same classes and picture size to learn from: a folder, a
            shipped name or a Hub repository; None to learn only from the labels.
    """

    teacher: str | None = None
    augment: bool = True
    optimizer: Literal["sgd", "adamw"] = "adamw"
    weight_decay: float = 0.05
    max_grad_norm: float | None = 1.0
    checkpoints_total_limit: int | None = 1

    def validate(self) -> None:
        """Check the options, and those of every classifier."""
        super().validate()
        for name in ("teacher", "model", "original"):
            if getattr(self, name, None) is not None:
                setattr(self, name, canonical_name(getattr(self, name)))
        for name in ("kl_weight", "kappa"):
            if hasattr(self, name):
                check_not_negative(name, getattr(self, name))


class QuickValidation:
    """Validation on 2,000 of the pictures that are held out, as all of them take a while."""

    def validate(self: Any, model: nn.Module, accelerator: Any) -> dict[str, float]:
        """Accuracy and loss; see `TrainingRecipe.validate`."""
        name = "validation" if "validation" in self.images else "test"
        places = spread_places(len(self.labels[name]), _ROWS_TO_VALIDATE)
        logits = self.predict(model, self.images[name][places], accelerator)
        return classification_numbers(logits, self.labels[name][places])


class DistillingRecipe(QuickValidation, PictureTrainingRecipe):
    """A recipe with a teacher that sees the pictures as the network does."""

    measured_parts = ("test",)
    sources = {
        **PictureTrainingRecipe.sources,
        "teacher": MODEL,
        "model": MODEL,
        "original": MODEL,
        "latency_table": "*",
    }
    teacher: "PictureTeacher | None" = None

    def read_data(self) -> PictureData:
        # Before the data, which take longer, so that a wrong name is refused at once.
        self._load_teacher()
        return super().read_data()

    def _load_teacher(self) -> None:
        name = self.arguments.teacher
        self._loaded = None if name is None else load_classifier(name)

    def prepare(self, model: nn.Module, accelerator: Any) -> None:
        super().prepare(model, accelerator)
        if self._loaded is not None:
            network, processor = self._loaded
            self.teacher = PictureTeacher(network, processor, model.config).to(accelerator.device)

    def learned_options(self) -> dict[str, Any]:
        # Folders of this machine do not matter, but what is in them does, see `sources`.
        options = super().learned_options()
        for name in ("teacher", "model", "original", "latency_table"):
            if options.get(name) is not None and Path(options[name]).exists():
                options[name] = Path(options[name]).resolve().name
        return options

    def build_image_processor(self, model: Any) -> Any:
        return NViTImageProcessor.for_image_size(model.config.image_size)


class StartedRecipe(DistillingRecipe):
    """A recipe that goes on from a network, the option `model`.

    Attributes:
        start: The network, from `read_data` on.
    """

    start: NViTForImageClassification

    def read_data(self) -> PictureData:
        self.start = load_nvit(self.arguments.model)
        self._load_teacher()
        side = self.start.config.image_size
        if self.arguments.image_size not in (None, side):
            raise ValueError(
                f"The network needs pictures of {side} pixels, got "
                f"image_size={self.arguments.image_size}; leave it out."
            )
        return self.arguments.read_pictures(_class_names(self.start.config))

    def pictures(self, data: PictureData, places: Tensor) -> Tensor:
        return as_rgb(data.images(places, self.start.config.image_size))

    def build_classifier(self, class_names: list[str]) -> Any:
        check_classes(self.start.config, class_names)
        return self.start

    def build_image_processor(self, model: Any) -> Any:
        return nvit_processor(self.arguments.model, model.config)


class PictureTeacher(nn.Module):
    """A frozen classifier that is asked about pictures of bytes.

    Args:
        network: The classifier.
        image_processor: Whose mean and deviation it wants.
        config: Of who learns from it, which knows the same classes.

    Raises:
        ValueError: Other classes, or another size of pictures.
    """

    def __init__(self, network: Any, image_processor: Any, config: Any) -> None:
        super().__init__()
        names = [_class_names(one) for one in (network.config, config)]
        if names[0] != names[1]:
            raise ValueError(
                f"The classes of the teacher ({', '.join(names[0][:3])}, ...) differ from "
                f"those of the data ({', '.join(names[1][:3])}, ...), or are in another "
                "order; give a teacher trained on the same data."
            )
        sides = [getattr(one, "image_size", None) for one in (network.config, config)]
        if None not in sides and sides[0] != sides[1]:
            raise ValueError(
                f"The teacher needs pictures of {sides[0]} pixels, but the training pictures "
                f"have {sides[1]}; give a teacher of the same size."
            )
        self.network = network.eval().requires_grad_(False)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(image_processor, f"image_{name}")).view(-1, 1, 1)
            self.register_buffer(name, values)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Logits of pictures of bytes (B, C, H, W), (B, classes)."""
        return self.network((images.float() / 255 - self.mean) / self.std).logits


def load_classifier(name: str | os.PathLike[str]) -> tuple[Any, Any]:
    """A classifier of pictures and its image processor; NViT among them.

    Args:
        name: A folder, a shipped name or a Hub repository.
    """
    name = canonical_name(os.fspath(name))
    # Read without the Auto classes, so that a network of ours is known in any case.
    if read_config(name).get("model_type") == NViTConfig.model_type:
        model = load(NViTForImageClassification, name, dtype=torch.float32)
        return model, nvit_processor(name, model.config)
    network = load(AutoModelForImageClassification, name, dtype=torch.float32)
    return network, load(AutoImageProcessor, name, backend="pil")


def load_nvit(name: str | os.PathLike[str]) -> NViTForImageClassification:
    """A network to prune: one of NViT, or a ViT or DeiT, which is taken over.

    Args:
        name: A folder, a shipped name or a Hub repository.

    Raises:
        TypeError: Another architecture.
    """
    name = canonical_name(os.fspath(name))
    if read_config(name).get("model_type") == NViTConfig.model_type:
        return load(NViTForImageClassification, name, dtype=torch.float32)
    return NViTForImageClassification.from_vit(name)


def nvit_processor(name: str | os.PathLike[str], config: NViTConfig) -> Any:
    """The image processor beside a network; of NViT, without one, that of its size."""
    name = canonical_name(os.fspath(name))
    if Path(name).is_dir() and not (Path(name) / "preprocessor_config.json").is_file():
        return NViTImageProcessor.for_image_size(config.image_size)
    if read_config(name).get("model_type") == NViTConfig.model_type:
        return load(NViTImageProcessor, name)
    return load(AutoImageProcessor, name, backend="pil")


def check_classes(config: NViTConfig, class_names: Sequence[str]) -> None:
    """Refuse data of other classes than a network knows.

    Raises:
        ValueError: Other classes, or another order.
    """
    known = _class_names(config)
    if known != list(class_names):
        raise ValueError(
            f"The network has the classes {', '.join(known[:3])}, ..., but the data have "
            f"{', '.join(class_names[:3])}, ...; give the data that it was trained on."
        )


def _class_names(config: Any) -> list[str]:
    return [str(config.id2label[index]) for index in sorted(config.id2label)]
