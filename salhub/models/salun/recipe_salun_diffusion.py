"""`salhub unlearn salun-diffusion`: make a class-conditional diffusion model forget a class."""

import copy
import dataclasses
import functools
import logging
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from salhub.backbones.conditional_unet.noise_schedule import add_noise
from salhub.backbones.conditional_unet.recipe_conditional_unet import (
    NoisyPictures,
    as_signal,
    noisy_pictures,
    squared_error,
    with_dropped_classes,
)
from salhub.backbones.conditional_unet.sampling import save_sample_sheet
from salhub.data.labelled_split import spread_places
from salhub.errors import check_choice
from salhub.model_card import Facts
from salhub.models.salun.forget_set import (
    check_class_names,
    check_forget_and_retain,
    check_kind,
    load_split,
    record_in_config,
)
from salhub.models.salun.judge import GenerationReport, Judge, judge_model
from salhub.models.salun.masked_recipe import MaskArguments, MaskedTrainingRecipe, batches_of
from salhub.models.salun.modeling_salun_diffusion import SalUnForConditionalDiffusion
from salhub.models.salun.weight_saliency import compute_saliency
from salhub.results import Results
from salhub.runner.arguments import TrainingArguments, check_not_negative, check_share
from salhub.runner.batches import Batch, generator_of
from salhub.runner.image_classification import as_rgb, named_subset
from salhub.runner.plan import share_of
from salhub.runner.recipe import Stage, StepLoss

logger = logging.getLogger(__name__)

TARGETS = ("random", "next", "null")
# Draws of a step are told apart by these, and those of a run.
_TARGET, _RETAIN = 30, 31
_USAGE = """
result = salhub.pipeline("{model}")(0, num_images=4)  # a class, by index or name
result.save("generated.png")
"""
# Real pictures that the generated ones are compared with.
_REAL_PICTURES = 5000


@dataclass(kw_only=True)
class DiffusionUnlearningArguments(MaskArguments, TrainingArguments):
    """Options of every way to unlearn a diffusion model, beside those of `MaskArguments`.

    Args:
        forget: The class to forget, such as "class:3".
        alpha: Weight of the denoising loss on what is retained; each step draws as many retained
            pictures as it has to forget.
        retain_reduction: Whether that loss is the "mean" over the pixels, as the other term is, or
            their "sum", as in the published code.
        class_dropout: Share of the retained pictures whose class is hidden, in [0, 1).
        mask_guidance: Guidance of the predictions that the weights are ranked by, 0 or more.
        judge: Classifier that looks at generated pictures, never trained on them; None for none.
        judge_original: Whether it also looks at what the original generates.
        num_judged: Pictures of the forgotten class that it looks at.
        num_judged_others: Pictures of each other class.
        sampling_steps: Steps of the sampler for those.
        guidance_scale: Its guidance.
    """

    alpha: float = 1.0
    retain_reduction: Literal["mean", "sum"] = "mean"
    class_dropout: float = 0.1
    mask_guidance: float = 2.0
    judge: str | None = None
    judge_original: bool = True
    num_judged: int = 500
    num_judged_others: int = 100
    sampling_steps: int = 50
    guidance_scale: float = 2.0
    batch_size: int = 64
    num_train_epochs: int = 100
    max_train_steps: int | None = 300
    learning_rate: float = 1e-4
    max_grad_norm: float | None = 1.0

    def validate(self) -> None:
        """Check the options of unlearning, and those of every run."""
        super().validate()
        for name in ("alpha", "mask_guidance", "guidance_scale"):
            check_not_negative(name, getattr(self, name))
        check_share("class_dropout", self.class_dropout)
        for name, least in (("num_judged", 1), ("num_judged_others", 2), ("sampling_steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, got {getattr(self, name)}.")


class DiffusionUnlearningRecipe(MaskedTrainingRecipe):
    """Loads a diffusion model and what to forget; methods say what the loss on that is."""

    arguments_class = DiffusionUnlearningArguments

    def build_model(self) -> nn.Module:
        options = self.arguments
        check_kind(options.model, is_diffusion=True)
        # Trained in full precision, in whatever one it was saved.
        self.base_model = SalUnForConditionalDiffusion.from_pretrained(
            options.model, dtype=torch.float32
        )
        self.unet_config = self.base_model.config.backbone_config
        archive = options.read_pictures((self.base_model.config.id2label or {}).values())
        check_class_names(archive.class_names, self.base_model.config.id2label, options.model)
        base = load_split(options.model, archive)
        subset = named_subset(options.forget, archive, base, options)
        if len(subset.classes) != 1:
            raise ValueError(
                f"a diffusion model forgets one class at a time, such as class:3; got "
                f"{options.forget!r}."
            )
        self.forgotten_class = subset.classes[0]
        self.split = base.without(subset.places)
        check_forget_and_retain(subset.places, self.split.train, allow_no_retain=False)
        self.check_mask()
        if options.alpha == 0:
            logger.warning("alpha is 0: nothing holds the other classes, and all will be lost.")
        size = self.unet_config.image_size
        self.forget = archive.images(subset.places, size)
        self.retain = archive.images(self.split.train, size)
        self.retain_labels = archive.labels[self.split.train]
        self.forget_places = subset.places
        self._check_channels()
        self.judge = None if options.judge is None else self._load_judge(archive.class_names)
        return self.base_model

    def _check_channels(self) -> None:
        found, wanted = self.forget.shape[1], self.unet_config.num_channels
        if found != wanted:
            raise ValueError(
                f"{self.arguments.model} draws pictures of {wanted} channels and those of the data "
                f"have {found}; give the data that it was trained on."
            )

    def _load_judge(self, class_names: list[str]) -> Judge:
        options = self.arguments
        judge = Judge.from_pretrained(options.judge)
        check_class_names(class_names, judge.classifier.config.id2label, options.judge)
        judge.preparation.check_fits(as_rgb(self.forget[:1]), judge.classifier)
        steps = self.unet_config.num_train_timesteps
        if options.sampling_steps > steps:
            raise ValueError(
                f"sampling_steps must be at most {steps}, the steps that {options.model} has, got "
                f"{options.sampling_steps}."
            )
        return judge

    @functools.cached_property
    def original(self) -> nn.Module:
        """A copy of the model before its first step, as a model in training drifts."""
        return copy.deepcopy(self.base_model).eval().requires_grad_(False)

    def prepare(self, model: nn.Module, accelerator: Any) -> None:
        super().prepare(model, accelerator)
        _ = self.original  # copied now, before a checkpoint is loaded
        if self.judge is not None:
            self.judge.classifier.to(accelerator.device)

    def score_weights(self) -> dict[str, Tensor]:
        return compute_saliency(
            self.base_model,
            self._forget_batches(),
            self._guided_loss,
            kind=self.arguments.saliency,
            seed=self.arguments.seed,
        )

    def _forget_batches(self) -> Iterator[dict[str, Tensor]]:
        """What is to be forgotten, with noise and steps, in order."""
        device = next(self.base_model.parameters()).device
        steps = self.unet_config.num_train_timesteps
        generator = generator_of(self.arguments.seed, _TARGET)
        for rows in batches_of(len(self.forget), self.arguments.mask_batch_size):
            clean = as_signal(self.forget[rows])
            batch = {
                "clean": clean,
                "noise": torch.randn(clean.shape, generator=generator),
                "timestep": torch.randint(steps, (len(rows),), generator=generator),
            }
            yield {name: value.to(device) for name, value in batch.items()}

    def _guided_loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        classes = torch.full_like(batch["timestep"], self.forgotten_class)
        noisy = add_noise(self.unet_config, batch["clean"], batch["noise"], batch["timestep"])
        predicted = model(noisy, batch["timestep"], classes, self.arguments.mask_guidance)
        return squared_error(predicted.noise_pred, batch["noise"])

    def plain_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        parameters = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.Adam(parameters, lr=self.arguments.learning_rate)

    def stages(self, epoch: int) -> Iterable[Stage]:
        return [Stage("forget", len(self.forget), self._fetch)]

    def _fetch(self, batch: Batch) -> dict[str, Tensor]:
        count = len(self.retain)
        rows = batch.draw(lambda n, g: torch.randint(count, (n,), generator=g), _RETAIN)
        return {
            "forget": self.forget[batch.rows],
            "retain": self.retain[rows],
            "retain_labels": self.retain_labels[rows],
        }

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        forget, retain = (
            noisy_pictures(self.unet_config, as_signal(inputs[name]), batch, which)
            for which, name in enumerate(("forget", "retain"))
        )
        forgotten = torch.full_like(inputs["retain_labels"], self.forgotten_class)
        retained = with_dropped_classes(
            self.unet_config, inputs["retain_labels"], self.arguments.class_dropout, batch
        )
        # One pass for both sets: wrappers of several processes allow no second one.
        predicted = model(
            torch.cat([forget.sample, retain.sample]),
            torch.cat([forget.timestep, retain.timestep]),
            torch.cat([forgotten, retained]),
        ).noise_pred
        of_forget, of_retain = predicted.chunk(2)
        losses = self.forget_losses(model, of_forget, forget, batch)
        kept = squared_error(of_retain, retain.noise)
        if self.arguments.retain_reduction == "mean":
            kept = kept / retain.noise[0].numel()
        measures = {"forget_loss": losses.detach(), "retain_loss": kept.detach()}
        return StepLoss(losses + self.arguments.alpha * kept, measures=measures)

    @abstractmethod
    def forget_losses(
        self, model: nn.Module, predicted: Tensor, pictures: NoisyPictures, batch: Batch
    ) -> Tensor:
        """The loss of each picture to forget, (B,).

        Args:
            model: The model in training.
            predicted: Its prediction for the forgotten class, (B, C, H, W).
            pictures: The noisy pictures that it is of.
            batch: Draws.
        """

    def evaluate(self, model: nn.Module, accelerator: Any, results: Results) -> None:
        results.data = {**self.split.data, **self.describe_sets()}
        self.add_mask_metrics(results)
        self.reports: dict[str, GenerationReport] = {}
        if self.judge is None:
            return
        rows = spread_places(len(self.retain), _REAL_PICTURES)
        real = as_signal(self.retain[rows])
        # A judge that cannot read real pictures says nothing of generated ones.
        is_right = self.judge.look(real).verdicts == self.retain_labels[rows]
        results.add_metric(
            "judge_accuracy", 100 * float(is_right.double().mean()), n=len(rows), unit="percent"
        )
        networks = {"": model, "before/": self.original}
        if not self.arguments.judge_original:
            del networks["before/"]
        for prefix, network in networks.items():
            report = self.judged(network, real, accelerator)
            report.add_to(results, prefix)
            self.reports["before" if prefix else "after"] = report

    def judged(self, model: nn.Module, real: Tensor, accelerator: Any) -> GenerationReport:
        """What the judge says of pictures that a model generates."""
        options = self.arguments
        assert self.judge is not None
        return judge_model(
            self.judge,
            model,
            self.forgotten_class,
            real,
            num_judged=options.num_judged,
            num_judged_others=options.num_judged_others,
            sampling_steps=options.sampling_steps,
            guidance_scale=options.guidance_scale,
            seed=options.seed,
            share=share_of(accelerator),
        )

    def export(self, model: Any, folder: Path) -> None:
        record_in_config(model.config, self)
        model.save_pretrained(folder)
        self.split.save(folder)
        self.export_mask(model, folder)
        seed = self.arguments.seed
        save_sample_sheet(model, folder / "samples.png", seed=seed)
        save_sample_sheet(self.original, folder / "samples_before.png", seed=seed)

    def export_report(self, folder: Path) -> None:
        self.save_record(
            folder, reports={name: vars(report) for name, report in self.reports.items()}
        )

    def card_facts(self) -> Facts:
        pictures = {
            "samples_before.png": "Before: pictures of every class, one row each, by the original.",
            "samples.png": "After: the same draws by this model.",
        }
        return dataclasses.replace(
            super().card_facts(),
            example=_USAGE,
            pipeline_tag="unconditional-image-generation",
            pictures=pictures,
        )


@dataclass(kw_only=True)
class RandomClassArguments(DiffusionUnlearningArguments):
    """Options of `RandomClassRecipe`.

    Args:
        target: What the forgotten class is to become: "random" other classes, drawn anew in every
            step, the "next" class, the "null" class of no condition, or the number of a class.
        teacher: Who shows it: the "frozen" original, or the "online" model itself.
    """

    target: str | int = "random"
    teacher: Literal["frozen", "online"] = "frozen"

    def validate(self) -> None:
        """Check the options of the method, and those of all."""
        super().validate()
        self.target = str(self.target)
        if not self.target.isdecimal():
            check_choice("target", self.target, TARGETS)


class RandomClassRecipe(DiffusionUnlearningRecipe):
    """RL for diffusion: predict for the forgotten class what is predicted for another one.

    Source: Fan et al. 2024 (arXiv 2310.12508), equation 6, without a mask. There the model itself
    is the teacher and the next class the target; the frozen original and drawn classes, the
    defaults here, do not drift.
    """

    name = "rl-diffusion"
    arguments_class = RandomClassArguments

    def build_model(self) -> nn.Module:
        model = super().build_model()
        target, classes = self.arguments.target, self.unet_config.num_classes
        if target.isdecimal() and (int(target) >= classes or int(target) == self.forgotten_class):
            raise ValueError(
                f"target must be another class than {self.forgotten_class}, 0 to {classes - 1}, "
                f"got {target}."
            )
        return model

    def forget_losses(self, model, predicted, pictures, batch) -> Tensor:
        classes = self.target_classes(batch).to(predicted.device)
        # A frozen teacher in evaluation mode: target and prediction differ by the class alone.
        teacher = self.original if self.arguments.teacher == "frozen" else model
        with torch.no_grad():
            wanted = teacher(pictures.sample, pictures.timestep, classes).noise_pred
        return (predicted - wanted).square().flatten(1).mean(1)

    def target_classes(self, batch: Batch) -> Tensor:
        """The class that each forgotten picture is to be taken for, int64 (B,)."""
        target, classes = self.arguments.target, self.unet_config.num_classes
        if target == "random":
            steps = batch.draw(lambda n, g: torch.randint(1, classes, (n,), generator=g), _TARGET)
            return (self.forgotten_class + steps) % classes
        fixed = {"next": (self.forgotten_class + 1) % classes, "null": self.unet_config.null_class}
        return torch.full((len(batch),), fixed[target] if target in fixed else int(target))


@dataclass(kw_only=True)
class SalUnDiffusionArguments(RandomClassArguments):
    """Options of `SalUnDiffusionRecipe`."""

    mask_ratio: float | None = 0.5

    def validate(self) -> None:
        """Check the options; a mask of one's own takes the place of the ratio."""
        if self.mask is not None and self.mask_ratio == type(self).mask_ratio:
            self.mask_ratio = None
        super().validate()
        if self.mask is None and self.mask_ratio is None:
            raise ValueError(
                "salun-diffusion needs a mask; give mask_ratio or mask, or use 'rl-diffusion'."
            )


class SalUnDiffusionRecipe(RandomClassRecipe):
    """SalUn for diffusion: another class's noise, and only salient weights may move.

    Source: Fan et al. 2024 (arXiv 2310.12508), equations 3, 4 and 6.
    """

    name = "salun-diffusion"
    arguments_class = SalUnDiffusionArguments


@dataclass(kw_only=True)
class GradientAscentDiffusionArguments(DiffusionUnlearningArguments):
    """Options of `GradientAscentDiffusionRecipe`."""

    learning_rate: float = 2e-5


class GradientAscentDiffusionRecipe(DiffusionUnlearningRecipe):
    """GA for diffusion: climb the denoising loss of what is to be forgotten."""

    name = "ga-diffusion"
    arguments_class = GradientAscentDiffusionArguments

    def forget_losses(self, model, predicted, pictures, batch) -> Tensor:
        return -(predicted - pictures.noise).square().flatten(1).mean(1)
