"""Configuration of networks that do several tasks at once, trained with Rep-MTL."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from salhub.config_fields import MOST_CHANNELS, MOST_CLASSES, ranged
from salhub.configuration import strict
from salhub.errors import check_choice, did_you_mean
from salhub.network_inside import NetworkInsideConfig

# Kind of task -> the losses that it may have, the default first.
LOSSES: dict[str, tuple[str, ...]] = {
    "segmentation": ("cross_entropy",),
    "depth": ("l1", "mse"),
    "normals": ("cosine",),
    "classification": ("cross_entropy",),
    "edge": ("bce",),
    "regression": ("l1", "mse"),
}
# Kind -> its outputs where nothing is said of them; kinds with classes have to say how many.
_OUTPUTS = {"depth": 1, "normals": 3, "edge": 1, "regression": 1}
_DENSE = ("segmentation", "depth", "normals", "edge")
# Those of the rendered rooms.
ROOM_TASKS = (
    {
        "name": "segmentation",
        "type": "segmentation",
        "num_labels": 6,
        "class_names": ["floor", "wall", "ceiling", "sphere", "box", "cylinder"],
    },
    {"name": "depth", "type": "depth"},
    {"name": "normals", "type": "normals"},
)


@dataclass(frozen=True)
class Task:
    """One task of a network.

    Args:
        name: Its name in labels and outputs, a Python identifier.
        type: Its kind; "segmentation", "depth", "normals" and "edge" have a value for each pixel,
            "classification" one class a picture.
        num_labels: Classes, or numbers that are predicted; given for kinds with classes.
        loss: As of the kind: "cross_entropy"; "l1" or "mse"; "cosine" (1 minus the cosine); "bce".
        loss_weight: Factor of its loss, above 0.
        ignore_index: Label of pixels or pictures that do not count, of kinds with classes and of
            "edge". Depths that are not above 0, normals of length 0 and numbers that are not finite
            do not count either.
        dense: Whether a "regression" has a value for each pixel; fixed for the other kinds.
        class_names: Of kinds with classes, num_labels names; None for numbers.

    Raises:
        ValueError: A value that breaks these rules.

    Example:
        >>> Task("depth", "depth").loss
        'l1'
    """

    name: str
    type: str
    num_labels: int | None = None
    loss: str | None = None
    loss_weight: float = 1.0
    ignore_index: int = 255
    dense: bool | None = None
    class_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise ValueError(f"The name of a task must be an identifier, got {self.name!r}.")
        check_choice(f"The type of task '{self.name}'", self.type, LOSSES)
        self._set("loss", self.loss or LOSSES[self.type][0])
        check_choice(f"The loss of task '{self.name}'", self.loss, LOSSES[self.type])
        self._set("num_labels", self.num_labels or _OUTPUTS.get(self.type))
        least = 2 if self.type in ("segmentation", "classification") else 1
        if not isinstance(self.num_labels, int) or not least <= self.num_labels <= MOST_CLASSES:
            raise ValueError(
                f"Task '{self.name}' ({self.type}) needs num_labels of {least} or more, got "
                f"{self.num_labels!r}."
            )
        if self.type != "regression":
            if self.num_labels != _OUTPUTS.get(self.type, self.num_labels):
                raise ValueError(
                    f"num_labels of task '{self.name}' ({self.type}) is always "
                    f"{_OUTPUTS[self.type]}, got {self.num_labels}."
                )
            if self.dense not in (None, self.type in _DENSE):
                raise ValueError(
                    f"dense of task '{self.name}' is fixed by its type '{self.type}'; leave it out."
                )
        self._set("dense", self.type in _DENSE or bool(self.dense))
        self._check_class_names()
        weight = self.loss_weight
        if (
            isinstance(weight, bool)
            or not isinstance(weight, int | float)
            or not 0 < weight < math.inf
        ):
            raise ValueError(f"loss_weight of task '{self.name}' must be above 0, got {weight!r}.")

    def _check_class_names(self) -> None:
        if self.class_names is None:
            return
        names = tuple(self.class_names)
        has_classes = self.type in ("segmentation", "classification")
        if not has_classes or len(names) != self.num_labels:
            raise ValueError(
                f"class_names of task '{self.name}' must be a name for each of its classes, "
                f"{self.num_labels if has_classes else 'of which it has none'}, got {len(names)}."
            )
        self._set("class_names", names)

    def class_name(self, index: int) -> str:
        """The name of a class, or its number in words."""
        return f"class {index}" if self.class_names is None else self.class_names[index]

    @property
    def word(self) -> str:
        """Its kind in one word; a regression of every pixel is a "dense_regression"."""
        return f"dense_{self.type}" if self.type == "regression" and self.dense else self.type

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @classmethod
    def of(cls, fields: Any) -> "Task":
        """A task of the mapping that stands in a configuration.

        Raises:
            TypeError: It is no mapping.
            ValueError: It lacks a name or a type, has other fields, or breaks a rule.

        Example:
            >>> Task.of({"name": "scene", "type": "classification", "num_labels": 5}).dense
            False
        """
        if not isinstance(fields, Mapping):
            raise TypeError(f"A task must be a mapping with 'name' and 'type', got {fields!r}.")
        known = {field.name for field in dataclasses.fields(cls)}
        for name in fields:
            if name not in known:
                hint = did_you_mean(str(name), known) or f" It takes {', '.join(sorted(known))}."
                raise ValueError(f"A task has no field '{name}'.{hint}")
        for name in ("name", "type"):
            if name not in fields:
                raise ValueError(f"A task must have a '{name}', got {dict(fields)!r}.")
        return cls(**fields)


@strict
class RepMTLConfig(NetworkInsideConfig):
    """Configuration of a network with one encoder and a head for each task.

    [P] is what the paper fixes, [C] what it leaves open and we chose. There is no reference code.

    Args:
        backbone_config: Configuration of the shared encoder: a backbone of transformers such as
            "resnet", or "salhub_efficientnet_lite" or "salhub_cifar_resnet".
        out_feature: Stage of a backbone of transformers whose map the heads share, such as
            "stage3"; None for the last one.
        tasks: One mapping per task, see `Task`; the tasks of the rendered rooms by default.
        head: What a head does before its last layer: nothing ("linear"), a 3x3 convolution and ReLU
            ("conv"), or the dilated convolutions of DeepLabV3 ("aspp", as in the paper's headline
            experiments [P]).
        head_channels: Channels inside "conv" and "aspp" heads [C].
        aspp_rates: Dilations of "aspp".
        multi_input: How tasks with their own pictures are compared; see `rep_mtl_terms` [C].
        lambda_tsr: Factor of the entropy over tasks, 0 or more; the paper tunes it for each data
            set among 0.7, 0.9, 1.1, 1.3 and 1.5 [P], the default is ours [C].
        lambda_csa: Factor of the alignment across tasks, in the same way.
        csa_temperature: tau of equation 9, above 0; not given in the paper [C].
        csa_reduction: Reduction over tasks [C].
        csa_denominator: "negatives" as printed [P]; "infonce" also includes the positive [C].
        log_transform: Minimize logarithms of the losses, as all benchmarks of the paper do [P].
        weighting: Weights of the losses before saliency is computed: equal ("ew"), learned
            uncertainties ("uw"), by the progress in the last two epochs ("dwa"), random in each
            step ("rlw"), or the geometric mean ("gls", without logarithms).
        dwa_temperature: Softness of the weights of "dwa", positive; 2 is that of its authors.
        start_step: First optimizer step with the terms [C].
        apply_every: Apply the terms only every so many optimizer steps [C].

    Raises:
        ValueError: Tasks that break a rule, or settings that contradict each other.

    Source: "Rep-MTL: Unleashing the Power of Representation-level Task Saliency for Multi-Task
    Learning", ICCV 2025 (arXiv 2507.21049).

    Example:
        >>> RepMTLConfig(lambda_tsr=1.1).task_list[1].name
        'depth'
    """

    model_type = "salhub_rep_mtl"
    default_backbone = "resnet"
    loaded_fields = frozenset(
        {
            "out_feature",
            "tasks",
            "head",
            "head_channels",
            "aspp_rates",
            "weighting",
            "dwa_temperature",
        }
    )
    training_fields = frozenset(
        {
            "lambda_tsr", "lambda_csa", "csa_temperature", "csa_reduction", "csa_denominator",
            "weighting", "dwa_temperature", "start_step", "apply_every",
        }
    )  # fmt: skip

    out_feature: str | None = None
    tasks: list | tuple = ROOM_TASKS
    head: Literal["conv", "linear", "aspp"] = "conv"
    head_channels: int = ranged(64, least=1, most=MOST_CHANNELS)
    aspp_rates: list | tuple = ranged([6, 12, 18], least=1, most=1024)
    multi_input: Literal["index", "per_task"] = "index"
    lambda_tsr: float | int = ranged(0.9, least=0, most=1e6)
    lambda_csa: float | int = ranged(0.9, least=0, most=1e6)
    csa_temperature: float | int = ranged(0.5, above=0, most=1e6)
    csa_reduction: Literal["mean", "sum"] = "mean"
    csa_denominator: Literal["negatives", "infonce"] = "negatives"
    log_transform: bool = True
    weighting: Literal["ew", "uw", "dwa", "rlw", "gls"] = "ew"
    dwa_temperature: float | int = ranged(2.0, above=0, most=1e6)
    start_step: int = ranged(0, least=0)
    apply_every: int = ranged(1, least=1)

    def __post_init__(self, **kwargs: Any) -> None:
        """Tasks are plain mappings, as config.json holds them."""
        self.tasks = [dict(one) if isinstance(one, Mapping) else one for one in self.tasks]
        super().__post_init__(**kwargs)

    def validate_tasks(self) -> None:
        """Tasks of different names, two or more where terms compare them."""
        names = [task.name for task in self.task_list]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"tasks must have distinct names, got {names}.")
        if len(names) < 2 and (self.lambda_tsr or self.lambda_csa):
            raise ValueError(
                "Rep-MTL compares tasks, but there is only one; add a task, or set "
                "lambda_tsr=0 and lambda_csa=0."
            )

    def validate_terms(self) -> None:
        """Settings that contradict each other."""
        if self.multi_input == "per_task" and self.lambda_tsr:
            raise ValueError(
                "multi_input='per_task' shares no positions between tasks; set "
                "lambda_tsr=0, or multi_input='index'."
            )
        if self.weighting == "gls" and self.log_transform:
            raise ValueError(
                "weighting='gls' multiplies the losses, but their logarithms may be "
                "negative; set log_transform=False."
            )

    @property
    def task_list(self) -> tuple[Task, ...]:
        """The tasks, in their order in saliency and outputs."""
        return tuple(Task.of(one) for one in self.tasks)
