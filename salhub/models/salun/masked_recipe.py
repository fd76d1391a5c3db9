"""What unlearning recipes of all kinds of models have in common: the mask and its certificate."""

import json
import logging
import math
import shutil
import time
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast, broadcast_object_list
from torch import Tensor, nn

from salhub.data.labelled_split import LabelledSplit
from salhub.data.subset import describe_spec
from salhub.files import draft
from salhub.hub import canonical_name
from salhub.model_card import Facts
from salhub.models.salun.forget_set import places_digest
from salhub.models.salun.masked_optimizer import MaskedOptimizer, closed_weights_digest
from salhub.models.salun.weight_delta import FILE_NAME as DELTA_NAME
from salhub.models.salun.weight_delta import save_delta, state_digest
from salhub.models.salun.weight_mask import FILE_NAME as MASK_NAME
from salhub.models.salun.weight_mask import Scope, WeightMask, check_ratio, make_mask
from salhub.models.salun.weight_saliency import Kind
from salhub.results import Results, without_nan
from salhub.runner.fine_tuning import data_name
from salhub.runner.image_classification import PictureArguments
from salhub.runner.recipe import Recipe, TrainingRecipe
from salhub.runner.run_folder import prepared_path
from salhub.runner.sources import MODEL
from salhub.runner.summary import counted

logger = logging.getLogger(__name__)

RECORD_NAME = "unlearning.json"
# Options that name models, with or without "salhub/" where they are shipped.
_MODELS = ("model", "reference", "judge")
# Options that may be folders of this machine.
_PLACES = ("model", "mask", "reference", "judge")
# Options that name pictures, by a file of this machine perhaps.
_SETS = ("forget", "retain")


@dataclass(kw_only=True)
class MaskArguments(PictureArguments):
    """Options of every way to unlearn.

    Args:
        model: The trained model: a folder, a shipped name or a Hub repository.
        forget: Training pictures to forget, such as "class:cat" or "random:0.1", see
            `choose_subset`.
        mask_ratio: Share of the weights that may change, above 0 and at most 1; None for all.
        saliency: Score that ranks the weights, see `compute_saliency`; "random" and "magnitude"
            are the controls.
        scope: Which weights are ranked together, see `make_mask`.
        exclude: Patterns of names of parameters that must not change, such as "*norm*".
        mask: Folder or file of a mask to use instead.
        mask_batch_size: Batch size for ranking the weights.
        save_delta: Also save `delta.safetensors`, which holds only the weights that could change.
    """

    model: str
    forget: str
    mask_ratio: float | None = None
    saliency: Kind = "batch_mean_grad"
    scope: Scope = "global"
    exclude: list[str] = field(default_factory=list)
    mask: str | None = None
    mask_batch_size: int = 256
    save_delta: bool = False

    def validate(self) -> None:
        """Check the options of the mask, and those of every run."""
        super().validate()
        for name in _MODELS:
            if getattr(self, name, None) is not None:
                setattr(self, name, canonical_name(getattr(self, name)))
        if isinstance(self.exclude, str):
            self.exclude = [self.exclude]
        if self.mask_batch_size < 1:
            raise ValueError(f"mask_batch_size must be 1 or more, got {self.mask_batch_size}.")
        if self.mask_ratio is not None:
            check_ratio(self.mask_ratio, "mask_ratio")
        if self.mask is not None and self.mask_ratio is not None:
            raise ValueError("mask and mask_ratio contradict each other; give one of them.")
        self._check_ranking()
        if self.save_delta and self.mask is None and self.mask_ratio is None:
            raise ValueError("save_delta needs a mask; give mask_ratio or mask.")

    def _check_ranking(self) -> None:
        """Refuse options of a ranking that is not made."""
        if self.mask_ratio is not None:
            return
        for name in ("saliency", "scope", "exclude"):
            default = [] if name == "exclude" else getattr(MaskArguments, name)
            if getattr(self, name) != default:
                raise ValueError(
                    f"{name} controls how a mask is made, but no mask is made here; give "
                    f"mask_ratio too, or leave out {name}."
                )


class MaskedRecipe(Recipe):
    """Makes a mask before the first step, keeps to it, and shows afterwards that it has.

    Attributes:
        base_model: The model to unlearn, in whose names the mask is; set in `build_model`.
        split: What is left of the training pictures; set in `build_model`.
        forget_places: Places of what is forgotten in the archive; set in `build_model`.
        weight_mask: Which of its weights may move; None for all.
    """

    verb = "unlearn"
    arguments_class = MaskArguments
    sources = {**Recipe.sources, **dict.fromkeys(_MODELS, MODEL), "mask": MASK_NAME}
    optional_files = (MASK_NAME, DELTA_NAME)
    base_model: nn.Module
    split: LabelledSplit
    forget_places: Tensor
    weight_mask: WeightMask | None = None
    closed_digest: str | None = None
    seconds_of_mask: float = 0.0
    _own_mask: WeightMask | None = None

    def learned_options(self) -> dict[str, Any]:
        # Folders of this machine do not matter, but what is in them does, see `sources`.
        options = super().learned_options()
        for name in _PLACES:
            if options.get(name) is not None and Path(options[name]).exists():
                options[name] = Path(options[name]).name
        sets = {name: describe_spec(options[name]) for name in _SETS if name in options}
        return {**options, "data": data_name(self.arguments.data), **sets}

    @abstractmethod
    def score_weights(self) -> dict[str, Tensor]:
        """The scores of `base_model`'s weights, see `compute_saliency`."""

    def prepare(self, model: nn.Module, accelerator: Any) -> None:
        self.base_state = {name: t.clone() for name, t in self.base_model.state_dict().items()}
        began = time.perf_counter()
        self.weight_mask = self._make_mask(accelerator)
        self.seconds_of_mask = time.perf_counter() - began
        if self.weight_mask is not None:
            self.closed_digest = closed_weights_digest(self.base_model, self.weight_mask)

    def check_mask(self) -> None:
        """Refuse options that make no mask of `base_model`, before any work is done.

        Raises:
            FileNotFoundError: There is no mask where one was named.
            KeyError, ValueError: It is of another model, or would open nothing.
        """
        if self.arguments.mask is not None:
            # Kept, as the folder that it lies in may be the one that this run fills.
            self._own_mask = self._read_mask()
        elif self.arguments.mask_ratio is not None:
            # How many weights are opened does not depend on their scores.
            parameters = self.base_model.named_parameters()
            self._ranked({n: torch.zeros(p.shape) for n, p in parameters if p.requires_grad})

    def say_forgotten(self, known: int) -> None:
        """Say before the work how much of what the model knows is to be forgotten."""
        count = len(self.forget_places)
        logger.warning(
            "forget=%s means %s of the %s training pictures (%.3g %%).",
            describe_spec(self.arguments.forget), f"{count:,}", f"{known:,}",
            100 * count / max(known, 1),
        )  # fmt: skip

    def _read_mask(self) -> WeightMask:
        return WeightMask.from_pretrained(self.arguments.mask).for_model(self.base_model)

    def _ranked(self, scores: dict[str, Tensor]) -> WeightMask:
        options = self.arguments
        return make_mask(
            scores,
            options.mask_ratio,
            scope=options.scope,
            exclude=options.exclude,
            saliency=options.saliency,
        )

    def _make_mask(self, accelerator: Any) -> WeightMask | None:
        options = self.arguments
        if options.mask is not None:
            return (self._own_mask or self._read_mask()).for_model(self.base_model)
        if options.mask_ratio is None:
            return None
        kept = prepared_path(self.run.folder, f"mask-{state_digest(self.base_state)[:16]}")
        [mask] = broadcast_object_list([_kept_mask(kept) if accelerator.is_main_process else None])
        if mask is None:
            mask = self._ranked(self.score_weights())
        # Weights that are frozen now have to stay closed when the mask is used again.
        mask = mask.for_model(self.base_model)
        # That of the first process, as sums on GPUs differ in their last bits.
        for name, opened in mask.tensors.items():
            bits = opened.to(accelerator.device, torch.uint8)
            mask.tensors[name] = broadcast(bits).to(opened.device, torch.bool)
        if accelerator.is_main_process and not kept.exists():
            with draft(kept) as folder:
                mask.save_pretrained(folder)
        self.run.remove_when_finished(kept)
        return mask

    def finish(self, model: nn.Module) -> nn.Module:
        return self.base_model

    def add_mask_metrics(self, results: Results) -> None:
        """How long the mask took, and how many weights it opens."""
        results.add_metric("seconds/mask", self.seconds_of_mask, unit="s")
        if self.weight_mask is not None:
            results.add_metric("mask/density", self.weight_mask.density(), unit="fraction")

    @classmethod
    def told(cls, results: Results) -> list[str]:
        """What was forgotten; how well, a recipe adds. The card has the rest."""
        kind, _, value = results.data["forget"].partition(":")
        what = f"class '{value}'" if kind == "class" else results.data["forget"]
        return [f"Forgotten: {what} ({counted(results.data['num_forget'], 'training picture')})."]

    def describe_sets(self) -> dict[str, Any]:
        """What was forgotten and retained, without showing it."""
        return {
            "forget": describe_spec(self.arguments.forget),
            "num_forget": len(self.forget_places),
            "forget_digest": places_digest(self.forget_places),
            "num_left": len(self.split.train),
            "split": self.split.digest[:16],
        }

    def save_record(self, folder: Path, **found: Any) -> None:
        """Write `unlearning.json`.

        Args:
            folder: Where to.
            **found: What was measured.
        """
        record = {
            "method": self.name,
            **self.describe_sets(),
            "options": self.learned_options(),
            **found,
            **self.mask_record(),
        }
        text = json.dumps(without_nan(record), indent=2, allow_nan=False)
        (folder / RECORD_NAME).write_text(text + "\n", encoding="utf-8")

    def card_facts(self) -> Facts:
        name = self.arguments.model
        return Facts(
            summary=f"Made from {Path(name).name} to forget {describe_spec(self.arguments.forget)} "
            f"({len(self.forget_places)} training pictures) with the method {self.name}.",
            base_model=None if Path(name).exists() else name,
            tags=("machine-unlearning",),
            cautions=(
                "This kind of unlearning is approximate and does not guarantee removal; "
                "fine-tuning on a few of the forgotten pictures, or quantization, may bring "
                "them back.",
                f"Forget set: sha256 {places_digest(self.forget_places)} of its indices, "
                "which are listed in split.json: anyone with that file and the data can see "
                "what was forgotten.",
                *self._mask_notes(),
            ),
        )

    def _mask_notes(self) -> tuple[str, ...]:
        mask = self.weight_mask
        if mask is None:
            return ("All weights could change.",)
        closed = mask.num_weights - mask.num_open
        return (
            f"{mask.num_open} weights could change ({100 * mask.density():.2f} %), ranked by "
            f"{mask.saliency}. The {closed} others keep the bits of the original: their "
            f"sha256 is {self.closed_digest}, before and after.",
        )

    def mask_record(self) -> dict[str, Any]:
        """What `unlearning.json` says of the mask."""
        mask = self.weight_mask
        if mask is None:
            return {}
        return {
            "mask": {
                "saliency": mask.saliency,
                "ratio": mask.ratio,
                "density": mask.density(),
                "num_open": mask.num_open,
                "num_weights": mask.num_weights,
                "density_per_tensor": mask.per_tensor(),
                "closed_weights_sha256": self.closed_digest,
            }
        }

    def export_mask(self, model: nn.Module, folder: Path) -> None:
        """Write the mask and, where it was asked for, the delta.

        Raises:
            RuntimeError: A closed weight has moved, which would be a fault of ours.
        """
        if self.weight_mask is None:
            return
        if closed_weights_digest(model, self.weight_mask) != self.closed_digest:
            raise RuntimeError("masked weights have changed; this is a bug, please report it.")
        self.weight_mask.save_pretrained(folder)
        if self.arguments.save_delta:
            save_delta(model, self.base_state, self.weight_mask, folder)


class MaskedTrainingRecipe(MaskedRecipe, TrainingRecipe):
    """Trains with a mask: closed weights stay as they are in every step."""

    _masked: MaskedOptimizer | None = None

    @abstractmethod
    def plain_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer, which knows of no mask."""

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        optimizer = self.plain_optimizer(model)
        if self.weight_mask is None:
            return optimizer
        self._masked = MaskedOptimizer(optimizer, model, self.mask_of(model))
        return self._masked

    def mask_of(self, model: nn.Module) -> WeightMask:
        """The mask of what is trained; that of `base_model` unless a method builds on it."""
        assert self.weight_mask is not None
        return self.weight_mask

    def after_backward(self, model: nn.Module) -> None:
        if self._masked is not None:
            self._masked.mask_gradients()

    def finish(self, model: nn.Module) -> nn.Module:
        if self._masked is not None:
            self._masked.release()
        return super().finish(model)


def before_and_now(title: str, results: Results, name: str, *, is_missed: bool = False) -> str:
    """A share before and after, for a sentence; "" where it was not measured.

    Args:
        title: What it is a share of.
        results: With the metric `name`, and "before/" with it, in percent.
        name: Of the metric.
        is_missed: Whether it counts what is not recognized.
    """
    values = {metric.name: metric.value for metric in results.metrics}
    found = [values.get(prefix + name, math.nan) for prefix in ("before/", "")]
    shares = [
        f"{100 - value if is_missed else value:.1f} % {when}"
        for value, when in zip(found, ("before", "now"), strict=True)
        if not math.isnan(value)
    ]
    return f"{title}: {', '.join(shares)}" if shares else ""


def _kept_mask(folder: Path) -> WeightMask | None:
    """The mask that this run has made before it was interrupted, or None where there is none."""
    try:
        return WeightMask.from_pretrained(folder)
    except FileNotFoundError:
        return None
    except ValueError as error:
        logger.warning("The mask is computed again: %s", error)
        shutil.rmtree(folder)
        return None


def batches_of(count: int, size: int) -> Iterable[Tensor]:
    """Rows 0 to `count`, at most `size` at a time."""
    return torch.arange(count).split(size)
