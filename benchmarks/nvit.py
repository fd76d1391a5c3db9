"""NViT on handwritten digits: which scores tell what units are worth, and what that costs.

    python -m benchmarks.nvit

Trains a small vision transformer for each seed, and compares scores with what removing each group
really does; removes 30, 50 and 60 % of the block weights in one go by each of them, and uniformly;
times scoring beside a forward and backward pass; and checks the latency table. About a quarter of
an hour on one thread. Needs scikit-learn for the digits. Equal latencies after fine-tuning are
measured by `benchmarks.nvit_latency`.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.interleaved import Contender, race, use_one_thread
from benchmarks.nvit_peers import torch_pruning_scores
from benchmarks.peers import Peer, find_peers, peers_table
from benchmarks.report import RESULTS, Requirement, add_race, add_requirements, finish
from salhub.models.nvit.configuration_nvit import NViTConfig
from salhub.models.nvit.importance import NViTScores, score_units
from salhub.models.nvit.latency_table import LatencyTable
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.models.nvit.pruner_nvit import NViTPruner
from salhub.models.nvit.ranking import GROUP_SIZES, Ranking, RankingSettings
from salhub.models.nvit.score_audit import audit_scores
from salhub.models.nvit.shapes import STRUCTURES, NViTShape, UnitLayout
from salhub.models.nvit.unit_weights import without_units
from salhub.results import Results, Table, measured

NETWORK: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "qk_head_dim": 16,
    "v_head_dim": 16, "intermediate_size": 256, "image_size": 8, "patch_size": 2,
    "num_channels": 1, "num_labels": 10,
}  # fmt: skip
NANO: dict[str, Any] = {
    "hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "qk_head_dim": 32,
    "v_head_dim": 32, "intermediate_size": 512, "image_size": 32, "patch_size": 4,
    "distilled": True, "num_labels": 10,
}  # fmt: skip
SCORES: dict[str, dict[str, Any]] = {
    "batch, code's constants": {"score": "batch"},
    "batch, c = 1": {"score": "batch", "score_constants": {}},
    "batch, gates where units end": {"score": "batch", "gate_sites": "activations"},
    "per sample, code's constants": {"score": "per_sample"},
    "per sample, gates where units end": {"score": "per_sample", "gate_sites": "activations"},
    "curvature (hvp)": {"score": "hvp"},
    "sum of |w dL/dw|": {"score": "taylor_abs", "score_constants": {}},
    "magnitude": {"score": "magnitude"},
    "random": {"score": "random"},
}
KEPT = (0.7, 0.5, 0.4)
_REQUIRED, _PEERS = "Required", "Peers"


@dataclass(frozen=True)
class Digits:
    """Pictures (N, 1, 8, 8) about 0 and labels, to learn and to test on."""

    pixels: Tensor
    labels: Tensor
    test_pixels: Tensor
    test_labels: Tensor


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything, and write the results file and its page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.nvit", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--only", choices=("fidelity", "speed"),
        help="a part; what the results file has of the other one is kept",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=RESULTS / "nvit.json")
    options = parser.parse_args(arguments)
    use_one_thread()
    results = Results("nvit", f"python -m benchmarks.nvit --seeds {options.seeds}", 0)
    peers = find_peers("torch_pruning")
    with measured(results):
        requirements: list[Requirement] = []
        if options.only != "speed":
            peer = peers["torch_pruning"]
            add_fidelity(results, read_digits(), options.seeds, options.epochs, peer)
            requirements += fidelity_requirements(results)
        if options.only != "fidelity":
            requirements += add_cost(results, options.rounds)
            requirements += add_table_error(results, options.rounds)
        add_requirements(results, requirements)
    if options.only is not None and options.output.is_file():
        keep_other_part(results, Results.load(options.output))
    results.tables.append(peers_table(peers))
    finish(results, peers, options.output)


def keep_other_part(results: Results, earlier: Results) -> None:
    """Add what an earlier run has measured and this one has not, its requirements among them.

    Args:
        results: Of this run, to be filled.
        earlier: Of a run of the other part.
    """
    known = {metric.name for metric in results.metrics}
    results.metrics += [metric for metric in earlier.metrics if metric.name not in known]
    tables = {table.title: table for table in results.tables}
    for table in earlier.tables:
        if table.title not in {*tables, _PEERS}:
            results.tables.append(table)
        elif table.title == _REQUIRED:
            names = {row[0] for row in tables[_REQUIRED].rows}
            tables[_REQUIRED].rows += [row for row in table.rows if row[0] not in names]


def read_digits(seed: int = 0) -> Digits:
    """The digits of scikit-learn, of which a fifth is for testing."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(data.target, dtype=torch.long)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    test, learned = order[:360], order[360:]
    return Digits(pixels[learned], labels[learned], pixels[test], labels[test])


def train(digits: Digits, seed: int, epochs: int) -> NViTForImageClassification:
    """The small network of the seed."""
    torch.manual_seed(seed)
    model = NViTForImageClassification(NViTConfig(**NETWORK))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    steps = epochs * -(-len(digits.labels) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(digits.labels)).split(64):
            optimizer.zero_grad()
            model(digits.pixels[rows], labels=digits.labels[rows]).loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: NViTForImageClassification, digits: Digits) -> float:
    """Percent of the test pictures."""
    right = model(digits.test_pixels).logits.argmax(-1) == digits.test_labels
    return 100 * float(right.double().mean())


def weights_table(config: NViTConfig) -> LatencyTable:
    """A table whose seconds are the weights of the blocks, to remove shares of them exactly."""
    costs = {
        "attention": lambda wide, head, qk, v: wide * head * (2 * qk + 2 * v),
        "mlp": lambda wide, neurons: 2 * wide * neurons,
        "rest": lambda wide: 0 * wide,
    }
    return LatencyTable.computed(config, costs, device="weights")


def pruned_by(
    model: NViTForImageClassification,
    scores: NViTScores,
    table: LatencyTable,
    kept: Sequence[float],
) -> dict[float, NViTForImageClassification]:
    """Networks at some shares of a table, without any credit for time."""
    ranking = Ranking(
        model.layout, scores.values.double().numpy(), np.ones(model.layout.size, dtype=bool),
        table, RankingSettings(eta=0.0), table.predict(model.config),
    )  # fmt: skip
    mask, found = torch.ones(model.layout.size, dtype=torch.bool), {}
    for share in sorted(kept, reverse=True):
        while ranking.ratio > share:
            step = ranking.remove(1)
            if step is None:
                raise ValueError(f"the share {share} cannot be reached.")
            mask[step.units] = False
        found[share] = without_units(model, mask)
    return found


def uniform(
    model: NViTForImageClassification, scores: NViTScores, table: LatencyTable, share: float
) -> NViTForImageClassification:
    """The network whose structures are all narrowed alike, of the best units of each by a score."""
    layout, whole = model.layout, table.predict(model.config)
    for percent in range(99, 0, -1):
        mask = torch.zeros(layout.size, dtype=torch.bool)
        for name, _, place in layout:
            size, width = GROUP_SIZES[name] // 2, place.stop - place.start
            count = min(width, max(size, size * round(percent / 100 * width / size)))
            best = scores.values[place].argsort(descending=True)[:count]
            mask[best + place.start] = True
        if table.predict(layout.shape_of(mask)) <= share * whole:
            return without_units(model, mask)
    raise ValueError(f"the share {share} cannot be reached.")


def add_fidelity(results: Results, digits: Digits, seeds: int, epochs: int, peer: Peer) -> None:
    """Correlations with what removing groups does, and accuracies after removing many at once."""
    correlations: dict[str, list[list[float]]] = {}
    accuracies: dict[str, dict[float, list[float]]] = {}
    before: list[float] = []
    for seed in range(seeds):
        model = train(digits, seed, epochs)
        before.append(accuracy(model, digits))
        batches = list(zip(digits.pixels[:480].split(96), digits.labels[:480].split(96),
                           strict=True))  # fmt: skip
        scores = {
            name: score_units(model, batches, seed=seed, **how) for name, how in SCORES.items()
        }
        if peer.reason is None:
            scores |= {
                f"torch-pruning, {kind}": torch_pruning_scores(model, batches, kind)
                for kind in ("Taylor", "Hessian")
            }
        audit = audit_scores(model, batches, scores)
        for name in scores:
            correlations.setdefault(name, [])
            row = [audit.correlation(name), *(audit.correlation(name, s) for s in STRUCTURES)]
            correlations[name].append(row)
        table = weights_table(model.config)
        for name, one in scores.items():
            for share, small in pruned_by(model, one, table, KEPT).items():
                own = accuracies.setdefault(name, {share: [] for share in KEPT})
                own[share].append(accuracy(small, digits))
        own = accuracies.setdefault("uniform", {share: [] for share in KEPT})
        for share in KEPT:
            small = uniform(model, scores["per sample, code's constants"], table, share)
            own[share].append(accuracy(small, digits))
    rows = []
    for name, found in correlations.items():
        columns = list(zip(*found, strict=True))
        results.add_metric(f"fidelity/{name}", statistics.mean(columns[0]), n=seeds, unit="rho")
        rows.append([name, *(_spread(column) for column in columns)])
    note = (
        "Spearman's correlation of the sum of a group's scores with the change of the loss when "
        f"the group is removed alone; mean ± sd of {seeds} networks on 480 digits."
    )
    columns = ["score", "all groups", *STRUCTURES]
    results.tables.append(Table("Which scores tell", note, columns, rows))
    rows = []
    for name, found in accuracies.items():
        for share, values in found.items():
            key = f"one shot/{name}/{round(100 * (1 - share))} %"
            results.add_metric(key, statistics.mean(values), n=seeds, unit="percent")
        rows.append([name, *(_spread(found[share]) for share in KEPT)])
    note = (
        "Percent of the test digits right, without any training, after removing shares of the "
        f"weights of the blocks; {_spread(before)} before. Differences below the sd say nothing."
    )
    columns = ["score", *(f"-{round(100 * (1 - share))} %" for share in KEPT)]
    results.tables.append(Table("Removed at once", note, columns, rows))


def fidelity_requirements(results: Results) -> list[Requirement]:
    """What the correlations have to be."""
    name = "batch, code's constants"
    value = results.metric(f"fidelity/{name}").value
    return [Requirement(f"correlation of {name}", value, 0.75, is_least=True)]


def add_cost(results: Results, rounds: int) -> list[Requirement]:
    """Scoring beside a forward and backward pass over the same pictures, and planning."""
    torch.manual_seed(0)
    model = NViTForImageClassification(NViTConfig(**NANO)).eval()
    pixels, labels = torch.randn(64, 3, 32, 32), torch.arange(64) % 10
    batch = [(pixels, labels)]

    def train_pass() -> Mapping[str, Tensor]:
        model.zero_grad()
        loss = model(pixels, labels=labels).loss
        loss.backward()
        return {"loss": loss}

    base = "forward and backward"
    contenders = [Contender(base, train_pass)]
    for score in ("batch", "per_sample", "hvp", "taylor_abs"):
        contenders.append(
            Contender(score, lambda score=score: score_units(model, batch, score=score))
        )
    found = race(contenders, rounds=rounds, title="scoring")
    note = "One batch of 64 pictures through deit-nano (1.2 million weights), one thread."
    add_race(results, "Scoring", note, found, {f"of {base}": base})
    limits = {"batch": 1.3, "per_sample": 1.6}
    return [
        Requirement.of_ratio(f"time of {name} by {base}", found.ratio(name, base), limit)
        for name, limit in limits.items()
    ] + [_plan_requirement(results)]


def _plan_requirement(results: Results) -> Requirement:
    config = NViTConfig(hidden_size=768, num_attention_heads=12, intermediate_size=3072)
    layout, table = UnitLayout(NViTShape.of(config)), weights_table(config)
    scores = np.random.default_rng(0).random(layout.size)

    def plan() -> int:
        ranking = Ranking(
            layout, scores, np.ones(layout.size, dtype=bool), table,
            RankingSettings(), table.predict(config),
        )  # fmt: skip
        steps = 0
        while ranking.ratio > 0.19 and ranking.remove(2) is not None:
            steps += 1
        return steps

    found = race([Contender("plan", plan)], rounds=3, warmup=1)
    results.add_metric("plan/steps", plan(), unit="steps")
    return Requirement("seconds to plan DeiT-B to 0.19", found.seconds("plan"), 1.0)


def add_table_error(results: Results, rounds: int) -> list[Requirement]:
    """How far the latency table is off for whole networks, and that compaction is exact."""
    config = NViTConfig(**NANO)
    table = LatencyTable.measure(config, batch_size=32, repeats=rounds, clock="cpu")
    error = table.validate(config, 30, repeats=rounds)
    results.add_metric("table/median error", error.median, n=30, unit="relative")
    results.add_metric("table/largest error", error.maximum, n=30, unit="relative")
    torch.manual_seed(0)
    model = NViTForImageClassification(config).eval()
    pruner = NViTPruner(model, table)
    pruner.score([(torch.randn(8, 3, 32, 32), torch.arange(8))])
    [plan] = pruner.plan(0.5)
    pixels = torch.randn(8, 3, 32, 32)
    difference = pruner.certificate(pruner.compact(plan), pixels, plan.mask)
    results.add_metric("compaction/largest difference", difference, unit="logit")
    return [
        Requirement("median error of the latency table", error.median, 0.05),
        Requirement("masked against smaller network", difference, 1e-5),
    ]


def _spread(values: Sequence[float]) -> str:
    digits = 1 if max(map(abs, values)) > 2 else 2
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
