"""What may stand in a configuration, whoever wrote it: kinds of values, and how large they are."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from salhub.errors import did_you_mean

PRECISIONS = ("float32", "float16", "bfloat16", "float64")
_KINDS: dict[str, tuple[type, ...]] = {
    "model_type": (str,),
    "id2label": (dict,),
    "label2id": (dict,),
    "num_labels": (int,),
    "architectures": (list, tuple),
    "auto_map": (dict,),
    "quantization_config": (dict,),
    "problem_type": (str,),
    "_name_or_path": (str,),
}
# Names of what is repeated while a network is built, and of what tensors are made in the size of.
_COUNT = re.compile(r"(layers?|blocks?|depths?|stages?|heads?|repeats)(_|$)")
_SIZE = re.compile(
    r"(size|dim|length|positions?|width|height|channels?|features|filters|labels|classes|"
    r"embeddings?|resolution|hidden|intermediate|timesteps)s?(_|$)"
)
# Far above every network that there is; lists of layers are as long as there are layers.
LARGEST_COUNT, LARGEST_SIZE, LARGEST_NUMBER, MOST_CLASSES = 2**11, 2**26, 2**32, 2**20
# The same of fields of ours: channels of a layer, and pixels along a side of a picture or map.
MOST_CHANNELS, LARGEST_SIDE = 2**14, 2**13
# Fields of transformers that name a function of its table.
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function")


class Range(NamedTuple):
    """The numbers that a field may hold, see `ranged`."""

    least: float | None
    above: float | None
    most: float | None
    below: float | None
    hint: str

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError unless all numbers of a value are in the range."""
        is_list = isinstance(value, list | tuple)
        for one in value if is_list else (value,):
            if isinstance(one, int | float) and not self._holds(one):
                must_be = "must all be" if is_list else "must be"
                hint = f"; {self.hint}" if self.hint else ""
                raise ValueError(f"{name} {must_be} {self._words()}, got {_shown(value)}{hint}.")

    def _holds(self, one: float) -> bool:
        return (
            (self.least is None or one >= self.least)
            and (self.above is None or one > self.above)
            and (self.most is None or one <= self.most)
            and (self.below is None or one < self.below)
            and one == one  # no NaN
        )

    def _words(self) -> str:
        words = {"at least": self.least, "above": self.above, "at most": self.most}
        limits = {**words, "below": self.below}
        return " and ".join(f"{word} {one:,}" for word, one in limits.items() if one is not None)


def ranged(
    default: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    hint: str = "",
) -> Any:
    """A field of a configuration whose numbers lie in a range; None and words are let through.

    Args:
        default: Its value where none is given.
        least, above, most, below: The limits; `least` and `most` belong to the range.
        hint: Further words for whoever is refused.
    """
    metadata = {"range": Range(least, above, most, below, hint)}
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_fields(fields: Any, where: str = "config.json") -> None:
    """Refuse a configuration that cannot be meant, before anything is built of it.

    Looked at are the fields that all configurations of transformers have, and the size of every
    whole number, in nested configurations too.

    Args:
        fields: What stands in config.json, or the fields of a configuration.
        where: Where they stand, for the message.

    Raises:
        TypeError: A field that holds another kind of value.
        ValueError: A number beyond all reason, or a precision that there is not.

    Example:
        >>> check_fields({"model_type": "resnet", "num_labels": 2**63})
        Traceback (most recent call last):
        ValueError: num_labels in config.json must be at most 1,048,576, got 9223372036854775808.
    """
    if not isinstance(fields, Mapping):
        raise TypeError(f"{where} must be a mapping of names to values, got {_shown(fields)}.")
    for name, value in fields.items():
        place = f"{name} in {where}"
        kinds = _KINDS.get(name)
        is_number = kinds == (int,) and isinstance(value, bool)
        if kinds and value is not None and (not isinstance(value, kinds) or is_number):
            names = {"dict": "a mapping", "str": "a text", "int": "a whole number"}
            raise TypeError(
                f"{place} must be {names.get(kinds[0].__name__, 'a list')}, got {_shown(value)}."
            )
        if name in ("dtype", "torch_dtype") and isinstance(value, str):
            check_precision(value.removeprefix("torch."), place)
        if name in _ACTIVATIONS and isinstance(value, str):
            _check_activation(value, place)
        if name in ("id2label", "label2id") and value is not None:
            _check_classes(place, value, is_by_index=name == "id2label")
            continue
        _check_sizes(str(name), value, place, where)


def check_precision(name: str, place: str = "dtype") -> None:
    """Refuse the name of a precision that weights cannot have.

    Args:
        name: Such as "bfloat16"; "auto" for that of the file.
        place: What it was given for, for the message.

    Raises:
        ValueError: There is none of that name.
    """
    if name == "auto" or name in PRECISIONS or name.startswith("float8_"):
        return
    short = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32"}
    hint = f" Did you mean '{short[name]}'?" if name in short else did_you_mean(name, PRECISIONS)
    raise ValueError(f"{place} must be one of {', '.join(PRECISIONS)} or auto, got {name!r}.{hint}")


def _check_activation(name: str, place: str) -> None:
    from transformers.activations import ACT2FN

    if name not in ACT2FN:
        hint = did_you_mean(name, ACT2FN) or " Give one of transformers' own, such as 'gelu'."
        raise ValueError(f"{place} is not an activation of transformers: {name!r}.{hint}")


def _check_classes(place: str, value: Mapping, *, is_by_index: bool) -> None:
    if len(value) > MOST_CLASSES:
        raise ValueError(f"{place} must have at most {MOST_CLASSES:,} classes, got {len(value):,}.")
    for key, one in value.items():
        index, name = (key, one) if is_by_index else (one, key)
        is_index = isinstance(index, int) or (isinstance(index, str) and index.strip().isdigit())
        if not is_index or not isinstance(name, str | int | float):
            raise TypeError(f"{place} must map class numbers to class names, got {key!r}: {one!r}.")


def _check_sizes(name: str, value: Any, place: str, where: str) -> None:
    if isinstance(value, Mapping):
        if name.endswith("_config"):
            check_fields(value, f"{name} of {where}")
            return
        for key, one in value.items():
            _check_sizes(str(key), one, f"{key} of {place}", where)
    elif isinstance(value, list | tuple):
        if len(value) > LARGEST_COUNT and (_COUNT.search(name) or _SIZE.search(name)):
            raise ValueError(
                f"{place} must have at most {LARGEST_COUNT:,} values, got {len(value):,}."
            )
        for one in value:
            _check_sizes(name, one, place, where)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        most = _largest(name, is_whole=isinstance(value, int))
        if most is not None and abs(value) > most:
            raise ValueError(f"{place} must be at most {most:,.15g}, got {_shown(value)}.")


def _largest(name: str, *, is_whole: bool) -> int | None:
    """The largest number that a field may hold, or None where it may be any."""
    if "seed" in name:
        return None
    if name == "num_labels":
        return MOST_CLASSES
    if _COUNT.search(name):
        return LARGEST_COUNT
    if not is_whole:
        return None
    return LARGEST_SIZE if _SIZE.search(name) else LARGEST_NUMBER


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
