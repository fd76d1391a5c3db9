"""The one file that knows all methods. A new method is one line in METHODS."""

import importlib
import os
from dataclasses import dataclass, field
from typing import Any, ClassVar

from salhub.errors import UnknownNameError, did_you_mean

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
        is_transformers_own: Whether transformers has a task of this name too. Then its pipeline
            stays what `transformers.pipeline` gives, and ours is only that of `salhub.pipeline`.
    """

    name: str
    module: str
    pipeline: str
    is_transformers_own: bool = False

    @property
    def pipeline_class(self) -> Any:
        """The pipeline class, imported when asked for."""
        return getattr(importlib.import_module(self.module), self.pipeline)


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


# One line a task, method or backbone, however long.
# fmt: off
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("image-saliency", "salhub.pipelines.image_saliency", "ImageSaliencyPipeline"),
        Task("image-classification", "salhub.pipelines.image_classification", "ImageClassificationPipeline", is_transformers_own=True),
        Task("extractive-summarization", "salhub.pipelines.extractive_summarization", "ExtractiveSummarizationPipeline"),
        Task("image-generation", "salhub.pipelines.image_generation", "ImageGenerationPipeline"),
        Task("saliency-verbalization", "salhub.pipelines.saliency_verbalization", "SaliencyVerbalizationPipeline"),
    )
}

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("normgrad", "NormGradConfig", "NormGradForImageSaliency", "image-saliency", "arXiv:2004.02866", "normgrad-efficientnet-lite0"),
        Method("salient_relevance", "SalientRelevanceConfig", "SalientRelevanceForImageSaliency", "image-saliency", "arXiv:1712.08268", "salient-relevance-efficientnet-lite0"),
        Method("lexrank", "LexRankConfig", "LexRankModel", "extractive-summarization", "10.1613/jair.1523", "lexrank-news-en"),
        Method("salun", "SalUnConfig", "SalUnForImageClassification", "image-classification", "arXiv:2310.12508", "salun-resnet8-cifar10", auto_class="AutoModelForImageClassification"),
        Method("salun_diffusion", "SalUnDiffusionConfig", "SalUnForConditionalDiffusion", "image-generation", "arXiv:2310.12508", "salun-ddpm-mnist", folder="salun"),
        Method("verbalizer", "VerbalizerConfig", "SaliencyVerbalizerModel", "saliency-verbalization", "arXiv:2210.07222", "verbalizer-movie-reviews"),
    )
}

BACKBONES: tuple[Backbone, ...] = (
    Backbone("efficientnet_lite", "EfficientNetLiteConfig", "EfficientNetLiteForImageClassification", "AutoModelForImageClassification", "EfficientNetLiteImageProcessor"),
    Backbone("cifar_resnet", "CifarResNetConfig", "CifarResNetForImageClassification", "AutoModelForImageClassification", "CifarResNetImageProcessor"),
    Backbone("conditional_unet", "ConditionalUNetConfig", "ConditionalUNetForDiffusion", "AutoModel"),
    Backbone("text_classifier", "TextClassifierConfig", "TextClassifierForSequenceClassification", "AutoModelForSequenceClassification"),
)

RECIPES: tuple[RecipeEntry, ...] = (
    RecipeEntry("cifar-resnet", "train", "salhub.backbones.cifar_resnet.recipe_cifar_resnet", "CifarResNetRecipe"),
    RecipeEntry("conditional-unet", "train", "salhub.backbones.conditional_unet.recipe_conditional_unet", "ConditionalUNetRecipe"),
    RecipeEntry("lexrank", "train", "salhub.models.lexrank.recipe_lexrank", "LexRankRecipe"),
    RecipeEntry("text-classifier", "train", "salhub.backbones.text_classifier.recipe_text_classifier", "TextClassifierRecipe"),
    RecipeEntry("verbalizer", "train", "salhub.models.verbalizer.recipe_verbalizer", "VerbalizerRecipe"),
    RecipeEntry("salun-resnet8", "train", "salhub.models.salun.recipe_salun_training", "SalUnClassifierRecipe"),
    RecipeEntry("salun-ddpm", "train", "salhub.models.salun.recipe_salun_training", "SalUnDiffusionModelRecipe"),
    RecipeEntry("salun", "unlearn", "salhub.models.salun.recipe_salun", "SalUnRecipe"),
    RecipeEntry("salun-soft", "unlearn", "salhub.models.salun.recipe_salun", "SalUnSoftRecipe"),
    RecipeEntry("retrain", "unlearn", "salhub.models.salun.recipe_salun", "RetrainRecipe"),
    RecipeEntry("ft", "unlearn", "salhub.models.salun.recipe_salun", "FineTuneRecipe"),
    RecipeEntry("rl", "unlearn", "salhub.models.salun.recipe_salun", "RandomLabelRecipe"),
    RecipeEntry("ga", "unlearn", "salhub.models.salun.recipe_salun", "GradientAscentRecipe"),
    RecipeEntry("iu", "unlearn", "salhub.models.salun.recipe_influence", "InfluenceRecipe"),
    RecipeEntry("be", "unlearn", "salhub.models.salun.recipe_boundary", "BoundaryExpandingRecipe"),
    RecipeEntry("bs", "unlearn", "salhub.models.salun.recipe_boundary", "BoundaryShrinkRecipe"),
    RecipeEntry("l1-sparse", "unlearn", "salhub.models.salun.recipe_salun", "L1SparseRecipe"),
    RecipeEntry("salun-diffusion", "unlearn", "salhub.models.salun.recipe_salun_diffusion", "SalUnDiffusionRecipe"),
    RecipeEntry("rl-diffusion", "unlearn", "salhub.models.salun.recipe_salun_diffusion", "RandomClassRecipe"),
    RecipeEntry("ga-diffusion", "unlearn", "salhub.models.salun.recipe_salun_diffusion", "GradientAscentDiffusionRecipe"),
)
# fmt: on


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


class AutoModelForSaliency:
    """Load any salhub model by name, whatever its method.

    Example:
        >>> model = AutoModelForSaliency.from_pretrained("salhub/normgrad-efficientnet-lite0")
        >>> type(model).__name__
        'NormGradForImageSaliency'
    """

    def __init__(self) -> None:
        raise OSError("AutoModelForSaliency is built with AutoModelForSaliency.from_pretrained.")

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, *arguments: Any, **kwargs: Any) -> Any:
        """Load a model; the keywords are those of transformers' `from_pretrained`.

        Args:
            name: A folder, a shipped name, or a Hub repository.
            *arguments, **kwargs: Passed to the method's own class.

        Raises:
            UnknownNameError: The model belongs to no method of salhub.
            ModelNotFoundError: Nothing of that name was found.
        """
        method = method_of(read_model_type(name, **kwargs))
        return method.model_class.from_pretrained(name, *arguments, **kwargs)

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """Build a model with fresh weights from a configuration."""
        return method_of(config.model_type).model_class(config)


def read_model_type(name: str | os.PathLike, /, **hub_arguments: Any) -> str:
    """Return the `model_type` in the config.json of a model, without building anything."""
    from transformers import PreTrainedConfig

    from salhub.hub import resolve

    keys = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
    resolved = resolve(name, **hub_arguments)
    arguments = {key: hub_arguments[key] for key in keys if key in hub_arguments}
    if resolved.is_bundled:
        arguments = {}
    with resolved.explain_missing():
        content, _ = PreTrainedConfig.get_config_dict(resolved.config_folder, **arguments)
    if "model_type" not in content:
        raise UnknownNameError(
            f"The config.json of '{resolved.name}' has no model_type; it is no salhub model."
        )
    return content["model_type"]
