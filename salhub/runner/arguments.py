"""The options of a run: what every recipe takes, read from keywords, YAML and the command line."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from salhub.errors import did_you_mean
from salhub.hub_commit import check_repository

MIXED_PRECISIONS = ("no", "bf16", "fp16")
SCHEDULERS = ("constant", "constant_with_warmup", "linear", "cosine", "polynomial")
LATEST = "latest"
# Options that say where and how to run, and not what is learned.
CIRCUMSTANCES = frozenset(
    {
        "checkpoints_total_limit",
        "cpu",
        "dry_run",
        "hub_model_id",
        "hub_private_repo",
        "output_dir",
        "overwrite",
        "per_device_batch_size",
        "push_to_hub",
        "report_to",
        "resume_from_checkpoint",
    }
)


@dataclass(kw_only=True)
class RunArguments:
    """Options that every recipe takes; recipes add their own fields and change the defaults.

    Everything is counted in samples: `batch_size` rows make one optimizer step, however many
    processes share them and however many passes each process needs for its part. So a run on two
    processes learns what a run on one learns.

    Args:
        output_dir: Folder for the model, checkpoints, log.jsonl and results.json.
        seed: Seed of everything that is drawn.
        batch_size: Rows of one optimizer step, over all processes.
        per_device_batch_size: Most rows that a process passes through the model at once; None for
            its whole part. Gradients of the passes are accumulated.
        num_train_epochs: Passes over the data.
        max_train_steps: Optimizer steps after which the run ends, whatever the epochs; None for no
            such end.
        learning_rate: Highest learning rate.
        lr_scheduler: "constant", "constant_with_warmup", "linear", "cosine" or "polynomial".
        lr_warmup_steps: Optimizer steps over which the rate rises from 0.
        max_grad_norm: Largest norm of the gradient, which is scaled down to it; None for no limit.
        mixed_precision: "no", "bf16" or "fp16".
        cpu: Run on the CPU even where there is a GPU.
        deterministic: Refuse faster kernels whose sums depend on timing.
        checkpointing_steps: Optimizer steps between checkpoints; None for none.
        checkpoints_total_limit: Checkpoints kept, the latest ones; None for all.
        resume_from_checkpoint: "latest" goes on from the last checkpoint in `output_dir` where
            there is one; or the folder of a checkpoint; None starts anew.
        logging_steps: Optimizer steps between lines of the log.
        report_to: Trackers beside log.jsonl: "tensorboard", "wandb" or others of Accelerate's.
        dry_run: Print steps, batch and memory, and stop before the first step.
        overwrite: Start anew in an `output_dir` that holds a run.
        push_to_hub: Put what the run made on the Hub when it is finished, with the saved login.
        hub_model_id: Where to: "owner/name".
        hub_private_repo: Whether a repository created there is private.

    Raises:
        ValueError: A number out of range, an unknown choice, or options that contradict each other.

    Example:
        >>> RunArguments(output_dir="out", batch_size=64, learning_rate=0.1).seed
        0
    """

    output_dir: str
    seed: int = 0
    batch_size: int = 128
    per_device_batch_size: int | None = None
    num_train_epochs: int = 1
    max_train_steps: int | None = None
    learning_rate: float = 1e-3
    lr_scheduler: str = "constant"
    lr_warmup_steps: int = 0
    max_grad_norm: float | None = None
    mixed_precision: str = "no"
    cpu: bool = False
    deterministic: bool = False
    checkpointing_steps: int | None = None
    checkpoints_total_limit: int | None = None
    resume_from_checkpoint: str | None = None
    logging_steps: int = 10
    report_to: list[str] = dataclasses.field(default_factory=list)
    dry_run: bool = False
    overwrite: bool = False
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private_repo: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.report_to, str):
            self.report_to = [self.report_to]
        self.output_dir = str(self.output_dir)
        self.validate()

    def validate(self) -> None:
        """Check every option; recipes extend it."""
        for name in ("batch_size", "num_train_epochs", "logging_steps"):
            _check_count(name, getattr(self, name))
        for name in (
            "per_device_batch_size",
            "max_train_steps",
            "checkpointing_steps",
            "checkpoints_total_limit",
        ):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name))
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise ValueError(f"seed must be an integer, 0 or more, got {self.seed!r}.")
        check_positive("learning_rate", self.learning_rate)
        if self.max_grad_norm is not None:
            check_positive("max_grad_norm", self.max_grad_norm)
        if self.lr_warmup_steps < 0:
            raise ValueError(f"lr_warmup_steps must be 0 or more, got {self.lr_warmup_steps}.")
        if self.lr_warmup_steps and self.lr_scheduler == "constant":
            raise ValueError(
                "lr_scheduler='constant' has no warm-up; use 'constant_with_warmup', or leave "
                "lr_warmup_steps at 0."
            )
        check_choice("lr_scheduler", self.lr_scheduler, SCHEDULERS)
        check_choice("mixed_precision", self.mixed_precision, MIXED_PRECISIONS)
        self._validate_hub()

    def _validate_hub(self) -> None:
        if self.push_to_hub != (self.hub_model_id is not None):
            raise ValueError(
                "push_to_hub and hub_model_id go together; give push_to_hub=true and "
                "hub_model_id=owner/name, or neither."
            )
        if self.hub_model_id is not None:
            check_repository(self.hub_model_id)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], owner: str = "The run") -> Self:
        """Make the options of named values, refusing names that nobody takes.

        Args:
            settings: Name -> value.
            owner: Who takes them, for messages.

        Raises:
            ValueError: An unknown name, a missing one, or a value of the wrong kind.

        Example:
            >>> RunArguments.from_settings({"output_dir": "out", "batch_sise": 3})
            Traceback (most recent call last):
            ValueError: The run has no option 'batch_sise'. Did you mean 'batch_size'?
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in settings:
            if name not in fields:
                hint = did_you_mean(name, fields) or f" It takes {', '.join(fields)}."
                raise ValueError(f"{owner} has no option '{name}'.{hint}")
        values = {name: _converted(fields[name], value) for name, value in settings.items()}
        for field in fields.values():
            is_needed = (
                field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING
            )
            if is_needed and field.name not in values:
                raise ValueError(f"{owner} needs '{field.name}'; give {field.name}=VALUE.")
        return cls(**values)


def read_settings_file(path: str | Path) -> dict[str, Any]:
    """Read a YAML or JSON file of options.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no mapping of names to values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of options at {path}.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{path} must hold one mapping of option names to values.")
    return {key.replace("-", "_"): value for key, value in content.items()}


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises ValueError, with the nearest one, unless a value is one of the choices."""
    if value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(choices)}, got {value!r}."
            f"{did_you_mean(str(value), choices)}"
        )


def check_positive(name: str, value: Any) -> None:
    """Raises ValueError unless a value is a finite number above 0."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}.")


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an integer, 1 or more, got {value!r}.")


def _converted(field: dataclasses.Field, value: Any) -> Any:
    """A number where YAML read one of another kind, such as 1e-3 as text."""
    kinds = str(field.type)
    if "float" in kinds and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"{field.name} must be a number, got {value!r}.") from None
    if kinds.startswith("<class 'bool'") and not isinstance(value, bool):
        raise ValueError(f"{field.name} must be true or false, got {value!r}.")
    return value
