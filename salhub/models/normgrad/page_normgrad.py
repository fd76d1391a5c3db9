"""The page of NormGrad's family: every method at every depth, from one pass through the network."""

from functools import cached_property
from typing import Any

import torch
from gradio.components import Component

from salhub.data.picture_fit import FITS
from salhub.models.normgrad.layer_search import SaliencyLayer
from salhub.models.normgrad.methods import METHODS
from salhub.models.normgrad.modeling_normgrad import NormGradForImageSaliency
from salhub.models.normgrad.page_tabs import ClassesTab, FamilyTab, SensitiveMapTab
from salhub.outputs import ImageSaliencyOutput
from salhub.ui.controls import Dropdown, UploadedPicture, sent_number, slider
from salhub.ui.image_saliency import EndpointAnswer, ImageSaliencyPage
from salhub.ui.model_comparison import ModelsTab
from salhub.ui.page import Contents, State
from salhub.ui.picture_page import Query

METHOD_LABELS = {
    "norm_grad": "NormGrad",
    "norm_grad_selective": "NormGrad, selective",
    "norm_grad_proper": "NormGrad with the layer's own convolution",
    "gradient": "Gradient",
    "gradient_sum": "Gradient, summed",
    "deconvnet": "Deconvnet",
    "guided_backprop": "Guided backpropagation",
    "grad_x_input": "Gradient x input",
    "linear_approx": "Linear approximation",
    "hires_cam": "HiResCAM",
    "cam": "CAM",
    "grad_cam": "Grad-CAM",
    "grad_cam_signed": "Grad-CAM, signed",
}
OWN_DEPTH = ""
JOINED = "joined"
LARGEST_META_STEP = 0.01
_DEPTH_WORDS = ("shallow", "middle", "deep", "deepest")


class Page(ImageSaliencyPage):
    """NormGrad, Grad-CAM, gradients and their relatives as settings of one model."""

    title = "NormGrad"
    sentence = (
        "See which parts of your photo made a network answer as it did, with NormGrad or one "
        "of its relatives."
    )
    tabs = (SensitiveMapTab, FamilyTab, ClassesTab, ModelsTab)
    dependents = {"picture": ("class_label", "other_class")}
    method_labels = METHOD_LABELS

    @cached_property
    def stages(self) -> list[SaliencyLayer]:
        """The last block of each resolution, shallow to deep; at most the four deepest."""
        layers = self.pipeline.model.saliency_layers()
        blocks = [layer for layer in layers if layer.is_block and layer.has_gradient]
        outermost = min((layer.name.count(".") for layer in blocks), default=0)
        last = {layer.shape[1:]: layer for layer in blocks if layer.name.count(".") == outermost}
        return list(last.values())[-len(_DEPTH_WORDS) :]

    def main_controls(self) -> dict[str, Component]:
        """Build the pickers of the method and of the depth."""
        methods = [(METHOD_LABELS.get(name, name), name) for name in METHODS]
        method = self.pipeline.model.config.method
        words = _DEPTH_WORDS[-len(self.stages) :]
        depths = [("Automatic", OWN_DEPTH)]
        depths += [
            (f"{word.capitalize()}: {layer.name}", layer.name)
            for word, layer in zip(words, self.stages, strict=True)
        ]
        if len(self.stages) > 1:
            depths.append((f"All {len(self.stages)} combined", JOINED))
        return {
            "method": Dropdown(methods, value=method, label="Method"),
            "layer": Dropdown(depths, value=OWN_DEPTH, label="Depth"),
        }

    def setting_controls(self) -> dict[str, Component]:
        """Build the meta step and the settings of every page."""
        meta_step = slider(
            0,
            LARGEST_META_STEP,
            0,
            step=0.0005,
            label="Meta step",
            info="Size of one training step on this picture and class, taken before the map is "
            "made",
        )
        return {"meta_step": meta_step, **super().setting_controls()}

    def saliency(
        self,
        picture: UploadedPicture | None,
        class_label: str = "",
        method: str = "",
        layer: str = "",
        meta_step: float = 0.0,
        fit: str = FITS[0],
    ) -> EndpointAnswer:
        """Explain a picture by any method of the family: which of its parts speak for a class.

        Args:
            picture: Any picture: a file, or the address of one.
            class_label: The class to explain, a name or an index; empty for the most likely one.
            method: Such as "norm_grad", "grad_cam" or "gradient"; empty for the page's own.
            layer: Name of a layer, such as "blocks.10"; empty for where the method is used best.
            meta_step: Size of the step the network takes first; 0 is none.
            fit: "whole", or "crop" for the picture as the network's image processor cuts it.

        Returns:
            The map over the photo, the map as a NumPy file (float32, the size of the picture, whose
            longer side is at most 1024 pixels), and what was explained.
        """
        settings = {"method": method, "layer": layer, "meta_step": meta_step, "fit": fit}
        return self.endpoint_result(picture, class_label, settings)

    def pipeline_settings(self, query: Query) -> dict[str, Any]:
        """Return what the controls change of the shipped model."""
        shipped = self.pipeline.model.config
        meta_step = float(sent_number("meta_step", query.settings.get("meta_step") or 0.0))
        wanted = {
            "method": query.text("method") or shipped.method,
            "layers": self.layers_for(query),
            "meta_step": meta_step,
        }
        # Another method forgets the layers that the model ships with, so they have to be named.
        named = {"layers"} if wanted["method"] != shipped.method else set()
        return {
            key: value
            for key, value in wanted.items()
            if key in named or value != getattr(shipped, key)
        }

    def layers_for(self, query: Query) -> list[str] | None:
        """Return the names of the layers a query asks for."""
        layer = query.text("layer") or OWN_DEPTH
        if layer == JOINED:
            return [one.name for one in self.stages]
        if layer != OWN_DEPTH:
            return [layer]
        shipped = self.pipeline.model.config
        method = query.text("method") or shipped.method
        if method == shipped.method:
            return shipped.layers
        return [self.pipeline.model.default_layer(method)]

    def least_likely(self, query: Query) -> int:
        """Return the class the network believes in least."""
        return int(self.scores(query).argmin())

    def choices(self, state: State) -> Contents:
        """Return those of both classes: the guesses, and for the other one the least likely too."""
        query = self.query(state)
        guesses, least = self.guesses(query), self.least_likely(query)
        others = [(name, index) for name, index, _ in guesses]
        others.append((f"{self.pipeline.class_name(least)} (least likely)", least))
        other = state["other_class"]
        if other not in [index for _, index in others]:
            other = guesses[1][1]
        return {**super().choices(state), "other_class": {"choices": others, "value": other}}

    def timed_run(self, query: Query, class_labels: list[int]) -> tuple[ImageSaliencyOutput, float]:
        """Run the network once for some classes of one picture.

        Returns:
            `saliency` (1, T, H, W), `class_labels` and `degenerate` (1, T), `logits` (1, C); and
            the seconds it took.
        """

        def run() -> ImageSaliencyOutput:
            pixels = self.pixels(query)
            return self.model_for(query)(pixels, class_labels=torch.tensor([class_labels]))

        return self.timed(query, run, *class_labels)

    def model_for(self, query: Query) -> NormGradForImageSaliency:
        """Return the network with the settings of a query."""
        return self.pipeline.model.with_settings(**self.pipeline_settings(query))
