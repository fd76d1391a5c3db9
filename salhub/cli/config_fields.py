"""The fields of a configuration with the help text of its docstring."""

import dataclasses
import inspect
import re
from typing import Any, NamedTuple

from salhub.errors import choices_of

_ARGUMENT = re.compile(r" {4}(\w+(?:, \w+)*):(?: (.*))?")
# Which paper or code a value is from, such as "[P: 1]": explained where the docstring begins only.
_SOURCE_MARK = re.compile(r" ?\[[A-Z](?:[:; ][^]]*)?]")


class ConfigField(NamedTuple):
    """One field of a configuration.

    Attributes:
        name: Its name.
        kind: Its type, as written.
        value: Its value in the configuration that was asked about.
        help: What it means.
        of_training: Whether only the training reads it.
    """

    name: str
    kind: str
    value: Any
    help: str
    of_training: bool


def config_fields(config: Any) -> list[ConfigField]:
    """List the fields a method adds to transformers' configuration.

    Args:
        config: A configuration of a salhub model.

    Returns:
        The fields, those of the method first; nested configurations are left out.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(config)}
    found = []
    for cls in _own_classes(type(config)):
        help_texts = docstring_arguments(cls)
        for name in inspect.get_annotations(cls):
            if name in kinds and name not in config.sub_configs:
                kind = _kind(kinds.pop(name))
                value = _plain(getattr(config, name))
                text, of_training = help_texts.get(name, ""), name in config.training_fields
                found.append(ConfigField(name, kind, value, text, of_training))
    return found


def docstring_arguments(documented: Any) -> dict[str, str]:
    """Read the `Args:` section of a docstring.

    Args:
        documented: What has the docstring, or its text.

    Returns:
        Argument -> text, on one line.

    Example:
        >>> from salhub.errors import did_you_mean
        >>> docstring_arguments(did_you_mean)["limit"]
        'The most suggestions to give.'
    """
    text = documented if isinstance(documented, str) else inspect.getdoc(documented)
    section = (text or "").partition("\nArgs:\n")[2]
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        match = _ARGUMENT.fullmatch(line)
        if match:
            # Settings that are explained together share the text.
            names = match[1].split(", ")
            texts.update(dict.fromkeys(names, match[2] or ""))
        elif line.strip():
            for name in names:
                texts[name] = f"{texts[name]} {line.strip()}".lstrip()
    return {name: _SOURCE_MARK.sub("", text).lstrip() for name, text in texts.items()}


def _own_classes(config_class: type) -> list[type]:
    from salhub.configuration import SaliencyConfig

    classes = config_class.__mro__
    return [cls for cls in classes if issubclass(cls, SaliencyConfig) and cls is not SaliencyConfig]


def _kind(annotation: Any) -> str:
    if choices := choices_of(annotation):
        return " | ".join(map(str, choices))
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
