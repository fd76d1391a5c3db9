"""How the training of each block went, as a file beside the model."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from salhub.files import write_text
from salhub.models.apiq_saliency.block_training import TrainingHistory

REPORT_FILE = "blocks.json"
# Of a number in the file; more would say nothing.
_DIGITS = 5


@dataclass(frozen=True)
class BlockReport:
    """One block.

    Args:
        error: How far its outputs are from those of the full model, as a share of their size, on
            the calibration text.
        trainings: One of the whole block, or one of each set of layers with mode="layer".
    """

    error: float
    trainings: list[TrainingHistory]


@dataclass(frozen=True)
class CompressionReport:
    """All blocks of a model.

    Args:
        base_model: What it was made of; None where that was a folder.
        bits: Bits of a weight.
        blocks: Name -> how it went.
    """

    base_model: str | None
    bits: float
    blocks: Mapping[str, BlockReport]

    def save(self, folder: Path) -> None:
        """Write blocks.json."""
        content = _shortened(asdict(self))
        write_text(folder / REPORT_FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read blocks.json.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is none of ours.
        """
        try:
            content = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
            blocks = {
                name: BlockReport(
                    error=float(one["error"]),
                    trainings=[TrainingHistory(**training) for training in one["trainings"]],
                )
                for name, one in content.pop("blocks").items()
            }
            return cls(blocks=blocks, **content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{REPORT_FILE} cannot be read ({error}); get it anew.") from None


def _shortened(content: Any) -> Any:
    if isinstance(content, float):
        return float(f"{content:.{_DIGITS}g}")
    if isinstance(content, dict):
        return {key: _shortened(one) for key, one in content.items()}
    return [_shortened(one) for one in content] if isinstance(content, list) else content
