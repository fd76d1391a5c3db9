"""The options of a run: what every recipe takes, read from keywords, YAML and the command line."""

import dataclasses
import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

import yaml

from salhub.errors import UnknownOptionError, check_choice, choices_of, did_you_mean
from salhub.files import require_file
from salhub.hub_commit import check_repository

LATEST = "latest"
Scheduler = Literal["constant", "constant_with_warmup", "linear", "cosine", "polynomial"]
# Options that say where and how to run, and not what is learned.
CIRCUMSTANCES = frozenset(
    {
        "card_name",
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
# What other trainers call something that is said otherwise here.
_SAID_OTHERWISE = {
    "gradient_accumulation_steps": "batch_size counts all rows of a step; "
    "to accumulate gradients, set per_device_batch_size."
}
# What recipes call the data that they are given, the one for the others.
_DATA = ("data", "calibration")
_TEXTS = {str, list[str], Sequence[str]}
# Kinds of values, the narrower first, as messages call them.
_KINDS = {bool: "true or false", int: "an integer", float: "a number", list: "a list", str: "text"}
# The same in lists, with an example.
_LISTS = {int: "a list of integers such as [4,8]", float: "a list of numbers such as [0.75,0.5]"}


@dataclass(kw_only=True)
class RunArguments:
    """Where and how to run: options that every recipe takes.

    Recipes add their own fields and change the defaults. A field that is one of some words is a
    `Literal`, and checked.

    Args:
        output_dir: Folder for the model, checkpoints, log.jsonl and results.json.
        seed: Random seed.
        cpu: Run on the CPU even if there is a GPU.
        deterministic: Do not use faster kernels whose sums depend on timing.
        resume_from_checkpoint: "latest" resumes from the last intact checkpoint in `output_dir` if
            there is one; or give the folder of a checkpoint there; None starts a new run. A
            finished run is not repeated.
        report_to: Trackers in addition to log.jsonl: "tensorboard", "wandb" or others of
            Accelerate.
        dry_run: Print what the run would do and how much memory it needs, and stop.
        overwrite: Start a new run in an `output_dir` that already holds a run or a model.
        card_name: Name of the model on its card; None for `hub_model_id`, or the folder's name.
        push_to_hub: Push the results to the Hub when the run ends, with the saved login.
        hub_model_id: Repository to push to: "owner/name".
        hub_private_repo: Whether to create the repository as private.

    Raises:
        ValueError: A number out of range, an unknown choice, or options that contradict each other.

    Example:
        >>> RunArguments(output_dir="out").seed
        0
    """

    output_dir: str
    seed: int = 0
    cpu: bool = False
    deterministic: bool = False
    resume_from_checkpoint: str | None = None
    report_to: list[str] = dataclasses.field(default_factory=list)
    dry_run: bool = False
    overwrite: bool = False
    card_name: str | None = None
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private_repo: bool = False

    def __post_init__(self) -> None:
        for name, annotation in get_type_hints(type(self)).items():
            if list in _kinds_of(annotation) and getattr(self, name) is not None:
                # One value is a list of one.
                setattr(self, name, _converted(name, annotation, getattr(self, name)))
        self.output_dir = str(self.output_dir)
        self.validate()

    def validate(self) -> None:
        """Check every option; recipes extend it."""
        for name, annotation in get_type_hints(type(self)).items():
            if choices := choices_of(annotation):
                check_choice(name, getattr(self, name), choices)
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise ValueError(f"seed must be an integer, 0 or more, got {self.seed!r}.")
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
            UnknownOptionError: An unknown name, or a missing one.
            ValueError: A value of the wrong kind.

        Example:
            >>> RunArguments.from_settings({"output_dir": "out", "sead": 3})
            Traceback (most recent call last):
            salhub.errors.UnknownOptionError: The run has no option 'sead'. Did you mean 'seed'?
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in settings:
            if name not in fields:
                raise UnknownOptionError(f"{owner} has no option '{name}'{_hint(name, fields)}")
        types = get_type_hints(cls)
        values = {name: _converted(name, types[name], given) for name, given in settings.items()}
        for field in fields.values():
            is_needed = (
                field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING
            )
            if is_needed and field.name not in values:
                raise UnknownOptionError(f"{owner} needs '{field.name}'; give {field.name}=VALUE.")
        return cls(**values)


@dataclass(kw_only=True)
class TrainingArguments(RunArguments):
    """How to descend: options of every recipe that takes gradient steps.

    Everything is counted in samples: `batch_size` rows make one optimizer step, however many
    processes share them and however many passes each process needs for its part. So a run on two
    processes learns what a run on one learns.

    Args:
        batch_size: Number of rows in one optimizer step, over all processes.
        per_device_batch_size: Maximum number of rows that a process passes through the model at
            once; None for its whole part. Gradients are accumulated.
        num_train_epochs: Number of passes over the data.
        max_train_steps: Maximum number of optimizer steps; it takes precedence over the epochs.
            None for no limit.
        learning_rate: Highest learning rate.
        lr_scheduler: Learning rate schedule.
        lr_warmup_steps: Optimizer steps over which the rate rises from 0.
        max_grad_norm: Maximum norm of the gradient, which is scaled down to it; None for no limit.
        mixed_precision: Precision of the passes; "no" for float32.
        checkpointing_steps: Optimizer steps between checkpoints; None to save none.
        checkpoints_total_limit: Number of latest checkpoints to keep; None for all.
        logging_steps: Optimizer steps between lines of the log.
        validation_steps: Optimizer steps between measurements on held-out data; None for one at
            the end of every epoch, if the recipe has held-out data; 0 for none.
        keep_best: Keep the model with the best validation instead of the last one.

    Raises:
        ValueError: A number out of range, an unknown choice, or options that contradict each other.

    Example:
        >>> TrainingArguments(output_dir="out", batch_size=64, learning_rate=0.1).num_train_epochs
        1
    """

    batch_size: int = 128
    per_device_batch_size: int | None = None
    num_train_epochs: int = 1
    max_train_steps: int | None = None
    learning_rate: float = 1e-3
    lr_scheduler: Scheduler = "constant"
    lr_warmup_steps: int = 0
    max_grad_norm: float | None = None
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    checkpointing_steps: int | None = None
    checkpoints_total_limit: int | None = None
    logging_steps: int = 10
    validation_steps: int | None = None
    keep_best: bool = False

    def validate(self) -> None:
        """Check the options of training, and those of every run."""
        super().validate()
        for name in ("batch_size", "num_train_epochs", "logging_steps"):
            check_count(name, getattr(self, name))
        for name in (
            "per_device_batch_size",
            "max_train_steps",
            "checkpointing_steps",
            "checkpoints_total_limit",
        ):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_positive("learning_rate", self.learning_rate)
        if self.max_grad_norm is not None:
            check_positive("max_grad_norm", self.max_grad_norm)
        check_not_negative("lr_warmup_steps", self.lr_warmup_steps)
        if self.lr_warmup_steps and self.lr_scheduler == "constant":
            raise ValueError(
                "lr_scheduler='constant' has no warm-up; use 'constant_with_warmup', or leave "
                "lr_warmup_steps at 0."
            )
        if self.validation_steps:
            check_count("validation_steps", self.validation_steps)
        if self.keep_best and self.validation_steps == 0:
            raise ValueError(
                "keep_best needs validations to choose from; leave out validation_steps=0."
            )


def text_options(owner: Any) -> set[str]:
    """Names of what is text, or lists of it; not of what is one of some words, or may be numbers.

    Args:
        owner: The class of some options or of a configuration, or a function.

    Example:
        >>> sorted(text_options(RunArguments))[:3]
        ['card_name', 'hub_model_id', 'output_dir']
    """
    # Fields of transformers' own configurations name types that are not there at run time.
    bases = reversed(owner.__mro__) if isinstance(owner, type) else [owner]
    ours = [base for base in bases if not base.__module__.startswith("transformers.")]
    hints = {name: one for base in ours for name, one in inspect.get_annotations(base).items()}
    kinds = {name: set(_alternatives(one)) for name, one in hints.items()}
    return {
        name
        for name, own in kinds.items()
        if _TEXTS & own and not any({int, float} & set(get_args(one)) for one in own - _TEXTS)
    }


def read_settings_file(path: str | Path, texts: Collection[str] = ()) -> dict[str, Any]:
    """Read a YAML or JSON file of options.

    Args:
        path: The file.
        texts: Options that are text, which stay as they are written: 007 is no number there, and
            no is no switch.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no mapping of names to values.
    """
    path = Path(path)
    require_file(path, "file of options")
    try:
        text = path.read_text(encoding="utf-8")
        content, written = yaml.safe_load(text), yaml.load(text, yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{path} must hold one mapping of option names to values.")
    named = {key.replace("-", "_"): (value, written[key]) for key, value in content.items()}
    return {
        name: as_text(value, own) if name in texts else value
        for name, (value, own) in named.items()
    }


def as_text(value: Any, written: Any) -> Any:
    """A value that is text as it is written; nothing stays nothing.

    Args:
        value: As YAML reads it.
        written: The same with all that is no list or mapping as text.

    Example:
        >>> as_text([False, 7, None], ["no", "007", "null"])
        ['no', '007', None]
    """
    if isinstance(value, list):
        return [as_text(one, own) for one, own in zip(value, written, strict=True)]
    if isinstance(value, dict):
        return {
            key: as_text(one, own)
            for (key, own), one in zip(written.items(), value.values(), strict=True)
        }
    return value if value is None or isinstance(value, str) else written


def check_positive(name: str, value: Any) -> None:
    """Raises ValueError unless a value is a finite number above 0."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}.")


def check_not_negative(name: str, value: float) -> None:
    """Raises ValueError unless a number is finite, and 0 or more."""
    if isinstance(value, bool) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be 0 or more, got {value!r}.")


def check_share(name: str, value: float) -> None:
    """Raises ValueError unless a value is 0 or more and below 1."""
    if isinstance(value, bool) or not 0 <= value < 1:
        raise ValueError(f"{name} must be 0 or more and below 1, got {value!r}.")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raises ValueError unless a value is an integer, `least` or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer, {least} or more, got {value!r}.")


def _hint(name: str, known: Mapping[str, Any]) -> str:
    if name in _SAID_OTHERWISE:
        return f"; {_SAID_OTHERWISE[name]}"
    of_training = {field.name for field in dataclasses.fields(TrainingArguments)}
    if name in of_training - known.keys():
        return ", because it takes no gradient steps; leave it out."
    meant = [one for one in _DATA if name in _DATA and one in known]
    hint = f" Did you mean '{meant[0]}'?" if meant else did_you_mean(name, known)
    return hint.replace(" Did", ". Did") or f". It takes {', '.join(known)}."


def _converted(name: str, annotation: Any, value: Any) -> Any:
    """A value of the kind that an option has, where YAML or a person wrote it as another one.

    Raises:
        ValueError: It is of a kind that the option cannot have.
    """
    kinds = _kinds_of(annotation)
    if value == "none" and NoneType in kinds and value not in choices_of(annotation):
        return None
    if list in kinds and value is not None:
        wanted = next((get_args(one) for one in _alternatives(annotation) if get_args(one)), ())
        entries = list(value) if isinstance(value, list | tuple) else [value]
        if not wanted:
            return entries
        try:
            return [_converted(name, wanted[0], entry) for entry in entries]
        except ValueError:
            kind = _LISTS.get(wanted[0], "a list")
            raise ValueError(f"{name} must be {kind}, got {value!r}.{_of_percent(value)}") from None
    if type(value) in kinds:
        return value
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return value
    if float in kinds and isinstance(value, str):
        # YAML takes 1e-3 for text.
        return _number(name, value)
    if str in kinds and isinstance(value, bool):
        # YAML takes the word for a boolean.
        return "yes" if value else "no"
    if str in kinds and not isinstance(value, list | dict | NoneType):
        return str(value)
    wanted = " or ".join(text for kind, text in _KINDS.items() if kind in kinds)
    raise ValueError(f"{name} must be {wanted}, got {value!r}.")


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """`int` and `None` of `int | None`.

    Example:
        >>> _alternatives(list[str])
        (list[str],)
    """
    is_union = isinstance(annotation, UnionType) or get_origin(annotation) is Union
    return get_args(annotation) if is_union else (annotation,)


def _kinds_of(annotation: Any) -> set[type]:
    kinds: set[type] = set()
    for kind in _alternatives(annotation):
        is_choice = get_origin(kind) is Literal
        kinds |= set(map(type, get_args(kind))) if is_choice else {get_origin(kind) or kind}
    return kinds


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        hint = _of_percent(text)
        raise ValueError(f"{name} must be a number, got {text!r}.{hint}") from None


def _of_percent(value: Any) -> str:
    """How a percentage is written as a fraction; "" where a value is none."""
    percent = value.removesuffix("%").strip() if isinstance(value, str) else ""
    if not percent.replace(".", "", 1).isdecimal() or percent == value.strip():
        return ""
    return f" Write {percent} % as {float(percent) / 100:g}."
