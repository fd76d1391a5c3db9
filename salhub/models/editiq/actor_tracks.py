"""Where people are in a film: one box a person and frame."""

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np

from salhub.errors import check_choice, plain_letters
from salhub.files import require_file, write_bytes

SOURCES = ("given", "callback", "static-camera")


def check_names(names: Sequence[str]) -> None:
    """Refuse names that shots and locks could not be written with.

    Raises:
        ValueError: One is empty, has a letter with another meaning, or comes twice.
    """
    for name in names:
        if not name.strip() or set(name) & set(":+=,"):
            raise ValueError(
                f"'{name}' cannot be an actor's name; give one without ':', '+', '=' and ','."
            )
    by_letters: dict[str, str] = {}
    for name in names:
        other = by_letters.setdefault(plain_letters(name) or name, name)
        if other is not name:
            raise ValueError(
                f"Two people are called {other} and {name}; names must differ by more than "
                "case and punctuation, so rename one of them."
            )


@dataclass(frozen=True)
class ActorTracks:
    """Boxes of people on the clock of a film.

    Args:
        names: A names, each once.
        boxes: (A, T, 4) float32, x1, y1, x2, y2 in pixels of the film, from head to feet; NaN
            where a person is not there.
        frame_rate: Of the T frames.
        frame_size: (width, height) of the film in pixels.
        source: "given", "callback" (a detector) or "static-camera".
        warnings: What was filled, dropped or guessed.

    Raises:
        ValueError: Shapes, names or boxes that contradict each other.
    """

    names: tuple[str, ...]
    boxes: np.ndarray
    frame_rate: Fraction
    frame_size: tuple[int, int]
    source: str = "given"
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("source", self.source, SOURCES)
        boxes = np.asarray(self.boxes, dtype=np.float32)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "names", tuple(self.names))
        if boxes.ndim != 3 or boxes.shape[2] != 4:
            raise ValueError(
                f"Tracks have the shape {boxes.shape}; expected (actors, frames, 4) with "
                "x1, y1, x2, y2 in pixels."
            )
        if len(self.names) != len(boxes) or len(set(self.names)) != len(self.names):
            raise ValueError(
                f"Every one of the {len(boxes)} tracks needs a distinct name, got "
                f"{', '.join(self.names) or 'none'}."
            )
        check_names(self.names)
        flat = np.isfinite(boxes).all(2) & ((boxes[..., 2:] - boxes[..., :2]) <= 0).any(2)
        if flat.any():
            actor, frame = np.argwhere(flat)[0]
            raise ValueError(
                f"The box of {self.names[actor]} at frame {frame} is empty: "
                f"{boxes[actor, frame].tolist()}; expected x1 < x2 and y1 < y2."
            )

    @property
    def num_frames(self) -> int:
        """T."""
        return self.boxes.shape[1]

    @property
    def present(self) -> np.ndarray:
        """(A, T) bool: where there is a box."""
        return np.isfinite(self.boxes).all(2)

    def for_film(self, num_frames: int, frame_size: tuple[int, int]) -> Self:
        """Return the tracks as they fit a film: as long, and inside its frame.

        Raises:
            ValueError: Another number of frames, or somebody who is never there.
        """
        if self.num_frames != num_frames:
            raise ValueError(
                f"The tracks have {self.num_frames} frames, but the film has {num_frames}; "
                "give one box per frame."
            )
        width, height = frame_size
        limit = np.array([width, height, width, height], dtype=np.float32)
        boxes = np.clip(self.boxes, 0, limit)
        outside = (boxes[..., 2:] - boxes[..., :2] <= 0).any(2) & self.present
        boxes = np.where(outside[..., None] | ~self.present[..., None], np.nan, boxes)
        for name, there in zip(self.names, np.isfinite(boxes).all(2), strict=True):
            if not there.any():
                raise ValueError(
                    f"{name} has no box inside the film's {width}x{height} frame at any time; "
                    "leave this actor out, or correct the track."
                )
        notes = list(self.warnings)
        if outside.any():
            notes.append(f"{int(outside.sum())} boxes outside the frame were left out.")
        return replace(self, boxes=boxes, frame_size=frame_size, warnings=tuple(notes))

    def renamed(self, cast: Sequence[str]) -> Self:
        """Name the people from left to right, as they stand when they are first seen.

        Raises:
            ValueError: Another number of names than of people.
        """
        cast = [str(name) for name in cast]
        if len(cast) != len(self.names):
            raise ValueError(
                f"The cast has {len(cast)} names ({', '.join(cast)}), but {len(self.names)} "
                "people are tracked; name each of them from left to right, or give tracks."
            )
        names = list(self.names)
        for name, place in zip(cast, self.left_to_right(), strict=True):
            names[place] = name
        return replace(self, names=tuple(names))

    def left_to_right(self) -> list[int]:
        """Places of the actors in the order in which they stand when they are first seen."""
        middles = self.boxes[..., ::2].mean(2)
        first = [row[np.isfinite(row)][:1] for row in middles]
        return sorted(range(len(first)), key=lambda a: float(first[a][0]) if first[a].size else 0.0)

    def to_arrays(self) -> dict[str, Any]:
        """All of it as arrays and values that JSON holds."""
        return {
            "boxes": self.boxes,
            "names": list(self.names),
            "frame_rate": str(self.frame_rate),
            "frame_size": list(self.frame_size),
            "source": self.source,
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_arrays(cls, content: dict[str, Any]) -> Self:
        """Read what `to_arrays` gave."""
        width, height = content["frame_size"]
        return cls(
            tuple(content["names"]),
            content["boxes"],
            Fraction(content["frame_rate"]),
            (int(width), int(height)),
            content["source"],
            tuple(content["warnings"]),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz archive."""
        content = self.to_arrays()
        boxes = content.pop("boxes")
        file = io.BytesIO()
        np.savez_compressed(file, boxes=boxes, notes=np.array(json.dumps(content)))
        write_bytes(Path(path), file.getvalue())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: There is no file.
            ValueError: It is no archive of tracks.
        """
        require_file(Path(path), "file of tracks")
        try:
            with np.load(path, allow_pickle=False) as file:
                content = {"boxes": file["boxes"], **json.loads(str(file["notes"]))}
        except (OSError, KeyError, EOFError, TypeError, ValueError, AttributeError):
            raise ValueError(
                f"{path} does not hold tracks saved by a result as .npz; use .csv or .json "
                "for tables."
            ) from None
        return cls.from_arrays(content)
