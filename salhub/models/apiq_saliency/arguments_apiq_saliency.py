"""Options of the compression by ApiQ."""

from dataclasses import dataclass, field
from typing import Literal

import torch

from salhub.models.apiq_saliency.block_training import RegularizedWeight, Scheduler, Stage
from salhub.runner.arguments import check_count, check_not_negative, check_positive
from salhub.runner.compression_arguments import CompressionArguments

# Words for layers -> the last parts of their names; None for all.
_TARGETS = {"all": None, "qkv-up-down": ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]}
_PRESETS = {
    "published": {
        "initial_ranges": "wide", "lora_learning_rate": 5e-4, "clip_learning_rate": 5e-3,
    },
    "recommended": {
        "initial_ranges": "search", "lora_learning_rate": 5e-3, "clip_learning_rate": 5e-2,
    },
}  # fmt: skip


@dataclass(kw_only=True)
class ApiQSaliencyArguments(CompressionArguments):
    """Options of `ApiQSaliencyRecipe`.

    Those that are None are as the preset has them.

    Args:
        preset: Decides the options that you leave out. "published" starts with wide ranges and uses
            the small learning rates of the released code, made for 128 windows and 20 epochs;
            "recommended" searches the initial ranges and uses larger rates, which is better for
            fewer steps.
        mode: "block" trains the ranges and adapters of a whole block together to match the output
            of the block; "layer" trains one linear layer after another to match the output of the
            layer, with less memory but more time.
        symmetric: Whether the zero of every group is in the middle of its codes.
        initial_ranges: Initial ranges: "search" for those that keep the weights closest, as
            measured by the regularizer; "wide" for ranges slightly inside those of the weights, as
            published.
        lora_r: Rank of the adapters; None for 64, or for the rank that `adapter_bits` allows.
        adapter_bits: Bits per weight for the adapters, instead of `lora_r`.
        lora_alpha: Factor on the product of an adapter, times the rank.
        target_modules: Layers with an adapter: "all", "qkv-up-down", or the last parts of their
            names. All layers are quantized.
        weight_epochs: Epochs of the first stage, which only keeps the weights close (wpt).
        joint_epochs: Epochs of the second stage, which also keeps the outputs close (mixedt).
        output_epochs: Epochs of the third stage, which only keeps the outputs close (opt).
        lora_learning_rate: Learning rate of the adapters; None for that of the preset.
        clip_learning_rate: Learning rate of the logits of the ranges; None for that of the preset.
        weight_decay: Weight decay of both; it pulls the logits towards ranges of half the size.
        lr_scheduler: Schedule of the learning rates over all stages.
        mixed_precision: Precision of the passes that train and estimate saliency: "bf16" is
            faster where the processor or GPU multiplies bfloat16; "no" for float32.
        aug_loss: Whether to also match the outputs of the full block on the inputs of the
            quantized one.
        saliency: Weight of an error in the regularizer: "fisher", the squared gradient of the
            weight; "none", always 1.
        saliency_file: A file that `save_saliency` wrote, used instead of estimating saliency on
            the calibration windows.
        reg_lambda: Factor of the regularizer; 0 for plain ApiQ.
        reg_target: Whether the regularizer applies to weights before or after the adapter is
            added.
        reg_layer_multiplier: Factor on `reg_lambda` from one block to the next.
        normalize_saliency: Whether to scale saliency to a mean of 1, errors relative to the
            weights, and the regularizer in units of the initial output error. Otherwise it is the
            plain sum of the released code, whose factor depends on the model.
        quantized_base: An already quantized salhub model of the same `model`; only adapters are
            trained for it.
    """

    preset: Literal["recommended", "published"] = "recommended"
    batch_size: int = 1
    mode: Literal["block", "layer"] = "block"
    symmetric: bool = False
    initial_ranges: Literal["search", "wide"] | None = None
    lora_r: int | None = None
    adapter_bits: float | None = None
    lora_alpha: float = 16.0
    target_modules: list[str] = field(default_factory=lambda: ["all"])
    weight_epochs: int = 0
    joint_epochs: int = 20
    output_epochs: int = 0
    lora_learning_rate: float | None = None
    clip_learning_rate: float | None = None
    weight_decay: float = 0.1
    lr_scheduler: Scheduler = "constant"
    mixed_precision: Literal["no", "bf16"] = "no"
    aug_loss: bool = True
    saliency: Literal["fisher", "none"] = "fisher"
    saliency_file: str | None = None
    reg_lambda: float = 0.01
    reg_target: RegularizedWeight = "before_lora"
    reg_layer_multiplier: float = 1.0
    normalize_saliency: bool = True
    quantized_base: str | None = None

    def __post_init__(self) -> None:
        # Before the options are checked.
        for name, value in _PRESETS.get(self.preset, {}).items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        super().__post_init__()

    def validate(self) -> None:
        """Check the options of ApiQ, and those of every compression."""
        super().validate()
        for name in ("weight_epochs", "joint_epochs", "output_epochs"):
            check_count(name, getattr(self, name), least=0)
        for name in ("weight_decay", "reg_lambda"):
            check_not_negative(name, getattr(self, name))
        for name in (
            "lora_alpha", "lora_learning_rate", "clip_learning_rate", "reg_layer_multiplier",
        ):  # fmt: skip
            check_positive(name, getattr(self, name))
        if self.lora_r is not None:
            check_count("lora_r", self.lora_r)
        if self.adapter_bits is not None:
            check_positive("adapter_bits", self.adapter_bits)
            if self.lora_r is not None:
                raise ValueError("lora_r and adapter_bits set the same thing; give one of them.")
        if self.weight_epochs and not self.reg_lambda:
            raise ValueError(
                "weight_epochs trains with the regularizer alone, but reg_lambda=0 turns it "
                "off; give a reg_lambda above 0, or weight_epochs=0."
            )
        if not self.target_modules:
            raise ValueError("target_modules must name a layer or more, or be all.")
        if self.saliency_file is not None and self.saliency == "none":
            raise ValueError("saliency_file contradicts saliency=none; leave one of them out.")
        if not self.is_regularized:
            needless = {
                "saliency_file": self.saliency_file is not None,
                "reg_target": self.reg_target != "before_lora" and self.quantized_base is None,
                "reg_layer_multiplier": self.reg_layer_multiplier != 1,
            }
            for name in (name for name, is_given in needless.items() if is_given):
                raise ValueError(
                    f"{name} has no effect without the regularizer, which needs a reg_lambda above "
                    "0 and weight_epochs or joint_epochs; give them, or leave it out."
                )
        if self.quantized_base is not None and self.symmetric:
            raise ValueError(
                "symmetric is decided by quantized_base, whose weights do not change; leave it out."
            )
        if self.quantized_base is not None and self.reg_lambda and (
            self.reg_target == "before_lora"
        ):  # fmt: skip
            raise ValueError(
                "the weights of quantized_base do not change, so regularizing them has no "
                "effect; give reg_target=after_lora, or reg_lambda=0."
            )

    @property
    def targets(self) -> list[str] | None:
        """Last parts of the names of the layers that have an adapter; None for all."""
        words = self.target_modules
        return _TARGETS[words[0]] if len(words) == 1 and words[0] in _TARGETS else words

    @property
    def stages(self) -> list[Stage]:
        """The stages of the training of a block."""
        return [
            Stage("weights", self.weight_epochs, 0, 1),
            Stage("joint", self.joint_epochs, 1, 1),
            Stage("outputs", self.output_epochs, 1, 0),
        ]

    @property
    def training_dtype(self) -> torch.dtype:
        """In which the layers of a block multiply while it is trained."""
        return torch.bfloat16 if self.mixed_precision == "bf16" else torch.float32

    @property
    def is_regularized(self) -> bool:
        """Whether the regularizer counts in any epoch."""
        return self.reg_lambda > 0 and self.weight_epochs + self.joint_epochs > 0

    @property
    def uses_saliency(self) -> bool:
        """Whether saliency decides about anything."""
        return self.saliency == "fisher" and self.is_regularized
