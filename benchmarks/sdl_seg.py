"""SDL-Seg beside MONAI: networks trained alike, the loss, sliding windows, and the time of each.

    python -m benchmarks.sdl_seg --rounds 5

Where the saliency map helps is another question, see `benchmarks.sdl_seg_study`.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.interleaved import Contender, race, use_one_thread
from benchmarks.peers import find_peers, peers_table
from benchmarks.report import RESULTS, Requirement, add_race, add_requirements, finish
from salhub.metrics.segmentation import segmentation_scores, summarize
from salhub.models.sdl_seg.augmentation import training_patch
from salhub.models.sdl_seg.cases import TrainingVolume, phantom_case
from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig
from salhub.models.sdl_seg.evaluation_sdl_seg import predicted, test_phantoms
from salhub.models.sdl_seg.modeling_sdl_seg import SDLSegForVolumeSegmentation
from salhub.models.sdl_seg.processing_sdl_seg import SDLSegImageProcessor
from salhub.models.sdl_seg.segmentation_loss import segmentation_loss
from salhub.models.sdl_seg.sliding_window import sliding_window_logits
from salhub.results import Results, Table, measured

TOLERANCE = 1e-5
MOST_SECONDS = 3.0  # a volume
_OURS = "SDL-Seg's U-Net"
_GRID, _PHANTOMS = [3.0, 3.0, 3.0], [3.0, 1.5, 1.5]
_PATIENTS, _TEST_PATIENTS, _STEPS = 20, 12, 100
_WINDOW = (16, 48, 48)


def networks() -> dict[str, Callable[[], nn.Module]]:
    """Networks of about one size that take two channels and give one."""
    from monai.networks.nets import BasicUNet, UNet

    strides = (2, 2, 2)
    channels = (8, 16, 32, 32)
    return {
        _OURS: lambda: _Logits(SDLSegForVolumeSegmentation(_config())),
        "MONAI UNet": lambda: UNet(3, 2, 1, channels, strides),
        "MONAI UNet, 2 residual units": lambda: UNet(
            3, 2, 1, channels, strides, num_res_units=2
        ),
        "MONAI BasicUNet": lambda: BasicUNet(3, 2, 1, features=(8, 8, 16, 32, 32, 8)),
    }  # fmt: skip


class _Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixels).logits


def _config() -> SDLSegConfig:
    return SDLSegConfig(target_spacing=_GRID, anisotropic_levels=0)


# --- trained alike --------------------------------------------------------------------------------


def train(network: nn.Module, volumes: Sequence[TrainingVolume], steps: int) -> float:
    """Descend on the same patches, whoever the network is of; seconds a step."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    spent = 0.0
    for step in range(steps):
        draws = np.random.default_rng([0, step])
        chosen = draws.integers(len(volumes), size=2)
        patches = [training_patch(volumes[row], None, draws) for row in chosen]
        pixels, labels = (torch.stack(part) for part in zip(*patches, strict=True))
        began = time.process_time()
        optimizer.zero_grad()
        segmentation_loss(network(pixels), labels).mean().backward()
        optimizer.step()
        schedule.step()
        spent += time.process_time() - began
    return spent / steps


@torch.no_grad()
def scores_of(network: nn.Module, cases: Sequence[Any]) -> list[dict[str, float]]:
    """Scores on test patients, of the plain threshold."""
    network.eval()
    processor = SDLSegImageProcessor(_config())
    rows = []
    for case in cases:
        batch = processor(case.volume, case.spacing, markers=case.markers)
        chance = network(batch["pixel_values"])[0, 0].sigmoid().numpy()
        mask = batch["meta"][0].grid.resample_back(chance) > 0.5
        rows.append(segmentation_scores(mask, case.mask, case.spacing))
    return rows


def add_trained(results: Results, cells: Path, steps: int) -> None:
    """Train every network once, and record what it has learned."""
    options = {"spacing": _PHANTOMS, "clips_visible": False}
    cells.mkdir(parents=True, exist_ok=True)
    rows = []
    for title, build in networks().items():
        path = cells / f"{title.replace(' ', '-').replace(',', '')}.json"
        if not path.is_file():
            volumes = [
                TrainingVolume.of(phantom_case(patient, **options), _config())
                for patient in range(_PATIENTS)
            ]
            torch.manual_seed(0)
            network = build()
            seconds = train(network, volumes, steps)
            found = {
                "weights": sum(p.numel() for p in network.parameters()),
                "seconds": seconds,
                "rows": scores_of(network, test_phantoms(_TEST_PATIENTS, **options)),
            }
            path.write_text(json.dumps(found), encoding="utf-8")
        found = json.loads(path.read_text(encoding="utf-8"))
        summary = summarize(found["rows"])
        for name in ("dice", "hd95", "assd"):
            one = summary[name].estimate
            key = f"trained alike/{title}/{name}"
            results.add_metric(key, one.mean, interval=(one.low, one.high), n=one.n)
        rows.append(
            [
                title,
                found["weights"],
                f"{summary['dice'].estimate:.3f}",
                f"{summary['hd95'].median:.2f}",
                f"{summary['assd'].median:.2f}",
                summary["hd95"].failures,
                float(f"{1e3 * found['seconds']:.3g}"),
            ]
        )
    note = (
        f"{steps} steps of two volumes of {_PATIENTS} phantoms with a saliency map, the clips "
        f"painted out of the CT; the same volumes, loss and optimizer. {_TEST_PATIENTS} test "
        "patients, DSC with its 95 % interval, one seed. After so few steps it counts that the "
        "last bias of ours begins with the share of foreground, and that of the others at one half."
    )
    columns = [
        "network",
        "weights",
        "DSC",
        "median HD95 mm",
        "median ASD mm",
        "missed",
        "ms a step",
    ]
    results.tables.append(Table("Networks trained alike", note, columns, rows))


# --- the same numbers -----------------------------------------------------------------------------


def agreements() -> dict[str, float]:
    """What is defined alike -> largest difference."""
    from monai.inferers import sliding_window_inference
    from monai.losses import DiceCELoss

    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 1, 8, 20, 20, generator=generator)
    labels = (torch.rand(logits.shape, generator=generator) > 0.9).float()
    theirs = DiceCELoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)
    both = [
        [float(segmentation_loss(one, truth)), float(theirs(one, truth))]
        for one, truth in zip(logits[:, None], labels[:, None], strict=True)
    ]
    network = _network_of_windows()
    volume = 0.1 + torch.rand(1, 2, 24, 96, 96, generator=generator)
    ours = sliding_window_logits(network, volume, _WINDOW)
    windows = sliding_window_inference(volume, _WINDOW, 4, network, overlap=0.5, mode="gaussian")
    return {
        "Dice plus cross-entropy": max(abs(a - b) for a, b in both),
        "scores of sliding windows": float((ours - windows).abs().max()),
    }


def _network_of_windows() -> Callable[[Tensor], Tensor]:
    torch.manual_seed(0)
    model = SDLSegForVolumeSegmentation(SDLSegConfig()).eval()

    def scores(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return model(pixels).logits

    return scores


# --- time -----------------------------------------------------------------------------------------


def add_times(results: Results, rounds: int) -> None:
    """Record how long networks, losses and windows take."""
    from monai.inferers import sliding_window_inference
    from monai.losses import DiceCELoss

    volume, case = torch.rand(1, 2, 24, 96, 96), test_phantoms(1)[0]
    contenders = []
    for title, build in networks().items():
        torch.manual_seed(0)
        network = build().eval()
        package = "salhub" if title == _OURS else "monai"
        contenders.append(Contender(title, _without_gradients(network, volume), package))
    found = race(contenders, rounds=rounds, title="forward")
    note = "One pass of a volume of 24 x 96 x 96 voxels with its map."
    add_race(results, "A forward pass", note, found, {"ratio to ours": _OURS})

    windows, volume = _network_of_windows(), torch.zeros(1, 2, 24, 144, 144)
    volume[:, :, :, 24:100, 30:110] = torch.rand(1, 2, 24, 76, 80)  # air around a breast
    contenders = [
        Contender("ours, windows", lambda: sliding_window_logits(windows, volume, _WINDOW)),
        Contender(
            "MONAI's, windows",
            lambda: sliding_window_inference(
                volume, _WINDOW, 4, windows, overlap=0.5, mode="gaussian"
            ),
            "monai",
        ),
    ]
    found = race(contenders, rounds=max(2, rounds // 2), warmup=1, title="windows")
    note = (
        "24 x 144 x 144 voxels, air around a breast, windows of 16 x 48 x 48 that overlap by half."
    )
    add_race(results, "Sliding windows", note, found, {"ratio to ours": "ours, windows"})

    logits = torch.randn(2, 1, 24, 96, 96, requires_grad=True)
    labels = (torch.rand(2, 1, 24, 96, 96) > 0.95).float()
    theirs = DiceCELoss(sigmoid=True)
    contenders = [
        Contender("our loss", lambda: segmentation_loss(logits, labels).mean().backward()),
        Contender("MONAI's DiceCELoss", lambda: theirs(logits, labels).backward(), "monai"),
    ]
    found = race(contenders, rounds=2 * rounds, title="loss")
    note = "With its gradient, two volumes of 24 x 96 x 96 voxels."
    add_race(results, "The loss", note, found, {"ratio to ours": "our loss"})

    model = SDLSegForVolumeSegmentation(SDLSegConfig()).eval()
    [whole] = [Contender("a volume", lambda: predicted(model, case, _found(case)))]
    found = race([whole], rounds=rounds, title="volume")
    seconds = found.seconds("a volume")
    results.add_metric("seconds a volume, clips found included", seconds, unit="s")


def _found(case: Any) -> np.ndarray:
    return SDLSegImageProcessor(SDLSegConfig()).detect_markers(case.volume, case.spacing)


def _without_gradients(network: nn.Module, volume: Tensor) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.no_grad():
            return network(volume)

    return run


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sdl_seg", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=_STEPS)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "sdl_seg", help="for the runs")
    parser.add_argument("--output", type=Path, default=RESULTS / "sdl_seg.json")
    options = parser.parse_args(arguments)
    use_one_thread()
    peers = find_peers("monai")
    command = f"python -m benchmarks.sdl_seg --rounds {options.rounds}"
    results = Results("sdl_seg", command, 0)
    with measured(results):
        add_times(results, options.rounds)
        add_trained(results, options.runs, options.steps)
        alike = agreements()
        seconds = results.metric("seconds a volume, clips found included").value
        required = [
            Requirement(f"{k}: difference from MONAI", v, TOLERANCE) for k, v in alike.items()
        ]
        required.append(Requirement("processor seconds a volume", seconds, MOST_SECONDS))
        add_requirements(results, required)
        results.tables.append(peers_table(peers))
    finish(results, peers, options.output)


if __name__ == "__main__":
    main()
