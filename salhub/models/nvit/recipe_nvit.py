"""`salhub compress nvit`: prune a vision transformer to latencies while it is trained."""

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from salhub.files import draft
from salhub.model_card import Facts
from salhub.models.nvit.distillation import DistillationLoss, Objective
from salhub.models.nvit.distilling_recipe import (
    SCORES_NAME,
    TABLE_NAME,
    DistillingArguments,
    StartedRecipe,
    load_nvit,
)
from salhub.models.nvit.gates import GateSites
from salhub.models.nvit.importance import NViTScores, divisors, finite, score_units
from salhub.models.nvit.latency_table import LatencyTable
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.models.nvit.pruner_nvit import NViTPruner, checked_targets
from salhub.models.nvit.shapes import STRUCTURES, NViTShape
from salhub.results import Results
from salhub.runner.arguments import Scheduler, check_count, check_positive
from salhub.runner.batches import Batch
from salhub.runner.plan import count_steps
from salhub.runner.recipe import StepLoss
from salhub.runner.run_folder import prepared_path

logger = logging.getLogger(__name__)

RunScore = Literal["batch", "per_sample", "magnitude", "random"]


@dataclass(kw_only=True)
class NViTArguments(DistillingArguments):
    """Options of `NViTRecipe`.

    Args:
        model: The network to prune: NViT, ViT or DeiT; a folder, a shipped name or a Hub
            repository.
        targets: Target latencies as fractions of the original's, above 0 and below 1. The lowest
            one gives the model, each other one its own folder.
        latency_table: File of a latency table; None to measure one first.
        latency_batch_size: Batch size for measuring latencies.
        score: How units are ranked; "batch" and "per_sample" use the gradients of the training
            itself.
        gate_sites: Where gates act: on the "weights", as published, or on the "activations"; see
            `gate_factors`.
        prune_interval: Optimizer steps between removals [P].
        groups_per_step: Number of groups removed at once [R].
        group_sizes: Number of residual channels, heads, QK and V channels and neurons in a group
            [P].
        eta: Score that one saved second is worth; None for `kappa` times the ratio of the medians.
        kappa: Weight of the saved time relative to the score, if `eta` is None.
        objective: Loss with a CNN: "paper" as in the paper, where only the class token learns from
            labels, or "reference" as in the published code, where the mean of both tokens does; see
            `DistillationLoss`.
        kl_weight: Weight of the divergence from the network before pruning; it is left out before
            the first removal, when both are equal.
        temperature: Temperature of that divergence.
    """

    model: str
    targets: list[float] = field(default_factory=lambda: [0.75, 0.5])
    latency_table: str | None = None
    latency_batch_size: int = 64
    score: RunScore = "batch"
    gate_sites: GateSites = "weights"
    prune_interval: int = 100
    groups_per_step: int = 2
    group_sizes: list[int] = field(default_factory=lambda: [16, 2, 8, 8, 16])
    eta: float | None = None
    kappa: float = 0.1
    objective: Objective = "paper"
    kl_weight: float = 100.0
    temperature: float = 3.0
    batch_size: int = 128
    num_train_epochs: int = 20
    learning_rate: float = 5e-4
    lr_scheduler: Scheduler = "constant"
    checkpointing_steps: int | None = 100

    def validate(self) -> None:
        """Check the options, and those of every training with a teacher."""
        super().validate()
        checked_targets(self.targets)
        for name in ("prune_interval", "groups_per_step", "latency_batch_size"):
            check_count(name, getattr(self, name))
        check_positive("temperature", self.temperature)
        if len(self.group_sizes) != len(STRUCTURES):
            raise ValueError(
                f"group_sizes must be {len(STRUCTURES)} numbers, for "
                f"{', '.join(STRUCTURES)}, got {len(self.group_sizes)}."
            )


class PruningState:
    """What of a pruning run changes: units, their scores so far, and targets that were reached.

    Args:
        size: Number of units.
    """

    def __init__(self, size: int) -> None:
        self.mask = torch.ones(size, dtype=torch.bool)
        self.total = torch.zeros(size, dtype=torch.float64)
        self.count = 0
        self.removals = 0
        self.reached: list[float] = []
        # Scores of the network before anything was removed, float64 (units,), and their batches.
        self.first: Tensor | None = None
        self.first_count = 0

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        for name in vars(self):
            value = state[name]
            setattr(self, name, value.cpu() if isinstance(value, Tensor) else value)


class NViTRecipe(StartedRecipe):
    """Prunes a vision transformer step by step while it learns to keep its answers.

    Every `prune_interval` steps the groups of least worth go, by scores that the gradients of
    these steps give for nothing. What is removed is multiplied by 0 where it acts, so that its
    weights and their momentum do nothing any more, and is cut out when a target is reached. All
    targets are snapshots of one run. Fine-tune what comes out with `NViTFineTuningRecipe`. Beside
    each stand the latency table and the scores of the whole network, from which `NViTPruner` plans
    other targets without any data.

    Example:
        >>> arguments = NViTArguments(output_dir="small", data="cifar10.npz", model="nano")
        >>> NViTRecipe(arguments).arguments.targets
        [0.75, 0.5]

    Source: Yang et al. 2023 (arXiv 2110.04869), sections 3.2 to 3.4.
    """

    name = "nvit"
    verb = "compress"
    arguments_class = NViTArguments
    metric_words = {
        "latency_ratio/predicted": "predicted latency by that of the original {}",
        "parameters": "{} in the pruned network",
        "macs": "{}",
    }
    original: NViTForImageClassification | None = None

    def __init__(self, arguments: NViTArguments) -> None:
        super().__init__(arguments)
        self._gates: list[Tensor] = []
        self._step_size = 0

    def check_built(self) -> None:
        super().check_built()
        steps, interval = count_steps(self), self.arguments.prune_interval
        if steps < interval:
            raise ValueError(
                f"The run has {steps} steps, but the first removal is after prune_interval="
                f"{interval} steps, so nothing would be removed; give a smaller prune_interval, or "
                "more num_train_epochs."
            )

    def build_classifier(self, class_names: list[str]) -> PreTrainedModel:
        model, options = super().build_classifier(class_names), self.arguments
        self.state = PruningState(model.layout.size)
        self.objective = DistillationLoss(
            options.objective, options.kl_weight, options.temperature, is_by_token=False
        )
        return model

    def prepare(self, model: nn.Module, accelerator: Any) -> None:
        super().prepare(model, accelerator)
        options, self.accelerator = self.arguments, accelerator
        self.original = load_nvit(options.model).to(accelerator.device).eval().requires_grad_(False)
        self.pruner = NViTPruner(
            self.start,
            self._table(),
            score=options.score,
            gate_sites=options.gate_sites,
            group_sizes=dict(zip(STRUCTURES, options.group_sizes, strict=True)),
            eta="auto" if options.eta is None else options.eta,
            kappa=options.kappa,
            groups_per_step=options.groups_per_step,
            seed=options.seed,
        )
        self.pruner.check_reachable(min(options.targets))
        self._warn_of_few_steps()

    def _warn_of_few_steps(self) -> None:
        """Say before the work that it will probably end before the target, as by magnitudes."""
        options, target = self.arguments, min(self.arguments.targets)
        removals = count_steps(self) // options.prune_interval
        self.pruner.scores = score_units(self.start, (), score="magnitude")
        needed = self.pruner.plan(target)[0].num_steps
        self.pruner.scores = None
        if removals < needed and self.accelerator.is_main_process:
            logger.warning(
                "The run removes groups %d times, but the target %g needs about %d removals, so it "
                "will probably not be reached; give more num_train_epochs, a smaller "
                "prune_interval, or more groups_per_step.",
                removals, target, needed,
            )  # fmt: skip

    def _table(self) -> LatencyTable:
        """The table given, that of the run that goes on, or one that is measured now."""
        if self.arguments.latency_table is not None:
            return LatencyTable.load(self.arguments.latency_table)
        kept = prepared_path(self.run.folder, "latency")
        if self.accelerator.is_main_process and not kept.exists():
            logger.warning("Measuring latencies on %s.", self.accelerator.device)
            table = LatencyTable.measure(
                self.start.config,
                device=self.accelerator.device,
                batch_size=self.arguments.latency_batch_size,
            )
            with draft(kept) as folder:
                folder.mkdir()
                table.save(folder / TABLE_NAME)
        self.accelerator.wait_for_everyone()
        self.run.remove_when_finished(kept)
        return LatencyTable.load(kept / TABLE_NAME)

    def checkpointed(self) -> Iterable[Any]:
        return [self.state]

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        images, labels = inputs["images"], inputs["labels"]
        pixels, mask = self.prepared(images), self._mask(images.device)
        self._step_size = batch.step_size
        outputs = model(
            pixels, mask=mask, gates=self._new_gates(len(images), images.device),
            gate_sites=self.arguments.gate_sites,
        )  # fmt: skip
        with torch.no_grad():
            # Before the first removal both are the same network.
            is_first = batch.step < self.arguments.prune_interval
            original = None if is_first or self.original is None else self.original(pixels)
            cnn = None if self.teacher is None else self.teacher(images).argmax(-1)
        samples = self.objective(outputs, labels, original=original, cnn_labels=cnn)
        is_right = (outputs.logits.argmax(-1) == labels).float()
        return StepLoss(samples, measures={"accuracy": is_right})

    def after_backward(self, model: nn.Module) -> None:
        score, gates = self.arguments.score, self._gates
        self._gates = []
        if score not in ("batch", "per_sample") or not gates:
            return
        processes = self.accelerator.num_processes
        constants = divisors(self.start.layout, self._constants()).double()
        if score == "batch":
            # A step is one batch, however many passes and processes share it.
            slope = sum((gate.grad[0].double() for gate in gates), torch.zeros(()))
            slope = self.accelerator.reduce(slope, "sum") / processes
            found = (slope.cpu() / constants).square()
        else:
            rows = torch.cat([gate.grad for gate in gates]).double().cpu() / processes
            squares = (rows / constants).square().sum(0)
            # Losses of rows are divided by the rows of the step.
            found = self.accelerator.reduce(squares.to(gates[0].device), "sum").cpu()
            found = found * self._step_size
        self.state.total += found
        self.state.count += 1

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        if (step + 1) % self.arguments.prune_interval:
            return
        pruner, state = self.pruner, self.state
        pruner.mask = state.mask
        pruner.scores = self._scores()
        if not state.removals:
            state.first = pruner.scores.values.clone()
            state.first_count = pruner.scores.num_batches
        if pruner.step() is None:
            return
        state.mask, state.removals = pruner.mask, state.removals + 1
        state.total.zero_()
        state.count = 0
        ratio = pruner.ratio
        for target in sorted(self.arguments.targets, reverse=True):
            if ratio <= target and target not in state.reached:
                state.reached.append(target)
                if target != min(self.arguments.targets):
                    self.run.snapshot(f"latency-{round(1000 * target):03d}", self._compact(target))

    def is_done(self) -> bool:
        return len(self.state.reached) == len(set(self.arguments.targets))

    def finish(self, model: nn.Module) -> nn.Module:
        target = min(self.arguments.targets)
        self.pruner.mask = self.state.mask
        if not self.is_done():
            logger.warning(
                "The run ended at %.3f of the latency, before the target %g; give more "
                "num_train_epochs, a smaller prune_interval, or more groups_per_step.",
                self.pruner.ratio, target,
            )  # fmt: skip
        return self._compact(target)

    def evaluate(self, model: nn.Module, accelerator: Any, results: Results) -> None:
        super().evaluate(model, accelerator, results)
        config: Any = model.config
        shape, original = NViTShape.of(config), self.start.layout.shape
        seconds = [self.pruner.table.predict(one) for one in (shape, original)]
        results.add_metric("latency_ratio/predicted", seconds[0] / seconds[1], unit="ratio")
        results.add_metric("parameters", shape.num_parameters(config), unit="weights")
        results.add_metric("macs", shape.macs(config), unit="multiply-adds per picture")

    def export(self, model: Any, folder: Path) -> None:
        super().export(model, folder)
        self.pruner.table.save(folder / TABLE_NAME)
        state = self.state
        if state.first is not None:
            layout, score = self.start.layout, self.arguments.score
            NViTScores(layout, state.first, score, state.first_count).save(folder / SCORES_NAME)

    def card_facts(self) -> Facts:
        facts = super().card_facts()
        words = (
            f"Pruned from {Path(self.arguments.model).name} to a target latency; not fine-tuned "
            "yet."
        )
        return dataclasses.replace(facts, summary=f"{facts.summary} {words}")

    def _compact(self, target: float) -> nn.Module:
        small = self.pruner.compact()
        record = small.config.pruning_record or {}
        small.config.pruning_record = {
            **record, "source": Path(self.arguments.model).name, "target": target,
            "num_steps": self.state.removals, "prune_interval": self.arguments.prune_interval,
        }  # fmt: skip
        return small.eval()

    def _constants(self) -> Mapping[str, float] | None:
        return {} if self.arguments.gate_sites == "activations" else None

    def _mask(self, device: torch.device) -> Tensor | None:
        mask = self.state.mask
        return None if bool(mask.all()) else mask.to(device)

    def _new_gates(self, rows: int, device: torch.device) -> Tensor | None:
        score = self.arguments.score
        if score not in ("batch", "per_sample") or not torch.is_grad_enabled():
            return None
        count = rows if score == "per_sample" else 1
        gates = torch.ones(count, self.start.layout.size, device=device, requires_grad=True)
        self._gates.append(gates)
        return gates

    def _scores(self) -> NViTScores:
        options, state, layout = self.arguments, self.state, self.start.layout
        if options.score in ("magnitude", "random"):
            seed = options.seed + state.removals
            return score_units(self.start, (), score=options.score, mask=state.mask, seed=seed)
        values = finite(state.total / max(1, state.count))
        return NViTScores(layout, values * state.mask, options.score, state.count)
