"""Ranges and low-rank adapters trained so that a block gives what it gave in full precision."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from salhub.quantization.learned_clipping import LearnedClipping
from salhub.quantization.quantized_weight import QuantizedWeight

RegularizedWeight = Literal["before_lora", "after_lora"]
Scheduler = Literal["constant", "cosine"]
# The gradient of a logit is often smaller than the usual 1e-8, which would keep it where it is.
_EPSILON = 1e-16


@dataclass(frozen=True)
class Stage:
    """A part of the training of a block.

    Args:
        name: Of the stage.
        epochs: Passes over the calibration windows.
        output_weight: What the error of the outputs counts, 0 or 1.
        weight_weight: What the regularizer counts, 0 or 1.
    """

    name: str
    epochs: int
    output_weight: float
    weight_weight: float


@dataclass(frozen=True)
class TrainingSettings:
    """How a block is trained; see `ApiQSaliencyArguments`."""

    stages: Sequence[Stage]
    batch_size: int
    lora_learning_rate: float
    clip_learning_rate: float
    weight_decay: float
    lr_scheduler: Scheduler
    regularized: RegularizedWeight
    normalize_saliency: bool


class TrainedWeight(nn.Module):
    """The weight of a linear layer in few bits, with an adapter added.

    Args:
        weight: float32 (n, m).
        rounded: Gives the weight in few bits: ranges that are trained, or a fixed one.
        lora_r: Rank of the adapter; None for none. Its first factor begins as peft has it, uniform
            within 1 / sqrt(m), and its second at 0.
        lora_alpha: What the product of the factors is multiplied by, times the rank.
        importance: What the square of an error of a weight counts in the regularizer, float32
            (n, m); None for 1.

    Source: Liao et al. 2024 (arXiv 2402.05147), eq. 4.
    """

    def __init__(
        self,
        weight: Tensor,
        rounded: LearnedClipping | QuantizedWeight,
        lora_r: int | None,
        lora_alpha: float,
        importance: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("importance", importance, persistent=False)
        self.clipping = rounded if isinstance(rounded, LearnedClipping) else None
        self.fixed = None if isinstance(rounded, LearnedClipping) else rounded
        dense = None if self.fixed is None else self.fixed.dequantize()
        self.register_buffer("_dense", dense, persistent=False)
        self.lora_A = self.lora_B = None
        if lora_r is not None:
            self.scaling = lora_alpha / lora_r
            self.lora_A = nn.Parameter(weight.new_empty(lora_r, weight.shape[1]))
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
            self.lora_B = nn.Parameter(weight.new_zeros(weight.shape[0], lora_r))

    def clip_parameters(self) -> list[nn.Parameter]:
        """The logits of the ranges."""
        return [] if self.clipping is None else [self.clipping.upper, self.clipping.lower]

    def lora_parameters(self) -> list[nn.Parameter]:
        """The factors of the adapter."""
        return [] if self.lora_A is None else [self.lora_A, self.lora_B]

    def effective(
        self, regularized: RegularizedWeight | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The weight as it computes, (n, m), and the error that a regularizer counts, ().

        Args:
            regularized: Of which weight: the rounded one, or with the adapter; None for no error.
        """
        if self.lora_A is None:
            return self._rounded(regularized is not None)
        rounded, error = self._rounded(regularized == "before_lora")
        weight = torch.addmm(rounded, self.lora_B, self.lora_A, alpha=self.scaling)
        if regularized == "after_lora":
            squares = (weight - self.weight).square()
            error = (squares if self.importance is None else squares * self.importance).sum()
        return weight, error

    def _rounded(self, with_error: bool) -> tuple[Tensor, Tensor | None]:
        if self.clipping is None:
            return self._dense, None
        if with_error:
            return self.clipping.with_error(self.importance)
        return self.clipping(), None

    def relative_error(self) -> Tensor:
        """Of the rounded weight, weighted and relative to the weight, (): the regularizer."""
        with torch.no_grad():
            squares = (self._rounded(False)[0] - self.weight).square()
            error = (squares if self.importance is None else squares * self.importance).sum()
            return error / self.weight.square().sum()

    def quantized(self) -> QuantizedWeight:
        """What is stored of the weight."""
        return self.clipping.quantized() if self.fixed is None else self.fixed


@dataclass
class TrainingHistory:
    """What a training was like.

    Args:
        losses: Mean error of the outputs of every epoch.
        regularizers: Mean of the regularizer of every epoch, without its factor; 0 where it does
            not count.
    """

    losses: list[float] = field(default_factory=list)
    regularizers: list[float] = field(default_factory=list)


def normalized(saliency: Tensor) -> Tensor:
    """A saliency with a mean of 1.

    Source: ours: a factor of the regularizer then means the same for every layer and model.
    """
    return saliency / saliency.mean()


def train_weights(
    layers: Mapping[str, TrainedWeight],
    outputs_of: Callable[[Mapping[str, Tensor], Tensor], Sequence[Tensor]],
    inputs: Tensor,
    targets: Sequence[Sequence[Tensor]],
    settings: TrainingSettings,
    *,
    factor: float,
    name: str,
    fail: Callable[[str], NoReturn],
) -> TrainingHistory:
    """Train ranges and adapters of some layers together.

    The loss of a batch is the mean squared error to each of the targets, added up, plus `factor`
    times the regularizer: the sum over the layers of the squared errors of the weights, each times
    its importance. With `normalize_saliency` that of a layer is relative to its squared weights,
    and the sum counts in units of the first loss of the outputs.

    Args:
        layers: By name.
        outputs_of: Takes the weights by name and some rows of the inputs, and gives the outputs.
        inputs: On the path of the quantized blocks, (S, L, d).
        targets: What each output is to be, (S, L, n); one list of them, or two.
        settings: How.
        factor: Of the regularizer.
        name: Of the block, for messages.
        fail: Ends the run with a sentence.

    Source: Liao et al. 2024 (arXiv 2402.05147), algorithm 1; Cao and Aref 2025 (arXiv 2504.13932).
    """
    modules = nn.ModuleList(layers.values())
    groups = [
        {"params": [p for one in modules for p in one.lora_parameters()],
         "lr": settings.lora_learning_rate},
        {"params": [p for one in modules for p in one.clip_parameters()],
         "lr": settings.clip_learning_rate},
    ]  # fmt: skip
    groups = [group for group in groups if group["params"]]
    history = TrainingHistory()
    total = sum(stage.epochs for stage in settings.stages)
    if not groups or not total:
        return history
    steps = total * -(-len(inputs) // settings.batch_size)
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay, eps=_EPSILON)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            0.5 * (1 + math.cos(math.pi * step / steps)) if settings.lr_scheduler == "cosine" else 1
        ),
    )
    sizes = {key: one.weight.square().sum() for key, one in layers.items()}
    unit: Tensor | None = None
    epoch = 0
    bar = tqdm(total=total, desc=name, unit="epoch", leave=False)
    for stage in settings.stages:
        is_regularized = stage.weight_weight > 0 and factor > 0
        regularized = settings.regularized if is_regularized else None
        for _ in range(stage.epochs):
            epoch += 1
            sums = inputs.new_zeros(2)
            for step, rows in enumerate(torch.randperm(len(inputs)).split(settings.batch_size), 1):
                made = {key: one.effective(regularized) for key, one in layers.items()}
                loss = inputs.new_zeros(())
                if stage.output_weight:
                    outputs = outputs_of({key: one for key, (one, _) in made.items()}, inputs[rows])
                    loss = loss + sum(
                        functional.mse_loss(output, wanted[rows])
                        for kind in targets
                        for output, wanted in zip(outputs, kind, strict=True)
                    )
                    if unit is None and settings.normalize_saliency:
                        unit = loss.detach()
                sums[0] += loss.detach() * len(rows)
                whole = loss
                if is_regularized:
                    errors = [
                        error / sizes[key] if settings.normalize_saliency else error
                        for key, (_, error) in made.items()
                        if error is not None
                    ]
                    regularizer = torch.stack(errors).sum()
                    sums[1] += regularizer.detach() * len(rows)
                    whole = whole + factor * (1 if unit is None else unit) * regularizer
                if not bool(whole.isfinite()):
                    fail(
                        f"the loss of the block {name} is {whole.item()} in epoch {epoch}, step "
                        f"{step}; check the model and the calibration text, or lower the learning "
                        "rates."
                    )
                optimizer.zero_grad()
                whole.backward()
                optimizer.step()
                schedule.step()
            means = (sums / len(inputs)).tolist()
            history.losses.append(means[0])
            history.regularizers.append(means[1])
            bar.set_postfix(stage=stage.name, loss=f"{means[0]:.3g}")
            bar.update()
    bar.close()
    return history
