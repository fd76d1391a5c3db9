"""Rooms to look at, which no training draws: "sample:room", "sample:room-7"."""

import re
from typing import Any

from salhub.data.samples import PREFIX
from salhub.models.rep_mtl.rooms import Room, render_room

# Behind the rooms of training, validation and test.
_FIRST_SAMPLE = 3 * 10**6
# Rooms by number; beyond them another series would begin.
NUM_SAMPLES = 10_000
_NAME = re.compile(rf"{PREFIX}room(?:-(\d+))?")
_SIZE = 64


def sample_room(number: int, size: int = _SIZE) -> Room:
    """Render the room "sample:room-NUMBER".

    Args:
        number: 0 or more, below `NUM_SAMPLES`.
        size: Height and width in pixels.

    Raises:
        ValueError: There is no such room.

    Example:
        >>> sample_room(7).picture.shape
        (64, 64, 3)
    """
    if not 0 <= number < NUM_SAMPLES:
        raise ValueError(f"Sample rooms have numbers from 0 to {NUM_SAMPLES - 1}, got {number}.")
    return render_room(0, _FIRST_SAMPLE + number, size=size)


def number_of_room(source: Any) -> int | None:
    """The number of the room that the name of a sample asks for; None for anything else."""
    found = _NAME.fullmatch(source) if isinstance(source, str) else None
    return int(found[1] or 0) if found else None
