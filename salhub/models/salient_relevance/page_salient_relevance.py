"""The page of salient relevance: the photo, its relevance, and the areas that stand out of it."""

from typing import Any

import gradio as gr
import numpy as np
import torch
from gradio.components import Component
from scipy import ndimage

from salhub.data.picture_fit import FITS
from salhub.models.salient_relevance.modeling_salient_relevance import (
    SalientRelevanceForImageSaliency,
    SalientRelevanceOutput,
)
from salhub.models.salient_relevance.rules import PRESETS
from salhub.pipelines.image_saliency_result import ImageSaliencyResult
from salhub.processing import place_map
from salhub.ui.controls import Dropdown, UploadedPicture
from salhub.ui.image_saliency import EndpointAnswer, ImageSaliencyPage, MapTab, duration, seen_part
from salhub.ui.model_comparison import ModelsTab
from salhub.ui.page import Contents
from salhub.ui.panes import Fact
from salhub.ui.picture_page import Query
from salhub.viz import paint

PRESET_LABELS = {
    "deep_taylor": "Deep Taylor",
    "sr_reference": "As published with the paper",
    "epsilon_plus": "Epsilon plus",
    "epsilon_plus_flat": "Epsilon plus, flat",
    "epsilon_gamma_box": "Epsilon gamma box",
    "epsilon_alpha2_beta1_flat": "Alpha 2 beta 1, flat",
}


class StagesTab(MapTab):
    """The stages of the method, side by side."""

    pictures = (
        ("photo", "Photo"),
        ("relevance", "Relevance (LRP)"),
        ("context", "Context saliency"),
        ("overlay", "Salient relevance"),
    )
    layout = "salhub-panes salhub-four"

    def contents(self, query: Query) -> Contents:
        """Run both stages."""
        page = self.page
        outputs, seconds = page.timed(query, lambda: page.run(query), "run")
        result = page.result_of(query, outputs)
        numbers = [_areas(outputs), _conservation(outputs), duration(seconds, page)]
        contents = {**self.show(query, result, numbers), **_stages(query, result, outputs)}
        # Shown cut to what the network saw, like its neighbours; the map alone is in the file.
        over = contents["overlay"]
        contents["overlay"] = {**over, "value": seen_part(over["value"], result)}
        del contents["map"]
        return contents


class Page(ImageSaliencyPage):
    """Where the relevance of a class gathers."""

    title = "Salient Relevance"
    sentence = "See which areas of your picture a network relies on most."
    tabs = (StagesTab, ModelsTab)

    def main_controls(self) -> dict[str, Component]:
        """Build the picker of the relevance rules."""
        choices = [(PRESET_LABELS.get(name, name), name) for name in PRESETS]
        preset = self.pipeline.model.config.preset
        return {"preset": Dropdown(choices, value=preset, label="Relevance rules")}

    def setting_controls(self) -> dict[str, Component]:
        """Build the contrast and the settings of every page."""
        contrast = gr.Checkbox(
            self.pipeline.model.config.contrast == "others",
            label="Contrast with the other classes",
            info="Subtracts the relevance of the mean of all other classes",
        )
        return {"contrast": contrast, **super().setting_controls()}

    def saliency(
        self,
        picture: UploadedPicture | None,
        class_label: str = "",
        preset: str = "",
        contrast: bool = False,
        fit: str = FITS[0],
    ) -> EndpointAnswer:
        """Explain a picture: in which areas the relevance of a class gathers.

        Args:
            picture: Any picture: a file, or the address of one.
            class_label: The class to explain, a name or an index; empty for the most likely one.
            preset: Rules of the relevance, such as "deep_taylor"; empty for the page's own.
            contrast: Subtract the relevance of the mean of all other classes.
            fit: "whole", or "crop" for the picture as the network's image processor cuts it.

        Returns:
            The map over the photo, the map as a NumPy file (float32, the size of the picture, whose
            longer side is at most 1024 pixels), and what was explained.
        """
        settings = {"preset": preset, "contrast": contrast, "fit": fit}
        return self.endpoint_result(picture, class_label, settings)

    def pipeline_settings(self, query: Query) -> dict[str, Any]:
        """Return what the controls change of the shipped model."""
        shipped = self.pipeline.model.config
        contrast = query.settings.get("contrast")
        wanted = {
            "preset": query.text("preset") or shipped.preset,
            "contrast": "others" if contrast else "none",
        }
        return {key: value for key, value in wanted.items() if value != getattr(shipped, key)}

    def run(self, query: Query) -> SalientRelevanceOutput:
        """Run both stages on a picture."""
        return self.model_for(query)(self.pixels(query), class_labels=[query.class_label])

    def model_for(self, query: Query) -> SalientRelevanceForImageSaliency:
        """Return the network with the settings of a query."""
        return self.pipeline.model.with_settings(**self.pipeline_settings(query))


def _stages(query: Query, result: ImageSaliencyResult, outputs: SalientRelevanceOutput) -> Contents:
    """The photo and the two stages, cut to what the network saw."""
    colors = query.text("colors") or None
    photo = seen_part(result.image, result)
    size = (result.image.height, result.image.width)
    by_pixel, standing_out = (
        seen_part(paint(place_map(values, result.viewed_box, size), colors), result)
        for values in (outputs.relevance[0].sum(dim=0), outputs.context_saliency[0])
    )
    return {
        "photo": {"value": photo, "alt_text": "The part of the photo that the network saw"},
        "relevance": {"value": by_pixel, "alt_text": f"Relevance of each pixel for {result.label}"},
        "context": {"value": standing_out, "alt_text": "Areas where the relevance stands out"},
    }


def _areas(outputs: SalientRelevanceOutput) -> Fact:
    """How many areas the map has, beside its relevance cut at the same size."""
    attended = outputs.attended_mask[0].cpu().numpy()
    relevance = outputs.relevance[0].sum(dim=0).cpu().numpy()
    areas = count_areas(attended)
    speckles = count_areas(largest(relevance, int(attended.sum())))
    meaning = f"the same share of the raw relevance falls into {speckles} pieces"
    return Fact(str(areas), "Attention areas", meaning)


def count_areas(mask: np.ndarray) -> int:
    """Count the connected areas of a mask, pixels touching at corners included.

    Example:
        >>> count_areas(np.eye(3, dtype=bool))
        1
    """
    return int(ndimage.label(mask, structure=np.ones((3, 3)))[1])


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Mark the `count` largest values.

    Example:
        >>> largest(np.array([3.0, 1.0, 2.0]), 2).tolist()
        [True, False, True]
    """
    mask = np.zeros(values.size, dtype=bool)
    mask[np.argsort(values, axis=None)[values.size - count :]] = True
    return mask.reshape(values.shape)


def _conservation(outputs: SalientRelevanceOutput) -> Fact:
    start, end = float(outputs.start_relevance[0]), float(outputs.relevance_sum[0])
    error = abs(end - start) / max(abs(start), torch.finfo(torch.float32).tiny)
    meaning = "of the score did not reach the pixels; most of it was absorbed by the biases"
    return Fact(f"{100 * error:.2f} %", "Conservation error", meaning)
