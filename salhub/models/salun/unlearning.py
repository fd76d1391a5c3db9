"""What every way of unlearning a classifier has in common: model, sets, mask, report."""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from salhub.data.labelled_pictures import PictureData, PictureRows, pictures_of, some_of
from salhub.data.picture_preparation import PicturePreparation
from salhub.explaining.modeling_explained_classifier import load_classifier
from salhub.model_card import Facts
from salhub.models.salun.forget_set import (
    check_class_names,
    check_forget_and_retain,
    check_kind,
    check_reference_split,
    check_retain_is_known,
    load_split,
    record_in_config,
)
from salhub.models.salun.masked_recipe import (
    MaskArguments,
    MaskedRecipe,
    MaskedTrainingRecipe,
    batches_of,
    before_and_now,
)
from salhub.models.salun.unlearning_report import (
    Attack,
    UnlearningReport,
    check_attack,
    choose_setting,
    measure_unlearning,
)
from salhub.models.salun.weight_saliency import compute_saliency
from salhub.results import Results, Table
from salhub.runner.batches import Batch, generator_of
from salhub.runner.image_classification import (
    USAGE,
    ClassifierArguments,
    ClassifierRecipe,
    PictureRecipe,
    named_subset,
)
from salhub.runner.recipe import Stage, StepLoss

logger = logging.getLogger(__name__)

REST = "rest"
# Draws of a run are told apart by these.
_RETAIN_ORDER = 7


@dataclass(kw_only=True)
class ForgettingArguments(MaskArguments):
    """Options of every way to unlearn a classifier, beside those of `MaskArguments`.

    Args:
        retain: Which pictures to retain: "rest" for all others, or a part named like `forget`.
        allow_no_retain: Run even if there are no pictures to retain.
        reference: A model trained without the pictures to forget, to compare with, or None.
        attack: Membership inference: "threshold", "svc" or "none".
    """

    retain: str = REST
    allow_no_retain: bool = False
    reference: str | None = None
    attack: Attack = "threshold"


@dataclass(kw_only=True)
class UnlearningArguments(ForgettingArguments, ClassifierArguments):
    """Options of every way to unlearn a classifier by training.

    Args:
        freeze_norm_stats: Keep the running statistics of batch normalization, which a mask does
            not protect.

    Source: Fan et al. 2024 (arXiv 2310.12508), section 5.1 and appendix B, for the defaults.
    """

    freeze_norm_stats: bool = False
    batch_size: int = 256
    num_train_epochs: int = 10
    learning_rate: float = 0.01


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures in memory, or read when they are needed.

    Args:
        images: uint8 (n, C, H, W), or what gives prepared pictures by their rows.
        labels: int64 (n,).
        places: Their places in the archive, int64 (n,).
    """

    images: Tensor | PictureRows
    labels: Tensor
    places: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def in_order(self, order: Tensor) -> Self:
        """The same pictures in another order, int64 (n,)."""
        images = some_of(self.images, order)
        return type(self)(images, self.labels[order], self.places[order])


class ForgettingRecipe(MaskedRecipe, PictureRecipe):
    """Loads a classifier and what to forget, and measures how well it was forgotten.

    Attributes:
        learns_retained: Whether the method can do nothing without retained pictures.
    """

    arguments_class = ForgettingArguments
    learns_retained: ClassVar[bool] = True
    chooses_settings = True

    # --- before the first step ------------------------------------------------------------------

    def build_model(self) -> nn.Module:
        options = self.arguments
        check_attack(options.attack)
        check_kind(options.model, is_diffusion=False)
        self.loaded_model = self.base_model = load_classifier(options.model)
        self.preparation = PicturePreparation.of_model(options.model)
        self.image_processor = self.preparation.image_processor
        archive = options.read_pictures(self.base_model.config.id2label.values())
        self._check_classes(archive)
        self._choose(archive)
        self.check_mask()
        self.preparation.check_fits(self.forget.images, self.base_model)
        self.reference = None if options.reference is None else self._load_reference()
        return self.network()

    def network(self) -> nn.Module:
        """What is trained; the classifier itself unless a method builds on it."""
        return self.base_model

    def _check_classes(self, archive: PictureData) -> None:
        config = self.base_model.config
        check_class_names(archive.class_names, config.id2label, self.arguments.model)
        self.num_classes = int(config.num_labels)

    def _choose(self, archive: PictureData) -> None:
        """The pictures to forget, to retain and to test on."""
        options = self.arguments
        base = load_split(options.model, archive)
        subset = named_subset(options.forget, archive, base, options)
        gone = set(archive.labels[base.forgotten].tolist())
        gone -= set(archive.labels[base.train].tolist())
        self.forgotten_classes = tuple(sorted({*subset.classes, *gone}))
        self.forget_places = subset.places
        self.split = base.without(subset.places)
        retained = self.split.train
        if options.retain != REST:
            retained = named_subset(options.retain, archive, self.split, options).places
        check_forget_and_retain(subset.places, retained, allow_no_retain=options.allow_no_retain)
        check_retain_is_known(retained, self.split)
        self.say_forgotten(len(base.train))
        if self.learns_retained and not len(retained):
            raise ValueError(
                f"the recipe '{self.name}' trains on the retained pictures, but there are "
                "none; retain some pictures, or use another recipe."
            )
        self.forget, self.retain, self.test = (
            self._pictures(archive, places) for places in (subset.places, retained, base.test)
        )
        for part, measures in ((self.retain, "RA"), (self.test, "TA, the confidence distance")):
            if not len(part):
                logger.warning(
                    "There are no %s pictures, so %s and the membership attack are left out.",
                    "retained" if part is self.retain else "test",
                    measures,
                )
        # Most models have forgotten nothing before, and no picture has no place.
        is_second = len(base.forgotten) > 0
        self.earlier = self._pictures(archive, base.forgotten) if is_second else None

    def _pictures(self, archive: PictureData, places: Tensor) -> LabelledPictures:
        images = pictures_of(archive, places, self.preparation)
        return LabelledPictures(images, archive.labels[places], places)

    def _load_reference(self) -> nn.Module:
        check_reference_split(self.arguments.reference, self.split, self.arguments.forget)
        return load_classifier(self.arguments.reference)

    def prepare(self, model: nn.Module, accelerator: Any) -> None:
        loaded = self.loaded_model.to(accelerator.device).eval()
        self.before = self.measure(loaded, accelerator)
        super().prepare(model, accelerator)

    def prepared(self, images: Tensor) -> Tensor:
        return self.preparation(images)

    def score_weights(self) -> dict[str, Tensor]:
        return compute_saliency(
            self.base_model,
            self.batches(self.forget, self.arguments.mask_batch_size),
            kind=self.arguments.saliency,
            seed=self.arguments.seed,
        )

    def batches(self, pictures: LabelledPictures, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Prepared pictures with their labels, in order and not augmented, for scores."""
        device = next(self.base_model.parameters()).device
        for rows in batches_of(len(pictures), size):
            images = pictures.images[rows].to(device)
            yield self.prepared(images), pictures.labels[rows].to(device)

    # --- after the last step ----------------------------------------------------------------------

    def evaluate(self, model: nn.Module, accelerator: Any, results: Results) -> None:
        results.data = {**self.split.data, **self.describe_sets()}
        self.add_mask_metrics(results)
        self.report = self.measure(model, accelerator)
        self.report.add_to(results)
        self.before.add_to(results, "before/")
        if self.reference is not None:
            reference = self.reference.to(accelerator.device).eval()
            self.reference_report = self.measure(reference, accelerator)
            self.reference_report.add_to(results, "reference/")
            for prefix, report in (
                ("", self.report),
                ("before/", self.before),
                ("reference/", self.reference_report),
            ):
                gap = report.average_gap(self.reference_report)
                results.add_metric(f"{prefix}average_gap", gap, unit="points")
        results.tables.append(self._comparison())

    def _comparison(self) -> Table:
        reports = {"before": self.before, "this model": self.report}
        if self.reference is not None:
            reports["reference"] = self.reference_report
        columns = list(self.report.headline)
        note = (
            "Percent. UA: forgotten pictures that the model does not recognize. RA, TA: "
            "retained and test pictures that it recognizes, without forgotten classes. MIA: "
            "forgotten pictures that a membership attack classifies as never seen. Higher is "
            "not better: compare with a model that was trained without them."
        )
        rows = [[name, *report.headline.values()] for name, report in reports.items()]
        return Table("Before and after", note, ["", *columns], rows)

    def measure(self, model: nn.Module, accelerator: Any) -> UnlearningReport:
        """Accuracies and attacks of a model on the sets of this run."""
        order = torch.randperm(
            len(self.retain), generator=generator_of(self.arguments.seed, _RETAIN_ORDER)
        )
        outputs = {}
        for name, part in (("forget", self.forget), ("retain", self.retain), ("test", self.test)):
            logits = self.predict(model, part.images, accelerator)
            outputs[name] = (logits, part.labels)
        logits, labels = outputs["retain"]
        outputs["retain"] = (logits[order], labels[order])
        if self.earlier is not None:
            logits = self.predict(model, self.earlier.images, accelerator)
            outputs["earlier"] = (logits, self.earlier.labels)
        return measure_unlearning(
            **outputs,
            forgotten_classes=self.forgotten_classes,
            attack=self.arguments.attack,
            warns=not hasattr(self, "before"),
        )

    def export(self, model: Any, folder: Path) -> None:
        record_in_config(model.config, self)
        model.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)
        self.split.save(folder)
        self.export_mask(model, folder)

    def export_report(self, folder: Path) -> None:
        reports = {"before": self.before, "after": self.report}
        if self.reference is not None:
            reports["reference"] = self.reference_report
        self.save_record(
            folder,
            num_retain=len(self.retain),
            num_test=len(self.test),
            norm_statistics_changed=self._norm_statistics_changed(self.base_model),
            reports={name: report.to_dict() for name, report in reports.items()},
        )

    @classmethod
    def told(cls, results: Results) -> list[str]:
        others = " of other classes" if results.data["forget"].startswith("class:") else ""
        of_kept = [
            before_and_now("kept pictures", results, "RA"),
            before_and_now(f"test pictures{others}", results, "TA"),
        ]
        lines = [
            before_and_now("Accuracy on forgotten pictures", results, "UA", is_missed=True),
            "; ".join(filter(None, of_kept)),
        ]
        if lines[1]:
            lines[1] = f"Accuracy on {lines[1]}"
        found = {metric.name: metric.value for metric in results.metrics}
        if "average_gap" in found:
            lines.append(
                f"Average gap to the reference: {found['before/average_gap']:.1f} points before, "
                f"{found['average_gap']:.1f} points now"
            )
        return [*super().told(results), *(f"{line}." for line in lines if line)]

    @classmethod
    def choose(cls, runs: Sequence[Results]) -> int:
        return choose_setting(runs)

    def card_facts(self) -> Facts:
        facts = super().card_facts()
        is_changed = self._norm_statistics_changed(self.base_model)
        notes = (
            ("The running statistics of batch normalization have changed.",) if is_changed else ()
        )
        return dataclasses.replace(
            facts,
            example=USAGE,
            pipeline_tag="image-classification",
            cautions=(*facts.cautions, *notes),
        )

    def _norm_statistics_changed(self, model: nn.Module) -> bool:
        """Whether anything but the weights has changed, which no mask covers."""
        return any(
            not torch.equal(buffer, self.base_state[name])
            for name, buffer in model.named_buffers()
            if name in self.base_state
        )


class UnlearningRecipe(ForgettingRecipe, MaskedTrainingRecipe, ClassifierRecipe):
    """Forgets by training; a method changes `stages`, the labels fetched, or `loss_of`."""

    arguments_class = UnlearningArguments

    def plain_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return ClassifierRecipe.build_optimizer(self, model)

    def stages(self, epoch: int) -> Iterable[Stage]:
        return [self.retain_stage if self.learns_retained else self.forget_stage]

    @property
    def forget_stage(self) -> Stage:
        """A pass over what is to be forgotten."""
        return Stage("forget", len(self.forget), self.fetch_forget)

    @property
    def retain_stage(self) -> Stage:
        """A pass over what is retained."""
        return Stage("retain", len(self.retain), self.fetch_retain)

    def fetch_forget(self, batch: Batch) -> dict[str, Tensor]:
        """Pictures to forget, with the labels that the method wants them to have."""
        return self.fetch_from(self.forget.images, self.forget.labels, batch)

    def fetch_retain(self, batch: Batch) -> dict[str, Tensor]:
        """Pictures to retain."""
        return self.fetch_from(self.retain.images, self.retain.labels, batch)

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        if self.arguments.freeze_norm_stats:
            hold_norm_statistics(model)
        logits = model(self.prepared(inputs["images"])).logits
        return self.loss_of(logits, inputs, batch)

    def loss_of(self, logits: Tensor, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        """The loss of a pass; cross-entropy with the labels that were fetched."""
        return StepLoss(F.cross_entropy(logits, inputs["labels"], reduction="none"))


def hold_norm_statistics(model: nn.Module) -> None:
    """Puts batch normalisation into evaluation mode, so that its running statistics stay."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
