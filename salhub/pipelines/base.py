"""What the pipelines of all tasks share: loading, names of classes, and what a call takes."""

import math
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from transformers import AutoImageProcessor, Pipeline, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from salhub.data.class_names import ClassNames
from salhub.data.picture_decoding import picture_endings
from salhub.data.picture_fit import PictureFitter
from salhub.data.samples import PREFIX
from salhub.data.text_sources import load_text
from salhub.entries import Model
from salhub.errors import NoImageProcessorError, did_you_mean
from salhub.hub import hub_keywords, load, resolve
from salhub.pipelines.result import PICTURE_WRITERS
from salhub.processing import load_image

_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


class TaskPipeline(Pipeline):
    """Base of the pipelines of all tasks.

    The class attributes are what the command line and the cards ask of a task.
    """

    # What transformers files the task under.
    input_type: ClassVar[str]
    # Files that `salhub run` takes from a folder; none where inputs are no files.
    input_suffixes: ClassVar[tuple[str, ...]] = ()
    # Whether a folder is an input, as a series of pictures is; a folder of folders is several.
    folder_is_one_input: ClassVar[bool] = False
    # Keywords of a call that are further files of an input -> their endings. `salhub run` takes
    # those beside an input that are called like it. Without the required ones nothing starts.
    companions: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    required_companions: ClassVar[tuple[str, ...]] = ()
    # Whether what a person types can be the input itself, as well as a file.
    takes_literals: ClassVar[bool] = False
    # Whether `salhub run` writes a file where nobody asked for one, or only prints.
    writes_by_default: ClassVar[bool] = True
    # How the command line reads one input of a person.
    read: ClassVar[Callable[[Any], Any]]
    # What it returns; that says what can be written, and how several are shown as one.
    result_class: ClassVar[Any]
    # What `salhub run` and `salhub compare` write where nobody says.
    output_suffix: ClassVar[str] = ".png"
    comparison_suffixes: ClassVar[tuple[str, ...]] = tuple(PICTURE_WRITERS)
    # Keywords of a call, and those that comparisons and cards set where nobody else does.
    call_settings: ClassVar[tuple[str, ...]] = ()
    fixed_settings: ClassVar[Mapping[str, Any]] = {}
    # What a folder must hold beside configuration and weights to be pushed.
    required_files: ClassVar[tuple[str, ...]] = ()
    # The extra of salhub that its files need; none for most.
    extra: ClassVar[str] = ""
    # What cards show, and the nearest task that the Hub knows.
    sample: ClassVar[str]
    example: ClassVar[str]
    hub_task: ClassVar[str]

    _load_image_processor = False
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_processor = False

    @classmethod
    def from_name(
        cls,
        name: str | None,
        method: Model,
        /,
        *,
        device: str | int | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> Self:
        """Load a model by name.

        Args:
            name: The model.
            method: Its method.
            device: Where to run; an accelerator where there is one, else the CPU.
            dtype: Precision of the weights.
            batch_size: As of a call.
            **settings: Keywords of every call, fields of the configuration, and keywords of the
                Hub.

        Raises:
            ValueError: No name, or a classifier to explain, which models of this task do not.
        """
        calling = cls._take_calling(settings)
        model = load_model(name, method, dtype, settings)
        return cls(model, device=device, batch_size=batch_size, **calling)

    @classmethod
    def from_model(
        cls,
        model: PreTrainedModel,
        *,
        device: str | int | torch.device | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> Self:
        """Make a pipeline of a model that is already loaded.

        Raises:
            ValueError: A setting was given, which only works while a model is loaded.
        """
        cls._refuse_loading_settings(settings)
        return cls(model, device=device, batch_size=batch_size, **settings)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Work on one input, or on several.

        Args:
            inputs: An input, or a list of them.
            **kwargs: Its companions, of a list a list of each, where None stands for none; settings
                of the call; and as in transformers.

        Raises:
            ValueError: A companion is missing.
        """
        if isinstance(inputs, list | tuple) and not inputs:
            return []
        given = {name: kwargs.pop(name, None) for name in self.companions}
        add = self._with_own_each if isinstance(inputs, list) else self._with_own
        return super().__call__(add(inputs, given) if given else inputs, **kwargs)

    def _with_own_each(self, inputs: list, given: Mapping[str, Any]) -> list["WithOwn"]:
        """Return inputs with keywords of their own.

        Args:
            inputs: N inputs.
            given: Keyword -> one value an input; None for none.

        Raises:
            ValueError: Another number of values, or a companion is missing.
        """
        columns = {name: [None] * len(inputs) if v is None else v for name, v in given.items()}
        for name, values in columns.items():
            if not isinstance(values, list | tuple) or len(values) != len(inputs):
                raise ValueError(
                    f"Got {len(inputs)} inputs, but not {len(inputs)} values of {name}; give "
                    "one value for each input, or None."
                )
        return [
            self._with_own(one, {name: values[place] for name, values in columns.items()})
            for place, one in enumerate(inputs)
        ]

    def _with_own(self, one: Any, own: Mapping[str, Any]) -> Any:
        is_sample = isinstance(one, str) and one.startswith(PREFIX)
        for name in self.required_companions:
            if own.get(name) is None and not is_sample:
                raise ValueError(f"Every input needs a {name}; give {name}=...")
        return one if all(value is None for value in own.values()) else WithOwn(one, own)

    def preprocess(self, inputs: Any, **settings: Any) -> dict[str, Any]:
        """Prepare one input by `prepare`, with its companions."""
        if isinstance(inputs, WithOwn):
            inputs, settings = inputs.one, {**settings, **inputs.own}
        return self.prepare(inputs, **settings)

    @classmethod
    def belongs(cls, name: str, path: Path) -> bool:
        """Return whether a file that is called like an input is the companion of this name.

        Raises:
            ValueError: The file is damaged.
        """
        return True

    @abstractmethod
    def prepare(self, one: Any, **settings: Any) -> dict[str, Any]:
        """Return what the network takes of one input; its companions come by name, or None."""

    @classmethod
    def compare(cls, results: Mapping[str, Any]) -> Any:
        """Draw several results as one picture, see `compare` of `result_class`."""
        return cls.result_class.compare(results)

    @classmethod
    def _take_calling(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Move the keywords of a call out of the settings."""
        return {name: settings.pop(name) for name in cls.call_settings if name in settings}

    @classmethod
    def _refuse_loading_settings(cls, settings: Mapping[str, Any]) -> None:
        for name in settings:
            if name not in cls.call_settings:
                raise ValueError(
                    f"'{name}' can be set only for a model loaded by name; set it on the "
                    "model or its config before you create the pipeline."
                )

    def _refuse_unknown(self, unknown: Iterable[str], settings: Sequence[str] = ()) -> None:
        """Raise a ValueError for keywords of a call that nobody takes."""
        where = "are accepted too" if settings else "belong in salhub.pipeline(...)"
        for name in unknown:
            raise ValueError(
                f"The call has no setting '{name}'; it has "
                f"{', '.join(self.call_settings) or 'none'}."
                f"{did_you_mean(name, [*self.call_settings, *settings])} "
                f"Settings of the model {where}."
            )

    def _model_with(self, settings: Mapping[str, Any]) -> Any:
        """Return the model with settings of a call, on the same weights; the model stays as it is.

        Raises:
            ValueError: A keyword that is no setting of the model, or a bad value.
            TypeError: A value of the wrong type.
        """
        if not settings:
            return self.model
        config = self.model.config
        known = config.field_names()
        unknown = [name for name in settings if name not in known]
        self._refuse_unknown(unknown, sorted(known - config.loaded_fields))
        return self.model.with_settings(**settings)

    @property
    def class_names(self) -> Mapping[int, str]:
        """Names of the model's classes by index; empty when it has none."""
        return self.model.config.id2label or {}

    def class_name(self, index: int) -> str:
        """Return the name of a class, made up of its index where it has none."""
        return self.class_names.get(index, f"class {index}")

    def class_index(self, class_label: int | str) -> int:
        """Return the index of a class given by index or by name, see `ClassNames`.

        Raises:
            ValueError: The model has no class of that name, or several.
            TypeError: Neither an integer nor a text.
        """
        return ClassNames(self.class_names).index_of(class_label)

    def _model_name(self) -> str:
        return self.model.config.name_or_path


@dataclass(frozen=True)
class WithOwn:
    """An input with keywords that belong to it alone.

    Args:
        one: The input.
        own: Keyword of `prepare` -> value.
    """

    one: Any
    own: Mapping[str, Any]


class PicturePipeline(TaskPipeline):
    """Base of the pipelines that take pictures."""

    input_type = "image"
    input_suffixes = picture_endings()
    sample = "sample:cat"
    hub_task = "image-classification"
    required_files = ("preprocessor_config.json",)

    read = staticmethod(load_image)

    _load_image_processor = True

    @classmethod
    def from_name(
        cls,
        name: str | None,
        method: Model,
        /,
        *,
        image_processor: BaseImageProcessor | None = None,
        device: str | int | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> Self:
        """Load a model by name; see `TaskPipeline.from_name`.

        Args:
            name: The model.
            method: Its method.
            image_processor: How pictures are prepared; the one saved with the model by default.
            device: Where to run; an accelerator where there is one, else the CPU.
            dtype: Precision of the weights.
            batch_size: Pictures that pass together, 1 by default.
            **settings: Keywords of every call, fields of the configuration, and keywords of the
                Hub.

        Raises:
            NoImageProcessorError: The model comes without an image processor.
        """
        calling = cls._take_calling(settings)
        model = load_model(name, method, dtype, settings)
        if image_processor is None:
            image_processor = cls._image_processor_of(model, name, **hub_keywords(settings))
        parts = {"device": device, "batch_size": batch_size, "image_processor": image_processor}
        return cls(model, **parts, **calling)

    @classmethod
    def from_model(
        cls,
        model: PreTrainedModel,
        *,
        image_processor: BaseImageProcessor | None = None,
        device: str | int | torch.device | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> Self:
        """Make a pipeline of a model that is already loaded; see `TaskPipeline.from_model`.

        Args:
            model: The model.
            image_processor: How pictures are prepared; needed where the model was not loaded from
                anywhere.
            device: Where to run; an accelerator where there is one, else the CPU.
            batch_size: Pictures that pass together, 1 by default.
            **settings: Keywords of every call.
        """
        cls._refuse_loading_settings(settings)
        if image_processor is None:
            image_processor = cls._image_processor_of(model, model.config.name_or_path)
        parts = {"device": device, "batch_size": batch_size, "image_processor": image_processor}
        return cls(model, **parts, **settings)

    @classmethod
    def _image_processor_of(cls, model: Any, name: Any, **where: Any) -> BaseImageProcessor:
        """The image processor of a model, by the name and keywords that it was loaded with."""
        return load_image_processor(name, **where)

    def prepare(self, image: Any) -> dict[str, Any]:
        picture = load_image(image)
        channels = getattr(self.model.config, "num_channels", None) or 3
        pixels = PictureFitter(self.image_processor, channels).pixel_values(picture)
        return {"pixel_values": pixels.to(self.dtype), "pictures": [picture]}


def load_image_processor(source: Any, **hub_arguments: Any) -> BaseImageProcessor:
    """Load the image processor that was saved with a model.

    Args:
        source: The name of the model: a folder, a shipped name, or a Hub repository.
        **hub_arguments: As in `from_pretrained`.

    Raises:
        NoImageProcessorError: The model is there, and no image processor with it.
        ModelNotFoundError: Nothing of that name was found.
        ValueError: It has no name, such as a module.
    """
    if not source or isinstance(source, torch.nn.Module):
        raise ValueError(
            "The classifier needs its image processor to prepare pictures; give image_processor=..."
        )
    resolved = resolve(source, **hub_arguments)
    folder = Path(resolved.name, hub_arguments.get("subfolder") or "")
    if resolved.source == "folder" and not any(
        (folder / name).is_file() for name in _PROCESSOR_FILES
    ):
        raise NoImageProcessorError(
            f"{folder} has no preprocessor_config.json, which defines how pictures are "
            f"prepared; save it with image_processor.save_pretrained('{folder}')."
        )
    return load(AutoImageProcessor, source, backend="pil", **hub_arguments)


class TextPipeline(TaskPipeline):
    """Base of the pipelines that take texts."""

    input_type = "text"
    input_suffixes = (".md", ".txt")
    takes_literals = True

    read = staticmethod(load_text)


def load_model(
    name: str | os.PathLike | None,
    method: Model,
    dtype: torch.dtype | str | None,
    settings: Mapping[str, Any],
) -> PreTrainedModel:
    """Load a model of a method that explains no classifier of somebody else's.

    Args:
        name: The model.
        method: Its method.
        dtype: Precision of the weights, or None for that of the file.
        settings: Fields of the configuration and keywords of the Hub.

    Raises:
        ValueError: No name, or a classifier among the settings.
    """
    if name is None or settings.get("classifier") is not None:
        raise ValueError(
            f"The method '{method.name}' does not explain classifiers; give the name of one "
            "of its own models, without classifier=..."
        )
    precision = {} if dtype is None else {"dtype": dtype}
    return load(method.model_class, name, **precision, **settings)


def whole_number(name: str, value: Any, low: int = 1, limit: int | None = None) -> int:
    """Return a setting of a call that is a whole number.

    Args:
        name: Its name.
        value: What was given.
        low: The smallest number that is taken.
        limit: The numbers below it are taken.

    Raises:
        TypeError: No whole number.
        ValueError: Out of its range.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}.")
    if value < low or (limit is not None and value >= limit):
        most = "" if limit is None else f" and below {limit}"
        raise ValueError(f"{name} must be at least {low}{most}, got {value}.")
    return int(value)


def number(name: str, value: Any) -> float:
    """Return a setting of a call that is a finite number.

    Args:
        name: Its name.
        value: What was given.

    Raises:
        TypeError: No finite number.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    return float(value)
