"""Small films whose pictures carry their number, so that every one can be told after any edit."""

import hashlib
import struct
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from salhub.models.editiq.film_writing import FilmWriter, created, write_film

SIZE = (256, 64)
_BITS = 16


def numbered(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A picture with its number as 16 black and white bars; it can be read in any part of it."""
    width, height = size
    bits = [(number >> bit) & 1 for bit in range(_BITS)]
    row = np.repeat(np.array(bits, np.uint8) * 200 + 28, width // _BITS)
    # Once in the upper and once in the lower half.
    return np.repeat(np.broadcast_to(row, (height, len(row)))[..., None], 3, axis=2).copy()


def number_of(picture: np.ndarray) -> int:
    """The number in a picture, RGB (h, w, 3)."""
    height, width = picture.shape[:2]
    rows = picture[height // 4 : 3 * height // 4, :, 1].mean(0)
    centres = ((np.arange(_BITS) + 0.5) * width / _BITS).astype(int)
    return int(sum(1 << bit for bit, x in enumerate(centres) if rows[x] > 128))


def tone(seconds: float, rate: int = 16_000) -> tuple[np.ndarray, int]:
    """Sound that is nowhere the same, float32 (S,) and samples a second."""
    time = np.arange(int(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * (200 + 20 * time) * time)).astype(np.float32), rate


def constant_film(path: Path, frames: int, rate: Fraction, sound: bool = True, **more) -> Path:
    """Write numbered pictures at a constant rate."""
    heard = tone(float(frames / rate)) if sound else None
    write_film(path, map(numbered, range(frames)), rate, heard, encoder="mpeg4", **more)
    return path


def variable_film(
    path: Path, stamps: Iterable[int], time_base: Fraction, encoder: str = "mpeg4"
) -> Path:
    """Write numbered pictures at given ticks, without sound."""
    with created(path) as container:
        writer = FilmWriter(container, encoder, SIZE, Fraction(25), time_base)
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            writer.add(frame.to_ndarray(format="yuv420p"), int(stamp))
        writer.finish()
    return path


def random_stamps(seconds: float, seed: int = 0) -> np.ndarray:
    """Ticks of 1/1000 s, 33 to 67 of them apart."""
    steps = np.random.default_rng(seed).integers(33, 68, int(seconds / 0.033))
    stamps = np.concatenate([[0], steps.cumsum()])
    return stamps[stamps < 1000 * seconds]


def packets(path: Path, kind: str = "audio") -> list[tuple[Fraction, str]]:
    """Time and digest of every packet of a kind of stream."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        base = Fraction(stream.time_base.numerator, stream.time_base.denominator)
        return [
            (one.pts * base, hashlib.sha256(bytes(one)).hexdigest())
            for one in container.demux(stream)
            if one.size
        ]


def turn(path: Path, degrees: int) -> None:
    """Have players turn an .mp4 clockwise, as phones do."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    one = 1 << 16
    matrix = {90: (0, one, -one, 0), 180: (-one, 0, 0, -one), 270: (0, -one, one, 0)}[degrees]
    a, b, c, d = matrix
    struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
