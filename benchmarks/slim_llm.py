"""SliM-LLM and its peers on one language model at two and three bits: perplexity, bits, time.

    python -m benchmarks.slim_llm --model SmolLM2-135M-Instruct --calibration wiki.valid.raw \
        --test wiki.test.raw

A table that fills up: every cell (a method, a width, a seed that draws the calibration text) is
written to benchmarks/results/slim_llm.json when it is measured, and is not measured again; what is
missing is listed, and the next run goes on there. `--minutes` says when to stop, and `--speed`
times a whole model, the work on a block, or writing, which wants an idle machine. `--smoke` is for
a model that is too small for anything to follow from its numbers: nothing is required of them.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import quantization_cells as parts
from benchmarks import quantized_speed as speed
from benchmarks.peers import find_peers, peers_table
from benchmarks.quantization_cells import MEASURES, METHODS, Cell, Measure, Source
from benchmarks.report import (
    RESULTS,
    Requirement,
    add_requirements,
    open_table,
    print_tables,
    record_versions,
    save_results,
)
from salhub.results import Metric, Results, Table, measured

# Perplexity at most, by width; means over as many seeds at least.
LIMITS = {2: 420.0, 3: 63.0}
LEAST_SEEDS = 5
SPEED = "speed/"
TIMED = ("model", "blocks", "writing")
NUM_TIMED_BLOCKS = 1
TITLE = "SliM-LLM beside its peers"


def main(arguments: Sequence[str] | None = None, measure: Measure = parts.measure) -> None:
    """Measure what is missing, and write the tables anew.

    Args:
        arguments: Words of the command line; None for those of the process.
        measure: Measures a cell.
    """
    options = _options(arguments)
    source = _source(options)
    results = _opened(options, source)
    until = math.inf if options.minutes is None else time.monotonic() + 60 * options.minutes
    wanted = parts.cells(tuple(options.bits), options.seeds, tuple(options.only))
    for cell in wanted:
        if _known(results, cell) or parts.why_not(METHODS[cell.method]):
            continue
        if time.monotonic() >= until:
            print("Stopped as the time is over; the next run goes on from here.")
            break
        print(f"{cell.method}, {cell.bits} bits, seed {cell.seed}", flush=True)
        before = results.wall_seconds
        with measured(results):
            found = measure(cell, source)
        results.wall_seconds = round(results.wall_seconds + before, 2)
        for name, value in found.items():
            results.add_metric(cell.metric(name), value, n=1, unit=MEASURES[name])
        print(f"  {found}", flush=True)
        _write(results, options)
    if options.speed:
        with measured(results):
            _time(results, source, options.speed, options.new_tokens)
    _write(results, options)
    print_tables(results)


def _time(results: Results, source: Source, what: Sequence[str], new_tokens: int) -> None:
    """Time some of `TIMED` anew."""
    stale = tuple(f"{SPEED}{one}/" for one in what)
    results.metrics = [one for one in results.metrics if not one.name.startswith(stale)]
    if "model" in what:
        seconds = parts.in_own_process(speed.seconds_of_model, source, parts.OURS)
        name = f"{SPEED}model/{source.threads} threads"
        results.add_metric(name, seconds, n=1, unit="s")
    if "blocks" in what:
        found = parts.in_own_process(
            speed.seconds_of_blocks, source, NUM_TIMED_BLOCKS, (parts.OURS, parts.PUBLISHED)
        )
        for name, value in found.items():
            results.add_metric(f"{SPEED}blocks/{name}", value, n=NUM_TIMED_BLOCKS, unit="s")
    if "writing" in what:
        found = parts.in_own_process(speed.inference_rows, source, parts.OURS, new_tokens)
        for name, row in found.items():
            for measure, value in row.items():
                unit = "fraction" if measure == "bytes" else "tokens/s"
                results.add_metric(f"{SPEED}writing/{name}/{measure}", value, unit=unit)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.slim_llm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="folder or name of a causal language model")
    parser.add_argument("--calibration", required=True, help="text that methods may look at")
    parser.add_argument("--test", required=True, help="text that is predicted")
    parser.add_argument("--bits", type=int, nargs="+", choices=(2, 3), default=[2, 3])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=[], metavar="METHOD")
    parser.add_argument("--speed", nargs="+", choices=TIMED, default=[], help="time it anew")
    parser.add_argument("--new-tokens", type=int, default=32, help="that are written for --speed")
    parser.add_argument("--minutes", type=float, help="begin no cell after as many; 0 for none")
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--equal-group-size", type=int, default=56, help="of the row at equal bits")
    parser.add_argument("--windows", type=int, default=32, help="of the calibration")
    parser.add_argument("--length", type=int, default=512, help="tokens of a window")
    parser.add_argument("--test-tokens", type=int, default=20_480)
    parser.add_argument("--precision", choices=("highest", "high", "medium"), default="highest")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="such as cuda, with another --output")
    parser.add_argument("--smoke", action="store_true", help="claim nothing of the numbers")
    parser.add_argument("--output", type=Path, default=RESULTS / "slim_llm.json")
    return parser.parse_args(arguments)


def _source(options: argparse.Namespace) -> Source:
    for place in (options.calibration, options.test):
        if not Path(place).is_file():
            raise SystemExit(f"There is no file {place}; give both texts by their paths.")
    return Source(
        options.model,
        options.calibration,
        options.test,
        options.windows,
        options.length,
        options.test_tokens,
        options.group_size,
        options.equal_group_size,
        options.precision,
        options.threads,
        options.device,
    )


def _opened(options: argparse.Namespace, source: Source) -> Results:
    """The results that are there, or new ones."""
    data = {
        "name": Path(source.model).name,
        "calibration": Path(source.calibration).name,
        "test": Path(source.test).name,
        "num_windows": source.windows,
        "context_length": source.length,
        "num_test_tokens": source.test_tokens,
        "group_size": source.group_size,
        "precision": source.precision,
    }
    command = (
        f"python -m benchmarks.slim_llm --model {data['name']} --calibration "
        f"{data['calibration']} --test {data['test']} --precision {data['precision']}"
    )
    if options.device != "cpu":
        data["device"] = options.device
        command += (
            f" --device {options.device} --windows {data['num_windows']} --output "
            f"{options.output.name}"
        )
    if options.smoke:
        data["claims"] = None
        command += (
            f" --smoke --group-size {data['group_size']} --equal-group-size "
            f"{source.equal_group_size} --output {options.output.name}"
        )
    return open_table(options.output, command, data)


def _known(results: Results, cell: Cell) -> bool:
    name = cell.metric("perplexity")
    return any(metric.name == name for metric in results.metrics)


def _write(results: Results, options: argparse.Namespace) -> None:
    """Make the tables of all cells that are known, and save them."""
    kept = ("cell/", SPEED)
    results.metrics = [metric for metric in results.metrics if metric.name.startswith(kept)]
    results.tables = []
    peers = find_peers("hqq", "auto_round")
    # Some of them want an environment of their own, whose cells are there already.
    for module, peer in peers.items():
        if peer.version is None and (version := results.versions.get(peer.distribution)):
            peers[module] = replace(
                peer, version=version, reason="took part, in its own environment"
            )
    table_of, times = _Cells(results.metrics), _times(results)
    for bits in (2, 3):
        results.tables.append(_table(results, table_of, bits))
    results.tables += _speed_tables(times)
    results.tables.append(_missing(table_of, times))
    if not options.smoke:
        add_requirements(results, _requirements(table_of) + _speed_requirements(times))
    results.tables.append(peers_table(peers))
    record_versions(results, peers)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save_results(results, options.output, f"{TITLE}: a smoke test" if options.smoke else TITLE)


class _Cells:
    """Numbers of cells by method and width."""

    def __init__(self, metrics: list[Metric]) -> None:
        self.values: dict[tuple[int, str, str], dict[int, float]] = {}
        for metric in metrics:
            if not metric.name.startswith("cell/"):
                continue
            _, bits, method, seed, measure = metric.name.split("/")
            key = int(bits), method, measure
            self.values.setdefault(key, {})[int(seed)] = metric.value

    def of(self, bits: int, method: str, measure: str = "perplexity") -> dict[int, float]:
        """Seed -> value."""
        return self.values.get((bits, method, measure), {})


def _table(results: Results, table_of: _Cells, bits: int) -> Table:
    rows: list[list[str | float | int | None]] = []
    for method in METHODS.values():
        width = bits if bits in method.widths else method.widths[0]
        found = table_of.of(width, method.name)
        if (bits not in method.widths and method.name != parts.FULL) or not found:
            continue
        mean, low, high = parts.interval(list(found.values()))
        shown = None if math.isnan(low) else (low, high)
        results.add_metric(f"perplexity/{bits}/{method.name}", mean, interval=shown, n=len(found))
        cell = f"{mean:.4g}" + (f" [{low:.4g}, {high:.4g}]" if shown else "")
        others = [_mean(table_of.of(width, method.name, name)) for name in _COLUMNS]
        each = " ".join(f"{found[seed]:.4g}" for seed in sorted(found))
        rows.append([method.name, cell, len(found), *others, each])
    data = results.data
    note = (
        f"Perplexity of the first {data['num_test_tokens']} tokens of {data['test']} in windows of "
        f"{data['context_length']}, calibrated on {data['num_windows']} windows of as many tokens "
        f"of {data['calibration']}, which the seed draws; mean over seeds with the 95 % interval "
        "of Student's t, in float32; quantized with torch's float32_matmul_precision at "
        f"'{data['precision']}'. Error is that of the layers' outputs on the calibration text. "
        "Seconds and memory are those of the whole quantization, on machines of several kinds that "
        "others use too."
    )
    if "claims" in data:
        note = f"The model is too small for anything to follow about methods. {note}"
    columns = [
        "method",
        "perplexity",
        "seeds",
        "bits",
        "bits with scales",
        "with adapters",
        "error",
        "s",
        "CPU s",
        "peak MiB",
        "each seed",
    ]
    return Table(f"{bits} bits", note, columns, rows)


_COLUMNS = (
    "bits",
    "bits_with_scales",
    "bits_with_adapters",
    "error",
    "seconds",
    "cpu_seconds",
    "peak_memory",
)
# What must be below what, at each width.
_ORDER = (
    (parts.OURS, parts.CLIPPED),
    (parts.OURS, parts.RANDOM),
    (parts.OURS, parts.INVERTED),
    (parts.REGULARIZED, parts.TRAINED),
)


def _mean(values: dict[int, float]) -> float | None:
    return float(f"{sum(values.values()) / len(values):.4g}") if values else None


def _missing(table_of: _Cells, times: dict[str, float]) -> Table:
    rows: list[list[str | float | int | None]] = []
    for method in METHODS.values():
        for bits in method.widths:
            asked = range(method.seeds)
            seeds = [seed for seed in asked if seed not in table_of.of(bits, method.name)]
            if seeds:
                why = parts.why_not(method) or "not measured yet"
                rows.append([method.name, bits, " ".join(map(str, seeds)), why])
    for one in TIMED:
        if not any(name.startswith(f"{one}/") for name in times):
            rows.append([f"times: {one}", None, "", f"not measured yet; --speed {one}"])
    return Table("Missing", "", ["method", "bits", "seeds", "why"], rows)


def _requirements(table_of: _Cells) -> list[Requirement]:
    found = []
    peaks = table_of.of(2, parts.OURS, "peak_memory").values()
    if peaks:
        found.append(Requirement("MiB of memory of the process at 2 bits", max(peaks), 2560.0))
    for bits, limit in LIMITS.items():
        ours = table_of.of(bits, parts.OURS)
        if len(ours) >= LEAST_SEEDS:
            mean, low, high = parts.interval(list(ours.values()))
            found.append(Requirement(f"perplexity at {bits} bits", mean, limit, (low, high)))
        for lower, higher in _ORDER:
            pair = table_of.of(bits, lower), table_of.of(bits, higher)
            both = sorted(pair[0].keys() & pair[1].keys())
            if len(both) < 2:
                continue
            logs = [math.log(pair[0][seed] / pair[1][seed]) for seed in both]
            ratio, *ends = (math.exp(one) for one in parts.interval(logs))
            name = f"{lower} / {higher} at {bits} bits, {len(both)} seeds"
            found.append(Requirement(name, ratio, 1.0, (ends[0], ends[1])))
    return found


def _times(results: Results) -> dict[str, float]:
    return {
        one.name.removeprefix(SPEED): one.value
        for one in results.metrics
        if one.name.startswith(SPEED)
    }


def _speed_tables(times: dict[str, float]) -> list[Table]:
    found = []
    blocks = {
        name.removeprefix("blocks/"): value
        for name, value in times.items()
        if name.startswith("blocks/")
    }
    if blocks:
        note = (
            f"Processor seconds of the first {NUM_TIMED_BLOCKS} of the blocks at two bits. In the "
            "published order of work each layer has a Hessian of its own, the search of the bits "
            "rounds everything anew for each p and sequence, and factors of a range are tried in a "
            "loop."
        )
        rows: list[list[str | float | int | None]] = [
            [name, float(f"{value:.4g}"), float(f"{value / blocks[parts.OURS]:.3g}")]
            for name, value in blocks.items()
        ]
        found.append(Table("Seconds", note, ["what", "CPU s", f"to {parts.OURS}"], rows))
    ways = sorted({name.split("/")[1] for name in times if name.startswith("writing/")})
    if ways:
        note = (
            "Tokens that are written in a second, one after another, and those of a prompt that "
            "are read; bytes are those that the decoder's linear layers hold meanwhile, as a share "
            "of 16 bits a weight. All but float32 compute in bfloat16."
        )
        base = times[f"writing/{speed.FLOAT}/decode"]
        rows = []
        for way in ways:
            written, read, held = (
                times[f"writing/{way}/{what}"] for what in ("decode", "prefill", "bytes")
            )
            cells = (written, read, written / base, held)
            rows.append([way, *(float(f"{cell:.3g}") for cell in cells)])
        columns = ["weights", "written a second", "read a second", "to float32", "of 16 bits"]
        found.append(Table("Writing", note, columns, rows))
    return found


def _speed_requirements(times: dict[str, float]) -> list[Requirement]:
    found = [
        Requirement(f"seconds of the whole model, {name.split('/')[1]}", seconds, 180.0)
        for name, seconds in times.items()
        if name.startswith("model/")
    ]
    # The first computes what that order of work does; ours by default does more than that.
    for one in (parts.PUBLISHED, parts.OURS):
        if f"blocks/{one}" in times:
            ratio = times[f"blocks/{one}"] / times[f"blocks/{speed.PLAIN_ORDER}"]
            name = f"seconds of a block, {one} / {speed.PLAIN_ORDER}"
            found.append(Requirement(name, ratio, 0.5))
    if f"writing/{speed.PACKED}/bytes" in times:
        name = "bytes of packed linear layers / 16 bits a weight"
        found.append(Requirement(name, times[f"writing/{speed.PACKED}/bytes"], 0.45))
    return found


if __name__ == "__main__":
    main()
