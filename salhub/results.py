"""Measured numbers with everything needed to repeat them: data, seed, versions, machine, time."""

import importlib.metadata
import json
import logging
import math
import os
import platform
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike

from salhub.errors import CardError, did_you_mean
from salhub.files import write_text
from salhub.manifest import NAMESPACE
from salhub.metrics.bootstrap import Estimate, bootstrap_mean

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parent
# What files of former versions call by another name: a high number never meant sensitive.
_FORMER_WORDS = (
    ("class_sensitivity", "class_similarity"),
    ("Class sensitivity", "Class similarity"),
    ("class sensitivity", "class similarity"),
)
# Where the results will be saved that are being measured; see `noted_as_it_comes`.
_notes: ContextVar[Path | None] = ContextVar("notes", default=None)
RECORDED_PACKAGES = ("salhub", "torch", "transformers", "numpy", "scipy", "pillow")


@dataclass
class Metric:
    """One number.

    Attributes:
        name: What was measured, unique in its file, e.g. "grid_mass/norm_grad/blocks.15".
        value: The number; NaN (null in the file) where it does not exist.
        interval: (low, high) confidence interval, or None.
        n: Number of examples behind it.
        unit: Unit or kind, e.g. "fraction", "rho", "s".
    """

    name: str
    value: float
    interval: tuple[float, float] | None = None
    n: int | None = None
    unit: str = ""


@dataclass
class Table:
    """A table ready to be printed on a card.

    Attributes:
        title: Heading.
        note: One or two sentences: sample sizes, chance level, how to read it.
        columns: Column names.
        rows: One list a row, cells are text, numbers or None.
    """

    title: str
    note: str
    columns: list[str]
    rows: list[list[str | float | int | None]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r} has {len(self.columns)} columns but a row of "
                    f"{len(row)} cells: {row}."
                )


@dataclass
class Results:
    """Everything one evaluation found.

    Args:
        model: Name of the evaluated model.
        command: Command that repeats it.
        seed: Seed of every random choice.
        data: What it was measured on: name, number of examples, fingerprint.
        versions: Python and package versions.
        machine: Processor, threads, platform, peak memory.
        wall_seconds: Time of the whole evaluation.
        metrics: All numbers.
        tables: Tables for the card.

    Example:
        >>> results = Results(model="salhub/x", command="salhub evaluate salhub/x", seed=0)
        >>> results.add_metric("accuracy", 0.5, n=2)
        >>> results.metric("accuracy").value
        0.5
    """

    model: str
    command: str
    seed: int
    data: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    wall_seconds: float = 0.0
    metrics: list[Metric] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    @classmethod
    def of_model(cls, model: torch.nn.Module, data_name: str, seed: int) -> "Results":
        """New results of a loaded model, with the command that measures it again; never a path.

        Args:
            model: Its name is that in its configuration, or else its class.
            data_name: What it is measured on, as `--data` may be called.
            seed: Seed of every random choice.
        """
        name = getattr(model.config, "name_or_path", "") or type(model).__name__
        if name.startswith(("/", ".")) or "\\" in name:
            name = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
        return cls(name, f"salhub evaluate {name} --data {data_name} seed={seed}", seed)

    def add_metric(
        self,
        name: str,
        value: float,
        *,
        interval: tuple[float, float] | None = None,
        n: int | None = None,
        unit: str = "",
    ) -> None:
        """Append a metric; a second one of the same name is refused with a ValueError."""
        if any(known.name == name for known in self.metrics):
            raise ValueError(f"metric {name!r} is already recorded; names must be unique.")
        self.metrics.append(Metric(name, float(value), interval, n, unit))
        _note(self.model, self.metrics[-1])

    def add_mean(
        self, name: str, values: ArrayLike, *, groups: ArrayLike | None = None, unit: str = ""
    ) -> Estimate:
        """Append the mean of some values with its 95 % bootstrap interval, drawn by the seed.

        Args:
            name: Of the metric.
            values: (N,) numbers; those that are not finite are left out of the mean and counted in
                a second metric, "name/not_finite".
            groups: (N,) group of each value, see `bootstrap_mean`.
            unit: Of the metric.

        Returns:
            The estimate; f"{estimate:.3f}" is its text for a table.

        Example:
            >>> results = Results(model="salhub/x", command="salhub evaluate salhub/x", seed=0)
            >>> f"{results.add_mean('accuracy', [1, 1, 1, 1]):.2f}"
            '1.00 [1.00, 1.00]'
        """
        found = bootstrap_mean(values, groups, seed=self.seed)
        self.add_metric(name, found.mean, interval=(found.low, found.high), n=found.n, unit=unit)
        if found.num_not_finite:
            total = found.n + found.num_not_finite
            self.add_metric(f"{name}/not_finite", found.num_not_finite, n=total, unit="count")
        return found

    def metric(self, name: str) -> Metric:
        """The metric of this name, a former one too; a KeyError names near matches."""
        name = _with_present_words(name)
        for known in self.metrics:
            if known.name == name:
                return known
        hint = did_you_mean(name, [known.name for known in self.metrics])
        raise KeyError(f"no metric {name!r} in the results of {self.model}.{hint}")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write strict JSON (NaN becomes null); a reader sees the old file or the whole new one.

        Args:
            path: File to write; its folder is made when it does not exist.

        Returns:
            The path written.
        """
        path = Path(path)
        text = json.dumps(without_nan(asdict(self)), indent=2, allow_nan=False, ensure_ascii=False)
        write_text(path, text + "\n")
        _notes_of(path).unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Results":
        """Read a results file.

        Raises:
            ValueError: If the file is not JSON or not a results file.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            content = json.loads(_with_present_words(text))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path} is not JSON ({error}); expected a salhub results file."
            ) from None
        names = {known.name for known in fields(cls)}
        if (
            not isinstance(content, dict)
            or not {"model", "command", "seed"} <= set(content) <= names
        ):
            raise ValueError(
                f"{path} is not a salhub results file; expected an object with the keys "
                f"{', '.join(sorted(names))}."
            )
        content["metrics"] = [_metric(entry) for entry in content.get("metrics", [])]
        content["tables"] = [Table(**entry) for entry in content.get("tables", [])]
        return cls(**content)


def _with_present_words(text: str) -> str:
    for former, present in _FORMER_WORDS:
        text = text.replace(former, present)
    return text


def cards_folder() -> Path:
    """Return the folder with the results files: in the package, or beside it in a checkout."""
    inside = _PACKAGE / "model_cards"
    return inside if inside.is_dir() else _PACKAGE.parent / "model_cards"


def read_results(name: str) -> Results:
    """Read the measured numbers of a shipped model.

    Raises:
        CardError: They were never measured.
    """
    short = name.removeprefix(NAMESPACE)
    path = cards_folder() / f"{short}.results.json"
    if not path.is_file():
        raise CardError(
            f"There are no numbers for {NAMESPACE}{short}: {path} is missing; measure them with: "
            f"salhub evaluate {short} --data FOLDER -o {path.name}"
        )
    return Results.load(path)


@contextmanager
def noted_as_it_comes(path: Path) -> Generator[None]:
    """Keep every number that is measured inside as soon as it is there, in case the rest fails.

    Args:
        path: Where the results will be saved, which ends the notes. Until then each number is a
            line of JSON in a file beside it, `NAME.partial.jsonl`.
    """
    token = _notes.set(path)
    _notes_of(path).unlink(missing_ok=True)
    try:
        yield
    except BaseException:
        if _notes_of(path).exists():
            logger.warning("The measurements so far are in %s.", _notes_of(path))
        raise
    finally:
        _notes.reset(token)


def _notes_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial.jsonl")


def _note(model: str, metric: Metric) -> None:
    path = _notes.get()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(without_nan({"model": model, **asdict(metric)}), allow_nan=False)
        with _notes_of(path).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


@contextmanager
def measured(results: Results) -> Generator[Results]:
    """Record versions, machine, wall time and peak memory of what runs inside.

    Args:
        results: Filled in place when the block ends.

    Example:
        >>> with measured(Results(model="m", command="c", seed=0)) as results:
        ...     results.add_metric("accuracy", 1.0)
    """
    results.versions = package_versions()
    start = time.perf_counter()
    yield results
    results.wall_seconds = round(time.perf_counter() - start, 2)
    results.machine = describe_machine()


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers; absent ones are left out."""
    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def describe_machine() -> dict[str, Any]:
    """Kind of processor, number of threads, platform and peak memory; never names or paths."""
    machine: dict[str, Any] = {
        "processor": _processor_name(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "peak_memory_mib": peak_memory_mib(),
    }
    if torch.cuda.is_available():
        machine["accelerator"] = torch.cuda.get_device_name()
    return machine


def peak_memory_mib() -> float | None:
    """Largest resident memory of this process so far in MiB, or None where it is not known."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _metric(entry: dict[str, Any]) -> Metric:
    value = entry.get("value")
    interval = entry.get("interval")
    known = {**entry, "value": math.nan if value is None else value}
    if interval is not None:
        known["interval"] = tuple(math.nan if end is None else end for end in interval)
    return Metric(**known)


def without_nan(value: Any) -> Any:
    """Replace numbers that JSON cannot hold by None, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return value
