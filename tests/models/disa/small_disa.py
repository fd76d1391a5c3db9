"""A small CLIP with prompts, and pictures for it."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from salhub.models.disa.modeling_disa import DiSaForImageClassification
from tests import small_clip

NAMES = ["cat", "dog", "sea bird", "house"]


@cache
def base_folder() -> Path:
    """A folder with a small CLIP, its tokenizer and its image processor."""
    return small_clip.save(Path(mkdtemp(prefix="small-clip-")) / "clip")


def small_model(preset: str = "disa", *, seed: int = 0, **settings: Any) -> Any:
    """Fresh prompts on it, moved away from where they start, as training would."""
    settings = {"class_names": NAMES, "lambda_dir": 1.0, **settings}
    if preset != "disa":
        settings.pop("lambda_dir")
    torch.manual_seed(seed)
    model = DiSaForImageClassification.from_base(base_folder(), preset, **settings)
    with torch.no_grad():
        for prompts in (model.text_prompts, model.vision_prompts):
            if prompts is not None:
                prompts += 0.3 * torch.randn_like(prompts)
    return model.eval()


def pixels(count: int = 4, size: tuple[int, int] = (16, 16), seed: int = 0) -> torch.Tensor:
    """Pictures as the processor makes them, (count, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *size, generator=generator)


def with_prototypes(model: Any) -> Any:
    """The model, with random prototypes of its classes."""
    generator = torch.Generator().manual_seed(5)
    found = torch.randn(len(model.config.class_names), 16, generator=generator)
    model.set_prototypes(torch.nn.functional.normalize(found, dim=-1))
    return model
