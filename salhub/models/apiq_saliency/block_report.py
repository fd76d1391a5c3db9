"""How the training of each block went, as a file beside the model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from salhub.models.apiq_saliency.block_training import TrainingHistory
from salhub.runner.compression_report import load_report, save_report

REPORT_FILE = "blocks.json"


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
        save_report(folder / REPORT_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read blocks.json; the errors are those of `load_report`."""

        def build(content: dict[str, Any]) -> Self:
            blocks = {
                name: BlockReport(
                    error=float(one["error"]),
                    trainings=[TrainingHistory(**training) for training in one["trainings"]],
                )
                for name, one in content.pop("blocks").items()
            }
            return cls(blocks=blocks, **content)

        return load_report(folder / REPORT_FILE, build)
