"""NViT at equal latency: pruned in several ways to the same time, fine-tuned alike, and timed.

    python -m benchmarks.nvit_latency --data cifar10.npz --base deit-nano --teacher teacher

`--base` is `deit-nano`, a folder or a shipped name, `--teacher` its CNN. For every seed and target
the network is pruned by NViT, by NViT without credit for time, by magnitude, at random, uniformly,
and by the Taylor scores of Torch-Pruning, on one list or, as in its isomorphic mode, by kind of
part. Each is fine-tuned with the same steps, and timed beside the original in turns. Runs that are
there are not made again, so that it may be stopped and started.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.experiments import run_once
from benchmarks.interleaved import Contender, race, use_one_thread
from benchmarks.nvit import uniform
from benchmarks.nvit_peers import isomorphic, torch_pruning_scores
from benchmarks.peers import Peer, find_peers, peers_table
from benchmarks.report import RESULTS, Requirement, add_requirements, existing_file, finish
from salhub.data.labelled_pictures import read_labelled_pictures
from salhub.data.labelled_split import balanced_places
from salhub.models.nvit.distilling_recipe import load_classifier
from salhub.models.nvit.importance import score_units
from salhub.models.nvit.latency_table import LatencyTable
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.models.nvit.pruner_nvit import NViTPruner
from salhub.models.nvit.recipe_nvit_finetuning import NViTFineTuningRecipe
from salhub.results import Results, Table, measured
from salhub.runner.batches import generator_of

TARGETS = (0.75, 0.5)
WAYS: dict[str, dict[str, Any]] = {
    "NViT": {"score": "batch"},
    "NViT per sample": {"score": "per_sample"},
    "NViT, eta = 0": {"score": "batch", "eta": 0.0},
    "magnitude": {"score": "magnitude", "eta": 0.0},
    "random": {"score": "random", "eta": 0.0},
    "uniform": {},
}
# Scores of a peer, where it is installed, without credit for time, which it does not know.
PEER_WAYS = ("torch-pruning, global", "torch-pruning, isomorphic")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make all runs that are missing, time the networks, and write the results file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.nvit_latency", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--data", type=existing_file, required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--teacher", default=None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_000, help="to fine-tune on")
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--mixed-precision", choices=("no", "bf16"), default="bf16")
    parser.add_argument("--calibration", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "nvit_latency")
    parser.add_argument("--output", type=Path, default=RESULTS / "nvit_latency.json")
    options = parser.parse_args(arguments)
    use_one_thread()
    command = (
        f"python -m benchmarks.nvit_latency --data {options.data.name} "
        f"--base {Path(options.base).name} --seeds {options.seeds} --images {options.images} "
        f"--test-images {options.test_images}"
    )
    results = Results("nvit_latency", command, 0)
    peers = find_peers("torch_pruning")
    with measured(results):
        compare(results, options, peers["torch_pruning"])
    results.tables.append(peers_table(peers))
    finish(results, peers, options.output)


def compare(results: Results, options: argparse.Namespace, peer: Peer) -> None:
    """Every way at every target over all seeds."""
    base, processor = load_classifier(options.base)
    table = _table(base, options)
    found: dict[tuple[str, float], dict[str, list[float]]] = {}
    for seed in range(options.seeds):
        batches = _calibration(base, processor, options, seed)
        for target in TARGETS:
            for way in [*WAYS, *(PEER_WAYS if peer.reason is None else ())]:
                folder = (
                    options.runs
                    / f"{way.replace(',', '').replace(' ', '-')}-{target:g}-seed-{seed}"
                )
                if not (folder / "pruned" / "config.json").is_file():
                    small = _pruned(way, base, table, batches, target, seed)
                    processor.save_pretrained(folder / "pruned")
                    small.save_pretrained(folder / "pruned")
                tuned = run_once(
                    NViTFineTuningRecipe,
                    folder / "tuned",
                    {
                        "model": str(folder / "pruned"), "original": str(options.base),
                        "teacher": None if options.teacher is None else str(options.teacher),
                        "data": str(options.data), "num_train_images": options.images,
                        "num_test_images": options.test_images, "seed": seed,
                        "num_train_epochs": options.epochs, "validation_steps": 0,
                        "mixed_precision": options.mixed_precision,
                    },
                    f"{way} to {target:g}, seed {seed}",
                )  # fmt: skip
                entry = found.setdefault((way, target), {"accuracy": [], "ratio": [], "said": []})
                entry["accuracy"].append(100 * tuned.metric("accuracy/test").value)
                network = NViTForImageClassification.from_pretrained(folder / "tuned")
                entry["ratio"].append(_measured_ratio(base, network, options))
                entry["said"].append(table.predict(network.config) / table.predict(base.config))
    _write(results, found, options)


def _table(base: NViTForImageClassification, options: argparse.Namespace) -> LatencyTable:
    path = options.runs / "latency_table.json"
    if not path.is_file():
        LatencyTable.measure(base.config, batch_size=32, repeats=options.rounds).save(path)
    return LatencyTable.load(path)


def _calibration(base: Any, processor: Any, options: argparse.Namespace, seed: int) -> list:
    """Batches of 128 training pictures."""
    names = [base.config.id2label[index] for index in sorted(base.config.id2label)]
    data = read_labelled_pictures(options.data, class_names=names)
    learned = (~(data.is_test | data.is_validation)).nonzero()[:, 0]
    chosen = balanced_places(data.labels[learned], options.calibration, generator_of(seed, 9))
    places = learned[chosen]
    places = places[torch.randperm(len(places), generator=generator_of(seed, 10))]
    mean, std = (
        torch.tensor(values).view(-1, 1, 1)
        for values in (processor.image_mean, processor.image_std)
    )
    pixels = (data.images(places).float() / 255 - mean) / std
    return list(zip(pixels.split(128), data.labels[places].split(128), strict=True))


def _pruned(
    way: str, base: NViTForImageClassification, table: LatencyTable, batches: list,
    target: float, seed: int,
) -> NViTForImageClassification:  # fmt: skip
    if way == "uniform":
        return uniform(base, score_units(base, batches), table, target)
    pruner = NViTPruner(base, table, seed=seed, **WAYS.get(way, {"eta": 0.0}))
    if way in PEER_WAYS:
        scores = torch_pruning_scores(base, batches, "Taylor")
        pruner.scores = scores if way == PEER_WAYS[0] else isomorphic(scores)
    else:
        pruner.score(batches)
    return pruner.prune(target)[target]


@torch.inference_mode()
def _measured_ratio(
    base: NViTForImageClassification, small: NViTForImageClassification, options: Any
) -> float:
    config = base.config
    pixels = torch.randn(32, config.num_channels, config.image_size, config.image_size)
    contenders = [Contender("original", lambda: base(pixels)),
                  Contender("pruned", lambda: small.eval()(pixels))]  # fmt: skip
    return race(contenders, rounds=options.rounds).ratio("pruned", "original", "wall").value


def _write(
    results: Results, found: dict[tuple[str, float], dict[str, list[float]]],
    options: argparse.Namespace,
) -> None:  # fmt: skip
    rows, errors = [], []
    for (way, target), entry in found.items():
        for kind, values in entry.items():
            unit = "percent" if kind == "accuracy" else "ratio"
            results.add_metric(
                f"{way}/{target:g}/{kind}", statistics.mean(values), n=len(values), unit=unit
            )
        errors += [abs(s / r - 1) for s, r in zip(entry["said"], entry["ratio"], strict=True)]
        accuracies = entry["accuracy"]
        spread = f" ± {statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
        rows.append([
            way, target, f"{statistics.mean(accuracies):.2f}{spread}",
            f"{statistics.mean(entry['ratio']):.3f}", f"{statistics.mean(entry['said']):.3f}",
            _verdict(found, way, target),
        ])  # fmt: skip
    note = (
        f"Percent of the test pictures after the same {options.epochs} epochs of "
        f"{options.images:,} pictures (mixed precision: {options.mixed_precision}), mean ± sd of "
        f"{options.seeds} seeds; time by that of the original, measured in turns and predicted by "
        "the table. Beside NViT: "
        "differences within two standard errors are ties."
    )
    columns = ["way", "target", "accuracy", "measured", "predicted", "beside NViT"]
    results.tables.append(Table("At equal latency", note, columns, rows))
    add_requirements(
        results,
        [Requirement("median of |predicted / measured - 1|", float(np.median(errors)), 0.1)],
    )


def _verdict(found: Any, way: str, target: float) -> str:
    if way == "NViT":
        return ""
    own, ours = (np.array(found[name, target]["accuracy"]) for name in (way, "NViT"))
    if len(own) < 2:
        return "one seed"
    difference = own - ours
    error = difference.std(ddof=1) / len(own) ** 0.5
    if abs(difference.mean()) <= 2 * error:
        return "tie"
    return f"{difference.mean():+.2f}"


if __name__ == "__main__":
    main()
