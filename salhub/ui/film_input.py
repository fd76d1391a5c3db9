"""The place for a film that a visitor sends; it is handed on unread."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData
from gradio.utils import get_upload_folder

# What a page works on while a visitor waits; more is for one's own machine.
MAX_FILE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class UploadedFilm:
    """A film that a visitor sent, not looked at yet.

    Args:
        path: Where the server keeps it.
        name: What the visitor calls it, such as "talk.mp4".
    """

    path: Path
    name: str

    def check(self) -> Path:
        """Return the path of the film.

        Raises:
            ValueError: It is gone, or too large for a page.
        """
        if not self.path.is_file():
            raise ValueError(f"'{self.name}' is no longer on the server; upload it again.")
        size = self.path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ValueError(
                f"'{self.name}' has {size / 2**20:.0f} MB; this page accepts at most "
                f"{MAX_FILE_BYTES / 2**20:.0f} MB. Use salhub on your own machine."
            )
        return self.path


class FilmInput(gr.Video):
    """A video component that takes any film and hands it on unread.

    Browsers play some kinds only; of the others it shows no picture, and they are read all the
    same.
    """

    # Makes the browser draw it as the video component it derives from.
    is_template = True

    def preprocess(self, payload: FileData | None) -> UploadedFilm | None:
        """Return the file that was sent.

        Raises:
            gradio.Error: The path is not of a file that was sent, but another one of the server's.
        """
        if payload is None or not payload.path:
            return None
        # gradio checks a path only where the request marks it as a file; a raw one need not.
        folders = [Path(one).resolve() for one in (get_upload_folder(), self.GRADIO_CACHE)]
        try:
            path = Path(payload.path).resolve()
        except (OSError, RuntimeError, ValueError):
            path = None
        if path is None or not any(path.is_relative_to(one) for one in folders):
            raise gr.Error("Send the film as an upload.", print_exception=False)
        return UploadedFilm(path, Path(payload.orig_name or path.name).name)


def film_input(label: str, **properties: Any) -> FilmInput:
    """Build the place for a film, empty."""
    return FilmInput(
        label=label, sources=["upload"], buttons=[], height=200, elem_classes="salhub-film",
        **properties,
    )  # fmt: skip


def film_pane(label: str) -> gr.Video:
    """Build a place in which a film plays."""
    return gr.Video(label=label, interactive=False, buttons=["download"], height=260, min_width=320)
