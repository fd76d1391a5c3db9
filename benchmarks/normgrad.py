"""NormGrad and its family beside Captum, pytorch-grad-cam and torchcam.

    python -m benchmarks.normgrad

Run it from the repository with `pip install 'salhub[bench]'`; a package that is missing is left
out and named. It writes benchmarks/results/normgrad.json, and its tables beside it as .md.
"""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import salhub
from benchmarks.classifier import load_classifier, sixteen_photos
from benchmarks.interleaved import Contender, race, use_one_thread
from benchmarks.normgrad_agreement import agreements
from benchmarks.normgrad_peers import (
    LAST_BLOCK,
    Task,
    captum_eight_maps,
    captum_layer_batch,
    layer_contenders,
    pixel_contenders,
)
from benchmarks.peers import find_peers, peers_table
from benchmarks.report import (
    RESULTS,
    Requirement,
    add_agreements,
    add_comparisons,
    add_race,
    add_requirements,
    finish,
)
from salhub.models.normgrad.extract_aggregate import AGGREGATES, EXTRACTS
from salhub.models.normgrad.methods import METHODS, MapMethod
from salhub.results import Results, measured, noted_as_it_comes

LAYER = f"blocks.{LAST_BLOCK}"
BLOCKS = (4, 10, LAST_BLOCK)
PAIR_BLOCKS = (2, *BLOCKS)
FORWARD = "forward pass"
TO_LAYER = "forward + backward to the layer"
TO_PIXELS = "forward + backward to the pixels"
CAPTUM_CAM = "Captum LayerGradCam"
# Contenders that make the same map, or where there is none the nearest.
LAYER_PAIRS = [
    ("salhub norm_grad", CAPTUM_CAM),
    ("salhub norm_grad", "Captum LayerGradCam, frozen by hand"),
    ("salhub grad_cam", CAPTUM_CAM),
    ("salhub grad_cam", "Captum LayerGradCam, frozen by hand"),
    ("salhub grad_cam", "torchcam GradCAM"),
    ("salhub grad_cam", "grad-cam GradCAM"),
    ("salhub linear_approx", "Captum LayerGradientXActivation"),
    ("salhub linear_approx", "grad-cam HiResCAM"),
]
PIXEL_PAIRS = [
    ("salhub gradient", "Captum Saliency"),
    ("salhub grad_x_input", "Captum InputXGradient"),
]
META_STEP = 1e-3
TOLERANCE = 1e-5


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything, print the tables and write the results file."""
    options = _options(arguments)
    command = f"python -m benchmarks.normgrad --rounds {options.rounds}"
    results = Results(model="normgrad", command=command, seed=0)
    results.data = {"name": "the photos that come with salhub, at 224 x 224 pixels"}
    peers = find_peers("captum", "pytorch_grad_cam", "torchcam")
    # That it hooks rectifiers is no news; that it finds none here is in the agreement.
    warnings.filterwarnings("ignore", message="Setting backward hooks", module="captum")
    with noted_as_it_comes(options.output), measured(results):
        backbone, image_processor = load_classifier()
        photos = sixteen_photos(image_processor)
        label = int(backbone(photos[:1]).logits.argmax())
        task = Task(backbone, photos[:1], label, peers)
        required = [
            *last_block(results, task, options.rounds),
            *batches(results, task, photos, max(3, options.rounds // 5)),
        ]
        pixels(results, task, max(3, options.rounds // 2))
        many_maps(results, task, max(3, options.rounds // 4))
        required += all_pairs(results, task, max(3, options.rounds // 4))
        found = agreements(task)
        add_agreements(results, found, TOLERANCE)
        differences = [one.difference for one in found if one.expected]
        if differences:
            required.append(Requirement("difference from peers", max(differences), TOLERANCE))
        add_requirements(results, required)
        results.tables.append(peers_table(peers))
    finish(results, peers, options.output)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.normgrad", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="rounds of the first race")
    parser.add_argument("--output", type=Path, default=RESULTS / "normgrad.json")
    return parser.parse_args(arguments)


def explainer(backbone: nn.Module, **settings) -> nn.Module:
    """Our model of a method, on the network that is shared by all of ours."""
    return salhub.NormGradForImageSaliency.from_classifier(backbone, **settings)


def last_block(results: Results, task: Task, rounds: int) -> list[Requirement]:
    """One map of one photo at the last block."""
    ours = [
        _ours(f"salhub {method}", task, method=method, layers=[LAYER])
        for method in ("norm_grad", "norm_grad_selective", "grad_cam", "linear_approx")
    ]
    bounds = [
        Contender(FORWARD, lambda: _forward(task), "torch"),
        Contender(TO_LAYER, lambda: truncated_pass(task), "torch"),
    ]
    title = "One map at the last block"
    found = race([*bounds, *ours, *layer_contenders(task)], rounds=rounds, title=title)
    note = (
        f"Ratios are to one forward pass and a backward pass that stops at {LAYER}, the least that "
        "a gradient method needs. 'frozen by hand' is Captum with the gradients of all parameters "
        "and of the pixels switched off beforehand, which its documentation does not do."
    )
    add_race(results, title, note, found, {"to the pass": TO_LAYER})
    add_comparisons(results, found, LAYER_PAIRS)
    required = [
        Requirement.of_ratio(
            "NormGrad / (forward + backward to the last block)",
            found.ratio("salhub norm_grad", TO_LAYER),
            1.15,
        )
    ]
    if CAPTUM_CAM in found.cpu:
        ratio = found.ratio("salhub norm_grad", CAPTUM_CAM)
        required.append(Requirement.of_ratio(f"NormGrad / {CAPTUM_CAM}", ratio, 1.0))
    return required


def batches(results: Results, task: Task, photos: Tensor, rounds: int) -> list[Requirement]:
    """Sixteen photos together and one by one."""
    labels = task.backbone(photos).logits.argmax(-1)
    model = explainer(task.backbone, method="norm_grad", layers=[LAYER])

    def singles() -> list[Tensor]:
        pairs = zip(photos.split(1), labels.split(1), strict=True)
        return [model(photo, class_labels=label).saliency for photo, label in pairs]

    contenders = [
        Contender("salhub norm_grad, 16 together", lambda: model(photos, class_labels=labels)),
        Contender("salhub norm_grad, 16 one by one", singles),
    ]
    if task.has("captum"):
        contenders.append(
            Contender(
                "Captum LayerGradCam, 16 together",
                captum_layer_batch(task, photos, labels),
                task.label_of("captum"),
            )
        )
    title = "A batch of 16 photos"
    found = race(contenders, rounds=rounds, warmup=1, title=title)
    bases = {"to one by one": "salhub norm_grad, 16 one by one"}
    add_race(results, title, "One map of each photo at the last block.", found, bases)
    pair = ("salhub norm_grad, 16 together", "Captum LayerGradCam, 16 together")
    add_comparisons(results, found, [pair])
    ratio = found.ratio("salhub norm_grad, 16 together", bases["to one by one"])
    return [Requirement.of_ratio("batch of 16 / 16 one by one", ratio, 0.8)]


def pixels(results: Results, task: Task, rounds: int) -> None:
    """One map of one photo at the pixels, and maps after a meta step."""
    ours = [
        _ours(f"salhub {method}", task, method=method, layers=["input"])
        for method in ("gradient", "grad_x_input", "guided_backprop", "deconvnet")
    ]
    ours.append(
        _ours(
            "salhub norm_grad after a meta step",
            task,
            method="norm_grad",
            layers=[LAYER],
            meta_step=META_STEP,
        )
    )
    bound = Contender(TO_PIXELS, lambda: full_pass(task), "torch")
    title = "One map at the pixels"
    found = race([bound, *ours, *pixel_contenders(task)], rounds=rounds, title=title)
    note = (
        "The meta step needs a pass for the gradients of all parameters and then the pass of its "
        "map; no peer offers it. Captum's guided backprop and deconvolution know ReLU only and do "
        "nothing on this network of ReLU6, see the agreement."
    )
    add_race(results, title, note, found, {"to the pass": TO_PIXELS})
    add_comparisons(results, found, PIXEL_PAIRS)


def many_maps(results: Results, task: Task, rounds: int) -> None:
    """All that the family offers at three depths and the pixels, from one pass."""
    layers = ["input", *(f"blocks.{block}" for block in BLOCKS)]
    model = explainer(task.backbone, method="norm_grad")
    shared = ["grad_cam", "linear_approx", "gradient", "grad_x_input"]
    everything = [
        *(name for name, method in METHODS.items() if _fits_one_pass(method)),
        *((extract, aggregate) for extract in EXTRACTS for aggregate in AGGREGATES),
    ]

    def grid(methods: list) -> dict:
        return model.forward_grid(
            task.photo, class_labels=task.label, methods=methods, layers=layers
        )

    contenders = [
        Contender(TO_PIXELS, lambda: full_pass(task), "torch"),
        Contender(f"salhub, {len(shared) * len(layers)} maps", lambda: grid(shared)),
        Contender(f"salhub, {len(everything) * len(layers)} maps", lambda: grid(everything)),
    ]
    if task.has("captum"):
        run = captum_eight_maps(task, BLOCKS)
        contenders.append(Contender("Captum, 8 of these maps", run, task.label_of("captum")))
    title = "Many maps of one photo"
    found = race(contenders, rounds=rounds, warmup=1, title=title)
    note = (
        f"At {', '.join(layers)}. The first row of ours has {', '.join(shared)}; the second every "
        "named method that uses the true gradient and every extract and aggregate pair. Captum "
        "makes those of the first row that it has: one call, and one pass, a map."
    )
    add_race(results, title, note, found, {"to the pass": TO_PIXELS})
    add_comparisons(results, found, [(contenders[1].name, "Captum, 8 of these maps")])


def all_pairs(results: Results, task: Task, rounds: int) -> list[Requirement]:
    """Every extract with every aggregate of the paper, at four blocks, from one pass."""
    model = explainer(task.backbone, method="norm_grad")
    layers = [f"blocks.{block}" for block in PAIR_BLOCKS]
    pairs = [(extract, aggregate) for extract in EXTRACTS[:4] for aggregate in AGGREGATES[:4]]
    bound = "forward + backward to the shallowest"
    name = f"salhub, {len(pairs) * len(layers)} maps"
    contenders = [
        Contender(bound, lambda: truncated_pass(task, PAIR_BLOCKS[0]), "torch"),
        Contender(
            name,
            lambda: model.forward_grid(
                task.photo, class_labels=task.label, methods=pairs, layers=layers
            ),
        ),
    ]
    title = "All pairs at four blocks"
    found = race(contenders, rounds=rounds, warmup=1, title=title)
    note = f"{len(pairs)} extract and aggregate pairs at {', '.join(layers)}."
    add_race(results, title, note, found, {"to the pass": bound})
    ratio = found.ratio(name, bound)
    return [Requirement.of_ratio(f"{len(pairs)} pairs at four blocks / ({bound})", ratio, 1.3)]


def _fits_one_pass(method: MapMethod) -> bool:
    """Any layer will do, and the gradient is the true one."""
    return method.relu_rule is None and method.virtual_identity and not method.use_head_weights


def _ours(name: str, task: Task, **settings) -> Contender:
    model = explainer(task.backbone, **settings)
    return Contender(name, lambda: model(task.photo, class_labels=task.label))


def _forward(task: Task) -> Tensor:
    with torch.no_grad():
        return task.backbone(task.photo).logits


def truncated_pass(task: Task, block: int = LAST_BLOCK) -> Tensor:
    """The gradient at a block, written out: no graph below it."""
    leaf: list[Tensor] = []

    def cut(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        torch.set_grad_enabled(True)
        leaf.append(output.detach().requires_grad_())
        return leaf[0]

    handle = task.backbone.blocks[block].register_forward_hook(cut)
    try:
        with torch.no_grad():
            logits = task.backbone(task.photo).logits
    finally:
        handle.remove()
    seed = torch.zeros_like(logits)
    seed[0, task.label] = 1
    return torch.autograd.grad(logits, leaf[0], seed)[0]


def full_pass(task: Task) -> Tensor:
    """The gradient at the pixels."""
    photo = task.photo.clone().requires_grad_()
    return torch.autograd.grad(task.backbone(photo).logits[0, task.label], photo)[0]


if __name__ == "__main__":
    use_one_thread()
    main()
