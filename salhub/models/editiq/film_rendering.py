"""The edited film: every picture is cropped to its shot, and the sound goes through untouched."""

from collections.abc import Callable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from salhub.errors import require_extra
from salhub.models.editiq.film_reading import EXTRA, FilmFile, opened, to_fraction
from salhub.models.editiq.film_writing import DEFAULT_ENCODER, FilmWriter, created

OUTPUT_SIZE = (1280, 720)
STAGE = "render"
Progress = Callable[[str, int, int | None], None]
# Y, U and V of black, in video and in full range.
_BLACK, _BLACK_FULL = (16, 128, 128), (0, 128, 128)
_FULL_RANGE = 2
_PROGRESS_EVERY = 10
_FILTER = Image.Resampling.LANCZOS
# Degrees counterclockwise.
_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
_SMALLEST_SIDE, _LARGEST_SIDE = 16, 8192


def render_film(
    path: Path,
    film: FilmFile,
    crops: np.ndarray,
    *,
    size: tuple[int, int] = OUTPUT_SIZE,
    encoder: str = DEFAULT_ENCODER,
    progress: Progress | None = None,
) -> None:
    """Write a film cropped picture by picture; one picture is in memory at a time.

    Every picture keeps its time to the tick, whatever the frame rate does. Packets of sound are
    copied as they are, of all streams.

    Args:
        path: A file ending in .mp4 or .mkv.
        film: The film.
        crops: float (T, 4), what is shown at each tick of the film's grid: left, top, right and
            bottom in pixels of the upright picture. Where a crop has other proportions than `size`,
            black bars fill up.
        size: Width and height of what is written, even.
        encoder: One of `ENCODERS`.
        progress: Called with "render", pictures done and pictures in all.

    Raises:
        ValueError: Other crops than pictures, a crop outside of the picture, an odd size, another
            encoder, or sound that the kind of file cannot hold.
    """
    check_size(size)
    _check_crops(crops, film)
    av = require_extra("av", EXTRA)
    with opened(film.path) as source, created(path) as target:
        video = source.streams.video[0]
        video.thread_type = "AUTO"
        shift = _Shift(film.origin)
        rate = film.frame_rate if not film.is_variable else to_fraction(video.average_rate)
        writer = FilmWriter(target, encoder, size, rate, film.time_base)
        sound = _copied_streams(source, target, path)
        cropper = Cropper(film, size)
        pictures = film.pictures()
        first = next(pictures)
        writer.set_colors(first[1])
        try:
            writer.begin()
        except av.error.FFmpegError as error:
            raise ValueError(_not_held(source, path)) from error
        packets = _Sound(source, sound, shift)
        for done, (stamp, frame) in enumerate(chain([first], pictures), start=1):
            packets.write_until(target, film.time_of(stamp))
            box = crops[film.grid_index(stamp)]
            writer.add(cropper.crop(frame, box), shift.ticks(stamp, film.time_base), frame)
            if progress is not None and done % _PROGRESS_EVERY == 0:
                progress(STAGE, done, len(film.stamps))
        packets.write_until(target, None)
        writer.finish()
        if progress is not None:
            progress(STAGE, len(film.stamps), len(film.stamps))


def check_size(size: tuple[int, int]) -> None:
    """Refuse a size that no encoder takes.

    Raises:
        ValueError: Odd, too small or too large.
    """
    for side in size:
        if side % 2 or not _SMALLEST_SIDE <= side <= _LARGEST_SIDE:
            raise ValueError(
                f"A film of {size[0]}x{size[1]} pixels cannot be written; both sides must be even "
                f"and between {_SMALLEST_SIDE} and {_LARGEST_SIDE}."
            )


class Cropper:
    """Crops stored pictures to boxes between pixels.

    Args:
        film: Says how its pictures are turned and stretched.
        size: Width and height of what comes out.
    """

    def __init__(self, film: FilmFile, size: tuple[int, int]) -> None:
        self.film, self.size = film, size
        width, height = size
        self._planes = np.empty((height * 3 // 2, width), np.uint8)
        self._luma = self._planes[:height]
        chroma = self._planes[height:].reshape(2, height // 2, width // 2)
        self._parts = (self._luma, chroma[0], chroma[1])
        self._bars: tuple | None = None

    def crop(self, frame: Any, box: np.ndarray) -> np.ndarray:
        """Return a crop as it is written, uint8 (h * 3 / 2, w); the next call writes over it.

        Args:
            frame: A frame of PyAV, as it is stored.
            box: Left, top, right, bottom in pixels of the upright picture.
        """
        if frame.format.name not in ("yuv420p", "yuvj420p"):
            frame = frame.reformat(format="yuv420p")
        place = self._place(box)
        black = _BLACK_FULL if int(frame.color_range) == _FULL_RANGE else _BLACK
        if (place, black) != self._bars:
            for part, value in zip(self._parts, black, strict=True):
                part[:] = value
            self._bars = (place, black)
        for plane, part in zip(frame.planes, self._parts, strict=True):
            image = self._upright(plane)
            scale = np.array(image.size) / self.film.size
            limits = np.tile(image.size, 2)
            inner = np.clip(box * np.tile(scale, 2), 0, limits).tolist()
            finer = part.shape[0] / self.size[1]
            left, top, right, bottom = (round(one * finer) for one in place)
            wanted = (right - left, bottom - top)
            part[top:bottom, left:right] = image.resize(wanted, _FILTER, tuple(inner))
        return self._planes

    def _upright(self, plane: Any) -> Image.Image:
        size = (plane.width, plane.height)
        image = Image.frombuffer("L", size, plane, "raw", "L", plane.line_size, 1)
        turn = _TURNS.get(self.film.rotation % 360)
        return image if turn is None else image.transpose(turn)

    def _place(self, box: np.ndarray) -> tuple[int, int, int, int]:
        """Where a crop stands in what is written, even, with bars around it where it must."""
        width, height = self.size
        across, down = float(box[2] - box[0]), float(box[3] - box[1])
        scale = min(width / across, height / down)
        inner = (2 * round(across * scale / 2), 2 * round(down * scale / 2))
        # A bar of a line or two is a matter of rounding.
        wide = width if width - inner[0] <= 2 else max(2, inner[0])
        high = height if height - inner[1] <= 2 else max(2, inner[1])
        left, top = (width - wide) // 4 * 2, (height - high) // 4 * 2
        return left, top, left + wide, top + high


class _Shift:
    """Moves times so that the film starts where players start it."""

    def __init__(self, origin: Fraction) -> None:
        self.origin = origin

    def ticks(self, stamp: int, time_base: Fraction) -> int:
        return stamp - round(self.origin / time_base)


class _Sound:
    """Packets of sound, written before the pictures that come later."""

    def __init__(self, container: Any, targets: dict[int, Any], shift: _Shift) -> None:
        self.targets, self.shift = targets, shift
        self.packets = container.demux(*container.streams.audio) if targets else iter(())
        self.waiting: Any = None

    def write_until(self, target: Any, time: Fraction | None) -> None:
        while True:
            packet = self.waiting or next(self.packets, None)
            self.waiting = None
            if packet is None:
                return
            if packet.dts is None:  # the end of a stream
                continue
            base = to_fraction(packet.time_base)
            if time is not None and packet.dts * base > time:
                self.waiting = packet
                return
            stream = self.targets[packet.stream.index]
            packet.dts = self.shift.ticks(packet.dts, base)
            if packet.pts is not None:
                packet.pts = self.shift.ticks(packet.pts, base)
            packet.stream = stream
            target.mux(packet)


def _copied_streams(source: Any, target: Any, path: Path) -> dict[int, Any]:
    """Streams of sound in the new file, by the numbers that they have in the old one."""
    try:
        return {one.index: target.add_stream_from_template(one) for one in source.streams.audio}
    except ValueError as error:
        raise ValueError(_not_held(source, path)) from error


def _not_held(source: Any, path: Path) -> str:
    kinds = ", ".join(dict.fromkeys(one.codec_context.name for one in source.streams.audio))
    other = ".mkv" if path.suffix.lower() != ".mkv" else ".mp4"
    return f"{path.suffix} cannot hold {kinds} sound; save the film as {other}."


def _check_crops(crops: np.ndarray, film: FilmFile) -> None:
    if crops.shape != (film.num_frames, 4):
        raise ValueError(
            f"{film.path.name} has {film.num_frames} frames, but there are crops for "
            f"{len(crops)}; give one crop of four numbers per frame."
        )
    if not np.isfinite(crops).all():
        raise ValueError("Crops must be finite numbers; some are not.")
    width, height = film.size
    left, top, right, bottom = crops.T
    slack = 0.5
    outside = (left < -slack) | (top < -slack) | (right > width + slack) | (bottom > height + slack)
    empty = (right - left < 2) | (bottom - top < 2)
    if (outside | empty).any():
        frame = int(np.flatnonzero(outside | empty)[0])
        raise ValueError(
            f"The crop of frame {frame}, {crops[frame].round(1).tolist()}, must have at least two "
            f"pixels and lie within the picture of {width}x{height}."
        )
