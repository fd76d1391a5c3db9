"""What every way of unlearning a classifier has in common: model, sets, mask, report."""

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from salhub.backbones.explained_classifier.modeling_explained_classifier import load_classifier
from salhub.data.picture_archive import PictureArchive
from salhub.models.salun.forget_set import (
    check_class_names,
    check_forget_and_retain,
    check_reference_split,
    describe_spec,
    load_split,
    places_digest,
    record_in_config,
)
from salhub.models.salun.masked_optimizer import MaskedOptimizer, closed_weights_digest
from salhub.models.salun.picture_preparation import PicturePreparation
from salhub.models.salun.unlearning_report import (
    ATTACKS,
    UnlearningReport,
    check_attack,
    measure_unlearning,
)
from salhub.models.salun.weight_delta import save_delta
from salhub.models.salun.weight_mask import WeightMask, check_ratio, make_mask
from salhub.models.salun.weight_saliency import KINDS, compute_saliency
from salhub.results import Results
from salhub.runner.arguments import check_choice
from salhub.runner.batches import Batch, generator_of
from salhub.runner.image_classification import (
    ClassifierArguments,
    ClassifierRecipe,
    as_rgb,
    named_subset,
)
from salhub.runner.recipe import Stage, StepLoss

logger = logging.getLogger(__name__)

RECORD_NAME = "unlearning.json"
REST = "rest"
# Draws of a run are told apart by these.
_RETAIN_ORDER = 7


@dataclass(kw_only=True)
class UnlearningArguments(ClassifierArguments):
    """Options of every way to unlearn a classifier.

    Args:
        model: The trained classifier: a folder, a shipped name or a Hub repository.
        data: Archive of the pictures that it was trained on, see `PictureArchive`.
        forget: Which of them to forget, such as "class:cat" or "random:0.1", see `choose_subset`.
        retain: Which to retain: "rest" for all others, or a part named in the same way.
        allow_no_retain: Go on where nothing is retained.
        mask_ratio: Share of the weights that may move, above 0 and at most 1; None for all.
        saliency: What the weights are ranked by, see `compute_saliency`; "random" and "magnitude"
            are the controls.
        scope: Which weights are ranked together, see `make_mask`.
        exclude: Patterns of names of parameters that stay as they are, such as "*norm*".
        mask: Folder or file of a mask to use instead.
        mask_batch_size: Pictures of a batch when the weights are ranked.
        freeze_norm_stats: Leave the running statistics of batch normalisation as they are; a mask
            does not cover them.
        reference: A model trained without the pictures to forget, to compare with; None for none.
        attack: Membership inference: "threshold", "svc" or "none".
        save_delta: Write `delta.safetensors`, the open weights alone, beside the model.

    Source: Fan et al. 2024 (arXiv 2310.12508), section 5.1 and appendix B, for the defaults.
    """

    model: str
    forget: str
    retain: str = REST
    allow_no_retain: bool = False
    mask_ratio: float | None = None
    saliency: str = "batch_mean_grad"
    scope: str = "global"
    exclude: list[str] = field(default_factory=list)
    mask: str | None = None
    mask_batch_size: int = 256
    freeze_norm_stats: bool = False
    reference: str | None = None
    attack: str = "threshold"
    save_delta: bool = False
    batch_size: int = 256
    num_train_epochs: int = 10
    learning_rate: float = 0.01

    def validate(self) -> None:
        """Check the options of unlearning, and those of every run."""
        super().validate()
        if isinstance(self.exclude, str):
            self.exclude = [self.exclude]
        check_choice("saliency", self.saliency, KINDS)
        check_choice("attack", self.attack, ATTACKS)
        if self.mask_ratio is not None:
            check_ratio(self.mask_ratio)
        if self.mask is not None and self.mask_ratio is not None:
            raise ValueError("mask and mask_ratio contradict each other; give one of them.")
        if self.save_delta and self.mask is None and self.mask_ratio is None:
            raise ValueError("save_delta needs a mask; give mask_ratio or mask.")


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures in memory.

    Args:
        images: uint8 (n, C, H, W).
        labels: int64 (n,).
        places: Their places in the archive, int64 (n,).
    """

    images: Tensor
    labels: Tensor
    places: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class UnlearningRecipe(ClassifierRecipe):
    """Loads a classifier and what to forget; methods say what a step is.

    A method gives `stages` and `sample_losses`, or changes the weights at once in `prepare`.
    """

    verb = "unlearn"
    arguments_class = UnlearningArguments

    def learned_options(self) -> dict[str, Any]:
        # Folders of this machine do not matter, but what is in them does.
        options = super().learned_options()
        for name in ("model", "mask", "reference"):
            if options[name] is not None and Path(options[name]).exists():
                options[name] = Path(options[name]).name
        return {**options, "forget": describe_spec(options["forget"])}

    # --- before the first step ------------------------------------------------------------------

    def build_model(self) -> nn.Module:
        options = self.arguments
        check_attack(options.attack)
        self.classifier = load_classifier(options.model)
        self.preparation = PicturePreparation.of_model(options.model)
        self.image_processor = self.preparation.image_processor
        archive = PictureArchive(options.data)
        self._check_classes(archive)
        self._choose(archive)
        self.preparation.check_fits(self.forget.images, self.classifier)
        self.reference = None if options.reference is None else self._load_reference()
        self.base_state = {name: t.clone() for name, t in self.classifier.state_dict().items()}
        self.weight_mask: WeightMask | None = None
        self.closed_digest: str | None = None
        self.seconds_of_mask = 0.0
        return self.network()

    def network(self) -> nn.Module:
        """What is trained; the classifier itself unless a method builds on it."""
        return self.classifier

    def _check_classes(self, archive: PictureArchive) -> None:
        config = self.classifier.config
        check_class_names(archive.class_names, config.id2label, self.arguments.model)
        self.num_classes = config.num_labels

    def _choose(self, archive: PictureArchive) -> None:
        """The pictures to forget, to retain and to test on."""
        options = self.arguments
        base = load_split(options.model, archive)
        subset = named_subset(options.forget, archive, base, options)
        self.forgotten_classes = subset.classes
        self.split = base.without(subset.places)
        retained = self.split.train
        if options.retain != REST:
            retained = named_subset(options.retain, archive, self.split, options).places
        check_forget_and_retain(subset.places, retained, allow_no_retain=options.allow_no_retain)
        self.forget, self.retain, self.test = (
            LabelledPictures(as_rgb(archive.images(places)), archive.labels[places], places)
            for places in (subset.places, retained, base.test)
        )

    def _load_reference(self) -> nn.Module:
        check_reference_split(self.arguments.reference, self.split, self.arguments.forget)
        return load_classifier(self.arguments.reference)

    def prepare(self, model: nn.Module, accelerator: Any) -> None:
        self.before = self.measure(self.classifier.eval(), accelerator)
        began = time.perf_counter()
        self.weight_mask = self._make_mask()
        self.seconds_of_mask = time.perf_counter() - began
        if self.weight_mask is not None:
            self.closed_digest = closed_weights_digest(self.classifier, self.weight_mask)

    def _make_mask(self) -> WeightMask | None:
        options = self.arguments
        if options.mask is not None:
            return WeightMask.from_pretrained(options.mask).for_model(self.classifier)
        if options.mask_ratio is None:
            return None
        scores = compute_saliency(
            self.classifier,
            self.batches(self.forget, options.mask_batch_size),
            kind=options.saliency,
            seed=options.seed,
        )
        return make_mask(
            scores,
            options.mask_ratio,
            scope=options.scope,
            exclude=options.exclude,
            saliency=options.saliency,
        )

    def batches(self, pictures: LabelledPictures, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Prepared pictures with their labels, in order and not augmented, for scores."""
        device = next(self.classifier.parameters()).device
        for rows in torch.arange(len(pictures)).split(size):
            images = pictures.images[rows].to(device)
            yield self.prepared(images), pictures.labels[rows].to(device)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        optimizer = super().build_optimizer(model)
        self.masked: MaskedOptimizer | None = None
        if self.weight_mask is None:
            return optimizer
        self.masked = MaskedOptimizer(optimizer, model, self.mask_of(model))
        return self.masked

    def mask_of(self, model: nn.Module) -> WeightMask:
        """The mask of what is trained; that of the classifier unless a method builds on it."""
        assert self.weight_mask is not None
        return self.weight_mask

    # --- steps ------------------------------------------------------------------------------------

    def stages(self, epoch: int) -> Iterable[Stage]:
        return [self.retain_stage]

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

    def prepared(self, images: Tensor) -> Tensor:
        return self.preparation(images)

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        if self.arguments.freeze_norm_stats:
            hold_norm_statistics(model)
        logits = model(self.prepared(inputs["images"])).logits
        return self.loss_of(logits, inputs, batch)

    def loss_of(self, logits: Tensor, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        """The loss of a pass; cross-entropy with the labels that were fetched."""
        return StepLoss(F.cross_entropy(logits, inputs["labels"], reduction="none"))

    def after_backward(self, model: nn.Module) -> None:
        if self.masked is not None:
            self.masked.mask_gradients()

    def finish(self, model: nn.Module) -> nn.Module:
        if self.masked is not None:
            self.masked.release()
        return self.classifier

    # --- after the last step ----------------------------------------------------------------------

    def evaluate(self, model: nn.Module, accelerator: Any, results: Results) -> None:
        results.data = {**self.split.data, **self.describe_sets()}
        self._check_certificate(model)
        self.report = self.measure(model, accelerator)
        self.report.add_to(results)
        self.before.add_to(results, "before/")
        results.add_metric("seconds/mask", self.seconds_of_mask, unit="s")
        if self.weight_mask is not None:
            results.add_metric("mask/density", self.weight_mask.density(), unit="fraction")
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
        return measure_unlearning(
            **outputs, forgotten_classes=self.forgotten_classes, attack=self.arguments.attack
        )

    def _check_certificate(self, model: nn.Module) -> None:
        if self.weight_mask is None:
            return
        if closed_weights_digest(model, self.weight_mask) != self.closed_digest:
            raise RuntimeError("closed weights have moved; this must not happen, please report it.")

    def describe_sets(self) -> dict[str, Any]:
        """What was forgotten and retained, without showing it."""
        return {
            "forget": describe_spec(self.arguments.forget),
            "num_forget": len(self.forget),
            "forget_digest": places_digest(self.forget.places),
            "num_retain": len(self.retain),
            "num_test": len(self.test),
            "split": self.split.digest[:16],
        }

    def record(self) -> dict[str, Any]:
        """What `unlearning.json` says."""
        options, mask = self.arguments, self.weight_mask
        record: dict[str, Any] = {
            "method": self.name,
            **self.describe_sets(),
            "options": self.learned_options(),
            "norm_statistics_changed": not options.freeze_norm_stats,
            "before": self.before.to_dict(),
            "report": self.report.to_dict(),
        }
        if self.reference is not None:
            record["reference_report"] = self.reference_report.to_dict()
        if mask is not None:
            record["mask"] = {
                "saliency": mask.saliency,
                "ratio": mask.ratio,
                "density": mask.density(),
                "num_open": mask.num_open,
                "num_weights": mask.num_weights,
                "density_per_tensor": mask.per_tensor(),
                "closed_weights_sha256": self.closed_digest,
            }
        return record

    def export(self, model: Any, folder: Path) -> None:
        record_in_config(model.config, self)
        model.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)
        self.split.save(folder)
        if self.weight_mask is not None:
            self.weight_mask.save_pretrained(folder)
        if self.arguments.save_delta and self.weight_mask is not None:
            save_delta(model, self.base_state, self.weight_mask, folder)
        text = json.dumps(self.record(), indent=2)
        (folder / RECORD_NAME).write_text(text + "\n", encoding="utf-8")


def hold_norm_statistics(model: nn.Module) -> None:
    """Puts batch normalisation into evaluation mode, so that its running statistics stay."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
