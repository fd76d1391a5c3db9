"""The page of every model that says what is in a picture."""

from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

from salhub.ui.controls import UploadedPicture, sent_number, slider
from salhub.ui.page import Contents
from salhub.ui.panes import BarRow, bar_rows, pipeline_program, python, sentence
from salhub.ui.picture_page import PicturePage, Query


class ImageClassificationPage(PicturePage):
    """A picture, and bars of the classes that a network takes it for."""

    sentence = (
        "See how a network classifies your picture. It always chooses one of its own classes."
    )
    picture_use = "The picture to classify"
    first_sample = "cat"
    endpoints = {
        "classify": (partial(gr.Label, label="Classes"), partial(gr.JSON, label="Facts")),
    }

    @property
    def display_title(self) -> str:
        """The name of the model, as its method has several."""
        return self.title or self.name.rpartition("/")[2]

    def main_controls(self) -> dict[str, Component]:
        """Build the number of classes."""
        most = min(20, max(2, len(self.pipeline.class_names)))
        number = slider(1, most, min(5, most), step=1, label="Number of classes")
        return {"top_k": number}

    def panes(self) -> dict[str, Component]:
        """Build the answer and the bars."""
        return {"reading": gr.HTML(), "classes": gr.HTML()}

    def contents(self, query: Query) -> Contents:
        """Classify the picture."""
        number = sent_number("top_k", query.settings["top_k"])
        result = self.pipeline(query.image, top_k=number)
        shares = zip(result.labels, result.scores, strict=True)
        rows = [BarRow(name, (score,), place == 0) for place, (name, score) in enumerate(shares)]
        return {
            "reading": {"value": sentence(result.summary())},
            "classes": {"value": bar_rows("Probability of each class.", ["probability"], rows)},
        }

    def code(self, query: Query) -> str:
        """Return the program that names the classes in sight."""
        return pipeline_program(
            "classify",
            self.name,
            python(query.source),
            ["print(result.summary())", 'result.save("classified.png")'],
            call={"top_k": sent_number("top_k", query.settings["top_k"])},
        )

    def classify(
        self, picture: UploadedPicture | None, top_k: float = 5
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """Classify a picture.

        Args:
            picture: Any picture: a file, or the address of one.
            top_k: How many of the likeliest classes are named.

        Returns:
            Class -> probability, and all that was found.
        """
        query = Query.of_upload(picture)
        result = self.pipeline(query.image, top_k=sent_number("top_k", top_k))
        return dict(zip(result.labels, result.scores, strict=True)), result.to_dict()
