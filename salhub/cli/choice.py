"""The model a command works on: found by name, its settings sorted, loaded when everything fits."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from salhub.cli.config_fields import docstring_arguments
from salhub.cli.settings import refuse_unknown
from salhub.cli.sources import STDIN, single_source
from salhub.cli.unimported import NotWrittenDownError, WrittenClass
from salhub.entries import (
    MODELS,
    TASKS,
    Model,
    entry_of,
    find_entry,
    model_named,
    network_entry,
    refuse_unknown_word,
    setting_names,
)
from salhub.errors import ModelNotFoundError, plain_letters
from salhub.hub import HUB_KEYWORDS, bundled_model, canonical_name, hub_keywords, load
from salhub.manifest import NAMESPACE

# Taken from options of their own, or not to be written on a command line.
_NOT_SETTINGS = frozenset({"batch_size", "device", "image_processor"})
_QUOTED = re.compile(r'"(\w+)"')


@dataclass(frozen=True)
class Choice:
    """A model on the command line, not loaded yet.

    Args:
        name: Its full name, a folder or a repository; None where only the method was named, to
            explain `classifier`.
        entry: What is known of it.
        classifier: The user's own network to explain, or None.
    """

    name: str | None
    entry: Model
    classifier: str | None = None

    @property
    def pipeline_class(self) -> Any:
        """The pipeline of its task."""
        from salhub.pipelines import pipeline_class_of

        return pipeline_class_of(self.entry, self.name)

    @property
    def short_name(self) -> str:
        """A name fit for a file name."""
        if self.name is not None:
            return Path(self.name).name
        return f"{self.entry.name.replace('_', '-')}-{Path(self.classifier or '').name}"

    def split(self, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Sort settings into those of loading and those of each call.

        Raises:
            typer.BadParameter: Nobody takes a setting.
        """
        loading, calling = self.setting_names()
        refuse_unknown(settings, loading | calling, self.short_name)
        load = {key: value for key, value in settings.items() if key not in calling}
        call = {key: value for key, value in settings.items() if key in calling}
        return load, call

    def setting_names(self) -> tuple[set[str], set[str]]:
        """Return the names that are taken when it is loaded, and those taken by each call."""
        loading, calling = setting_names(self.entry, self.pipeline_class)
        return loading - _NOT_SETTINGS, calling

    def load(
        self,
        settings: Mapping[str, Any],
        *,
        device: str | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Load the model and everything it needs."""
        quiet_transformers()
        own = dict(settings)
        if batch_size is not None:
            own["batch_size"] = batch_size
        return self.pipeline_class.from_name(self.name, self.entry, device=device, **own)


@dataclass(frozen=True)
class NetworkChoice:
    """A network that is measured by itself, ours or a classifier of transformers', not loaded yet.

    Args:
        name: Its full name, a folder or a repository.
        entry: What is known of it.
    """

    name: str
    entry: Model

    @property
    def short_name(self) -> str:
        """A name fit for a file name."""
        return Path(self.name).name

    def setting_names(self) -> tuple[set[str], set[str]]:
        """As of `Choice`; its configuration belongs to its weights, so only the Hub's are left."""
        return set(HUB_KEYWORDS), set()

    def load(self, settings: Mapping[str, Any], *, device: str | None = None) -> SimpleNamespace:
        """Load the network and what prepares its inputs, called as in a pipeline."""
        quiet_transformers()
        from salhub.explaining.modeling_explained_classifier import load_classifier
        from salhub.pipelines.base import load_image_processor
        from salhub.tokenizing import load_tokenizer

        model = load_classifier(self.name, auto_class=self.entry.auto_class, **settings)
        parts = {"model": model.to(device)}
        if self.entry.task == "text-classification":
            parts["tokenizer"] = load_tokenizer(self.name, **settings)
        elif self.entry.task == "zero-shot-image-classification":
            from transformers import AutoProcessor

            parts["processor"] = load(AutoProcessor, self.name, backend="pil", **settings)
        else:
            parts["image_processor"] = load_image_processor(self.name, **settings)
        return SimpleNamespace(**parts)


def choose_to_measure(name: str, settings: Mapping[str, Any]) -> Choice | NetworkChoice:
    """Find a model, a method, or a network by itself, by the name a person typed.

    Raises:
        ModelNotFoundError: As `choose`.
    """
    check_known(name)
    full_name = canonical_name(name)
    if settings.get("classifier") is None:
        entry = network_entry(full_name, **hub_keywords(settings))
        if entry is not None and not entry.is_run:
            return NetworkChoice(full_name, entry)
    return choose(name, settings)


def choose(name: str, settings: Mapping[str, Any]) -> Choice:
    """Find a model or a method by the name a person typed.

    Args:
        name: A shipped model with or without "salhub/", a method, a folder or a repository.
        settings: All that were given; `classifier` and `revision` say more of what is meant.

    Raises:
        ModelNotFoundError: There is no such model, method, folder or repository.
    """
    check_known(name)
    quiet_transformers()
    classifier = settings.get("classifier")
    keywords = hub_keywords(settings)
    return Choice(*find_entry(name, classifier=classifier, **keywords), classifier)


def check_known(name: str) -> None:
    """Refuse a plain word that is no model and no method, without asking the Hub.

    Raises:
        ModelNotFoundError: With the nearest names, and a setting that is called so.
    """
    plain = name if os.path.isdir(name) else name.removeprefix(NAMESPACE)
    try:
        refuse_unknown_word(plain)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"{error}{_setting_called(plain)}") from None


def check_quickly(name: str, settings: Mapping[str, Any], source: str) -> None:
    """Refuse what can be seen to be wrong before torch is imported, which takes seconds.

    What passes here is checked again when the model is chosen.

    Args:
        name: A model or a method, as a person typed it.
        settings: All that were given.
        source: The input.

    Raises:
        ModelNotFoundError: There is no such model or method.
        typer.BadParameter: A setting that the model does not take.
        FileNotFoundError: The input is a file that is not there.
    """
    check_known(name)
    if "torch" in sys.modules or os.path.isdir(name) or hub_keywords(settings):
        return
    full_name, classifier = canonical_name(name), settings.get("classifier")
    shipped = bundled_model(full_name)
    entry = model_named(name) if shipped is None else entry_of(shipped)
    if entry is None or not entry.is_run:
        return
    if shipped is None:
        full_name = None if classifier is not None else entry.default_model
    try:
        taken, kind = written_setting_names(entry), written_pipeline(entry)
    except NotWrittenDownError:
        return
    refuse_unknown(settings, taken, Choice(full_name, entry, classifier).short_name)
    if source != STDIN and not os.path.isdir(source):
        single_source(source, kind)


def written_setting_names(entry: Model) -> set[str]:
    """All settings that a kind of model takes on the command line, by its code.

    Raises:
        NotWrittenDownError: Only running the code would tell.
    """
    task = TASKS[entry.task]
    kind = WrittenClass(task.module, task.pipeline)
    fields = _written_config(entry).annotated(top="SaliencyConfig") if entry.is_ours else set()
    loading = (fields | kind.keywords("from_name") | set(HUB_KEYWORDS)) - _NOT_SETTINGS
    return loading | {*kind.value("call_settings"), *kind.value("companions")}


def written_pipeline(entry: Model) -> Any:
    """What `single_source` asks of the pipeline of a kind of model, by its code."""
    task = TASKS[entry.task]
    kind = WrittenClass(task.module, task.pipeline)
    try:
        suffixes = kind.value("input_suffixes")
    except NotWrittenDownError:
        suffixes = (".*",)  # a list that is computed is not empty
    rest = ("folder_is_one_input", "takes_literals")
    return SimpleNamespace(input_suffixes=suffixes, **{name: kind.value(name) for name in rest})


def _written_config(entry: Model) -> WrittenClass:
    return WrittenClass(f"{entry.home}.configuration_{entry.name}", entry.config)


def _setting_called(word: str) -> str:
    """Say which method has a setting of that value, as its configuration's help names them."""
    for entry in MODELS.values():
        if entry.method is None or not entry.is_ours:
            continue
        for field, text in docstring_arguments(_written_config(entry).documentation).items():
            for value in _QUOTED.findall(text):
                if plain_letters(value) == plain_letters(word):
                    return f" '{value}' is also a setting: {entry.name} with {field}={value}."
    return ""


def quiet_transformers() -> None:
    """Keep loading bars and notes of transformers out of a terminal that asked for a result."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
