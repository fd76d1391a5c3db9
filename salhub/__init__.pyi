# Written by `python -m salhub.stub`.
import os
from typing import Any, Literal, overload

from torch import nn

from salhub.pipelines.base import TaskPipeline
from salhub.auto import AutoModelForSaliency as AutoModelForSaliency
from salhub.backbones.cifar_resnet.configuration_cifar_resnet import CifarResNetConfig as CifarResNetConfig
from salhub.backbones.cifar_resnet.modeling_cifar_resnet import CifarResNetForImageClassification as CifarResNetForImageClassification
from salhub.backbones.conditional_unet.configuration_conditional_unet import ConditionalUNetConfig as ConditionalUNetConfig
from salhub.backbones.conditional_unet.modeling_conditional_unet import ConditionalUNetForDiffusion as ConditionalUNetForDiffusion
from salhub.backbones.efficientnet_lite.configuration_efficientnet_lite import EfficientNetLiteConfig as EfficientNetLiteConfig
from salhub.backbones.efficientnet_lite.modeling_efficientnet_lite import EfficientNetLiteForImageClassification as EfficientNetLiteForImageClassification
from salhub.backbones.text_classifier.configuration_text_classifier import TextClassifierConfig as TextClassifierConfig
from salhub.backbones.text_classifier.modeling_text_classifier import TextClassifierForSequenceClassification as TextClassifierForSequenceClassification
from salhub.configuration import SaliencyConfig as SaliencyConfig
from salhub.data.text_sources import load_text as load_text
from salhub.hub import seed_cache as seed_cache
from salhub.listing import list_models as list_models
from salhub.modeling import ParameterFreeModel as ParameterFreeModel
from salhub.modeling import SaliencyPreTrainedModel as SaliencyPreTrainedModel
from salhub.models.active_contour.configuration_active_contour import SaliencyActiveContourConfig as SaliencyActiveContourConfig
from salhub.models.active_contour.modeling_active_contour import SaliencyActiveContourForSegmentation as SaliencyActiveContourForSegmentation
from salhub.models.active_contour.pipeline_active_contour import ImageSegmentationPipeline
from salhub.models.active_contour.result_active_contour import ImageSegmentationResult
from salhub.models.apiq_saliency.merging import merge_adapters as merge_adapters
from salhub.models.apiq_saliency.quantization_apiq_saliency import ApiQSaliencyQuantizer as ApiQSaliencyQuantizer
from salhub.models.apiq_saliency.quantize_model import quantize_apiq_saliency as quantize_apiq_saliency
from salhub.models.disa.configuration_disa import DiSaConfig as DiSaConfig
from salhub.models.disa.modeling_disa import DiSaForImageClassification as DiSaForImageClassification
from salhub.models.disa.pipeline_disa import ZeroShotImageClassificationPipeline
from salhub.models.disa.result_disa import ZeroShotImageClassificationResult
from salhub.models.editiq.configuration_editiq import EditIQConfig as EditIQConfig
from salhub.models.editiq.modeling_editiq import EditIQModel as EditIQModel
from salhub.models.editiq.pipeline_editiq import VideoEditingPipeline
from salhub.models.editiq.result_editiq import VideoEditingResult
from salhub.models.lexrank.configuration_lexrank import LexRankConfig as LexRankConfig
from salhub.models.lexrank.modeling_lexrank import LexRankModel as LexRankModel
from salhub.models.lexrank.pipeline_lexrank import ExtractiveSummarizationPipeline
from salhub.models.lexrank.result_lexrank import ExtractiveSummarizationResult
from salhub.models.normgrad.configuration_normgrad import NormGradConfig as NormGradConfig
from salhub.models.normgrad.modeling_normgrad import NormGradForImageSaliency as NormGradForImageSaliency
from salhub.models.nvit.configuration_nvit import NViTConfig as NViTConfig
from salhub.models.nvit.latency_table import LatencyTable as LatencyTable
from salhub.models.nvit.modeling_nvit import NViTForImageClassification as NViTForImageClassification
from salhub.models.nvit.planning import load_nvit_pruner as load_nvit_pruner
from salhub.models.rep_mtl.configuration_rep_mtl import RepMTLConfig as RepMTLConfig
from salhub.models.rep_mtl.modeling_rep_mtl import RepMTLForMultiTask as RepMTLForMultiTask
from salhub.models.rep_mtl.pipeline_rep_mtl import MultiTaskPipeline
from salhub.models.rep_mtl.rep_mtl_regularizer import RepMTLRegularizer as RepMTLRegularizer
from salhub.models.rep_mtl.rep_mtl_terms import rep_mtl_terms as rep_mtl_terms
from salhub.models.rep_mtl.result_rep_mtl import MultiTaskResult
from salhub.models.salient_relevance.configuration_salient_relevance import SalientRelevanceConfig as SalientRelevanceConfig
from salhub.models.salient_relevance.context_aware_saliency import context_aware_saliency as context_aware_saliency
from salhub.models.salient_relevance.modeling_salient_relevance import SalientRelevanceForImageSaliency as SalientRelevanceForImageSaliency
from salhub.models.salun.configuration_salun import SalUnConfig as SalUnConfig
from salhub.models.salun.configuration_salun_diffusion import SalUnDiffusionConfig as SalUnDiffusionConfig
from salhub.models.salun.modeling_salun import SalUnForImageClassification as SalUnForImageClassification
from salhub.models.salun.modeling_salun_diffusion import SalUnForConditionalDiffusion as SalUnForConditionalDiffusion
from salhub.models.salun.pipeline_salun_diffusion import ImageGenerationPipeline
from salhub.models.salun.result_salun_diffusion import ImageGenerationResult
from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig as SDLSegConfig
from salhub.models.sdl_seg.marker_detection import detect_markers as detect_markers
from salhub.models.sdl_seg.modeling_sdl_seg import SDLSegForVolumeSegmentation as SDLSegForVolumeSegmentation
from salhub.models.sdl_seg.nnunet_folder import read_nnunet as read_nnunet
from salhub.models.sdl_seg.nnunet_folder import write_nnunet as write_nnunet
from salhub.models.sdl_seg.phantom import make_breast_phantom as make_breast_phantom
from salhub.models.sdl_seg.pipeline_sdl_seg import VolumeSegmentationPipeline
from salhub.models.sdl_seg.result_sdl_seg import VolumeSegmentationResult
from salhub.models.sdl_seg.sensitivity import clip_sensitivity as clip_sensitivity
from salhub.models.sdl_seg.volume_files import load_volume as load_volume
from salhub.models.slim_llm.quantization_slim_llm import SlimLLMQuantizer as SlimLLMQuantizer
from salhub.models.slim_llm.quantize_model import quantize_slim_llm as quantize_slim_llm
from salhub.models.verbalizer.configuration_verbalizer import VerbalizerConfig as VerbalizerConfig
from salhub.models.verbalizer.modeling_verbalizer import SaliencyVerbalizerModel as SaliencyVerbalizerModel
from salhub.models.verbalizer.pipeline_verbalizer import SaliencyVerbalizationPipeline
from salhub.models.verbalizer.result_verbalizer import SaliencyVerbalizationResult
from salhub.outputs import ImageSaliencyOutput as ImageSaliencyOutput
from salhub.outputs import SaliencyOutput as SaliencyOutput
from salhub.pipelines.image_classification import ImageClassificationPipeline
from salhub.pipelines.image_classification_result import ImageClassificationResult
from salhub.pipelines.image_saliency import ImageSaliencyPipeline
from salhub.pipelines.image_saliency_result import ImageSaliencyResult
from salhub.pipelines.text_generation import TextGenerationPipeline
from salhub.pipelines.text_generation_result import TextGenerationResult
from salhub.processing import load_image as load_image

__version__: str
__all__ = [
    "ApiQSaliencyQuantizer",
    "AutoModelForSaliency",
    "CifarResNetConfig",
    "CifarResNetForImageClassification",
    "ConditionalUNetConfig",
    "ConditionalUNetForDiffusion",
    "DiSaConfig",
    "DiSaForImageClassification",
    "EditIQConfig",
    "EditIQModel",
    "EfficientNetLiteConfig",
    "EfficientNetLiteForImageClassification",
    "ImageSaliencyOutput",
    "LatencyTable",
    "LexRankConfig",
    "LexRankModel",
    "NViTConfig",
    "NViTForImageClassification",
    "NormGradConfig",
    "NormGradForImageSaliency",
    "ParameterFreeModel",
    "RepMTLConfig",
    "RepMTLForMultiTask",
    "RepMTLRegularizer",
    "SDLSegConfig",
    "SDLSegForVolumeSegmentation",
    "SalUnConfig",
    "SalUnDiffusionConfig",
    "SalUnForConditionalDiffusion",
    "SalUnForImageClassification",
    "SaliencyActiveContourConfig",
    "SaliencyActiveContourForSegmentation",
    "SaliencyConfig",
    "SaliencyOutput",
    "SaliencyPreTrainedModel",
    "SaliencyVerbalizerModel",
    "SalientRelevanceConfig",
    "SalientRelevanceForImageSaliency",
    "SlimLLMQuantizer",
    "TextClassifierConfig",
    "TextClassifierForSequenceClassification",
    "VerbalizerConfig",
    "clip_sensitivity",
    "context_aware_saliency",
    "detect_markers",
    "list_models",
    "load_image",
    "load_nvit_pruner",
    "load_text",
    "load_volume",
    "make_breast_phantom",
    "merge_adapters",
    "pipeline",
    "quantize_apiq_saliency",
    "quantize_slim_llm",
    "read_nnunet",
    "rep_mtl_terms",
    "seed_cache",
    "write_nnunet",
]

class _ImageSaliencyPipeline(ImageSaliencyPipeline):
    @overload
    def __call__(
        self, images: list[Any] | tuple[Any, ...], *, class_labels: Any = ..., fit: Any = ..., **others: Any
    ) -> list[ImageSaliencyResult]: ...
    @overload
    def __call__(
        self, images: Any, *, class_labels: Any = ..., fit: Any = ..., **others: Any
    ) -> ImageSaliencyResult: ...

class _ImageClassificationPipeline(ImageClassificationPipeline):
    @overload
    def __call__(
        self, images: list[Any] | tuple[Any, ...], *, top_k: Any = ..., **others: Any
    ) -> list[ImageClassificationResult]: ...
    @overload
    def __call__(
        self, images: Any, *, top_k: Any = ..., **others: Any
    ) -> ImageClassificationResult: ...

class _ImageSegmentationPipeline(ImageSegmentationPipeline):
    @overload
    def __call__(
        self, images: list[Any] | tuple[Any, ...], *, saliency_map: Any = ..., mask: Any = ..., preset: Any = ..., box: Any = ..., points: Any = ..., radius: Any = ..., compare_starts: Any = ..., min_area: Any = ..., fill_holes: Any = ..., keep: Any = ..., **others: Any
    ) -> list[ImageSegmentationResult]: ...
    @overload
    def __call__(
        self, images: Any, *, saliency_map: Any = ..., mask: Any = ..., preset: Any = ..., box: Any = ..., points: Any = ..., radius: Any = ..., compare_starts: Any = ..., min_area: Any = ..., fill_holes: Any = ..., keep: Any = ..., **others: Any
    ) -> ImageSegmentationResult: ...

class _ExtractiveSummarizationPipeline(ExtractiveSummarizationPipeline):
    @overload
    def __call__(
        self, texts: list[Any] | tuple[Any, ...], *, budget: Any = ..., query: Any = ..., order: Any = ..., together: Literal[True], **others: Any
    ) -> ExtractiveSummarizationResult: ...
    @overload
    def __call__(
        self, texts: list[Any] | tuple[Any, ...], *, budget: Any = ..., query: Any = ..., order: Any = ..., together: Any = ..., **others: Any
    ) -> list[ExtractiveSummarizationResult]: ...
    @overload
    def __call__(
        self, texts: Any, *, budget: Any = ..., query: Any = ..., order: Any = ..., together: Any = ..., **others: Any
    ) -> ExtractiveSummarizationResult: ...

class _ImageGenerationPipeline(ImageGenerationPipeline):
    @overload
    def __call__(
        self, class_labels: list[Any] | tuple[Any, ...], *, num_images: Any = ..., num_steps: Any = ..., guidance_scale: Any = ..., eta: Any = ..., seed: Any = ..., **others: Any
    ) -> list[ImageGenerationResult]: ...
    @overload
    def __call__(
        self, class_labels: Any, *, num_images: Any = ..., num_steps: Any = ..., guidance_scale: Any = ..., eta: Any = ..., seed: Any = ..., **others: Any
    ) -> ImageGenerationResult: ...

class _SaliencyVerbalizationPipeline(SaliencyVerbalizationPipeline):
    @overload
    def __call__(
        self, texts: list[Any] | tuple[Any, ...], *, class_labels: Any = ..., contrast: Any = ..., **others: Any
    ) -> list[SaliencyVerbalizationResult]: ...
    @overload
    def __call__(
        self, texts: Any, *, class_labels: Any = ..., contrast: Any = ..., **others: Any
    ) -> SaliencyVerbalizationResult: ...

class _MultiTaskPipeline(MultiTaskPipeline):
    @overload
    def __call__(
        self, images: list[Any] | tuple[Any, ...], **others: Any
    ) -> list[MultiTaskResult]: ...
    @overload
    def __call__(
        self, images: Any, **others: Any
    ) -> MultiTaskResult: ...

class _VolumeSegmentationPipeline(VolumeSegmentationPipeline):
    @overload
    def __call__(
        self, volumes: list[Any] | tuple[Any, ...], *, markers: Any = ..., roi: Any = ..., truth: Any = ..., spacing: Any = ..., **others: Any
    ) -> list[VolumeSegmentationResult]: ...
    @overload
    def __call__(
        self, volumes: Any, *, markers: Any = ..., roi: Any = ..., truth: Any = ..., spacing: Any = ..., **others: Any
    ) -> VolumeSegmentationResult: ...

class _VideoEditingPipeline(VideoEditingPipeline):
    @overload
    def __call__(
        self, films: list[Any] | tuple[Any, ...], *, transcript: Any = ..., tracks: Any = ..., size: Any = ..., encoder: Any = ..., start_timecode: Any = ..., edl_rate: Any = ..., address: Any = ..., cast: Any = ..., locks: Any = ..., detector: Any = ..., saliency_maps: Any = ..., understand: Any = ..., resume: Any = ..., progress: Any = ..., **others: Any
    ) -> list[VideoEditingResult]: ...
    @overload
    def __call__(
        self, films: Any, *, transcript: Any = ..., tracks: Any = ..., size: Any = ..., encoder: Any = ..., start_timecode: Any = ..., edl_rate: Any = ..., address: Any = ..., cast: Any = ..., locks: Any = ..., detector: Any = ..., saliency_maps: Any = ..., understand: Any = ..., resume: Any = ..., progress: Any = ..., **others: Any
    ) -> VideoEditingResult: ...

class _ZeroShotImageClassificationPipeline(ZeroShotImageClassificationPipeline):
    @overload
    def __call__(
        self, images: list[Any] | tuple[Any, ...], *, candidate_labels: Any = ..., explain: Any = ..., top_k: Any = ..., compare_frozen: Any = ..., **others: Any
    ) -> list[ZeroShotImageClassificationResult]: ...
    @overload
    def __call__(
        self, images: Any, *, candidate_labels: Any = ..., explain: Any = ..., top_k: Any = ..., compare_frozen: Any = ..., **others: Any
    ) -> ZeroShotImageClassificationResult: ...

class _TextGenerationPipeline(TextGenerationPipeline):
    @overload
    def __call__(
        self, texts: list[Any] | tuple[Any, ...], *, max_new_tokens: Any = ..., temperature: Any = ..., top_p: Any = ..., repetition_penalty: Any = ..., seed: Any = ..., **others: Any
    ) -> list[TextGenerationResult]: ...
    @overload
    def __call__(
        self, texts: Any, *, max_new_tokens: Any = ..., temperature: Any = ..., top_p: Any = ..., repetition_penalty: Any = ..., seed: Any = ..., **others: Any
    ) -> TextGenerationResult: ...

@overload
def pipeline(
    model: Literal[
        "gradcam-efficientnet-lite0",
        "salhub/gradcam-efficientnet-lite0",
        "normgrad-efficientnet-lite0",
        "salhub/normgrad-efficientnet-lite0",
        "salient-relevance-efficientnet-lite0",
        "salhub/salient-relevance-efficientnet-lite0",
        "normgrad",
        "salient_relevance",
        "salient-relevance",
    ],
    /,
    **settings: Any,
) -> _ImageSaliencyPipeline: ...

@overload
def pipeline(
    model: Literal[
        "deit-nano-cifar10",
        "salhub/deit-nano-cifar10",
        "nvit-cifar10-050",
        "salhub/nvit-cifar10-050",
        "nvit-cifar10-075",
        "salhub/nvit-cifar10-075",
        "salun-resnet8-cifar10",
        "salhub/salun-resnet8-cifar10",
        "salun-resnet8-cifar10-original",
        "salhub/salun-resnet8-cifar10-original",
        "salun-resnet8-cifar10-retrained",
        "salhub/salun-resnet8-cifar10-retrained",
        "salun",
        "nvit",
    ],
    /,
    **settings: Any,
) -> _ImageClassificationPipeline: ...

@overload
def pipeline(
    model: Literal[
        "active-contour-saliency",
        "salhub/active-contour-saliency",
        "active_contour",
        "active-contour",
    ],
    /,
    **settings: Any,
) -> _ImageSegmentationPipeline: ...

@overload
def pipeline(
    model: Literal[
        "lexrank-minilm",
        "salhub/lexrank-minilm",
        "lexrank-news-en",
        "salhub/lexrank-news-en",
        "lexrank",
    ],
    /,
    **settings: Any,
) -> _ExtractiveSummarizationPipeline: ...

@overload
def pipeline(
    model: Literal[
        "salun-ddpm-mnist",
        "salhub/salun-ddpm-mnist",
        "salun-ddpm-mnist-original",
        "salhub/salun-ddpm-mnist-original",
        "salun-ddpm-mnist-retrained",
        "salhub/salun-ddpm-mnist-retrained",
        "salun_diffusion",
        "salun-diffusion",
    ],
    /,
    **settings: Any,
) -> _ImageGenerationPipeline: ...

@overload
def pipeline(
    model: Literal[
        "verbalizer-movie-reviews",
        "salhub/verbalizer-movie-reviews",
        "verbalizer-news-topics",
        "salhub/verbalizer-news-topics",
        "verbalizer",
    ],
    /,
    **settings: Any,
) -> _SaliencyVerbalizationPipeline: ...

@overload
def pipeline(
    model: Literal[
        "rep-mtl-rooms",
        "salhub/rep-mtl-rooms",
        "rep_mtl",
        "rep-mtl",
    ],
    /,
    **settings: Any,
) -> _MultiTaskPipeline: ...

@overload
def pipeline(
    model: Literal[
        "sdl-seg-phantom",
        "salhub/sdl-seg-phantom",
        "unet-phantom",
        "salhub/unet-phantom",
        "sdl_seg",
        "sdl-seg",
    ],
    /,
    **settings: Any,
) -> _VolumeSegmentationPipeline: ...

@overload
def pipeline(
    model: Literal[
        "editiq-stage",
        "salhub/editiq-stage",
        "editiq",
    ],
    /,
    **settings: Any,
) -> _VideoEditingPipeline: ...

@overload
def pipeline(
    model: Literal[
        "disa-tiny-clip-cifar10",
        "salhub/disa-tiny-clip-cifar10",
        "disa",
    ],
    /,
    **settings: Any,
) -> _ZeroShotImageClassificationPipeline: ...

@overload
def pipeline(
    model: Literal[
        "apiq-saliency-tiny-llama-w2",
        "salhub/apiq-saliency-tiny-llama-w2",
        "slim-llm-tiny-llama-w2",
        "salhub/slim-llm-tiny-llama-w2",
        "slim-llm-tiny-llama-w3",
        "salhub/slim-llm-tiny-llama-w3",
        "tiny-llama-en",
        "salhub/tiny-llama-en",
        "apiq_saliency",
        "apiq-saliency",
        "slim_llm",
        "slim-llm",
    ],
    /,
    **settings: Any,
) -> _TextGenerationPipeline: ...

@overload
def pipeline(
    model: str | os.PathLike[str] | nn.Module, /, **settings: Any
) -> TaskPipeline: ...
