"""`salhub train nvit-finetune`: what a pruned network has lost is learned again."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PreTrainedModel

from salhub.data.split_beside import find_file
from salhub.models.nvit.distillation import DistillationLoss, Objective
from salhub.models.nvit.distilling_recipe import (
    SCORES_NAME,
    TABLE_NAME,
    DistillingArguments,
    PictureTeacher,
    StartedRecipe,
    load_nvit,
)
from salhub.models.nvit.unit_weights import without_units
from salhub.runner.arguments import Scheduler, check_positive, check_share
from salhub.runner.batches import Batch
from salhub.runner.recipe import StepLoss


@dataclass(kw_only=True)
class NViTFineTuningArguments(DistillingArguments):
    """Options of `NViTFineTuningRecipe`.

    Args:
        model: The pruned network: a folder, a shipped name or a Hub repository.
        original: The network before pruning; None to train without it.
        objective: Loss with a CNN: "paper" as in the paper, where only the class token learns from
            labels, or "reference" as in the published code, where the mean of both tokens does; see
            `DistillationLoss`.
        kl_weight: Weight of the divergence from the original; 0 to learn only from labels and
            teacher.
        temperature: Temperature of that divergence [R].
        keep_norm_width: Let layer norms still average over the width of the original, as the
            pruned network does; otherwise over the remaining channels, which is faster but
            requires the network to adapt [R].
        scratch: Start from random weights, to measure what the shape alone is worth.
        ema_decay: Decay of the running average of the weights, which becomes the model; 0 for
            none.
    """

    model: str
    original: str | None = None
    objective: Objective = "paper"
    kl_weight: float = 100.0
    temperature: float = 20.0
    keep_norm_width: bool = True
    scratch: bool = False
    ema_decay: float = 0.999
    batch_size: int = 128
    num_train_epochs: int = 5
    learning_rate: float = 5e-4
    lr_scheduler: Scheduler = "cosine"
    checkpointing_steps: int | None = 100

    def validate(self) -> None:
        """Check the options, and those of every training with a teacher."""
        super().validate()
        check_positive("temperature", self.temperature)
        check_share("ema_decay", self.ema_decay)


class NViTFineTuningRecipe(StartedRecipe):
    """Fine-tunes a pruned network to answer like its original, optionally with a CNN as teacher.

    Example:
        >>> arguments = NViTFineTuningArguments(
        ...     output_dir="tuned", data="cifar10.npz", model="small", original="nano"
        ... )
        >>> NViTFineTuningRecipe(arguments).arguments.temperature
        20.0

    Source: Yang et al. 2023 (arXiv 2110.04869), section 4.1; temperatures from the published code,
    lengths and rates for small data ours.
    """

    name = "nvit-finetune"
    arguments_class = NViTFineTuningArguments
    original: nn.Module | None = None

    def build_classifier(self, class_names: list[str]) -> PreTrainedModel:
        model, options = super().build_classifier(class_names), self.arguments
        self.objective = DistillationLoss(
            options.objective, options.kl_weight, options.temperature, is_by_token=True
        )
        if not self.arguments.keep_norm_width and model.config.layer_norm_width is not None:
            everything = torch.ones(model.layout.size, dtype=torch.bool)
            model = without_units(model, everything, keep_norm_width=False)
        return type(model)(model.config) if self.arguments.scratch else model

    def prepare(self, model: nn.Module, accelerator: Any) -> None:
        super().prepare(model, accelerator)
        options = self.arguments
        if options.original is not None and options.kl_weight:
            original = load_nvit(options.original)
            PictureTeacher(original, self.image_processor, model.config)  # refuses other classes
            self.original = original.to(accelerator.device).eval().requires_grad_(False)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        self._average = None
        if self.arguments.ema_decay:
            average = get_ema_multi_avg_fn(self.arguments.ema_decay)
            self._average = AveragedModel(model, multi_avg_fn=average)
        return super().build_optimizer(model)

    def checkpointed(self) -> Iterable[Any]:
        return [] if self._average is None else [self._average]

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        images, labels = inputs["images"], inputs["labels"]
        pixels = self.prepared(images)
        outputs = model(pixels)
        with torch.no_grad():
            original = None if self.original is None else self.original(pixels)
            cnn = None if self.teacher is None else self.teacher(images).argmax(-1)
        samples = self.objective(outputs, labels, original=original, cnn_labels=cnn)
        is_right = (outputs.logits.argmax(-1) == labels).float()
        return StepLoss(samples, measures={"accuracy": is_right})

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        if self._average is not None:
            self._average.update_parameters(model)

    def finish(self, model: nn.Module) -> nn.Module:
        return model if self._average is None else self._average.module

    def export(self, model: Any, folder: Path) -> None:
        record = dict(model.config.pruning_record or {})
        model.config.pruning_record = {
            **record,
            "fine_tuned_epochs": self.arguments.num_train_epochs,
        }
        super().export(model, folder)
        for name in (TABLE_NAME, SCORES_NAME):
            beside = find_file(self.arguments.model, name)
            if beside is not None:
                shutil.copyfile(beside, folder / name)
