"""Two models on one picture, and how far they agree."""

import logging
import re
from functools import lru_cache
from pathlib import Path

import gradio as gr
import torch
from gradio.components import Component
from huggingface_hub import model_info
from huggingface_hub.errors import HfHubHTTPError

from salhub.hub import canonical_name, list_models
from salhub.metrics.correlation import rank_correlation
from salhub.pipelines import pipeline
from salhub.pipelines.image_saliency import ImageSaliencyPipeline
from salhub.pipelines.image_saliency_result import ImageSaliencyResult
from salhub.ui.map_tab import map_pictures
from salhub.ui.markup import Fact, facts, sentence
from salhub.ui.query import Contents, Query
from salhub.ui.tab import Tab, picture_pane

logger = logging.getLogger(__name__)

# Models of visitors are kept for a while; each is some ten to hundred megabytes.
_KEPT_MODELS = 3
# A visitor must not fill the server's disk and memory.
MAX_MODEL_BYTES = 500_000_000
_LOADED_FORMATS = (".safetensors", ".bin", ".json", ".txt")
_HUB_NAME = re.compile(r"(?!.*\.\.)[\w][\w.-]*/[\w][\w.-]*")


class ModelsTab(Tab):
    """The map of this page's model beside that of another, for the same class."""

    title = "Models"

    def controls(self, query: Query) -> dict[str, Component]:
        """Build the picker of the other model."""
        others = [
            model.full_name
            for model in list_models()
            if model.task == self.page.method.task and model.full_name != self.page.name
        ]
        return {
            "other_model": gr.Dropdown(
                others,
                value=others[0] if others else None,
                label="Compare with",
                info="A model of salhub, or any image classifier on the Hub (ORG/NAME)",
                allow_custom_value=True,
            )
        }

    def panes(self, contents: Contents) -> dict[str, Component]:
        """Build the two maps and the numbers below."""
        with gr.Row(elem_classes="salhub-panes"):
            for name, label in (("this_map", "This model"), ("other_map", "The other model")):
                self.components[name] = picture_pane(label, contents.get(name, {}))
        for name in ("models_reading", "models_facts"):
            self.components[name] = gr.HTML(**contents.get(name, {}))
        return self.components

    def contents(self, query: Query) -> Contents:
        """Explain the chosen class with both models."""
        name = query.text("other_model")
        other = load_other(name, self.page.method.name)
        mine, _ = self.page.timed_explain(query)
        with self.page.lock:
            theirs = _explain_same_class(other, query, mine)
        return {
            "this_map": _pane(mine, query, self.page.name),
            "other_map": _pane(theirs, query, name),
            "models_reading": {"value": sentence(_reading(mine, theirs))},
            "models_facts": {"value": facts(_facts(mine, theirs))},
        }


def load_other(name: str | None, method: str) -> ImageSaliencyPipeline:
    """Load a model of salhub by name, or a classifier of the Hub to explain with a method.

    Args:
        name: "salhub/NAME", or the Hub's "ORG/NAME" of an image classifier.
        method: The method for a classifier.

    Raises:
        ValueError: It is no such name. Folders are refused: they would be the server's own.
    """
    text = (name or "").strip()
    if canonical_name(text) in {model.full_name for model in list_models()}:
        return _load_shipped(canonical_name(text))
    if not _HUB_NAME.fullmatch(text) or Path(text).exists():
        raise ValueError(
            f"'{text}' names no model; choose one of the list, or write the name of an image "
            "classifier on the Hub as ORG/NAME."
        )
    return _load_classifier(text, method)


@lru_cache(maxsize=_KEPT_MODELS)
def _load_shipped(name: str) -> ImageSaliencyPipeline:
    return pipeline(name)


@lru_cache(maxsize=_KEPT_MODELS)
def _load_classifier(name: str, method: str) -> ImageSaliencyPipeline:
    try:
        # Without a token: what the server's owner may see is not for every visitor.
        return pipeline(method, classifier=name, token=False, **_require_small(name))
    except OSError as error:
        raise ValueError(
            f"The image classifier '{name}' could not be loaded from the Hub; check its name, and "
            "that this computer is connected."
        ) from error


def _require_small(name: str) -> dict[str, bool]:
    """Refuse a classifier that is too large, and return how the Hub may be used to load it.

    Raises:
        ValueError: One of the formats it is stored in is larger than MAX_MODEL_BYTES.
    """
    try:
        files = model_info(name, files_metadata=True, token=False, timeout=10).siblings or []
    except HfHubHTTPError:
        raise
    except Exception as error:
        # The Hub cannot be asked, so nothing may be fetched; what is already here still serves.
        logger.info("The Hub did not tell the size of '%s': %s", name, error)
        return {"local_files_only": True}
    sizes = dict.fromkeys(_LOADED_FORMATS, 0)
    for file in files:
        suffix = Path(file.rfilename).suffix
        if suffix in sizes:
            sizes[suffix] += file.size or 0
    largest = max(sizes.values())
    if largest > MAX_MODEL_BYTES:
        raise ValueError(
            f"The image classifier '{name}' has {largest / 1e6:.0f} MB of weights; at most "
            f"{MAX_MODEL_BYTES / 1e6:.0f} MB are loaded here: choose a smaller one."
        )
    return {}


def _explain_same_class(
    other: ImageSaliencyPipeline, query: Query, mine: ImageSaliencyResult
) -> ImageSaliencyResult:
    """Explain the class of the same name, or the other classifier's answer where it has none."""
    known = {label.lower() for label in other.model.id2label.values()}
    same = mine.label if mine.label.lower() in known else None
    if same is not None and other.model.id2label.get(mine.class_label) == mine.label:
        same = mine.class_label
    return other(query.image, class_labels=same)


def _pane(result: ImageSaliencyResult, query: Query, name: str) -> dict:
    picture = map_pictures(result, query)["overlay"]
    return {**picture, "label": f"{name.rpartition('/')[2]} · {result.label}"}


def _reading(mine: ImageSaliencyResult, theirs: ImageSaliencyResult) -> str:
    if mine.label != theirs.label:
        return (
            f"The other classifier has no class '{mine.label}', so its own answer "
            f"'{theirs.label}' is explained; the maps show what each one looks at."
        )
    return f"Both maps explain '{mine.label}', so they differ in what each model finds telling."


def _facts(mine: ImageSaliencyResult, theirs: ImageSaliencyResult) -> list[Fact]:
    maps = [torch.from_numpy(result.saliency)[None] for result in (mine, theirs)]
    rho = float(rank_correlation(*maps))
    found = "none" if rho != rho else f"{rho:.2f}"
    return [
        Fact(found, "Agreement", "rank correlation of the maps; 1 means the same order of places"),
        Fact(f"{mine.probability:.1%}", "This model", f"gives '{mine.label}'"),
        Fact(f"{theirs.probability:.1%}", "The other model", f"gives '{theirs.label}'"),
    ]
