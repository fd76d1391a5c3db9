"""Writing a film: pictures are encoded as they come, so that no film is ever in memory."""

import os
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from salhub.errors import check_choice, require_extra
from salhub.models.editiq.film_reading import EXTRA

# Encoder -> its options. "libsvtav1" plays in every browser and is free; x264 and x265 are GPL, and
# are used only where they are named.
ENCODERS: Mapping[str, Mapping[str, str]] = {
    "libsvtav1": {"preset": "12", "crf": "35", "svtav1-params": "lp=2"},
    "libx264": {"preset": "veryfast", "crf": "21"},
    "libx265": {"preset": "ultrafast", "crf": "24", "x265-params": "log-level=error"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "row-mt": "1", "crf": "32"},
    "mpeg4": {"qmin": "2", "qmax": "5"},
}
DEFAULT_ENCODER = "libsvtav1"
FILM_WRITERS = (".mp4", ".mkv")
# mpeg4 refuses a clock of more ticks a second.
_MOST_TICKS = {"mpeg4": 60000}
_SOUND_CODEC, _SOUND_BIT_RATE, _SOUND_BLOCK = "aac", 64_000, 1024
_COLOR_FIELDS = ("color_primaries", "color_range", "color_trc", "colorspace")
_UNSPECIFIED = 2
# The matrix of BT.601, and limited range.
_OF_RGB = {"colorspace": 6, "color_range": 1}


class FilmWriter:
    """A film that is being written.

    Args:
        container: The open file.
        encoder: One of `ENCODERS`.
        size: Width and height of the pictures, even.
        frame_rate: That players show for the film.
        time_base: Seconds of a tick of the stamps.
    """

    def __init__(
        self,
        container: Any,
        encoder: str,
        size: tuple[int, int],
        frame_rate: Fraction,
        time_base: Fraction,
    ) -> None:
        check_choice("encoder", encoder, ENCODERS)
        # SVT-AV1 writes to standard error whatever anybody asks.
        os.environ.setdefault("SVT_LOG", "1")
        self._av = require_extra("av", EXTRA)
        self.container = container
        options = dict(ENCODERS[encoder])
        self.stream = container.add_stream(encoder, rate=frame_rate, options=options)
        self.stream.width, self.stream.height = size
        self.stream.pix_fmt = "yuv420p"
        if "crf" in options or "qmin" in options:
            self.stream.bit_rate = 0
        self.source_base = time_base
        most = _MOST_TICKS.get(encoder, time_base.denominator)
        self.time_base = time_base if time_base.denominator <= most else Fraction(1, most)
        self.stream.codec_context.time_base = self.time_base
        self._last: int | None = None
        self._turned: dict[str, int] = {}
        self._is_open = False

    def begin(self) -> None:
        """Open the encoders; all streams of the file must be there by now.

        The first picture does it where this was not called.
        """
        with _usual_priorities():
            self.container.start_encoding()
        self._is_open = True

    def set_colors(self, frame: Any) -> None:
        """Say what the numbers of the pictures mean, as a frame does."""
        # Pictures of red, green and blue are turned into what FFmpeg's scaler makes of them.
        self._turned = _OF_RGB if frame.format.is_rgb else {}
        for name in _COLOR_FIELDS:
            value = self._turned.get(name, int(getattr(frame, name)))
            if value != _UNSPECIFIED:
                setattr(self.stream.codec_context, name, value)

    def add(self, planes: np.ndarray, stamp: int, source: Any = None) -> None:
        """Write a picture.

        Args:
            planes: uint8 (h * 3 / 2, w), Y over U and V, as PyAV lays out yuv420p.
            stamp: Its time in ticks of the source.
            source: The frame whose colours it has; None for those of `from_rgb`.
        """
        if not self._is_open:
            self.begin()
        frame = self._av.VideoFrame.from_ndarray(planes, format="yuv420p")
        stamp = self._ticks(stamp)
        if self._last is not None and stamp <= self._last:
            stamp = self._last + 1  # a coarser clock may have given both the same tick
        frame.pts, frame.time_base = stamp, self.time_base
        self._last = stamp
        if source is not None:
            for name in ("colorspace", "color_range"):
                setattr(frame, name, self._turned.get(name, getattr(source, name)))
        self.container.mux(self.stream.encode(frame))

    def finish(self) -> None:
        """Write what the encoder still holds."""
        self.container.mux(self.stream.encode(None))

    def _ticks(self, stamp: int) -> int:
        if self.time_base == self.source_base:
            return stamp
        return int((2 * stamp * self.source_base / self.time_base + 1) // 2)


def write_film(
    path: str | os.PathLike,
    frames: Iterable[np.ndarray],
    frame_rate: Fraction,
    sound: tuple[np.ndarray, int] | None = None,
    *,
    encoder: str = DEFAULT_ENCODER,
) -> None:
    """Write pictures that are made here as a film.

    Args:
        path: A file ending in .mp4 or .mkv.
        frames: RGB uint8 (h, w, 3), of one size; an odd last line or column is left out.
        frame_rate: Pictures a second.
        sound: float32 (S,) in [-1, 1] and samples a second; None for a film without sound.
        encoder: One of `ENCODERS`.

    Raises:
        ValueError: There is no picture, or another encoder.
        MissingExtraError: PyAV is not installed.

    Example:
        >>> import numpy as np
        >>> pictures = [np.zeros((32, 64, 3), np.uint8)] * 5
        >>> write_film("dark.mp4", pictures, Fraction(25))  # doctest: +SKIP
    """
    av = require_extra("av", EXTRA)
    pictures = iter(frames)
    first = next(pictures, None)
    if first is None:
        raise ValueError("A film needs at least one picture.")
    height, width = first.shape[0] // 2 * 2, first.shape[1] // 2 * 2
    with created(path) as container:
        writer = FilmWriter(container, encoder, (width, height), frame_rate, 1 / frame_rate)
        blocks = _SoundWriter(container, *sound) if sound is not None else None
        writer.begin()
        for number, picture in enumerate(chain([first], pictures)):
            cut = np.ascontiguousarray(picture[:height, :width])
            planes = av.VideoFrame.from_ndarray(cut, format="rgb24").to_ndarray(format="yuv420p")
            writer.add(planes, number)
            if blocks is not None:
                blocks.write_until((number + 1) / frame_rate)
        writer.finish()
        if blocks is not None:
            blocks.finish()


@contextmanager
def created(path: str | os.PathLike) -> Generator[Any]:
    """Open a film to be written; a player can start it before it has all of it."""
    av = require_extra("av", EXTRA)
    is_mp4 = Path(path).suffix.lower() in (".mp4", ".mov", ".m4v")
    options = {"movflags": "+faststart"} if is_mp4 else {}
    with av.open(str(path), "w", options=options) as container:
        yield container


@contextmanager
def _usual_priorities() -> Generator[None]:
    """Undo that SVT-AV1, run by root, gives real-time priority to the thread that opens it."""
    before = _policies()
    try:
        yield
    finally:
        for thread, policy in _policies().items():
            if policy != before.get(thread, os.SCHED_OTHER):
                with suppress(OSError):
                    os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def _policies() -> dict[int, int]:
    """Scheduling policy of each thread of this process; empty where there is none to know."""
    found = {}
    with suppress(OSError):
        for thread in Path("/proc/self/task").iterdir():
            with suppress(OSError):
                found[int(thread.name)] = os.sched_getscheduler(int(thread.name))
    return found


class _SoundWriter:
    """Sound beside the pictures, so that neither waits for the other."""

    def __init__(self, container: Any, samples: np.ndarray, sample_rate: int) -> None:
        self._av = require_extra("av", EXTRA)
        self.container, self.samples, self.sample_rate = container, samples, sample_rate
        self.stream = container.add_stream(_SOUND_CODEC, rate=sample_rate, layout="mono")
        self.stream.bit_rate = _SOUND_BIT_RATE
        self.written = 0

    def write_until(self, seconds: Fraction) -> None:
        end = min(int(seconds * self.sample_rate), len(self.samples))
        while self.written + _SOUND_BLOCK <= end:
            self._write(self.written + _SOUND_BLOCK)

    def finish(self) -> None:
        while self.written < len(self.samples):
            self._write(min(self.written + _SOUND_BLOCK, len(self.samples)))
        self.container.mux(self.stream.encode(None))

    def _write(self, end: int) -> None:
        block = np.ascontiguousarray(self.samples[None, self.written : end], dtype=np.float32)
        frame = self._av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = self.sample_rate, self.written
        frame.time_base = Fraction(1, self.sample_rate)
        self.container.mux(self.stream.encode(frame))
        self.written = end
