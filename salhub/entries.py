"""What salhub knows: the entries of methods, models, tasks and recipes, and looking them up.

`salhub.auto` fills the registries at `import salhub`; nothing below it names a method.
"""

import importlib
import inspect
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from salhub.errors import ModelNotFoundError, UnknownNameError, did_you_mean

if TYPE_CHECKING:
    from salhub.manifest import BundledModel

PREFIX = "salhub_"
# Tasks of networks by themselves -> the Auto class of transformers that loads them.
_NETWORKS = {
    "image-classification": "AutoModelForImageClassification",
    "text-classification": "AutoModelForSequenceClassification",
    "text-generation": "AutoModelForCausalLM",
    "zero-shot-image-classification": "AutoModelForZeroShotImageClassification",
}


@dataclass(frozen=True)
class Method:
    """One published method.

    Args:
        name: Folder in `salhub/models`; its main kind of model is called the same.
        paper: Where it was published.
        default: Shipped model used when only the method is named, or None.
    """

    name: str
    paper: str
    default: str | None = None


@dataclass(frozen=True)
class Model:
    """One kind of model: of a method, or a network of ours that methods build on.

    Classes are named as they are in the files of the kind, such as "NormGradConfig" in
    `configuration_normgrad.py`, or with the module of somebody else's,
    "transformers.LlamaForCausalLM".

    Args:
        method: The method, or None for a network by itself.
        name: Files are named after it, and so is the `model_type` of a configuration of ours, or
            the `quant_method` where there is a quantizer.
        task: What it does; `TASKS` lists the tasks that have a pipeline.
        config: The configuration class.
        model: The model class.
        auto_class: The Auto class of transformers that loads it, beside AutoModel; or None.
        quantizer: The class in `quantization_NAME.py` that loads its packed weights, or None; that
            of the quantization settings is its attribute `config_class`.
        image_processor: The class in `image_processing_NAME.py`, or None.
        default: Shipped model used when only this kind is named; that of the method for its main
            one.
    """

    method: str | None
    name: str
    task: str
    config: str
    model: str
    auto_class: str | None = None
    quantizer: str | None = None
    image_processor: str | None = None
    default: str | None = None

    @property
    def home(self) -> str:
        """The package that its files are in."""
        owner = "backbones" if self.method is None else "models"
        return f"salhub.{owner}.{self.method or self.name}"

    @property
    def paper(self) -> str | None:
        """Where its method was published; None for a network."""
        return None if self.method is None else METHODS[self.method].paper

    @property
    def default_model(self) -> str | None:
        """Shipped model used when only this kind of model is named, or None."""
        return METHODS[self.name].default if self.name in METHODS else self.default

    @property
    def is_ours(self) -> bool:
        """Whether its configuration is a class of salhub."""
        return "." not in self.config

    @property
    def model_type(self) -> str:
        """The `model_type` of its configuration."""
        return PREFIX + self.name if self.is_ours else self.config_class.model_type

    @property
    def quant_method(self) -> str | None:
        """The `quant_method` in the `quantization_config` of its configuration, or None."""
        return None if self.quantizer is None else PREFIX + self.name

    @property
    def config_class(self) -> Any:
        """The configuration class, imported when asked for."""
        return self._class(self.config, "configuration")

    @property
    def model_class(self) -> Any:
        """The model class, imported when asked for."""
        return self._class(self.model, "modeling")

    @property
    def quantizer_class(self) -> Any:
        """The quantizer class, imported when asked for; None where there is none."""
        return self.quantizer and self._class(self.quantizer, "quantization")

    @property
    def image_processor_class(self) -> Any:
        """The image processor class, imported when asked for; None where there is none."""
        return self.image_processor and self._class(self.image_processor, "image_processing")

    @property
    def pipeline_class(self) -> Any:
        """The pipeline that runs it, imported when asked for; None where `is_run` is not true."""
        return TASKS[self.task].pipeline_class if self.is_run else None

    @property
    def is_run(self) -> bool:
        """Whether a pipeline runs it; of networks by themselves only those of some tasks."""
        task = TASKS.get(self.task)
        return task is not None and (self.method is not None or task.runs_networks)

    @property
    def required_files(self) -> tuple[str, ...]:
        """Files that a folder must hold beside configuration and weights to be of use."""
        if self.pipeline_class is not None:
            return self.pipeline_class.required_files
        return () if self.image_processor is None else ("preprocessor_config.json",)

    def module(self, kind: str) -> Any:
        """Import one of its files, such as "configuration" or "evaluation".

        Raises:
            ModuleNotFoundError: It has no such file.
        """
        return importlib.import_module(f"{self.home}.{kind}_{self.name}")

    def public_classes(self) -> dict[str, str]:
        """Return its classes in files of salhub -> their module."""
        kinds = {"configuration": self.config, "modeling": self.model}
        kinds |= {"quantization": self.quantizer} if self.quantizer else {}
        return {
            name: f"{self.home}.{kind}_{self.name}"
            for kind, name in kinds.items()
            if "." not in name
        }

    def _class(self, name: str, kind: str) -> Any:
        module, _, own = name.rpartition(".")
        return getattr(importlib.import_module(module) if module else self.module(kind), own)


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
        runs_networks: Whether networks by themselves are run; otherwise methods explain them.
    """

    name: str
    module: str
    pipeline: str
    page: str | None = None
    is_transformers_own: bool = False
    runs_networks: bool = False

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
        example: A command that uses what it has made, `{folder}` standing for where that is.
    """

    name: str
    verb: str
    module: str
    recipe: str
    example: str = ""

    @property
    def recipe_class(self) -> Any:
        """The class, imported when asked for."""
        return getattr(importlib.import_module(self.module), self.recipe)


METHODS: dict[str, Method] = {}
MODELS: dict[str, Model] = {}
TASKS: dict[str, Task] = {}
RECIPES: list[RecipeEntry] = []


def register(
    *,
    tasks: Iterable[Task] = (),
    methods: Iterable[Method] = (),
    models: Iterable[Model] = (),
    recipes: Iterable[RecipeEntry] = (),
) -> None:
    """Make entries known, in this order."""
    TASKS.update({task.name: task for task in tasks})
    METHODS.update({method.name: method for method in methods})
    MODELS.update({model.name: model for model in models})
    RECIPES.extend(recipes)


def recipes_to(verb: str) -> dict[str, RecipeEntry]:
    """The recipes of a verb, "train", "unlearn" or "compress", by their names."""
    return {entry.name: entry for entry in RECIPES if entry.verb == verb}


def recipe_named(name: str, verb: str) -> RecipeEntry:
    """Return a recipe by its name.

    Args:
        name: The recipe.
        verb: "train", "unlearn" or "compress".

    Raises:
        UnknownNameError: No recipe of that verb is called that.
    """
    known = recipes_to(verb)
    if name not in known:
        raise UnknownNameError(
            f"There is no recipe '{name}' to {verb}.{did_you_mean(name, known)} The recipes are "
            f"{', '.join(known) or 'none yet'}."
        )
    return known[name]


def model_named(name: str) -> Model | None:
    """Return a kind of model that belongs to a method, by the name a person types, or None.

    Example:
        >>> model_named("salun-diffusion").task
        'image-generation'
    """
    found = MODELS.get(name.replace("-", "_"))
    return None if found is None or found.method is None else found


def entry_of(model: Any, /, **settings: Any) -> Model:
    """Return what is known of a model, by its name or its configuration.

    Looked at are the list of shipped models, then `quant_method` in the `quantization_config`, then
    `model_type`.

    Args:
        model: A folder, a shipped name with or without "salhub/" or a Hub repository; or a
            configuration, as an object or as what stands in config.json; or a `BundledModel`.
        **settings: For a name, those of `salhub.hub.HUB_KEYWORDS` are looked at.

    Raises:
        UnknownNameError: It is no model of salhub.
        ModelNotFoundError: Nothing of that name was found.

    Example:
        >>> entry_of("salhub/normgrad-efficientnet-lite0").method
        'normgrad'
    """
    from salhub.hub import bundled_model, canonical_name, read_config
    from salhub.manifest import BundledModel

    if isinstance(model, BundledModel):
        return _entry_of_shipped(model)
    is_name = isinstance(model, str | os.PathLike)
    if is_name:
        refuse_unknown_word(os.fspath(model))
    name = canonical_name(model) if is_name else getattr(model, "name_or_path", "")
    shipped = bundled_model(name, **settings)
    if is_name and shipped is not None:
        return _entry_of_shipped(shipped)
    config = read_config(name, **settings) if is_name else model
    if not isinstance(config, Mapping):
        config = config.to_dict()
    quantization = config.get("quantization_config") or {}
    model_type = config.get("model_type")
    found = _entry_of_types(quantization.get("quant_method"), model_type)
    if found is not None:
        return found
    if shipped is not None:
        return _entry_of_shipped(shipped)
    what = f"'{name}'" if name else "The configuration"
    if model_type is None:
        raise UnknownNameError(f"{what} is not a model: its config.json has no model_type.")
    raise UnknownNameError(
        f"{what} is a model of type '{model_type}', which salhub does not know; see `salhub list` "
        f"for its methods.{did_you_mean(model_type, [n for n in MODELS if MODELS[n].is_ours])}"
    )


def network_entry(model: str | os.PathLike, /, **settings: Any) -> Model | None:
    """Return what is known of a network by itself, ours or of a kind of transformers'.

    Args:
        model: As of `entry_of`.
        **settings: As of `entry_of`.

    Returns:
        The entry; None for the name of a method, and for a model of one.

    Raises:
        UnknownNameError, ModelNotFoundError: As `entry_of`; classifiers and language models of
            transformers' own kinds are known here.

    Example:
        >>> network_entry("salhub/efficientnet-lite0").task
        'image-classification'
        >>> network_entry("normgrad") is None
        True
    """
    from salhub.hub import canonical_name, hub_keywords, load

    name = canonical_name(model)
    if not os.path.isdir(name) and model_named(name) is not None:
        return None
    try:
        entry = entry_of(name, **settings)
    except UnknownNameError as error:
        from transformers import AutoConfig

        try:
            where = hub_keywords(settings)
            config = load(AutoConfig, name, trust_remote_code=False, **where)
        except ValueError:  # of no kind that transformers knows
            raise error from None
        entry = transformers_entry(config)
        if entry is None:
            raise
    return entry if entry.method is None else None


def transformers_entry(config: Any, class_name: str | None = None) -> Model | None:
    """Return what is known of a network of transformers'; None for one that does no task of ours.

    Args:
        config: Its configuration.
        class_name: Its class, which says what those do that could do several tasks; by default the
            one that its weights were saved from.
    """
    import transformers

    name, found = class_name or (config.architectures or [None])[0], None
    for task, auto_class in _NETWORKS.items():
        mapping = getattr(transformers, auto_class)._model_mapping
        if type(config) not in mapping:
            continue
        classes = f"transformers.{type(config).__name__}", f"transformers.{auto_class}"
        entry = Model(None, config.model_type, task, *classes, auto_class)
        if getattr(mapping[type(config)], "__name__", None) == name:
            return entry
        found = found or entry
    return found


def refuse_unknown_word(name: str) -> None:
    """Refuse a plain word that is no folder, no model and no method, without asking the Hub.

    Args:
        name: What a person typed; every repository has an owner, so a name without a slash can only
            be one of ours.

    Raises:
        ModelNotFoundError: With the nearest names.
    """
    from salhub.manifest import read_manifest

    is_known = name in read_manifest() or model_named(name) is not None
    if "/" in name or os.path.isdir(name) or is_known:
        return
    known = [*read_manifest(), *(one.name for one in MODELS.values() if one.method)]
    raise ModelNotFoundError(
        f"There is no model, method or folder '{name}'; `salhub list` shows the "
        f"models.{did_you_mean(name, known)}"
    )


def refuse_network(entry: Model, name: str) -> None:
    """Raises UnknownNameError where a model is a network by itself that no pipeline runs."""
    if entry.method is None and not entry.is_run:
        raise UnknownNameError(
            f"'{name}' is a network, not a method; give the name of a method and "
            f"classifier={name}, or --classifier {name} on the command line."
        )


def _entry_of_types(*types: str | None) -> Model | None:
    for kind in filter(None, types):
        found = MODELS.get(str(kind).removeprefix(PREFIX))
        if found is not None and kind in (found.quant_method, PREFIX + found.name):
            return found
    return None


def _entry_of_shipped(shipped: "BundledModel") -> Model:
    found = _entry_of_types(shipped.quant_method, shipped.model_type)
    if found is not None:
        return found
    # A configuration of transformers' own does not tell; the method does.
    for entry in MODELS.values():
        if entry.method == shipped.method and entry.model_type == shipped.model_type:
            return entry
    raise UnknownNameError(f"'{shipped.full_name}' does not belong to any method of salhub.")


def setting_names(entry: Model, pipeline_class: Any) -> tuple[set[str], set[str]]:
    """Return the names that are taken when a model is loaded, and those taken by each call.

    Args:
        entry: What is known of its kind.
        pipeline_class: The pipeline that runs it.
    """
    from salhub.hub import HUB_KEYWORDS

    parameters = inspect.signature(pipeline_class.from_name).parameters.values()
    keywords = {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    fields = entry.config_class.field_names() if entry.is_ours else set()
    calling = {*pipeline_class.call_settings, *pipeline_class.companions}
    return (fields | keywords | set(HUB_KEYWORDS)) - calling, calling


def _entry_to_run(name: str, **settings: Any) -> Model:
    """As `entry_of`, which also knows the networks of transformers that a pipeline runs."""
    try:
        return entry_of(name, **settings)
    except UnknownNameError:
        entry = network_entry(name, **settings)
        if entry is None or not entry.is_run:
            raise
        return entry


def find_entry(model: str | os.PathLike, /, **settings: Any) -> tuple[str | None, Model]:
    """Return the name of a model and what is known of it, by what a person typed.

    Args:
        model: A model, or the name of a method: its default model is taken.
        **settings: As of `entry_of`; with `classifier`, the name is None where only a method was
            named.

    Raises:
        UnknownNameError, ModelNotFoundError: As `entry_of`; also for a network by itself and for a
            method without a default.
    """
    from salhub.hub import canonical_name

    name = canonical_name(model)
    entry = None if os.path.isdir(name) else model_named(name)
    if entry is None:
        entry = _entry_to_run(name, **settings)
        refuse_network(entry, os.fspath(model))
        return name, entry
    if settings.get("classifier") is not None:
        return None, entry
    if entry.default_model is None:
        raise ModelNotFoundError(
            f"'{name}' is a method without a default model; give the name of a model, or for "
            "a method that explains classifiers, classifier=..."
        )
    return canonical_name(entry.default_model), entry
