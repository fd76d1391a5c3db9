"""A vision transformer of uneven blocks whose weights all say something, and pictures for it."""

from typing import Any

import torch
from torch import Tensor

from salhub.models.nvit.configuration_nvit import NViTConfig
from salhub.models.nvit.latency_table import LatencyTable
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


def even_table(config: NViTConfig) -> LatencyTable:
    """A table of a machine whose time is the number of multiplications, plus a little."""
    costs = {
        "attention": lambda width, head, qk, v: 1e-6 * (width * head * (2 * qk + 2 * v) + 10),
        "mlp": lambda width, neurons: 1e-6 * (2 * width * neurons + 10),
        "rest": lambda width: 1e-6 * width,
    }
    device = device_name(torch.device("cpu"))
    return LatencyTable.computed(config, costs, device=device, batch_size=4)
