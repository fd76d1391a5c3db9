"""What a visitor asks of a page, and what the page answers with."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from PIL import Image

from salhub.ui.picture_input import UploadedPicture, open_picture

# Properties of components by the component's name: what gradio takes to build or to update it.
Contents = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Query:
    """The state of the controls.

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
        class_label: int | None,
        settings: Mapping[str, Any],
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
        return cls(image, picture.stem, source, class_label, settings)

    @cached_property
    def fingerprint(self) -> str:
        """What tells the picture from others."""
        # The bytes of a white picture do not tell how wide it is.
        shape = f"{self.image.mode} {self.image.size}".encode()
        return hashlib.sha256(shape + self.image.tobytes()).hexdigest()

    def text(self, name: str) -> str:
        """Return a setting that is a text; "" where it is not given.

        Raises:
            ValueError: Something else was sent, as only a program can.

        Example:
            >>> Query(Image.new("RGB", (8, 8)), "", "", None, {"method": "cam"}).text("method")
            'cam'
        """
        value = self.settings.get(name)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"The {name} is given as a text, got {repr(value)[:40]}.")
        return value or ""

    def with_class(self, class_label: int | None) -> "Query":
        """Return the same query for another class."""
        return replace(self, class_label=class_label)
