"""What the results of all pipelines have in common: ways to look at them, and to keep them."""

import inspect
import io
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from salhub.errors import did_you_mean
from salhub.files import draft, ending_of, put_in_place, scratch_folder, to_bytes

PICTURE_WRITERS = dict.fromkeys((".png", ".jpg", ".jpeg"), "write_picture")
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>body {{ font: 1rem/1.6 system-ui, sans-serif; margin: 2rem auto; max-width: 45rem; \
padding: 0 1rem }}</style>
{body}
</html>
"""


class PipelineResult(ABC):
    """Base of what a pipeline gives for one input."""

    # Ending of a file -> the method that writes it. The method takes the path, whose folder is
    # there, and, where there are several views to write, the name of one as `view`.
    writers: ClassVar[Mapping[str, str]] = {**PICTURE_WRITERS, ".json": "write_json"}
    # Picture that `save` writes -> the method that draws it.
    views: ClassVar[Mapping[str, str]] = {"plot": "plot"}

    @abstractmethod
    def plot(self) -> Image.Image:
        """Draw the result with all it takes to read it."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pixels, ready for JSON."""

    @abstractmethod
    def summary(self) -> str:
        """Return one sentence that says what was found."""

    def raw(self) -> np.ndarray:
        """Return the numbers that `save` writes to .npy, where it does."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike, view: str | None = None) -> Path:
        """Write the result; every file appears as a whole or not at all.

        Args:
            path: A file, whose ending says what is written, see `writers`: .png and .jpg a picture,
                .json `to_dict()`, .npy the raw numbers, which not every kind of result has. Or a
                folder, there already or named without an ending: every kind of file is written
                into it once, the pictures under the names of their views.
            view: Which picture, one of `views`: of a file the first by default, of a folder all.

        Returns:
            The path written.

        Raises:
            ValueError: Another ending or view.
            FileNotFoundError: The folder to write in does not exist.
            FileExistsError: A path without an ending is a file, or a folder is called like a file
                that would be written.
        """
        path = Path(path)
        is_folder = not path.suffix or path.is_dir()
        if is_folder and not path.is_dir() and path.name.lower() in self.writers:
            raise ValueError(f"'{path.name}' is only a file ending; give the file a name.")
        if not is_folder and not ending_of(path.name, self.writers):
            raise ValueError(
                f"'{path.name}' has an unknown ending; use one of "
                f"{', '.join(self.writers)}.{did_you_mean(path.suffix.lower(), self.writers)}"
            )
        if view is not None and view not in self.views:
            raise ValueError(
                f"view must be one of {', '.join(self.views)}, got {view!r}."
                f"{did_you_mean(view, self.views)}"
            )
        if not path.absolute().parent.is_dir():
            raise FileNotFoundError(f"The folder '{path.parent}' does not exist; create it first.")
        if is_folder and path.is_file():
            raise FileExistsError(
                f"'{path}' is a file, but a name without an ending means a folder; add an ending "
                "or choose another name."
            )
        if is_folder:
            self._write_folder(path, view)
        else:
            with draft(path) as scratch:
                self._write(scratch, view or next(iter(self.views)))
        return path

    def _write(self, path: Path, view: str) -> None:
        write = getattr(self, self.writers[ending_of(path.name, self.writers)])
        if "view" in inspect.signature(write).parameters:
            write(path, view=view)
        else:
            write(path)

    def _names_in_folder(self, view: str | None) -> dict[str, str]:
        """Name of each file that `save` writes into a folder -> the view it shows."""
        # The first ending of each kind: a .jpg says nothing that the .png does not.
        first = {name: suffix for suffix, name in reversed(list(self.writers.items()))}
        names = {}
        for name, suffix in first.items():
            takes_view = "view" in inspect.signature(getattr(self, name)).parameters
            shown = ([view] if view else self.views) if takes_view else ["result"]
            names |= {f"{one}{suffix}": one for one in shown}
        return names

    def _write_folder(self, folder: Path, view: str | None) -> None:
        names = self._names_in_folder(view)
        for name in names:
            if (folder / name).is_dir():
                raise FileExistsError(
                    f"'{folder / name}' is a folder, but a file with this name has to be "
                    "saved; rename the folder, or save elsewhere."
                )
        folder = folder.resolve()  # "." and ".." are no names
        with scratch_folder(folder if folder.is_dir() else folder.parent) as scratch:
            whole = scratch / folder.name
            whole.mkdir()
            for name, one in names.items():
                self._write(whole / name, one)
            if folder.is_dir():
                for path in whole.iterdir():
                    put_in_place(path, folder / path.name)
            else:
                put_in_place(whole, folder)

    def write_picture(self, path: Path, view: str = "plot") -> None:
        """Write one of the `views` as PNG or JPEG."""
        picture = getattr(self, self.views[view])()
        # Full colour resolution: the default blurs the letters of captions.
        jpeg = {"format": "JPEG", "quality": 92, "subsampling": 0}
        picture.save(path, **({"format": "PNG"} if path.suffix.lower() == ".png" else jpeg))

    def write_json(self, path: Path) -> None:
        """Write `to_dict()`."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        path.write_bytes(to_bytes(f"{text}\n"))

    def write_array(self, path: Path) -> None:
        """Write `raw()` as a NumPy file."""
        with path.open("wb") as file:
            np.save(file, self.raw(), allow_pickle=False)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.plot().save(buffer, "PNG")
        return buffer.getvalue()


class TextResult(PipelineResult):
    """Base of what a pipeline says of a text."""

    writers = {".txt": "write_text", ".html": "write_html", **PipelineResult.writers}

    @property
    @abstractmethod
    def text(self) -> str:
        """What was said."""

    @abstractmethod
    def html(self) -> str:
        """Return the result as HTML; nothing in the text becomes markup."""

    def summary(self) -> str:
        """Return what was said."""
        return self.text

    def write_text(self, path: Path) -> None:
        """Write what was said."""
        path.write_bytes(to_bytes(f"{self.text}\n"))

    def write_html(self, path: Path) -> None:
        """Write a page that stands by itself."""
        page = _PAGE.format(title=escape(type(self).__name__), body=self.html())
        path.write_bytes(to_bytes(page))

    def _repr_html_(self) -> str:
        return self.html()


def check_comparable(results: Mapping[str, Any]) -> None:
    """Refuse results that cannot be shown side by side.

    Raises:
        ValueError: There is none, or they are of pictures of different sizes.
    """
    if not results:
        raise ValueError("There are no results to compare.")
    sizes = {result.image.size for result in results.values() if hasattr(result, "image")}
    if len(sizes) > 1:
        raise ValueError(
            "The results show pictures of different sizes; compare results of the same picture."
        )


def finite(value: float) -> float | None:
    """Return a number for JSON, which has no NaN."""
    return float(value) if math.isfinite(value) else None
