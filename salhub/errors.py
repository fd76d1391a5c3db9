"""Exceptions a caller may want to catch, and the sentences they share."""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin


class SalhubError(Exception):
    """Base of the errors that only salhub raises."""


class MissingExtraError(SalhubError, ImportError):
    """An optional dependency is needed and not installed."""


class UnknownNameError(SalhubError, ValueError):
    """A model, method, sample or metric name that nobody knows."""


class ModelNotFoundError(SalhubError, OSError):
    """A model that is neither a folder, nor shipped, nor cached, nor on the Hub."""


class NoImageProcessorError(SalhubError, ValueError):
    """A model without the file that says how pictures are prepared for it."""


class IntegrityError(SalhubError, OSError):
    """A bundled file is missing or its content is not what the manifest says."""


class CardError(SalhubError, ValueError):
    """A card cannot be built: facts or numbers are missing."""


def did_you_mean(name: str, options: Iterable[str], limit: int = 3) -> str:
    """Return " Did you mean 'x'?" for the nearest options, or "" when none is near.

    Args:
        name: What the caller wrote.
        options: The accepted spellings.
        limit: The most suggestions to give.

    Example:
        >>> did_you_mean("norm_gard", ["norm_grad", "cam"])
        " Did you mean 'norm_grad'?"
    """
    near = difflib.get_close_matches(str(name), list(options), n=limit, cutoff=0.5)
    if not near:
        return ""
    return " Did you mean " + " or ".join(f"'{option}'" for option in near) + "?"


def check_choice(name: str, value: object, choices: Iterable[str | None]) -> None:
    """Refuse a value that is none of some choices, and name the nearest one.

    Args:
        name: What the value is for, such as the name of an argument.
        value: What the caller gave.
        choices: The accepted values; None among them is one too.

    Raises:
        ValueError: It is another value.

    Example:
        >>> check_choice("pooling", "man", ("mean", "cls", None))
        Traceback (most recent call last):
        ValueError: pooling must be one of mean, cls or None, got 'man'. Did you mean 'mean'?
    """
    known = list(choices)
    if value in known:
        return
    words = [str(choice) for choice in known if choice is not None]
    either = " or None" if None in known else ""
    raise ValueError(
        f"{name} must be one of {', '.join(words)}{either}, got {value!r}."
        f"{did_you_mean(str(value), words)}"
    )


def choices_of(annotation: Any) -> tuple[str | None, ...]:
    """The words of a field that is a choice, None among them where it may be that; () otherwise.

    Example:
        >>> choices_of(Literal["clip", "shift"] | None), choices_of(str)
        (('clip', 'shift', None), ())
    """
    is_union = get_origin(annotation) in (Union, UnionType)
    parts = get_args(annotation) if is_union else (annotation,)
    words = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
    if not words or len([part for part in parts if part is not NoneType]) > 1:
        return ()
    return (*words, None) if NoneType in parts else tuple(words)


def require_extra(module: str, extra: str) -> ModuleType:
    """Import an optional module, or name the extra that installs it.

    Args:
        module: The module to import, such as "gradio".
        extra: The salhub extra that brings it, such as "demo".

    Raises:
        MissingExtraError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"This needs the package '{module}', which is not installed; "
            f"install it with: pip install 'salhub[{extra}]'"
        ) from error
