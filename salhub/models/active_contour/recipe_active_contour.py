"""`salhub train active-contour`: learn the weights of the energy from pictures with masks."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from salhub.metrics.segmentation import dice
from salhub.model_card import Facts
from salhub.models.active_contour.configuration_active_contour import (
    LEARNED,
    SaliencyActiveContourConfig,
)
from salhub.models.active_contour.contour_suite import DEVELOPMENT_SEEDS
from salhub.models.active_contour.image_processing_active_contour import (
    SaliencyActiveContourImageProcessor,
)
from salhub.models.active_contour.masked_pictures import (
    SUITE,
    MaskedPicture,
    draw_suite,
    read_masked_folder,
)
from salhub.models.active_contour.modeling_active_contour import (
    SaliencyActiveContourForSegmentation,
)
from salhub.results import Results
from salhub.runner.arguments import TrainingArguments, check_share
from salhub.runner.batches import Batch
from salhub.runner.recipe import Stage, StepLoss, TrainingRecipe

logger = logging.getLogger(__name__)

# Least values that a step may bring the weights to.
_LEAST = {"alpha": 0.01, "beta": 0.01, "nu": 0.0, "mu": 0.0, "sigma": 0.5}
_MOST_MU_STEP = 0.24


@dataclass(kw_only=True)
class ActiveContourArguments(TrainingArguments):
    """Options of `ActiveContourRecipe`.

    Args:
        data: A folder with the folders images and masks, with matching file names; or "suite" for
            drawn pictures.
        preset: Preset with the initial weights, see `SaliencyActiveContourConfig.from_preset`.
        unrolled_steps: Number of steps of the contour in training.
        gradient_steps: Number of final steps that gradients pass through. With many more steps,
            gradients of the presets "plain" and "lif" grow without limit.
        held_out: Share of the pictures held out for measuring, from 0 to below 1.
        suite_size: Side of the drawn pictures in pixels.
        longest_edge: Longer side to which larger pictures of a folder are shrunk.
    """

    data: str = SUITE
    preset: str = "tuned"
    unrolled_steps: int = 30
    gradient_steps: int = 3
    held_out: float = 0.25
    suite_size: int = 128
    longest_edge: int = 256
    batch_size: int = 8
    learning_rate: float = 0.05
    max_grad_norm: float | None = 1.0

    def validate(self) -> None:
        """Check the options of this recipe, and those of every run."""
        super().validate()
        check_share("held_out", self.held_out)
        if self.unrolled_steps < 1:
            raise ValueError(f"unrolled_steps must be 1 or more, got {self.unrolled_steps}.")
        if self.gradient_steps < 1:
            raise ValueError(f"gradient_steps must be 1 or more, got {self.gradient_steps}.")


class ActiveContourRecipe(TrainingRecipe):
    """Learns the weights of an active contour from pictures with masks.

    Weights that are 0 stay 0, so that LIF stays LIF. Gradients are those of the last steps alone,
    and pass the bound of phi as if it were not there: they say in which direction a contour moves,
    not exactly how far.

    Example:
        >>> arguments = ActiveContourArguments(output_dir="out", data="cells")
        >>> ActiveContourRecipe(arguments).arguments.unrolled_steps
        30
    """

    name = "active-contour"
    arguments_class = ActiveContourArguments
    larger_is_better = True

    def learned_options(self) -> dict[str, Any]:
        # The place of the folder does not matter; what is in it is digested.
        return {**super().learned_options(), "data": Path(self.arguments.data).name}

    def build_model(self) -> nn.Module:
        options = self.arguments
        self.processor = SaliencyActiveContourImageProcessor(longest_edge=options.longest_edge)
        if options.data == SUITE:
            pictures = draw_suite(DEVELOPMENT_SEEDS[:2], size=options.suite_size)
        else:
            pictures = read_masked_folder(options.data, self.processor)
        order = np.random.default_rng(options.seed).permutation(len(pictures))
        count = round(options.held_out * len(pictures))
        self.held_out = [pictures[place] for place in order[:count]]
        self.pictures = [pictures[place] for place in order[count:]]
        self.config = SaliencyActiveContourConfig.from_preset(options.preset)
        steps = min(options.unrolled_steps, self.config.max_iterations)
        self.iterations = self.config.max_iterations
        self.config.max_iterations = steps
        if self.config.schedule == "two_stage" and steps <= self.config.saliency_steps:
            raise ValueError(
                f"unrolled_steps must be above {self.config.saliency_steps}, got {steps}: "
                "the first steps of this preset do not use the weights, so nothing would be "
                "learned."
            )
        model = SaliencyActiveContourForSegmentation(self.config)
        self.learned = learned_weights(self.config)
        for name in LEARNED:
            getattr(model, name).requires_grad_(name in self.learned)
        logger.info("Learning %s; the other weights stay the same.", ", ".join(self.learned))
        return model

    def prepare(self, model: nn.Module, accelerator: Any) -> None:
        self.before = mean_dice(model, self.held_out or self.pictures)

    def stages(self, epoch: int) -> Iterable[Stage]:
        return [Stage("train", len(self.pictures), lambda batch: {"rows": batch.rows})]

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        parameters = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.Adam(parameters, lr=self.arguments.learning_rate)

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        device = inputs["rows"].device
        losses = []
        # One by one, as people's pictures have sizes of their own.
        for row in inputs["rows"].tolist():
            picture = self.pictures[row]
            labels = torch.tensor(picture.mask, device=device)[None]
            pixels, steps = picture.pixels[None].to(device), self.arguments.gradient_steps
            losses.append(model(pixels, labels=labels, gradient_steps=steps).loss)
        return StepLoss(torch.stack(losses))

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        plain: Any = getattr(model, "module", model)
        for name, least in _LEAST.items():
            weight = getattr(plain, name)
            if weight.requires_grad:
                weight.clamp_(min=least)
        # Above it the configuration is refused.
        plain.mu.clamp_(max=_MOST_MU_STEP / plain.config.time_step)

    def can_validate(self) -> bool:
        return bool(self.held_out)

    def validate(self, model: nn.Module, accelerator: Any) -> Mapping[str, float]:
        return {"dice": mean_dice(model, self.held_out)}

    def finish(self, model: nn.Module) -> nn.Module:
        plain: Any = model
        plain.config.max_iterations = self.iterations
        return model

    def evaluate(self, model: Any, accelerator: Any, results: Results) -> None:
        results.data = {
            "name": Path(self.arguments.data).name,
            "learned from": len(self.pictures),
            "held out": len(self.held_out),
        }
        pictures, where = self.held_out, "held out"
        if not pictures:
            logger.warning("Nothing was held out; Dice is measured on the training pictures.")
            pictures, where = self.pictures, "learned"
        results.add_metric(f"dice/{where}/before", self.before, n=len(pictures))
        results.add_metric(f"dice/{where}/after", mean_dice(model, pictures), n=len(pictures))
        for name in LEARNED:
            results.add_metric(f"weight/{name}", getattr(model, name).item())

    def export(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def card_facts(self) -> Facts:
        name = Path(self.arguments.data).name
        return Facts(
            summary=f"An active contour with energy weights learned from {len(self.pictures)} "
            f"pictures of {name}.",
            example='cells = salhub.pipeline("{model}")("sample:cells")\nprint(cells.mask.sum())',
            pipeline_tag="image-segmentation",
        )


def learned_weights(config: SaliencyActiveContourConfig) -> tuple[str, ...]:
    """Weights of the energy that a contour depends on and that are not switched off by 0.

    Example:
        >>> learned_weights(SaliencyActiveContourConfig.from_preset("lif"))
        ('beta', 'sigma')
    """
    unused = {name for name in LEARNED if getattr(config, name) == 0}
    if config.regulariser == "gaussian":
        unused |= {"nu", "mu"}
    has_window = config.local_energy in ("lif", "rsf") and config.beta > 0
    if not has_window and (config.saliency_scope == "global" or config.saliency_fit != "means"):
        unused.add("sigma")
    return tuple(name for name in LEARNED if name not in unused)


@torch.inference_mode()
def mean_dice(model: Any, pictures: list[MaskedPicture]) -> float:
    """Mean Dice of a model on pictures, in evaluation mode."""
    was_training = model.training
    model.eval()
    scores = []
    for picture in pictures:
        found = model(picture.pixels[None].to(model.device)).masks[0].cpu().numpy()
        scores.append(dice(found, picture.mask))
    model.train(was_training)
    return float(np.mean(scores))
