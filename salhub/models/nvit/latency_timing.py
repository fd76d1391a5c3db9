"""Timing of parts and wholes of vision transformers."""

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from salhub.errors import check_choice
from salhub.models.nvit.configuration_nvit import NViTConfig
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.models.nvit.shapes import NViTShape


def device_name(device: torch.device) -> str:
    """What a device is called: the model of a GPU, or "cpu" with the kind of processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    name = ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((one.split(":", 1)[1] for one in lines if one.startswith("model name")), "")
    return f"cpu {name.strip()}".strip()


class Clock:
    """Seconds of networks and of their parts, in evaluation.

    Args:
        device: Where they run.
        repeats: Runs, of which the median counts.
        warmup: Runs before them.
        clock: "wall", or "cpu" for the seconds of one thread.
    """

    def __init__(self, device: torch.device, repeats: int, warmup: int, clock: str) -> None:
        check_choice("clock", clock, ("wall", "cpu"))
        if clock == "cpu" and (device.type != "cpu" or torch.get_num_threads() > 1):
            raise ValueError(
                f"clock='cpu' counts the seconds of one CPU thread, got {device.type} and "
                f"{torch.get_num_threads()} threads; call torch.set_num_threads(1), or leave "
                "clock out."
            )
        self.device, self.repeats, self.warmup = device, repeats, warmup
        self._now = time.perf_counter if clock == "wall" else time.process_time

    @torch.inference_mode()
    def shares(
        self, network: Any, reference: Any, batch_size: int, dtype: torch.dtype, *,
        is_by_part: bool = False,
    ) -> tuple[NDArray[np.float64], float]:  # fmt: skip
        """Seconds of a network by those of another one, in turns.

        Whatever slows the machine down slows both. Parts are timed where they stand: by itself a
        part finds its numbers in the cache and its memory in place, and is faster than among
        others.

        Args:
            network: What is timed.
            reference: What it is timed beside.
            batch_size: Pictures of a batch.
            dtype: Precision of both.
            is_by_part: Whether to time its parts: patches; attention and MLP of each block; last
                norm and classifiers.

        Returns:
            The share of the whole, (1,), or of each part, in order; and the seconds of the
            reference. All are medians over the rounds.
        """
        pixels, other = (self._placed(one, batch_size, dtype) for one in (network, reference))
        rounds = []
        for _ in range(self.warmup + self.repeats):
            [usual] = self._times([lambda: reference(other)])
            steps = _parts(network, pixels) if is_by_part else [lambda: network(pixels)]
            rounds.append([usual, *self._times(steps)])
        seconds = np.array(rounds[self.warmup :])
        found = seconds[:, 1:] / seconds[:, :1]
        parts = np.median(found, axis=0)
        # Medians of parts leave out the delays that are in every whole, now here and now there.
        parts *= np.median(found.sum(1)) / parts.sum()
        return parts, float(np.median(seconds[:, 0]))

    def _placed(self, network: Any, batch_size: int, dtype: torch.dtype) -> Tensor:
        config: Any = network.to(self.device, dtype).eval().config
        return torch.randn(
            batch_size, config.num_channels, config.image_size, config.image_size,
            device=self.device, dtype=dtype,
        )  # fmt: skip

    def _times(self, parts: Sequence[Callable[[], Any]]) -> list[float]:
        """Seconds of things that follow one another."""
        if self.device.type == "cuda":
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(len(parts) + 1)]
            marks[0].record()
            for part, mark in zip(parts, marks[1:], strict=True):
                part()
                mark.record()
            torch.cuda.synchronize(self.device)
            return [one.elapsed_time(two) / 1e3 for one, two in itertools.pairwise(marks)]
        times = [self._now()]
        for part in parts:
            part()
            times.append(self._now())
        return [after - before for before, after in itertools.pairwise(times)]


def _parts(network: Any, pixels: Tensor) -> list[Callable[[], Any]]:
    """What a network does to pictures, step by step; each goes on from the one before."""
    body, tokens = network.nvit, [pixels]

    def then(work: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def go() -> None:
            tokens[0] = work(tokens[0])

        return go

    def classify(states: Tensor) -> Tensor:
        normed = body.final_norm(states)
        heads = [one for one in (network.classifier, network.distillation_classifier) if one]
        return torch.stack([head(normed[:, place]) for place, head in enumerate(heads)])

    halves = [
        part for layer in body.layers
        for part in (then(lambda states, own=layer: own.attend(states)[0]), then(layer.transform))
    ]  # fmt: skip
    return [then(body.embeddings), *halves, then(classify)]


def network_of(config: NViTConfig, shape: NViTShape) -> NViTForImageClassification:
    """A network of a shape, to be timed, with fresh weights.

    Args:
        config: Says all that is no width.
        shape: Its widths. Norms average over the width of the original, as those of a pruned
            network do.
    """
    norm_width = config.layer_norm_width or config.hidden_size
    fields = {
        **config.to_dict(), **shape.fields(), "num_hidden_layers": shape.num_blocks,
        "attention_scale": 1.0, "layer_norm_width": max(norm_width, shape.hidden_size),
    }  # fmt: skip
    return NViTForImageClassification(NViTConfig.from_dict(fields))
