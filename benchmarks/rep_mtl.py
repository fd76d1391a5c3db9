"""A step of Rep-MTL beside loss weighting and gradient surgery, and its alignment beside C x C.

    python -m benchmarks.rep_mtl

Run it from the repository with `pip install 'salhub[bench]'`; a package that is missing is left
out and named. It writes benchmarks/results/rep_mtl.json, and its tables beside it as .md.
"""

import argparse
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import ResNetConfig

from benchmarks.interleaved import Contender, race, use_one_thread
from benchmarks.peers import Peer, find_peers, peers_table
from benchmarks.report import (
    RESULTS,
    Agreement,
    Requirement,
    add_agreements,
    add_comparisons,
    add_race,
    add_requirements,
    finish,
)
from salhub.models.rep_mtl.configuration_rep_mtl import RepMTLConfig
from salhub.models.rep_mtl.modeling_rep_mtl import RepMTLForMultiTask
from salhub.models.rep_mtl.rep_mtl_terms import cross_task_alignment
from salhub.models.rep_mtl.rooms import render_rooms
from salhub.models.rep_mtl.task_losses import sample_losses
from salhub.results import Results, measured, noted_as_it_comes

# 64 x 64 pictures, and a map of 64 channels at 16 x 16.
BATCH = 8
# Tasks, batch, channels and positions of the race of the alignments.
ALIGNED = (3, 8, 256, 192)
TEMPERATURE = 0.5
EW, LOG, REP, TSR, CSA = "EW", "EW + log", "Rep-MTL", "TSR only", "CSA only"
OURS, LITERAL = "salhub alignment, exact and cheap", "alignment with every C x C matrix"
SURGERY = {"PCGrad": {}, "CAGrad": {"c": 0.4}, "NashMTL": {"n_tasks": 3}}
_SETTINGS = {
    EW: {"lambda_tsr": 0, "lambda_csa": 0, "log_transform": False},
    LOG: {"lambda_tsr": 0, "lambda_csa": 0},
    TSR: {"lambda_csa": 0},
    CSA: {"lambda_tsr": 0},
    REP: {},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything, print the tables and write the results file."""
    options = _options(arguments)
    use_one_thread()
    command = f"python -m benchmarks.rep_mtl --rounds {options.rounds}"
    results = Results(model="rep_mtl", command=command, seed=0)
    results.data = {"name": f"{BATCH} rendered rooms, and drawn numbers"}
    peers = find_peers("torchjd", "cvxpy")
    with noted_as_it_comes(options.output), measured(results):
        required = [
            *steps(results, peers["torchjd"], options.rounds),
            *alignments(results, options.rounds),
        ]
        add_requirements(results, required)
        results.tables.append(peers_table(peers))
    finish(results, peers, options.output)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rep_mtl", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each race")
    parser.add_argument("--output", type=Path, default=RESULTS / "rep_mtl.json")
    return parser.parse_args(arguments)


def steps(results: Results, torchjd: Peer, rounds: int) -> list[Requirement]:
    """A step of training on three tasks: pass, backward pass and Adam."""
    pixels, labels = rooms()
    contenders = [
        Contender(name, own_step(pixels, labels, **settings), "salhub")
        for name, settings in _SETTINGS.items()
    ]
    if torchjd.reason is None:
        contenders += surgery_contenders(pixels, labels)
    found = race(contenders, rounds=rounds, title="Step")
    note = (
        f"Three tasks on {BATCH} rooms of 64 x 64 pixels, a map of 64 channels at 16 x 16, heads "
        "of a 3 x 3 and a 1 x 1 convolution. Gradient surgery by torchjd's own backward passes."
    )
    add_race(results, "A step of training", note, found, {"to EW": EW})
    add_comparisons(results, found, [(REP, name) for name in SURGERY])
    ratio = found.ratio(REP, EW)
    return [Requirement.of_ratio("a step of Rep-MTL / one of EW", ratio, 1.6)]


def rooms(size: int = 64) -> tuple[Tensor, dict[str, Tensor]]:
    """Normalised pictures of rooms, and their labels."""
    pictures, labels = render_rooms(BATCH, 0, size=size)
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 * 4 - 2
    return pixels, {name: torch.from_numpy(one) for name, one in labels.items()}


def network(**settings: Any) -> RepMTLForMultiTask:
    """The network of the recipe, always the same."""
    torch.manual_seed(0)
    encoder = ResNetConfig(embedding_size=64, hidden_sizes=[64], depths=[2], layer_type="basic")
    return RepMTLForMultiTask(RepMTLConfig(backbone_config=encoder, **settings)).train()


def own_step(pixels: Tensor, labels: dict[str, Tensor], **settings: Any) -> Callable[[], float]:
    """A step of ours, with some settings."""
    model = network(**settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def run() -> float:
        optimizer.zero_grad()
        loss = model(pixels, labels).loss
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run


def surgery_contenders(pixels: Tensor, labels: dict[str, Tensor]) -> list[Contender]:
    """Steps of torchjd, those whose solvers are here."""
    aggregation = importlib.import_module("torchjd.aggregation")
    found = []
    for name, options in SURGERY.items():
        try:
            aggregator = getattr(aggregation, name)(**options)
        except ImportError as error:
            print(f"{name} takes no part: {error}")
            continue
        found.append(Contender(name, surgery_step(pixels, labels, aggregator), "torchjd"))
    return found


def surgery_step(pixels: Tensor, labels: dict[str, Tensor], aggregator: Any) -> Callable[[], None]:
    """A step as torchjd's guide writes it."""
    autojac: Any = importlib.import_module("torchjd.autojac")
    model = network(**_SETTINGS[EW])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    shared_weights = list(model.encoder.parameters())

    def run() -> None:
        optimizer.zero_grad()
        shared = model.encoder(pixels)
        size = tuple(pixels.shape[-2:])
        losses = [
            sample_losses(task, model.heads[task.name](shared, size), labels[task.name])[0].mean()
            for task in model.tasks
        ]
        autojac.mtl_backward(losses, features=shared)
        autojac.jac_to_grad(shared_weights, aggregator)
        optimizer.step()

    return run


def alignments(results: Results, rounds: int) -> list[Requirement]:
    """The alignment and its gradient, without and with matrices of C x C."""
    saliency = torch.randn(*ALIGNED, generator=torch.Generator().manual_seed(0))

    def differentiated(loss_of: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            own = saliency.clone().requires_grad_()
            loss_of(own).backward()
            return own.grad

        return run

    def ours(own: Tensor) -> Tensor:
        return cross_task_alignment(own, temperature=TEMPERATURE).loss

    contenders = [
        Contender(OURS, differentiated(ours), "salhub"),
        Contender(LITERAL, differentiated(literal_alignment), "torch"),
    ]
    found = race(contenders, rounds=rounds, title="Alignment")
    tasks, batch, channels, positions = ALIGNED
    note = f"{tasks} tasks, {batch} pictures, {channels} channels, {positions} positions."
    add_race(results, "Alignment across tasks", note, found, {"to ours": OURS})
    add_comparisons(results, found, [(OURS, LITERAL)])
    exact = saliency.double()
    difference = float((ours(exact) - literal_alignment(exact)).abs())
    add_agreements(results, [Agreement("alignment in float64", "C x C", difference)], 1e-10)
    ratio = found.ratio(LITERAL, OURS)
    return [Requirement.of_ratio("C x C alignment / ours", ratio, 2, is_least=True)]


def literal_alignment(saliency: Tensor) -> Tensor:
    """Equations 7 to 9 as they are printed, batched: every affinity is a matrix of C x C."""
    batch = saliency.shape[1]
    anchors = saliency.mean(3).permute(1, 2, 0)  # (B, C, T)
    own = torch.nn.functional.normalize((anchors @ anchors.transpose(1, 2)).flatten(1), eps=0)
    affinities = (saliency @ saliency.transpose(2, 3)).flatten(2)
    of_tasks = torch.nn.functional.normalize(affinities, dim=2, eps=0)
    positive = (own * of_tasks).sum(2) / TEMPERATURE
    diagonal = torch.eye(batch, dtype=torch.bool)
    negative = (own @ own.T / TEMPERATURE).masked_fill(diagonal, float("-inf")).logsumexp(1)
    return (negative - positive).mean()


if __name__ == "__main__":
    main()
