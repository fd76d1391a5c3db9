"""The pixel gradient beside the same by torch.autograd alone: equality, seconds and memory.

python -m benchmarks.pixel_gradient
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.interleaved import Contender, race
from benchmarks.report import RESULTS, Agreement, add_agreements, add_comparisons, add_race, finish
from salhub import PixelGradientForImageSaliency
from salhub.results import Results, measured


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything, print the tables and write the results file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pixel_gradient")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of the race")
    parser.add_argument("--output", type=Path, default=RESULTS / "pixel_gradient.json")
    options = parser.parse_args(arguments)
    model = PixelGradientForImageSaliency.from_classifier("salhub/efficientnet-lite0")
    pixels = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))

    def written_out() -> torch.Tensor:
        leaf = pixels.clone().requires_grad_()
        score = model.backbone(leaf).logits.max()
        return torch.autograd.grad(score, leaf)[0].norm(model.config.order, dim=1)

    command = f"python -m benchmarks.pixel_gradient --rounds {options.rounds}"
    results = Results(model="pixel_gradient", command=command, seed=0)
    with measured(results):
        wanted, found = written_out(), model(pixels).saliency
        difference = float((found - wanted).abs().max() / (wanted.max() - wanted.min()))
        add_agreements(results, [Agreement("gradient", "autograd", difference, True)], 1e-6)
        ours = Contender("salhub", lambda: model(pixels))
        peer = Contender("autograd", written_out, "torch")
        found = race([ours, peer], rounds=options.rounds, warmup=1)
        add_race(results, "One picture", "", found, {"salhub": "autograd"})
        add_comparisons(results, found, [("salhub", "autograd")])
    finish(results, {}, options.output)


if __name__ == "__main__":
    main()
