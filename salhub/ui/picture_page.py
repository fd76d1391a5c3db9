"""The base of pages that are asked with a picture."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import gradio as gr
from gradio.components import Component
from PIL import Image

from salhub.data.samples import sample_path
from salhub.entries import Model
from salhub.pipelines import pipeline
from salhub.ui.controls import UploadedPicture, open_picture, picture_input
from salhub.ui.page import Page, State
from salhub.ui.panes import picture_buttons


@dataclass(frozen=True)
class Query:
    """What a visitor asks of a picture.

    Args:
        image: The picture, RGB.
        picture_name: What the visitor calls it, without its suffix.
        source: What reproducing code loads: "sample:cat", or the name of the visitor's file.
        class_label: Index of the class to explain; None for the most likely one.
        settings: Every other control, by name.
    """

    image: Image.Image
    picture_name: str
    source: str
    class_label: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_upload(
        cls,
        picture: UploadedPicture | None,
        class_label: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> "Query":
        """Read the picture of a request.

        Args:
            picture: What was sent.
            class_label: The class picked, or None.
            settings: The other controls.

        Raises:
            ValueError: There is no picture, or it cannot be read.
        """
        image = open_picture(picture)
        sample = picture.sample
        source = picture.name if sample is None else f"sample:{sample}"
        return cls(image, picture.stem, source, class_label, settings or {})

    @cached_property
    def fingerprint(self) -> str:
        """What tells the picture from others."""
        # The bytes of a white picture do not tell how wide it is.
        shape = f"{self.image.mode} {self.image.size}".encode()
        return hashlib.sha256(shape + self.image.tobytes()).hexdigest()

    def text(self, name: str) -> str:
        """Return a setting that is a text; "" where it is not given."""
        return self.settings.get(name) or ""


class PicturePage(Page):
    """A picture, samples of it, and what a pipeline makes of it.

    Args:
        name: The model.
        entry: What is known of its kind.
        classifier: A network of somebody's own that the method explains, by name; or None.

    Attributes:
        picture_use: Alternative text of the picture.
        first_sample: Name of the bundled photo that the page opens with.
        samples: Names of those that can be pressed, from left to right.
    """

    picture_use: ClassVar[str]
    first_sample: ClassVar[str] = "coffee"
    samples: ClassVar[tuple[str, ...]] = ("astronaut", "cat", "coffee", "rocket")

    def __init__(self, name: str, entry: Model, classifier: str | None = None) -> None:
        super().__init__(name, entry, classifier)
        self.pipeline = pipeline(name, **self.loading)

    def asked(self) -> dict[str, Component]:
        """Build the picture, and samples to press."""
        photos = [(name, Image.open(sample_path(name))) for name in self.samples]
        return {
            "picture": picture_input(self.first_sample, self.picture_use),
            "samples": gr.HTML(picture_buttons("Samples", photos)),
        }

    def picked(self, pick: str, state: State) -> State:
        """Return the picture of a sample."""
        return {"picture": UploadedPicture.of_sample(sample_path(pick))}

    def query(self, state: State) -> Query:
        """Read the picture."""
        settings = {k: v for k, v in state.items() if k not in ("picture", "class_label", "tab")}
        return Query.of_upload(state["picture"], state.get("class_label"), settings)
