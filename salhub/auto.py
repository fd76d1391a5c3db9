"""The one file that knows all methods: their lines in the tables below."""

import os
from typing import Any

from salhub.entries import Method, Model, RecipeEntry, Task, entry_of, refuse_network, register

# One line a task, method, kind of model or recipe, however long.
# fmt: off
_TASKS = (
    Task("image-saliency", "salhub.pipelines.image_saliency", "ImageSaliencyPipeline", page="salhub.ui.image_saliency:ImageSaliencyPage"),
    Task("image-classification", "salhub.pipelines.image_classification", "ImageClassificationPipeline", page="salhub.ui.image_classification:ImageClassificationPage", is_transformers_own=True),
    Task("image-segmentation", "salhub.models.active_contour.pipeline_active_contour", "ImageSegmentationPipeline", is_transformers_own=True),
    Task("extractive-summarization", "salhub.models.lexrank.pipeline_lexrank", "ExtractiveSummarizationPipeline"),
    Task("image-generation", "salhub.models.salun.pipeline_salun_diffusion", "ImageGenerationPipeline"),
    Task("saliency-verbalization", "salhub.models.verbalizer.pipeline_verbalizer", "SaliencyVerbalizationPipeline"),
    Task("multi-task", "salhub.models.rep_mtl.pipeline_rep_mtl", "MultiTaskPipeline"),
    Task("volume-segmentation", "salhub.models.sdl_seg.pipeline_sdl_seg", "VolumeSegmentationPipeline"),
    Task("video-editing", "salhub.models.editiq.pipeline_editiq", "VideoEditingPipeline"),
    Task("zero-shot-image-classification", "salhub.models.disa.pipeline_disa", "ZeroShotImageClassificationPipeline", is_transformers_own=True),
    Task("text-generation", "salhub.pipelines.text_generation", "TextGenerationPipeline", page="salhub.ui.text_generation:TextGenerationPage", is_transformers_own=True, runs_networks=True),
)

# In the order of the gallery, where the first of two endpoints of one name keeps it.
_METHODS = (
    Method("normgrad", "arXiv:2004.02866", "normgrad-efficientnet-lite0"),
    Method("salient_relevance", "arXiv:1712.08268", "salient-relevance-efficientnet-lite0"),
    Method("active_contour", "arXiv:2205.11063", "active-contour-saliency"),
    Method("salun", "arXiv:2310.12508", "salun-resnet8-cifar10"),
    Method("nvit", "arXiv:2110.04869", "nvit-cifar10-050"),
    Method("disa", "arXiv:2505.19373", "disa-tiny-clip-cifar10"),
    Method("rep_mtl", "arXiv:2507.21049", "rep-mtl-rooms"),
    Method("lexrank", "10.1613/jair.1523", "lexrank-news-en"),
    Method("verbalizer", "arXiv:2210.07222", "verbalizer-movie-reviews"),
    Method("apiq_saliency", "arXiv:2504.13932", "apiq-saliency-tiny-llama-w2"),
    Method("slim_llm", "arXiv:2405.14917", "slim-llm-tiny-llama-w2"),
    Method("sdl_seg", "arXiv:2105.02771", "sdl-seg-phantom"),
    Method("editiq", "arXiv:2502.02172", "editiq-stage"),
)

_MODELS = (
    Model("normgrad", "normgrad", "image-saliency", "NormGradConfig", "NormGradForImageSaliency"),
    Model("salient_relevance", "salient_relevance", "image-saliency", "SalientRelevanceConfig", "SalientRelevanceForImageSaliency"),
    Model("lexrank", "lexrank", "extractive-summarization", "LexRankConfig", "LexRankModel"),
    Model("apiq_saliency", "apiq_saliency", "text-generation", "transformers.LlamaConfig", "transformers.LlamaForCausalLM", "AutoModelForCausalLM", quantizer="ApiQSaliencyQuantizer"),
    Model("salun", "salun", "image-classification", "SalUnConfig", "SalUnForImageClassification", "AutoModelForImageClassification"),
    Model("salun", "salun_diffusion", "image-generation", "SalUnDiffusionConfig", "SalUnForConditionalDiffusion", default="salun-ddpm-mnist"),
    Model("sdl_seg", "sdl_seg", "volume-segmentation", "SDLSegConfig", "SDLSegForVolumeSegmentation"),
    Model("verbalizer", "verbalizer", "saliency-verbalization", "VerbalizerConfig", "SaliencyVerbalizerModel"),
    Model("slim_llm", "slim_llm", "text-generation", "transformers.LlamaConfig", "transformers.LlamaForCausalLM", "AutoModelForCausalLM", quantizer="SlimLLMQuantizer"),
    Model("nvit", "nvit", "image-classification", "NViTConfig", "NViTForImageClassification", "AutoModelForImageClassification", image_processor="NViTImageProcessor"),
    Model("disa", "disa", "zero-shot-image-classification", "DiSaConfig", "DiSaForImageClassification"),
    Model("active_contour", "active_contour", "image-segmentation", "SaliencyActiveContourConfig", "SaliencyActiveContourForSegmentation", image_processor="SaliencyActiveContourImageProcessor"),
    Model("rep_mtl", "rep_mtl", "multi-task", "RepMTLConfig", "RepMTLForMultiTask", image_processor="RepMTLImageProcessor"),
    Model("editiq", "editiq", "video-editing", "EditIQConfig", "EditIQModel"),
    Model(None, "efficientnet_lite", "image-classification", "EfficientNetLiteConfig", "EfficientNetLiteForImageClassification", "AutoModelForImageClassification", image_processor="EfficientNetLiteImageProcessor"),
    Model(None, "cifar_resnet", "image-classification", "CifarResNetConfig", "CifarResNetForImageClassification", "AutoModelForImageClassification", image_processor="CifarResNetImageProcessor"),
    Model(None, "conditional_unet", "image-generation", "ConditionalUNetConfig", "ConditionalUNetForDiffusion"),
    Model(None, "tiny_clip", "zero-shot-image-classification", "transformers.CLIPConfig", "transformers.CLIPModel", "AutoModelForZeroShotImageClassification"),
    Model(None, "tiny_llama", "text-generation", "transformers.LlamaConfig", "transformers.LlamaForCausalLM", "AutoModelForCausalLM"),
    Model(None, "text_classifier", "text-classification", "TextClassifierConfig", "TextClassifierForSequenceClassification", "AutoModelForSequenceClassification"),
)

_RECIPES = (
    RecipeEntry("image-classification", "train", "salhub.runner.recipe_image_classification", "ImageClassificationRecipe", "salhub run normgrad photo.jpg --classifier {folder}"),
    RecipeEntry("text-classification", "train", "salhub.runner.recipe_text_classification", "TextClassificationRecipe", 'salhub run verbalizer "A text." --classifier {folder}'),
    RecipeEntry("cifar-resnet", "train", "salhub.backbones.cifar_resnet.recipe_cifar_resnet", "CifarResNetRecipe", "salhub run normgrad photo.jpg --classifier {folder}"),
    RecipeEntry("conditional-unet", "train", "salhub.backbones.conditional_unet.recipe_conditional_unet", "ConditionalUNetRecipe"),
    RecipeEntry("lexrank", "train", "salhub.models.lexrank.recipe_lexrank", "LexRankRecipe", "salhub run {folder} article.txt"),
    RecipeEntry("text-classifier", "train", "salhub.backbones.text_classifier.recipe_text_classifier", "TextClassifierRecipe", 'salhub run verbalizer "A text." --classifier {folder}'),
    RecipeEntry("tiny-clip", "train", "salhub.backbones.tiny_clip.recipe_tiny_clip", "TinyClipRecipe"),
    RecipeEntry("tiny-llama", "train", "salhub.backbones.tiny_llama.recipe_tiny_llama", "TinyLlamaRecipe", 'salhub run {folder} "The film"'),
    RecipeEntry("sdl-seg", "train", "salhub.models.sdl_seg.recipe_sdl_seg", "SDLSegRecipe", "salhub run {folder} scan.nii.gz"),
    RecipeEntry("verbalizer", "train", "salhub.models.verbalizer.recipe_verbalizer", "VerbalizerRecipe", 'salhub run {folder} "A text."'),
    RecipeEntry("deit-nano-teacher", "train", "salhub.models.nvit.recipe_deit_nano", "DeiTNanoTeacherRecipe", "salhub run normgrad photo.jpg --classifier {folder}"),
    RecipeEntry("deit-nano", "train", "salhub.models.nvit.recipe_deit_nano", "DeiTNanoRecipe", "salhub run {folder} photo.jpg"),
    RecipeEntry("nvit", "compress", "salhub.models.nvit.recipe_nvit", "NViTRecipe", "salhub run {folder} photo.jpg"),
    RecipeEntry("nvit-finetune", "train", "salhub.models.nvit.recipe_nvit_finetuning", "NViTFineTuningRecipe", "salhub run {folder} photo.jpg"),
    RecipeEntry("disa", "train", "salhub.models.disa.recipe_disa", "DiSaRecipe", "salhub run {folder} photo.jpg"),
    RecipeEntry("editiq", "train", "salhub.models.editiq.recipe_editiq", "EditIQRecipe", "salhub run {folder} film.mp4 --transcript talk.srt"),
    RecipeEntry("active-contour", "train", "salhub.models.active_contour.recipe_active_contour", "ActiveContourRecipe", "salhub run {folder} photo.png"),
    RecipeEntry("rep-mtl", "train", "salhub.models.rep_mtl.recipe_rep_mtl", "RepMTLRecipe", "salhub run {folder} photo.jpg"),
    RecipeEntry("apiq-saliency", "compress", "salhub.models.apiq_saliency.recipe_apiq_saliency", "ApiQSaliencyRecipe", 'salhub run {folder} "The film"'),
    RecipeEntry("salun-resnet8", "train", "salhub.models.salun.recipe_salun_training", "SalUnClassifierRecipe", "salhub run normgrad photo.jpg --classifier {folder}"),
    RecipeEntry("salun-ddpm", "train", "salhub.models.salun.recipe_salun_training", "SalUnDiffusionModelRecipe"),
    RecipeEntry("salun", "unlearn", "salhub.models.salun.recipe_salun", "SalUnRecipe", "salhub run normgrad photo.jpg --classifier {folder}"),
    RecipeEntry("salun-soft", "unlearn", "salhub.models.salun.recipe_salun", "SalUnSoftRecipe", "salhub run normgrad photo.jpg --classifier {folder}"),
    RecipeEntry("retrain", "unlearn", "salhub.models.salun.recipe_salun", "RetrainRecipe", "salhub run normgrad photo.jpg --classifier {folder}"),
    RecipeEntry("ft", "unlearn", "salhub.models.salun.recipe_salun", "FineTuneRecipe", "salhub run normgrad photo.jpg --classifier {folder}"),
    RecipeEntry("rl", "unlearn", "salhub.models.salun.recipe_salun", "RandomLabelRecipe", "salhub run normgrad photo.jpg --classifier {folder}"),
    RecipeEntry("ga", "unlearn", "salhub.models.salun.recipe_salun", "GradientAscentRecipe", "salhub run normgrad photo.jpg --classifier {folder}"),
    RecipeEntry("iu", "unlearn", "salhub.models.salun.recipe_influence", "InfluenceRecipe", "salhub run normgrad photo.jpg --classifier {folder}"),
    RecipeEntry("be", "unlearn", "salhub.models.salun.recipe_boundary", "BoundaryExpandingRecipe", "salhub run normgrad photo.jpg --classifier {folder}"),
    RecipeEntry("bs", "unlearn", "salhub.models.salun.recipe_boundary", "BoundaryShrinkRecipe", "salhub run normgrad photo.jpg --classifier {folder}"),
    RecipeEntry("l1-sparse", "unlearn", "salhub.models.salun.recipe_salun", "L1SparseRecipe", "salhub run normgrad photo.jpg --classifier {folder}"),
    RecipeEntry("apply-delta", "unlearn", "salhub.models.salun.recipe_delta", "DeltaRecipe"),
    RecipeEntry("salun-diffusion", "unlearn", "salhub.models.salun.recipe_salun_diffusion", "SalUnDiffusionRecipe", "salhub run {folder} 0"),
    RecipeEntry("rl-diffusion", "unlearn", "salhub.models.salun.recipe_salun_diffusion", "RandomClassRecipe", "salhub run {folder} 0"),
    RecipeEntry("ga-diffusion", "unlearn", "salhub.models.salun.recipe_salun_diffusion", "GradientAscentDiffusionRecipe", "salhub run {folder} 0"),
    RecipeEntry("slim-llm", "compress", "salhub.models.slim_llm.recipe_slim_llm", "SlimLLMRecipe", 'salhub run {folder} "The film"'),
)
# fmt: on

# Functions of a method that are useful alone: public name -> module.
FUNCTIONS = {
    "quantize_apiq_saliency": "salhub.models.apiq_saliency.quantize_model",
    "merge_adapters": "salhub.models.apiq_saliency.merging",
    "context_aware_saliency": "salhub.models.salient_relevance.context_aware_saliency",
    "clip_sensitivity": "salhub.models.sdl_seg.sensitivity",
    "load_volume": "salhub.models.sdl_seg.volume_files",
    "make_breast_phantom": "salhub.models.sdl_seg.phantom",
    "detect_markers": "salhub.models.sdl_seg.marker_detection",
    "read_nnunet": "salhub.models.sdl_seg.nnunet_folder",
    "write_nnunet": "salhub.models.sdl_seg.nnunet_folder",
    "LatencyTable": "salhub.models.nvit.latency_table",
    "load_nvit_pruner": "salhub.models.nvit.planning",
    "quantize_slim_llm": "salhub.models.slim_llm.quantize_model",
    "RepMTLRegularizer": "salhub.models.rep_mtl.rep_mtl_regularizer",
    "rep_mtl_terms": "salhub.models.rep_mtl.rep_mtl_terms",
}

register(tasks=_TASKS, methods=_METHODS, models=_MODELS, recipes=_RECIPES)


class AutoModelForSaliency:
    """Load any salhub model by name, whatever its method.

    Example:
        >>> model = AutoModelForSaliency.from_pretrained("salhub/normgrad-efficientnet-lite0")
        >>> type(model).__name__
        'NormGradForImageSaliency'
    """

    def __init__(self) -> None:
        raise OSError(
            "AutoModelForSaliency cannot be created directly; use "
            "AutoModelForSaliency.from_pretrained."
        )

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
        from salhub.hub import load

        entry = entry_of(name, **kwargs)
        refuse_network(entry, os.fspath(name))
        return load(entry.model_class, name, *arguments, **kwargs)

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """Build a model with fresh weights from a configuration."""
        return entry_of(config).model_class(config)
