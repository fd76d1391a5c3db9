"""What a method tells the runner: its model, its data, its loss, and what it measures."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from salhub.runner.arguments import CIRCUMSTANCES, RunArguments
from salhub.runner.batches import Batch
from salhub.runner.run_card import CardFacts
from salhub.runner.sources import source_digests

if TYPE_CHECKING:
    from accelerate import Accelerator

    from salhub.results import Results


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


class Recipe(ABC):
    """One kind of training, unlearning or compression.

    The runner calls the methods in the order in which they stand here.

    Args:
        arguments: The options, of the class `arguments_class`.

    Attributes:
        name: What a person types.
        verb: "train", "unlearn" or "compress".
        arguments_class: Its options: `RunArguments` with fields of its own and its own defaults.
        chooses_settings: Whether it can say which of several runs is best.
        sources: Options that may name files or folders, and which files of a folder count, as a
            pattern.
        optional_files: Files that only some of its runs write; an earlier run's are removed.
    """

    name: ClassVar[str]
    verb: ClassVar[str] = "train"
    arguments_class: ClassVar[type[RunArguments]] = RunArguments
    chooses_settings: ClassVar[bool] = False
    sources: ClassVar[Mapping[str, str]] = {"data": "*"}
    optional_files: ClassVar[tuple[str, ...]] = ()

    def __init__(self, arguments: RunArguments) -> None:
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

    @abstractmethod
    def build_model(self) -> nn.Module:
        """The model to train, on the CPU; the seed is set when this is called.

        Bad options and missing data are refused here, before any work is done.
        """

    def prepare(self, model: nn.Module, accelerator: "Accelerator") -> None:  # noqa: B027
        """What has to be computed once before the first step, such as a mask; nothing by default.

        Args:
            model: The model, on its device and not wrapped.
            accelerator: Of the run.
        """

    @abstractmethod
    def stages(self, epoch: int) -> Iterable[Stage]:
        """The stages of an epoch, in order."""

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer; AdamW over the trainable parameters by default."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.AdamW(parameters, lr=self.arguments.learning_rate)

    def checkpointed(self) -> Iterable[Any]:
        """What of the recipe changes during the run, such as averaged weights.

        Objects with `state_dict` and `load_state_dict`, nothing by default; asked for once, after
        `build_optimizer`.
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

    def after_backward(self, model: nn.Module) -> None:  # noqa: B027 - most recipes need none
        """What is done to the gradients of a step before they are clipped; nothing by default."""

    def after_step(  # noqa: B027 - most recipes need none
        self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int
    ) -> None:
        """What follows every optimizer step, such as a proximal step; nothing by default."""

    def finish(self, model: nn.Module) -> nn.Module:
        """The finished model, made of the trained one; that itself by default."""
        return model

    @abstractmethod
    def evaluate(self, model: nn.Module, accelerator: "Accelerator", results: "Results") -> None:
        """Measure the finished model into `results`, on every process.

        Args:
            model: The finished model, not wrapped, in evaluation mode.
            accelerator: To share the rows, as by `gather_for_metrics`.
            results: To be filled.
        """

    @abstractmethod
    def export(self, model: nn.Module, folder: Path) -> None:
        """Write the model, and what is needed to use it, to a folder; on one process."""

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
        raise NotImplementedError(f"the recipe '{cls.name}' cannot say which run is best.")

    def card_facts(self) -> CardFacts:
        """What the card says beside numbers and options; asked for after `export`."""
        return CardFacts()
