"""What is said of a model that does another task than the one it is loaded for."""

import os
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

_SAID = r"Unrecognized configuration class <class '([\w.]+)\.(\w+)'> for this kind of AutoModel"


@contextmanager
def kind_explained(cls: Any, name: str | os.PathLike | None) -> Generator[None]:
    """Turn the list of all kinds that an Auto class knows into one sentence.

    Args:
        cls: The Auto class.
        name: What the caller asked for.
    """
    try:
        yield
    except ValueError as error:
        found = re.match(_SAID, str(error))
        if found is None:
            raise
        config_class = getattr(sys.modules[found[1]], found[2])
        raise other_kind(name, config_class.model_type, cls) from error


def other_kind(name: str | os.PathLike | None, model_type: str, cls: Any) -> ValueError:
    """The error for a model that an Auto class does not load, because it does another task."""
    kinds = {
        "ForImageClassification": "a classifier of images",
        "ForSequenceClassification": "a classifier of texts",
        "ForCausalLM": "a language model",
    }
    kind = next((said for ending, said in kinds.items() if cls.__name__.endswith(ending)), None)
    is_not = f", not {kind}; give one" if kind else "; give a model"
    return ValueError(
        f"{name} is a model of type '{model_type}'{is_not} that {cls.__name__} loads."
    )
