"""`salhub train deit-nano-teacher` and `deit-nano`: a small ViT to prune, and what teaches it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from salhub.backbones.cifar_resnet.recipe_cifar_resnet import (
    CifarResNetArguments,
    CifarResNetRecipe,
)
from salhub.models.nvit.configuration_nvit import NViTConfig
from salhub.models.nvit.distillation import TaughtTokens, soft_label_loss
from salhub.models.nvit.distilling_recipe import (
    DistillingArguments,
    DistillingRecipe,
    QuickValidation,
    check_classes,
    load_nvit,
)
from salhub.models.nvit.mimetic_initialization import initialize_mimetic
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.runner.arguments import Scheduler, check_count, check_positive, check_share
from salhub.runner.batches import Batch
from salhub.runner.image_classification import mirrored_rows
from salhub.runner.plan import count_steps
from salhub.runner.recipe import StepLoss

# Tells the draw of patches apart from the others of a step.
_PATCHES = 40
# At once of the teacher, before the first step.
_ROWS_TO_ASK = 128


@dataclass(kw_only=True)
class DeiTNanoTeacherArguments(CifarResNetArguments):
    """Options of `DeiTNanoTeacherRecipe`: a ResNet-14 with 0.7 million weights unless given."""

    depth: int = 14
    width: int = 32
    stem_stride: int = 1
    augment: bool = True
    num_train_epochs: int = 12
    checkpointing_steps: int | None = 100
    checkpoints_total_limit: int | None = 1


class DeiTNanoTeacherRecipe(QuickValidation, CifarResNetRecipe):
    """Trains the CNN that teaches `deit-nano`; CNNs learn faster from few pictures.

    Example:
        >>> arguments = DeiTNanoTeacherArguments(output_dir="teacher", data="cifar10.npz")
        >>> DeiTNanoTeacherRecipe(arguments).arguments.depth
        14

    Source: Touvron et al. 2021 (arXiv 2012.12877), section 4, for a CNN as the teacher.
    """

    name = "deit-nano-teacher"
    arguments_class = DeiTNanoTeacherArguments
    measured_parts = ("test",)


@dataclass(kw_only=True)
class DeiTNanoArguments(DistillingArguments):
    """Options of `DeiTNanoRecipe`; the size of the pictures is that of the data.

    Args:
        model: A network of an earlier run to continue from; None for new weights with the sizes
            below.
        hidden_size: Width of the residual stream, in channels.
        num_hidden_layers: Number of blocks.
        num_attention_heads: Heads of each block; a divisor of `hidden_size`.
        mlp_ratio: Neurons of a block, as a multiple of `hidden_size`.
        patch_size: Side of a patch in pixels.
        distilled: Give the network a distillation token.
        initialization: "mimetic", attention that starts similar to that of trained networks, see
            `initialize_mimetic`; or "normal", small random numbers for all weights.
        teacher_weight: Share of the teacher's soft labels in the loss, in [0, 1).
        temperature: Temperature for comparing with the teacher.
        taught_tokens: "both": both tokens learn from labels and teacher; "own": the class token
            learns from the labels and the distillation token from the teacher.
        ask_teacher: When the teacher is asked: "once" at the beginning about each picture and its
            mirror image, which saves time in all steps; or "always", about the exact shift that
            the network sees.
        patch_drop: Share of the patches dropped from each picture, in [0, 1), which makes steps
            cheaper.
        whole_share: Share of the steps, at the end, that use all patches.
    """

    model: str | None = None
    hidden_size: int = 128
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    mlp_ratio: int = 4
    patch_size: int = 4
    distilled: bool = True
    initialization: Literal["mimetic", "normal"] = "mimetic"
    teacher_weight: float = 0.8
    temperature: float = 2.0
    taught_tokens: TaughtTokens = "both"
    ask_teacher: Literal["once", "always"] = "once"
    patch_drop: float = 0.5
    whole_share: float = 0.15
    batch_size: int = 128
    num_train_epochs: int = 30
    learning_rate: float = 1.5e-3
    lr_scheduler: Scheduler = "cosine"
    lr_warmup_steps: int = 200
    checkpointing_steps: int | None = 100

    def validate(self) -> None:
        """Check the options, and those of every training with a teacher."""
        super().validate()
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio",
                     "patch_size"):  # fmt: skip
            check_count(name, getattr(self, name))
        for name in ("teacher_weight", "patch_drop", "whole_share"):
            check_share(name, getattr(self, name))
        check_positive("temperature", self.temperature)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads={self.num_attention_heads},"
                f" got {self.hidden_size}."
            )


class DeiTNanoRecipe(DistillingRecipe):
    """Trains a small vision transformer with the soft labels of a CNN.

    Train the CNN first, with `DeiTNanoTeacherRecipe`, or take one that is there. Both go on where
    they were stopped with `resume_from_checkpoint="latest"`; with `model` a finished network is
    trained for longer.

    Example:
        >>> arguments = DeiTNanoArguments(
        ...     output_dir="nano", data="cifar10.npz", teacher="teacher"
        ... )
        >>> DeiTNanoRecipe(arguments).arguments.patch_drop
        0.5

    Source: Touvron et al. 2021 (arXiv 2012.12877); Liu et al. 2023 (arXiv 2208.07220), for patches
    that are left out; Trockman and Kolter 2023 (arXiv 2305.09828), for fresh attention; Shen and
    Xing 2022 (arXiv 2112.01528), for answers of the teacher that are kept. Sizes, shares and rates
    are ours.
    """

    name = "deit-nano"
    arguments_class = DeiTNanoArguments
    # Logits of the teacher about every picture and its mirror image, (2, N, K).
    _answers: Tensor | None = None

    def build_classifier(self, class_names: list[str]) -> PreTrainedModel:
        options = self.arguments
        if options.model is not None:
            return self._earlier(options.model, class_names)
        side = options.hidden_size // options.num_attention_heads
        config = NViTConfig(
            hidden_size=options.hidden_size,
            num_hidden_layers=options.num_hidden_layers,
            num_attention_heads=options.num_attention_heads,
            qk_head_dim=side,
            v_head_dim=side,
            attention_scale=side**-0.5,
            intermediate_size=options.mlp_ratio * options.hidden_size,
            image_size=self.images["train"].shape[2],
            patch_size=options.patch_size,
            distilled=options.distilled,
            id2label=dict(enumerate(class_names)),
            label2id={name: index for index, name in enumerate(class_names)},
        )
        self.num_patches = config.num_patches
        model = NViTForImageClassification(config)
        if options.initialization == "mimetic":
            initialize_mimetic(model)
        return model

    def _earlier(self, name: str, class_names: list[str]) -> NViTForImageClassification:
        model = load_nvit(name)
        check_classes(model.config, class_names)
        side = self.images["train"].shape[2]
        if model.config.image_size != side:
            raise ValueError(
                f"The network needs pictures of {model.config.image_size} pixels, but the "
                f"data have {side}; give image_size={model.config.image_size}."
            )
        self.num_patches = model.config.num_patches
        return model

    @cached_property
    def _first_whole_step(self) -> int:
        """The last steps see all patches, as whoever uses the network does."""
        total = count_steps(self)
        return total - round(self.arguments.whole_share * total)

    def prepare(self, model: nn.Module, accelerator: Any) -> None:
        super().prepare(model, accelerator)
        if self.teacher is not None and self.arguments.ask_teacher == "once":
            images, ask = self.images["train"], self.teacher
            with torch.no_grad(), accelerator.autocast():
                self._answers = torch.stack([
                    torch.cat([_asked(ask, images[rows], is_mirrored, accelerator.device)
                               for rows in torch.arange(len(images)).split(_ROWS_TO_ASK)])
                    for is_mirrored in (False, True)
                ])  # fmt: skip

    def _of_teacher(self, images: Tensor, batch: Batch) -> Tensor | None:
        """Logits of the teacher about the pictures of a pass, (B, K)."""
        if self._answers is None:
            return None if self.teacher is None else self.teacher(images)
        is_mirrored = torch.zeros(len(batch), dtype=torch.bool)
        if self.arguments.augment:
            is_mirrored = mirrored_rows(batch)
        return self._answers[is_mirrored.long(), batch.rows].to(images.device)

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        images, labels = inputs["images"], inputs["labels"]
        kept = self._kept(batch)
        outputs = model(
            self.prepared(images), kept_patches=None if kept is None else kept.to(images.device)
        )
        samples = soft_label_loss(
            outputs,
            labels,
            self._of_teacher(images, batch),
            self.arguments.teacher_weight,
            self.arguments.temperature,
            self.arguments.taught_tokens,
        )
        is_right = (outputs.logits.argmax(-1) == labels).float()
        return StepLoss(samples, measures={"accuracy": is_right})

    def _kept(self, batch: Batch) -> Tensor | None:
        share = self.arguments.patch_drop
        if not share or batch.step >= self._first_whole_step:
            return None
        count = max(1, round((1 - share) * self.num_patches))
        order = batch.draw(
            lambda n, generator: torch.rand(n, self.num_patches, generator=generator), _PATCHES
        ).argsort(1)
        return order[:, :count]


def _asked(teacher: nn.Module, images: Tensor, is_mirrored: bool, device: torch.device) -> Tensor:
    images = images.flip(-1) if is_mirrored else images
    return teacher(images.to(device)).float().cpu()
