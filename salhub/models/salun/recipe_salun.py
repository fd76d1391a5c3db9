"""`salhub unlearn`: SalUn, and the other methods that only change labels, losses or data."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from salhub.data.labelled_pictures import joined
from salhub.models.salun.unlearning import UnlearningArguments, UnlearningRecipe
from salhub.runner.arguments import Scheduler, check_not_negative, check_positive
from salhub.runner.batches import Batch
from salhub.runner.plan import count_steps
from salhub.runner.recipe import Stage, StepLoss

# Tells the draw of labels apart from the others of a step.
_LABEL = 20


@dataclass(kw_only=True)
class FineTuneArguments(UnlearningArguments):
    """Options of `FineTuneRecipe`."""

    learning_rate: float = 0.03


class FineTuneRecipe(UnlearningRecipe):
    """FT: continues training on the retained pictures only.

    Source: Fan et al. 2024 (arXiv 2310.12508), section 5.1.
    """

    name = "ft"
    arguments_class = FineTuneArguments


@dataclass(kw_only=True)
class L1SparseArguments(UnlearningArguments):
    """Options of `L1SparseRecipe`.

    Args:
        l1_weight: Initial weight of the sum of absolute weights; falls linearly to 0.
    """

    l1_weight: float = 1e-5
    learning_rate: float = 0.03

    def validate(self) -> None:
        """Check the options of the method, and those of all."""
        super().validate()
        check_positive("l1_weight", self.l1_weight)


class L1SparseRecipe(UnlearningRecipe):
    """l1-sparse: FT with a penalty on absolute weights, which falls to 0.

    Source: Jia et al. 2023 (arXiv 2304.04934), equation 3.
    """

    name = "l1-sparse"
    arguments_class = L1SparseArguments

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        found = super().loss(model, inputs, batch)
        left = 1 - batch.epoch / self.arguments.num_train_epochs
        total = sum(p.abs().sum() for p in model.parameters() if p.requires_grad)
        return StepLoss(found.samples, penalty=self.arguments.l1_weight * left * total)


@dataclass(kw_only=True)
class GradientAscentArguments(UnlearningArguments):
    """Options of `GradientAscentRecipe`."""

    num_train_epochs: int = 5
    learning_rate: float = 1e-3


class GradientAscentRecipe(UnlearningRecipe):
    """GA: increases the loss on the pictures to forget (gradient ascent).

    Source: Fan et al. 2024 (arXiv 2310.12508), section 5.1; Thudi et al. 2022 (arXiv 2109.13398).
    """

    name = "ga"
    arguments_class = GradientAscentArguments
    learns_retained = False

    def loss_of(self, logits: Tensor, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        return StepLoss(-F.cross_entropy(logits, inputs["labels"], reduction="none"))


@dataclass(kw_only=True)
class RetrainArguments(UnlearningArguments):
    """Options of `RetrainRecipe`."""

    num_train_epochs: int = 25
    batch_size: int = 128
    learning_rate: float = 0.1
    lr_scheduler: Scheduler = "cosine"

    def validate(self) -> None:
        """Check the options; weights that are drawn anew leave nothing for a mask to keep."""
        super().validate()
        if self.mask is not None or self.mask_ratio is not None:
            raise ValueError(
                "retrain starts from new weights, so a mask has nothing to keep; leave out mask "
                "and mask_ratio."
            )


class RetrainRecipe(UnlearningRecipe):
    """Retrain: trains the same network from new weights, on the retained pictures only.

    This is what the others try to come near to; give it the options that the original had.
    """

    name = "retrain"
    arguments_class = RetrainArguments

    def network(self) -> nn.Module:
        self.base_model = type(self.base_model)(self.base_model.config)
        return self.base_model


@dataclass(kw_only=True)
class RandomLabelArguments(UnlearningArguments):
    """Options of `RandomLabelRecipe`.

    Args:
        relabel: "exclude_true" draws from the wrong classes, as the paper says; "uniform_all" from
            all classes, as its code does.
        schedule: "sequential": each epoch uses the pictures to forget first, then the retained
            ones. "mixed": both together.
        alpha: Weight of the loss on the retained pictures.
    """

    relabel: Literal["exclude_true", "uniform_all"] = "exclude_true"
    schedule: Literal["sequential", "mixed"] = "sequential"
    alpha: float = 1.0

    def validate(self) -> None:
        """Check the options of the method, and those of all."""
        super().validate()
        check_not_negative("alpha", self.alpha)


class RandomLabelRecipe(UnlearningRecipe):
    """RL: learns random labels for the pictures to forget, and true labels for the others.

    Every pass draws anew. Source: Fan et al. 2024 (arXiv 2310.12508), equation 5, without a mask;
    Golatkar et al. 2020 (arXiv 1911.04933).
    """

    name = "rl"
    arguments_class = RandomLabelArguments
    learns_retained = False

    def stages(self, epoch: int) -> Iterable[Stage]:
        if self.arguments.schedule == "mixed":
            size = len(self.forget) + len(self.retain)
            return [Stage("forget and retain", size, self._fetch_mixed)]
        retain = [self.retain_stage] if len(self.retain) and self.arguments.alpha else []
        return [self.forget_stage, *retain]

    def fetch_forget(self, batch: Batch) -> dict[str, Tensor]:
        inputs = super().fetch_forget(batch)
        inputs["labels"] = self.drawn_labels(inputs["labels"], batch)
        return {**inputs, "weights": torch.ones(len(batch))}

    def fetch_retain(self, batch: Batch) -> dict[str, Tensor]:
        weights = torch.full((len(batch),), float(self.arguments.alpha))
        return {**super().fetch_retain(batch), "weights": weights}

    @cached_property
    def _both(self) -> tuple[Any, Tensor]:
        parts = self.forget, self.retain
        return joined(*(p.images for p in parts)), torch.cat([p.labels for p in parts])

    def _fetch_mixed(self, batch: Batch) -> dict[str, Tensor]:
        inputs = self.fetch_from(*self._both, batch)
        to_forget = batch.rows < len(self.forget)
        drawn = self.drawn_labels(inputs["labels"], batch)
        return {
            "images": inputs["images"],
            "labels": torch.where(to_forget, drawn, inputs["labels"]),
            "weights": torch.where(to_forget, 1.0, float(self.arguments.alpha)),
        }

    def drawn_labels(self, labels: Tensor, batch: Batch) -> Tensor:
        """A class for every picture, drawn uniformly, by default among the wrong ones.

        Args:
            labels: True classes, int64 (B,).
            batch: Draws.
        """
        classes = self.num_classes
        if self.arguments.relabel == "uniform_all":
            return batch.draw(lambda n, g: torch.randint(0, classes, (n,), generator=g), _LABEL)
        steps = batch.draw(lambda n, g: torch.randint(1, classes, (n,), generator=g), _LABEL)
        return (labels + steps) % classes

    def loss_of(self, logits: Tensor, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        samples = F.cross_entropy(logits, inputs["labels"], reduction="none")
        return StepLoss(samples * inputs["weights"])


@dataclass(kw_only=True)
class SalUnArguments(RandomLabelArguments):
    """Options of `SalUnRecipe`."""

    mask_ratio: float | None = 0.5
    learning_rate: float = 0.013

    def validate(self) -> None:
        """Check the options; a mask of one's own takes the place of the ratio."""
        if self.mask is not None and self.mask_ratio == type(self).mask_ratio:
            self.mask_ratio = None
        super().validate()
        if self.mask is None and self.mask_ratio is None:
            raise ValueError("salun needs a mask; give mask_ratio or mask, or use the recipe 'rl'.")


class SalUnRecipe(RandomLabelRecipe):
    """SalUn: learns random labels, and changes only weights that matter for what to forget.

    Example:
        >>> arguments = SalUnArguments(
        ...     output_dir="out", model="salun-resnet8", data="c.npz", forget="class:cat"
        ... )
        >>> SalUnRecipe(arguments).arguments.mask_ratio
        0.5

    Source: Fan et al. 2024 (arXiv 2310.12508), equations 3 to 5.
    """

    name = "salun"
    arguments_class = SalUnArguments


@dataclass(kw_only=True)
class SalUnSoftArguments(RandomLabelArguments):
    """Options of `SalUnSoftRecipe`.

    Args:
        soft_schedule: "quantile": after every step, the smallest changes, a share of
            `soft_ratio_start`, are undone and the others are reduced by the same threshold; the
            share falls linearly to 0. "beta": the threshold itself falls.
        soft_ratio_start: Initial share of the weights, above 0 and at most 1.
        soft_beta_start: Initial threshold of "beta".
    """

    soft_schedule: Literal["quantile", "beta"] = "quantile"
    soft_ratio_start: float = 0.5
    soft_beta_start: float = 1e-4
    learning_rate: float = 0.013

    def validate(self) -> None:
        """Check the options of the method, and those of all."""
        super().validate()
        check_positive("soft_beta_start", self.soft_beta_start)
        if not 0 < self.soft_ratio_start <= 1:
            raise ValueError(
                f"soft_ratio_start must be above 0 and at most 1, got {self.soft_ratio_start}."
            )


class SalUnSoftRecipe(RandomLabelRecipe):
    """SalUn-soft: uses a penalty on the size of the change, which falls to 0, but no mask.

    Source: Fan et al. 2024 (arXiv 2310.12508), appendix A: proximal steps of beta |theta -
    theta_o|_1. The shares of "quantile" are those of the code published with it; the anchor is
    always the original, and the weight falls with every step.
    """

    name = "salun-soft"
    arguments_class = SalUnSoftArguments

    def prepare(self, model: nn.Module, accelerator: object) -> None:
        super().prepare(model, accelerator)
        options = self.arguments
        start = (
            options.soft_ratio_start
            if options.soft_schedule == "quantile"
            else options.soft_beta_start
        )
        self.soft_threshold = SoftThreshold(model, options.soft_schedule, start, count_steps(self))

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        self.soft_threshold.apply(model, step)


class SoftThreshold:
    """Takes back the smallest changes of a model after every step, and fewer as it goes on.

    The change v becomes sign(v) max(|v| - threshold, 0), the proximal step of an l1 penalty.

    Args:
        model: The original; its weights are copied.
        schedule: "quantile" or "beta", what falls linearly from `start` to 0.
        start: Share of the weights that are put back, or the threshold itself.
        steps: Steps of the whole run.

    Source: Fan et al. 2024 (arXiv 2310.12508), appendix A.
    """

    def __init__(self, model: nn.Module, schedule: str, start: float, steps: int) -> None:
        self._anchors = {
            name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad
        }
        self._schedule, self._start, self._steps = schedule, start, steps

    @torch.no_grad()
    def apply(self, model: nn.Module, step: int) -> None:
        """Put the changes of a model back by the threshold of a step.

        Args:
            model: The same model, changed.
            step: From 0.
        """
        parameters = dict(model.named_parameters())
        moved = [name for name in self._anchors if parameters[name].requires_grad]
        tensors, anchors = (
            [parameters[name] for name in moved],
            [self._anchors[name] for name in moved],
        )
        changes = [tensor - anchor for tensor, anchor in zip(tensors, anchors, strict=True)]
        threshold = self._threshold(changes, step)
        for tensor, anchor, change in zip(tensors, anchors, changes, strict=True):
            moved = anchor + change.sign() * (change.abs() - threshold).clamp_min(0)
            # The bits of the anchor itself: the sum of -0 and 0 is 0.
            tensor.copy_(torch.where(change.abs() <= threshold, anchor, moved))

    def _threshold(self, changes: list[Tensor], step: int) -> Tensor | float:
        left = self._start * (1 - step / self._steps)
        if self._schedule == "beta":
            return left
        sizes = torch.cat([change.abs().flatten() for change in changes])
        count = int(left * len(sizes))
        return sizes.kthvalue(count).values if count else 0.0
