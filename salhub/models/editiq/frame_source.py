"""What the core asks of a film: its pictures on a uniform clock, one after another."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class FrameSource(Protocol):
    """A film whose frame k is on screen from k / frame_rate to (k + 1) / frame_rate seconds.

    A film of a constant rate has this clock itself. Of a film of a variable rate the last picture
    is held at each tick, so that times are right and never drift.

    Attributes:
        size: (width, height) of the upright picture in pixels.
        frame_rate: Of the clock, exact, such as 24000/1001.
        num_frames: Length on the clock.
        has_sound: Whether there is any.
        warnings: What is to be known of it, such as a variable rate.
    """

    size: tuple[int, int]
    frame_rate: Fraction
    num_frames: int
    has_sound: bool
    warnings: tuple[str, ...]

    def frames(
        self, width: int | None = None, *, start: int = 0, stop: int | None = None, step: int = 1
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Pass over the pictures; one is in memory at a time.

        Args:
            width: Of the pictures in pixels, their height follows; None for that of the film.
            start: First frame.
            stop: One past the last; None for the end.
            step: Every so many frames.

        Yields:
            The frame's number and the picture, (h, w, 3) RGB, uint8.
        """
        ...

    def fingerprint(self) -> str:
        """A digest of what identifies the film, so that what is known of another is not taken."""
        ...


def size_at(size: tuple[int, int], width: int | None) -> tuple[int, int]:
    """Width and height of a picture that is shrunk to a width; it is never enlarged.

    Example:
        >>> size_at((1280, 360), 320)
        (320, 90)
    """
    if width is None or width >= size[0]:
        return size
    return width, max(2, round(size[1] * width / size[0]))
