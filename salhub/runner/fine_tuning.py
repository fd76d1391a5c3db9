"""Where fine-tuning starts: a checkpoint or a configuration, its head, and what stays as it is."""

import copy
import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from salhub.entries import entry_of
from salhub.explaining.configuration_explained_classifier import ExplainedClassifierConfig
from salhub.hub import canonical_name, load
from salhub.model_card import Facts
from salhub.other_kinds import other_kind
from salhub.runner.arguments import (
    Scheduler,
    TrainingArguments,
    check_not_negative,
    check_share,
)
from salhub.runner.recipe import TrainingRecipe
from salhub.runner.sources import MODEL

logger = logging.getLogger(__name__)

ALL_BUT_HEAD = "all_but_head"
# Files beside which a network still has no weights.
_WITHOUT_WEIGHTS = {"config.json", "preprocessor_config.json"}


@dataclass(kw_only=True)
class FineTuningArguments(TrainingArguments):
    """Options of recipes that go on from a checkpoint.

    Args:
        model: Checkpoint to start from: a folder, a shipped name or a Hub repository.
        config: Configuration to start from instead, with random weights: a folder, a JSON file or
            a name.
        freeze: Parts that are not trained: "all_but_head"; a number, for the first layers or
            stages of the network and all before them; or the beginning of a parameter's name, such
            as "vit.embeddings". Give several as a list.
        freeze_norm_stats: Use the running statistics of batch normalization unchanged; None for
            true with a checkpoint, because few pictures give poor statistics.
        train_val_split: Share of each class to hold out if the data have no validation or test
            part; 0 for none.
        warmup_ratio: Share of the steps over which the learning rate rises from 0;
            `lr_warmup_steps` overrides it.
        weight_decay: Weight decay of weight matrices; biases and norms have none.
    """

    model: str | None = None
    config: str | None = None
    freeze: list[str] = field(default_factory=list)
    freeze_norm_stats: bool | None = None
    train_val_split: float = 0.15
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01
    batch_size: int = 32
    num_train_epochs: int = 10
    lr_scheduler: Scheduler = "cosine"

    def __post_init__(self) -> None:
        if self.model is not None:
            self.model = canonical_name(self.model)
        super().__post_init__()

    def validate(self) -> None:
        """Check the options of fine-tuning, and those of every training."""
        super().validate()
        if (self.model is None) == (self.config is None):
            raise ValueError(
                "give either model=NAME, the checkpoint to start from, or config=FOLDER for "
                "random weights."
            )
        if self.config is not None and self.freeze:
            raise ValueError("freeze keeps trained weights; give model, not config.")
        if self.freeze_norm_stats and self.model is None:
            raise ValueError(
                "a new network has no statistics to keep; leave out freeze_norm_stats."
            )
        if self.freeze_norm_stats is None:
            self.freeze_norm_stats = self.model is not None
        check_share("train_val_split", self.train_val_split)
        check_share("warmup_ratio", self.warmup_ratio)
        check_not_negative("weight_decay", self.weight_decay)
        if self.lr_warmup_steps and self.warmup_ratio == FineTuningArguments.warmup_ratio:
            self.warmup_ratio = 0.0  # nobody gave it
        if self.warmup_ratio and self.lr_warmup_steps:
            raise ValueError(
                f"lr_warmup_steps={self.lr_warmup_steps} and "
                f"warmup_ratio={self.warmup_ratio} set the same thing; give one of them."
            )


def _refuse_configuration(path: Path) -> None:
    """Raises ValueError for what says how a network is built, and has no weights of one."""
    is_file = path.suffix == ".json" and path.is_file()
    files = {file.name for file in path.iterdir()} if path.is_dir() else set()
    if is_file or ("config.json" in files and files <= _WITHOUT_WEIGHTS):
        raise ValueError(
            f"{path} is a configuration without weights; set config={path} to train it from "
            "scratch, or give a model with weights."
        )


class StartingPoint:
    """A classifier to fine-tune, and what was changed of it.

    Args:
        arguments: Say which.
        auto_class: The Auto class of transformers that loads it.

    Attributes:
        config: Its configuration, as it was saved.
        notes: Sentences about what was replaced and frozen, for the log and the card.

    Raises:
        ModelNotFoundError: Nothing of that name was found.
        ValueError: It is no such classifier.
    """

    def __init__(self, arguments: FineTuningArguments, auto_class: Any) -> None:
        self._arguments, self._auto_class = arguments, auto_class
        self.name = str(arguments.model or arguments.config)
        self.notes: list[str] = []
        self._frozen: list[nn.Module] = []
        self._has_new_head = False
        self._inside: PreTrainedModel | None = None
        if arguments.model is not None and Path(self.name).is_file():
            _refuse_configuration(Path(self.name))
        self.config: PreTrainedConfig = load(AutoConfig, self.name, trust_remote_code=False)
        if arguments.model is not None and isinstance(self.config, ExplainedClassifierConfig):
            self._take_explained()
        if type(self.config) not in auto_class._model_mapping:
            raise other_kind(self.name, self.config.model_type, auto_class)
        if arguments.model is not None:
            _refuse_configuration(Path(self.name))

    @property
    def class_names(self) -> list[str]:
        """Names of the classes that the checkpoint knows; none of a configuration."""
        if self._arguments.model is None:
            return []
        labels = self.config.id2label or {}
        return [str(labels[index]) for index in sorted(labels)]

    def build(self, class_names: Sequence[str], **fields: Any) -> PreTrainedModel:
        """The classifier with these classes, in float32, its frozen weights marked.

        Args:
            class_names: Of the data, in order.
            **fields: Of the configuration, to be set where it has them.
        """
        config, names = copy.deepcopy(self.config), list(class_names)
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
        config.problem_type = "single_label_classification"
        vars(config).pop("answer_notes", None)  # it may learn again what it was made to forget
        for name, value in fields.items():
            if value is not None and hasattr(config, name):
                setattr(config, name, value)
        if self._arguments.model is None:
            self._say(f"Its initial weights were random, with the configuration {self._title}.")
            return self._auto_class.from_config(config, dtype=torch.float32)
        model = self._load(config, is_same=self.class_names == names)
        self._freeze(model)
        if self._arguments.freeze_norm_stats:
            self._frozen += [m for m in model.modules() if isinstance(m, _BatchNorm)]
        return model

    def hold_frozen(self) -> None:
        """Keep dropout and the statistics of normalisation as they are where nothing is trained."""
        for module in self._frozen:
            module.eval()

    @property
    def _title(self) -> str:
        return Path(self.name).name if Path(self.name).exists() else self.name

    def _say(self, sentence: str) -> None:
        logger.warning("%s", sentence)
        self.notes.append(sentence)

    def _take_explained(self) -> None:
        """Start from the classifier that an explainer holds."""
        kind = entry_of(self.config).model_class
        if kind.auto_class != self._auto_class.__name__:
            return
        self._inside = load(kind, self.name).backbone
        self.config = copy.deepcopy(self._inside.config)
        self._say(f"{self._title} is an explainer; the classifier inside it is trained.")

    def _load(self, config: PreTrainedConfig, *, is_same: bool) -> PreTrainedModel:
        settings = {
            "config": config,
            "dtype": torch.float32,
            "ignore_mismatched_sizes": True,
            "output_loading_info": True,
        }
        if self._inside is None:
            settings["trust_remote_code"] = False
            model, info = load(self._auto_class, self.name, **settings)
        else:
            weights = self._inside.state_dict()
            model, info = type(self._inside).from_pretrained(None, state_dict=weights, **settings)
        head = self._head_of(config)
        others = {key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]} - head
        if others:
            raise ValueError(
                f"{self.name} has weights of another shape than the new model "
                f"({', '.join(sorted(others)[:3])}); leave out image_size."
            )
        parameters = dict(model.named_parameters())
        fresh = {key for key in info["missing_keys"] if key in parameters} - head
        if sum(parameters[key].numel() for key in fresh) * 2 > model.num_parameters():
            raise ValueError(
                f"{self.name} has no weights of such a classifier: it lacks "
                f"{', '.join(sorted(fresh)[:3])} and others ({len(fresh)} in total); give "
                "its configuration as config instead to train from scratch."
            )
        if fresh:
            self._say(
                f"The checkpoint lacks {', '.join(sorted(fresh)[:3])}, which started with random "
                "values."
            )
        if not is_same or head & set(info["missing_keys"]):
            self._replace(model, head)
        return model

    def _replace(self, model: PreTrainedModel, head: set[str]) -> None:
        """Begin with a head that says the same of every class.

        Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), section 3.2, a head of zeros.
        """
        if not head:
            raise ValueError(
                f"{self.name} has no layer with one output per class, so it can only be "
                "trained on its own classes."
            )
        self._has_new_head = True
        for name, parameter in model.named_parameters():
            if name in head:
                nn.init.zeros_(parameter)
        before, now = len(self.class_names), len(model.config.id2label)
        classes = f"{before} classes with other names" if before == now else f"{before} classes"
        self._say(
            f"The head ({', '.join(sorted(head))}) is new: {self._title} has {classes}, but "
            f"the data have {now}."
        )

    def _head_of(self, config: PreTrainedConfig) -> set[str]:
        """Names of the parameters whose shapes depend on the number of classes."""
        shapes = []
        for more in (1, 2):
            other = copy.deepcopy(config)
            other.num_labels = len(config.id2label) + more
            with torch.device("meta"):
                network = self._auto_class.from_config(other)
            shapes.append({name: tuple(p.shape) for name, p in network.named_parameters()})
        return {name for name, shape in shapes[0].items() if shapes[1].get(name) != shape}

    def _freeze(self, model: PreTrainedModel) -> None:
        if not self._arguments.freeze:
            return
        head = self._head_of(model.config)
        frozen = frozen_names(model, self._arguments.freeze, head)
        if self._has_new_head and frozen & head:
            raise ValueError("freeze includes the head, which is new and must be trained.")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        count = sum(p.numel() for name, p in model.named_parameters() if name in frozen)
        if count == model.num_parameters():
            raise ValueError(f"freeze={self._arguments.freeze} leaves nothing to train.")
        self._frozen = [
            module
            for module in model.modules()
            if (own := list(module.parameters())) and not any(p.requires_grad for p in own)
        ]
        share = f"{100 * count / model.num_parameters():.0f} %"
        self._say(f"{count} of its weights ({share}) are frozen at the values of {self._title}.")


class FineTuningRecipe(TrainingRecipe):
    """What fine-tuning of pictures and of texts has in common.

    Attributes:
        auto_class: The Auto class of transformers that loads the classifiers.
    """

    auto_class: ClassVar[Any]
    larger_is_better = True
    sources = {
        **TrainingRecipe.sources,
        "model": MODEL,
        "config": "*.json",
        "tokenizer": "*",
    }

    @cached_property
    def start(self) -> StartingPoint:
        """The checkpoint or configuration."""
        return StartingPoint(self.arguments, self.auto_class)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        groups = decayed_groups(model, self.arguments.weight_decay)
        return torch.optim.AdamW(groups, lr=self.arguments.learning_rate)

    def warmup_steps(self, total: int) -> int:
        return self.arguments.lr_warmup_steps or int(self.arguments.warmup_ratio * total)

    def learned_options(self) -> dict[str, Any]:
        # Folders of this machine do not matter, but what is in them does, see `sources`.
        options = {**super().learned_options(), "data": data_name(self.arguments.data)}
        for name in ("model", "config", "tokenizer"):
            if options.get(name) is not None and Path(options[name]).exists():
                options[name] = Path(options[name]).resolve().name
        return options

    def with_notes(self, facts: Facts) -> Facts:
        """The facts with what was replaced and frozen, and the checkpoint."""
        model = self.arguments.model
        return dataclasses.replace(
            facts,
            summary=" ".join([str(facts.summary), *self.start.notes]),
            base_model=None if model is None or Path(model).exists() else model,
        )


def data_name(data: str) -> str:
    """Data as others may read of them: of a file or folder of this machine only the name."""
    return Path(data).stem if Path(data).suffix else Path(data).name


def frozen_names(model: nn.Module, words: Sequence[str], head: set[str]) -> set[str]:
    """Names of the parameters that some words say are not trained.

    Args:
        model: The network.
        words: As of `FineTuningArguments.freeze`.
        head: Names of the parameters of its head.

    Raises:
        ValueError: A word that means nothing in this network.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen: set[str] = set()
    for word in words:
        if word == ALL_BUT_HEAD:
            found = set(names) - head
        elif word.isdecimal():
            found = _first_layers(model, names, int(word))
        else:
            found = {
                name for name in names if name == word or name.startswith(word.rstrip(".") + ".")
            }
        if not found:
            tops = sorted({name.rpartition(".")[0].split(".")[0] for name in names} - {""})
            raise ValueError(
                f"freeze={word} matches nothing in {type(model).__name__}; give "
                f"{ALL_BUT_HEAD}, a number of layers, or the beginning of a parameter's "
                f"name, such as {' or '.join(tops[:3])}."
            )
        frozen |= found
    return frozen


def _first_layers(model: nn.Module, names: Sequence[str], count: int) -> set[str]:
    """Parameters of the first layers or stages and of all before them."""
    lists = (
        (n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 1
    )
    where, layers = next(lists, ("", ()))
    if not 1 <= count <= len(layers):
        raise ValueError(
            f"freeze={count} is not a valid number of layers for {type(model).__name__}, "
            f"which has {len(layers)}."
        )
    later = tuple(f"{where}.{index}." for index in range(count, len(layers)))
    own = [place for place, name in enumerate(names) if name.startswith(f"{where}.{count - 1}.")]
    return {name for name in names[: own[-1] + 1] if not name.startswith(later)}


def decayed_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters for an optimizer: matrices with weight decay, others without."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
