"""Controls that hand on what a visitor sends, to be read and answered by us and not by gradio."""

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, get_type_hints

import gradio as gr
from gradio.components import Component
from gradio.data_classes import ImageData
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from salhub.data.picture_decoding import decode_picture, to_upright_rgb
from salhub.data.samples import sample_names, sample_path
from salhub.pipelines.base import number

# A page shows a picture at some hundred pixels and a network sees 224; more only costs time.
MAX_SIDE = 1024
# Pictures from phones are 3 to 12 MB; what is larger is refused before it is read.
MAX_FILE_BYTES = 32 * 1024 * 1024
_ENDPOINT_INPUTS = {str: gr.Textbox, int: gr.Number, float: gr.Number, bool: gr.Checkbox}
NO_PICTURE = "There is no picture yet; upload one or choose a sample."


@dataclass(frozen=True)
class UploadedPicture:
    """A file a visitor sent, not looked at yet.

    Args:
        path: Where the server keeps it.
        name: What the visitor calls it, such as "photo.jpg".
    """

    path: Path
    name: str

    @classmethod
    def of_sample(cls, sample: Path) -> "UploadedPicture":
        """Take a bundled photo as if it was sent."""
        return cls(sample, sample.name)

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return Path(self.name).stem or "picture"

    @property
    def sample(self) -> str | None:
        """Name of the bundled photo it is, by content; None where it is the visitor's own."""
        try:
            return sample_digests().get(_digest(self._read()))
        except ValueError:
            return None

    def open(self) -> Image.Image:
        """Read the picture, upright, RGB, at most MAX_SIDE pixels long.

        Raises:
            ValueError: It is gone, no picture, damaged, or too large.
        """
        name = f"'{self.name}'"
        image = to_upright_rgb(decode_picture(self._read(), name), name)
        if max(image.size) > MAX_SIDE:
            image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
        return image

    def _read(self) -> bytes:
        try:
            # A pipe or a device would be waited for, and with it every visitor.
            is_here, size = self.path.is_file(), self.path.stat().st_size
            data = self.path.read_bytes() if is_here and size <= MAX_FILE_BYTES else b""
        except OSError:
            is_here = False
        if not is_here:
            raise ValueError(f"'{self.name}' is no longer on the server; upload it again.")
        if size > MAX_FILE_BYTES:
            raise ValueError(
                f"'{self.name}' has {size / 2**20:.0f} MB; the limit is "
                f"{MAX_FILE_BYTES / 2**20:.0f} MB: save a smaller version."
            )
        return data


@cache
def sample_digests() -> dict[str, str]:
    """Return the name of each bundled photo by the digest of its file."""
    return {_digest(sample_path(name).read_bytes()): name for name in sample_names()}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@lru_cache(maxsize=8)
def open_picture(picture: UploadedPicture | None) -> Image.Image:
    """Read the picture of a request; the last ones are kept, as files are named by their content.

    Raises:
        ValueError: There is none, or it cannot be read.
    """
    if picture is None:
        raise ValueError(NO_PICTURE)
    return picture.open()


class PictureInput(gr.Image):
    """An image component that takes any picture salhub can read and hands it on unread.

    gradio's own reading fails on a bad file before the page can answer with a sentence, and knows
    neither size bombs nor 16-bit or CMYK pictures.
    """

    # Makes the browser draw it as the image component it derives from.
    is_template = True

    def preprocess(self, payload: ImageData | None) -> UploadedPicture | None:
        """Return the file that was sent.

        Raises:
            gradio.Error: The path is not of a file that was sent, but another one of the server's.
        """
        if payload is None or payload.path is None:
            return None
        path = self._sent_file(payload.path)
        return UploadedPicture(path, Path(payload.orig_name or path.name).name)

    def _sent_file(self, path: str) -> Path:
        # gradio checks a path only where the request marks it as a file; a raw one need not.
        folders = [Path(one).resolve() for one in (get_upload_folder(), self.GRADIO_CACHE)]
        try:
            resolved = Path(path).resolve()
        except (OSError, RuntimeError, ValueError):
            resolved = None
        if resolved is None or not any(resolved.is_relative_to(one) for one in folders):
            raise gr.Error("Send the picture as an upload.", print_exception=False)
        return resolved

    def postprocess(self, value: Any) -> ImageData | None:
        """Show a file as it is, so that a sample keeps its name and its bytes."""
        if isinstance(value, Path):
            path = save_bytes_to_cache(value.read_bytes(), value.name, self.GRADIO_CACHE)
            return ImageData(path=path, orig_name=value.name)
        return super().postprocess(value)


def picture_input(sample: str, alt_text: str) -> PictureInput:
    """Build the place for a picture, with a bundled photo in it.

    Args:
        sample: Name of the photo.
        alt_text: What the picture is for.
    """
    return PictureInput(
        sample_path(sample),
        label="Picture",
        sources=["upload", "clipboard"],
        buttons=[],
        height=240,
        elem_classes="salhub-photo",
        alt_text=alt_text,
        placeholder="Drop a picture here\n- or -\nClick to choose one",
    )


class Radio(gr.Radio):
    """Radio buttons that hand on any value.

    gradio refuses a value that is none of its choices, such as one of a page that stayed open while
    they changed, with a sentence that is not written for people.
    """

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        """Return what was sent."""
        return payload


class Dropdown(gr.Dropdown):
    """A list that hands on any value; see `Radio`."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        """Return what was sent."""
        return payload


class Slider(gr.Slider):
    """A slider that hands on any value; see `Radio`."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        """Return what was sent."""
        return payload

    def check(self, value: Any) -> None:
        """Refuse what cannot be set here; a program may send anything.

        Raises:
            TypeError: No finite number.
            ValueError: Out of reach.
        """
        if not self.minimum <= number(str(self.label), value) <= self.maximum:
            raise ValueError(
                f"{self.label} must be from {self.minimum} to {self.maximum}, got {value}."
            )


def slider(minimum: float, maximum: float, value: float, **settings: Any) -> Slider:
    """Build a slider that reaches as far as its first value, which a model was saved with.

    Args:
        minimum: The smallest value, where the first one is not smaller.
        maximum: The largest value, where the first one is not larger.
        value: The first one.
        **settings: As of `gradio.Slider`.
    """
    return Slider(min(minimum, value), max(maximum, value), value, **settings)


def sent_number(name: str, value: Any) -> int | float:
    """Return a number of the web, where numbers have no kind: a whole one as an integer.

    Args:
        name: What it is called.
        value: What was sent.

    Raises:
        TypeError: No finite number.

    Example:
        >>> sent_number("top_k", 3.0)
        3
    """
    found = number(name, value)
    return int(found) if found.is_integer() else found


def endpoint_inputs(function: Callable[..., Any]) -> list[Component]:
    """Build a component for each parameter of what programs can call."""
    kinds, inputs = get_type_hints(function), []
    for name, parameter in inspect.signature(function).parameters.items():
        label = name.replace("_", " ").capitalize()
        if kinds[name] in _ENDPOINT_INPUTS:
            given = parameter.default is not parameter.empty
            value = {"value": parameter.default} if given else {}
            inputs.append(_ENDPOINT_INPUTS[kinds[name]](label=label, **value))
        else:
            inputs.append(PictureInput(label=label))
    return inputs
