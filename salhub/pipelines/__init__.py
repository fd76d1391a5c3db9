"""`salhub.pipeline`: any model, by name, ready to run."""

import os
from typing import Any

# Imported first: it makes salhub register its pipelines, which must not happen half-way through
# the import of one of them.
import transformers.pipelines  # noqa: F401
from torch import nn

from salhub.entries import METHODS, TASKS, Method, method_of, read_model_type
from salhub.errors import ModelNotFoundError
from salhub.hub import canonical_name


def pipeline_class(task: str) -> Any:
    """Return the pipeline class of a task."""
    return TASKS[task].pipeline_class


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
        method = method_of(model.config.model_type)
        return pipeline_class(method.task).from_model(model, **settings)
    name, method = find_method(model, **settings)
    return pipeline_class(method.task).from_name(name, method, **settings)


def find_method(model: str | os.PathLike, /, **settings: Any) -> tuple[str | None, Method]:
    """Return the name of a model, or None where only its method was named, and its method."""
    name = canonical_name(model)
    key = name.replace("-", "_")
    if key in METHODS and not os.path.isdir(name):
        method = METHODS[key]
        if settings.get("classifier") is not None:
            return None, method
        if method.default is None:
            raise ModelNotFoundError(
                f"'{name}' is a method without a default model; name a model, or, of a method that "
                "explains classifiers, the classifier with classifier=..."
            )
        return canonical_name(method.default), method
    return name, method_of(read_model_type(name, **settings))
