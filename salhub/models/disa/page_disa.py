"""The page of DiSa: type classes, and see what the prompts changed and which patches matter."""

from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

from salhub.models.disa.result_disa import ZeroShotImageClassificationResult
from salhub.ui.controls import Dropdown, UploadedPicture, sent_number, slider
from salhub.ui.page import Contents, Tab
from salhub.ui.panes import (
    BarRow,
    Fact,
    PictureCell,
    bar_rows,
    facts,
    notes,
    picture_pane,
    picture_table,
    pipeline_program,
    python,
    sentence,
)
from salhub.ui.picture_page import PicturePage, Query
from salhub.viz import enlarge

_FIRST_CLASSES = "cat, dog, coffee, rocket, person"
_MOST_CLASSES = 50
_MAPS = {
    "Similarity to the class text": "text",
    "Class attention": "cls",
    "Both multiplied": "text*cls",
    "Least similar to the text (control)": "inverse",
    "Random (control)": "random",
}
_SIDE = 180


class AnswerTab(Tab):
    """Probabilities by the prompts and by the frozen CLIP, the map and the mask."""

    title = "Answer"

    def panes(self) -> dict[str, Component]:
        """Build bars, map and mask."""
        panes: dict[str, Component] = {"notes": gr.HTML(visible=False), "bars": gr.HTML()}
        with gr.Row(elem_classes="salhub-panes"):
            panes["map"] = picture_pane("Map of the text")
            panes["mask"] = picture_pane("Patches most similar to it")
        return {**panes, "reading": gr.HTML(), "facts": gr.HTML()}

    def contents(self, query: Query) -> Contents:
        """Classify the picture."""
        result = self.page.result(query)
        pairs = result.frozen_scores or [None] * len(result.scores)
        series = ["frozen CLIP", "with prompts"] if result.frozen_scores else ["CLIP"]
        rows = [
            BarRow(name, (frozen, own) if result.frozen_scores else (own,), place == 0)
            for place, (name, own, frozen) in enumerate(
                zip(result.labels, result.scores, pairs, strict=True)
            )
        ]
        kept = result.kept
        numbers = [
            Fact(str(len(result.labels)), "Classes", "one of them always wins"),
            Fact(f"{int(kept.sum())} of {kept.size}", "Patches kept", "in the masked pass"),
            Fact(self._seen(), "Pixels", "is what the CLIP sees of the picture"),
            Fact(result.method, "Prompts", "preset used for learning"),
        ]
        return {
            "notes": notes(result.notes),
            "bars": {"value": bar_rows("Probability among these classes.", series, rows)},
            "map": {"value": result.overlay(), "alt_text": f"Where “{result.explained}” is"},
            "mask": {"value": result.mask_picture(), "alt_text": "Hidden patches are dark"},
            "reading": {
                "value": sentence(
                    f"The map shows where the frozen CLIP finds “{result.explained}”. "
                    "Training hides the dark patches in one of its passes; answers use all "
                    "patches."
                )
            },
            "facts": {"value": facts(numbers)},
        }

    def _seen(self) -> str:
        side = self.page.pipeline.model.config.base_config["image_size"]
        return f"{side} x {side}"


class MapsTab(Tab):
    """Every kind of map of the same text, with its mask."""

    title = "Maps"

    def panes(self) -> dict[str, Component]:
        """Build the table."""
        return {"table": gr.HTML()}

    def contents(self, query: Query) -> Contents:
        """Draw the maps."""
        rows = []
        for title, kind in _MAPS.items():
            result = self.page.result(query, saliency=kind)
            cells = [
                PictureCell(enlarge(result.overlay(), _SIDE), f"{title}: map"),
                PictureCell(enlarge(result.mask_picture(), _SIDE), f"{title}: kept patches"),
            ]
            rows.append((title, cells))
        return {"table": {"value": picture_table("Maps and masks.", ["map", "kept"], rows)}}

    def code(self, query: Query) -> str:
        """Return the program that makes the maps."""
        call = self.page.call_settings(query)
        call.pop("saliency", None)
        given = "".join(f", {name}={python(value)}" for name, value in call.items())
        return "\n".join(
            [
                "import salhub",
                "",
                f"classify = salhub.pipeline({python(self.page.name)})",
                f"for kind in {python(list(_MAPS.values()))}:",
                f"    result = classify({python(query.source)}, saliency=kind{given})",
                "    result.save(f\"{kind.replace('*', '-')}.png\", view=\"mask\")",
            ]
        )


class Page(PicturePage):
    """A picture and any classes, named by prompts and by the CLIP that they are for."""

    title = "DiSa"
    sentence = (
        "Type the names of some things: CLIP, a network that matches pictures with words, says "
        "which of them your picture shows and where, with and without learned prompts."
    )
    picture_use = "The picture to classify"
    first_sample = "cat"
    tabs = (AnswerTab, MapsTab)
    endpoints = {
        "classify": (
            partial(gr.Label, label="Classes"),
            partial(gr.Image, label="Kept patches", type="pil", format="png"),
            partial(gr.JSON, label="Facts"),
        )
    }

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._last: dict[str, tuple[tuple, ZeroShotImageClassificationResult]] = {}

    def main_controls(self) -> dict[str, Component]:
        """Build classes, the text of the map, the share of hidden patches, and the kind of map."""
        config = self.pipeline.model.config
        return {
            "candidate_labels": gr.Textbox(
                _FIRST_CLASSES,
                label="Classes",
                info="any words, separated by commas; press Enter",
                max_length=1000,
            ),
            "explain": gr.Textbox(
                "",
                label="Text of the map",
                info="any words; leave empty for the most likely class; press Enter",
                max_length=100,
            ),
            "mask_ratio": slider(
                0, 0.9, config.mask_ratio, step=0.1, label="Share of patches hidden in training"
            ),
            "saliency": Dropdown(list(_MAPS.items()), value=config.saliency, label="Map"),
        }

    def call_settings(self, query: Query) -> dict[str, Any]:
        """Return what a query asks as keywords of a call.

        Raises:
            ValueError: No classes, or too many for one page.
        """
        config = self.pipeline.model.config
        names = [part.strip() for part in query.text("candidate_labels").split(",")]
        names = [name for name in names if name]
        if not names:
            raise ValueError("There are no classes yet; type some, separated by commas.")
        if len(names) > _MOST_CLASSES:
            raise ValueError(
                f"There are {len(names)} classes, but this page accepts {_MOST_CLASSES}; use "
                "salhub in Python for more."
            )
        found: dict[str, Any] = {"candidate_labels": names}
        if query.text("explain").strip():
            found["explain"] = query.text("explain").strip()
        ratio = sent_number("mask_ratio", query.settings["mask_ratio"])
        if ratio != config.mask_ratio:
            found["mask_ratio"] = float(ratio)
        kind = query.text("saliency") or config.saliency
        if kind != config.saliency:
            found["saliency"] = kind
        return found

    def result(self, query: Query, saliency: str = "") -> ZeroShotImageClassificationResult:
        """Classify the picture of a query; the last answer of each map is kept."""
        settings = self.call_settings(query)
        if saliency:
            settings["saliency"] = saliency
        key = (query.fingerprint, repr(sorted(settings.items())))
        with self.lock:
            if saliency not in self._last or self._last[saliency][0] != key:
                self._last[saliency] = (key, self.pipeline(query.image, **settings))
            return self._last[saliency][1]

    def code(self, query: Query) -> str:
        """Return the program that gives the answer in sight."""
        last = ["print(result.summary())", 'result.save("classified.png")']
        call = self.call_settings(query)
        return pipeline_program("classify", self.name, python(query.source), last, call=call)

    def classify(
        self,
        picture: UploadedPicture | None,
        candidate_labels: str = _FIRST_CLASSES,
        explain: str = "",
        mask_ratio: float = 0.3,
    ) -> tuple[dict[str, float], Any, dict[str, Any]]:
        """Name a picture among some classes.

        Args:
            picture: Any picture: a file, or the address of one.
            candidate_labels: The classes, with commas.
            explain: Words whose map is made; empty for the likeliest class.
            mask_ratio: Share of the patches that are hidden, 0 and more and below 1.

        Returns:
            Class -> probability, the picture with hidden patches dark, and all that was found.
        """
        asked = {
            "candidate_labels": candidate_labels,
            "explain": explain,
            "mask_ratio": mask_ratio,
            "saliency": "",
        }
        result = self.result(Query.of_upload(picture, settings=asked))
        scores = dict(zip(result.labels, result.scores, strict=True))
        return scores, result.mask_picture(), result.to_dict()
