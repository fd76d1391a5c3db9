"""Base of the methods that explain a classifier: any of transformers', or any module."""

import copy
import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor
from transformers.initialization import no_init_weights

from salhub.config_fields import check_fields
from salhub.errors import UnknownSettingError, did_you_mean
from salhub.explaining.concurrency import exclusive_use
from salhub.explaining.configuration_explained_classifier import (
    PLACE_FIELDS,
    ExplainedClassifierConfig,
)
from salhub.explaining.picture_size import refuse_other_size
from salhub.explaining.usable_network import refuse_scripted, refuse_unusable
from salhub.hub import HUB_KEYWORDS, hub_keywords, resolve
from salhub.loading_keywords import CHECKED_KEYWORDS, with_one_precision
from salhub.manifest import NAMESPACE
from salhub.modeling import (
    SaliencyPreTrainedModel,
    attribution_scope,
    load_trained,
    refuse_broken_network,
    refuse_broken_weights,
)
from salhub.ops.class_scores import without_positions
from salhub.saving import unwrapped

logger = logging.getLogger(__name__)

# Normalised pixels rarely pass 3; beyond this they are still in 0..255.
_SUSPICIOUS_PIXEL = 20.0
# Keywords of loading a classifier, which are no fields of the configuration.
_LOADING = frozenset(
    {
        *HUB_KEYWORDS,
        *CHECKED_KEYWORDS,
        "attn_implementation",
        "device_map",
        "dtype",
        "max_memory",
        "offload_folder",
        "quantization_config",
        "variant",
    }
)
_NOTHING_MISSING = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}


def refuses_unusable(method: Callable) -> Callable:
    """Make a method of an explainer refuse a network that can give no answer.

    Args:
        method: What asks the network; gives tensors, or outputs with `logits` and `saliency`, or a
            mapping to such.

    Raises:
        ValueError: By what it makes of the method: weights that are not here, that are no numbers,
            naming the first, or without gradients.
    """

    @functools.wraps(method)
    def call(self: "ExplainedClassifierModel", *arguments: Any, **keywords: Any) -> Any:
        refuse_unusable(self.backbone, needs_gradients="image" in self.input_modalities)
        try:
            found = method(self, *arguments, **keywords)
        except (RuntimeError, ValueError):
            # Where weights are no numbers, or pictures of another size, that is why.
            refuse_broken_network(self.backbone)
            pixels = keywords.get("pixel_values", *arguments[:1])
            if getattr(pixels, "ndim", 0) == 4:
                refuse_other_size(self.backbone, self.config.backbone_config, pixels)
            raise
        # Maps of one pass come with the same logits.
        for answer in {id(one): one for one in _answers_in(found)}.values():
            refuse_broken_weights(self.backbone, answer)
        return found

    return call


def _answers_in(found: Any) -> Iterator[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        yield found
    elif hasattr(found, "logits"):
        # A map is a number wherever that of the layer, which is smaller, is one.
        maps = [getattr(found, name, None) for name in ("native_saliency", "saliency")]
        parts = [found.logits, *[one for one in maps if one is not None][:1]]
        yield from (part for part in parts if part is not None)
    elif isinstance(found, dict):
        for one in found.values():
            yield from _answers_in(one)


class ExplainedClassifierModel(SaliencyPreTrainedModel):
    """A frozen classifier, held as `backbone`, and what is needed to explain it.

    It is one of pictures, unless a subclass names another Auto class.
    """

    auto_class: ClassVar[str] = "AutoModelForImageClassification"
    # What a call is asked for beside the map, where a person is to read the answer.
    answer_keywords: ClassVar[Mapping[str, Any]] = {}

    config: ExplainedClassifierConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ["image"]

    def __init__(
        self, config: ExplainedClassifierConfig, backbone: nn.Module | None = None
    ) -> None:
        super().__init__(config)
        if backbone is None:
            self.backbone = _build(config, self.auto_class)
            self.post_init()
            return
        refuse_scripted(backbone)
        self.backbone = backbone
        self.training = backbone.training
        # A trained classifier must not be initialised again.
        with no_init_weights():
            self.post_init()

    def class_notes(self, similarity: float | None, label: str) -> list[str]:
        """Sentences for a person whose map hardly depends on the class, none by default.

        Args:
            similarity: `class_similarity` of the output, None where it was not measured.
            label: The class explained.
        """
        return []

    def constant_notes(self) -> list[str]:
        """Sentences for a person whose map is constant, none by default."""
        return []

    def layer_notes(self, silent: Sequence[str]) -> list[str]:
        """Sentences for a person whose map has nothing of some layers, none by default.

        Args:
            silent: Names of these layers.
        """
        return []

    @classmethod
    def from_classifier(
        cls,
        classifier: str | os.PathLike | nn.Module,
        **settings: Any,
    ) -> Self:
        """Wrap a classifier of your own.

        Args:
            classifier: A folder, a name ("microsoft/resnet-50", "salhub/efficientnet-lite0"), a
                transformers classifier, or any module that maps (B, 3, H, W) to logits.
            **settings: Fields of the configuration; for a classifier given by name also
                `dtype`, `device_map` and the keywords of the Hub, such as `revision`.

        A module given as an object is used as it is: it is not copied, converted or put into
        another mode, and its weights are never changed. Of a compiled one, or one that is spread
        over devices by `DataParallel`, the network inside is explained.

        Raises:
            ValueError: The named checkpoint has no trained classification head, or a setting is
                unknown.

        Example:
            >>> from salhub import NormGradForImageSaliency
            >>> model = NormGradForImageSaliency.from_classifier("salhub/efficientnet-lite0")
        """
        loading: dict[str, Any] = {}
        settings = with_one_precision(settings)
        _refuse_other_keywords(cls.config_class, settings)
        if isinstance(classifier, nn.Module):
            given = sorted(_LOADING & settings.keys() - {"dtype"})
            if given:
                raise ValueError(
                    f"{given[0]} applies only to classifiers loaded by name; this one is "
                    "already loaded, so leave it out."
                )
            if "dtype" in settings:
                raise ValueError(
                    "dtype applies only to classifiers loaded by name; convert the module "
                    "yourself with module.to(dtype)."
                )
            backbone, name = unwrapped(classifier), None
        else:
            loading = {key: settings.pop(key) for key in _LOADING & settings.keys()}
            backbone = load_classifier(classifier, auto_class=cls.auto_class, **loading)
            name = os.fspath(classifier)
        config = cls.config_class(
            backbone_config=_own_config(backbone),
            # A folder of this machine means nothing to whoever loads the configuration elsewhere.
            backbone=None if name is None or os.path.isdir(name) else name,
            backbone_revision=loading.get("revision"),
            backbone_subfolder=loading.get("subfolder"),
            dtype=getattr(backbone, "dtype", None),
            **settings,
        )
        return cls(config, backbone=backbone)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *arguments: Any, **kwargs: Any
    ) -> Self:
        """Load a model by name; see `SaliencyPreTrainedModel.from_pretrained`."""
        if pretrained_model_name_or_path is None:
            return super().from_pretrained(None, *arguments, **kwargs)
        kwargs = with_one_precision(kwargs)
        config = kwargs.pop("config", None)
        if not isinstance(config, cls.config_class):
            config_class: Any = cls.config_class
            own = config_class.field_names()
            names = [key for key in kwargs if key in own or hasattr(config_class, key)]
            fields = {key: kwargs.pop(key) for key in names if key != "dtype"}
            where = hub_keywords(kwargs)
            config = config_class.from_pretrained(
                config or pretrained_model_name_or_path, **where, **fields
            )
        if config.backbone is None or config.backbone_config is not None:
            return super().from_pretrained(
                pretrained_model_name_or_path, *arguments, config=config, **kwargs
            )
        # Saved with save_backbone=False: a configuration and no weight file. Revision and subfolder
        # are those of the explainer, not of the classifier it refers to.
        loading = {key: kwargs[key] for key in kwargs.keys() - {"revision", "subfolder"}}
        with_info = loading.pop("output_loading_info", False)
        # The classifier would take others for fields of its own; Auto classes add `adapter_kwargs`.
        for name in loading.keys() - _LOADING - {"adapter_kwargs"}:
            raise UnknownSettingError(cls.__name__, name, config.field_names() | _LOADING)
        backbone = load_classifier(
            config.backbone, auto_class=cls.auto_class, **config.backbone_place, **loading
        )
        config.backbone_config = _own_config(backbone)
        model = cls(config, backbone=backbone)
        return (model, _NOTHING_MISSING) if with_info else model

    def save_pretrained(
        self, save_directory: str | os.PathLike, *, save_backbone: bool = True, **kwargs: Any
    ) -> None:
        """Save the model.

        Args:
            save_directory: Folder to write.
            save_backbone: Save the classifier's weights too; otherwise only its name.
            **kwargs: As in transformers.

        Raises:
            ValueError: The classifier is a plain module, or has no name to refer to.
        """
        if self.config.backbone_config is None:
            raise ValueError(
                f"The explained classifier is a plain {type(self.backbone).__name__} without a "
                "transformers configuration, so it cannot be saved; save its own state and call "
                "from_classifier(...) again."
            )
        if save_backbone:
            return super().save_pretrained(save_directory, **kwargs)
        if self.config.backbone is None:
            raise ValueError(
                "save_backbone=False stores only the classifier's name on the Hub, but this "
                "classifier has none; save the weights too."
            )
        config = type(self.config).from_dict({**self.config.to_dict(), "backbone_config": None})
        config.architectures = [type(self).__name__]
        return config.save_pretrained(save_directory, **kwargs)

    @refuses_unusable
    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Explain, see `forward`; what can have no answer is refused.

        Raises:
            ValueError: Weights that are not here, that are no numbers, or without gradients.
        """
        return super().__call__(*arguments, **keywords)

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the classifier, or None when a plain module does not say."""
        config = self.config.backbone_config
        return None if config is None else config.num_labels

    @property
    def id2label(self) -> dict[int, str]:
        """Class names by class index; empty when the classifier has none."""
        config = self.config.backbone_config
        return getattr(config, "id2label", None) or {}

    def classify(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the classifier's logits, (B, C), or (B, C, h, w) for a fully convolutional one."""
        outputs = self.backbone(pixel_values)
        if isinstance(outputs, torch.Tensor):
            return outputs
        return outputs.logits if hasattr(outputs, "logits") else outputs[0]

    @property
    def num_channels(self) -> int:
        """Channels of the pictures that the classifier takes; 3 where a plain module is silent."""
        config = self.config.backbone_config
        if config is not None:
            return getattr(config, "num_channels", None) or 3
        convolution = next((m for m in self.backbone.modules() if isinstance(m, nn.Conv2d)), None)
        return 1 if convolution is not None and convolution.in_channels == 1 else 3

    @refuses_unusable
    def class_scores(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the raw score of every class, (B, C), without explaining anything.

        Args:
            pixel_values: Pictures from the classifier's image processor, on the model's device.
        """
        with exclusive_use(self.backbone), attribution_scope(self), torch.no_grad():
            return without_positions(self.classify(pixel_values))

    def adopt_image_processor(self, image_processor: BaseImageProcessor) -> None:
        """Learn what a method needs to know of how pictures are prepared; most need nothing."""

    def check_pixel_values(self, pixel_values: torch.Tensor) -> None:
        """Refuse pictures that the classifier cannot have been meant to see.

        Args:
            pixel_values: Pictures, floating point, (B, channels, H, W).

        Raises:
            TypeError: Not a floating-point tensor.
            ValueError: Wrong shape, or NaN or infinite values.
        """
        if not isinstance(pixel_values, torch.Tensor) or not pixel_values.is_floating_point():
            kind = getattr(pixel_values, "dtype", type(pixel_values).__name__)
            raise TypeError(
                f"pixel_values must be a floating-point tensor, got {kind}; prepare pictures with "
                "the classifier's image processor."
            )
        channels = self.num_channels
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
            raise ValueError(
                f"pixel_values must have shape (batch, {channels}, height, width), got "
                f"{tuple(pixel_values.shape)}; prepare pictures with the image processor."
            )
        if pixel_values.numel() == 0:
            raise ValueError("pixel_values is empty; give at least one picture.")
        low, high = pixel_values.detach().aminmax()
        largest = torch.maximum(-low, high)
        if not torch.isfinite(largest):
            raise ValueError("pixel_values has NaN or infinite values; check the picture.")
        if largest > _SUSPICIOUS_PIXEL:
            logger.warning(
                "pixel_values reach %.0f, so they do not look normalized (0 to 255); "
                "prepare pictures with the classifier's image processor.",
                float(largest),
            )

    def check_class_labels(
        self, class_labels: torch.Tensor | Sequence[int] | int | None, batch_size: int
    ) -> torch.Tensor | None:
        """Check the classes to explain before any work is done.

        Args:
            class_labels: None for the most likely class; one class for all pictures; one a
                picture, (B,); or several a picture, (B, T).
            batch_size: Number of pictures, B.

        Returns:
            int64 (B, T) on the model's device, or None.

        Raises:
            TypeError: Not integers.
            ValueError: Wrong shape, or a class out of range.
        """
        if class_labels is None:
            return None
        try:
            labels = torch.as_tensor(class_labels, device=self.device)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise TypeError(
                "class_labels must be integers, the same number for every picture, got "
                f"{class_labels!r}."
            ) from None
        is_integer = not (labels.is_floating_point() or labels.is_complex())
        if labels.numel() and (not is_integer or labels.dtype == torch.bool):
            raise TypeError(f"class_labels must be integers, got {labels.dtype}.")
        if labels.ndim == 0:
            labels = labels.expand(batch_size)
        if labels.ndim not in (1, 2) or labels.shape[0] != batch_size or labels.numel() == 0:
            raise ValueError(
                f"class_labels must have shape ({batch_size},) or ({batch_size}, classes) for "
                f"{batch_size} pictures, got {tuple(labels.shape)}."
            )
        if self.num_classes is not None:
            check_class_range(labels, self.num_classes)
        return labels.long().reshape(batch_size, -1)


def _refuse_other_keywords(config_class: Any, settings: Mapping[str, Any]) -> None:
    """Fields that every configuration has, such as `num_labels`, would change nothing here."""
    known = config_class.field_names() - set(PLACE_FIELDS) | _LOADING
    for name in settings:
        if name not in known and not name.startswith("_"):
            raise ValueError(
                f"{config_class.__name__} has no field '{name}' that a call can "
                f"set.{did_you_mean(name, known)} The classes come from the classifier."
            )


def check_class_range(labels: torch.Tensor, num_classes: int) -> None:
    """Raises ValueError, naming one, unless all classes are in range; there is at least one."""
    for label in map(int, labels.aminmax()):
        if not 0 <= label < num_classes:
            raise ValueError(
                f"class {label} is out of range: the classifier has {num_classes} classes, 0 to "
                f"{num_classes - 1}."
            )


def load_classifier(
    name: str | os.PathLike,
    *,
    auto_class: str = "AutoModelForImageClassification",
    **loading: Any,
) -> nn.Module:
    """Load a trained classifier by name.

    Args:
        name: A folder, a shipped name, or a Hub repository.
        auto_class: The Auto class of transformers that loads it.
        **loading: Keywords of transformers' `from_pretrained`, such as `dtype` and `revision`.

    Raises:
        ValueError: The checkpoint is no such classifier, or its head was never trained.
    """
    import transformers

    resolved = resolve(name, **loading)
    folder = Path(resolved.name, loading.get("subfolder") or "")
    if resolved.source == "folder" and not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} has no config.json, so it does not contain a classifier; give a "
            "folder saved by save_pretrained, or a name on the Hub."
        )
    if resolved.is_bundled:
        # An explainer without weights of its own stands for the classifier that has them.
        name = NAMESPACE + Path(resolved.weights_folder).name
    kind = f"{_kind(auto_class)} classifier"
    return load_trained(getattr(transformers, auto_class), name, kind, **loading).eval()


def _kind(auto_class: str) -> str:
    return "image" if "Image" in auto_class else "text"


def _build(config: ExplainedClassifierConfig, auto_class: str) -> nn.Module:
    import transformers

    if config.backbone_config is None:
        raise ValueError(
            f"{type(config).__name__} does not name a classifier to explain; use "
            "from_classifier('NAME or module'), or set backbone_config."
        )
    check_fields(config.backbone_config.to_dict(), "backbone_config")
    build = getattr(transformers, auto_class).from_config
    return build(config.backbone_config, trust_remote_code=False)


def _own_config(backbone: nn.Module) -> PreTrainedConfig | None:
    config = getattr(backbone, "config", None)
    if not isinstance(config, PreTrainedConfig):
        return None
    # A copy: what is set on ours must not change the classifier of the user.
    config = copy.deepcopy(config)
    config.architectures = [type(backbone).__name__]
    return config
