"""The page of unlearned diffusion models: the same noise before and after a class was forgotten."""

from pathlib import Path
from typing import Any

import gradio as gr
import torch
from gradio.components import Component
from PIL import Image

from salhub.backbones.conditional_unet.sampling import sheet_of
from salhub.hub import bundled_model, canonical_name, resolve
from salhub.pipelines import pipeline
from salhub.pipelines.base import whole_number
from salhub.ui.controls import sent_number, slider
from salhub.ui.page import Contents, State, Tab
from salhub.ui.page import Page as Frame
from salhub.ui.panes import python, sentence

ORIGINAL = "-original"
_RETRAINED = "-retrained"
_LARGEST_SEED = 9999
# Of a sheet that is drawn while a visitor waits.
_COLUMNS, _STEPS = 4, 12
# Drawn when the model was unlearned.
_STORED = ("samples_before.png", "samples.png")


class DiffusionFamily:
    """A diffusion model beside the original that it was made of, where there is one.

    Args:
        name: The model.
    """

    def __init__(self, name: str) -> None:
        self.name = canonical_name(name)
        original = self.name.removesuffix(_RETRAINED).removesuffix(ORIGINAL) + ORIGINAL
        # Of a model of somebody's own there need not be one.
        is_here = bundled_model(original) is not None or Path(original).is_dir()
        self.names = list(dict.fromkeys([*([original] if is_here else []), self.name]))
        self.models = [pipeline(one).model for one in self.names]

    @property
    def forgotten(self) -> str:
        """The class that the model has forgotten, or "" for an original."""
        return str(self.models[-1].config.forget or "").removeprefix("class:")

    def stored_sheets(self) -> list[Image.Image]:
        """The sheets that were drawn when the model was unlearned, before and after; or none."""
        folder = Path(resolve(self.name).config_folder)
        paths = [folder / name for name in _STORED]
        return [Image.open(path) for path in paths] if all(map(Path.is_file, paths)) else []

    def stored_sheets_code(self) -> str:
        """A program that draws the pictures of the stored sheets."""
        return self._code('draw("all", num_images=8, num_steps=25, seed=0).save(f"{name[7:]}.png")')

    def sheets(self, seed: int) -> list[Image.Image]:
        """Pictures of every class by each of the models, from the same noise.

        Args:
            seed: Of the noise.
        """
        found = []
        for model in self.models:
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
            f"import salhub\n\nfor name in {python(self.names)}:\n"
            f"    draw = salhub.pipeline(name)\n    {drawing}"
        )


class DigitsTab(Tab):
    """Sheets of digits before and after a class was forgotten, and a button that draws others."""

    title = "Digits"

    def controls(self) -> dict[str, Component]:
        """Build the seed and the button."""
        seed = slider(0, _LARGEST_SEED, 0, step=1, label="Seed of the noise")
        return {"seed": seed, "draw_others": gr.Button("Draw others", variant="primary")}

    def picked(self, pick: str, state: State) -> State:
        """Draw from the next seed."""
        return {"seed": (_checked_seed(state["seed"]) + 1) % (_LARGEST_SEED + 1)}

    def panes(self) -> dict[str, Component]:
        """Build the sheets."""
        forgotten, names = self.page.digits.forgotten, self.page.digits.names
        titles = ("Before forgetting", "After forgetting") if len(names) > 1 else ("Digits",)
        text = "One row per digit, from 0 at the top to 9."
        if forgotten:
            text += (
                f" The second model forgot {forgotten}: its row should not show that digit, "
                "and all other rows should stay the same."
            )
        gr.HTML(sentence(text))
        with gr.Row(equal_height=False, elem_classes="salhub-pair"):
            return {f"sheet_{place}": _sheet(title) for place, title in enumerate(titles)}

    def contents(self, query: State) -> Contents:
        """Draw, or show what was drawn when the model was unlearned."""
        digits, seed = self.page.digits, _checked_seed(query["seed"])
        sheets = (digits.stored_sheets() if seed == 0 else None) or digits.sheets(seed)
        return {f"sheet_{place}": {"value": sheet} for place, sheet in enumerate(sheets)}

    def code(self, query: State) -> str:
        """Return the program that draws the sheets in sight."""
        digits, seed = self.page.digits, _checked_seed(query["seed"])
        is_stored = seed == 0 and digits.stored_sheets()
        return digits.stored_sheets_code() if is_stored else digits.sheets_code(seed)


class DrawingPage(Frame):
    """A page with digits on it; `digits` draws them."""

    digits: DiffusionFamily

    def draw(self, seed: float) -> tuple[Any, ...]:
        """Digits 0 to 9, a row each, by both models from the same noise.

        Args:
            seed: Of the noise, 0 to 9999.

        Returns:
            The sheet of the original, that of the unlearned model, and the code that draws them.
        """
        number = _checked_seed(seed)
        before, *_, after = [*self.digits.sheets(number), None][:2]
        return before, after, self.digits.sheets_code(number)


class Page(DrawingPage):
    """Digits of every class by the original and by the unlearned model."""

    title = "SalUn for diffusion"
    sentence = (
        "Compare the digits that a network draws before and after it was made to forget one of "
        "them."
    )
    tabs = (DigitsTab,)
    endpoints = {"draw": (gr.Image, gr.Image, gr.Code)}

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.digits = DiffusionFamily(self.name)


def _checked_seed(seed: Any) -> int:
    return whole_number("seed", sent_number("seed", seed), low=0, limit=_LARGEST_SEED + 1)


def _sheet(title: str) -> gr.Image:
    # Titles stand above: on a phone a label would lie over the first digits.
    with gr.Column(min_width=150):
        gr.HTML(sentence(title))
        return gr.Image(
            label=title,
            show_label=False,
            interactive=False,
            buttons=["download"],
            alt_text=f"{title}: one row of digits for each number from 0 to 9",
        )
