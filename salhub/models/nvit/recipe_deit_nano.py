"""`salhub train deit-nano-teacher` and `deit-nano`: a small ViT to prune, and what teaches it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from salhub.backbones.cifar_resnet.recipe_cifar_resnet import (
    CifarResNetArguments,
    CifarResNetRecipe,
)
from salhub.models.nvit.configuration_nvit import NViTConfig
from salhub.models.nvit.distillation import soft_label_loss
from salhub.models.nvit.distilling_recipe import (
    DistillingArguments,
    DistillingRecipe,
    QuickValidation,
)
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.runner.arguments import Scheduler, check_count, check_positive, check_share
from salhub.runner.batches import Batch
from salhub.runner.plan import count_steps
from salhub.runner.recipe import StepLoss

# Tells the draw of patches apart from the others of a step.
_PATCHES = 40


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
    """Trains the CNN that `DeiTNanoRecipe` learns from: where data are few, CNNs learn faster.

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
        hidden_size: Channels E.
        num_hidden_layers: Blocks.
        num_attention_heads: Heads of each block; a divisor of `hidden_size`.
        mlp_ratio: Neurons of a block by E.
        patch_size: Side of a patch in pixels.
        distilled: Give the network a distillation token.
        teacher_weight: Share of the teacher's soft labels in the loss, in [0, 1).
        temperature: At which they are compared.
        patch_drop: Share of the patches that are left out of each picture, in [0, 1), which makes
            steps cheaper.
        whole_share: Share of the steps, the last ones, that see all patches.
    """

    hidden_size: int = 128
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    mlp_ratio: int = 4
    patch_size: int = 4
    distilled: bool = True
    teacher_weight: float = 0.5
    temperature: float = 2.0
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
    """Trains a small vision transformer from nothing, with the soft labels of a CNN.

    Train the CNN first, with `DeiTNanoTeacherRecipe`. Both go on where they were stopped with
    `resume_from_checkpoint="latest"`.

    Example:
        >>> arguments = DeiTNanoArguments(
        ...     output_dir="nano", data="cifar10.npz", teacher="teacher"
        ... )
        >>> DeiTNanoRecipe(arguments).arguments.patch_drop
        0.5

    Source: Touvron et al. 2021 (arXiv 2012.12877); Liu et al. 2023 (arXiv 2208.07220), for patches
    that are left out. Sizes, shares and rates are ours.
    """

    name = "deit-nano"
    arguments_class = DeiTNanoArguments

    def build_classifier(self, class_names: list[str]) -> PreTrainedModel:
        options = self.arguments
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
        return NViTForImageClassification(config)

    @cached_property
    def _first_whole_step(self) -> int:
        """The last steps see all patches, as whoever uses the network does."""
        total = count_steps(self)
        return total - round(self.arguments.whole_share * total)

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        images, labels = inputs["images"], inputs["labels"]
        kept = self._kept(batch)
        outputs = model(
            self.prepared(images), kept_patches=None if kept is None else kept.to(images.device)
        )
        samples = soft_label_loss(
            outputs,
            labels,
            None if self.teacher is None else self.teacher(images),
            self.arguments.teacher_weight,
            self.arguments.temperature,
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
