"""What salhub knows: the entries of methods, networks, tasks and recipes, and looking them up.

`salhub.auto` fills the registries at `import salhub`; nothing below it names a method.
"""

import importlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from salhub.errors import UnknownNameError, did_you_mean
from salhub.hub import read_config

MODEL_TYPE_PREFIX = "salhub_"


@dataclass(frozen=True)
class _Entry:
    name: str
    config: str
    model: str
    folder: str | None = field(default=None, kw_only=True)

    package: ClassVar[str]

    @property
    def home(self) -> str:
        """The package that its files are in."""
        return f"{self.package}.{self.folder or self.name}"

    @property
    def model_type(self) -> str:
        """The `model_type` of its configuration."""
        return MODEL_TYPE_PREFIX + self.name

    @property
    def config_class(self) -> Any:
        """The configuration class, imported when asked for."""
        return getattr(self.module("configuration"), self.config)

    @property
    def model_class(self) -> Any:
        """The model class, imported when asked for."""
        return getattr(self.module("modeling"), self.model)

    def module(self, kind: str) -> Any:
        """Import one of its files, such as "configuration" or "evaluation".

        Raises:
            ModuleNotFoundError: It has no such file.
        """
        return importlib.import_module(f"{self.home}.{kind}_{self.name}")


@dataclass(frozen=True)
class Method(_Entry):
    """One published method.

    Args:
        name: Files are named after it, `model_type` is built on it, and so is the folder in
            `salhub/models` unless given.
        config: Name of the configuration class.
        model: Name of the model class.
        task: What it does; `TASKS` lists the tasks.
        paper: Where it was published.
        default: Shipped model used when only the method is named, or None.
        folder: Folder in `salhub/models` of a method with several kinds of model.
        auto_class: The Auto class of transformers that loads it, beside AutoModel; or None.
    """

    task: str
    paper: str
    default: str | None = None
    auto_class: str | None = None

    package: ClassVar[str] = "salhub.models"


@dataclass(frozen=True)
class Backbone(_Entry):
    """A network of ours that methods build on.

    Args:
        name: Folder in `salhub/backbones`.
        config: Name of the configuration class.
        model: Name of the model class.
        auto_class: The Auto class of transformers that loads it, beside AutoModel.
        image_processor: Name of the image processor class, or None where no pictures come in.
    """

    auto_class: str
    image_processor: str | None = None
    package: ClassVar[str] = "salhub.backbones"

    @property
    def image_processor_class(self) -> Any:
        """The image processor class, imported when asked for; None where there is none."""
        if self.image_processor is None:
            return None
        return getattr(self.module("image_processing"), self.image_processor)


@dataclass(frozen=True)
class Task:
    """What models do for a person.

    Args:
        name: As methods, cards and transformers call it.
        module: Where its pipeline is.
        pipeline: Name of the class.
        page: Its web page, "module:class", unless each method of the task brings its own.
        is_transformers_own: Whether transformers has a task of this name too. Then its pipeline
            stays what `transformers.pipeline` gives, and ours is only that of `salhub.pipeline`.
    """

    name: str
    module: str
    pipeline: str
    page: str | None = None
    is_transformers_own: bool = False

    @property
    def pipeline_class(self) -> Any:
        """The pipeline class, imported when asked for."""
        return getattr(importlib.import_module(self.module), self.pipeline)

    @property
    def page_class(self) -> Any:
        """The class of its page, imported when asked for; None where there is none."""
        if self.page is None:
            return None
        module, _, name = self.page.partition(":")
        return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class RecipeEntry:
    """Something that `salhub train`, `unlearn` or `compress` can carry out.

    Args:
        name: What a person types.
        verb: "train", "unlearn" or "compress".
        module: Where its class is.
        recipe: Name of the class.
    """

    name: str
    verb: str
    module: str
    recipe: str

    @property
    def recipe_class(self) -> Any:
        """The class, imported when asked for."""
        return getattr(importlib.import_module(self.module), self.recipe)


METHODS: dict[str, Method] = {}
BACKBONES: list[Backbone] = []
TASKS: dict[str, Task] = {}
RECIPES: list[RecipeEntry] = []


def register(
    *,
    tasks: Iterable[Task] = (),
    methods: Iterable[Method] = (),
    backbones: Iterable[Backbone] = (),
    recipes: Iterable[RecipeEntry] = (),
) -> None:
    """Make entries known, in this order."""
    TASKS.update({task.name: task for task in tasks})
    METHODS.update({method.name: method for method in methods})
    BACKBONES.extend(backbones)
    RECIPES.extend(recipes)


def recipe_named(name: str, verb: str) -> RecipeEntry:
    """Return a recipe by its name.

    Args:
        name: The recipe.
        verb: "train", "unlearn" or "compress".

    Raises:
        UnknownNameError: No recipe of that verb is called that.
    """
    known = {entry.name: entry for entry in RECIPES if entry.verb == verb}
    if name not in known:
        raise UnknownNameError(
            f"There is no recipe '{name}' to {verb}; the recipes are "
            f"{', '.join(known) or 'none yet'}.{did_you_mean(name, known)}"
        )
    return known[name]


def method_of(model_type_or_name: str) -> Method:
    """Return a method by its name or by the `model_type` of a configuration.

    Raises:
        UnknownNameError: No method is called that.
    """
    name = model_type_or_name.removeprefix(MODEL_TYPE_PREFIX)
    if name not in METHODS:
        raise UnknownNameError(
            f"'{model_type_or_name}' is no method of salhub; the methods are "
            f"{', '.join(METHODS)}.{did_you_mean(name, METHODS)}"
        )
    return METHODS[name]


def read_model_type(name: str | os.PathLike, /, **settings: Any) -> str:
    """Return the `model_type` in the config.json of a model, without building anything."""
    content = read_config(name, **settings)
    if "model_type" not in content:
        raise UnknownNameError(
            f"The config.json of '{os.fspath(name)}' has no model_type; it is no salhub model."
        )
    return content["model_type"]
