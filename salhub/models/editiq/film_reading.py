"""Reading a film: its pictures one after the other, each with its exact time.

Times are those that the file gives its pictures, as whole ticks of its clock. Nothing is computed
from a frame rate where the file says better.
"""

import hashlib
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from salhub.errors import require_extra
from salhub.files import require_file
from salhub.models.editiq.frame_rates import constant_rate, grid_rate
from salhub.models.editiq.frame_source import size_at

EXTRA = "video"
FILM_ENDINGS = (
    ".mp4",
    ".mov",
    ".m4v",
    ".mkv",
    ".webm",
    ".avi",
    ".mts",
    ".m2ts",
    ".ts",
    ".mpg",
    ".mpeg",
    ".gif",
)
# Pictures that must be passed over before looking for a key frame is cheaper than decoding.
_WORTH_SEEKING = 24
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
_MOST_HASHED = 1 << 20


@dataclass(frozen=True, eq=False)
class FilmFile:
    """A film in a file, on a grid of frames.

    Of a film with a constant rate the grid has its own frames. Of one with a variable rate, as
    phones and screen recorders make, it is the rate of editing programs that is nearest to its
    shortest frames; a picture is shown from the tick that is nearest to its time until the next
    picture's.

    Attributes:
        path: The file.
        size: Width and height in pixels, upright and with square pixels.
        frame_rate: Of the grid, exact.
        num_frames: Of the grid.
        has_sound: Whether there is sound.
        warnings: What was guessed or is unusual.
        is_variable: Whether the times between its pictures vary.
        stamps: (N,) times of its pictures in ticks, ascending.
        time_base: Seconds of a tick.
        origin: Seconds at which a player starts the film, on the clock of the file.
        rotation: Degrees by which stored pictures are turned counterclockwise to be upright.
        stored_size: Width and height of the pictures as they are stored.
        key_stamps: (K,) times of the pictures at which decoding can start.
        timecode: Of its first picture, such as "10:59:59:00", as a camera wrote it; or None.
        digest: Of the sizes and times of all packets.

    Example:
        >>> film = FilmFile.open("talk.mp4")  # doctest: +SKIP
        >>> film.size, film.frame_rate  # doctest: +SKIP
        ((1280, 360), Fraction(24000, 1001))
    """

    path: Path
    size: tuple[int, int]
    frame_rate: Fraction
    num_frames: int
    has_sound: bool
    warnings: tuple[str, ...]
    is_variable: bool
    stamps: np.ndarray = field(repr=False)
    time_base: Fraction
    origin: Fraction
    rotation: int
    stored_size: tuple[int, int]
    key_stamps: np.ndarray = field(repr=False)
    timecode: str | None
    digest: str

    @classmethod
    def open(cls, path: str | os.PathLike) -> "FilmFile":
        """Read what a film consists of, without its pictures.

        Args:
            path: A file that FFmpeg can read.

        Raises:
            FileNotFoundError, IsADirectoryError: There is no file.
            ValueError: It is no film, damaged, cut short, or has no picture that can be decoded.
            MissingExtraError: PyAV is not installed.
        """
        path = Path(path)
        require_file(path, "film")
        with opened(path) as container:
            return _surveyed(path, container)

    @property
    def duration(self) -> Fraction:
        """Seconds on the grid."""
        return self.num_frames / self.frame_rate

    @property
    def lead(self) -> Fraction:
        """Seconds from where a player starts the film to its first picture."""
        return self.time_of(int(self.stamps[0])) - self.origin

    @cached_property
    def grid_indices(self) -> np.ndarray:
        """(N,) tick of the grid from which each picture is shown."""
        return np.array([self.grid_index(int(stamp)) for stamp in self.stamps], np.int64)

    def time_of(self, stamp: int) -> Fraction:
        """Return seconds on the clock of the file."""
        return stamp * self.time_base

    def grid_index(self, stamp: int) -> int:
        """Return the tick of the grid that is nearest to a picture; of two, the later one."""
        along = (stamp - int(self.stamps[0])) * self.time_base * self.frame_rate
        return min(max(0, _rounded(along)), self.num_frames - 1)

    def fingerprint(self) -> str:
        """Return a digest of what tells this film from others, wherever it lies."""
        with self.path.open("rb") as file:
            head = file.read(_MOST_HASHED)
        return hashlib.sha256(head + self.digest.encode()).hexdigest()

    def frames(
        self, width: int | None = None, *, start: int = 0, stop: int | None = None, step: int = 1
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Read pictures one after the other.

        Args:
            width: Of the pictures in pixels, with their height in proportion; full size by default.
            start: First tick of the grid.
            stop: Tick before which it ends.
            step: Ticks from one picture to the next. Where there are key frames between them, what
                lies before is passed over.

        Yields:
            The tick, and RGB uint8 (h, w, 3).

        Raises:
            ValueError: The film is damaged; the sentence says where.
        """
        yield from self.stills(np.arange(self.num_frames)[start:stop:step], width)

    def stills(
        self, ticks: Sequence[int] | np.ndarray, width: int | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Read the pictures at some ticks of the grid; see `frames`.

        Args:
            ticks: Ascending.
            width: Of the pictures in pixels; full size by default.
        """
        size = size_at(self.size, width)
        ticks = np.asarray(ticks, np.int64)
        numbers = np.searchsorted(self.grid_indices, ticks, side="right") - 1
        picture: Any = None
        shown = -1
        decoded = self._chosen(np.unique(numbers))
        for tick, number in zip(ticks.tolist(), numbers.tolist(), strict=True):
            if number != shown:
                picture, shown = self._upright(next(decoded), size), number
            yield tick, picture

    def pictures(self) -> Iterator[tuple[int, Any]]:
        """Decode all pictures.

        Yields:
            The stamp, and the frame of PyAV as it is stored.
        """
        for number, frame in self._decoded():
            yield int(self.stamps[number]), frame

    def _chosen(self, numbers: np.ndarray) -> Iterator[Any]:
        """Decode some pictures, one for each number; of one that is missing, the one before."""
        last = None
        decoded = self._decoded(numbers)
        place = 0
        for number, frame in decoded:
            while place < len(numbers) and numbers[place] < number:
                yield frame if last is None else last
                place += 1
            last = frame
            while place < len(numbers) and numbers[place] <= number:
                yield frame
                place += 1
            if place == len(numbers):
                return
        for _ in range(place, len(numbers)):
            yield last

    def _decoded(self, numbers: np.ndarray | None = None) -> Iterator[tuple[int, Any]]:
        """Decode from the start; what lies before a key frame and is not wanted may be left out."""
        with opened(self.path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            counts = _has_no_stamps(container)
            place = number = -1
            tried = set()
            frames = self._frames_of(container, stream)
            while True:
                wanted = None if numbers is None else _next_wanted(numbers, number)
                key = None if counts or wanted is None else self._key_before(wanted, number)
                # Some files do not lead where they are asked to.
                if key is not None and key not in tried:
                    tried.add(key)
                    container.seek(key, stream=stream, backward=True)
                    frames = self._frames_of(container, stream)
                frame = next(frames, None)
                if frame is None:
                    return
                place += 1
                found = place if counts else self._number_of(frame.pts)
                if found is None or found <= number:
                    # Before the key frame that was looked for, or twice the same time.
                    continue
                number = found
                yield number, frame

    def _key_before(self, wanted: int, number: int) -> int | None:
        """Return the stamp of a key frame from which a picture is reached sooner, or None."""
        if wanted - number <= _WORTH_SEEKING:
            return None
        at = np.searchsorted(self.key_stamps, self.stamps[wanted], side="right") - 1
        if at < 0:
            return None
        key = int(self.key_stamps[at])
        reached = int(np.searchsorted(self.stamps, key))
        return key if reached - number > _WORTH_SEEKING else None

    def _frames_of(self, container: Any, stream: Any) -> Iterator[Any]:
        av = require_extra("av", EXTRA)
        last = None
        try:
            for frame in container.decode(stream):
                if (frame.width, frame.height) != self.stored_size:
                    width, height = self.stored_size
                    raise ValueError(
                        f"{self.path} changes from {width}x{height} to "
                        f"{frame.width}x{frame.height} pixels part of the way through; save "
                        "it with one size."
                    )
                last = frame.pts
                yield frame
        except av.error.FFmpegError as error:
            where = "" if last is None else f" after {float(self.time_of(last)):.2f} s"
            raise ValueError(f"{self.path} is damaged{where}; save or copy it again.") from error

    def _number_of(self, stamp: int | None) -> int | None:
        if stamp is None:
            return None
        found = int(np.searchsorted(self.stamps, stamp))
        is_known = found < len(self.stamps) and self.stamps[found] == stamp
        return found if is_known else None

    def _upright(self, frame: Any, size: tuple[int, int]) -> np.ndarray:
        turns = self.rotation // 90
        width, height = size if turns % 2 == 0 else size[::-1]
        picture = frame.to_ndarray(
            format="rgb24", width=width, height=height, interpolation=_scaling(frame, width)
        )
        return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


@contextmanager
def opened(path: Path) -> Generator[Any]:
    """Open a film with PyAV.

    Raises:
        ValueError: It is no film, or damaged.
    """
    av = require_extra("av", EXTRA)
    try:
        container = av.open(str(path))
    except av.error.FFmpegError as error:
        empty = path.stat().st_size == 0
        why = "is empty" if empty else "is not a readable film, or is damaged"
        raise ValueError(f"{path} {why}; save or copy it again.") from error
    with container:
        yield container


def to_fraction(value: Any) -> Fraction:
    """Return a rational of any version of PyAV as a Fraction."""
    return Fraction(value.numerator, value.denominator)


def _surveyed(path: Path, container: Any) -> FilmFile:
    if not container.streams.video:
        only = ", only sound" if container.streams.audio else ""
        raise ValueError(f"{path} has no video{only}; give the film itself.")
    stream = container.streams.video[0]
    time_base = to_fraction(stream.time_base)
    origin = _origin(container)
    stamps, keys, hidden, digest = _stamps(container, stream, path)
    if stream.frames > len(stamps) + hidden:
        raise ValueError(
            f"{path} is cut short: it holds {len(stamps) + hidden} of {stream.frames} "
            "frames. Copy it again; if the rest is lost, save what is left with 'ffmpeg -i "
            "FILM -c copy NEW'."
        )
    warnings = []
    if _has_no_stamps(container):
        rate = to_fraction(stream.average_rate)
        time_base, origin = 1 / rate, Fraction(0)
        stamps, keys = np.arange(len(stamps)), np.zeros(1, np.int64)
    ascending = np.unique(stamps)
    if not len(ascending):
        raise ValueError(f"{path} has no frames; save or copy it again.")
    if len(ascending) < len(stamps):
        warnings.append(
            f"{len(stamps) - len(ascending)} frames have the same time as another one and "
            "are left out."
        )
    constant = constant_rate(ascending, time_base, _declared_rates(stream))
    rate = constant or grid_rate(ascending, time_base)
    if constant is None:
        warnings.append(
            f"The frame rate varies: the edit is decided at {_written(rate)} frames per "
            "second, and every frame keeps its own time in the film."
        )
    along = (int(ascending[-1]) - int(ascending[0])) * time_base * rate
    with opened(path) as again:
        first = _first_picture(again, path)
    stored = (first.width, first.height)
    size, rotation = _upright_size(stored, stream, first, path)
    if first.interlaced_frame:
        warnings.append("The film is interlaced; its lines are kept and may show combing.")
    if (name := _HDR_TRANSFERS.get(int(first.color_trc))) is not None:
        warnings.append(f"The film is HDR ({name}) and is saved with 8 bits per colour.")
    if len(container.streams.video) > 1:
        warnings.append("The film has several video streams; the first one is edited.")
    has_sound = bool(container.streams.audio)
    if not has_sound:
        warnings.append("The film has no sound.")
    return FilmFile(
        path=path,
        size=size,
        frame_rate=rate,
        num_frames=_rounded(along) + 1,
        has_sound=has_sound,
        warnings=tuple(warnings),
        is_variable=constant is None,
        stamps=ascending,
        time_base=time_base,
        origin=origin,
        rotation=rotation,
        stored_size=stored,
        key_stamps=np.unique(keys),
        timecode=stream.metadata.get("timecode") or container.metadata.get("timecode"),
        digest=digest,
    )


def _origin(container: Any) -> Fraction:
    """Seconds at which a player starts: that of the first packet, and 0 where it lies before."""
    streams = [*container.streams.video[:1], *container.streams.audio]
    starts = [
        one.start_time * to_fraction(one.time_base) for one in streams if one.start_time is not None
    ]
    return max(min(starts, default=Fraction(0)), Fraction(0))


def _stamps(container: Any, stream: Any, path: Path) -> tuple[np.ndarray, np.ndarray, int, str]:
    """Times of all pictures and key frames, how many more the file counts, and a digest."""
    av = require_extra("av", EXTRA)
    stamps, keys, hidden, last = [], [], 0, None
    digest = hashlib.sha256()
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            last = packet.dts
            if packet.is_discard:  # by an edit list
                hidden += 1
                continue
            digest.update(b"%d %d\n" % (packet.size, packet.pts or 0))
            stamps.append(packet.pts)
            if packet.is_keyframe and packet.pts is not None:
                keys.append(packet.pts)
        if None in stamps and not _has_no_stamps(container):
            # Old formats give a time to some packets only; the decoder works out the others.
            with opened(path) as again:
                stamps = [frame.pts for frame in again.decode(again.streams.video[0])]
        stamps = [one for one in stamps if one is not None or _has_no_stamps(container)]
        if _has_no_stamps(container) and last is not None:
            # AVI counts gaps, at which a picture is held, as pictures.
            hidden = max(hidden, last + 1 - len(stamps))
    except av.error.FFmpegError as error:
        raise ValueError(f"{path} is damaged; save or copy it again.") from error
    counted = [0 if one is None else one for one in stamps]
    return np.array(counted, np.int64), np.array(keys, np.int64), hidden, digest.hexdigest()


def _first_picture(container: Any, path: Path) -> Any:
    av = require_extra("av", EXTRA)
    try:
        return next(container.decode(container.streams.video[0]))
    except (StopIteration, av.error.FFmpegError) as error:
        raise ValueError(
            f"No frame of {path} can be decoded; save it in another format, such as H.264 in .mp4."
        ) from error


def _upright_size(
    stored: tuple[int, int], stream: Any, first: Any, path: Path
) -> tuple[tuple[int, int], int]:
    width, height = stored
    shape = stream.sample_aspect_ratio
    if shape is not None and shape.numerator > 0:
        width = max(2, round(width * to_fraction(shape)))
    if first.rotation % 90:
        raise ValueError(
            f"{path} is rotated by {first.rotation} degrees; only quarter turns are supported."
        )
    return ((width, height) if first.rotation % 180 == 0 else (height, width)), first.rotation


def _has_no_stamps(container: Any) -> bool:
    """Whether pictures are counted: AVI gives the times of packets and not of pictures."""
    return container.format.name == "avi"


def _declared_rates(stream: Any) -> list[Fraction]:
    given = (stream.average_rate, stream.base_rate)
    return [to_fraction(one) for one in given if one is not None and one > 0]


def _rounded(value: Fraction) -> int:
    """Return the nearest whole number; of two, the larger one."""
    return int((2 * value + 1) // 2)


def _scaling(frame: Any, width: int) -> str:
    return "AREA" if width < frame.width else "BICUBIC"


def _next_wanted(numbers: np.ndarray, number: int) -> int | None:
    at = int(np.searchsorted(numbers, number, side="right"))
    return int(numbers[at]) if at < len(numbers) else None


def _written(rate: Fraction) -> str:
    return f"{float(rate):.3f}".rstrip("0").rstrip(".")
