"""`salhub train sdl-seg`: a U-Net with a saliency map, or without, on phantoms or your own CTs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from salhub.backbones.text_classifier.recipe_text_classifier import save_in_half_precision
from salhub.metrics.segmentation import dice
from salhub.model_card import Facts
from salhub.models.sdl_seg.augmentation import training_patch
from salhub.models.sdl_seg.calibration import fitted_temperature, near_target
from salhub.models.sdl_seg.cases import (
    PHANTOMS,
    Case,
    CaseFolder,
    CaseName,
    TrainingVolume,
    phantom_case,
    split_by_patient,
)
from salhub.models.sdl_seg.configuration_sdl_seg import (
    SaliencyKind,
    SDLSegConfig,
    SegmentationLoss,
)
from salhub.models.sdl_seg.evaluation_sdl_seg import add_scores, scored, test_phantoms
from salhub.models.sdl_seg.modeling_sdl_seg import SDLSegForVolumeSegmentation
from salhub.models.sdl_seg.segmentation_loss import segmentation_loss
from salhub.results import Results
from salhub.runner.arguments import (
    Scheduler,
    TrainingArguments,
    check_count,
    check_not_negative,
    check_share,
)
from salhub.runner.batches import Batch
from salhub.runner.recipe import Stage, StepLoss, TrainingRecipe

USAGE = """
from salhub import SDLSegForVolumeSegmentation

model = SDLSegForVolumeSegmentation.from_pretrained("{model}")
"""
# Patients of a run are numbered from its seed times this on.
_PATIENTS_A_SEED, _FIRST_VALIDATION, _MOST_SEEDS = 1000, 500, 800
_AUGMENT = 1


@dataclass(kw_only=True)
class SDLSegArguments(TrainingArguments):
    """Options of `SDLSegRecipe`; all defaults are our choice.

    Args:
        data: "phantoms", or a folder in nnU-Net's layout with CTs in HU, whose markers are
            detected.
        num_patients: Number of training phantoms.
        num_validation_patients: Number of validation phantoms.
        num_test_patients: Number of test phantoms, the same for every seed.
        fractions: Number of scans per phantom.
        num_decoys: Number of lesions without clips in each phantom.
        phantom_spacing: Voxel size of the phantoms in mm, (z, y, x); [] for `target_spacing`.
        clips_visible: False paints the clips out of the CT after they have been detected.
        patient_pattern: For a folder: regular expression that finds the patient in a case's name.
        validation_share: For a folder: share of the patients for validation, in [0, 1).
        test_share: For a folder: share of the patients for testing, in [0, 1).
        saliency_kind: Map of the markers; "none" for a plain U-Net.
        spatial_dims: 3 for volumes, 2 for slices.
        context_slices: In 2-D, number of neighbouring slices on each side.
        channels: Channels of each level.
        target_spacing: Voxel size of the network's grid in mm, (z, y, x).
        loss: "dice_ce", "dice" or "focal_tversky".
        patch_size: Size of a patch in voxels, (z, y, x); [] for whole volumes. Instance
            normalization sees more air in a whole volume than in a small patch.
        patches_per_volume: Number of patches per volume and epoch; `batch_size` counts patches.
        augment: Whether to rotate patches and change their intensities.
        augment_markers: Whether to jitter, drop, add and hide markers.
        weight_decay: Weight decay.
    """

    data: str = PHANTOMS
    num_patients: int = 20
    num_validation_patients: int = 4
    num_test_patients: int = 6
    fractions: int = 1
    num_decoys: int = 4
    phantom_spacing: list[float] = field(default_factory=list)
    clips_visible: bool = True
    patient_pattern: str | None = None
    validation_share: float = 0.15
    test_share: float = 0.2
    saliency_kind: SaliencyKind = "edt_gauss"
    spatial_dims: int = 3
    context_slices: int = 0
    channels: list[int] = field(default_factory=lambda: [8, 16, 32, 32])
    target_spacing: list[float] = field(default_factory=lambda: [3.0, 1.5, 1.5])
    loss: SegmentationLoss = "dice_ce"
    patch_size: list[int] = field(default_factory=list)
    patches_per_volume: int = 1
    augment: bool = True
    augment_markers: bool = True
    weight_decay: float = 1e-5
    batch_size: int = 2
    num_train_epochs: int = 30
    learning_rate: float = 2e-3
    lr_scheduler: Scheduler = "cosine"
    max_grad_norm: float | None = 12.0
    keep_best: bool = True

    def validate(self) -> None:
        """Check the options of the data and the network, and those of every run."""
        super().validate()
        for name in (
            "num_patients",
            "num_validation_patients",
            "num_test_patients",
            "fractions",
            "patches_per_volume",
        ):
            check_count(name, getattr(self, name))
        for name in ("num_decoys", "weight_decay"):
            check_not_negative(name, getattr(self, name))
        for name in ("validation_share", "test_share"):
            check_share(name, getattr(self, name))
        most = _PATIENTS_A_SEED - _FIRST_VALIDATION
        if max(self.num_patients, self.num_validation_patients) > most:
            raise ValueError(f"A run can use at most {most} phantoms, got {self.num_patients}.")
        if self.data == PHANTOMS and self.seed >= _MOST_SEEDS:
            raise ValueError(
                f"seed must be below {_MOST_SEEDS} for phantoms, because higher seeds are "
                f"reserved for tests, got {self.seed}."
            )
        config = self.network_config()
        if self.patch_size and (
            len(self.patch_size) != 3
            or min(self.patch_size) < 1
            or any(n % step for n, step in zip(self.patch_size, config.size_steps, strict=True))
        ):
            raise ValueError(
                f"patch_size must be three sides divisible by {config.size_steps}, or [] for whole "
                f"volumes, got {self.patch_size}."
            )
        if self.data != PHANTOMS and not self.clips_visible:
            raise ValueError(
                "clips_visible=false only works with phantoms; leave it out for your own data."
            )

    def network_config(self) -> SDLSegConfig:
        """The configuration of the model."""
        coarse = math.log2(self.target_spacing[0] / self.target_spacing[-1])
        levels = max(0, len(self.channels) - 1)
        return SDLSegConfig(
            spatial_dims=self.spatial_dims,
            context_slices=self.context_slices,
            channels=self.channels,
            anisotropic_levels=min(levels, max(0, round(coarse))),
            target_spacing=self.target_spacing,
            saliency_kind=self.saliency_kind,
            loss=self.loss,
        )


class SDLSegRecipe(TrainingRecipe):
    """Trains SDL-Seg, or with `saliency_kind="none"` a plain U-Net without the map.

    Both draw the same batches, patches and changes from the same seed.

    Example:
        >>> SDLSegRecipe(SDLSegArguments(output_dir="out")).name
        'sdl-seg'

    Source: Kazemimoghadam et al. 2021 (arXiv 2105.02771) for the method; the training is ours.
    """

    name = "sdl-seg"
    arguments_class = SDLSegArguments
    larger_is_better = True
    metric_words = {"as it is/dice": "Overlap (DSC) with the truth on test patients: {}"}

    def build_model(self) -> nn.Module:
        arguments = self.arguments
        self.config = arguments.network_config()
        self.parts = self._names_of_parts()
        self.train, self.validation = (
            [TrainingVolume.of(self._read(one), self.config) for one in part]
            for part in self.parts[:2]
        )
        # Larger volumes are seen in windows of what was learned from, whose statistics are alike.
        largest = np.max([one.volume.shape for one in self.train], axis=0).tolist()
        self.config.window_size = list(arguments.patch_size) or largest
        return SDLSegForVolumeSegmentation(self.config)

    def _names_of_parts(self) -> list[list[CaseName]]:
        """Cases to learn from, to validate and to test on."""
        arguments = self.arguments
        if arguments.data != PHANTOMS:
            self.folder = CaseFolder(arguments.data, arguments.patient_pattern)
            shares = (arguments.validation_share, arguments.test_share)
            return split_by_patient(self.folder.names(), shares, arguments.seed)
        first = _PATIENTS_A_SEED * arguments.seed
        counts = (
            (first, arguments.num_patients),
            (first + _FIRST_VALIDATION, arguments.num_validation_patients),
        )
        parts = [
            [
                CaseName(f"{patient} {fraction}", str(patient))
                for patient in range(start, start + count)
                for fraction in range(arguments.fractions)
            ]
            for start, count in counts
        ]
        return [*parts, []]

    def _read(self, one: CaseName) -> Case:
        if self.arguments.data != PHANTOMS:
            return self.folder.read(one.name)
        patient, fraction = map(int, one.name.split())
        return phantom_case(patient, fraction, **self._phantom_options())

    def _phantom_options(self) -> dict[str, Any]:
        return {
            "spacing": self.arguments.phantom_spacing or self.arguments.target_spacing,
            "num_decoys": self.arguments.num_decoys,
            "clips_visible": self.arguments.clips_visible,
        }

    def stages(self, epoch: int) -> Iterable[Stage]:
        return [Stage("train", len(self.train) * self.arguments.patches_per_volume, self._fetch)]

    def _fetch(self, batch: Batch) -> dict[str, Tensor]:
        seeds = batch.draw(lambda n, g: torch.randint(2**62, (n,), generator=g), _AUGMENT)
        patches = [
            training_patch(
                self.train[row % len(self.train)],
                self.arguments.patch_size or None,
                np.random.default_rng(seed),
                augment=self.arguments.augment,
                augment_markers=self.arguments.augment_markers,
            )
            for row, seed in zip(batch.rows.tolist(), seeds.tolist(), strict=True)
        ]
        pixels, labels = zip(*patches, strict=True)
        return {"pixel_values": torch.stack(pixels), "labels": torch.stack(labels)}

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            model.parameters(),
            lr=self.arguments.learning_rate,
            weight_decay=self.arguments.weight_decay,
        )

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        logits = model(inputs["pixel_values"]).logits
        return StepLoss(segmentation_loss(logits, inputs["labels"], self.arguments.loss))

    def validate(self, model: nn.Module, accelerator: Any) -> Mapping[str, float]:
        scores = []
        for one in self.validation:
            pixels, label = self._whole(one)
            found = model.predict(pixels[None]).logits[0, 0] > 0
            scores.append(dice(found.cpu().numpy(), label[0].numpy() > 0))
        return {"dice": float(np.mean(scores))}

    @torch.no_grad()
    def finish(self, model: Any) -> nn.Module:
        """Fit the temperature on the validation patients."""
        model.eval()
        scores, truth = [], []
        for one in self.validation:
            pixels, _ = self._whole(one)
            near = near_target(one.mask, self.config.target_spacing)
            scores.append(model.predict(pixels[None]).logits[0, 0].cpu().numpy()[near])
            truth.append(one.mask[near])
        model.config.temperature = fitted_temperature(np.concatenate(scores), np.concatenate(truth))
        return model

    def _whole(self, one: TrainingVolume) -> tuple[Tensor, Tensor]:
        draws = np.random.default_rng(0)
        return training_patch(one, None, draws, augment=False, augment_markers=False)

    def evaluate(self, model: nn.Module, accelerator: Any, results: Results) -> None:
        results.data = {"name": Path(self.arguments.data).name, **self._counts()}
        cases: Sequence[Case] = [self._read(one) for one in self.parts[2]]
        if self.arguments.data == PHANTOMS:
            number, fractions = self.arguments.num_test_patients, self.arguments.fractions
            cases = test_phantoms(number, fractions, **self._phantom_options())
        rows = {"as it is": scored(model, cases)}
        add_scores(results, rows, [one.patient for one in cases])

    def _counts(self) -> dict[str, Any]:
        patients = [len({one.patient for one in part}) for part in self.parts]
        if self.arguments.data == PHANTOMS:
            patients[2] = self.arguments.num_test_patients
        return dict(
            zip(("train_patients", "validation_patients", "test_patients"), patients, strict=True)
        )

    def export(self, model: Any, folder: Path) -> None:
        save_in_half_precision(model, folder)

    def card_facts(self) -> Facts:
        kind = self.arguments.saliency_kind
        what = "CT alone" if kind == "none" else f"CT and a saliency map of its markers ({kind})"
        counts = self._counts()
        return Facts(
            summary=f"A U-Net that segments volumes from {what}, trained on "
            f"{counts['train_patients']} patients of {Path(self.arguments.data).name}.",
            example=USAGE,
            pipeline_tag="image-segmentation",
            cautions=["Not for clinical use."],
        )
