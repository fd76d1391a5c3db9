"""What a method tells the runner: its model, its work on it, and what it measures.

A `TrainingRecipe` descends a loss, a `BlockRecipe` compresses one block after another, and a
`FitRecipe` does what it does in one go.
"""

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from salhub.model_card import Facts
from salhub.runner.arguments import CIRCUMSTANCES, RunArguments, TrainingArguments
from salhub.runner.batches import Batch, mixed_seed
from salhub.runner.blocks import CompressedBlock, compress_blocks
from salhub.runner.loop import descend
from salhub.runner.plan import describe_machine, describe_training
from salhub.runner.sources import ALL, source_digests

if TYPE_CHECKING:
    from accelerate import Accelerator

    from salhub.results import Results
    from salhub.runner.run import Run


class Recipe(ABC):
    """One kind of training, unlearning or compression.

    The runner calls the methods in the order in which they stand here.

    Args:
        arguments: The options, of the class `arguments_class`.

    Attributes:
        name: What a person types.
        verb: "train", "unlearn" or "compress".
        arguments_class: Its options: `RunArguments`, or `TrainingArguments` where it descends, with
            fields of its own and its own defaults.
        chooses_settings: Whether it can say which of several runs is best.
        sources: Options that may name files or folders, and which files of a folder count, as a
            pattern.
        optional_files: Files that only some of its runs write; an earlier run's are removed.
        is_moved: Whether the whole model is put on the device before the work begins.
        metric_words: Metric -> the sentence that tells it at the end, without its full stop and
            with `{0}` for the number and `{1}` for what a `*` in the metric stands for; "" tells
            nothing. The first that fits counts; other metrics are told by their names.
        run: Its run, from `prepare` on, such as for `run.snapshot`.
    """

    name: ClassVar[str]
    verb: ClassVar[str] = "train"
    arguments_class: ClassVar[type[RunArguments]] = RunArguments
    chooses_settings: ClassVar[bool] = False
    sources: ClassVar[Mapping[str, str]] = {"data": ALL}
    optional_files: ClassVar[tuple[str, ...]] = ()
    is_moved: ClassVar[bool] = True
    metric_words: ClassVar[Mapping[str, str]] = {}
    run: "Run"

    def __init__(self, arguments: Any) -> None:
        self.arguments: Any = arguments

    def learned_options(self) -> dict[str, Any]:
        """The options that decide what is learned, as JSON holds them.

        A run goes on only with the same ones, and they stand on the card. A recipe with options
        that are no plain values says here what stands for them.
        """
        fields = dataclasses.asdict(self.arguments)
        return {name: value for name, value in fields.items() if name not in CIRCUMSTANCES}

    def recorded_options(self) -> dict[str, Any]:
        """The same with digests of the files that they name, which decide as well."""
        return {**self.learned_options(), **source_digests(self.arguments, self.sources)}

    def default_options(self) -> dict[str, Any]:
        """What the options are where nobody gives them; those that have to be given are left out.

        A run that a former version has finished knows nothing of an option that came later.
        """
        fields, missing = dataclasses.fields(self.arguments), dataclasses.MISSING
        made = {f.name: f.default_factory() for f in fields if f.default_factory is not missing}
        return made | {f.name: f.default for f in fields if f.default is not missing}

    @abstractmethod
    def build_model(self) -> nn.Module:
        """The model to work on, on the CPU; the seed is set when this is called.

        Bad options and missing data are refused here, before any work is done.
        """

    def check_built(self) -> None:  # noqa: B027 - most recipes have nothing to add
        """Refuse options that cannot be followed with what `build_model` has found."""

    def plan(self, model: nn.Module, accelerator: "Accelerator") -> dict[str, Any]:
        """What `dry_run` prints; nothing is changed by it."""
        return describe_machine(self, model, accelerator)

    def prepare(self, model: nn.Module, accelerator: "Accelerator") -> None:  # noqa: B027
        """What has to be computed once before the work, such as a mask; nothing by default.

        Args:
            model: The model, on its device and not wrapped.
            accelerator: Of the run.
        """

    @abstractmethod
    def work(self, run: "Run") -> None:
        """Change `run.model`; one that was interrupted goes on where it was."""

    def finish(self, model: nn.Module) -> nn.Module:
        """The finished model, made of the one worked on; that itself by default."""
        return model

    @abstractmethod
    def export(self, model: nn.Module, folder: Path) -> None:
        """Write the finished model, and what is needed to use it, to a folder; on one process.

        Folders in it are kept, and pushed with the rest.
        """

    @abstractmethod
    def evaluate(self, model: nn.Module, accelerator: "Accelerator", results: "Results") -> None:
        """Measure the finished model, which is saved by now, into `results`; on every process.

        What cannot be measured is left out, with a warning; the model is there without it.

        Args:
            model: The finished model, not wrapped, in evaluation mode.
            accelerator: To share the rows, as by `gather_for_metrics`.
            results: To be filled.
        """

    def export_report(self, folder: Path) -> None:  # noqa: B027 - most recipes need none
        """Write what `evaluate` found and the results do not hold; on one process."""

    @classmethod
    def told(cls, results: "Results") -> "Sequence[str] | None":
        """Sentences on what was measured, for the end of a run; None for one for each metric.

        Args:
            results: What was measured.
        """
        return None

    @classmethod
    def choose(cls, runs: "Sequence[Results]") -> int:
        """The best of some finished runs of this recipe, for trying several settings.

        Args:
            runs: What they measured.

        Returns:
            Its place in `runs`.

        Raises:
            NotImplementedError: Unless the recipe has `chooses_settings`.
        """
        raise NotImplementedError(f"the recipe '{cls.name}' cannot choose the best run.")

    def card_facts(self) -> Facts:
        """What the card says beside numbers and options; asked for after `evaluate`."""
        return Facts()


class FitRecipe(Recipe):
    """A recipe that does its work in one go; one that was interrupted does it again."""

    @abstractmethod
    def fit(self, model: nn.Module, accelerator: "Accelerator") -> None:
        """Change the model, on every process; the seed is set when this is called."""

    def work(self, run: "Run") -> None:
        run.log.begin_after(0)
        torch.manual_seed(mixed_seed(self.arguments.seed, 0))
        began = time.perf_counter()
        self.fit(run.model, run.accelerator)
        run.results.add_metric("seconds/fit", time.perf_counter() - began, unit="s")


class BlockRecipe(Recipe):
    """A recipe that compresses one block after another, such as the layers of a transformer.

    Every compressed block is saved before the next one is begun. A run that was interrupted takes
    those that are there, and ends with the bytes that it would have had. The runner holds one block
    at a time, and leaves the model where it is: `build_model` may give one without weights, whose
    blocks `compress_block` loads.
    """

    verb = "compress"
    is_moved = False

    @abstractmethod
    def block_names(self, model: nn.Module) -> Sequence[str]:
        """The blocks in the order in which they are compressed."""

    @abstractmethod
    def compress_block(self, model: nn.Module, name: str) -> CompressedBlock:
        """Compress one block, perhaps by training; the seed is set when this is called.

        Args:
            model: The earlier blocks have been taken.
            name: Of the block.

        Returns:
            All that is known of it afterwards, equal on every process.
        """

    @abstractmethod
    def take_block(self, model: nn.Module, name: str, block: CompressedBlock) -> None:
        """Put a compressed block in its place, and see what the next one needs.

        Such as its inputs, by passing those of this block through it. Called for every block in
        order, whether it has just been compressed or was read.

        Args:
            model: The model.
            name: Of the block.
            block: As it was saved, its tensors on the CPU.
        """

    def plan(self, model: nn.Module, accelerator: "Accelerator") -> dict[str, Any]:
        return {**super().plan(model, accelerator), "blocks": len(self.block_names(model))}

    def work(self, run: "Run") -> None:
        compress_blocks(self, run)


@dataclass(frozen=True)
class Stage:
    """A set of rows that every epoch passes over once, such as "retain".

    Args:
        name: What the log calls it.
        size: Number of rows.
        fetch: Takes a `Batch` and gives the tensors of its rows, on any device.
    """

    name: str
    size: int
    fetch: Callable[[Batch], Mapping[str, Tensor]]


@dataclass
class StepLoss:
    """What a pass gives.

    Args:
        samples: Loss of every row, (b,). Their mean over the whole step is minimised.
        penalty: A term that no single row owns, (); it counts once a step.
        measures: Numbers of every row for the log, (b,) each, such as whether it was right.
    """

    samples: Tensor
    penalty: Tensor | None = None
    measures: dict[str, Tensor] = field(default_factory=dict)


class TrainingRecipe(Recipe):
    """A recipe that descends a loss, step by step.

    Its methods are called in the order in which they stand here, between `prepare` and `finish`.

    Attributes:
        larger_is_better: What `keep_best` looks for in the first number of `validate`.
        validations: The numbers of all validations so far, the first ones first.
    """

    arguments_class: ClassVar[type[RunArguments]] = TrainingArguments
    larger_is_better: ClassVar[bool] = False
    validations: Sequence[Mapping[str, float]] = ()

    def __init__(self, arguments: Any) -> None:
        super().__init__(arguments)
        is_wanted = arguments.validation_steps or arguments.keep_best
        if is_wanted and type(self).validate is TrainingRecipe.validate:
            raise ValueError(
                f"The recipe '{self.name}' does not measure anything during training; leave "
                "out validation_steps and keep_best."
            )

    def check_built(self) -> None:
        if (self.arguments.validation_steps or self.arguments.keep_best) and (
            not self.can_validate()
        ):
            raise ValueError(
                f"With these options, the recipe '{self.name}' has no held-out data to "
                "measure; hold something out, or leave out validation_steps and keep_best."
            )

    @abstractmethod
    def stages(self, epoch: int) -> Iterable[Stage]:
        """The stages of an epoch, in order."""

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer; AdamW over the trainable parameters by default."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.AdamW(parameters, lr=self.arguments.learning_rate)

    def warmup_steps(self, total: int) -> int:
        """Steps over which the learning rate rises from 0, of so many in all."""
        return self.arguments.lr_warmup_steps

    def checkpointed(self) -> Iterable[Any]:
        """What of the recipe changes during the run, such as averaged weights.

        Objects with `load_state_dict` and a `state_dict` of tensors and of what JSON holds, nothing
        by default; asked for once, after `build_optimizer`.
        """
        return ()

    @abstractmethod
    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        """The loss of one pass.

        Args:
            model: The model in training mode, perhaps wrapped for several processes.
            inputs: What the stage fetched, on the device of the model.
            batch: The rows; `batch.draw` draws what is random.
        """

    def after_backward(self, model: nn.Module) -> None:
        """What is done to the gradients of a step before they are clipped; nothing by default."""

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """What follows every optimizer step, such as a proximal step; nothing by default."""

    def can_validate(self) -> bool:
        """Whether there is something held out to validate on; asked for after `build_model`."""
        return type(self).validate is not TrainingRecipe.validate

    def validate(self, model: nn.Module, accelerator: "Accelerator") -> Mapping[str, float]:
        """Measure the model on what is held out, on every process.

        It is called every `validation_steps` steps, or at the end of every epoch.

        Args:
            model: As it is by now, not wrapped, in evaluation mode and without gradients.
            accelerator: To share the rows, as by `gather_for_metrics`.

        Returns:
            Name -> finite number, for the log; the first one decides about `keep_best`. One that
            is called like a number of `StepLoss` is drawn beside it.
        """
        raise NotImplementedError

    def is_done(self) -> bool:
        """Whether to end before all steps are taken; asked before each, equal on every process.

        It may look at the model, at `validations` and at what is `checkpointed`, so that a run
        that goes on ends where it would have ended.
        """
        return False

    def plan(self, model: nn.Module, accelerator: "Accelerator") -> dict[str, Any]:
        return describe_training(self, model, accelerator)

    def work(self, run: "Run") -> None:
        descend(self, run)
