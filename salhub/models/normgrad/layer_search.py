"""Finding the layers of an unknown network: one pass over noise, with every module watched."""

import difflib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from salhub.models.normgrad.class_scores import output_seeds
from salhub.models.normgrad.extract_aggregate import extract_aggregate, is_cancelled
from salhub.models.normgrad.feature_layout import Layout, TransformError, infer_layout
from salhub.models.normgrad.layer_capture import split_output
from salhub.models.normgrad.linear_head import LinearHead
from salhub.models.normgrad.methods import INPUT_LAYER


@dataclass(frozen=True)
class SaliencyLayer:
    """A layer that can be explained.

    Args:
        name: What to write in `layers`.
        kind: Class of the module, such as "Conv2d".
        shape: (channels, height, width) of its feature map, tokens folded to a grid.
        is_block: Element of a ModuleList or Sequential: what people call a block or stage.
        has_gradient: The class scores depend on its positions. In a vision transformer's last
            block only the class token matters, so the patches have none.
        feeds_linear_head: The mean over its positions goes straight into the last linear layer, as
            CAM needs.
        is_convolution: A 2-D convolution, which "norm_grad_proper" can look at.
    """

    name: str
    kind: str
    shape: tuple[int, int, int]
    is_block: bool
    has_gradient: bool
    feeds_linear_head: bool
    is_convolution: bool

    def __str__(self) -> str:
        return f"{self.name} ({'x'.join(map(str, self.shape))})"


@dataclass
class _Record:
    """What the probe keeps of one module's output: never the output itself."""

    name: str
    module: nn.Module
    layout: Layout
    shape: tuple[int, int, int]
    mean: Tensor
    calls: int = 1


@dataclass
class _Watch:
    """Forward hooks on all modules, in the order in which the modules finish."""

    image_size: tuple[int, int]
    reshape_transform: Callable[[Tensor], Tensor] | None
    records: dict[str, _Record] = field(default_factory=dict)
    # Layers of which a row of the output is not that of one picture.
    shared: set[str] = field(default_factory=set)
    failure: TransformError | None = None
    handles: list[Any] = field(default_factory=list)
    thread: int = field(default_factory=threading.get_ident)

    def hook(self, name: str, module: nn.Module) -> None:
        def record(module: nn.Module, args: tuple, output: Any) -> None:
            if threading.get_ident() != self.thread:
                return
            if name in self.records:
                self.records[name].calls += 1
                return
            try:
                tensor = split_output(output, name)[0]
            except ValueError:
                return
            if not tensor.is_floating_point() or tensor.ndim not in (3, 4):
                return
            if name in self.shared or not _has_a_row_for_each_picture(tensor):
                self.shared.add(name)
                return
            self.keep(name, module, tensor, self.reshape_transform)

        self.handles.append(module.register_forward_hook(record))

    def keep(self, name: str, module: nn.Module, tensor: Tensor, transform) -> None:
        """Notes the output's grid, if it has one."""
        try:
            layout = infer_layout(name, tuple(tensor.shape), self.image_size, transform)
            folded = layout.fold(tensor.detach())
        except TransformError as error:  # the user's function is not made for every layer
            self.failure = error
            return
        except (ValueError, RuntimeError):
            return
        mean = folded.float().mean((-2, -1))
        self.records[name] = _Record(name, module, layout, tuple(folded.shape[-3:]), mean)

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


# The pictures of a probe: two different ones, and the first again.
_TRIAL = (0, 1, 0)


def _has_a_row_for_each_picture(output: Tensor) -> bool:
    """Whether an output of the pictures of a trial has one row a picture, in their order.

    Windows of a picture, or a table that all pictures share, can have any number of rows, even
    that of the pictures; but then the rows of equal pictures are not equal.
    """
    if len(output) != len(_TRIAL):
        return False
    first, _, again = output.detach()
    # Infinite values, whose difference is no number, are told of where they are explained.
    return not bool(((first - again).abs() > _EQUAL * first.abs().amax()).any())


# Of the largest value; a kernel may sum the rows of a batch in another order.
_EQUAL = 1e-2


class LayerProbe:
    """One network at one picture size: its layers, and which of them have a gradient.

    The structure takes one pass without a graph, of three pictures: a layer of which a picture has
    no row of its own cannot be explained. Gradients are looked for only where they are
    asked for, with a graph from the shallowest layer asked for.

    Args:
        network: The network, in evaluation mode, gradients on.
        classify: Maps pixel values to logits through `network`.
        pixel_values: A picture to run, (1, 3, H, W); noise does, only the structure is read.
        reshape_transform: See `infer_layout`.

    Raises:
        TransformError: `reshape_transform` failed at every layer that might have positions.
    """

    def __init__(
        self,
        network: nn.Module,
        classify: Callable[[Tensor], Tensor],
        pixel_values: Tensor,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ):
        self.network, self.classify = network, classify
        self.pixel_values = pixel_values.detach()
        self.is_cut = False
        self._records: dict[str, _Record] = {}
        self._gradients: dict[tuple[str, bool], bool] = {}
        self.shared: set[str] = set()
        self.layers = self._structure(reshape_transform)

    def may_gain(self, layer: str) -> bool:
        """True where a larger picture may bring a layer into question that outranks `layer`."""
        blocks = block_names(self.network)
        single = [name for name, one in self._records.items() if _positions(one.shape) < 2]
        if layer not in blocks:
            return bool(single)
        depth = _nesting(layer, blocks)
        return any(name in blocks and _nesting(name, blocks) <= depth for name in single)

    def with_gradients(self) -> list[SaliencyLayer]:
        """All layers, pixels first, shallow to deep, with `has_gradient` filled in."""
        found = self.reached([layer.name for layer in self.layers])
        return [replace(layer, has_gradient=layer.name in found) for layer in self.layers]

    def reached(self, names: list[str], *, summed: bool = False) -> set[str]:
        """Those of the named layers on whose positions the class scores depend.

        Args:
            names: The layers.
            summed: Leave out those where gradient times activation cancels over the channels.
        """
        missing = [name for name in names if (name, summed) not in self._gradients]
        if missing:
            found = self._find_gradients(missing, summed)
            self._gradients |= {(name, summed): is_found for name, is_found in found.items()}
        return {name for name in names if self._gradients[name, summed]}

    def _structure(self, transform) -> list[SaliencyLayer]:
        watch, head = (
            _Watch(tuple(self.pixel_values.shape[-2:]), transform),
            LinearHead(self.network),
        )
        other = torch.randn(self.pixel_values.shape, generator=torch.Generator().manual_seed(1))
        kinds = [self.pixel_values, other.to(self.pixel_values)]
        trial = torch.cat([kinds[kind] for kind in _TRIAL])
        watch.keep(INPUT_LAYER, nn.Identity(), trial, None)
        try:
            for name, module in self.network.named_modules():
                # A module that is called as the pixels are cannot be named.
                if name not in ("", INPUT_LAYER) and not isinstance(module, nn.ModuleList):
                    watch.hook(name, module)
            with head, torch.no_grad():
                logits = self.classify(trial.clone())
        finally:
            watch.close()
        self.shared = watch.shared
        if len(watch.records) == 1 and watch.failure is not None:
            raise watch.failure
        self._records = {name: one for name, one in watch.records.items() if one.calls == 1}
        blocks = block_names(self.network)
        return [
            SaliencyLayer(
                name=record.name,
                kind="pixels" if record.name == INPUT_LAYER else type(record.module).__name__,
                shape=record.shape,
                is_block=record.name in blocks,
                has_gradient=False,
                feeds_linear_head=head.reads(record.mean, logits),
                is_convolution=isinstance(record.module, nn.Conv2d),
            )
            for record in self._records.values()
            if _positions(record.shape) > 1
        ]

    def _find_gradients(self, names: list[str], summed: bool) -> dict[str, bool]:
        watch = _GradientWatch({name: self._records[name] for name in names}, summed)
        try:
            with torch.no_grad():  # ends what the watch switches on
                watch.attach()
                logits = self.classify(watch.enter(self.pixel_values))
        finally:
            watch.close()
        leaf = watch.leaf
        self.is_cut = leaf is None or not logits.requires_grad
        if leaf is not None and logits.requires_grad:
            seeds = output_seeds(logits, _random_mix(logits))[0]
            torch.autograd.grad([logits], [leaf], [seeds], allow_unused=True)
        return watch.found


class _GradientWatch:
    """A graph from the first of some layers on, noting where the gradient is not zero.

    Nothing is kept of outputs and gradients beyond what autograd itself keeps, but where sums over
    channels are asked for.
    """

    def __init__(self, records: dict[str, _Record], summed: bool):
        self.records, self.summed = records, summed
        self.found = dict.fromkeys(records, False)
        self.leaf: Tensor | None = None
        self._handles: list[Any] = []
        self._thread = threading.get_ident()

    def attach(self) -> None:
        for name, record in self.records.items():
            if name != INPUT_LAYER:
                self._handles.append(record.module.register_forward_hook(self._hook(name)))

    def enter(self, pixel_values: Tensor) -> Tensor:
        return (
            self._follow(INPUT_LAYER, pixel_values) if INPUT_LAYER in self.records else pixel_values
        )

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str):
        def follow(module: nn.Module, args: tuple, output: Any) -> Any:
            if threading.get_ident() != self._thread:
                return None
            tensor, rebuild = split_output(output, name)
            return rebuild(self._follow(name, tensor))

        return follow

    def _follow(self, name: str, tensor: Tensor) -> Tensor:
        torch.set_grad_enabled(True)
        if self.leaf is None:
            self.leaf = tensor.detach().requires_grad_()
            tensor = self.leaf.clone()
        else:
            # Others than the layer's users may hold the tensor itself: a pooler inside the layer,
            # an in-place operation on what it is a view of, whoever gave it as an input.
            tensor = tensor.clone()
        if tensor.requires_grad:
            layout = self.records[name].layout
            activation = layout.fold(tensor.detach()) if self.summed else None

            def note(gradient: Tensor) -> None:
                folded = layout.fold(gradient)
                speaks = folded.any() if activation is None else _has_sums(activation, folded)
                self.found[name] = self.found[name] or bool(speaks)

            tensor.register_hook(note)
        return tensor


def probe_layers(
    network: nn.Module,
    classify: Callable[[Tensor], Tensor],
    pixel_values: Tensor,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
) -> list[SaliencyLayer]:
    """Lists the layers that can be explained, in the order in which they finish.

    A layer that runs more than once, or whose output has no positions, is left out.

    Args:
        network, classify, pixel_values, reshape_transform: See `LayerProbe`.

    Returns:
        The pixels first, then the layers from shallow to deep.
    """
    return LayerProbe(network, classify, pixel_values, reshape_transform).with_gradients()


def _has_sums(activation: Tensor, gradient: Tensor) -> Tensor:
    sums = extract_aggregate(activation, gradient, "scaling", "sum")
    terms = extract_aggregate(activation, gradient, "scaling", "abs_sum")
    return ~is_cancelled(sums, terms, gradient.dtype).all()


def _positions(shape: tuple[int, int, int]) -> int:
    return shape[-2] * shape[-1]


def _random_mix(logits: Tensor) -> Tensor:
    """A random mix of all classes, (1, 1, C), so that no single class's silence counts."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, *logits.shape[:2], generator=generator).to(logits.device)


def block_names(network: nn.Module) -> set[str]:
    """Names of the elements of every ModuleList and Sequential.

    Example:
        >>> sorted(block_names(nn.Sequential(nn.ReLU(), nn.ReLU())))
        ['0', '1']
    """
    containers = {
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
    }
    return {
        name
        for name, _ in network.named_modules()
        if name and name.rpartition(".")[0] in containers
    }


def default_layer(layers: list[SaliencyLayer], where: str, probe: LayerProbe | None = None) -> str:
    """Picks the layer at which a method is used when the user names none.

    Args:
        layers: From `probe_layers`, or `LayerProbe.layers` together with the probe.
        where: `MapMethod.layer`: "input", "block", "summed", "convolution" or "features".
        probe: Asked where the gradient reaches, deepest layers first; None believes
            `has_gradient`.

    Returns:
        The layer's name. For "block" the last one to finish among the outermost blocks whose
        positions have a gradient.

    Raises:
        ValueError: The network has no such layer.
    """
    if where == INPUT_LAYER:
        return INPUT_LAYER
    if where == "features":
        feeding = [layer for layer in layers if layer.feeds_linear_head]
        blocks = [layer for layer in feeding if layer.is_block]
        return _deepest(blocks, probe) or _deepest(feeding, probe) or _refuse(_NO_LINEAR_HEAD, None)
    others = [layer for layer in layers if layer.name != INPUT_LAYER]
    if where == "convolution":
        found = _deepest([layer for layer in others if layer.is_convolution], probe)
        return found or _refuse(_NO_CONVOLUTION, probe)
    names = {layer.name for layer in layers if layer.is_block}
    blocks = [layer for layer in others if layer.is_block]
    for depth in sorted({_nesting(layer.name, names) for layer in blocks}):
        nested = [one for one in blocks if _nesting(one.name, names) == depth]
        found = _deepest(nested, probe, summed=where == "summed")
        if found:
            return found
    return _deepest(others, probe) or _refuse(_NO_LAYER, probe)


_NO_LINEAR_HEAD = (
    "cam needs a network that averages its feature maps and passes the mean directly to one "
    "linear layer; this network does not. Use method='grad_cam'."
)
_NO_CONVOLUTION = (
    "the network has no 2-D convolution with a gradient at more than one position; use "
    "virtual_identity=True."
)
_NO_LAYER = (
    "the network has no layer with more than one position and a gradient there; explain the "
    "pixels with layers=['input']."
)
_CUT = (
    "the logits have no gradient with respect to any layer: the network cuts its own graph "
    "(with torch.no_grad(), detach() or a quantized layer); use a differentiable network."
)


def _refuse(complaint: str, probe: LayerProbe | None) -> str:
    raise ValueError(_CUT if probe is not None and probe.is_cut else complaint)


def _deepest(
    layers: list[SaliencyLayer], probe: LayerProbe | None, *, summed: bool = False
) -> str | None:
    """The last of the layers that has a gradient; see `LayerProbe.reached`."""
    if probe is None:
        return next((layer.name for layer in reversed(layers) if layer.has_gradient), None)
    names, size = [layer.name for layer in reversed(layers)], 1
    # The deepest one nearly always has a gradient; growing groups bound the number of passes.
    while names:
        group, names, size = names[:size], names[size:], 2 * size
        found = probe.reached(group, summed=summed)
        for name in group:
            if name in found:
                return name
    return None


def _nesting(name: str, blocks: set[str]) -> int:
    """Number of blocks around a layer."""
    parts = name.split(".")
    return sum(".".join(parts[:length]) in blocks for length in range(1, len(parts)))


def closest_layers(name: str, layers: Iterable[SaliencyLayer], count: int = 5) -> str:
    """The layers whose names are nearest to a misspelt one, with their shapes."""
    by_name = {layer.name: layer for layer in layers}
    near = difflib.get_close_matches(name, by_name, n=count, cutoff=0.0)
    return ", ".join(str(by_name[match]) for match in near)


def has_module(network: nn.Module, name: str) -> bool:
    """Whether a network has a module of that name; its own, "", does not count."""
    try:
        network.get_submodule(name)
    except AttributeError:
        return False
    return bool(name)
