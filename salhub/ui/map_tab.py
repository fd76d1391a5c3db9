"""The map over the photo, what it means, and the files to take home."""

from dataclasses import replace
from typing import ClassVar

import gradio as gr
from gradio.components import Component
from PIL import Image

from salhub.pipelines.image_saliency_result import ImageSaliencyResult
from salhub.ui.downloads import array_file, file_stem, picture_file
from salhub.ui.markup import Fact, facts, legend, sentence
from salhub.ui.query import Contents, Query
from salhub.ui.tab import Tab, picture_pane
from salhub.viz import ColorBar, overlay, paint
from salhub.viz.overlay import is_signed


class MapTab(Tab):
    """The map of the chosen class, over the photo and alone."""

    title = "Map"
    # Name and label of each picture, and how they are laid out.
    pictures: ClassVar[tuple[tuple[str, str], ...]] = (
        ("overlay", "Map over the photo"),
        ("map", "Map alone"),
    )
    layout: ClassVar[str] = "salhub-panes"

    def panes(self, contents: Contents) -> dict[str, Component]:
        """Build the pictures, the legend, the facts and the downloads."""
        with gr.Row(elem_classes=self.layout):
            for name, label in self.pictures:
                self.components[name] = picture_pane(label, contents.get(name, {}))
        for name in ("legend", "reading", "facts"):
            self.components[name] = gr.HTML(**contents.get(name, {}))
        with gr.Row(elem_classes="salhub-buttons"):
            for name, label in (("png", "Save figure (.png)"), ("npy", "Save map (.npy)")):
                self.components[name] = gr.DownloadButton(
                    label, **contents.get(name, {}), size="md"
                )
        return self.components

    def contents(self, query: Query) -> Contents:
        """Explain the chosen class."""
        result, seconds = self.page.timed_explain(query)
        return self.show(query, result, [duration(seconds, self.page)])

    def show(self, query: Query, result: ImageSaliencyResult, numbers: list[Fact]) -> Contents:
        """Return the contents for a result.

        Args:
            query: What was asked.
            result: The answer.
            numbers: Facts for below the map.
        """
        stem = file_stem(query.picture_name, self.page.method.name, result.label)
        return {
            **map_pictures(result, query),
            "reading": {"value": sentence(result.summary())},
            "facts": {"value": facts(numbers)},
            "png": {"value": picture_file(result.plot(), stem)},
            "npy": {"value": array_file(result.saliency, stem)},
        }


def map_pictures(result: ImageSaliencyResult, query: Query) -> Contents:
    """Return a map over its photo, alone, and its legend, in the colours asked for."""
    colors = query.text("colors") or None
    seen = result.viewed_box
    over = overlay(result.image, result.saliency, query.settings["opacity"], colors, seen)
    about = f"the map for {result.label}"
    return {
        "overlay": {"value": over, "alt_text": f"The photo with {about} laid over it"},
        "map": {"value": paint(result.saliency, colors, seen), "alt_text": f"Alone, {about}"},
        "legend": {"value": legend(color_bar(result, colors))},
    }


def seen_part(picture: Image.Image, result: ImageSaliencyResult) -> Image.Image:
    """Return the part of a picture that the network saw, for panes with little room."""
    return picture.crop(tuple(round(edge) for edge in result.viewed_box))


def color_bar(result: ImageSaliencyResult, colors: str | None) -> ColorBar:
    """Return the legend of a result."""
    bar = ColorBar.for_map(is_signed(result.saliency))
    return bar if colors is None else replace(bar, colormap=colors)


def duration(seconds: float, page: object) -> Fact:
    """Return how long the model ran."""
    device = page.pipeline.device.type.upper()
    value = f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
    return Fact(value, "Time", f"to explain this picture, on the {device}")
