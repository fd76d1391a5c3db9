"""`salhub.pipeline`: any model, by name, ready to run."""

import os
from typing import Any

from torch import nn

from salhub.entries import (
    MODELS,
    Model,
    entry_of,
    find_entry,
    refuse_network,
    setting_names,
    transformers_entry,
)
from salhub.errors import UnknownNameError, UnknownSettingError


def pipeline(model: str | os.PathLike | nn.Module, /, **settings: Any) -> Any:
    """Load a model and everything it needs, ready to be called on your input.

    Args:
        model: A shipped name with or without "salhub/", a folder, a Hub repository, the name of
            a method (its default model is taken, or `classifier` is explained), or a model.
        **settings: What the `from_name` of the task's pipeline takes, such as `device`, `dtype`,
            `batch_size` and `classifier`; fields of the model's configuration; and the Hub's
            keywords.

    Returns:
        The pipeline of the model's task, such as an `ImageSaliencyPipeline`. Editors know which one
        from the name of a shipped model or a method.

    Raises:
        UnknownNameError: The model belongs to no method of salhub, or to one without a pipeline.
        UnknownSettingError: An unknown keyword.
        ModelNotFoundError: Nothing of that name was found.

    Example:
        >>> import salhub
        >>> explain = salhub.pipeline("normgrad-efficientnet-lite0")
        >>> explain(salhub.load_image("sample:cat")).label
        'tiger cat'
    """
    if isinstance(model, nn.Module):
        entry = _entry_of_network(model)
        refuse_network(entry, model.config.name_or_path)
        return pipeline_class_of(entry, model.config.name_or_path).from_model(model, **settings)
    if not isinstance(model, str | os.PathLike):
        raise TypeError(
            "pipeline needs a name, a folder or a model, got "
            f"{'None' if model is None else type(model).__name__}; `salhub.list_models()` "
            "shows the names."
        )
    name, entry = find_entry(model, **settings)
    kind = pipeline_class_of(entry, name)
    try:
        return kind.from_name(name, entry, **settings)
    except UnknownSettingError as error:
        # Only here it is known what a call takes too.
        accepted = set[str]().union(*setting_names(entry, kind))
        raise UnknownSettingError(os.fspath(model), error.name, accepted) from error


def _entry_of_network(network: Any) -> Model:
    config = getattr(network, "config", None)
    try:
        if hasattr(config, "to_dict"):
            return entry_of(config)
    except UnknownNameError:
        entry = transformers_entry(config, type(network).__name__)
        if entry is not None and entry.is_run:
            return entry
    kinds = [one for one in MODELS.values() if one.is_ours and one.pipeline_class is not None]
    names = [one.name for one in kinds if "classifier" in setting_names(one, one.pipeline_class)[0]]
    raise UnknownNameError(
        f"{type(network).__name__} is a plain network. To explain it, name a method "
        f"({', '.join(names)}) and pass the network as classifier=..., together with its "
        "image processor or tokenizer."
    )


def pipeline_class_of(entry: Model, name: str | None) -> Any:
    """Return the pipeline class that runs a model.

    Args:
        entry: What is known of its kind.
        name: The model, or None where only the kind is known.

    Raises:
        UnknownNameError: Its task has none, as for models of transformers' own classes.
    """
    found = entry.pipeline_class
    if found is None:
        raise UnknownNameError(
            f"'{name or entry.name}' is made for '{entry.task}', for which salhub has no "
            "pipeline; load it with "
            f"{entry.auto_class or 'salhub.AutoModelForSaliency'}.from_pretrained."
        )
    return found
