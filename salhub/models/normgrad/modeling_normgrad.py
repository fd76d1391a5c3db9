"""NormGrad and the extract/aggregate family of saliency methods, for any image classifier."""

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Self

import torch
from torch import Tensor, nn

from salhub.explaining.concurrency import exclusive_use
from salhub.explaining.modeling_explained_classifier import (
    ExplainedClassifierModel,
    refuses_unusable,
)
from salhub.explaining.module_state import unchanged_attributes
from salhub.explaining.picture_size import image_size_of, sides
from salhub.modeling import attribution_scope
from salhub.models.normgrad.class_scores import are_probabilities
from salhub.models.normgrad.configuration_normgrad import NormGradConfig
from salhub.models.normgrad.feature_layout import NoPositionsError, infer_layout
from salhub.models.normgrad.finished_maps import (
    asks_for_several,
    build_outputs,
    drop_class_axis,
    finish_maps,
    silent_layers,
    take_comparison,
    warn_degenerate,
    words_on_constant,
    words_on_silent,
    words_on_similarity,
)
from salhub.models.normgrad.layer_capture import LayerCapture
from salhub.models.normgrad.layer_choice import LayerChoice
from salhub.models.normgrad.layer_search import LayerProbe, SaliencyLayer, has_module
from salhub.models.normgrad.linear_head import logits_of
from salhub.models.normgrad.linear_probe import labelled_pictures, leave_one_out_accuracy
from salhub.models.normgrad.meta_step import ParameterizedClassifier, stepped_parameters
from salhub.models.normgrad.methods import INPUT_LAYER, MapMethod, method_named, method_of
from salhub.models.normgrad.saliency_pass import (
    ExplainedNetwork,
    MapRequest,
    PassResult,
    join_results,
    requests_of,
    run_by_rule,
)
from salhub.ops.maps import normalized_weights
from salhub.outputs import ImageSaliencyOutput

logger = logging.getLogger(__name__)

_USUAL_SIZE = 224
# On a CPU, feature maps of more pictures leave the allocator's pool, and getting fresh pages from
# the system then takes as long as computing.
PICTURES_AT_ONCE = 4


class NormGradForImageSaliency(ExplainedClassifierModel):
    """Heat maps of what an image classifier looks at, for a class, at any of its layers.

    Every method of the extract/aggregate family is a setting of it: NormGrad, gradient, deconvnet,
    guided backprop, gradient x input, linear approximation, CAM, Grad-CAM (see `NormGradConfig`).
    It needs no training: one forward pass, and a backward pass down to the shallowest layer only.

    Attributes:
        reshape_transform: None, or a function from a layer's output (B, ...) to (B, K, H, W), for
            layouts that are not inferred. It is not saved.

    Example:
        >>> import torch
        >>> from salhub import NormGradForImageSaliency
        >>> model = NormGradForImageSaliency.from_classifier("salhub/efficientnet-lite0")
        >>> model(torch.zeros(1, 3, 224, 224)).saliency.shape
        torch.Size([1, 224, 224])

    Source: Rebuffi, Fong, Ji, Vedaldi, "There and Back Again: Revisiting Backpropagation Saliency
    Methods", CVPR 2020 (arXiv 2004.02866).
    """

    answer_keywords = {"return_class_similarity": True}

    config: NormGradConfig

    def __init__(self, config: NormGradConfig, backbone: nn.Module | None = None):
        super().__init__(config, backbone)
        self._choice = LayerChoice(self._probe)
        self._has_warned_probabilities = False
        self._reshape_transform: Callable[[Tensor], Tensor] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Keeps `reshape_transform` out of the sub-modules, also where it is a module."""
        if name == "reshape_transform":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def reshape_transform(self) -> Callable[[Tensor], Tensor] | None:
        """None, or a function from a layer's output (B, ...) to (B, K, H, W)."""
        return self._reshape_transform

    @reshape_transform.setter
    def reshape_transform(self, transform: Callable[[Tensor], Tensor] | None) -> None:
        if transform is not None and not callable(transform):
            raise TypeError(
                "reshape_transform must be None or a function from a layer's output to (B, "
                f"channels, height, width), got {type(transform).__name__}."
            )
        vars(self)["_reshape_transform"] = transform
        self._choice = LayerChoice(self._probe)  # layouts are read in another way from now on

    def with_settings(self, **settings: Any) -> Self:
        """As of every model; the layers found so far are known to both."""
        twin = super().with_settings(**settings)
        twin._choice = self._choice.probed_by(twin._probe)
        return twin

    def forward(
        self,
        pixel_values: Tensor,
        class_labels: Tensor | Sequence[int] | int | None = None,
        return_layer_maps: bool = False,
        return_class_similarity: bool = False,
    ) -> ImageSaliencyOutput:
        """Explains pictures.

        Args:
            pixel_values: Pictures from the classifier's image processor, (B, 3, H, W).
            class_labels: None for the most likely class; one class for all; one a picture, (B,);
                or several a picture, (B, T), which share one forward pass.
            return_layer_maps: Also return each layer's own map.
            return_class_similarity: Also say how alike the map of the least likely class is, from
                the same forward pass. Not for several classes a picture, nor after a meta step.

        Returns:
            `saliency` float32 (B, h, w) or (B, T, h, w) in `config.output_size`; `logits` (B, C);
            `class_labels`; `degenerate`, True where a map is constant (it is then all zeros);
            `native_saliency`, the map in the layer's resolution when there is one layer;
            `layer_maps`, a tuple in the order of the layers, and `class_similarity` when asked for.

        Raises:
            TypeError: pixel_values or class_labels of the wrong kind.
            ValueError: A wrong shape or class, or a layer or method that does not fit the network.
        """
        labels = self._check_inputs(pixel_values, class_labels)
        method, several = self.config.recipe, asks_for_several(class_labels)
        compares = return_class_similarity and not several and self.config.meta_step == 0
        # Of two classes, one set against the other is the other set against the one.
        if self.config.contrastive and getattr(self.config.backbone_config, "num_labels", 0) == 2:
            compares = False
        with exclusive_use(self.backbone), attribution_scope(self):
            self._check_weights_fitted(len(self.config.layers or ()))
            requests, result = self._explain_at(
                self.config.layers, [method], pixel_values, labels, compares=compares
            )
            layers = [request.layer for request in requests]
            maps = [result.maps[request].float() for request in requests]
            order = [result.depth_order.index(layer) for layer in layers]
            finished = finish_maps(self.config, maps, order, tuple(pixel_values.shape[-2:]))
        similarity = None
        if compares:
            similarity, finished, maps = take_comparison(finished, maps, result)
        native = maps[0] if len(maps) == 1 else None
        (output,) = build_outputs(finished, native, result, keep_classes=several)
        if return_layer_maps:
            output.layer_maps = tuple(drop_class_axis(one, several) for one in maps)
        output.class_similarity = similarity
        output.silent_layers = silent_layers(layers, maps, keep_classes=several)
        warn_degenerate({(method.name, ", ".join(layers)): output})
        return output

    def class_notes(self, similarity: float | None, label: str) -> list[str]:
        return words_on_similarity(similarity, label)

    def constant_notes(self) -> list[str]:
        return words_on_constant()

    def layer_notes(self, silent: Sequence[str]) -> list[str]:
        return words_on_silent(silent)

    @refuses_unusable
    def forward_grid(
        self,
        pixel_values: Tensor,
        class_labels: Tensor | Sequence[int] | int | None = None,
        *,
        methods: Iterable[str | tuple[str, str]] = ("norm_grad",),
        layers: Iterable[str] | None = None,
    ) -> dict[tuple[str, str], ImageSaliencyOutput]:
        """Explains pictures by many methods at many layers, from one forward and backward pass.

        Methods with another ReLU rule (deconvnet, guided_backprop) need one further pass a rule.

        Args:
            pixel_values: As in `forward`.
            class_labels: As in `forward`.
            methods: Names, or (extract, aggregate) pairs such as ("conv3x3", "max"), which are
                then called "conv3x3/max".
            layers: Layer names; None takes `config.layers`, or else each method's own default.

        Returns:
            (method name, layer) to an output as of `forward`. Size, scale and smoothing follow the
            configuration; layers are not joined.

        Raises:
            TypeError, ValueError: As in `forward`.

        Example:
            >>> import torch
            >>> from salhub import NormGradForImageSaliency
            >>> model = NormGradForImageSaliency.from_classifier("salhub/efficientnet-lite0")
            >>> maps = model.forward_grid(
            ...     torch.zeros(1, 3, 224, 224),
            ...     methods=["grad_cam", ("scaling", "max")],
            ...     layers=["blocks.10", "blocks.15"],
            ... )
            >>> sorted(maps)[0]
            ('grad_cam', 'blocks.10')
        """
        labels = self._check_inputs(pixel_values, class_labels)
        wanted = [method_of(method) for method in methods]
        if not wanted:
            raise ValueError("methods is empty; name at least one.")
        names = self.config.layers if layers is None else list(layers)
        with exclusive_use(self.backbone), attribution_scope(self):
            requests, result = self._explain_at(names, wanted, pixel_values, labels)
            outputs = self._finish_grid(requests, result, pixel_values, class_labels)
        warn_degenerate(outputs)
        return outputs

    def _finish_grid(
        self, requests: list[MapRequest], result: PassResult, pixel_values: Tensor, class_labels
    ) -> dict[tuple[str, str], ImageSaliencyOutput]:
        """The output of every request; maps of one size are finished together."""
        by_size: dict[torch.Size, list[MapRequest]] = {}
        for request in requests:
            by_size.setdefault(result.maps[request].shape, []).append(request)
        outputs = dict.fromkeys((request.method.name, request.layer) for request in requests)
        several = asks_for_several(class_labels)
        for group in by_size.values():
            native = torch.cat([result.maps[request].float() for request in group])
            finished = finish_maps(self.config, [native], [0], tuple(pixel_values.shape[-2:]))
            built = build_outputs(finished, native, result, keep_classes=several)
            for request, output in zip(group, built, strict=True):
                outputs[request.method.name, request.layer] = output
        return outputs

    def classify(self, pixel_values: Tensor) -> Tensor:
        """Logits (B, C), or (B, C, h, w) of a fully convolutional network.

        Raises:
            TypeError: The network puts out no logits.
            ValueError: Logits of another shape.
        """
        with unchanged_attributes(self.backbone):
            return logits_of(self.backbone(pixel_values))

    def saliency_layers(
        self, image_size: int | tuple[int, int] | None = None, *, blocks_only: bool = True
    ) -> list[SaliencyLayer]:
        """Lists the layers that can be explained, shallow to deep.

        Args:
            image_size: (height, width) or one side, in pixels; the classifier's own when None.
            blocks_only: Only the pixels and the network's blocks (elements of a ModuleList or
                Sequential); False lists every module that has positions.

        Example:
            >>> from salhub import NormGradForImageSaliency
            >>> model = NormGradForImageSaliency.from_classifier("salhub/efficientnet-lite0")
            >>> print(model.saliency_layers()[-1])
            blocks.15 (320x7x7)
        """
        with exclusive_use(self.backbone), attribution_scope(self):
            layers = self._choice.all_layers(self._size_of(image_size))
        if not blocks_only:
            return list(layers)
        return [layer for layer in layers if layer.is_block or layer.name == INPUT_LAYER]

    def default_layer(self, method: str) -> str:
        """Name the layer at which a method explains pictures of the usual size."""
        with exclusive_use(self.backbone), attribution_scope(self):
            return self._choice.find(method_named(method).layer, self._size_of(None))

    def _size_of(self, image_size: int | tuple[int, int] | None) -> tuple[int, int]:
        return sides(image_size or image_size_of(self.config.backbone_config) or _USUAL_SIZE)

    def fit_layer_weights(
        self,
        pixel_values: Tensor | Iterable[tuple[Tensor, int]],
        labels: Tensor | None = None,
        *,
        ridge: float = 0.1,
        batch_size: int = 16,
    ) -> list[float]:
        """Weighs the configured layers by how well a linear probe tells the classes apart there.

        The weights are stored in the configuration (`layer_weighting="probe"`) and saved with it.

        Args:
            pixel_values: Labelled pictures (N, 3, H, W), or a dataset of (picture, label) pairs.
            labels: Class of each picture, (N,); None for a dataset. Some class needs two pictures.
            ridge: Strength of the probe's penalty, see `leave_one_out_accuracy`.
            batch_size: Pictures run together.

        Returns:
            One weight a layer, summing to 1: the probe's leave-one-out accuracy, normalised.

        Raises:
            ValueError: Fewer than two layers configured, or labels that cannot be learnt.

        Source: Rebuffi et al. 2020 weigh layers by the ImageNet accuracy of a linear probe; the
        ridge regression and the leave-one-out estimate are ours.
        """
        layers = self.config.layers
        if layers is None or len(layers) < 2:
            raise ValueError(
                f"fit_layer_weights needs two or more layers, but config.layers is {layers}; "
                "set it first, for example to names from model.saliency_layers()."
            )
        pictures, labels = labelled_pictures(pixel_values, labels)
        self.check_pixel_values(pictures)
        with exclusive_use(self.backbone), attribution_scope(self), torch.no_grad():
            self._check_names(layers, pictures)
            features = self._pooled_features(pictures, layers, batch_size)
        accuracies = [leave_one_out_accuracy(part, labels, ridge=ridge) for part in features]
        if sum(accuracies) == 0:
            raise ValueError(
                "the probes classified no picture correctly at any layer, so there are no "
                "weights to fit; give more pictures per class."
            )
        self.config.layer_weights = normalized_weights(accuracies, len(layers))
        self.config.layer_weighting = "probe"
        return self.config.layer_weights

    def _check_inputs(self, pixel_values, class_labels) -> Tensor | None:
        self.config.validate()
        # The first parameter stands for all: a model is made in one place.
        if any(one.is_inference() for one in islice(self.backbone.parameters(), 1)):
            raise ValueError(
                "the classifier was created under torch.inference_mode(), so its parameters "
                "cannot have gradients; load it outside inference_mode."
            )
        self.check_pixel_values(pixel_values)
        labels = self.check_class_labels(class_labels, len(pixel_values))
        with torch.inference_mode(False):
            return None if labels is None else _normal(labels)

    def _prepare(self, pixel_values: Tensor) -> Tensor:
        """The pixels where the network is, in its precision and the layout it is fastest in."""
        weight = next((one for one in self.parameters() if one.is_floating_point()), pixel_values)
        layout = getattr(self.backbone, "memory_format", None)
        layout = layout if isinstance(layout, torch.memory_format) else torch.preserve_format
        pixels = pixel_values.detach().to(weight.device, weight.dtype, memory_format=layout)
        return _normal(pixels)

    def _explain(
        self,
        pixel_values: Tensor,
        labels: Tensor | None,
        requests: list[MapRequest],
        compares: bool,
    ) -> PassResult:
        size = PICTURES_AT_ONCE if pixel_values.device.type == "cpu" else len(pixel_values)
        pictures = pixel_values.split(size)
        classes = [None] * len(pictures) if labels is None else labels.split(size)
        results = [
            self._explain_requests(*group, requests, compares)
            for group in zip(pictures, classes, strict=True)
        ]
        scores = torch.cat([result.scores for result in results])
        self._warn_probabilities(scores)
        return results[0] if len(results) == 1 else join_results(results, dim=0, scores=scores)

    def _warn_probabilities(self, scores: Tensor) -> None:
        if self._has_warned_probabilities or not are_probabilities(scores):
            return
        self._has_warned_probabilities = True
        logger.warning(
            "the classifier returns probabilities (no value below 0, each row sums to 1) "
            "instead of logits, so probabilities are explained, and their gradient vanishes "
            "where the network is confident; remove its final softmax."
        )

    def _explain_requests(
        self,
        pixel_values: Tensor,
        labels: Tensor | None,
        requests: list[MapRequest],
        compares: bool,
    ) -> PassResult:
        classifier = ParameterizedClassifier(self)
        explained = ExplainedNetwork(
            self.backbone,
            classifier.classify,
            self.reshape_transform,
            self.config.contrastive,
            compares,
        )
        if self.config.meta_step == 0:
            return run_by_rule(explained, pixel_values, labels, requests)
        return self._explain_after_step(classifier, explained, pixel_values, labels, requests)

    def _explain_after_step(
        self, classifier, explained, pixel_values, labels, requests
    ) -> PassResult:
        # One by one: shifted weights differ by picture, so a batch would hold B copies of the
        # parameters and run as slow grouped convolutions.
        rows = []
        for index, picture in enumerate(pixel_values.split(1)):
            steps = stepped_parameters(
                classifier,
                picture,
                None if labels is None else labels[index],
                step=self.config.meta_step,
                ascend=self.config.meta_negate,
            )
            columns = []
            for scores, label, parameters in steps:
                one = torch.tensor([[label]], device=picture.device)
                found = run_by_rule(explained, picture, one, requests, parameters)
                # The scores reported are the network's own, from before the step.
                columns.append(PassResult(scores, one, found.maps, found.depth_order))
            rows.append(join_results(columns, dim=1, scores=columns[0].scores))
        return join_results(rows, dim=0, scores=torch.cat([row.scores for row in rows]))

    def _check_weights_fitted(self, count: int) -> None:
        if self.config.weighting == "probe" and self.config.layer_weights is None and count > 1:
            raise ValueError(
                "layer_weighting='probe' has no weights yet; call model.fit_layer_weights(pictures,"
                " labels) once, or choose 'uniform' or 'linear'."
            )

    def _probe(self, height: int, width: int) -> LayerProbe:
        channels = self.num_channels
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(1, channels, height, width, generator=generator)
        return LayerProbe(
            self.backbone, self.classify, self._prepare(noise), self.reshape_transform
        )

    def _explain_at(
        self,
        names: list[str] | None,
        methods: list[MapMethod],
        pixel_values: Tensor,
        labels: Tensor | None,
        *,
        compares: bool = False,
    ) -> tuple[list[MapRequest], PassResult]:
        """Explains at the layers named, or else at each method's default layer."""
        pixels, size = self._prepare(pixel_values), tuple(pixel_values.shape[-2:])
        if names is not None:
            self._check_names(names, pixel_values)
            requests = requests_of(methods, names)
            return requests, self._explain(pixels, labels, requests, compares)
        requests = requests_of(methods, None, lambda place: self._choice.find(place, size))
        try:
            result = self._explain(pixels, labels, requests, compares)
            if all(result.maps[request][0, 0].numel() > 1 for request in requests):
                return requests, result
        except NoPositionsError:
            pass
        # A layer remembered from larger pictures has no positions left here.
        requests = requests_of(methods, None, lambda place: self._choice.find_afresh(place, size))
        return requests, self._explain(pixels, labels, requests, compares)

    def _check_names(self, names: list[str], pixel_values: Tensor) -> None:
        if INPUT_LAYER in names and has_module(self.backbone, INPUT_LAYER):
            raise ValueError(
                "layers=['input'] means the pixels, but this network also has a module called "
                "'input', so the name is ambiguous; choose a layer inside the module or after "
                "it, or leave layers out with method='gradient' for the pixels."
            )
        self._choice.check(names, self.backbone, tuple(pixel_values.shape[-2:]))

    def _pooled_features(
        self, pictures: Tensor, layers: list[str], batch_size: int
    ) -> list[Tensor]:
        features: list[list[Tensor]] = [[] for _ in layers]
        size = tuple(pictures.shape[-2:])
        for batch in pictures.split(batch_size):
            with LayerCapture(self.backbone, layers, use_graph=False) as capture:
                self.classify(capture.enter_pixels(self._prepare(batch)))
            capture.check_complete(len(batch))
            for parts, name in zip(features, layers, strict=True):
                output = capture.outputs[name]
                transform = None if name == INPUT_LAYER else self.reshape_transform
                layout = infer_layout(name, tuple(output.shape), size, transform)
                parts.append(layout.fold(output).float().mean((-2, -1)))
        return [torch.cat(parts) for parts in features]


def _normal(values: Tensor) -> Tensor:
    # Tensors made under inference mode may not be kept by a graph; copies made outside it may.
    return values.clone() if values.is_inference() else values
