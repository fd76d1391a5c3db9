"""Exceptions a caller may want to catch, and the sentences they share."""

import difflib
import importlib
import re
from collections.abc import Iterable
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin


class SalhubError(Exception):
    """Base of the errors that only salhub raises."""


class MissingExtraError(SalhubError, ImportError):
    """An optional dependency is needed and not installed."""


class UnknownNameError(SalhubError, ValueError):
    """A model, method, sample or metric name that nobody knows."""


class UnknownSettingError(SalhubError, ValueError, TypeError):
    """A keyword that neither a model nor its configuration takes.

    Args:
        owner: Who does not take it.
        name: The keyword.
        accepted: Keywords that are taken.
    """

    def __init__(self, owner: str, name: str, accepted: Iterable[str]) -> None:
        super().__init__(f"{owner} has no setting '{name}'.{did_you_mean(name, sorted(accepted))}")
        self.owner = owner
        self.name = name


class UnknownOptionError(SalhubError, ValueError):
    """An option that a run does not take, or one that it needs and nobody gave."""


class ModelNotFoundError(SalhubError, OSError):
    """A model that is neither a folder, nor shipped, nor cached, nor on the Hub."""


class DownloadError(ModelNotFoundError):
    """The Hub, or the network on the way to it, failed to the end."""


class NoImageProcessorError(SalhubError, ValueError):
    """A model without the file that says how pictures are prepared for it."""


class IntegrityError(SalhubError, OSError):
    """A file is missing or damaged, or its content is not what it should be."""


class CardError(SalhubError, ValueError):
    """A card cannot be built: facts or numbers are missing."""


def did_you_mean(name: str, options: Iterable[str], limit: int = 3) -> str:
    """Return " Did you mean 'x'?" for the nearest options, or "" when none is near.

    Nearest is what differs in case and separators alone, then what the name is a short form of: its
    first letters, one or more of its words, or its beginning; and only where there is none of these
    what is spelled alike.

    Args:
        name: What the caller wrote.
        options: The accepted spellings.
        limit: The most suggestions to give.

    Example:
        >>> did_you_mean("norm_gard", ["norm_grad", "cam"])
        " Did you mean 'norm_grad'?"
        >>> did_you_mean("cat", ["crate", "tiger cat"]), did_you_mean("lr", ["learning_rate"])
        (" Did you mean 'tiger cat'?", " Did you mean 'learning_rate'?")
    """
    near = _nearest(str(name), [one for one in dict.fromkeys(options) if one != name])[:limit]
    if not near:
        return ""
    return " Did you mean " + " or ".join(f"'{option}'" for option in near) + "?"


def _nearest(name: str, options: list[str]) -> list[str]:
    written = _words(name)
    for is_meant in (_is_same, _is_initials, _is_among_words, _is_beginning):
        found = [option for option in options if written and is_meant(written, _words(option))]
        if found:
            return sorted(found, key=len)
    return difflib.get_close_matches(name, options, n=len(options) or 1, cutoff=0.6)


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W_]+", name.lower())


def _is_same(written: list[str], words: list[str]) -> bool:
    return "".join(written) == "".join(words)


def plain_letters(name: str) -> str:
    """Return a name without case and separators, in which people's spellings differ.

    Example:
        >>> plain_letters("Grad-CAM") == plain_letters("grad_cam")
        True
    """
    return "".join(_words(name))


def _is_initials(written: list[str], words: list[str]) -> bool:
    return len(words) > 1 and "".join(written) == "".join(word[0] for word in words)


def _is_among_words(written: list[str], words: list[str]) -> bool:
    return set(written) <= set(words) or "".join(written) in words


def _is_beginning(written: list[str], words: list[str]) -> bool:
    start = "".join(written)
    return len(start) > 2 and "".join(words).startswith(start)


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
            f"This needs the package '{module}', which is not installed. Install it with: "
            f"pip install 'salhub[{extra}]'"
        ) from error
