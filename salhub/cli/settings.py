"""Settings on the command line: `--name value` and `name=value`, whatever a method is set by."""

import json
import os
import re
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import typer
import typer.core
import yaml

from salhub.errors import did_you_mean
from salhub.hub import HUB_KEYWORDS

# Revision and subfolder say which weights were used; the others are nobody else's business.
_PRIVATE = frozenset(HUB_KEYWORDS) - {"revision", "subfolder"}
_SURROGATE = re.compile("[\ud800-\udfff]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_PAIR = re.compile(rf"({_NAME.pattern})=(.*)", re.DOTALL)
# YAML 1.1 takes 1e-3 for text, as it wants a dot.
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


# Options whose value is a name as it is written, such as a class called "no" -> their settings.
_NAMES = {"class": "class_labels", "classifier": "classifier", "contrast": "contrast"}
_WRITTEN = frozenset({*_NAMES.values(), "revision", "subfolder"})


class SettingsCommand(typer.core.TyperCommand):
    """A command that turns every option it does not know, `--name value`, into `name=value`.

    Attributes:
        has_switches: Whether an option without a value, `--name`, means `name=true`.
    """

    has_switches = False

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        """Move unknown options behind the arguments, as `name=value`."""
        if ctx.resilient_parsing:  # the shell asks how a line may go on
            return super().parse_args(ctx, args)
        known = {
            flag for param in self.get_params(ctx) for flag in (*param.opts, *param.secondary_opts)
        }
        kept, pairs = [], []
        rest = deque(args)
        while rest and rest[0] != "--":
            part = rest.popleft()
            if not part.startswith("--") or part.partition("=")[0] in known:
                kept.append(part)
            elif self.has_switches and (not rest or rest[0].startswith("--")):
                pairs.append(_as_switch(part))
            else:
                pairs.append(_as_pair(part, rest))
        return super().parse_args(ctx, [*kept, *rest, *pairs])


class RunCommand(SettingsCommand):
    """A command whose options may be switches, such as `--dry-run`."""

    has_switches = True


def _as_switch(option: str) -> str:
    name, equals, value = option.removeprefix("--").partition("=")
    return f"{name}={value if equals else 'true'}"


def _as_pair(option: str, rest: deque[str]) -> str:
    name, equals, value = option.removeprefix("--").partition("=")
    if not equals:
        value = rest.popleft() if rest else None
    if value is None or (not equals and value.startswith("-") and not _is_number(value)):
        got = "" if value is None else f", got '{value}'"
        raise typer.BadParameter(
            f"--{name} needs a value{got}; use --{name} true to turn a switch on, and "
            f"--{name}=VALUE for a value that starts with a dash."
        )
    return option_as_pair(name, value)


def option_as_pair(name: str, value: str) -> str:
    """Write an option and its value, `--name value`, as the word `name=value`.

    Example:
        >>> option_as_pair("class", "no")
        'class_labels="no"'
    """
    # JSON is YAML, and a quoted text in it stays text.
    return f"{_NAMES[name]}={json.dumps(value)}" if name in _NAMES else f"{name}={value}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_pair(text: str) -> bool:
    """Return whether a word is `name=value`."""
    return _PAIR.fullmatch(text) is not None


def parse_settings(words: Iterable[str]) -> dict[str, Any]:
    """Read `name=value` words; values are YAML.

    Args:
        words: The words; dashes in names mean underscores, as in option names.

    Returns:
        Name -> value.

    Raises:
        typer.BadParameter: A word is no pair, its value is no YAML, or a name comes twice.

    Example:
        >>> parse_settings(["layers=[blocks.10, blocks.15]", "meta-step=1e-3"])
        {'layers': ['blocks.10', 'blocks.15'], 'meta_step': 0.001}
    """
    settings: dict[str, Any] = {}
    for word in words:
        match = _PAIR.fullmatch(word)
        if match is None:
            raise typer.BadParameter(
                f"'{word}' is not a valid setting; write settings as name=value."
            )
        name = match[1].replace("-", "_")
        if name in settings:
            raise typer.BadParameter(f"'{name}' is given twice.")
        value = parse_value(match[2], name)
        if name in _WRITTEN and value is not None and not isinstance(value, str):
            # A class called "3" or "no" is asked for by its name.
            value = yaml.load(match[2], Loader=yaml.BaseLoader)
        settings[name] = value
    return settings


def as_written(words: Iterable[str], names: Collection[str]) -> dict[str, Any]:
    """Return settings that are places or names, where 007 is no number and no is no switch.

    Args:
        words: The words, all `name=value`.
        names: Those that are wanted.

    Returns:
        Name -> text, a list of texts, or None where the value is null.

    Example:
        >>> as_written(["transcript=007", "seed=3"], ["transcript"])
        {'transcript': '007'}
    """
    pairs = ((word.partition("=")[0].replace("-", "_"), word.partition("=")[2]) for word in words)
    given = {name: (text, parse_value(text, name)) for name, text in pairs if name in names}
    return {name: _as_text(text, value) for name, (text, value) in given.items()}


def _as_text(text: str, value: Any) -> Any:
    from salhub.runner.arguments import as_text

    is_many = isinstance(value, list | dict)
    return as_text(value, yaml.load(text, Loader=yaml.BaseLoader) if is_many else text)


def typed_settings(words: Iterable[str], *owners: Any) -> dict[str, Any]:
    """Read `name=value` words for those who take them, whose text stays as it is written.

    Args:
        words: As of `parse_settings`.
        owners: Configurations, options or functions, whose annotations say what is text.

    Raises:
        typer.BadParameter: As of `parse_settings`.
    """
    from salhub.runner.arguments import text_options

    words = list(words)
    texts = {name for owner in owners for name in text_options(owner)}
    return parse_settings(words) | as_written(words, texts)


def without_place(word: str) -> str:
    """A setting as others may read it: of a file or folder of this machine only the name is left.

    Of places of pictures, which may tell who is meant, their number and a digest are.

    Example:
        >>> [without_place(word) for word in ("seed=3", "data=/home/me/x.npz")]
        ['seed=3', 'data=x.npz']
    """
    option, _, text = word.partition("=")
    if not text:
        return word
    value = parse_value(text, option)
    kept = _name_of_place(value) if isinstance(value, str) else value
    return word if kept == value else f"{option}={kept}"


def try_without_place(word: str) -> str:
    """The same of the values to try, `name=a,b`.

    Example:
        >>> try_without_place("mask=/home/me/one,/home/me/two")
        'mask=one,two'
    """
    option, equals, values = word.partition("=")
    return option + equals + ",".join(map(_name_of_place, values.split(",")))


def _name_of_place(text: str) -> str:
    from salhub.data.subset import describe_spec

    if text.startswith("indices:"):
        return describe_spec(text)
    # "file:PATH" names a set of pictures.
    prefix = "file:" if text.startswith("file:") else ""
    place = text.removeprefix(prefix)
    # Unlike Path.exists, this takes a text that is too long for a path.
    is_place = os.path.exists(place) or Path(place).is_absolute()  # noqa: PTH110
    return prefix + Path(place).name if is_place else text


def parse_value(text: str, name: str) -> Any:
    """Read one value as YAML, with 1e-3 a number, None nothing and *norm* text.

    Raises:
        typer.BadParameter: Not YAML.

    Example:
        >>> [parse_value(text, "x") for text in ("1e-3", "true", "[1, a]", "None", "blocks.15")]
        [0.001, True, [1, 'a'], None, 'blocks.15']
    """
    # YAML would look for an anchor of that name, and knows no names of files that are no text.
    if text.startswith("*") or _SURROGATE.search(text):
        return text
    try:
        return _with_exponents(yaml.safe_load(text))
    except yaml.YAMLError:
        raise typer.BadParameter(
            f"The value of '{name}' cannot be read: {text!r}; write a number, a word, true, "
            "false, null or a list such as [a, b]."
        ) from None


def _with_exponents(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_exponents(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _with_exponents(entry) for key, entry in value.items()}
    if value == "None":
        return None
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    return value


def to_record(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that may be written to a file; a token or a local place may not.

    Example:
        >>> to_record({"token": "secret", "revision": "v1", "method": "grad_cam"})
        {'revision': 'v1', 'method': 'grad_cam'}
    """
    return {name: value for name, value in settings.items() if name not in _PRIVATE}


def refuse_unknown(settings: Mapping[str, Any], accepted: Iterable[str], owner: str) -> None:
    """Raise a usage error for the first setting nobody takes.

    Args:
        settings: What was given.
        accepted: The names that are taken.
        owner: Who takes them, for the message.

    Raises:
        typer.BadParameter: With the nearest names.
    """
    accepted = sorted(accepted)
    for name in settings:
        if name not in accepted:
            hint = did_you_mean(name, accepted) or f" It takes {', '.join(accepted) or 'none'}."
            raise typer.BadParameter(f"{owner} has no setting '{name}'.{hint}")
