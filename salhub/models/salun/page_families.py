"""What pages of unlearned models are made of: their frame, and the family of a model."""

import threading
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import gradio as gr
import torch
from PIL import Image

from salhub.backbones.conditional_unet.sampling import sheet_of
from salhub.hub import resolve
from salhub.models.salun.unlearning_report import UnlearningReport
from salhub.pipelines import pipeline
from salhub.results import Results, read_results
from salhub.ui.markup import header

ORIGINAL = "-original"
PAPER = ("Paper", "https://arxiv.org/abs/2310.12508")
# Seconds between looks for old files, and seconds that they are kept.
_KEEP = (60 * 60, 2 * 60 * 60)
# Of a sheet that is drawn while a visitor waits.
_COLUMNS, _STEPS = 4, 12
_FORGET = "forget/"


class UnlearningPage:
    """A page with a head; what is below it differs.

    Attributes:
        title: In the head and on the tab of the browser.
        sentence: What the page is for.
    """

    title: ClassVar[str]
    sentence: ClassVar[str]

    def __init__(self) -> None:
        # One request runs a model at a time.
        self.lock = threading.Lock()

    def build(self) -> gr.Blocks:
        """Build the page, with something on it before the first click."""
        with gr.Blocks(title=self.title, analytics_enabled=False, delete_cache=_KEEP) as blocks:
            gr.HTML(header(self.title, self.sentence, [PAPER]))
            self.add_content()
        return blocks

    def add_content(self) -> None:
        """Add what is below the head; the page is open for it."""


class ClassifierFamily:
    """An unlearned classifier, the original, and what was measured of both.

    Args:
        name: The unlearned one, a shipped model.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.results: Results = read_results(name)
        self.values = {metric.name: metric.value for metric in self.results.metrics}

    @cached_property
    def after(self) -> Any:
        """The pipeline of the unlearned model."""
        return pipeline(self.name)

    @cached_property
    def before(self) -> Any:
        """The pipeline of the original."""
        return pipeline(self.name + ORIGINAL)

    @property
    def class_names(self) -> list[str]:
        """The classes, in order."""
        return list(self.after.model.config.id2label.values())

    @property
    def forgotten(self) -> str:
        """The class that the shipped model has forgotten."""
        return str(self.after.model.config.forget).removeprefix("class:")

    def accuracies(self, forgotten: str) -> list[tuple[str, float, float]]:
        """Class, and the share of its test pictures that are recognised before and after."""
        return [
            (
                name,
                self.values[f"original/accuracy/{name}"],
                self.values[f"{_FORGET}{forgotten}/accuracy/{name}"],
            )
            for name in self.class_names
        ]

    def densities(self, forgotten: str) -> list[tuple[str, float]]:
        """Part of the network, and the share of its weights that could move."""
        start = f"{_FORGET}{forgotten}/density/"
        return [
            (name.removeprefix(start), value)
            for name, value in self.values.items()
            if name.startswith(start)
        ]

    def report(self, whose: str = "") -> UnlearningReport:
        """UA, RA, TA and MIA of "" (the shipped model), "original" or "retrained"."""
        prefix = f"{whose}/" if whose else ""
        numbers = [self.values[f"{prefix}{name}"] for name in ("UA", "RA", "TA")]
        return UnlearningReport(*numbers, membership={"confidence": self.values[f"{prefix}MIA"]})


class DiffusionFamily:
    """An unlearned diffusion model and the original.

    Args:
        name: The unlearned one, a shipped model.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.models = {"before": pipeline(name + ORIGINAL).model, "after": pipeline(name).model}

    @property
    def forgotten(self) -> str:
        """The class that the unlearned model has forgotten."""
        return str(self.models["after"].config.forget).removeprefix("class:")

    def stored_sheets(self) -> list[Image.Image]:
        """The sheets that were drawn when the model was unlearned, before and after."""
        folder = Path(resolve(self.name).config_folder)
        return [Image.open(folder / name) for name in ("samples_before.png", "samples.png")]

    def stored_sheets_code(self) -> str:
        """A program that draws the pictures of the stored sheets."""
        return self._code('draw("all", num_images=8, num_steps=25, seed=0).save(f"{name[7:]}.png")')

    def sheets(self, seed: int) -> list[Image.Image]:
        """Pictures of every class by the original and by the unlearned model, from the same noise.

        Args:
            seed: Of the noise.
        """
        found = []
        for model in self.models.values():
            # All together and in few steps, so that nobody waits.
            pictures = model.generate(
                torch.arange(10).repeat_interleave(_COLUMNS),
                num_steps=_STEPS,
                generator=torch.Generator().manual_seed(seed),
            )
            found.append(sheet_of(pictures, _COLUMNS, scale=3))
        return found

    def sheets_code(self, seed: int) -> str:
        """A program that draws the pictures of `sheets`."""
        lines = (
            f"classes = torch.arange(10).repeat_interleave({_COLUMNS})",
            f"generator = torch.Generator().manual_seed({seed})",
            f"pictures = draw.model.generate(classes, num_steps={_STEPS}, generator=generator)",
        )
        return "import torch\n" + self._code("\n    ".join(lines))

    def _code(self, drawing: str) -> str:
        return (
            "import salhub\n\n"
            f'for name in ("{self.name}{ORIGINAL}", "{self.name}"):\n'
            f"    draw = salhub.pipeline(name)\n    {drawing}"
        )
