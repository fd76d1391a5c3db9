"""What was decided about each layer, as a file beside the model."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from salhub.files import write_text

REPORT_FILE = "layers.json"
# Of a number in the file; more would say nothing and double its size.
_DIGITS = 5


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
        """Write layers.json."""
        content = asdict(self)
        content["layers"] = {name: _written(one) for name, one in self.layers.items()}
        write_text(folder / REPORT_FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read layers.json.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is none of ours.
        """
        try:
            content = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
            layers = {
                name: LayerReport(
                    **{**one, "group_bits": [int(bits) for bits in one["group_bits"]]}
                )
                for name, one in content.pop("layers").items()
            }
            return cls(layers=layers, **content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{REPORT_FILE} cannot be read ({error}); get it anew.") from None


def _written(layer: LayerReport) -> dict[str, Any]:
    """As JSON holds it: widths in one word, as in config.json, and numbers cut short."""
    return {
        "group_bits": "".join(map(str, layer.group_bits)),
        "num_swapped": layer.num_swapped,
        "salience": [_short(one) for one in layer.salience],
        "divergences": [None if one is None else _short(one) for one in layer.divergences],
        "error": _short(layer.error),
        "width_divergences": [_short(one) for one in layer.width_divergences],
    }


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
