"""The configuration every method derives from: transformers', but strict."""

import copy
import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeVar

import huggingface_hub.dataclasses
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.generation import GenerationConfig

from salhub.config_fields import check_fields
from salhub.errors import UnknownSettingError, check_choice, choices_of, did_you_mean
from salhub.hub import LoadedByName

# Keys the base class consumes or that transformers writes into config.json beside the fields.
_FOREIGN_KEYS = frozenset(
    {
        "answer_notes",  # ours: sentences to know of every answer of a classifier
        "attn_implementation",
        "auto_map",
        "experts_implementation",
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "per_layer_config",
        "quantization_config",
        "torch_dtype",
        "transformers_version",
        "use_return_dict",
    }
)

# What transformers passes on with the fields that are overridden, and handles itself.
_HANDLED_KEYS = frozenset({"name_or_path", "return_unused_kwargs", "torch_dtype"})
# Fields of every configuration of transformers that classifiers have a use for.
CLASS_FIELDS = frozenset({"id2label", "label2id", "num_labels", "problem_type"})

_MOST_WHOLE = 2**53  # beyond it floating point skips some
# A number of hundreds of digits, or the like.
_LONG = re.compile(r"(\S{60})\S{20,}")

Config = TypeVar("Config")


def strict(cls: type[Config]) -> type[Config]:
    """Check the fields of a configuration class, and complain in plain ValueError and TypeError.

    This is `huggingface_hub.dataclasses.strict`, whose own errors put a line about the validator
    before the sentence a person needs. Fields that are `Literal` words, or those or None, are
    choices; those that are `ranged` hold numbers of their range. A whole number is a number: 1 may
    stand for 1.0.

    Example:
        >>> @strict
        ... class StepConfig(SaliencyConfig):
        ...     step: int = 1
        >>> StepConfig(step="2")
        Traceback (most recent call last):
        TypeError: Field 'step' expected int, got str (value: '2')
    """
    cls = huggingface_hub.dataclasses.strict(cls)
    strict_class: Any = cls
    for field in dataclasses.fields(strict_class):
        if choices := choices_of(field.type):
            is_choice = functools.partial(check_choice, field.name, choices=choices)
            strict_class.__validators__[field.name][0] = is_choice
        elif float in (field.type, *typing.get_args(field.type)):
            validators = strict_class.__validators__[field.name]
            validators[0] = functools.partial(_check_number, validators[0])
        if limits := field.metadata.get("range"):
            in_range = functools.partial(limits.check, field.name)
            strict_class.__validators__[field.name].append(in_range)
    for name in ("__init__", "__setattr__", "validate"):
        setattr(cls, name, _in_plain_words(getattr(cls, name)))
    return cls


def _check_number(check: Callable[[Any], None], value: Any) -> None:
    """Check the kind of a value as if a whole number was one with a fraction."""
    check(float(value) if type(value) is int and abs(value) < _MOST_WHOLE else value)


def _in_plain_words(function: Callable) -> Callable:
    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            return function(*arguments, **keywords)
        except StrictDataclassError as error:
            raise _plain_error(error) from None

    return call


def _plain_error(error: StrictDataclassError) -> Exception:
    # A union of types is reported member by member; a person needs the words only once.
    cause = error.__cause__ or error
    pattern = r"Field '(\w+)' with value (.*) doesn't match any type in \((.*?)\)\. "
    text = _LONG.sub(r"\1…", str(cause))
    union = re.match(pattern, text)
    if union is None:
        return TypeError(text) if type(cause) is TypeError else cause
    field, value, types = union.groups()
    types = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", types).replace("NoneType", "None")
    return TypeError(f"Field '{field}' expected one of {types}; got {value}.")


@strict
class SaliencyConfig(LoadedByName, PreTrainedConfig):
    """Base configuration: every field is checked, and unknown keys are refused.

    Subclasses declare annotated fields with defaults, are decorated with
    `strict`, and put rules between fields in methods called
    `validate_SOMETHING`, which run after construction and again when a model is built.

    Raises:
        ValueError: An unknown key, or a value that breaks a rule.
        TypeError: A value of the wrong type.

    Example:
        >>> from salhub import NormGradConfig
        >>> NormGradConfig(method="grad_cam").method
        'grad_cam'
    """

    # Fields that describe the weights or what is loaded with them, and so belong to no call.
    loaded_fields: ClassVar[frozenset[str]] = frozenset()
    # Fields that decided how it was trained, or are set by that, and change no answer.
    training_fields: ClassVar[frozenset[str]] = frozenset()
    # Those that every configuration of transformers has, and that this one has a use for.
    inherited_fields: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse unknown keys, then let transformers fill in its own."""
        # Where the code of a pipeline was saved too: ours is registered, and may be a later one.
        kwargs.pop("custom_pipelines", None)
        fields = {field.name for field in dataclasses.fields(self)}
        accepted = fields | _FOREIGN_KEYS | GenerationConfig._get_default_generation_params().keys()
        for key in kwargs:
            if key not in accepted and not key.startswith("_"):
                hint = did_you_mean(key, sorted(fields)) or " Remove it or check the spelling."
                raise ValueError(f"{type(self).__name__} has no field '{key}'.{hint}")
        own = {name: getattr(self, name) for name in fields}
        check_fields({**own, **kwargs}, type(self).__name__)
        super().__post_init__(**kwargs)

    @classmethod
    def field_names(cls) -> set[str]:
        """Return the names of the fields that a method adds, without nested configurations."""
        classes = [base for base in cls.__mro__ if issubclass(base, SaliencyConfig)][:-1]
        names = {name for base in classes for name in inspect.get_annotations(base)}
        # What belongs to the class alone is annotated too.
        return (names & {field.name for field in dataclasses.fields(cls)}) - set(cls.sub_configs)

    def with_settings(self, **settings: Any) -> Self:
        """Return a copy with other settings, as if it was loaded with them.

        Args:
            **settings: Fields of the method, but none of `loaded_fields`.

        Raises:
            ValueError: No such field, one that belongs to the weights, or a bad value.
            TypeError: A value of the wrong type.

        Example:
            >>> from salhub import LexRankConfig
            >>> LexRankConfig().with_settings(threshold=0.1).threshold
            0.1
        """
        names = self.field_names()
        for name in settings:
            if name not in names - self.loaded_fields:
                if name in names:
                    raise ValueError(
                        f"'{name}' can only be set when the model is loaded: "
                        f"salhub.pipeline(..., {name}=...)."
                    )
                raise ValueError(
                    f"'{name}' is not a setting of {type(self).__name__}, so a call cannot "
                    f"change it.{did_you_mean(name, names - self.loaded_fields)}"
                )
        changed, bare = copy.copy(self), copy.copy(self)
        # Networks inside stay as they are, and checking their class names again would take long.
        vars(bare).update(dict.fromkeys(self.sub_configs))
        checked = type(self).from_dict(bare.to_dict(), **settings)
        for name in names:
            setattr(changed, name, getattr(checked, name))
        return changed

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a configuration from a dictionary and overrides, which pass the same checks.

        Raises:
            UnknownSettingError: An override that would change nothing.
            ValueError: Names, indices and number of classes that contradict each other.
        """
        used = cls.field_names() | set(cls.sub_configs) | cls.inherited_fields | {"dtype"}
        for name in kwargs.keys() - used - _HANDLED_KEYS:
            # transformers assigns it to whatever attribute is called so.
            if not name.startswith("_") and hasattr(cls, name):
                raise UnknownSettingError(cls.__name__, name, used)
        config_dict, kwargs = _with_classes(config_dict, kwargs)
        # transformers assigns overrides afterwards, past `__post_init__` and the validators; it
        # applies `dtype` to the weights as well, so that one stays with it.
        overridden = kwargs.keys() & {field.name for field in dataclasses.fields(cls)} - {"dtype"}
        settings = {name: kwargs.pop(name) for name in overridden}
        return super().from_dict({**config_dict, **settings}, **kwargs)


def _with_classes(
    fields: dict[str, Any], given: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields and overrides in which all that is said of the classes is what was given last."""
    names, indices, count = (given.get(key) for key in ("id2label", "label2id", "num_labels"))
    if isinstance(indices, Mapping) and names is None:
        names = {index: name for name, index in indices.items()}
    if isinstance(names, Mapping):
        by_index = {str(index): name for index, name in names.items()}
        of_indices = {str(index): name for name, index in (indices or {}).items()}
        if indices is not None and of_indices != by_index:
            raise ValueError("label2id and id2label have different classes; give only one of them.")
        if count is not None and count != len(names):
            raise ValueError(f"num_labels is {count}, but id2label has {len(names)} classes.")
        inverse = {name: int(index) for index, name in by_index.items()}
        return fields, {**given, "id2label": dict(names), "label2id": inverse}
    if count is not None and count != len(fields.get("id2label") or ()):
        # The names in the file are of other classes.
        fields = {key: one for key, one in fields.items() if key not in ("id2label", "label2id")}
    return fields, given
