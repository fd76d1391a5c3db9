"""What was decided about each layer, as a file beside the model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from salhub.runner.compression_report import load_report, save_report

REPORT_FILE = "layers.json"


@dataclass(frozen=True)
class LayerReport:
    """One linear layer.

    Args:
        group_bits: The bits of each group of columns.
        num_swapped: Groups that have a bit less than the mean, and as many that have one more.
        salience: Mean salience of the weights of each group; empty where it was not measured.
        divergences: D(p) of the p that were tried, p being the place in the list; None where p was
            not tried. Empty where nothing was searched.
        error: Relative error of the outputs on the calibration text.
        width_divergences: What the outputs of the whole layer lose at 2, 3 and 4 bits, where it has
            one width; empty otherwise.
    """

    group_bits: list[int]
    num_swapped: int
    salience: list[float]
    divergences: list[float | None]
    error: float
    width_divergences: list[float] = field(default_factory=list)

    @property
    def curve(self) -> list[tuple[int, float]]:
        """The p that were tried and their D(p)."""
        return [(p, found) for p, found in enumerate(self.divergences) if found is not None]


@dataclass(frozen=True)
class CompressionReport:
    """All layers of a model.

    Args:
        base_model: What it was made of; None where that was a folder.
        bits: Bits of a weight, on average.
        group_size: Columns of a group.
        layers: Name -> what was decided.
    """

    base_model: str | None
    bits: float
    group_size: int
    layers: Mapping[str, LayerReport]

    def save(self, folder: Path) -> None:
        """Write layers.json, the widths of a layer in one word, as config.json has them."""
        content = asdict(self)
        for layer in content["layers"].values():
            layer["group_bits"] = "".join(map(str, layer["group_bits"]))
        save_report(folder / REPORT_FILE, content)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read layers.json; the errors are those of `load_report`."""

        def build(content: dict[str, Any]) -> Self:
            layers = {
                name: LayerReport(
                    **{**one, "group_bits": [int(bits) for bits in one["group_bits"]]}
                )
                for name, one in content.pop("layers").items()
            }
            return cls(layers=layers, **content)

        return load_report(folder / REPORT_FILE, build)
