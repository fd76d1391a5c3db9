"""The model a command works on: found by name, its settings sorted, loaded when everything fits."""

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from salhub.cli.settings import refuse_unknown
from salhub.entries import MODELS, Model, entry_of, find_entry, model_named
from salhub.errors import UnknownNameError, did_you_mean
from salhub.hub import HUB_KEYWORDS, canonical_name, hub_keywords, load
from salhub.manifest import NAMESPACE, read_manifest

# Taken from options of their own, or not to be written on a command line.
_NOT_SETTINGS = frozenset({"batch_size", "device", "image_processor"})


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
        parameters = inspect.signature(self.pipeline_class.from_name).parameters.values()
        keywords = {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        fields = self.entry.config_class.field_names() if self.entry.is_ours else set()
        calling = {*self.pipeline_class.call_settings, *self.pipeline_class.companions}
        return (fields | keywords | set(HUB_KEYWORDS)) - _NOT_SETTINGS - calling, calling

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
    """A network of ours that is measured by itself, not loaded yet.

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
        """Load the network and its image processor, under the names a pipeline has for them."""
        quiet_transformers()
        processor = self.entry.image_processor_class
        return SimpleNamespace(
            model=load(self.entry.model_class, self.name, **settings).to(device).eval(),
            image_processor=processor and load(processor, self.name, **settings),
        )


def choose_to_measure(name: str, settings: Mapping[str, Any]) -> Choice | NetworkChoice:
    """Find a model, a method, or a network of ours, by the name a person typed.

    Raises:
        UnknownNameError, ModelNotFoundError: As `choose`.
    """
    check_known(name)
    full_name = canonical_name(name)
    if settings.get("classifier") is None and model_named(name) is None:
        entry = entry_of(full_name, **hub_keywords(settings))
        if entry.method is None:
            return NetworkChoice(full_name, entry)
    return choose(name, settings)


def choose(name: str, settings: Mapping[str, Any]) -> Choice:
    """Find a model or a method by the name a person typed.

    Args:
        name: A shipped model with or without "salhub/", a method, a folder or a repository.
        settings: All that were given; `classifier` and `revision` say more of what is meant.

    Raises:
        UnknownNameError: A plain word that is neither a model nor a method.
        ModelNotFoundError: There is no such folder or repository.
    """
    check_known(name)
    quiet_transformers()
    classifier = settings.get("classifier")
    keywords = hub_keywords(settings)
    return Choice(*find_entry(name, classifier=classifier, **keywords), classifier)


def check_known(name: str) -> None:
    """Refuse a plain word that is no model and no method, without asking the Hub.

    Raises:
        UnknownNameError: With the nearest names.
    """
    plain = name.removeprefix(NAMESPACE)
    # Every repository has an owner, so a name without a slash can only be one of ours.
    is_known = plain in read_manifest() or model_named(plain) is not None
    if "/" in plain or os.path.isdir(name) or is_known:
        return
    known = [*read_manifest(), *(one.name for one in MODELS.values() if one.method)]
    raise UnknownNameError(
        f"There is no model or method '{name}', and no such folder; `salhub list` shows the "
        f"models.{did_you_mean(plain, known)}"
    )


def quiet_transformers() -> None:
    """Keep loading bars and notes of transformers out of a terminal that asked for a result."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
