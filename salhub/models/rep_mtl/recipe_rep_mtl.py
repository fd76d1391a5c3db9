"""`salhub train rep-mtl`: one encoder and a head for each task, with Rep-MTL or without."""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, ResNetConfig

from salhub.hub import load
from salhub.model_card import Facts
from salhub.models.rep_mtl.configuration_rep_mtl import RepMTLConfig
from salhub.models.rep_mtl.evaluation_rep_mtl import (
    add_alphas,
    add_numbers,
    add_sharing,
    check_data,
    measure_tasks,
    preparation,
)
from salhub.models.rep_mtl.gradient_surgery import Surgery, aggregator_of, surgery_loss
from salhub.models.rep_mtl.image_processing_rep_mtl import RepMTLImageProcessor
from salhub.models.rep_mtl.joint_geometry import mirrored
from salhub.models.rep_mtl.modeling_rep_mtl import RepMTLForMultiTask
from salhub.models.rep_mtl.multi_task_data import PARTS, ROOMS, MultiTaskPart, read_multi_task
from salhub.models.rep_mtl.rep_mtl_terms import log_losses
from salhub.results import Results
from salhub.runner.arguments import (
    Scheduler,
    TrainingArguments,
    check_count,
    check_not_negative,
)
from salhub.runner.batches import Batch, generator_of
from salhub.runner.fine_tuning import data_name
from salhub.runner.recipe import Stage, StepLoss, TrainingRecipe
from salhub.saving import unwrapped

logger = logging.getLogger(__name__)

USAGE = """
from salhub.models.rep_mtl.image_processing_rep_mtl import RepMTLImageProcessor
from salhub.models.rep_mtl.modeling_rep_mtl import RepMTLForMultiTask

model = RepMTLForMultiTask.from_pretrained("{model}")
processor = RepMTLImageProcessor.from_pretrained("{model}")
inputs = processor("sample:cat", return_tensors="pt")
output = model(**inputs, output_saliency=True)
"""
# Draws of one step, and of one epoch, are told apart by these.
_FLIP, _PAIRS = 0, 7
# Options that are fields of the configuration.
_FIELDS = (
    "head", "head_channels", "multi_input", "lambda_tsr", "lambda_csa", "csa_temperature",
    "csa_reduction", "csa_denominator", "log_transform", "weighting", "start_step", "apply_every",
)  # fmt: skip
# Options that count something -> the smallest number.
_LEAST = {
    "num_train_images": 1, "num_validation_images": 0, "num_test_images": 0, "image_size": 1,
    "encoder_channels": 1, "encoder_depth": 1,
}  # fmt: skip


@dataclass(kw_only=True)
class RepMTLArguments(TrainingArguments):
    """Options of `RepMTLRecipe`; those that are not here are fields of `RepMTLConfig`.

    Args:
        data: "rooms" for rendered rooms; or an .npz archive with the arrays train_images (uint8,
            N x height x width x 3) and train_TASK for each task, and the same for val and test.
            TASK_class_names, an array of strings, names the classes of a task.
        tasks: The tasks of such an archive as name:kind, name:kind:classes or
            name:kind:classes:ignored label, such as [seg:segmentation:11,depth:depth]. Kinds are
            segmentation, depth, normals, classification, edge, regression and dense_regression.
        only: Names of the tasks to learn; empty for all. For a single-task network, give one and
            set lambda_tsr=0 and lambda_csa=0.
        derive_boundaries: Add two tasks derived from the first segmentation: the boundaries of its
            classes, and the distance to the nearest one.
        num_train_images: Number of training pictures to use, from the beginning; None for all, or
            800 for rooms.
        num_validation_images: The same for validation, 100 for rooms; 0 for none.
        num_test_images: The same for testing, 200 for rooms.
        image_size: Height to which pictures are resized; None to keep their size.
        rooms_seed: Seed of the rooms, independent of the seed of the training.
        backbone: A trained encoder: a folder, a shipped name such as efficientnet-lite0, or a Hub
            repository; None for a small one from scratch, with a stride of four pixels.
        encoder_channels: Channels of the small encoder.
        encoder_depth: Number of residual blocks of the small encoder.
        head: What a head does before its last layer: nothing ("linear"), a 3x3 convolution
            ("conv"), or the dilated convolutions of DeepLabV3 ("aspp").
        head_channels: Channels inside "conv" and "aspp" heads.
        multi_input: How tasks with their own pictures are compared: by their position in the batch
            ("index"), or each task with itself ("per_task").
        lambda_tsr: Factor of the term that makes each position serve few tasks; 0 leaves it out.
        lambda_csa: Factor of the term that aligns the tasks' channels; 0 leaves it out.
        csa_temperature: Temperature of the contrast in that term.
        csa_reduction: Reduction over tasks in that term.
        csa_denominator: Pictures in the denominator of the contrast: the other ones ("negatives"),
            or all ("infonce").
        log_transform: Minimize logarithms of the losses.
        weighting: Weights of the losses: equal ("ew"), learned uncertainties ("uw"), by recent
            progress ("dwa"), random in each step ("rlw"), or the geometric mean ("gls", with
            log_transform=false).
        start_step: First optimizer step with the two terms.
        apply_every: Compute the two terms only every so many steps, to save time.
        gradient_surgery: Combine the tasks' gradients of the encoder with this method, as a
            baseline; needs torchjd, and factors of 0.
        flip: Mirror half of the training pictures, if all tasks share pictures.
        weight_decay: Weight decay.
    """

    data: str = ROOMS
    tasks: list[str] = field(default_factory=list)
    only: list[str] = field(default_factory=list)
    derive_boundaries: bool = False
    num_train_images: int | None = None
    num_validation_images: int | None = None
    num_test_images: int | None = None
    image_size: int | None = None
    rooms_seed: int = 0
    backbone: str | None = None
    encoder_channels: int = 64
    encoder_depth: int = 2
    head: Literal["conv", "linear", "aspp"] = "conv"
    head_channels: int = 64
    multi_input: Literal["index", "per_task"] = "index"
    lambda_tsr: float = 0.9
    lambda_csa: float = 0.9
    csa_temperature: float = 0.5
    csa_reduction: Literal["mean", "sum"] = "mean"
    csa_denominator: Literal["negatives", "infonce"] = "negatives"
    log_transform: bool = True
    weighting: Literal["ew", "uw", "dwa", "rlw", "gls"] = "ew"
    start_step: int = 0
    apply_every: int = 1
    gradient_surgery: Surgery | None = None
    flip: bool = True
    weight_decay: float = 1e-5
    batch_size: int = 16
    num_train_epochs: int = 15
    learning_rate: float = 1e-3
    lr_scheduler: Scheduler = "cosine"

    def validate(self) -> None:
        """Check the options of several tasks, and those of every training."""
        super().validate()
        check_not_negative("weight_decay", self.weight_decay)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None:
                check_count(name, value, least)
        if self.gradient_surgery is None:
            return
        if self.lambda_tsr or self.lambda_csa or self.weighting != "ew":
            raise ValueError(
                "gradient_surgery combines the gradients of the plain losses; set "
                "lambda_tsr=0, lambda_csa=0 and weighting=ew."
            )
        if self.mixed_precision == "fp16":
            raise ValueError(
                "gradient_surgery differentiates losses before they are scaled; use "
                "mixed_precision=bf16 or no."
            )


class RepMTLRecipe(TrainingRecipe):
    """Trains one network for several tasks.

    Terms and logarithms are those of a pass: its rows are each other's negatives. So more passes a
    step, or more processes, compare fewer pictures at once, and learn something else; only without
    terms and logarithms all are alike. In the log "csa" is 0 for a pass of one picture, which has
    nothing to be compared with.

    Example:
        >>> RepMTLRecipe(RepMTLArguments(output_dir="out", lambda_tsr=1.1)).arguments.lambda_tsr
        1.1

    Source: arXiv 2507.21049, equation 10.
    """

    name = "rep-mtl"
    arguments_class = RepMTLArguments
    metric_words = {
        "*/miou": "{1}: overlap with the true areas (mean IoU) {0}",
        "*/pixel_accuracy": "{1}: share of pixels with the right class {0}",
        "*/accuracy": "{1}: share of pictures with the right class {0}",
        "*/abs_error": "{1}: mean error {0}",
        "*/mean_error": "{1}: mean error {0}",
        "*/rel_error": "{1}: mean error relative to the truth {0}",
        "*/mean_angle": "{1}: mean error {0} degrees",
        "*/f1": "{1}: agreement with the true edges (F1) {0}",
        "shared/*/ruled": "{1} dominates {0} of the positions of the shared map",
        # Losses, power laws and further statistics are in results.json and on the card.
        "*": "",
    }

    def build_model(self) -> nn.Module:
        options = self.arguments
        if options.backbone is not None:
            # Before the data, which take longer, so that a wrong name is refused at once.
            load(AutoConfig, options.backbone)
        counts = {part: getattr(options, f"num_{part}_images") for part in PARTS}
        data = read_multi_task(
            options.data,
            tasks=options.tasks,
            image_size=options.image_size,
            derive_boundaries=options.derive_boundaries,
            counts=counts,
            seed=options.rooms_seed,
        )
        for name, part in data.parts.items():
            if len(part) < (counts[name] or 0):
                logger.warning(
                    "%s has %d %s pictures, fewer than num_%s_images=%d; all of them are used.",
                    data.name, len(part), name, name, counts[name],
                )  # fmt: skip
        self.task_data = data.only(options.only) if options.only else data
        check_data(self.task_data)
        if "test" not in self.task_data.parts and options.num_test_images != 0:
            logger.warning("%s has no part 'test', so nothing is measured at the end.", data.name)
        if options.gradient_surgery is not None:
            self._aggregator = aggregator_of(options.gradient_surgery, len(self.task_data.tasks))
        images = self._part("train").images
        sample = images if isinstance(images, Tensor) else next(iter(images.values()))
        height, width = sample.shape[-2:]
        self.image_processor = RepMTLImageProcessor(size={"height": height, "width": width})
        settings = {name: getattr(options, name) for name in _FIELDS}
        if options.backbone is not None:
            model = RepMTLForMultiTask.from_backbone(
                options.backbone, self.task_data.tasks, **settings
            )
        else:
            encoder = ResNetConfig(
                embedding_size=options.encoder_channels,
                hidden_sizes=[options.encoder_channels],
                depths=[options.encoder_depth],
                layer_type="basic",
            )
            config = RepMTLConfig(backbone_config=encoder, tasks=self.task_data.tasks, **settings)
            model = RepMTLForMultiTask(config)
        self.prepare_images = preparation(self.image_processor)
        self._tasks = model.tasks
        return model

    def _part(self, name: str) -> MultiTaskPart:
        return self.task_data.parts[name]

    def learned_options(self) -> dict[str, Any]:
        # The place of the data does not matter; their digest stands beside.
        return {**super().learned_options(), "data": data_name(self.arguments.data)}

    def stages(self, epoch: int) -> Iterable[Stage]:
        return [Stage("train", len(self._part("train")), self._fetch)]

    def _fetch(self, batch: Batch) -> Mapping[str, Tensor]:
        part = self._part("train")
        if isinstance(part.images, Tensor):
            images = part.images[batch.rows]
            labels = {name: one[batch.rows] for name, one in part.labels.items()}
            if self.arguments.flip:
                flips = batch.draw(lambda n, generator: torch.rand(n, generator=generator) < 0.5)
                images, labels = mirrored(images, labels, self._tasks, flips)
            found = {"images": images}
        else:
            found, labels = {}, {}
            for place, (name, images) in enumerate(part.images.items()):
                # Other pairs in every epoch; the smaller domains come round again.
                generator = generator_of(batch.seed, batch.epoch, _PAIRS, place)
                rows = torch.randperm(len(part), generator=generator)[batch.rows] % len(images)
                found[f"images/{name}"] = images[rows]
                labels[name] = part.labels[name][rows]
        return {**found, **{f"labels/{name}": one for name, one in labels.items()}}

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        options = self.arguments
        parameters = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.Adam(
            parameters, lr=options.learning_rate, weight_decay=options.weight_decay
        )

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        pixels: Any = {
            name.removeprefix("images/"): self.prepare_images(one)
            for name, one in inputs.items()
            if name.startswith("images")
        }
        pixels = pixels.get("images", pixels)
        labels = {
            name.removeprefix("labels/"): one
            for name, one in inputs.items()
            if name.startswith("labels/")
        }
        network: Any = unwrapped(model)
        network.weighting.begin_epoch(batch.epoch)
        found = model(pixel_values=pixels, labels=labels, step=batch.step)
        loss = found.loss
        if self.arguments.gradient_surgery is not None and torch.is_grad_enabled():
            losses = found.task_losses
            losses = log_losses(losses) if self.arguments.log_transform else losses
            loss = surgery_loss(losses, network.encoder, [network.heads], self._aggregator)
        measures = {f"{name}_loss": one.detach() for name, one in found.task_losses.items()}
        if network.regularizer.is_due(batch.step):
            zero = torch.zeros((), device=loss.device)
            for name, value in (("tsr", found.tsr_loss), ("csa", found.csa_loss)):
                measures[name] = zero if value is None else value
        rows = {name: value.expand(len(batch)) for name, value in measures.items()}
        # The loss of a pass is that of each of its rows: their mean over the step is minimised.
        return StepLoss(loss.expand(len(batch)), measures=rows)

    def can_validate(self) -> bool:
        return "validation" in self.task_data.parts

    def validate(self, model: nn.Module, accelerator: Any) -> dict[str, float]:
        numbers = measure_tasks(unwrapped(model), self._part("validation"), self.prepare_images)
        losses = [own["loss"] for own in numbers.values()]
        if self.arguments.log_transform:
            losses = [math.log(one + 1e-8) for one in losses]
        found = {f"{name}_loss": own["loss"] for name, own in numbers.items()}
        return {"loss": sum(losses), **found}

    def evaluate(self, model: nn.Module, accelerator: Any, results: Results) -> None:
        network: Any = model
        results.data = self.task_data.describe()
        part = self.task_data.parts.get("test")
        if part is not None:
            # Each process measures all of it: sums over pixels are not shared among them.
            add_numbers(results, network, part, self.prepare_images, self.task_data.notes)
            add_sharing(results, network, part, self.prepare_images)
        add_alphas(results, network)

    def export(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    def card_facts(self) -> Facts:
        names = ", ".join(task.name for task in self._tasks)
        count, data = len(self._part("train")), self.task_data.name
        options = self.arguments
        how = "without the terms of Rep-MTL"
        if options.lambda_tsr or options.lambda_csa:
            how = (
                f"with Rep-MTL (lambda_tsr {options.lambda_tsr}, lambda_csa {options.lambda_csa}, "
                f"temperature {options.csa_temperature})"
            )
        return Facts(
            summary=f"One network for {names}, trained on {count} pictures of {data} {how}.",
            example=USAGE,
            cautions=list(self.task_data.notes),
        )
