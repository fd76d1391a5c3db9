"""What NormGrad's page shows: class sensitivity, the whole family at once, two classes."""

import time
from collections.abc import Mapping

import gradio as gr
import numpy as np
import torch
from gradio.components import Component
from PIL import Image

from salhub.data.picture_fit import FittedPicture
from salhub.metrics.class_sensitivity import class_sensitivity
from salhub.models.normgrad.extract_aggregate import AGGREGATES, EXTRACTS
from salhub.models.normgrad.methods import METHODS
from salhub.outputs import ImageSaliencyOutput
from salhub.pipelines.image_saliency_result import ImageSaliencyResult
from salhub.ui.controls import Dropdown
from salhub.ui.image_saliency import MapTab, duration, seen_part
from salhub.ui.page import Contents, State, Tab
from salhub.ui.panes import (
    Fact,
    PictureCell,
    facts,
    legend,
    map_pictures,
    picture_pane,
    picture_table,
    sentence,
)
from salhub.ui.picture_page import Query
from salhub.viz import DIVERGING, ColorBar, overlay

# Rows of the table over depth: those that mean something at every layer and need no other pass.
FAMILY = ("norm_grad", "norm_grad_selective", "gradient", "linear_approx", "hires_cam", "grad_cam")
_CELL_SIDE = 128


class SensitiveMapTab(MapTab):
    """The map, and how much of it depends on the class."""

    def contents(self, query: Query) -> Contents:
        """Explain the chosen class and the least likely one, which share a forward pass."""
        page = self.page
        other = page.least_likely(query)
        if other == query.class_label:
            other = page.guesses(query)[0][1]
        outputs, seconds = page.timed_run(query, [query.class_label, other])
        # The page has both maps, so it does not ask for the comparison itself.
        outputs.class_similarity = class_sensitivity(
            outputs.saliency[:, 0], outputs.saliency[:, 1]
        ).rho
        result = page.result_of(query, outputs, 0)
        numbers = [sensitivity(outputs, page.pipeline.class_name(other)), duration(seconds, page)]
        return self.show(query, result, numbers)


class FamilyTab(Tab):
    """Every method at every depth, from one forward and one backward pass."""

    title = "All methods"
    pickable = ("by_depth",)

    def panes(self) -> dict[str, Component]:
        """Build the two tables."""
        return {name: gr.HTML() for name in ("family_reading", "by_depth", "by_pair")}

    def picked(self, pick: str, state: State) -> State:
        """Open the map of the method and the layer that were pressed."""
        method, _, layer = pick.partition(" ")
        if method not in FAMILY or layer not in [stage.name for stage in self.page.stages]:
            return super().picked(pick, state)
        return {"method": method, "layer": layer, "tab": MapTab.title}

    def contents(self, query: Query) -> Contents:
        """Run the family."""
        page = self.page
        pairs = [(extract, aggregate) for extract in EXTRACTS for aggregate in AGGREGATES]
        stages = [layer.name for layer in page.stages]
        start = time.perf_counter()
        found = page.model_for(query).forward_grid(
            page.pixels(query), [query.class_label], methods=[*FAMILY, *pairs], layers=stages
        )
        seconds = time.perf_counter() - start
        chosen = page.layers_for(query) or stages
        layer = chosen[-1] if chosen[-1] in stages else stages[-1]
        view = _small_view(query.image, page.view(query).fitted)
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
            "Methods (rows) and layers (columns), from shallow to deep. Click a map to open it.",
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
            f"The whole family at {layer}. Rows: what is extracted at each position "
            "(extract); columns: how it becomes one number (aggregate).",
            AGGREGATES,
            rows,
        )


class ClassesTab(Tab):
    """The maps of two classes and where they differ."""

    title = "Classes"

    def controls(self) -> dict[str, Component]:
        """Build the picker of the other class."""
        return {"other_class": Dropdown(label="Compare with the class")}

    def panes(self) -> dict[str, Component]:
        """Build the three pictures, their legend and the numbers."""
        with gr.Row(elem_classes="salhub-panes salhub-trio"):
            panes: dict[str, Component] = {
                "first_class": picture_pane("The class"),
                "second_class": picture_pane("The other class"),
                "difference": picture_pane("Difference"),
            }
        below = ("difference_legend", "classes_reading", "classes_facts")
        return {**panes, **{name: gr.HTML() for name in below}}

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
            "undefined", "Class similarity", f"the map of '{other}' or this map is constant"
        )
    meaning = f"rank correlation with the map of '{other}'; 1 means that the class does not matter"
    return Fact(f"{rho:.2f}", "Class similarity", meaning)


def _family_sentence(page, query: Query, found: Mapping, seconds: float) -> str:
    maps = len(found)
    name = page.pipeline.class_name(query.class_label)
    step = query.settings.get("meta_step")
    after = f" after a meta step of {step:g}" if step else ""
    return (
        f"{maps} maps for '{name}'{after} from one forward and one backward pass, in "
        f"{seconds * 1000:.0f} ms. Bright areas matter most for the class. In orange and "
        "blue maps, orange speaks for the class and blue against it."
    )


def _small_view(image: Image.Image, fitted: FittedPicture) -> Image.Image:
    """The picture as the network saw it, small."""
    seen = image.crop(tuple(round(edge) for edge in fitted.box))
    scale = _CELL_SIDE / max(seen.size)
    size = (max(1, round(seen.width * scale)), max(1, round(seen.height * scale)))
    return seen.resize(size, Image.Resampling.LANCZOS)


def _cell(
    view: Image.Image, output: ImageSaliencyOutput, text: str, **properties: object
) -> PictureCell:
    if bool(output.degenerate[0]):
        return PictureCell(None, "constant: no information here", **{**properties, "pick": ""})
    small = torch.nn.functional.interpolate(
        output.saliency[:, None], size=(view.height, view.width), mode="bilinear", antialias=True
    )
    return PictureCell(overlay(view, small[0, 0].numpy(), alpha=0.8), text, **properties)


def _titled(result: ImageSaliencyResult, query: Query) -> dict:
    pane = map_pictures(result, query.settings)["overlay"]
    return {**pane, "value": seen_part(pane["value"], result), "label": result.label}


def _difference(first: ImageSaliencyResult, second: ImageSaliencyResult, query: Query) -> dict:
    values, seen = difference_of(first, second), first.viewed_box
    picture = overlay(first.image, values, query.settings["opacity"], viewed_box=seen)
    text = (
        f"Difference between {first.label} and {second.label}: orange for the first, blue "
        "for the second"
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
        "Each map is scaled by its own sum, then the maps are subtracted: orange areas "
        f"matter more for '{first.label}', blue areas more for '{second.label}', and pale "
        "areas equally for both."
    )
