"""DiSa beside the frozen CLIP and other prompt learners on a small CLIP, and what it costs.

    python -m benchmarks.disa --data tin32_320.npz --others cifar10.npz \
        --boxes tin_val_boxes_64px.tsv

A table that fills up: every cell (a domain, a method, a seed) is written to
benchmarks/results/disa.json when it is measured, and is not measured again; what is missing is
listed, and the next run goes on there. `--minutes` says when to stop. `--speed` times steps and
answers, which wants an idle machine, and `--masks` measures masks by the boxes of objects.
"""

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import disa_cells as parts
from benchmarks.disa_cells import FROZEN, METHODS, Cell, Measure, Source
from benchmarks.disa_speed import add_speed
from benchmarks.disa_tasks import DOMAINS, SETTING, read_boxes, write_tasks
from benchmarks.interleaved import use_one_thread
from benchmarks.peers import find_peers, peers_table
from benchmarks.report import (
    RESULTS,
    add_requirements,
    existing_file,
    open_table,
    print_tables,
    record_versions,
    save_results,
)
from salhub.data.class_names import first_name
from salhub.data.picture_archive import PictureArchive
from salhub.data.picture_preparation import PicturePreparation
from salhub.models.disa.evaluation_disa import harmonic_mean, mask_quality, patches_in_boxes
from salhub.models.disa.modeling_disa import DiSaForImageClassification
from salhub.models.disa.saliency_masking import kept_patches
from salhub.results import Metric, Results, Table, measured

TITLE = "DiSa beside other prompt learners"
_KEPT = ("cell/", "speed/", "mask/", "required/")
_MASK_PICTURES = 2000
_KINDS = ("text", "cls", "text*cls", "inverse", "random")


def main(arguments: Sequence[str] | None = None, measure: Measure = parts.measure) -> None:
    """Measure what is missing, and write the tables anew.

    Args:
        arguments: Words of the command line; None for those of the process.
        measure: Measures a cell.
    """
    options = _options(arguments)
    results = _opened(options)
    tasks = write_tasks(options.data, options.others, options.runs / "tasks")
    source = Source(options.base, tasks, options.runs)
    until = math.inf if options.minutes is None else time.monotonic() + 60 * options.minutes
    for cell in parts.cells(tuple(options.domains), options.seeds, tuple(options.only)):
        if _known(results, cell):
            continue
        if time.monotonic() >= until:
            print("Stopped as the time is over; the next run goes on from here.")
            break
        print(f"{cell.domain}, {cell.method}, seed {cell.seed}", flush=True)
        before = results.wall_seconds
        with measured(results):
            found = measure(cell, source)
        results.wall_seconds = round(results.wall_seconds + before, 2)
        for name, value in found.items():
            results.add_metric(cell.metric(name), value, n=1)
        _write(results, options)
    if options.masks:
        with measured(results):
            _measure_masks(results, options)
    if options.speed:
        stale = ("speed/", "required/")
        results.metrics = [one for one in results.metrics if not one.name.startswith(stale)]
        results.tables = [table for table in results.tables if table.title not in _OF_SPEED]
        with measured(results):
            add_requirements(results, add_speed(results, options.rounds))
    _write(results, options)
    print_tables(results)


_OF_SPEED = ("Time", "Required")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.disa",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=existing_file, required=True, help="Tiny-ImageNet, 32 px")
    parser.add_argument("--others", type=existing_file, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--boxes", type=existing_file, help="of the objects, for --masks")
    parser.add_argument("--base", default="salhub/tiny-clip-32", help="the CLIP")
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=["clean", "pale"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=[], metavar="METHOD")
    parser.add_argument("--minutes", type=float, help="begin no cell after as many; 0 for none")
    parser.add_argument("--masks", action="store_true", help="measure masks anew")
    parser.add_argument("--speed", action="store_true", help="time it anew")
    parser.add_argument("--rounds", type=int, default=15, help="of the timing")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "disa")
    parser.add_argument("--output", type=Path, default=RESULTS / "disa.json")
    options = parser.parse_args(arguments)
    if options.masks and options.boxes is None:
        parser.error("--masks needs --boxes")
    return options


def _opened(options: argparse.Namespace) -> Results:
    data = {"name": options.data.stem, "base": Path(options.base).name, "epochs": parts.EPOCHS}
    others = " ".join(path.name for path in options.others)
    command = (
        f"python -m benchmarks.disa --data {options.data.name} --others {others} "
        f"--boxes {'' if options.boxes is None else options.boxes.name}"
    )
    return open_table(options.output, command, data)


def _known(results: Results, cell: Cell) -> bool:
    start = cell.metric("")
    return any(metric.name.startswith(start) for metric in results.metrics)


class _Cells:
    """Numbers of cells by domain, method and measure; seed -> value."""

    def __init__(self, metrics: list[Metric]) -> None:
        self.values: dict[tuple[str, str, str], dict[int, float]] = {}
        for metric in metrics:
            if metric.name.startswith("cell/"):
                _, domain, method, seed, measure = metric.name.split("/")
                self.values.setdefault((domain, method, measure), {})[int(seed)] = metric.value
        # What prompts are measured beside is the same for all of them.
        for (domain, _, measure), found in list(self.values.items()):
            if measure.startswith("frozen_"):
                key = (domain, FROZEN, measure.removeprefix("frozen_"))
                self.values.setdefault(key, {}).update(found)

    def of(self, domain: str, method: str, measure: str) -> list[float]:
        """Values in the order of the seeds."""
        found = self.values.get((domain, method, measure), {})
        return [found[seed] for seed in sorted(found)]

    def measures(self, domain: str, start: str) -> list[str]:
        """Names of measures that begin so."""
        names = {m for d, _, m in self.values if d == domain and m.startswith(start)}
        return sorted(names)


def _write(results: Results, options: argparse.Namespace) -> None:
    """Make the tables of all cells that are known, and save them."""
    of_speed = [table for table in results.tables if table.title in _OF_SPEED]
    results.metrics = [one for one in results.metrics if one.name.startswith(_KEPT)]
    results.tables = of_speed
    found = _Cells(results.metrics)
    for domain in DOMAINS:
        rows = _base_to_novel(results, found, domain)
        if rows:
            results.tables.append(_table_of(domain, rows))
    for title, start in (("Cross-dataset", "on "), ("Domain generalisation", "to ")):
        if names := found.measures("clean", start):
            results.tables.append(_transfer_table(results, found, title, names))
    results.tables += _mask_tables(results)
    results.tables.append(_missing(found, options))
    peers = find_peers("peft", "sklearn")
    results.tables.append(peers_table(peers))
    record_versions(results, peers)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save_results(results, options.output, TITLE)


def _base_to_novel(results: Results, found: _Cells, domain: str) -> list[list[str]]:
    rows = []
    for method in (FROZEN, *METHODS):
        base, novel = (found.of(domain, method, one) for one in ("base", "novel"))
        if not base:
            continue
        means = [harmonic_mean(a, b) for a, b in zip(base, novel, strict=True)] if novel else []
        row = [method, _cell(base), _cell(novel)]
        if novel:
            of_means = harmonic_mean(statistics.fmean(base), statistics.fmean(novel))
            row += [_cell(means), f"{100 * of_means:.1f}"]
            results.add_metric(f"harmonic_mean/{domain}/{method}", statistics.fmean(means))
        else:
            row += ["", ""]
        seconds = found.of(domain, method, "cpu_seconds")
        row += [f"{statistics.fmean(seconds):.0f}" if seconds else "", str(len(base))]
        rows.append(row)
    return rows


def _table_of(domain: str, rows: list[list[str]]) -> Table:
    said = DOMAINS[domain].__doc__
    return Table(
        f"Base to novel, {domain}",
        f"{said} {SETTING} Percent, mean ± standard deviation over seeds, which draw shots and "
        "prompts; the frozen CLIP is the same for all. HM is the harmonic mean of base and novel: "
        "the mean of those of the seeds, and that of the two means. Differences below one standard "
        "deviation are none. A linear probe has no answer for novel classes.",
        ["method", "base", "novel", "mean of HM", "HM of means", "CPU s", "seeds"],
        [list(row) for row in rows],
    )


def _transfer_table(results: Results, found: _Cells, title: str, names: list[str]) -> Table:
    rows: list[list[str]] = []
    for method in (FROZEN, *METHODS):
        values = [found.of("clean", method, name) for name in names]
        if any(values):
            rows.append([method, *map(_cell, values), str(max(map(len, values)))])
    what = "other data among their own classes" if title[0] == "C" else (
        "the learned classes in other domains"
    )  # fmt: skip
    note = (
        f"Prompts learned on the clean domain, tested on {what}. Percent, mean ± standard "
        "deviation over seeds."
    )
    return Table(title, note, ["method", *names, "seeds"], [list(row) for row in rows])


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread}"


def _missing(found: _Cells, options: argparse.Namespace) -> Table:
    wanted = parts.cells(tuple(options.domains), options.seeds)
    lacking = [one for one in wanted if not found.of(one.domain, one.method, "base")]
    rows = [[domain, method] for domain, method in dict.fromkeys((c.domain, c.method)
            for c in lacking)]  # fmt: skip
    note = "" if rows else "Nothing: every method was measured at least once."
    return Table("Not measured yet", note, ["domain", "method"], [list(row) for row in rows])


# --- masks ----------------------------------------------------------------------------------------


@torch.inference_mode()
def _measure_masks(results: Results, options: argparse.Namespace) -> None:
    """How much of what each kind of mask keeps is on the object."""
    results.metrics = [one for one in results.metrics if not one.name.startswith("mask/")]
    archive = PictureArchive(options.data)
    places, boxes = archive.test_places, read_boxes(options.boxes)
    rows = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
    rows = rows[:_MASK_PICTURES].sort().values
    model = DiSaForImageClassification.from_base(options.base)
    names = [first_name(name) for name in archive.class_names]
    pixels = PicturePreparation.of_model(options.base)(archive.images(places[rows]))
    texts = [names[label] for label in archive.labels[places[rows]].tolist()]
    boxes = boxes[rows]
    side = model.clip.config.vision_config.image_size // model.clip.config.vision_config.patch_size
    share = patches_in_boxes((side, side), boxes, 32).double().mean((1, 2)).numpy()
    torch.manual_seed(0)
    for kind in _KINDS:
        parts_of = [
            model.saliency_map(pixels[at], [texts[one] for one in at.tolist()], kind, names)
            for at in torch.arange(len(rows)).split(250)
        ]
        scores = torch.cat(parts_of)
        for ratio in (0.3, 0.5, 0.7):
            keep = torch.zeros_like(scores.flatten(1), dtype=torch.bool)
            keep = keep.scatter(1, kept_patches(scores.flatten(1), ratio), value=True)
            quality = mask_quality(keep.view_as(scores), boxes, 32).double().numpy()
            results.add_mean(f"mask/{kind}/{ratio}", quality, unit="fraction")
            # Of the same pictures, so that how large their objects are is no part of the spread.
            results.add_mean(f"mask/{kind}/{ratio}/beyond", quality - share, unit="fraction")
    results.add_mean("mask/box", share, unit="fraction")


def _mask_tables(results: Results) -> list[Table]:
    values = {metric.name: metric for metric in results.metrics}
    if "mask/box" not in values:
        return []
    rows = []
    for kind in _KINDS:
        own = [
            (values[f"mask/{kind}/{ratio}"].value, values[f"mask/{kind}/{ratio}/beyond"])
            for ratio in (0.3, 0.5, 0.7)
        ]
        rows.append([
            kind, *(f"{100 * one:.1f} ({100 * more.value:+.1f} {_words(more.interval)})"
                    for one, more in own)
        ])  # fmt: skip
    box = values["mask/box"]
    return [
        Table(
            "Quality of masks",
            f"Percent of the kept patches whose centre is in the box of the object, for {box.n} "
            "validation pictures, when 30, 50 and 70 % of the patches are hidden. The boxes hold "
            f"{100 * box.value:.1f} % of all patches, which is what a mask at random keeps of "
            "them; in brackets is what a map has beyond that in the same pictures, in points, with "
            "95 % bootstrap intervals. The query is the true class.",
            ["map", "30 %", "50 %", "70 %"],
            [list(row) for row in rows],
        )
    ]


def _words(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"[{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"


if __name__ == "__main__":
    use_one_thread()
    main()
