"""The page of the active contour: draw where it starts, and watch it move."""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

from salhub.errors import check_choice
from salhub.models.active_contour.result_active_contour import ImageSegmentationResult
from salhub.models.active_contour.stage import Marks, stage, stage_pane
from salhub.ui.controls import Dropdown, UploadedPicture, sent_number, slider
from salhub.ui.page import Contents, State, Tab
from salhub.ui.panes import (
    Fact,
    facts,
    file_stem,
    notes,
    picture_pane,
    pipeline_program,
    python,
    sentence,
)
from salhub.ui.picture_page import PicturePage, Query
from salhub.viz.text import percentage

DRAWN = "drawn"
_STARTS = {
    "Salient parts": "saliency",
    "Middle box": "box",
    "Small disk": "disk",
    "Whole picture": "full",
    "Checkerboard": "checkerboard",
    "Corner box": "corner_box",
    "Drawn": DRAWN,
}
_SALIENCY = {
    "Unlike border": "border",
    "Contrast": "ft",
    "Spectrum": "sr",
    "A network": "salhub/normgrad-efficientnet-lite0",
}
_PRESETS = {
    "tuned": "Saliency-driven, tuned",
    "plain": "Saliency-driven, as in the abstract",
    "lif": "LIF, no saliency",
    "chan_vese": "Chan-Vese, no saliency",
}
# Of the other models, some of which creep for many hundred steps.
_MOST_STEPS = 100
_SETTINGS = ("alpha", "beta", "sigma", "max_iterations", "saliency", "invert")
_FINISHING = {"min_area": 0, "fill_holes": False}
_HINT = (
    "Draw a box on the picture with the mouse, or click points in it: the line starts there. "
    "It may move beyond the start: crop the picture to search only a part of it."
)
_FILES = {
    "mask": ("Mask (.png)", ".png"),
    "labels": ("Labels (.png)", ".png"),
    "geojson": ("Polygons (.geojson)", ".geojson"),
    "coco": ("Polygons (.coco.json)", ".coco.json"),
    "arrays": ("Arrays (.npz)", ".npz"),
    "gif": ("Film (.gif)", ".gif"),
}


class ContourTab(Tab):
    """The picture with the contour moving on it; a start is drawn there too."""

    title = "Contour"
    pickable = ("stage",)

    def panes(self) -> dict[str, Component]:
        """Build the stage and what is said of it."""
        panes = {"notes": gr.HTML(visible=False), "stage": stage_pane()}
        gr.HTML(sentence(_HINT))
        return {**panes, "reading": gr.HTML(), "facts": gr.HTML()}

    def picked(self, pick: str, state: State) -> State:
        """Start where something was drawn."""
        return {"start": DRAWN, "marks": Marks.read(pick).write()}

    def contents(self, query: Query) -> Contents:
        """Segment the picture."""
        result, seconds = self.page.timed_result(query)
        size = f"{result.image.width} x {result.image.height} pixels"
        numbers = [
            Fact(percentage(result.share), "Foreground", f"of {size}"),
            Fact(str(len(result.regions)), "Pieces", "connected regions of the mask"),
            Fact(str(result.iterations), "Iterations", f"stopped: {result.reason}"),
            Fact(f"{1000 * seconds:.0f} ms", "Time", "from picture to mask"),
        ]
        return {
            "notes": notes(result.notes),
            "stage": {"value": stage(result, self.page.marks(query))},
            "reading": {"value": sentence(result.reading())},
            "facts": {"value": facts(numbers)},
        }


class MapsTab(Tab):
    """What drove the contour, what came of it, and the course of the energy."""

    title = "Maps and energy"

    def panes(self) -> dict[str, Component]:
        """Build the pictures."""
        with gr.Row(elem_classes="salhub-panes"):
            panes = {"map": picture_pane("Saliency map"), "pieces": picture_pane("Pieces")}
        return {
            **panes,
            "energy": picture_pane("Energy", show_label=False),
            "energy_note": gr.HTML(),
        }

    def contents(self, query: Query) -> Contents:
        """Draw the maps of the answer."""
        result, _ = self.page.timed_result(query)
        return {
            "map": {"value": result.saliency_picture(), "alt_text": "The saliency map"},
            "pieces": {
                "value": result.label_picture().convert("RGB"),
                "alt_text": "Each piece in its own colour",
            },
            "energy": {"value": result.energy_plot(), "alt_text": "Energy at every check"},
            "energy_note": {"value": sentence(_energy_words(result))},
        }


class ModelsTab(Tab):
    """The same picture and start under the models that this one is built on."""

    title = "Other contours"

    def panes(self) -> dict[str, Component]:
        """Build a picture for each, and what is said of it."""
        panes: dict[str, Component] = {}
        with gr.Row(elem_classes="salhub-four"):
            for name, title in _PRESETS.items():
                with gr.Column(min_width=120):
                    panes[name] = picture_pane(title, show_label=False)
                    panes[f"{name}_note"] = gr.HTML()
        gr.HTML(
            sentence(
                f"Same picture and start, at most {_MOST_STEPS} steps each. The last two "
                "methods do not use saliency, but the more salient side is called "
                "foreground."
            )
        )
        return panes

    def contents(self, query: Query) -> Contents:
        """Segment the picture by every model."""
        found: Contents = {}
        for name, title in _PRESETS.items():
            result, seconds = self.page.timed_result(query, name)
            share = f"{percentage(result.share)} foreground, {1000 * seconds:.0f} ms"
            found[name] = {"value": result.overlay(), "alt_text": f"The contour by {title}"}
            found[f"{name}_note"] = {"value": sentence(f"{title}: {share}")}
        return found

    def code(self, query: Query) -> str:
        """Return the program that compares them."""
        return self.page.comparison_code(query)


class FilesTab(Tab):
    """The answer as files, the film among them."""

    title = "Files"

    def panes(self) -> dict[str, Component]:
        """Build the buttons and the film."""
        panes, files = {}, list(_FILES.items())
        for first in range(0, len(files), 2):
            with gr.Row(elem_classes="salhub-buttons"):
                for name, (label, _) in files[first : first + 2]:
                    panes[name] = gr.DownloadButton(label, size="md")
        panes["film"] = gr.Image(
            label="Film",
            interactive=False,
            format="gif",
            buttons=["fullscreen"],
            elem_classes="salhub-pane",
            alt_text="Animation of the contour",
        )
        return {"film": panes.pop("film"), **panes}

    def contents(self, query: Query) -> Contents:
        """Write the files."""
        result, _ = self.page.timed_result(query)
        stem = file_stem(query.picture_name, "contour")
        written = {
            name: _written(result, f"{stem}{suffix}", "labels" if name == "labels" else "mask")
            for name, (_, suffix) in _FILES.items()
        }
        film = {"film": {"value": written["gif"]}}
        return {**film, **{name: {"value": path} for name, path in written.items()}}


class Page(PicturePage):
    """A picture, and a contour that parts what stands out from the rest."""

    title = "Active contour"
    sentence = (
        "Find the outline of what stands out in your picture: mark where to start, and watch "
        "the line move. Nothing was learned from examples."
    )
    picture_use = "The picture to segment"
    first_sample = "cells"
    samples = ("cells", "coffee", "rocket", "cat")
    tabs = (ContourTab, MapsTab, ModelsTab, FilesTab)
    endpoints = {
        "contour": (
            partial(gr.Image, label="Mask", type="filepath", format="png"),
            partial(gr.File, label="Polygons"),
            partial(gr.JSON, label="Facts"),
        )
    }

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._last: dict[str, tuple[tuple, ImageSegmentationResult, float]] = {}

    def main_controls(self) -> dict[str, Component]:
        """Build start, saliency, its weight, and the window of the local energy."""
        config = self.pipeline.model.config
        saliency = list(_SALIENCY.items())
        if config.saliency not in _SALIENCY.values():
            saliency.append((config.saliency, config.saliency))
        return {
            "start": Dropdown(list(_STARTS.items()), value=config.init, label="Start"),
            "saliency": Dropdown(saliency, value=config.saliency, label="Saliency"),
            "alpha": slider(0, 1, config.alpha, step=0.05, label="Weight of the saliency (alpha)"),
            "sigma": slider(1, 16, config.sigma, step=0.5, label="Window of the edges (sigma)"),
        }

    def setting_controls(self) -> dict[str, Component]:
        """Build the drawn start, the other weight, and what is done to the mask."""
        config = self.pipeline.model.config
        longest = max(300, config.max_iterations)
        return {
            "marks": gr.Textbox(
                "",
                label="Drawn start",
                info="box LEFT TOP RIGHT BOTTOM, or points X Y, X Y; press Enter",
                max_length=400,
            ),
            "beta": slider(0, 2, config.beta, step=0.05, label="Weight of the edges (beta)"),
            "max_iterations": slider(
                10, longest, config.max_iterations, step=10, label="Maximum number of iterations"
            ),
            "min_area": slider(0, 500, 0, step=10, label="Smallest piece (pixels)"),
            "fill_holes": gr.Checkbox(False, label="Fill holes"),
            "invert": gr.Checkbox(
                config.invert, label="Invert: the less salient side is the foreground"
            ),
        }

    def consequences(self, state: State, moved: list[str]) -> State:
        """Marks that were written by hand are a start; those of another picture are none."""
        if "picture" in moved and state["marks"]:
            shipped = self.pipeline.model.config.init
            return {"marks": "", "start": shipped if state["start"] == DRAWN else state["start"]}
        if "marks" in moved and state["marks"].strip():
            return {"start": DRAWN}
        return {}

    def marks(self, query: Query) -> Marks:
        """Return the drawn start of a query; none where another start was chosen.

        Raises:
            ValueError: It is to start where something was drawn, and nothing was.
        """
        if query.text("start") != DRAWN:
            return Marks()
        marks = Marks.read(query.text("marks"))
        if not marks.settings():
            raise ValueError("Nothing is drawn yet; drag a box on the picture, or click in it.")
        return marks

    def call_settings(self, query: Query, preset: str = "") -> dict[str, Any]:
        """Return what a query changes, or asks of a preset, as keywords of a call."""
        shipped, asked = self.pipeline.model.config, query.settings
        others = {"preset": preset, "max_iterations": _MOST_STEPS}
        found: dict[str, Any] = others if preset else {}
        values = {name: asked[name] for name in _SETTINGS if asked.get(name) not in (None, "")}
        for name in ("alpha", "beta", "sigma", "max_iterations"):
            if name in values:
                values[name] = sent_number(name, values[name])
        if not preset:
            found |= {k: value for k, value in values.items() if value != getattr(shipped, k)}
        start = query.text("start") or shipped.init
        if start not in (DRAWN, shipped.init) or (preset and start != DRAWN):
            found["init"] = start
        found |= self.marks(query).settings()
        finishing = {name: asked.get(name) for name in _FINISHING}
        if finishing["min_area"]:
            finishing["min_area"] = sent_number("min_area", finishing["min_area"])
        return found | {
            name: value
            for name, value in finishing.items()
            if value is not None and value != _FINISHING[name]
        }

    def timed_result(self, query: Query, preset: str = "") -> tuple[ImageSegmentationResult, float]:
        """Segment the picture of a query by its settings, or by those of a preset.

        The last answer of each is kept.

        Returns:
            The result, and the seconds it took.
        """
        settings = self.call_settings(query, preset)
        key = (query.fingerprint, repr(sorted(settings.items())))
        with self.lock:
            # Of other pictures and settings nothing is kept, as results are large.
            if preset not in self._last or self._last[preset][0] != key:
                begun = time.perf_counter()
                result = self.pipeline(query.image, **settings)
                self._last[preset] = (key, result, time.perf_counter() - begun)
            return self._last[preset][1:]

    def code(self, query: Query) -> str:
        """Return the program that makes the contour in sight."""
        last = [
            "print(result.summary())",
            'result.save("mask.png", view="mask")',
            'result.save("contours.geojson")',
            'result.save("film.gif")',
        ]
        call = self.call_settings(query)
        return pipeline_program("segment", self.name, python(query.source), last, call=call)

    def comparison_code(self, query: Query) -> str:
        """Return the program that makes the contours of all models."""
        call = self.call_settings(query, "lif")
        call.pop("preset")
        given = "".join(f", {name}={python(value)}" for name, value in call.items())
        return "\n".join(
            [
                "import salhub",
                "",
                f"segment = salhub.pipeline({python(self.name)})",
                f"for preset in {python(list(_PRESETS))}:",
                f"    result = segment({python(query.source)}, preset=preset{given})",
                '    result.save(f"{preset}.png", view="overlay")',
            ]
        )

    def contour(
        self,
        picture: UploadedPicture | None,
        start: str = "",
        saliency: str = "",
        min_area: float = 0,
        fill_holes: bool = False,
    ) -> tuple[str, str, dict[str, Any]]:
        """Part the foreground of a picture from its background.

        Args:
            picture: Any picture: a file, or the address of one.
            start: Where the contour starts: "box LEFT TOP RIGHT BOTTOM", "points X Y, X Y", or
                such as "disk" or "checkerboard"; empty for what is salient.
            saliency: "border", "ft", "sr", or the name of a hub model; empty for the page's own.
            min_area: Pixels below which a piece is dropped.
            fill_holes: Whether holes are filled.

        Returns:
            The mask as PNG, the polygons as GeoJSON, and what was found.
        """
        # Another name would have the server load whatever it is the name of.
        check_choice("saliency", saliency or "border", tuple(_SALIENCY.values()))
        text = (start or "").strip()
        is_drawn = text[:3] in ("box", "poi") and len(text.split()) > 1
        given = {"start": DRAWN, "marks": text} if is_drawn else {"start": text, "marks": ""}
        given |= {"saliency": saliency, "min_area": min_area, "fill_holes": fill_holes}
        result, _ = self.timed_result(Query.of_upload(picture, settings=given))
        stem = file_stem("contour")
        mask, polygons = (_written(result, f"{stem}{one}") for one in (".png", ".geojson"))
        return mask, polygons, result.to_dict()


def _written(result: ImageSegmentationResult, name: str, view: str = "mask") -> str:
    """Write a file of a result where visitors may have it, and return its path."""
    with tempfile.TemporaryDirectory() as folder:
        content = result.save(Path(folder, name), view=view).read_bytes()
    return save_bytes_to_cache(content, name, get_upload_folder())


def _energy_words(result: ImageSegmentationResult) -> str:
    if len(result.energy) < 2:
        return "The energy was only computed once, so there is no curve."
    return (
        "The contour stops where the energy no longer changes. The energy may rise, because "
        "forces are divided by the local contrast and weights change; its absolute value "
        "has no meaning."
    )
