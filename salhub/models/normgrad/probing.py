"""Finding the layers of an unknown network: one pass over noise, with every module watched."""

import difflib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from salhub.models.normgrad.capture import split_output
from salhub.models.normgrad.head import LinearHead
from salhub.models.normgrad.layouts import infer_layout
from salhub.models.normgrad.methods import INPUT_LAYER
from salhub.models.normgrad.seeds import output_seeds


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
    """One module's output during the probe."""

    name: str
    module: nn.Module
    output: Tensor
    calls: int = 1


@dataclass
class _Watch:
    """Forward hooks on all modules, in the order in which the modules finish."""

    records: dict[str, _Record] = field(default_factory=dict)
    handles: list[Any] = field(default_factory=list)
    thread: int = field(default_factory=threading.get_ident)
    _last: tuple[Tensor, Tensor, int] | None = None

    def hook(self, name: str, module: nn.Module) -> None:
        def record(module: nn.Module, args: tuple, output: Any) -> Any:
            if threading.get_ident() != self.thread:
                return None
            if name in self.records:
                self.records[name].calls += 1
                return None
            try:
                tensor, rebuild = split_output(output, name)
            except ValueError:
                return None
            if not tensor.is_floating_point() or tensor.ndim not in (3, 4):
                return None
            return rebuild(self._keep(name, module, tensor))

        self.handles.append(module.register_forward_hook(record))

    def _keep(self, name: str, module: nn.Module, tensor: Tensor) -> Tensor:
        if self._last is not None:
            kept, copy, version = self._last
            # A wrapper hands on its last child's output, unaltered: the same copy serves both.
            if tensor is copy and copy._version == version:
                self.records[name] = _Record(name, module, kept)
                return copy
        kept = tensor.clone()
        copy = kept.clone()
        self._last = (kept, copy, copy._version)
        self.records[name] = _Record(name, module, kept)
        return copy

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


def probe_layers(
    network: nn.Module,
    classify: Callable[[Tensor], Tensor],
    pixel_values: Tensor,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
) -> list[SaliencyLayer]:
    """Lists the layers that can be explained, in the order in which they finish.

    A layer that runs more than once, or whose output has no positions, is left out.

    Args:
        network: The network, in evaluation mode, gradients on.
        classify: Maps pixel values to logits through `network`.
        pixel_values: A picture to run, (1, 3, H, W); noise does, only the structure is read.
        reshape_transform: See `infer_layout`.

    Returns:
        The pixels first, then the layers from shallow to deep.
    """
    pixels = pixel_values.detach().clone().requires_grad_()
    watch, head = _Watch(), LinearHead(network)
    try:
        for name, module in network.named_modules():
            if name and not isinstance(module, nn.ModuleList):
                watch.hook(name, module)
        with head:
            logits = classify(pixels.clone())
    finally:
        watch.close()
    records = [_Record(INPUT_LAYER, nn.Identity(), pixels)]
    records += [record for record in watch.records.values() if record.calls == 1]
    gradients = _random_score_gradients(logits, [record.output for record in records])
    blocks = block_names(network)
    found = []
    for record, gradient in zip(records, gradients, strict=True):
        transform = None if record.name == INPUT_LAYER else reshape_transform
        folded, folded_gradient = _fold(record, gradient, tuple(pixels.shape[-2:]), transform)
        if folded is None or folded.shape[-2] * folded.shape[-1] < 2:
            continue
        found.append(
            SaliencyLayer(
                name=record.name,
                kind="pixels" if record.name == INPUT_LAYER else type(record.module).__name__,
                shape=tuple(folded.shape[-3:]),
                is_block=record.name in blocks,
                has_gradient=folded_gradient is not None and bool(folded_gradient.any()),
                feeds_linear_head=head.is_fed_by(folded, logits),
                is_convolution=isinstance(record.module, nn.Conv2d),
            )
        )
    return found


def _random_score_gradients(logits: Tensor, outputs: list[Tensor]) -> tuple[Tensor | None, ...]:
    """Gradients of a random mix of all classes, so that no single class's silence counts."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(1, *logits.shape[:2], generator=generator).to(logits.device)
    seeds = output_seeds(logits, mix)[0]
    # Outputs that no gradient reaches at all, such as masks, would make autograd refuse the rest.
    wanted = [output for output in outputs if output.requires_grad]
    found = iter(torch.autograd.grad(logits, wanted, seeds, allow_unused=True))
    return tuple(next(found) if output.requires_grad else None for output in outputs)


def _fold(
    record: _Record,
    gradient: Tensor | None,
    image_size: tuple[int, int],
    reshape_transform: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor | None, Tensor | None]:
    """The record and its gradient as grids, or Nones where the output has no positions."""
    output = record.output.detach()
    try:
        layout = infer_layout(record.name, tuple(output.shape), image_size, reshape_transform)
        return layout.fold(output), None if gradient is None else layout.fold(gradient)
    except (ValueError, RuntimeError):  # also outputs that the user's function is not made for
        return None, None


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


def default_layer(layers: list[SaliencyLayer], where: str) -> str:
    """Picks the layer at which a method is used when the user names none.

    Args:
        layers: From `probe_layers`.
        where: `MapMethod.layer`: "input", "block", "convolution" or "features".

    Returns:
        The layer's name. For "block" the last one to finish among the outermost blocks whose
        positions have a gradient.

    Raises:
        ValueError: The network has no such layer.
    """
    if where == INPUT_LAYER:
        return INPUT_LAYER
    if where == "features":
        feeding = [layer for layer in layers if layer.feeds_linear_head and layer.has_gradient]
        return _last([layer for layer in feeding if layer.is_block] or feeding, _NO_LINEAR_HEAD)
    candidates = [layer for layer in layers if layer.has_gradient and layer.name != INPUT_LAYER]
    if where == "convolution":
        return _last(
            [layer for layer in candidates if layer.is_convolution],
            "the network has no 2-D convolution with a gradient at more than one position; use "
            "virtual_identity=True.",
        )
    blocks = [layer for layer in candidates if layer.is_block] or candidates
    names = {layer.name for layer in layers if layer.is_block}
    depth = {layer.name: _nesting(layer.name, names) for layer in blocks}
    outermost = min(depth.values(), default=0)
    return _last(
        [layer for layer in blocks if depth[layer.name] == outermost],
        "the network has no layer with more than one position and a gradient there; explain the "
        "pixels with layers=['input'].",
    )


_NO_LINEAR_HEAD = (
    "cam needs a network that averages feature maps and feeds the mean straight to one linear "
    "layer; this one does not. Use method='grad_cam'."
)


def _last(layers: list[SaliencyLayer], complaint: str) -> str:
    if not layers:
        raise ValueError(complaint)
    return layers[-1].name


def _nesting(name: str, blocks: set[str]) -> int:
    """Number of blocks around a layer."""
    parts = name.split(".")
    return sum(".".join(parts[:length]) in blocks for length in range(1, len(parts)))


def closest_layers(name: str, layers: Iterable[SaliencyLayer], count: int = 5) -> str:
    """The layers whose names are nearest to a misspelt one, with their shapes."""
    by_name = {layer.name: layer for layer in layers}
    near = difflib.get_close_matches(name, by_name, n=count, cutoff=0.0)
    return ", ".join(str(by_name[match]) for match in near)
