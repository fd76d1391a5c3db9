"""`salhub.pipeline`: any model, by name, ready to run."""

import os
from typing import Any

from torch import nn

from salhub.entries import entry_of, find_entry, refuse_network


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
        UnknownNameError: The model belongs to no method of salhub.
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
        return entry.pipeline_class.from_model(model, **settings)
    name, entry = find_entry(model, **settings)
    return entry.pipeline_class.from_name(name, entry, **settings)
