"""Two models on one picture, and how far they agree."""

import logging
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from gradio.components import Component
from huggingface_hub import model_info
from huggingface_hub.errors import HfHubHTTPError

from salhub.data.picture_fit import FITS
from salhub.hub import canonical_name
from salhub.listing import list_models
from salhub.metrics.correlation import rank_correlation
from salhub.pipelines import pipeline
from salhub.pipelines.image_saliency import ImageSaliencyPipeline
from salhub.pipelines.image_saliency_result import ImageSaliencyResult
from salhub.ui.controls import Dropdown
from salhub.ui.page import Contents, Tab
from salhub.ui.panes import Fact, facts, map_pictures, picture_pane, sentence
from salhub.ui.picture_page import Query

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

    def __init__(self, page: Any) -> None:
        super().__init__(page)
        # Of this page alone: explaining hooks into networks, and its lock is for one page.
        self.load_other = lru_cache(_KEPT_MODELS)(load_other)

    def controls(self) -> dict[str, Component]:
        """Build the picker of the other model."""
        others = [
            model.full_name
            for model in list_models()
            if model.task == self.page.entry.task and model.full_name != self.page.name
        ]
        return {
            "other_model": Dropdown(
                others,
                value=others[0] if others else None,
                label="Compare with",
                info="A model of salhub, or any image classifier on the Hub (ORG/NAME)",
                allow_custom_value=True,
            )
        }

    def panes(self) -> dict[str, Component]:
        """Build the two maps and the numbers below."""
        with gr.Row(elem_classes="salhub-panes"):
            panes = {
                "this_map": picture_pane("This model"),
                "other_map": picture_pane("The other model"),
            }
        return {**panes, "models_reading": gr.HTML(), "models_facts": gr.HTML()}

    def contents(self, query: Query) -> Contents:
        """Explain the chosen class with both models."""
        name = query.text("other_model")
        other = self.load_other(name, self.page.entry.name)
        mine, _ = self.page.timed_explain(query)
        theirs = _explain_same_class(other, query, mine)
        return {
            "this_map": _pane(mine, query, self.page.name),
            "other_map": _pane(theirs, query, name),
            "models_reading": {"value": sentence(_reading(mine, theirs))},
            "models_facts": {"value": facts(_facts(mine, theirs))},
        }


def load_other(name: str, method: str) -> ImageSaliencyPipeline:
    """Load a model of salhub by name, or a classifier of the Hub to explain with a method.

    Args:
        name: "salhub/NAME", or the Hub's "ORG/NAME" of an image classifier.
        method: The method for a classifier.

    Raises:
        ValueError: It is no such name. Folders are refused: they would be the server's own.
    """
    text = name.strip()
    if canonical_name(text) in {model.full_name for model in list_models()}:
        return pipeline(canonical_name(text))
    if not _HUB_NAME.fullmatch(text) or Path(text).exists():
        raise ValueError(
            f"'{text}' is not a model; choose one from the list, or type the name of an "
            "image classifier on the Hub as ORG/NAME."
        )
    return _load_classifier(text, method)


def _load_classifier(name: str, method: str) -> ImageSaliencyPipeline:
    try:
        # Without a token: what the server's owner may see is not for every visitor.
        return pipeline(method, classifier=name, token=False, **_require_small(name))
    except OSError as error:
        raise ValueError(
            f"The image classifier '{name}' could not be loaded from the Hub; check its name "
            "and the internet connection."
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
        logger.info("The Hub did not report the size of '%s': %s", name, error)
        return {"local_files_only": True}
    sizes = dict.fromkeys(_LOADED_FORMATS, 0)
    for file in files:
        suffix = Path(file.rfilename).suffix
        if suffix in sizes:
            sizes[suffix] += file.size or 0
    largest = max(sizes.values())
    if largest > MAX_MODEL_BYTES:
        raise ValueError(
            f"The image classifier '{name}' has {largest / 1e6:.0f} MB of weights; the limit "
            f"on this page is {MAX_MODEL_BYTES / 1e6:.0f} MB: choose a smaller one."
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
    return other(query.image, class_labels=same, fit=query.text("fit") or FITS[0])


def _pane(result: ImageSaliencyResult, query: Query, name: str) -> dict:
    picture = map_pictures(result, query.settings)["overlay"]
    return {**picture, "label": f"{name.rpartition('/')[2]} · {result.label}"}


def _reading(mine: ImageSaliencyResult, theirs: ImageSaliencyResult) -> str:
    if mine.label != theirs.label:
        return (
            f"The other classifier has no class '{mine.label}', so its own answer "
            f"'{theirs.label}' is explained; each map shows what that model looks at."
        )
    return f"Both maps explain '{mine.label}', so you can compare what each model relies on."


def _facts(mine: ImageSaliencyResult, theirs: ImageSaliencyResult) -> list[Fact]:
    maps = [torch.from_numpy(result.saliency)[None] for result in (mine, theirs)]
    rho = float(rank_correlation(*maps))
    found = "none" if rho != rho else f"{rho:.2f}"
    return [
        Fact(
            found,
            "Agreement",
            "rank correlation of the maps; 1 means the same ranking of all areas",
        ),
        *(
            Fact(_score(result), name, f"gives '{result.label}'")
            for name, result in (("This model", mine), ("The other model", theirs))
        ),
    ]


def _score(result: ImageSaliencyResult) -> str:
    is_number = result.score_function == "none"
    return f"{result.probability:.3g}" if is_number else f"{100 * result.probability:.1f} %"
