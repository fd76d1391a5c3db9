"""`salhub train editiq`: learn the weights of the terms from films that people have edited."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from salhub.model_card import Facts
from salhub.models.editiq.configuration_editiq import LEARNED, EditIQConfig
from salhub.models.editiq.edit import Material
from salhub.models.editiq.edit_examples import (
    EITHER,
    LEARNING_SEED,
    STAGE,
    EditExample,
    film_of,
    read_examples,
    stage_examples,
)
from salhub.models.editiq.edit_metrics import measure_edit
from salhub.models.editiq.editing import decide, prepare
from salhub.models.editiq.energy import Energy
from salhub.models.editiq.modeling_editiq import EditIQModel
from salhub.models.editiq.structured_loss import accepted_of, structured_hinge
from salhub.results import Results
from salhub.runner.arguments import TrainingArguments, check_share
from salhub.runner.batches import Batch
from salhub.runner.recipe import Stage, StepLoss, TrainingRecipe

logger = logging.getLogger(__name__)

# Least and largest values that a step may bring the weights to.
_LEAST = 1e-3
_SHARES = (0.02, 0.98)


@dataclass(kw_only=True)
class EditIQArguments(TrainingArguments):
    """Options of `EditIQRecipe`.

    Args:
        data: A folder of films with edits, see `read_examples`; or "stage" for drawn scenes.
        preset: Preset with the initial weights, see `EditIQConfig`.
        held_out: Share of the films held out for measuring, from 0 to below 1.
        num_scenes: Number of drawn scenes.
        seconds: Length of each drawn scene, in seconds.
        margin: Extra cost that a second with a wrong shot must have.
    """

    data: str = STAGE
    preset: str = "editiq"
    held_out: float = 0.25
    num_scenes: int = 16
    seconds: float = 40.0
    margin: float = 5.0
    batch_size: int = 4
    num_train_epochs: int = 8
    learning_rate: float = 0.05
    max_grad_norm: float | None = 1.0

    def validate(self) -> None:
        """Check the options of this recipe, and those of every run."""
        super().validate()
        check_share("held_out", self.held_out)
        if self.num_scenes < 2 or self.seconds < 5:
            raise ValueError(
                f"num_scenes must be 2 or more and seconds 5 or more, got {self.num_scenes} and "
                f"{self.seconds}."
            )
        if self.margin <= 0:
            raise ValueError(f"margin must be above 0, got {self.margin}.")


class EditIQRecipe(TrainingRecipe):
    """Learns the weights of EditIQ's terms from films that people have edited.

    Weights that are 0 stay 0, so that a term that is off stays off. Films are read once, before the
    first step; the steps themselves read no picture.

    Example:
        >>> arguments = EditIQArguments(output_dir="out", data="edits")
        >>> EditIQRecipe(arguments).arguments.margin
        5.0
    """

    name = "editiq"
    arguments_class = EditIQArguments
    larger_is_better = True

    def learned_options(self) -> dict[str, Any]:
        # The place of the folder does not matter; what is in it is digested.
        return {**super().learned_options(), "data": Path(self.arguments.data).name}

    def build_model(self) -> nn.Module:
        options = self.arguments
        config = EditIQConfig.from_preset(options.preset)
        if config.cost_unit != "absolute" or config.unary != "logarithmic":
            raise ValueError(
                f"The preset '{options.preset}' scales costs by the largest potential, so "
                "its weights cannot be learned; use 'editiq' or 'talk'."
            )
        if options.data == STAGE:
            # Each seed learns from scenes of its own.
            first = LEARNING_SEED * (options.seed + 1)
            examples = stage_examples(first, options.num_scenes, options.seconds)
        else:
            examples = read_examples(options.data)
        order = np.random.default_rng(options.seed).permutation(len(examples))
        count = round(options.held_out * len(examples))
        if count == len(examples):
            raise ValueError(
                f"held_out={options.held_out} of {len(examples)} films leaves none for "
                "training; hold out less, or give more films."
            )
        self.held_out = [examples[place] for place in order[:count]]
        self.examples = [examples[place] for place in order[count:]]
        self.materials: dict[str, Material] = {}
        self.accepted: dict[str, np.ndarray] = {}
        model = EditIQModel(config)
        self.learned = tuple(name for name in LEARNED if getattr(config, name) > 0)
        for name in LEARNED:
            getattr(model, name).requires_grad_(name in self.learned)
        logger.info("Learning %s; the other weights stay the same.", ", ".join(self.learned))
        return model

    def prepare(self, model: nn.Module, accelerator: Any) -> None:
        self.before = self._accuracies(model)

    def stages(self, epoch: int) -> Iterable[Stage]:
        return [Stage("train", len(self.examples), lambda batch: {"rows": batch.rows})]

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        parameters = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.Adam(parameters, lr=self.arguments.learning_rate)

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        plain: Any = getattr(model, "module", model)
        weights = {name: getattr(plain, name) for name in LEARNED}
        numbers, losses = plain.term_weights(), []
        for row in inputs["rows"].tolist():
            one = self.examples[row]
            ready = prepare(self._material(plain, one), plain.config, numbers["show_weight"])
            if one.name not in self.accepted:
                spans = list(one.spans)
                self.accepted[one.name] = accepted_of(ready.scene, spans, EITHER)
            energy = Energy(ready.scene, plain.config, numbers)
            composed, shown = (
                _on_decisions(values, ready.first, ready.step)
                for values in (ready.spoken.composed, ready.spoken.shown)
            )
            loss, _ = structured_hinge(
                energy, self.accepted[one.name], composed, shown, weights, self.arguments.margin
            )
            losses.append(loss)
        return StepLoss(torch.stack(losses))

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        plain: Any = getattr(model, "module", model)
        for name in self.learned:
            getattr(plain, name).clamp_(min=_LEAST)
        if "show_weight" in self.learned:
            plain.show_weight.clamp_(*_SHARES)

    def can_validate(self) -> bool:
        return bool(self.held_out)

    def validate(self, model: nn.Module, accelerator: Any) -> Mapping[str, float]:
        return {"accuracy": float(np.mean(self._accuracies(model)))}

    def evaluate(self, model: Any, accelerator: Any, results: Results) -> None:
        results.data = {
            "name": Path(self.arguments.data).name,
            "learned from": len(self.examples),
            "held out": len(self.held_out),
        }
        where = "held out" if self.held_out else "learned"
        if not self.held_out:
            logger.warning("Nothing was held out; the accuracy is measured on the training films.")
        results.add_mean(f"accuracy/soft/{where}/before", self.before)
        results.add_mean(f"accuracy/soft/{where}/after", self._accuracies(model))
        for name in LEARNED:
            results.add_metric(f"weight/{name}", getattr(model, name).item())

    def export(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder)

    def card_facts(self) -> Facts:
        name = Path(self.arguments.data).name
        return Facts(
            summary=f"EditIQ, learned from {len(self.examples)} edited films of {name}.",
            example='edited = salhub.pipeline("{model}")("sample:stage")\nprint(edited)',
        )

    def _material(self, model: Any, one: EditExample) -> Material:
        """What is known of a film, which is read once."""
        if one.name not in self.materials:
            saliency = None if one.film is not None else "none"
            edit = model.edit(film_of(one), one.transcript, tracks=one.tracks, saliency=saliency)
            for warning in edit.warnings:
                logger.warning("%s: %s", one.name, warning)
            self.materials[one.name] = edit.material
        return self.materials[one.name]

    def _accuracies(self, model: Any) -> list[float]:
        """Soft accuracy of each film that is held out, or learned from where none is."""
        found = []
        for one in self.held_out or self.examples:
            material = self._material(model, one)
            edit = decide(material, model.config, model.term_weights(), ())
            place = {shot.name: row for row, shot in enumerate(edit.rushes.shots)}
            shots = np.concatenate(
                [np.full(s.stop - s.start, place[s.shot.name]) for s in edit.decision.spans]
            )
            crops = edit.decision.crops
            row = measure_edit(shots, edit.rushes, crops, edit.transcript, one.reference(), 0.0)
            found.append(row["accuracy/soft"])
        return found


def _on_decisions(values: np.ndarray, first: int, step: int) -> np.ndarray:
    """Means of what is on the clock of the film over each decision."""
    values = values[:, first:]
    padded = np.pad(values, [(0, 0), (0, (-values.shape[1]) % step)], mode="edge")
    return padded.reshape(len(values), -1, step).mean(2)
