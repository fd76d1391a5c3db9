"""Timing of parts and wholes of vision transformers."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from salhub.errors import check_choice
from salhub.models.nvit.configuration_nvit import NViTConfig
from salhub.models.nvit.modeling_nvit import NViTEmbeddings, NViTLayer, NViTLayerNorm
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
    """Median seconds of something, in evaluation."""

    def __init__(self, device: torch.device, repeats: int, warmup: int, clock: str) -> None:
        check_choice("clock", clock, ("wall", "cpu"))
        if clock == "cpu" and (device.type != "cpu" or torch.get_num_threads() > 1):
            raise ValueError(
                f"clock='cpu' counts the seconds of one thread of the CPU, got {device.type} and "
                f"{torch.get_num_threads()} threads; call torch.set_num_threads(1), or leave it."
            )
        self.device, self.repeats, self.warmup = device, repeats, warmup
        self._now = time.perf_counter if clock == "wall" else time.process_time

    @torch.inference_mode()
    def seconds(self, work: Callable[[], Any]) -> float:
        """Of some work."""
        for _ in range(self.warmup):
            work()
        times = []
        for _ in range(self.repeats):
            self._wait()
            began = self._now()
            work()
            self._wait()
            times.append(self._now() - began)
        return float(np.median(times))

    def seconds_of(self, network: nn.Module, batch_size: int, dtype: torch.dtype) -> float:
        """Of a whole network on a batch."""
        network = network.to(self.device, dtype).eval()
        config: Any = network.config
        pixels = torch.randn(
            batch_size, config.num_channels, config.image_size, config.image_size,
            device=self.device, dtype=dtype,
        )  # fmt: skip
        return self.seconds(lambda: network(pixels))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class PartTimer:
    """Builds a part of some widths, and times it."""

    def __init__(
        self, config: NViTConfig, device: torch.device, batch: int, dtype: torch.dtype,
        clock: Clock,
    ) -> None:  # fmt: skip
        self.config, self.device, self.batch, self.dtype = config, device, batch, dtype
        self.clock = clock

    def seconds(self, part: str, widths: dict[str, int]) -> float:
        """Of the part "attention", "mlp" or "rest" with these widths."""
        shape = NViTShape(
            widths["embedding"], *((widths[name],) for name in ("head", "qk", "v", "mlp"))
        )
        fields = {
            **self.config.to_dict(), **shape.fields(), "num_hidden_layers": 1,
            "attention_scale": 1.0,
        }  # fmt: skip
        # Norms over the original width, as a pruned network has them.
        fields["layer_norm_width"] = self.config.layer_norm_width or self.config.hidden_size
        if fields["layer_norm_width"] <= shape.hidden_size:
            fields["layer_norm_width"] = None
        config = NViTConfig.from_dict(fields)
        tokens = torch.randn(
            self.batch, config.num_tokens, shape.hidden_size, device=self.device, dtype=self.dtype
        )
        if part == "rest":
            return self._rest(config, tokens)
        layer = NViTLayer(config, 0).to(self.device, self.dtype).eval()
        work = layer.attend if part == "attention" else layer.transform
        return self.clock.seconds(lambda: work(tokens))

    def _rest(self, config: NViTConfig, tokens: torch.Tensor) -> float:
        embeddings, norm = NViTEmbeddings(config), NViTLayerNorm(config)
        head = nn.Linear(config.hidden_size, config.num_classifiers * config.num_labels)
        for module in (embeddings, norm, head):
            module.to(self.device, self.dtype).eval()
        pixels = torch.randn(
            self.batch, config.num_channels, config.image_size, config.image_size,
            device=self.device, dtype=self.dtype,
        )  # fmt: skip

        def work() -> None:
            embeddings(pixels)
            head(norm(tokens)[:, 0])

        return self.clock.seconds(work)
