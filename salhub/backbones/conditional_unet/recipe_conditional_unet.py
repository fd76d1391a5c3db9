"""`salhub train conditional-unet`: a class-conditional diffusion model of small pictures."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PreTrainedModel

from salhub.backbones.conditional_unet.configuration_conditional_unet import ConditionalUNetConfig
from salhub.backbones.conditional_unet.modeling_conditional_unet import ConditionalUNetForDiffusion
from salhub.backbones.conditional_unet.noise_schedule import add_noise
from salhub.backbones.conditional_unet.sampling import save_sample_sheet
from salhub.data.labelled_split import spread_places
from salhub.data.subset import describe_spec
from salhub.model_card import Facts
from salhub.results import Results
from salhub.runner.arguments import Scheduler, TrainingArguments, check_share
from salhub.runner.batches import Batch, step_batches
from salhub.runner.fine_tuning import data_name
from salhub.runner.image_classification import PictureArguments, draw_split, named_subset
from salhub.runner.recipe import Stage, StepLoss, TrainingRecipe

logger = logging.getLogger(__name__)

_ROWS_TO_EVALUATE = 500
# Draws of one step are told apart by these, and those of several sets by this distance.
_NOISE, _TIMESTEP, _DROP = 10, 11, 12
_NEXT_SET = 100


@dataclass(kw_only=True)
class ConditionalUNetArguments(PictureArguments, TrainingArguments):
    """Options of `ConditionalUNetRecipe`.

    Args:
        num_train_images: Number of training pictures, the same for each class, drawn with the
            seed; None for all.
        num_test_images: Number of test pictures, drawn in the same way; None for all.
        leave_out: Training pictures to leave out, such as "class:3", see `choose_subset`.
        image_size: Side that the pictures are resized to, in pixels, a multiple of 4.
        base_channels: Channels of the first level, a multiple of 4.
        class_dropout: Share of the pictures whose class is hidden, in [0, 1), for guidance.
        ema_decay: Decay of the running average of the weights, which becomes the model; in [0, 1).
    """

    num_train_images: int | None = None
    num_test_images: int | None = None
    leave_out: str | None = None
    image_size: int = 16
    base_channels: int = 32
    class_dropout: float = 0.1
    ema_decay: float = 0.999
    batch_size: int = 128
    num_train_epochs: int = 6
    learning_rate: float = 1e-3
    lr_scheduler: Scheduler = "cosine"
    lr_warmup_steps: int = 100
    max_grad_norm: float | None = 1.0

    def validate(self) -> None:
        """Check the options of a diffusion model, and those of every run."""
        super().validate()
        for name in ("class_dropout", "ema_decay"):
            check_share(name, getattr(self, name))
        for name in ("image_size", "base_channels"):
            if getattr(self, name) < 4 or getattr(self, name) % 4:
                raise ValueError(f"{name} must be a multiple of 4, got {getattr(self, name)}.")


class ConditionalUNetRecipe(TrainingRecipe):
    """Trains a diffusion model on an archive of labelled pictures.

    Example:
        >>> arguments = ConditionalUNetArguments(output_dir="out", data="mnist.npz")
        >>> ConditionalUNetRecipe(arguments).arguments.image_size
        16

    Source: Ho et al. 2020 (arXiv 2006.11239), algorithm 1; Ho and Salimans 2022 (arXiv 2207.12598),
    algorithm 1.
    """

    name = "conditional-unet"
    arguments_class = ConditionalUNetArguments

    def build_model(self) -> nn.Module:
        archive = self.arguments.read_pictures()
        self.split = draw_split(archive, self.arguments)
        if self.arguments.leave_out is not None:
            subset = named_subset(self.arguments.leave_out, archive, self.split, self.arguments)
            self.split = self.split.without(subset.places)
        size = self.arguments.image_size
        self.train_images = archive.images(self.split.train, size)
        self.train_labels = archive.labels[self.split.train]
        self.test_images = archive.images(self.split.test, size)
        self.test_labels = archive.labels[self.split.test]
        self.unet_config = ConditionalUNetConfig(
            image_size=size,
            num_channels=self.train_images.shape[1],
            base_channels=self.arguments.base_channels,
            attention_resolutions=[size // 4],
            num_classes=len(archive.class_names),
        )
        return self.build_network(self.unet_config, archive.class_names)

    def build_network(
        self, config: ConditionalUNetConfig, class_names: list[str]
    ) -> PreTrainedModel:
        """The network to train."""
        return ConditionalUNetForDiffusion(config)

    def learned_options(self) -> dict[str, Any]:
        # The place of the archive does not matter, and its content is in the split.
        options, left_out = super().learned_options(), self.arguments.leave_out
        words = left_out and describe_spec(left_out)
        return {**options, "data": data_name(self.arguments.data), "leave_out": words}

    def stages(self, epoch: int) -> Iterable[Stage]:
        return [Stage("train", len(self.train_labels), self._fetch)]

    def _fetch(self, batch: Batch) -> dict[str, Tensor]:
        return {"images": self.train_images[batch.rows], "labels": self.train_labels[batch.rows]}

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        self._average = AveragedModel(
            model, multi_avg_fn=get_ema_multi_avg_fn(self.arguments.ema_decay)
        )
        return torch.optim.Adam(model.parameters(), lr=self.arguments.learning_rate)

    def checkpointed(self) -> Iterable[Any]:
        return [self._average]

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        noisy = noisy_pictures(self.unet_config, as_signal(inputs["images"]), batch)
        classes = with_dropped_classes(
            self.unet_config, inputs["labels"], self.arguments.class_dropout, batch
        )
        predicted = model(noisy.sample, noisy.timestep, classes).noise_pred
        return StepLoss(squared_error(predicted, noisy.noise))

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        self._average.update_parameters(model)

    def finish(self, model: nn.Module) -> nn.Module:
        return self._average.module

    @torch.no_grad()
    def evaluate(self, model: nn.Module, accelerator: Any, results: Results) -> None:
        results.data = {**self.split.data, "split": self.split.digest[:16]}
        rows = spread_places(len(self.test_images), _ROWS_TO_EVALUATE)
        if not len(rows):
            logger.warning("There are no test pictures, so the error on them is not measured.")
            return
        batch = next(step_batches(rows, seed=self.arguments.seed, step=0, epoch=0))
        clean = as_signal(self.test_images[rows].to(accelerator.device))
        noisy = noisy_pictures(self.unet_config, clean, batch)
        labels = self.test_labels[rows].to(accelerator.device)
        predicted = model(noisy.sample, noisy.timestep, labels).noise_pred
        error = float((predicted - noisy.noise).square().mean())
        results.add_metric("noise_error/test", error, n=len(rows), unit="mean square")

    def export(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder)
        self.split.save(folder)
        save_sample_sheet(model, folder / "samples.png", seed=self.arguments.seed)

    def card_facts(self) -> Facts:
        learned = f"{len(self.split.train)} pictures of {self.split.data['name']}"
        return Facts(
            summary=f"A class-conditional diffusion model trained on {learned}.",
            pipeline_tag="unconditional-image-generation",
            pictures={"samples.png": "Pictures of every class, one row per class."},
        )


def as_signal(images: Tensor) -> Tensor:
    """Pictures of bytes as the noise process wants them: float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


@dataclass(frozen=True)
class NoisyPictures:
    """Pictures somewhere on their way to noise.

    Args:
        sample: The noisy pictures, (B, C, H, W).
        noise: What was added, (B, C, H, W).
        timestep: How far they are, int64 (B,).
    """

    sample: Tensor
    noise: Tensor
    timestep: Tensor


def noisy_pictures(
    config: ConditionalUNetConfig, clean: Tensor, batch: Batch, which: int = 0
) -> NoisyPictures:
    """Add noise to pictures, each at a step of its own.

    Half of the steps are drawn, and the others mirror them, so that every batch has early and late
    ones.

    Args:
        config: Gives the noise schedule.
        clean: Pictures in [-1, 1], (B, C, H, W).
        batch: Draws noise and steps.
        which: Tells apart several sets of pictures of one step, which get draws of their own.

    Source: Song et al. 2021 (arXiv 2010.02502), published code, for the mirrored steps.
    """
    noise = batch.draw(
        lambda n, generator: torch.randn(n, *clean.shape[1:], generator=generator),
        _NOISE + which * _NEXT_SET,
    )
    timestep = batch.draw(
        lambda n, generator: _mirrored_steps(n, config.num_train_timesteps, generator),
        _TIMESTEP + which * _NEXT_SET,
    )
    noise, timestep = noise.to(clean.device, clean.dtype), timestep.to(clean.device)
    return NoisyPictures(add_noise(config, clean, noise, timestep), noise, timestep)


def _mirrored_steps(count: int, steps: int, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(steps, (count - count // 2,), generator=generator)
    return torch.cat([drawn, steps - 1 - drawn])[:count]


def with_dropped_classes(
    config: ConditionalUNetConfig, class_labels: Tensor, probability: float, batch: Batch
) -> Tensor:
    """Replace some classes by the null class, as classifier-free guidance needs.

    Args:
        config: Gives the null class.
        class_labels: int64 (B,).
        probability: Share that is replaced, in [0, 1).
        batch: Draws which.

    Source: Ho and Salimans 2022 (arXiv 2207.12598), algorithm 1.
    """
    dropped = batch.draw(
        lambda n, generator: torch.rand(n, generator=generator) < probability, _DROP
    )
    return torch.where(dropped.to(class_labels.device), config.null_class, class_labels)


def squared_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Sum of squares over the pixels of each picture, (B,)."""
    return (predicted - target).square().flatten(1).sum(1)
