"""The log that is always written, and the trackers that are written when they are installed."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, get_available_trackers, on_main_process
from accelerate.utils import LoggerType

from salhub.errors import MissingExtraError, did_you_mean
from salhub.files import write_text

logger = logging.getLogger(__name__)


class JsonLinesTracker(GeneralTracker):
    """Writes every entry of the log as one line of JSON.

    A line holds nothing that differs between two runs of one seed, such as the time: so the logs
    of an interrupted run and of an uninterrupted one are equal to the letter.

    Args:
        path: The file.
    """

    name = "json_lines"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def tracker(self) -> Path:
        """The file, which is all that there is to get at."""
        return self.path

    @on_main_process
    def begin_after(self, step: int, expected: int = 0) -> int:
        """Go on after a step: what an interrupted run has logged beyond it is dropped.

        Args:
            step: The last one that was taken.
            expected: How many lines there were by then; fewer are said.

        Returns:
            The last step that stays, 0 where there is none; None on other processes.
        """
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        kept = [line for line in text.splitlines() if _step_of(line) <= step]
        if len(kept) < expected:
            lost = expected - len(kept)
            logger.warning("%s has lost lines before step %d: %d.", self.path, step, lost)
        write_text(self.path, "".join(f"{line}\n" for line in kept))
        return int(_step_of(kept[-1])) if kept else 0

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """The options stand in results.json."""

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Append a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")  # a line that a kill cut off


def check_trackers(names: list[str]) -> None:
    """Refuse trackers that are unknown or not installed, before any work is done.

    Raises:
        ValueError: A name that Accelerate does not know.
        MissingExtraError: The tracker's package is not installed.
    """
    known = sorted(kind.value for kind in LoggerType if kind.value != "all")
    available = {str(getattr(kind, "value", kind)) for kind in get_available_trackers()}
    for name in names:
        if name not in known:
            raise ValueError(
                f"report_to must be among {', '.join(known)}, got "
                f"{name!r}.{did_you_mean(name, known)}"
            )
        if name not in available:
            raise MissingExtraError(
                f"report_to='{name}' needs the package '{name}', which is not installed; install "
                f"it with: pip install {name}"
            )


def plain_values(options: Mapping[str, Any]) -> dict[str, int | float | str | bool]:
    """Options as TensorBoard takes them: lists and nothing become text."""
    is_plain = (int, float, str, bool)
    return {k: v if isinstance(v, is_plain) else json.dumps(v) for k, v in options.items()}
