"""The page of NormGrad's family: every method at every depth, from one pass through the network."""

from functools import cached_property
from typing import Any

import gradio as gr
import torch
from gradio.components import Component

from salhub.entries import Model
from salhub.models.normgrad.layer_search import SaliencyLayer, default_layer
from salhub.models.normgrad.methods import METHODS, method_named
from salhub.models.normgrad.modeling_normgrad import NormGradForImageSaliency
from salhub.models.normgrad.page_tabs import ClassesTab, FamilyTab, SensitiveMapTab
from salhub.outputs import ImageSaliencyOutput
from salhub.pipelines.image_saliency_result import ImageSaliencyResult
from salhub.ui.classes import RememberedClasses
from salhub.ui.endpoints import EndpointAnswer
from salhub.ui.image_saliency import ImageSaliencyPage
from salhub.ui.models_tab import ModelsTab
from salhub.ui.picture_input import UploadedPicture
from salhub.ui.query import Contents, Query

METHOD_LABELS = {
    "norm_grad": "NormGrad",
    "norm_grad_selective": "NormGrad, selective",
    "norm_grad_proper": "NormGrad of the layer's own convolution",
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
_PER_CLASS = ("saliency", "class_labels", "degenerate")


class Page(ImageSaliencyPage):
    """NormGrad, Grad-CAM, gradients and their relatives as settings of one model."""

    title = "NormGrad"
    sentence = "What in a picture speaks for a class? A family of answers, at every depth."
    tabs = (SensitiveMapTab, FamilyTab, ClassesTab, ModelsTab)
    class_controls = ("class_label", "other_class")
    method_labels = METHOD_LABELS

    def __init__(self, name: str, method: Model) -> None:
        super().__init__(name, method)
        self.classes = RememberedClasses(self.pipeline, self.lock)

    @cached_property
    def all_layers(self) -> list[SaliencyLayer]:
        """Every layer of the network that can be explained, shallow to deep."""
        with self.lock:
            return self.pipeline.model.saliency_layers(blocks_only=False)

    @cached_property
    def stages(self) -> list[SaliencyLayer]:
        """The last block of each resolution, shallow to deep; at most the four deepest."""
        blocks = [layer for layer in self.all_layers if layer.is_block and layer.has_gradient]
        outermost = min((layer.name.count(".") for layer in blocks), default=0)
        last = {layer.shape[1:]: layer for layer in blocks if layer.name.count(".") == outermost}
        return list(last.values())[-len(_DEPTH_WORDS) :]

    def main_controls(self) -> dict[str, Component]:
        """Build the pickers of the method and of the depth."""
        return {"method": self._method_picker(), "layer": self._layer_picker()}

    def setting_controls(self) -> dict[str, Component]:
        """Build the meta step and the settings of every page."""
        return {"meta_step": _meta_slider(), **super().setting_controls()}

    def endpoint_controls(self) -> list[Component]:
        """Build the components behind the further parameters of "/saliency"."""
        return [
            self._method_picker(allow_custom_value=True),
            gr.Textbox(OWN_DEPTH, label="Layer"),
            gr.Number(0.0, label="Meta step"),
        ]

    def saliency(
        self,
        picture: UploadedPicture | None,
        class_label: str = "",
        method: str = "",
        layer: str = "",
        meta_step: float = 0.0,
    ) -> EndpointAnswer:
        """Explain a picture by any method of the family: which of its parts speak for a class.

        Args:
            picture: Any picture: a file, or the address of one.
            class_label: The class to explain, a name or an index; empty for the most likely one.
            method: Such as "norm_grad", "grad_cam" or "gradient"; empty for the page's own.
            layer: Name of a layer, such as "blocks.10"; empty for where the method is used best.
            meta_step: Size of the step the network takes first; 0 is none.

        Returns:
            The map over the photo, the map as a NumPy file (float32, the size of the picture, whose
            longer side is at most 1024 pixels), and what was explained.
        """
        settings = {"method": method, "layer": layer, "meta_step": meta_step}
        return self.endpoint_result(picture, class_label, settings)

    def pipeline_settings(self, query: Query) -> dict[str, Any]:
        """Return what the controls change of the shipped model."""
        shipped = self.pipeline.model.config
        wanted = {
            "method": query.text("method") or shipped.method,
            "layers": self.layers_for(query),
            "meta_step": query.settings.get("meta_step") or 0.0,
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
        return [default_layer(self.all_layers, method_named(method).layer)]

    def guesses(self, query: Query) -> list[tuple[str, int, float]]:
        """Return the likeliest classes from a forward pass alone."""
        return self.classes.guesses(query)

    def class_choices(self, query: Query) -> tuple[Contents, Query]:
        """Return the class pickers for a new picture, and the query for one of its classes."""
        picker, query = super().class_choices(query)
        return {**picker, "other_class": self.other_class_choices(query)}, query

    def other_class_choices(self, query: Query) -> dict[str, Any]:
        """Return the choices of a class to compare with: the guesses, and the least likely one."""
        guesses = self.guesses(query)
        least = self.classes.least_likely(query)
        choices = [(name, index) for name, index, _ in guesses]
        choices.append((f"{self.class_name(least)} (the least likely)", least))
        return {"choices": choices, "value": guesses[1][1]}

    def explain(self, query: Query) -> ImageSaliencyResult:
        """Explain the class of a query with the method of its controls."""
        label = query.class_label
        outputs = self.run(query, None if label is None else [label])
        return self.result_of(query, outputs, 0)

    def timed_run(self, query: Query, class_labels: list[int]) -> tuple[ImageSaliencyOutput, float]:
        """Return the output of `run`, and the seconds it took."""
        return self.timed(query, lambda: self.run(query, class_labels), *class_labels)

    def run(self, query: Query, class_labels: list[int] | None) -> ImageSaliencyOutput:
        """Run the network once for some classes of one picture; the caller holds the lock.

        Returns:
            `saliency` (1, T, H, W), `class_labels` and `degenerate` (1, T), `logits` (1, C).
        """
        pixels = self.pipeline.preprocess(query.image)["pixel_values"]
        labels = None if class_labels is None else torch.tensor([class_labels])
        outputs = self.model_for(query)(pixels, class_labels=labels)
        if labels is None:
            for key in _PER_CLASS:
                outputs[key] = outputs[key][:, None]
        return outputs

    def result_of(
        self, query: Query, outputs: ImageSaliencyOutput, place: int
    ) -> ImageSaliencyResult:
        """Return the result of one of the classes of a run."""
        return self.pipeline.postprocess(
            {
                "pictures": [query.image],
                "logits": outputs.logits,
                **{key: outputs[key][:, place] for key in _PER_CLASS},
            }
        )

    def model_for(self, query: Query) -> NormGradForImageSaliency:
        """Return the shipped model, or the same network with the settings of a query."""
        changed = self.pipeline_settings(query)
        shipped = self.pipeline.model
        if not changed:
            return shipped
        kept = {key: getattr(shipped.config, key) for key in ("method", "layers", "combine")}
        model = NormGradForImageSaliency.from_classifier(shipped.backbone, **{**kept, **changed})
        model.config.name_or_path = shipped.config.name_or_path
        return model

    def _method_picker(self, **properties: Any) -> gr.Dropdown:
        choices = [(METHOD_LABELS.get(name, name), name) for name in METHODS]
        method = self.pipeline.model.config.method
        return gr.Dropdown(choices, value=method, label="Method", **properties)

    def _layer_picker(self) -> gr.Dropdown:
        words = _DEPTH_WORDS[-len(self.stages) :]
        choices = [("Automatic", OWN_DEPTH)]
        choices += [
            (f"{word.capitalize()}: {layer.name}", layer.name)
            for word, layer in zip(words, self.stages, strict=True)
        ]
        if len(self.stages) > 1:
            choices.append((f"All {len(self.stages)} joined", JOINED))
        return gr.Dropdown(choices, value=OWN_DEPTH, label="Depth")


def _meta_slider() -> gr.Slider:
    return gr.Slider(
        0,
        LARGEST_META_STEP,
        0,
        step=0.0005,
        label="Meta step",
        info="The network first learns the class from this picture by one step of this size",
    )
