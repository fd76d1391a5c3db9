"""A vision transformer of uneven blocks whose weights all say something, and pictures for it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from salhub.models.nvit.configuration_nvit import NViTConfig
from salhub.models.nvit.latency_table import PARTS, LatencyTable
from salhub.models.nvit.latency_timing import device_name
from salhub.models.nvit.modeling_nvit import NViTForImageClassification

UNEVEN: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": [2, 3, 4],
    "qk_head_dim": [5, 6, 4],
    "v_head_dim": [6, 4, 4],
    "intermediate_size": [32, 20, 24],
    "image_size": 16,
    "patch_size": 4,
    "distilled": True,
    "num_labels": 5,
}


def network(dtype: torch.dtype = torch.float32, **settings: Any) -> NViTForImageClassification:
    torch.manual_seed(0)
    model = NViTForImageClassification(NViTConfig(**{**UNEVEN, **settings}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.to(dtype).eval()


def pictures(count: int = 4, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(count, 3, 16, 16, generator=generator, dtype=torch.float64)
    return pixels.to(dtype), torch.arange(count) % 5


def even_table(config: NViTConfig, tokens: int | None = None) -> LatencyTable:
    """A table of a machine whose time is the number of multiplications, plus a little."""
    grid = {
        "embedding": np.array([4.0, config.hidden_size]),
        "head": np.array([1.0, max(config.num_attention_heads)]),
        "qk": np.array([1.0, max(config.qk_head_dim)]),
        "v": np.array([1.0, max(config.v_head_dim)]),
        "mlp": np.array([1.0, max(config.intermediate_size)]),
    }
    width, head, qk, v = np.meshgrid(*(grid[name] for name in PARTS["attention"]), indexing="ij")
    wide, neurons = np.meshgrid(grid["embedding"], grid["mlp"], indexing="ij")
    seconds = {
        "attention": 1e-6 * (width * head * (2 * qk + 2 * v) + 10),
        "mlp": 1e-6 * (2 * wide * neurons + 10),
        "rest": 1e-6 * grid["embedding"],
    }
    grids = {part: {n: grid[n].tolist() for n in axes} for part, axes in PARTS.items()}
    return LatencyTable(
        grids, seconds, 4, tokens or config.num_tokens, device_name(torch.device("cpu")), "float32",
        torch.get_num_threads(), torch.__version__,
    )  # fmt: skip
