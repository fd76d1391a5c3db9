"""From races to a results file: tables of ratios, requirements met or missed, agreement."""

import argparse
import importlib.metadata
import logging
from dataclasses import dataclass
from pathlib import Path

from benchmarks.interleaved import Race, Ratio, peak_tensor_memory
from benchmarks.peers import Peer
from salhub.results import Results, Table

logger = logging.getLogger(__name__)

RESULTS = Path(__file__).parent / "results"
COMPARISON = "Beside each peer"
_MIB = 2**20
_CELL = "{:.4g}"


@dataclass(frozen=True)
class Requirement:
    """A number that has to stay within a limit.

    Args:
        name: What it is.
        value: What was measured.
        limit: What it may be at most, or at least.
        interval: 95 % interval of the value, or None for what does not vary.
        is_least: The limit is a lower one.
    """

    name: str
    value: float
    limit: float
    interval: tuple[float, float] | None = None
    is_least: bool = False

    @classmethod
    def of_ratio(
        cls, name: str, ratio: Ratio, limit: float, *, is_least: bool = False
    ) -> "Requirement":
        """A requirement on a ratio of times."""
        return cls(name, ratio.value, limit, (ratio.low, ratio.high), is_least)

    @property
    def is_met(self) -> bool:
        """Whether the value is within the limit."""
        return self.value >= self.limit if self.is_least else self.value <= self.limit


@dataclass(frozen=True)
class Agreement:
    """How far a map of ours is from a peer's.

    Args:
        what: The method and where.
        peer: Whose map it is compared with.
        difference: Largest absolute difference divided by the range of the peer's map.
        expected: Whether the two are meant to be equal.
        note: Why they are not, otherwise.
    """

    what: str
    peer: str
    difference: float
    expected: bool = True
    note: str = ""


def add_race(
    results: Results,
    title: str,
    note: str,
    race: Race,
    bases: dict[str, str],
) -> None:
    """Record a race as a table and as metrics "<title>/<contender>/...", and measure memory.

    Args:
        results: Filled in place.
        title: Heading, and first part of the metrics' names.
        note: What was run.
        race: The times.
        bases: Heading of a column of ratios -> contender that it divides by.
    """
    columns = ["what", "by", "CPU ms", "wall ms", *bases, "peak MiB"]
    rows = []
    for contender in race.contenders:
        key = f"{title}/{contender.name}"
        times = [1e3 * race.seconds(contender.name, clock) for clock in ("cpu", "wall")]
        results.add_metric(f"{key}/cpu", times[0] / 1e3, n=race.rounds, unit="s")
        results.add_metric(f"{key}/wall", times[1] / 1e3, n=race.rounds, unit="s")
        ratios = {heading: race.ratio(contender.name, base) for heading, base in bases.items()}
        for heading, ratio in ratios.items():
            results.add_metric(
                f"{key}/{heading}",
                ratio.value,
                interval=(ratio.low, ratio.high),
                n=race.rounds,
                unit="ratio",
            )
        measure = contender.measure_memory or peak_tensor_memory
        peak = measure(contender.run) / _MIB
        results.add_metric(f"{key}/peak_memory", peak, unit="MiB")
        row = [contender.name, contender.package, *times, *(r.value for r in ratios.values()), peak]
        rows.append([_rounded(cell) for cell in row])
    note = f"{note} Medians of {race.rounds} rounds in which all took turns.".strip()
    results.tables.append(Table(title, note, columns, rows))


def add_comparisons(results: Results, race: Race, pairs: list[tuple[str, str]]) -> None:
    """Record who of two that do the same is faster.

    Args:
        results: Filled in place; all races share one table.
        race: The times.
        pairs: Contender of ours and of a peer; those that took no part are left out.
    """
    table = next((known for known in results.tables if known.title == COMPARISON), None)
    if table is None:
        note = "Ratio of CPU time, ours to theirs, and its 95 % interval over the rounds."
        table = Table(COMPARISON, note, ["ours", "theirs", "ratio", "from", "to", "ours is"], [])
        results.tables.append(table)
    for ours, theirs in pairs:
        if theirs not in race.cpu:
            continue
        ratio = race.ratio(ours, theirs)
        results.add_metric(
            f"beside/{ours}/{theirs}",
            ratio.value,
            interval=(ratio.low, ratio.high),
            n=race.rounds,
            unit="ratio",
        )
        table.rows.append([ours, theirs, *(_rounded(cell) for cell in ratio), _speed(ratio)])


def _speed(ratio: Ratio) -> str:
    if ratio.high < 1:
        return "faster"
    return "SLOWER" if ratio.low > 1 else "as fast"


def add_agreements(results: Results, agreements: list[Agreement], tolerance: float) -> None:
    """Record how equal maps are that should be, and how unlike those that should not."""
    rows = []
    for found in agreements:
        verdict = _verdict(found.difference <= tolerance) if found.expected else found.note
        results.add_metric(f"agreement/{found.what}/{found.peer}", found.difference, unit="range")
        rows.append([found.what, found.peer, _rounded(found.difference), verdict])
    note = f"Largest difference as a share of the peer's range; at most {tolerance:g} is required."
    columns = ["map", "peer", "difference", "verdict"]
    results.tables.append(Table("Agreement", note, columns, rows))


def add_requirements(results: Results, requirements: list[Requirement]) -> None:
    """Record what was required and whether it was met."""
    rows = []
    for one in requirements:
        results.add_metric(
            f"required/{one.name}", one.value, interval=one.interval, unit="requirement"
        )
        sign = "at least" if one.is_least else "at most"
        rows.append([one.name, _rounded(one.value), f"{sign} {one.limit:g}", _verdict(one.is_met)])
    results.tables.insert(
        0, Table("Required", "", ["what", "measured", "required", "verdict"], rows)
    )


def existing_file(text: str) -> Path:
    """A file that a script reads, for `argparse`: what is not there is said before any work.

    Raises:
        argparse.ArgumentTypeError: There is no such file.
    """
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def open_table(path: Path, command: str, data: dict) -> Results:
    """Return the results of a table that fills up over several runs, empty at the first one.

    Args:
        path: File of the results.
        command: What makes them.
        data: What they are measured on.

    Raises:
        SystemExit: The file is of other data.
    """
    if not path.is_file():
        return Results(path.stem, command, seed=0, data=data)
    found = Results.load(path)
    if found.data != data:
        raise SystemExit(
            f"{path} has results on {found.data}, not on {data}; choose another file with --output."
        )
    found.command = command
    return found


def finish(results: Results, peers: dict[str, Peer], path: Path) -> None:
    """Print every table, and write the results file and its page.

    Args:
        results: What was found.
        peers: Who took part, for their versions.
        path: Of the results file.
    """
    record_versions(results, peers)
    print_tables(results)
    print()
    for written in save_results(results, path):
        print(f"Wrote {written}")


def record_versions(results: Results, peers: dict[str, Peer]) -> None:
    """Add the versions of the peers to those of our own packages."""
    results.versions.update({p.distribution: p.version for p in peers.values() if p.version})
    try:
        results.versions["torchvision"] = importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        logger.info("torchvision is not installed.")


def save_results(results: Results, path: Path, title: str | None = None) -> list[Path]:
    """Write the results file, and its tables as a page beside it.

    Args:
        results: What was found.
        path: The .json file; the page is called the same with .md.
        title: Of the page; "MODEL beside its peers" by default.

    Returns:
        Both paths.
    """
    page = path.with_suffix(".md")
    results.save(path)
    page.write_text(markdown(results, title), encoding="utf-8")
    return [path, page]


def markdown(results: Results, title: str | None = None) -> str:
    """Write the tables of a results file as a page for people, see `save_results`."""
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    machine = results.machine
    lines = [
        f"# {title or f'{results.model} beside its peers'}",
        "",
        f"Generated from [the results file]({results.model}.json) of `{results.command}`. "
        "Only ratios carry over to other machines.",
        "",
        f"{machine['processor']}, {machine['torch_threads']} thread. {versions}.",
    ]
    for table in results.tables:
        lines += ["", f"## {table.title}", ""]
        if table.note:
            lines += [table.note, ""]
        body = [table.columns, *table.rows]
        head, *cells = [[_text(cell).replace("|", "\\|") for cell in row] for row in body]
        for row in [head, ["---"] * len(head), *cells]:
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def print_tables(results: Results) -> None:
    """Print every table for a person."""
    for table in results.tables:
        print(f"\n{table.title}")
        if table.note:
            print(table.note)
        cells = [table.columns, *([_text(cell) for cell in row] for row in table.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(table.columns))]
        for row in cells:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print(f"  {line.rstrip()}")


def _verdict(is_good: bool) -> str:
    return "met" if is_good else "MISSED"


def _rounded(cell: str | float) -> str | float:
    return float(_CELL.format(cell)) if isinstance(cell, float) else cell


def _text(cell: str | float | None) -> str:
    return "" if cell is None else cell if isinstance(cell, str) else _CELL.format(cell)
