"""Salient Relevance beside zennit, Captum's LRP, lxt and the plain formula of its second stage.

    python -m benchmarks.salient_relevance

Run it from the repository with `pip install 'salhub[bench]'`; a package that is missing is left
out and named. It writes benchmarks/results/salient_relevance.json, and its tables beside it as .md.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import salhub
from benchmarks.attention_peers import LXT, lxt_relevance, seeded_vit
from benchmarks.classifier import load_classifier, relative_difference, sixteen_photos
from benchmarks.interleaved import Contender, peak_array_memory, race, use_one_thread
from benchmarks.peers import Peer, find_peers, first_line, peers_table
from benchmarks.plain_context_saliency import plain_context_aware_saliency
from benchmarks.relevance_peers import (
    COMPOSITES,
    PlainNetwork,
    captum_network,
    captum_relevance,
    zennit_composite,
    zennit_network,
    zennit_relevance,
)
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
from salhub.models.salient_relevance.modeling_salient_relevance import (
    SalientRelevanceForImageSaliency,
)
from salhub.models.salient_relevance.relevance_image import relevance_image
from salhub.models.salient_relevance.rules import PRESETS
from salhub.results import Results, measured, noted_as_it_comes

TO_PIXELS = "forward + backward"
FOLDED = "forward + backward, batch norm folded"
LRP_LIMIT, SECONDS, MAP_TOLERANCE = 2.4, 1.5, 1e-4
TOLERANCE = 1e-5
# The first convolution's windows at the right and lower border reach into its padding.
BESIDE_PADDING = 2


@dataclass
class Task:
    """What is explained.

    Args:
        backbone: The classifier.
        image_processor: Its image processor.
        photo: (1, 3, 224, 224).
        label: Its class.
        peers: By module name.
    """

    backbone: nn.Module
    image_processor: Any
    photo: Tensor
    label: int
    peers: dict[str, Peer]

    def in_float64(self) -> "Task":
        """The same in double precision, of a copy of the classifier."""
        backbone = copy.deepcopy(self.backbone).double()
        return replace(self, backbone=backbone, photo=self.photo.double())

    def explainer(self, network: nn.Module | None = None, **settings: Any) -> nn.Module:
        """Our model with the given settings."""
        return SalientRelevanceForImageSaliency.from_classifier(
            self.backbone if network is None else network,
            image_processor=self.image_processor,
            **settings,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything, print the tables and write the results file."""
    options = _options(arguments)
    command = f"python -m benchmarks.salient_relevance --rounds {options.rounds}"
    results = Results(model="salient_relevance", command=command, seed=0)
    results.data = {"name": "the photos that come with salhub, at 224 x 224 pixels"}
    with noted_as_it_comes(options.output), measured(results):
        backbone, image_processor = load_classifier()
        photo = sixteen_photos(image_processor)[1:2]
        label = int(backbone(photo).logits.argmax())
        peers = find_peers("zennit", "captum", LXT)
        task = Task(backbone, image_processor, photo, label, peers)
        required, found = relevance(results, task, options.rounds)
        found += plain_chain(results, task, options.rounds)
        found += vision_transformer(results, task, options.rounds)
        required += context_step(results, task, max(3, options.rounds // 5))
        whole_map(results, task, max(3, options.rounds // 5))
        add_agreements(results, found, TOLERANCE)
        differences = [one.difference for one in found if one.expected]
        if differences:
            required.append(Requirement("difference from peers", max(differences), TOLERANCE))
        add_requirements(results, required)
        results.tables.append(peers_table({**peers, "captum": _captum_verdict(task)}))
    finish(results, peers, options.output)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    name = "python -m benchmarks.salient_relevance"
    parser = argparse.ArgumentParser(prog=name, description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="rounds of the first race")
    parser.add_argument("--output", type=Path, default=RESULTS / "salient_relevance.json")
    return parser.parse_args(arguments)


def relevance(
    results: Results, task: Task, rounds: int
) -> tuple[list[Requirement], list[Agreement]]:
    """Relevance of one class at the pixels, by every preset."""
    folded = captum_network(task.backbone)
    contenders = [
        Contender(TO_PIXELS, lambda: _gradient(task, lambda x: task.backbone(x).logits), "torch"),
        Contender(FOLDED, lambda: _gradient(task, folded), "torch"),
    ]
    runs = {f"salhub {preset}": _our_relevance(task, preset=preset) for preset in PRESETS}
    contenders += [Contender(name, run) for name, run in runs.items()]
    if task.peers["zennit"].reason is None:
        contenders += _zennit_contenders(task)
    title = "Relevance of one photo"
    found = race(contenders, rounds=rounds, title=title)
    note = (
        "Ratios are to one forward pass and a backward pass to the pixels, of the classifier as it "
        "is loaded and of its copy with batch normalisation folded, which relevance runs through."
    )
    add_race(results, title, note, found, {"to the pass": TO_PIXELS, "to the folded": FOLDED})
    add_comparisons(results, found, [(f"salhub {name}", f"zennit {name}") for name in PRESETS])
    required = [
        Requirement.of_ratio(
            f"{name} / (forward + backward)", found.ratio(name, TO_PIXELS), LRP_LIMIT
        )
        for name in runs
    ]
    agreements = []
    if task.peers["zennit"].reason is None:
        # In float64: in float32 it is the rounding of both that is compared, by the machine.
        exact = task.in_float64()
        for preset in filter(COMPOSITES.get, PRESETS):
            ours = _our_relevance(exact, preset=preset)().double()
            agreements += _compare(
                preset, f"zennit {preset}", ours, _zennit_relevance(exact, preset)()
            )
    return required, agreements


def _our_relevance(task: Task, network: nn.Module | None = None, **settings: Any):
    model = task.explainer(network, **settings)
    return lambda: model.relevance(task.photo, task.label).relevance[:, 0]


def _zennit_contenders(task: Task) -> list[Contender]:
    return [
        Contender(
            f"zennit {preset}",
            _zennit_relevance(task, preset),
            f"{task.peers['zennit'].label}, {composite}",
        )
        for preset, composite in COMPOSITES.items()
    ]


def _zennit_relevance(task: Task, preset: str) -> Callable[[], Tensor]:
    config = task.explainer().config
    low, high = (
        torch.tensor(bound, dtype=task.photo.dtype).view(1, 3, 1, 1)
        for bound in (config.input_low, config.input_high)
    )
    network = zennit_network(task.backbone).to(task.photo.dtype)
    return zennit_relevance(network, zennit_composite(preset, low, high), task.photo, task.label)


def _compare(preset: str, peer: str, ours: Tensor, theirs: Tensor) -> list[Agreement]:
    if "flat" not in preset:
        return [Agreement(preset, peer, relative_difference(ours, theirs))]
    inner = (..., slice(None, -BESIDE_PADDING), slice(None, -BESIDE_PADDING))
    border = "zennit gives the padding a share"
    return [
        Agreement(
            f"{preset}, off the border", peer, relative_difference(ours[inner], theirs[inner])
        ),
        Agreement(
            f"{preset}, whole", peer, relative_difference(ours, theirs), expected=False, note=border
        ),
    ]


def plain_chain(results: Results, task: Task, rounds: int) -> list[Agreement]:
    """The epsilon rule on a network that Captum takes."""
    network = PlainNetwork()
    photo = nn.functional.interpolate(task.photo, size=64)
    label = int(network(photo).argmax())
    small = Task(network, task.image_processor, photo, label, task.peers)
    rules = {"first_rule": "epsilon", "convolution_rule": "epsilon", "linear_rule": "epsilon"}
    contenders = [
        Contender(TO_PIXELS, lambda: _gradient(small, network), "torch"),
        # Captum's stabiliser, which is below ours, so that the maps can be compared.
        Contender("salhub epsilon", _our_relevance(small, epsilon=1e-9, **rules)),
    ]
    agreements = []
    if task.peers["captum"].reason is None:
        # A network of its own, because Captum leaves rules on what it explains.
        theirs = captum_relevance(PlainNetwork(), photo, label)
        contenders.append(Contender("Captum LRP", theirs, task.peers["captum"].label))
        agreements = [
            Agreement(
                "epsilon, plain network",
                "Captum LRP",
                relative_difference(contenders[1].run(), theirs()),
            )
        ]
    title = "Relevance on a plain network"
    found = race(contenders, rounds=rounds, title=title)
    note = (
        "Three convolutions and two linear layers at 64 x 64 pixels, the epsilon rule everywhere: "
        "Captum's LRP does not take the classifier, see the peers."
    )
    add_race(results, title, note, found, {"to the pass": TO_PIXELS})
    add_comparisons(results, found, [("salhub epsilon", "Captum LRP")])
    return agreements


def vision_transformer(results: Results, task: Task, rounds: int, **sizes: int) -> list[Agreement]:
    """The epsilon rule and AttnLRP's on a ViT, beside lxt's functions."""
    network, label = seeded_vit(**sizes), 3
    side = network.config.image_size
    photo = nn.functional.interpolate(task.photo, size=side)
    small = Task(network, task.image_processor, photo, label, task.peers)
    rules = {"first_rule": "epsilon", "convolution_rule": "epsilon", "linear_rule": "epsilon"}
    contenders = [
        Contender(TO_PIXELS, lambda: _gradient(small, lambda x: network(x).logits), "torch"),
        Contender("salhub epsilon", _our_relevance(small, **rules)),
        Contender("salhub deep_taylor", _our_relevance(small)),
    ]
    agreements = []
    if task.peers[LXT].reason is None:
        lxt = "lxt epsilon"
        contenders.append(
            Contender(lxt, lxt_relevance(network, photo, label), task.peers[LXT].label)
        )
        # In float64, and with stabilisers that do not show: theirs are added without a sign.
        exact = small.in_float64()
        difference = relative_difference(
            _our_relevance(exact, epsilon=1e-12, **rules)().double(),
            lxt_relevance(exact.backbone, exact.photo, label, 1e-12)(),
        )
        agreements = [Agreement("epsilon, vision transformer", lxt, difference)]
    title = "Relevance on a vision transformer"
    found = race(contenders, rounds=rounds, title=title)
    note = (
        f"A ViT of random weights, {network.config.num_hidden_layers} layers of "
        f"{network.config.hidden_size} numbers at {side} x {side} pixels. The functions of lxt are "
        "put together by hand; its patches of whole networks need an older transformers."
    )
    add_race(results, title, note, found, {"to the pass": TO_PIXELS})
    add_comparisons(results, found, [("salhub epsilon", "lxt epsilon")])
    return agreements


def context_step(results: Results, task: Task, rounds: int) -> list[Requirement]:
    """Context-aware saliency of a relevance map and of a photo, and the plain formula."""
    model = task.explainer()
    relevance_map = model.relevance(task.photo, task.label).relevance[:, 0]
    drawn = relevance_image(relevance_map, model.config.image_kind)
    return [
        *_context_step_of("a relevance map", drawn, results, rounds),
        *_context_step_of("a photo", _unnormalised(task), results, rounds),
    ]


def _context_step_of(
    name: str, picture: Tensor, results: Results, rounds: int
) -> list[Requirement]:
    array = picture[0].double().numpy()
    ours, theirs = f"salhub, {name}", f"plain formula, {name}"
    contenders = [
        Contender(ours, lambda: salhub.context_aware_saliency(picture).saliency),
        Contender(
            theirs,
            lambda: plain_context_aware_saliency(array),
            "NumPy and SciPy",
            peak_array_memory,
        ),
    ]
    difference = contenders[0].run()[0].double() - torch.from_numpy(contenders[1].run())
    title = f"Context-aware step on {name}"
    found = race(contenders, rounds=rounds, warmup=0, title=title)
    add_race(results, title, "224 x 224 pixels.", found, {"to the plain formula": theirs})
    add_comparisons(results, found, [(ours, theirs)])
    return [
        Requirement(f"seconds, context-aware saliency of {name}", found.seconds(ours), SECONDS),
        Requirement(
            f"context-aware saliency of {name} - plain formula",
            float(difference.abs().max()),
            MAP_TOLERANCE,
        ),
    ]


def whole_map(results: Results, task: Task, rounds: int) -> None:
    """Both stages, as a user calls them."""
    model = task.explainer()
    contenders = [
        Contender(TO_PIXELS, lambda: _gradient(task, lambda x: task.backbone(x).logits), "torch"),
        Contender("salhub, first stage", lambda: model.relevance(task.photo, task.label)),
        Contender("salhub, both stages", lambda: model(task.photo, task.label)),
    ]
    title = "A whole map of one photo"
    found = race(contenders, rounds=rounds, warmup=1, title=title)
    note = "The default preset. No peer offers the second stage."
    add_race(results, title, note, found, {"to the pass": TO_PIXELS})


def _gradient(task: Task, classify) -> Tensor:
    photo = task.photo.clone().requires_grad_()
    return torch.autograd.grad(classify(photo)[0, task.label], photo)[0]


def _unnormalised(task: Task) -> Tensor:
    mean, std = (
        torch.tensor(getattr(task.image_processor, name)).view(1, 3, 1, 1)
        for name in ("image_mean", "image_std")
    )
    return (task.photo * std + mean).clamp(0, 1)


def _captum_verdict(task: Task) -> Peer:
    """Captum as a peer on the classifier itself: what its LRP says to the folded copy."""
    known = task.peers["captum"]
    if known.reason is not None:
        return known
    try:
        captum_relevance(captum_network(task.backbone), task.photo, task.label)()
    except Exception as error:
        reason = f"plain network only; on the classifier {first_line(error)}"
        return Peer(known.module, known.distribution, known.version, reason)
    return known


if __name__ == "__main__":
    use_one_thread()
    main()
