"""Which units go first: groups of all structures on one list, less what they cost in time."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salhub.errors import check_choice
from salhub.models.nvit.latency_table import LatencyTable
from salhub.models.nvit.shapes import STRUCTURES, NViTShape, UnitLayout

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
# Units that go together, of section 3.3 of the paper, and widths from which on there is no credit.
GROUP_SIZES = {"embedding": 16, "head": 2, "qk": 8, "v": 8, "mlp": 16}
_NO_CREDIT = {"embedding": 0, "head": 2, "qk": 8, "v": 8, "mlp": 16}
_COLUMNS = ("head", "qk", "v", "mlp")
_KAPPA = 0.1


@dataclass(frozen=True)
class RankingSettings:
    """How units are grouped and ranked.

    Args:
        group_sizes: Units of a group, by structure; those that are missing as of `GROUP_SIZES`.
        eta: Score that a second is worth; "auto" for `kappa` times the median score of the living
            units by their median latency, of those
            that have any [C]; the paper's 5e-4 is of batches of 256 on a V100.
        kappa: See `eta`.
        allow_empty: Let all heads or all neurons of a block go [C]; else a group of each stays.

    Raises:
        ValueError: No such structure, or a number out of range.
    """

    group_sizes: Mapping[str, int] = field(default_factory=dict)
    eta: float | str = "auto"
    kappa: float = _KAPPA
    allow_empty: bool = False

    def __post_init__(self) -> None:
        for name, size in self.group_sizes.items():
            check_choice("group_sizes", name, STRUCTURES)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"group_sizes of '{name}' must be 1 or more, got {size!r}.")
        is_auto = self.eta == "auto"
        if not is_auto and (isinstance(self.eta, str) or not self.eta >= 0):
            raise ValueError(f"eta must be 'auto' or a number of 0 or more, got {self.eta!r}.")
        if not self.kappa >= 0:
            raise ValueError(f"kappa must be 0 or more, got {self.kappa}.")

    def size_of(self, structure: str) -> int:
        """Units of a group."""
        return {**GROUP_SIZES, **self.group_sizes}[structure]


@dataclass(frozen=True)
class PlannedStep:
    """What one step removes.

    Args:
        units: Places of the units.
        structures: Structure and block of each group.
        ratio: Latency afterwards by that of the original.
        shape: What is left.
    """

    units: list[int]
    structures: list[tuple[str, int | None]]
    ratio: float
    shape: NViTShape


class Ranking:
    """The queue of groups of each structure of each block, in the order in which they go.

    Within a structure of a block all units save the same time, so that their order is that of their
    scores; which structure is next depends on the shape that is left by then.

    Args:
        layout: Of the units.
        scores: Of the units, (units,).
        live: Which of them are there, bool (units,).
        table: Seconds of shapes.
        settings: Of the groups.
        original: Seconds of the network that nothing was removed from.
    """

    def __init__(
        self,
        layout: UnitLayout,
        scores: Any,
        live: Any,
        table: LatencyTable,
        settings: RankingSettings,
        original: float,
    ) -> None:
        self.layout, self.table, self.settings = layout, table, settings
        self.original = original
        values = np.asarray(scores, dtype=float)
        alive = np.asarray(live, dtype=bool)
        self.keys = layout.keys
        self.groups: list[list[NDArray[np.int64]]] = []
        self.sums: list[list[float]] = []
        for name, _, place in layout:
            units = np.arange(place.start, place.stop)[alive[place]]
            units = units[np.argsort(values[units], kind="stable")]
            size = settings.size_of(name)
            chunks = [units[i : i + size] for i in range(0, len(units), size)]
            self.groups.append(chunks)
            self.sums.append([float(values[chunk].sum()) for chunk in chunks])
        self.next = [0] * len(self.keys)
        shape = layout.shape_of(alive.tolist())
        self.width = shape.hidden_size
        self.blocks = np.array(shape.blocks, dtype=float)
        self.savings = self._savings()
        self.eta = self._eta(values, alive)

    @property
    def shape(self) -> NViTShape:
        """What is left."""
        widths = (tuple(int(w) for w in column) for column in self.blocks.T)
        return NViTShape(self.width, *widths)

    @property
    def ratio(self) -> float:
        """Latency of what is left by that of the original."""
        return self._seconds / self.original

    def remove(self, count: int) -> PlannedStep | None:
        """Take the lowest groups off the list; None where no group may go any more."""
        heads = []
        for key in range(len(self.keys)):
            for group in range(self.next[key], min(self.next[key] + count, self._last(key))):
                heads.append((self._worth(key, group), key, group))
        chosen = sorted(heads)[:count]
        if not chosen:
            return None
        units: list[int] = []
        for _, key, group in chosen:
            units += self.groups[key][group].tolist()
            self.next[key] = group + 1
            self._shrink(key, len(self.groups[key][group]))
        self.savings = self._savings()
        structures = [self.keys[key] for _, key, _ in chosen]
        return PlannedStep(units, structures, self.ratio, self.shape)

    def smallest_ratio(self) -> float:
        """Latency by that of the original where all groups are gone that may go; takes them."""
        for key, groups in enumerate(self.groups):
            for group in groups[self.next[key] : self._last(key)]:
                self._shrink(key, len(group))
            self.next[key] = max(self.next[key], self._last(key))
        self.savings = self._savings()
        return self.ratio

    def _last(self, key: int) -> int:
        """Groups of a structure that may go."""
        name = self.keys[key][0]
        may_empty = self.settings.allow_empty and name in ("head", "mlp")
        return len(self.groups[key]) - (0 if may_empty else 1)

    def _worth(self, key: int, group: int) -> float:
        return self.sums[key][group] - self.eta * self.savings[key] * len(self.groups[key][group])

    def _shrink(self, key: int, count: int) -> None:
        name, block = self.keys[key]
        if block is None:
            self.width -= count
        else:
            self.blocks[block, _COLUMNS.index(name)] -= count

    def _savings(self) -> Array:
        """Seconds that one unit of each structure takes, in the order of `keys`."""
        depth = len(self.blocks)
        widths = np.full((6, depth), float(self.width))
        widths[1] -= 1
        shapes = np.repeat(self.blocks[None], 6, axis=0)
        for column in range(4):
            shapes[2 + column, :, column] -= 1
        seconds = self.table.block_seconds(widths, shapes)
        rest = self.table.part("rest", [[self.width], [self.width - 1]])
        self._seconds = float(seconds[0].sum() + rest[0])
        of_blocks = (seconds[0] - seconds[2:]).T  # (L, 4)
        limits = np.array([_NO_CREDIT[name] for name in _COLUMNS])
        of_blocks = np.where(self.blocks > limits, of_blocks, 0.0)
        of_width = (seconds[0] - seconds[1]).sum() + rest[0] - rest[1]
        # Noise of the table may say that removing a unit costs time.
        return np.concatenate([[of_width], of_blocks.reshape(-1)]).clip(min=0)

    def _eta(self, values: Array, alive: NDArray[np.bool_]) -> float:
        if self.settings.eta != "auto":
            return float(self.settings.eta)
        counts = [int(alive[place].sum()) for _, _, place in self.layout]
        seconds = np.repeat(self.savings, counts)
        if not (seconds > 0).any():
            logger.warning("According to the latency table, no unit saves any time, so eta is 0.")
            return 0.0
        middle = float(np.median(seconds[seconds > 0]))
        return self.settings.kappa * float(np.median(values[alive])) / middle
