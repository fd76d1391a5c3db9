"""One forward and one backward pass that serves any number of layers, methods and classes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from salhub.explaining.modeling_explained_classifier import check_class_range
from salhub.models.normgrad.class_scores import class_directions, class_scores, layer_gradients
from salhub.models.normgrad.extract_aggregate import (
    check_convolution,
    extract_aggregate_pairs,
    is_cancelled,
    own_convolution_map,
)
from salhub.models.normgrad.feature_layout import infer_layout
from salhub.models.normgrad.layer_capture import LayerCapture
from salhub.models.normgrad.linear_head import LinearHead
from salhub.models.normgrad.methods import INPUT_LAYER, MapMethod
from salhub.models.normgrad.rectifiers import RectifierRule


@dataclass(frozen=True)
class MapRequest:
    """One map that is wanted: a method at a layer."""

    method: MapMethod
    layer: str


@dataclass
class PassResult:
    """What a pass found.

    Args:
        scores: Class scores (B, C).
        class_labels: Classes explained, int64 (B, T).
        maps: One map (B, T, h, w) a request, in the layer's own resolution.
        depth_order: The layers, shallow to deep.
    """

    scores: Tensor
    class_labels: Tensor
    maps: dict[MapRequest, Tensor]
    depth_order: list[str]


@dataclass
class ExplainedNetwork:
    """What a pass needs to know of the network.

    Args:
        network: Holds the named layers.
        classify: (pixel values, parameters or None) to logits.
        reshape_transform: See `infer_layout`.
        contrastive: Explain a class against the mean of the others.
        compares: Explain after each picture's one class the `opposite_classes` too.
    """

    network: nn.Module
    classify: Callable[[Tensor, Mapping[str, Tensor] | None], Tensor]
    reshape_transform: Callable[[Tensor], Tensor] | None = None
    contrastive: bool = False
    compares: bool = False


def requests_of(
    methods: Iterable[MapMethod],
    names: Sequence[str] | None,
    choose: Callable[[str], str] | None = None,
) -> list[MapRequest]:
    """Every method at every layer, or at the one that `choose` gives for its place."""
    chosen = {} if names is not None else {one.layer: choose(one.layer) for one in methods}
    requests = [
        MapRequest(method, layer)
        for method in methods
        for layer in (names if names is not None else [chosen[method.layer]])
    ]
    return list(dict.fromkeys(requests))


def opposite_classes(scores: Tensor, class_labels: Tensor) -> Tensor:
    """The least likely class of each picture, or the most likely one where that is explained.

    Args:
        scores: (B, C).
        class_labels: int64 (B, 1).

    Returns:
        int64 (B, 1).

    Example:
        >>> opposite_classes(torch.tensor([[1.0, 0.0, 3.0]]), torch.tensor([[2]]))
        tensor([[1]])
    """
    least = scores.argmin(-1, keepdim=True)
    return torch.where(class_labels == least, scores.argmax(-1, keepdim=True), least)


def run_pass(
    explained: ExplainedNetwork,
    pixel_values: Tensor,
    class_labels: Tensor | None,
    requests: Sequence[MapRequest],
    parameters: Mapping[str, Tensor] | None = None,
) -> PassResult:
    """Makes all requested maps from a single forward and backward pass.

    Args:
        explained: The network, in evaluation mode, gradients on.
        pixel_values: (B, 3, H, W).
        class_labels: int64 (B, T), or None for the most likely class.
        requests: Methods and layers; all with the same ReLU rule.
        parameters: Used in place of the network's own.

    Raises:
        ValueError: A layer or method that does not fit the network.
    """
    recording = _Recording(explained, requests)
    logits = recording.run(pixel_values, parameters)
    scores = class_scores(logits).detach()
    labels = scores.argmax(-1, keepdim=True) if class_labels is None else class_labels
    check_class_range(labels, scores.shape[-1])
    if explained.compares:
        labels = torch.cat([labels, opposite_classes(scores, labels)], dim=1)
    directions = class_directions(labels, scores.shape[-1], contrastive=explained.contrastive)
    image_size = tuple(pixel_values.shape[-2:])
    maps = {
        request: torch.cat(parts).movedim(0, 1)
        for request, parts in recording.maps(logits, directions, image_size).items()
    }
    return PassResult(scores, labels, maps, list(recording.capture.outputs))


def run_by_rule(
    explained: ExplainedNetwork,
    pixel_values: Tensor,
    labels: Tensor | None,
    requests: Sequence[MapRequest],
    parameters: Mapping[str, Tensor] | None = None,
) -> PassResult:
    """As `run_pass`, with one pass for each ReLU rule among the requests; nearly always one."""
    merged: PassResult | None = None
    for rule in dict.fromkeys(request.method.relu_rule for request in requests):
        part = [request for request in requests if request.method.relu_rule == rule]
        found = run_pass(explained, pixel_values, labels, part, parameters)
        if merged is None:
            merged, labels = found, found.class_labels
        else:
            merged.maps.update(found.maps)
    return merged


def join_results(results: list[PassResult], dim: int, scores: Tensor) -> PassResult:
    """Puts the results of several passes together along the pictures (0) or the classes (1)."""
    maps = {
        request: torch.cat([result.maps[request] for result in results], dim)
        for request in results[0].maps
    }
    labels = torch.cat([result.class_labels for result in results], dim)
    return PassResult(scores, labels, maps, results[0].depth_order)


class _Recording:
    """The forward pass of a set of requests, and the maps read off it."""

    def __init__(self, explained: ExplainedNetwork, requests: Sequence[MapRequest]):
        self.explained = explained
        self.requests = list(requests)
        self.layers = list(dict.fromkeys(request.layer for request in requests))
        own = [request.layer for request in requests if not request.method.virtual_identity]
        for layer in own:
            check_convolution(layer, self._module(layer))
        self.gradient_layers = list(
            dict.fromkeys(
                request.layer for request in requests if not request.method.use_head_weights
            )
        )
        self.capture = LayerCapture(
            explained.network,
            self.layers,
            input_names=own,
            use_graph=bool(self.gradient_layers),
        )
        self.head: LinearHead | None = None

    def run(self, pixel_values: Tensor, parameters: Mapping[str, Tensor] | None) -> Tensor:
        """Runs the network and returns its logits, with a graph where one is needed."""
        rule = self.requests[0].method.relu_rule
        with ExitStack() as scope:
            if any(request.method.use_head_weights for request in self.requests):
                self.head = scope.enter_context(LinearHead(self.explained.network))
            rectifier = scope.enter_context(RectifierRule(rule)) if rule else None
            scope.enter_context(self.capture)
            pixels = self.capture.enter_pixels(pixel_values)
            logits = self.explained.classify(pixels, parameters)
        self.capture.check_complete(len(pixel_values))
        if rectifier is not None:
            rectifier.check_reached(self.layers)
        if self.gradient_layers and not logits.requires_grad:
            raise ValueError(
                "the logits have no gradient with respect to "
                f"{', '.join(self.gradient_layers)}; the output is not used further, or the "
                "network is quantized or cuts its own graph; choose another layer of "
                "model.saliency_layers()."
            )
        return logits

    def maps(self, logits: Tensor, directions: Tensor, image_size: tuple[int, int]):
        """Maps (T', B, h, w) of every request, one list item a group of classes."""
        layouts = {
            name: infer_layout(
                name,
                tuple(self.capture.outputs[name].shape),
                image_size,
                None if name == INPUT_LAYER else self.explained.reshape_transform,
            )
            for name in self.layers
        }
        folded = {
            name: layout.fold(self.capture.outputs[name].detach()).contiguous()
            for name, layout in layouts.items()
        }
        self._check_head(folded, logits)
        found: dict[MapRequest, list[Tensor]] = {request: [] for request in self.requests}
        for request in self.requests:
            if request.method.use_head_weights:
                found[request].append(self._head_map(folded[request.layer], directions))
        recorded = [self.capture.outputs[name] for name in self.gradient_layers]
        if not recorded:
            return found
        # Seeds that go backward together round by their number: a map is the same compared or not.
        at_once = 1 if self.explained.compares else None
        for group in layer_gradients(logits, recorded, directions, at_once):
            for name, gradient in zip(self.gradient_layers, group, strict=True):
                if gradient is None:
                    raise ValueError(
                        f"the logits do not depend on what layer '{name}' returns, so it has no "
                        "gradient; choose a layer inside it or before it."
                    )
                self._add_maps(name, folded[name], layouts[name].fold(gradient).contiguous(), found)
        return found

    def _add_maps(self, name: str, activation: Tensor, gradient: Tensor, found) -> None:
        requests = [
            request
            for request in self.requests
            if request.layer == name and not request.method.use_head_weights
        ]
        pairs = [request.method.pair for request in requests if request.method.is_of_identity]
        of_pairs = _identity_maps(activation, gradient, pairs)
        made = [self._gradient_map(one, activation, gradient, of_pairs) for one in requests]
        if not torch.isfinite(torch.stack(made)).all():
            raise ValueError(_non_finite(name, activation, gradient))
        for request, values in zip(requests, made, strict=True):
            found[request].append(values)

    def _gradient_map(
        self,
        request: MapRequest,
        activation: Tensor,
        gradient: Tensor,
        of_pairs: dict[tuple[str, str], Tensor],
    ) -> Tensor:
        method = request.method
        if method.is_of_identity:
            values = of_pairs[method.pair]
        elif method.use_average_gradient:
            weights = gradient.mean((-2, -1), dtype=_accurate_dtype(gradient))
            values = _weighted_sum(weights, activation)
        else:
            values = self._own_map(request.layer, gradient, method.aggregate)
            if method.aggregate == "sum":
                terms = self._own_map(request.layer, gradient, "abs_sum")
                values = _unless_cancelled(values, terms, gradient.dtype)
        return values.clamp(min=0) if method.do_rectify else values

    def _own_map(self, layer: str, gradient: Tensor, aggregate: str) -> Tensor:
        inputs = self.capture.inputs[layer]
        return own_convolution_map(layer, self._module(layer), inputs, gradient, aggregate)

    def _module(self, layer: str) -> nn.Module:
        return (
            nn.Identity() if layer == INPUT_LAYER else self.explained.network.get_submodule(layer)
        )

    def _head_map(self, activation: Tensor, directions: Tensor) -> Tensor:
        weight = self.head.weight.to(_accurate_dtype(self.head.weight))
        return _weighted_sum(directions.to(weight.dtype) @ weight, activation)

    def _check_head(self, folded: dict[str, Tensor], logits: Tensor) -> None:
        for request in self.requests:
            if not request.method.use_head_weights:
                continue
            if not self.head.is_fed_by(folded[request.layer], logits):
                raise ValueError(
                    "cam needs a layer whose mean over positions goes directly to the last "
                    f"linear layer, but the mean of '{request.layer}' does not; leave layers "
                    "out to find such a layer, or use method='grad_cam'."
                )


def _identity_maps(
    activation: Tensor, gradient: Tensor, pairs: list[tuple[str, str]]
) -> dict[tuple[str, str], Tensor]:
    """Maps of (extract, aggregate) pairs; sums that cancel are zero."""
    sums = [pair for pair in dict.fromkeys(pairs) if pair[1] == "sum"]
    beside = [(extract, "abs_sum") for extract, _ in sums]
    maps = extract_aggregate_pairs(activation, gradient, [*pairs, *beside])
    if sums:
        values, terms = (torch.stack([maps[pair] for pair in those]) for those in (sums, beside))
        maps.update(zip(sums, _unless_cancelled(values, terms, gradient.dtype), strict=True))
    return maps


def _unless_cancelled(sums: Tensor, terms: Tensor, precision: torch.dtype) -> Tensor:
    return sums.masked_fill(is_cancelled(sums, terms, precision)[..., None, None], 0.0)


def _weighted_sum(weights: Tensor, activation: Tensor) -> Tensor:
    """sum_k w_k x_k of weights (T, B, K) and an activation (B, K, h, w)."""
    return torch.einsum("tbk,bkhw->tbhw", weights, activation.to(weights.dtype))


def _accurate_dtype(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


def _non_finite(name: str, activation: Tensor, gradient: Tensor) -> str:
    if not torch.isfinite(activation).all():
        kind = "activation"
    else:
        kind = "map" if torch.isfinite(gradient).all() else "gradient"
    return (
        f"the {kind} of layer '{name}' has NaN or infinite values; check the picture, and the "
        "network's precision (try float32)."
    )
