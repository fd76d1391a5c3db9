"""Latency of vision transformers of any shape, measured on the machine at hand."""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from salhub.files import require_file, write_text
from salhub.models.nvit.configuration_nvit import NViTConfig
from salhub.models.nvit.latency_timing import Clock, device_name, network_of
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.models.nvit.shapes import BLOCK_STRUCTURES, STRUCTURES, NViTShape

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
# Tables of a network: their axes in order.
PARTS = {
    "attention": ("embedding", "head", "qk", "v"),
    "mlp": ("embedding", "mlp"),
    "rest": ("embedding",),
}
_FORMAT = 1
# Widths that hardware is fast at.
_STEPS = {"embedding": 16, "head": 1, "qk": 8, "v": 8, "mlp": 16}
# Networks that parts are timed in have at least so many blocks, and each part is in so many.
_LEAST_BLOCKS, _VISITS = 4, 2


@dataclass(frozen=True)
class TableError:
    """How far predictions are from the times of networks that were measured.

    Args:
        predicted: Seconds, by network.
        measured: Seconds, by network.
    """

    predicted: list[float]
    measured: list[float]

    @property
    def relative(self) -> list[float]:
        """|predicted - measured| / measured, by network."""
        return [abs(p - m) / m for p, m in zip(self.predicted, self.measured, strict=True)]

    @property
    def median(self) -> float:
        """Median of `relative`."""
        return float(np.median(self.relative))

    @property
    def maximum(self) -> float:
        """Largest of `relative`."""
        return max(self.relative)


@dataclass
class LatencyTable:
    """Measured seconds of the parts of a network on a grid of shapes, interpolated in between.

    A block is nearly the sum of its attention, which depends on E, H, QK and V, and its MLP, which
    depends on E and M, so that a few hundred timings are enough [C]; the paper times whole blocks.
    Patches, last norm and classifier are a third part that only depends on E [C].

    Args:
        grids: Part -> structure -> widths, ascending.
        seconds: Part -> array over the grid.
        batch_size: Number of pictures per batch.
        num_tokens: Number of tokens per picture.
        device: The device that was measured.
        dtype: Precision of the weights.
        threads: Number of threads of torch.
        torch_version: Version of torch when it was measured.
        clock: "wall" or "cpu".
        reference_seconds: Of a network of middle widths, by which the speed of the machine is
            followed.
        validation: What `validate` has found last: how many networks, and the median and the
            maximum of the relative errors.

    Example:
        >>> grid = {"embedding": [8.0, 16.0]}
        >>> table = LatencyTable({"rest": grid}, {"rest": np.array([1.0, 2.0])}, 1, 5, "cpu",
        ...                      "float32", 1, "2")
        >>> table.part("rest", [[12.0]]).tolist()
        [1.5]
    """

    grids: dict[str, dict[str, list[float]]]
    seconds: dict[str, Array]
    batch_size: int
    num_tokens: int
    device: str
    dtype: str
    threads: int
    torch_version: str
    clock: str = "wall"
    reference_seconds: float | None = None
    validation: dict[str, float] | None = None

    @classmethod
    def measure(
        cls,
        config: NViTConfig,
        *,
        device: str | torch.device = "cpu",
        batch_size: int = 64,
        dtype: torch.dtype = torch.float32,
        grid: dict[str, Sequence[int]] | None = None,
        repeats: int = 15,
        warmup: int = 3,
        clock: Literal["wall", "cpu"] = "wall",
        seed: int = 0,
    ) -> Self:
        """Time the parts of networks up to the size of a given one.

        Every part is timed where it stands, in networks of as many blocks whose shapes are drawn
        from the grid, so that it pays for cache and memory as it will.

        Args:
            config: Of the largest network; its blocks may differ.
            device: Where to.
            batch_size: Pictures of a batch.
            dtype: Precision.
            grid: Structure -> widths to measure; None for `default_grid`.
            repeats: Runs of each point, of which the median counts.
            warmup: Runs before them.
            clock: "wall", what a person waits; or "cpu", the processor seconds of one thread, which
                other programs on a busy machine disturb less.
            seed: Of the blocks that share a network, which are drawn.

        Raises:
            ValueError: A grid that is not of two or more ascending widths an axis.
        """
        device = torch.device(device)
        grid = {name: list(ws) for name, ws in (grid or default_grid(NViTShape.of(config))).items()}
        for name, widths in grid.items():
            if len(widths) < 2 or list(widths) != sorted(set(widths)) or widths[0] < 1:
                raise ValueError(
                    f"The grid of '{name}' must be two or more ascending widths, got {widths}."
                )
        grids = {
            part: {name: [float(w) for w in grid[name]] for name in axes}
            for part, axes in PARTS.items()
        }
        watch = Clock(device, repeats, warmup, clock)
        num_blocks = max(_LEAST_BLOCKS, config.num_hidden_layers)
        reference = _reference(config, grid, num_blocks)
        found: dict[tuple[str, tuple[int, ...]], list[float]] = {}
        references: list[float] = []
        for width, blocks in _networks(grid, num_blocks, seed):
            widths = [
                [grid[n][i] for i, n in zip(index, BLOCK_STRUCTURES, strict=True)]
                for index in blocks
            ]
            shape = NViTShape(grid["embedding"][width], *map(tuple, zip(*widths, strict=True)))
            network = network_of(config, shape)
            shares, own = watch.shares(network, reference, batch_size, dtype, is_by_part=True)
            # The speed of the machine changes meanwhile; all count as at its usual one.
            references.append(own)
            for index, (attention, mlp) in zip(blocks, shares[1:-1].reshape(-1, 2), strict=True):
                found.setdefault(("attention", (width, *index[:3])), []).append(attention)
                found.setdefault(("mlp", (width, index[3])), []).append(mlp)
            found.setdefault(("rest", (width,)), []).append(shares[0] + shares[-1])
        usual = float(np.median(references))
        seconds = {
            part: np.zeros([len(ws) for ws in axes.values()]) for part, axes in grids.items()
        }
        for (part, index), values in found.items():
            seconds[part][index] = usual * float(np.median(values))
        return cls(
            grids, seconds, batch_size, config.num_tokens, device_name(device),
            str(dtype).removeprefix("torch."), torch.get_num_threads(), torch.__version__, clock,
            usual,
        )  # fmt: skip

    @classmethod
    def computed(
        cls,
        config: NViTConfig,
        costs: Mapping[str, Callable[..., Array]],
        *,
        device: str,
        batch_size: int = 1,
    ) -> Self:
        """A table of formulas instead of a stopwatch: to prune to a number of weights, say.

        Args:
            config: Of the largest network.
            costs: "attention", "mlp" and "rest" -> the cost of that part of a block, or of the
                network, from its widths in the order of `PARTS`: (E, H, QK, V), (E, M) and (E).
                The cost has to be linear in each width alone, as weights and multiplications are.
            device: What the costs are of, such as "weights".
            batch_size: Pictures that they are of.

        Example:
            >>> from salhub.models.nvit.configuration_nvit import NViTConfig
            >>> config = NViTConfig(num_hidden_layers=2)
            >>> table = LatencyTable.computed(config, {
            ...     "attention": lambda width, head, qk, v: 2 * width * head * (qk + v),
            ...     "mlp": lambda width, neurons: 2 * width * neurons,
            ...     "rest": lambda width: 0 * width,
            ... }, device="weights")
            >>> table.predict(config) == NViTShape.of(config).num_block_parameters(config)
            True
        """
        shape = NViTShape.of(config)
        most = {"embedding": shape.hidden_size} | {
            name: max(getattr(shape, name)) for name in ("head", "qk", "v", "mlp")
        }
        # Between the ends nothing has to be known of what is linear.
        grid = {name: [1.0, float(max(2, width))] for name, width in most.items()}
        grids = {part: {name: grid[name] for name in axes} for part, axes in PARTS.items()}
        seconds = {
            part: np.asarray(costs[part](*np.meshgrid(*axes.values(), indexing="ij")), dtype=float)
            for part, axes in grids.items()
        }
        return cls(
            grids, seconds, batch_size, config.num_tokens, device, "float32",
            torch.get_num_threads(), torch.__version__,
        )  # fmt: skip

    def part(self, name: str, widths: ArrayLike) -> Array:
        """Seconds of a part at some widths, by multilinear interpolation.

        Args:
            name: "attention", "mlp" or "rest".
            widths: (..., axes) in the order of `PARTS`; those beyond the grid count as its border.

        Returns:
            (...,) seconds.
        """
        points = np.asarray(widths, dtype=float)
        axes = [np.asarray(ws) for ws in self.grids[name].values()]
        found = self.seconds[name]
        places, shares = [], []
        for axis, grid in enumerate(axes):
            at = np.clip(points[..., axis], grid[0], grid[-1])
            cell = np.clip(np.searchsorted(grid, at, side="right") - 1, 0, len(grid) - 2)
            places.append(cell)
            shares.append((at - grid[cell]) / (grid[cell + 1] - grid[cell]))
        total = np.zeros(points.shape[:-1])
        for corner in np.ndindex(*(2,) * len(axes)):
            weight = np.ones(points.shape[:-1])
            for upper, share in zip(corner, shares, strict=True):
                weight = weight * (share if upper else 1 - share)
            cells = tuple(cell + upper for cell, upper in zip(places, corner, strict=True))
            total += weight * found[cells]
        return total

    def block_seconds(self, width: ArrayLike, blocks: ArrayLike) -> Array:
        """Seconds of blocks.

        Args:
            width: E, (...,) or one number.
            blocks: H, QK, V and M of each, (..., 4); 0 heads or neurons take no time.
        """
        blocks = np.asarray(blocks, dtype=float)
        wide = np.broadcast_to(np.asarray(width, dtype=float), blocks.shape[:-1])[..., None]
        attention = self.part("attention", np.concatenate([wide, blocks[..., :3]], -1))
        mlp = self.part("mlp", np.concatenate([wide, blocks[..., 3:]], -1))
        return np.where(blocks[..., 0] > 0, attention, 0) + np.where(blocks[..., 3] > 0, mlp, 0)

    def predict(self, network: NViTConfig | NViTShape) -> float:
        """Seconds that a batch takes.

        Args:
            network: Its configuration or shape; warns where it lies outside of the grid.

        Example:
            >>> table.predict(model.config)  # doctest: +SKIP
            0.0123
        """
        shape = NViTShape.of(network) if isinstance(network, NViTConfig) else network
        self._warn_outside(shape)
        blocks = self.block_seconds(shape.hidden_size, shape.blocks).sum()
        return float(blocks + self.part("rest", [[shape.hidden_size]])[0])

    def validate(
        self, config: NViTConfig, count: int = 30, *, device: str | torch.device = "cpu",
        repeats: int = 15, seed: int = 0,
    ) -> TableError:  # fmt: skip
        """Compare predictions with whole networks of random shapes within the grid; kept with it.

        Times are brought to the speed that the machine had when the table was measured, by one
        network that takes turns with all others.

        Args:
            config: Says all that is no width, and how many blocks there are.
            count: Networks, each with all blocks of a shape of their own.
            device: Where to time them.
            repeats: Runs of each, of which the median counts.
            seed: Of the shapes, whose widths are multiples of the pruner's groups: others are
                slower than their neighbours on most machines.
        """
        generator = np.random.default_rng(seed)
        watch = Clock(torch.device(device), repeats, 3, self.clock)
        dtype = getattr(torch, self.dtype)
        grid = {name: [int(width) for width in self._axis(name)] for name in STRUCTURES}
        num_blocks = max(_LEAST_BLOCKS, config.num_hidden_layers)
        reference = _reference(config, grid, num_blocks)
        predicted, measured = [], []
        for _ in range(count):
            shape = self._random_shape(config.num_hidden_layers, generator)
            predicted.append(self.predict(shape))
            network = network_of(config, shape)
            [share], usual = watch.shares(network, reference, self.batch_size, dtype)
            measured.append(float(share) * (self.reference_seconds or usual))
        found = TableError(predicted, measured)
        self.validation = {"networks": count, "median": found.median, "maximum": found.maximum}
        return found

    def check(
        self, config: NViTConfig, *, device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32, strict: bool = False,
    ) -> list[str]:  # fmt: skip
        """Sentences about what differs between the measurement and the machine at hand.

        Args:
            config: Of the network.
            device: It runs on.
            dtype: Its precision.
            strict: Raise instead of warning.

        Raises:
            ValueError: Something differs and `strict` is True.
        """
        here = {
            "device": device_name(torch.device(device)),
            "dtype": str(dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "num_tokens": config.num_tokens,
        }
        found = [
            f"The latency table was measured with {name}={getattr(self, name)}, but here it "
            f"is {value}."
            for name, value in here.items()
            if getattr(self, name) != value
        ]
        if found and strict:
            raise ValueError(f"{found[0][:-1]}; measure it again with LatencyTable.measure.")
        for sentence in found:
            logger.warning("%s", sentence)
        return found

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["seconds"] = {name: one.tolist() for name, one in self.seconds.items()}
        target = Path(path)
        write_text(target, json.dumps({"format": _FORMAT, **fields}, indent=1) + "\n")
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` has written.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no latency table.
        """
        require_file(Path(path), "latency table")
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8"))
            if fields.pop("format") != _FORMAT:
                raise ValueError
            seconds = {name: np.asarray(one) for name, one in fields.pop("seconds").items()}
            table = cls(seconds=seconds, **fields)
            for part, axes in table.grids.items():
                if seconds[part].shape != tuple(len(ws) for ws in axes.values()):
                    raise ValueError
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError(
                f"{path} is not a latency table of this version; measure one with "
                "LatencyTable.measure(...).save(path)."
            ) from None
        return table

    @property
    def digest(self) -> str:
        """First letters of the SHA-256 of the measurement, for records."""
        content = json.dumps({name: one.tolist() for name, one in sorted(self.seconds.items())})
        return hashlib.sha256(f"{self.grids}{content}".encode()).hexdigest()[:16]

    def _axis(self, structure: str) -> list[float]:
        part = next(part for part, axes in PARTS.items() if structure in axes)
        return self.grids[part][structure]

    def _random_shape(self, blocks: int, generator: np.random.Generator) -> NViTShape:
        def draw(structure: str, count: int) -> tuple[int, ...]:
            widths = self._axis(structure)
            step = _STEPS[structure] if widths[-1] >= _STEPS[structure] else 1
            first, last = -(-int(widths[0]) // step), int(widths[-1]) // step
            drawn = generator.integers(first, last + 1, size=count)
            return tuple(step * int(one) for one in drawn)

        return NViTShape(
            draw("embedding", 1)[0], *(draw(name, blocks) for name in ("head", "qk", "v", "mlp"))
        )

    def _warn_outside(self, shape: NViTShape) -> None:
        widths = {"embedding": (shape.hidden_size,)}
        widths |= {name: getattr(shape, name) for name in ("head", "qk", "v", "mlp")}
        for name, own in widths.items():
            grid, present = self._axis(name), [width for width in own if width > 0]
            if present and (min(present) < grid[0] or max(present) > grid[-1]):
                logger.warning(
                    "%s of %d to %d lies outside the latency table (%g to %g); the nearest "
                    "entry is used.", name, min(present), max(present), grid[0], grid[-1],
                )  # fmt: skip


def default_grid(shape: NViTShape) -> dict[str, Sequence[int]]:
    """Widths to measure for networks up to a shape: 4 E, 4 H, 3 QK, 3 V and 7 M [C].

    Args:
        shape: The largest one.

    Example:
        >>> default_grid(NViTShape(128, (4,), (32,), (32,), (512,)))["head"]
        [1, 2, 3, 4]
    """
    full = {
        "embedding": (shape.hidden_size, 4, min(16, shape.hidden_size)),
        "head": (max(shape.head), 4, 1),
        "qk": (max(shape.qk), 3, min(8, max(shape.qk))),
        "v": (max(shape.v), 3, min(8, max(shape.v))),
        "mlp": (max(shape.mlp), 7, min(16, max(shape.mlp))),
    }
    found = {}
    for name, (most, count, least) in full.items():
        # Odd widths are slower than their neighbours, and would be taken for the rule.
        step = _STEPS[name]
        inner = {step * max(1, round(w / step)) for w in np.linspace(least, most, count)[1:-1]}
        widths = {least, most} | {w for w in inner if least < w < most}
        found[name] = sorted(widths if len(widths) > 1 else {most, most + 1})
    return found


def _reference(
    config: NViTConfig, grid: Mapping[str, Sequence[int]], blocks: int
) -> NViTForImageClassification:
    """A network of the middle widths of a grid."""
    middle = {name: widths[len(widths) // 2] for name, widths in grid.items()}
    others = ((middle[name],) * blocks for name in BLOCK_STRUCTURES)
    return network_of(config, NViTShape(middle["embedding"], *others))


def _networks(
    grid: Mapping[str, Sequence[int]], blocks: int, seed: int
) -> Iterator[tuple[int, list[tuple[int, ...]]]]:
    """Networks that all points of a grid are timed in, some times each.

    Args:
        grid: Structure -> widths.
        blocks: Of a network.
        seed: Of what is together.

    Yields:
        Place of E in the grid, and places of H, QK, V and M for each block.
    """
    generator = np.random.default_rng(seed)
    sizes = [len(grid[name]) for name in BLOCK_STRUCTURES]

    def endless(points: list[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
        while True:
            for place in generator.permutation(len(points)):
                yield points[place]

    attentions, mlps = list(np.ndindex(*sizes[:3])), list(np.ndindex(sizes[3]))
    count = -(-_VISITS * max(len(attentions), len(mlps)) // blocks)
    streams = [(endless(attentions), endless(mlps)) for _ in grid["embedding"]]
    for _ in range(count):
        for width in generator.permutation(len(streams)):
            heads, neurons = streams[width]
            yield int(width), [next(heads) + next(neurons) for _ in range(blocks)]
