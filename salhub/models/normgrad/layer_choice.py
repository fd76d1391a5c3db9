"""Which layer a method is used at when none is named, remembered between pictures."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from torch import nn

from salhub.explaining.picture_size import Size
from salhub.models.normgrad.feature_layout import TransformError
from salhub.models.normgrad.layer_capture import no_row_for_each_picture
from salhub.models.normgrad.layer_search import (
    LayerProbe,
    SaliencyLayer,
    closest_layers,
    default_layer,
    has_module,
)
from salhub.models.normgrad.methods import INPUT_LAYER

MAX_SIZES = 8


@dataclass(frozen=True)
class _Choice:
    """A layer found at one size of picture."""

    layer: str
    size: Size
    holds_above: bool

    def serves(self, size: Size) -> bool:
        """No deeper layer can have come into question at that size."""
        smaller = size[0] <= self.size[0] and size[1] <= self.size[1]
        return smaller or self.holds_above


class LayerChoice:
    """Default layers by place, found by one probe and kept for pictures of other sizes.

    The choice is that of a probe at the picture's own size, whatever was explained before: a layer
    is used again only where no deeper one can have gained positions.

    Args:
        probe: Probes the network with a picture of (height, width).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> choice = LayerChoice(
        ...     lambda height, width: LayerProbe(network, network, torch.ones(1, 3, height, width))
        ... )
        >>> choice.find("block", (16, 16)), choice.find("block", (32, 24))
        ('0', '0')
    """

    def __init__(self, probe: Callable[[int, int], LayerProbe]):
        self._probe = probe
        self._general: dict[str, _Choice] = {}
        self._by_size: OrderedDict[tuple[str, Size], str] = OrderedDict()
        self._lists: OrderedDict[Size, list[SaliencyLayer]] = OrderedDict()
        self._checked: set[str] = set()

    def check(self, names: Iterable[str], network: nn.Module, size: Size) -> None:
        """Refuse layers that are not in the network, or that mix the pictures of a batch.

        Args:
            names: The layers; each is looked at once.
            network: Where they are.
            size: (height, width) of the pictures.

        Raises:
            ValueError: Naming the layer, and others in its place.
        """
        missing = [name for name in names if name != INPUT_LAYER and name not in self._checked]
        if not missing:
            return
        absent = [name for name in missing if not has_module(network, name)]
        try:
            probe = self._probe(*size)
        except TransformError:
            # The user's function may be made for these layers alone.
            if absent:
                raise
            return
        for name in absent:
            raise ValueError(
                f"layer '{name}' is not in the network; the closest are "
                f"{closest_layers(name, probe.layers)}. model.saliency_layers() lists them all."
            )
        for name in missing:
            if name in probe.shared:
                raise ValueError(no_row_for_each_picture(name))
        self._checked.update(missing)

    def probed_by(self, probe: Callable[[int, int], LayerProbe]) -> Self:
        """The same choices, which both remember, found by another probe of the same network."""
        other = copy.copy(self)
        other._probe = probe
        return other

    def all_layers(self, size: Size) -> list[SaliencyLayer]:
        """Every layer that can be explained at that size, see `LayerProbe.with_gradients`."""
        if size not in self._lists:
            _keep(self._lists, size, self._probe(*size).with_gradients())
        return self._lists[size]

    def find(self, place: str, size: Size) -> str:
        """The layer for a `MapMethod.layer` and a picture of (height, width)."""
        if place == INPUT_LAYER:
            return INPUT_LAYER
        if (place, size) in self._by_size:
            return self._by_size[place, size]
        known = self._general.get(place)
        if known is not None and known.serves(size):
            return known.layer
        probe = self._probe(*size)
        layer = default_layer(probe.layers, place, probe)
        self._general[place] = _Choice(layer, size, not probe.may_gain(layer))
        return layer

    def find_afresh(self, place: str, size: Size) -> str:
        """As `find`, by a probe at this very size: the remembered layer does not work there."""
        if place == INPUT_LAYER:
            return INPUT_LAYER
        probe = self._probe(*size)
        layer = default_layer(probe.layers, place, probe)
        _keep(self._by_size, (place, size), layer)
        return layer


def _keep(kept: OrderedDict, key: tuple, value: object) -> None:
    kept[key] = value
    while len(kept) > MAX_SIZES:
        kept.popitem(last=False)
