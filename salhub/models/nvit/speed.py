"""Seconds of a network beside another one, in turns."""

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@torch.inference_mode()
def times_in_turns(
    first: Any, second: Any, batch_size: int, rounds: int, *, warmup: int = 3
) -> NDArray[np.float64]:
    """Seconds of both in each round; whatever slows the machine down slows both.

    Args:
        first, second: Networks of one size of pictures, in evaluation mode.
        batch_size: Pictures of a batch; their content does not matter.
        rounds: Batches of each.
        warmup: Rounds before them that do not count.

    Returns:
        (rounds, 2).
    """
    config = first.config
    pixels = torch.randn(
        batch_size, config.num_channels, config.image_size, config.image_size,
        device=first.device, dtype=first.dtype,
    )  # fmt: skip
    times = np.zeros((rounds, 2))
    for number in range(-warmup, rounds):
        for place in (0, 1) if number % 2 else (1, 0):
            seconds = _seconds((first, second)[place], pixels)
            if number >= 0:
                times[number, place] = seconds
    return times


def _seconds(model: Any, pixels: torch.Tensor) -> float:
    is_cuda = pixels.device.type == "cuda"
    if is_cuda:
        torch.cuda.synchronize(pixels.device)
    began = time.perf_counter()
    model(pixels)
    if is_cuda:
        torch.cuda.synchronize(pixels.device)
    return time.perf_counter() - began
