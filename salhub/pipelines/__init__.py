"""`salhub.pipeline`: any model, by name, ready to run."""

import os
from typing import Any

from torch import nn

from salhub.entries import Model, entry_of, find_entry, refuse_network
from salhub.errors import UnknownNameError


def pipeline(model: str | os.PathLike | nn.Module, /, **settings: Any) -> Any:
    """Load a model and everything it needs, ready to call on a person's input.

    Args:
        model: A shipped name with or without "salhub/", a folder, a Hub repository, the name of
            a method (its default model is taken, or `classifier` is explained), or a model.
        **settings: What the `from_name` of the task's pipeline takes, such as `device`, `dtype`,
            `batch_size` and `classifier`; fields of the model's configuration; and the Hub's
            keywords.

    Returns:
        The pipeline of the model's task: an `ImageSaliencyPipeline`, an
        `ImageClassificationPipeline`, an `ImageGenerationPipeline`, an
        `ExtractiveSummarizationPipeline` or a `SaliencyVerbalizationPipeline`.

    Raises:
        UnknownNameError: The model belongs to no method of salhub, or to one without a pipeline.
        ModelNotFoundError: Nothing of that name was found.

    Example:
        >>> import salhub
        >>> explain = salhub.pipeline("normgrad-efficientnet-lite0")
        >>> explain(salhub.load_image("sample:cat")).label
        'tiger cat'
    """
    if isinstance(model, nn.Module):
        entry = entry_of(model.config)
        refuse_network(entry, model.config.name_or_path)
        return pipeline_class_of(entry, model.config.name_or_path).from_model(model, **settings)
    name, entry = find_entry(model, **settings)
    return pipeline_class_of(entry, name).from_name(name, entry, **settings)


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
            f"'{name or entry.name}' is made for '{entry.task}', of which salhub has no pipeline; "
            f"load it with {entry.auto_class or 'salhub.AutoModelForSaliency'}.from_pretrained."
        )
    return found
