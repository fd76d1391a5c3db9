"""SalUn's parts beside erasus, and beside the plain way of doing each of them.

    python -m benchmarks.salun

Run it from the repository with `pip install 'salhub[bench]'`; a package that is missing is left
out and named. It writes benchmarks/results/salun.json, and its tables beside it as .md.
"""

import argparse
import copy
import importlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.interleaved import Contender, race, use_one_thread
from benchmarks.peers import Peer, find_peers, peers_table
from benchmarks.report import (
    RESULTS,
    Requirement,
    add_comparisons,
    add_race,
    add_requirements,
    finish,
)
from salhub.backbones.cifar_resnet.configuration_cifar_resnet import CifarResNetConfig
from salhub.backbones.cifar_resnet.modeling_cifar_resnet import CifarResNetForImageClassification
from salhub.models.salun.masked_optimizer import MaskedOptimizer
from salhub.models.salun.membership_inference import membership_inference
from salhub.models.salun.weight_mask import WeightMask, make_mask
from salhub.models.salun.weight_saliency import compute_saliency
from salhub.results import Results, Table, measured, noted_as_it_comes

NUM_SCORES = 11_173_962  # of a ResNet-18 for CIFAR-10
NUM_SAMPLES = 10_000
STEPS = 4
OURS, SORTED, KTH = "salhub make_mask", "double argsort", "torch kthvalue and compare"
THRESHOLD, EXACT = "salhub, threshold form", "SVC on all samples"
PLAIN, MASKED = "steps of SGD", "steps of SGD, half of the weights closed"
PASS, SCORES = "forward + backward", "salhub compute_saliency"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything, print the tables and write the results file."""
    options = _options(arguments)
    use_one_thread()
    command = f"python -m benchmarks.salun --rounds {options.rounds}"
    results = Results(model="salun", command=command, seed=0)
    results.data = {"name": "drawn numbers and pictures of noise"}
    peers = find_peers("erasus")
    with noted_as_it_comes(options.output), measured(results):
        required = [
            *masks(results, peers["erasus"], options.rounds),
            *steps(results, options.rounds),
            *attacks(results, max(2, options.rounds // 5)),
        ]
        scores(results, peers["erasus"], options.rounds)
        required.append(leaks(results, peers["erasus"]))
        add_requirements(results, required)
        results.tables.append(peers_table(peers))
    finish(results, peers, options.output)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.salun", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each race")
    parser.add_argument("--output", type=Path, default=RESULTS / "salun.json")
    return parser.parse_args(arguments)


def masks(results: Results, erasus: Peer, rounds: int) -> list[Requirement]:
    """The larger half of as many scores as a ResNet-18 has weights."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(NUM_SCORES, generator=generator).square()
    named = {"weight": values}
    contenders = [
        Contender(OURS, lambda: make_mask(named, 0.5), "salhub"),
        Contender(SORTED, lambda: by_double_argsort(values), "torch"),
        Contender(KTH, lambda: by_kth_value(values), "torch"),
    ]
    if erasus.reason is None:
        strategy = _erasus_strategy()
        contenders.append(
            Contender("erasus top-k mask", lambda: strategy._create_saliency_mask(named), "erasus")
        )
    found = race(contenders, rounds=rounds, title="Mask")
    note = f"The larger half of {NUM_SCORES} scores; the double argsort is the published way."
    add_race(results, "Mask of 11 M scores", note, found, {"to ours": OURS})
    add_comparisons(results, found, [(OURS, SORTED), (OURS, KTH), (OURS, "erasus top-k mask")])
    ratio = found.ratio(SORTED, OURS)
    bits = _bits_a_weight(make_mask(named, 0.5))
    return [
        Requirement.of_ratio("double argsort / our mask", ratio, 20, is_least=True),
        Requirement("bits of the mask's file a weight", bits, 1.01),
    ]


def by_double_argsort(values: Tensor) -> Tensor:
    """The larger half, by the rank of every score."""
    ranks = torch.argsort(torch.argsort(values, descending=True))
    return ranks < len(values) // 2


def by_kth_value(values: Tensor) -> Tensor:
    """The larger half, by one threshold; ties may open more."""
    return values >= values.kthvalue(len(values) - len(values) // 2 + 1).values


def _bits_a_weight(mask: WeightMask) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return 8 * mask.save_pretrained(folder).stat().st_size / mask.num_weights


def steps(results: Results, rounds: int) -> list[Requirement]:
    """Steps of training, with and without a mask."""
    network, pictures, labels = small_network()
    mask = _half_mask(network)

    def train(with_mask: bool) -> Callable[[], None]:
        model = copy.deepcopy(network)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
        stepped = MaskedOptimizer(optimizer, model, mask) if with_mask else optimizer

        def run() -> None:
            for _ in range(STEPS):
                F.cross_entropy(model(pictures).logits, labels).backward()
                stepped.step()
                stepped.zero_grad()

        return run

    contenders = [
        Contender(PLAIN, train(False), "torch"),
        Contender(MASKED, train(True), "salhub"),
    ]
    found = race(contenders, rounds=rounds, title="Steps")
    note = f"{STEPS} steps of a ResNet-8 on {len(labels)} pictures, momentum and weight decay on."
    add_race(results, "Masked training", note, found, {"to plain": PLAIN})
    ratio = found.ratio(MASKED, PLAIN)
    return [Requirement.of_ratio("masked steps / plain steps", ratio, 1.15)]


def attacks(results: Results, rounds: int) -> list[Requirement]:
    """Membership inference by the exact SVC and by its fast form."""
    members, non_members, targets = confidences()
    contenders = [
        Contender(
            name,
            lambda attack=attack: membership_inference(
                members, non_members, targets, attack=attack
            ),
            "salhub" if attack == "threshold" else "scikit-learn",
        )
        for name, attack in ((THRESHOLD, "threshold"), (EXACT, "svc"))
    ]
    found = race(contenders, rounds=rounds, warmup=1, title="Attacks")
    note = f"{NUM_SAMPLES} members and as many non-members; the feature is the confidence."
    add_race(results, "Membership inference", note, found, {"to the fast form": THRESHOLD})
    efficacies = [contender.run().efficacy for contender in contenders]
    ratio = found.ratio(EXACT, THRESHOLD)
    difference = 100 * abs(efficacies[0] - efficacies[1])
    return [
        Requirement.of_ratio("SVC / threshold form", ratio, 50, is_least=True),
        Requirement("points between the two", difference, 1.0),
    ]


def confidences() -> tuple[Tensor, Tensor, Tensor]:
    """Confidences such as those of a classifier that knows its training pictures by heart."""
    generator = torch.Generator().manual_seed(0)
    members = torch.sigmoid(7 + 2 * torch.randn(NUM_SAMPLES, generator=generator))
    margins = 1 + 4 * torch.randn(NUM_SAMPLES + 1000, generator=generator)
    return members, torch.sigmoid(margins[:NUM_SAMPLES]), torch.sigmoid(margins[NUM_SAMPLES:])


def scores(results: Results, erasus: Peer, rounds: int) -> None:
    """Scores of all weights over some batches, beside the passes they need."""
    network, pictures, labels = small_network()
    batches = [(pictures, labels)] * STEPS

    def passes() -> None:
        for inputs, targets in batches:
            network.zero_grad()
            F.cross_entropy(network(inputs).logits, targets).backward()

    contenders = [
        Contender(PASS, passes, "torch"),
        Contender(SCORES, lambda: compute_saliency(network, batches), "salhub"),
    ]
    if erasus.reason is None:
        strategy, model = _erasus_strategy(), copy.deepcopy(network)
        contenders.append(
            Contender("erasus scores", lambda: strategy._compute_saliency(model, batches), "erasus")
        )
    found = race(contenders, rounds=rounds, title="Scores")
    note = "erasus sums sizes of batch gradients in training mode, and so moves running statistics."
    add_race(results, "Scores of the weights", note, found, {"to the passes": PASS})
    add_comparisons(results, found, [(SCORES, "erasus scores")])


def leaks(results: Results, erasus: Peer) -> Requirement:
    """Share of closed weights that have moved after some steps with weight decay."""
    network, pictures, labels = small_network()
    batches = [(pictures, labels)] * STEPS
    rows = [["salhub, momentum and weight decay", _moved_by_ours(network, batches)]]
    if erasus.reason is None:
        for decay in (0.0, 5e-4):
            moved = _moved_by_erasus(network, batches, decay)
            rows.append([f"erasus, weight decay {decay:g}", moved])
    note = (
        "Percent of the weights outside the mask that differ after a run. erasus masks the "
        "gradient and leaves the optimizer to itself."
    )
    results.tables.append(Table("Closed weights that moved", note, ["", "percent"], rows))
    return Requirement("percent of closed weights that moved", float(rows[0][1]), 0.0)


def _moved_by_ours(network: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    model, mask = copy.deepcopy(network), _half_mask(network)
    sgd = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9, weight_decay=5e-4)
    with MaskedOptimizer(sgd, model, mask) as optimizer:
        for inputs, targets in batches:
            F.cross_entropy(model(inputs).logits, targets).backward()
            optimizer.step()
            optimizer.zero_grad()
    return _share_moved(network, model, mask.tensors)


def _moved_by_erasus(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]], decay: float
) -> float:
    strategy, model = _erasus_strategy(weight_decay=decay), copy.deepcopy(network)
    found = strategy._create_saliency_mask(strategy._compute_saliency(model, batches))
    before = copy.deepcopy(model)
    strategy._compute_saliency = lambda *unused: {n: m.clone() for n, m in found.items()}
    strategy.unlearn(model, batches, epochs=1)
    return _share_moved(before, model, {name: one.bool() for name, one in found.items()})


def _share_moved(before: nn.Module, after: nn.Module, opened: dict[str, Tensor]) -> float:
    changed = total = 0
    for (name, one), other in zip(before.named_parameters(), after.parameters(), strict=True):
        closed = ~opened[name]
        changed += int((one != other)[closed].sum())
        total += int(closed.sum())
    return 100 * changed / total


def small_network() -> tuple[nn.Module, Tensor, Tensor]:
    """The ResNet-8 of the shipped models, fresh, with pictures of noise and labels for it."""
    torch.manual_seed(0)
    config = CifarResNetConfig(depth=8, width=32, stem_stride=2, num_labels=10)
    network = CifarResNetForImageClassification(config).train()
    network.to(memory_format=network.memory_format)
    return network, torch.randn(128, 3, 32, 32), torch.randint(10, (128,))


def _half_mask(network: nn.Module) -> WeightMask:
    return make_mask(compute_saliency(network, kind="random"), 0.5)


def _erasus_strategy(**settings: float):
    module = importlib.import_module("erasus.strategies.gradient_methods.saliency_unlearning")
    return module.SaliencyUnlearningStrategy(lr=1e-2, saliency_threshold=0.5, **settings)


if __name__ == "__main__":
    main()
