"""What NormGrad's page shows: class sensitivity, the whole family at once, two classes."""

import time
from collections.abc import Mapping

import gradio as gr
import numpy as np
import torch
from gradio.components import Component
from PIL import Image

from salhub.metrics.class_sensitivity import class_sensitivity
from salhub.models.normgrad.extract_aggregate import AGGREGATES, EXTRACTS
from salhub.models.normgrad.methods import METHODS
from salhub.outputs import ImageSaliencyOutput
from salhub.pipelines.image_saliency_result import ImageSaliencyResult
from salhub.processing import viewed_box
from salhub.ui.map_tab import MapTab, duration, map_pictures, seen_part
from salhub.ui.markup import (
    PICK_ON_CLICK,
    Fact,
    PictureCell,
    facts,
    legend,
    picture_table,
    sentence,
)
from salhub.ui.query import Contents, Query
from salhub.ui.tab import Tab, picture_pane
from salhub.viz import DIVERGING, ColorBar, overlay

# Rows of the table over depth: those that mean something at every layer and need no other pass.
FAMILY = ("norm_grad", "norm_grad_selective", "gradient", "linear_approx", "hires_cam", "grad_cam")
_CELL_SIDE = 128


class SensitiveMapTab(MapTab):
    """The map, and how much of it depends on the class."""

    def contents(self, query: Query) -> Contents:
        """Explain the chosen class and the least likely one, which share a forward pass."""
        page = self.page
        other = page.classes.least_likely(query)
        outputs, seconds = page.timed_run(query, [query.class_label, other])
        result = page.result_of(query, outputs, 0)
        numbers = [sensitivity(outputs, page.class_name(other)), duration(seconds, page)]
        return self.show(query, result, numbers)


class FamilyTab(Tab):
    """Every method at every depth, from one forward and one backward pass."""

    title = "All methods"
    pickable = ("by_depth",)

    def panes(self, contents: Contents) -> dict[str, Component]:
        """Build the two tables."""
        for name in ("family_reading", "by_depth", "by_pair"):
            script = PICK_ON_CLICK if name in self.pickable else None
            self.components[name] = gr.HTML(js_on_load=script, **contents.get(name, {}))
        return self.components

    def picked(self, pick: str) -> dict[str, str]:
        """Return the method and the layer of a map that was pressed."""
        method, _, layer = pick.partition(" ")
        if method not in FAMILY or layer not in [stage.name for stage in self.page.stages]:
            return super().picked(pick)
        return {"method": method, "layer": layer}

    def contents(self, query: Query) -> Contents:
        """Run the family."""
        page = self.page
        pairs = [(extract, aggregate) for extract in EXTRACTS for aggregate in AGGREGATES]
        stages = [layer.name for layer in page.stages]
        pixels = page.pipeline.preprocess(query.image)["pixel_values"]
        with page.lock:
            start = time.perf_counter()
            found = page.model_for(query).forward_grid(
                pixels, [query.class_label], methods=[*FAMILY, *pairs], layers=stages
            )
            seconds = time.perf_counter() - start
        chosen = page.layers_for(query) or stages
        layer = chosen[-1] if chosen[-1] in stages else stages[-1]
        view = _small_view(query.image, page.pipeline.image_processor)
        return {
            "family_reading": {"value": sentence(_family_sentence(page, query, found, seconds))},
            "by_depth": {"value": self._by_depth(query, found, view)},
            "by_pair": {"value": self._by_pair(query, found, view, layer)},
        }

    def _by_depth(self, query: Query, found: Mapping, view: Image.Image) -> str:
        labels, stages = self.page.method_labels, self.page.stages
        chosen = query.settings["method"], tuple(self.page.layers_for(query) or ())
        rows = []
        for method in FAMILY:
            cells = [
                _cell(
                    view,
                    found[method, layer.name],
                    f"{labels[method]} at {layer.name}",
                    is_chosen=chosen == (method, (layer.name,)),
                    pick=f"{method} {layer.name}",
                )
                for layer in stages
            ]
            rows.append((labels[method], cells))
        columns = [f"{layer.name}\n{layer.shape[1]} x {layer.shape[2]}" for layer in stages]
        return picture_table(
            "Named methods, from a shallow layer to the deepest. Press a map to open it.",
            columns,
            rows,
        )

    def _by_pair(self, query: Query, found: Mapping, view: Image.Image, layer: str) -> str:
        names = {
            (method.extract, method.aggregate): self.page.method_labels[name]
            for name in ("linear_approx", "norm_grad", "norm_grad_selective", "gradient")
            for method in [METHODS[name]]
        }
        rows = []
        for extract in EXTRACTS:
            cells = [
                _cell(
                    view,
                    found[f"{extract}/{aggregate}", layer],
                    f"{extract}, {aggregate}",
                    note=names.get((extract, aggregate), ""),
                )
                for aggregate in AGGREGATES
            ]
            rows.append((extract, cells))
        return picture_table(
            f"The whole family at {layer}. Rows: what is read off a place (extract); columns: how "
            "it becomes one number (aggregate).",
            AGGREGATES,
            rows,
        )


class ClassesTab(Tab):
    """The maps of two classes and where they differ."""

    title = "Classes"

    def controls(self, query: Query) -> dict[str, Component]:
        """Build the picker of the other class."""
        choice = self.page.other_class_choices(query)
        return {"other_class": gr.Dropdown(**choice, label="Compare with the class")}

    def panes(self, contents: Contents) -> dict[str, Component]:
        """Build the three pictures, their legend and the numbers."""
        with gr.Row(elem_classes="salhub-panes salhub-trio"):
            for name, label in (
                ("first_class", "The class"),
                ("second_class", "The other class"),
                ("difference", "Difference"),
            ):
                self.components[name] = picture_pane(label, contents.get(name, {}))
        for name in ("difference_legend", "classes_reading", "classes_facts"):
            self.components[name] = gr.HTML(**contents.get(name, {}))
        return self.components

    def contents(self, query: Query) -> Contents:
        """Explain both classes from one forward pass."""
        page = self.page
        other = query.settings["other_class"]
        if other is None or other == query.class_label:
            other = next(one for _, one, _ in page.guesses(query) if one != query.class_label)
        outputs, seconds = page.timed_run(query, [query.class_label, other])
        first, second = (page.result_of(query, outputs, place) for place in (0, 1))
        numbers = [sensitivity(outputs, second.label), duration(seconds, page)]
        return {
            "first_class": _titled(first, query),
            "second_class": _titled(second, query),
            "difference": _difference(first, second, query),
            "difference_legend": {"value": legend(_difference_bar(first, second))},
            "classes_reading": {"value": sentence(_classes_sentence(first, second))},
            "classes_facts": {"value": facts(numbers)},
            "other_class": {"value": other},
        }


def sensitivity(outputs: ImageSaliencyOutput, other: str) -> Fact:
    """Return how alike the maps of the two classes of a run are."""
    first, second = outputs.saliency[:, 0], outputs.saliency[:, 1]
    rho = float(class_sensitivity(first, second).rho)
    if rho != rho:
        return Fact(
            "undefined", "Class sensitivity", f"the map of '{other}' or this one is constant"
        )
    meaning = f"rank correlation with the map of '{other}'; 1 means that the class does not matter"
    return Fact(f"{rho:.2f}", "Class sensitivity", meaning)


def _family_sentence(page, query: Query, found: Mapping, seconds: float) -> str:
    maps = len(found)
    name = page.class_name(query.class_label)
    step = query.settings.get("meta_step")
    after = f" after a meta step of {step:g}" if step else ""
    return (
        f"{maps} maps for '{name}'{after} from one forward and one backward pass, in "
        f"{seconds * 1000:.0f} ms. Bright places speak for the class; orange and blue ones for and "
        "against it."
    )


def _small_view(image: Image.Image, image_processor: object) -> Image.Image:
    """The part of the picture that the network saw, small."""
    box = viewed_box(image_processor, (image.height, image.width))
    seen = image.crop(tuple(round(edge) for edge in box))
    scale = _CELL_SIDE / max(seen.size)
    size = (max(1, round(seen.width * scale)), max(1, round(seen.height * scale)))
    return seen.resize(size, Image.Resampling.LANCZOS)


def _cell(
    view: Image.Image, output: ImageSaliencyOutput, text: str, **properties: object
) -> PictureCell:
    if bool(output.degenerate[0]):
        return PictureCell(None, "constant: says nothing here", **{**properties, "pick": ""})
    small = torch.nn.functional.interpolate(
        output.saliency[:, None], size=(view.height, view.width), mode="bilinear", antialias=True
    )
    return PictureCell(overlay(view, small[0, 0].numpy(), alpha=0.8), text, **properties)


def _titled(result: ImageSaliencyResult, query: Query) -> dict:
    pane = map_pictures(result, query)["overlay"]
    return {**pane, "value": seen_part(pane["value"], result), "label": result.label}


def _difference(first: ImageSaliencyResult, second: ImageSaliencyResult, query: Query) -> dict:
    values, seen = difference_of(first, second), first.viewed_box
    picture = overlay(first.image, values, query.settings["opacity"], viewed_box=seen)
    text = (
        f"Where {first.label} and {second.label} differ: orange for the first, blue for the other"
    )
    return {"value": seen_part(picture, first), "alt_text": text}


def difference_of(first: ImageSaliencyResult, second: ImageSaliencyResult) -> np.ndarray:
    """Subtract two maps, each as shares of its own whole.

    Returns:
        float32 (H, W), positive where the first class has the larger share.
    """
    return _as_share(first.saliency) - _as_share(second.saliency)


def _as_share(saliency: np.ndarray) -> np.ndarray:
    """A map on its own scale: each place's share of the whole."""
    total = float(np.abs(saliency).sum())
    return saliency / total if total else saliency


def _difference_bar(first: ImageSaliencyResult, second: ImageSaliencyResult) -> ColorBar:
    return ColorBar(DIVERGING, f"more for {second.label}", f"more for {first.label}", "equal")


def _classes_sentence(first: ImageSaliencyResult, second: ImageSaliencyResult) -> str:
    return (
        f"Each map is scaled to its own whole, then subtracted: orange places matter more for "
        f"'{first.label}', blue ones more for '{second.label}', pale ones for both alike."
    )
