"""The finished edit: which shot is on screen when, and where its crop lies."""

from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np

from salhub.models.editiq.shots import Shot


@dataclass(frozen=True)
class ShotSpan:
    """A shot on screen.

    Args:
        shot: The shot.
        start: Its first frame.
        stop: One past its last frame.
    """

    shot: Shot
    start: int
    stop: int


class CropKeyframe(NamedTuple):
    """Where a crop is at a frame, in pixels of the film; between keyframes it moves evenly."""

    frame: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class EditDecision:
    """A list of shots that tile a film.

    Args:
        frame_rate: Of the clock that frames are counted on, exact.
        num_frames: Length of the film on it, T.
        frame_size: (width, height) of the film in pixels.
        aspect: Width over height of the crops; wide shots are the whole frame whatever it is.
        spans: The shots in order; neighbours differ.
        crops: (T, 4) float32, x1, y1, x2, y2 in pixels of the film, with fractions.
        warnings: What was guessed, dropped or could not be held.

    Raises:
        ValueError: Spans that do not tile the film, or crops of another length.
    """

    frame_rate: Fraction
    num_frames: int
    frame_size: tuple[int, int]
    aspect: Fraction
    spans: tuple[ShotSpan, ...]
    crops: np.ndarray
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ends = [0, *(span.stop for span in self.spans)]
        starts = [*(span.start for span in self.spans), self.num_frames]
        if ends != starts or any(span.stop <= span.start for span in self.spans):
            raise ValueError(
                f"The shots do not tile the film's {self.num_frames} frames; each must begin "
                "where the one before ends."
            )
        if self.crops.shape != (self.num_frames, 4):
            raise ValueError(
                f"The crops have the shape {self.crops.shape}, expected ({self.num_frames}, 4)."
            )

    @property
    def cuts(self) -> tuple[int, ...]:
        """First frames of all shots but the first."""
        return tuple(span.start for span in self.spans[1:])

    @property
    def cut_times(self) -> tuple[Fraction, ...]:
        """The same in seconds, exact."""
        return tuple(frame / self.frame_rate for frame in self.cuts)

    def span_at(self, frame: int) -> ShotSpan:
        """The shot on screen at a frame."""
        if not 0 <= frame < self.num_frames:
            raise ValueError(
                f"There is no frame {frame}; the film has {self.num_frames} frames, counted from 0."
            )
        return self.spans[bisect_right([span.start for span in self.spans], frame) - 1]

    def keyframes(self, span: ShotSpan, tolerance: float = 0.25) -> list[CropKeyframe]:
        """Describe the crop of a shot by few keyframes.

        Args:
            span: One of `spans`.
            tolerance: The most pixels that a side of the crop may be off between them.

        Returns:
            The first and last frame of the shot and those between them that are needed.
        """
        crops = self.crops[span.start : span.stop].astype(np.float64)
        kept = _bends(crops, tolerance)
        return [
            CropKeyframe(span.start + place, x1, y1, x2 - x1, y2 - y1)
            for place, (x1, y1, x2, y2) in zip(kept, crops[kept].tolist(), strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON holds it; rates are texts such as "24000/1001"."""
        return {
            "frame_rate": str(self.frame_rate),
            "num_frames": self.num_frames,
            "frame_size": list(self.frame_size),
            "aspect": str(self.aspect),
            "spans": [[span.shot.name, span.start, span.stop] for span in self.spans],
            "crops": [[float(value) for value in row] for row in self.crops.tolist()],
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Read what `to_dict` gave; it is equal to the bit."""
        width, height = content["frame_size"]
        return cls(
            Fraction(content["frame_rate"]),
            int(content["num_frames"]),
            (int(width), int(height)),
            Fraction(content["aspect"]),
            tuple(ShotSpan(Shot.parse(name), a, b) for name, a, b in content["spans"]),
            np.asarray(content["crops"], dtype=np.float32).reshape(-1, 4),
            tuple(content["warnings"]),
        )


def spans_of(shots: np.ndarray, names: tuple[Shot, ...]) -> tuple[ShotSpan, ...]:
    """Turn the shot of every frame into spans.

    Args:
        shots: (T,) place of each frame's shot in `names`.
        names: The shots.
    """
    changes = np.flatnonzero(np.diff(shots)) + 1
    bounds = [0, *changes.tolist(), len(shots)]
    return tuple(ShotSpan(names[int(shots[a])], a, b) for a, b in pairwise(bounds))


def _bends(crops: np.ndarray, tolerance: float) -> list[int]:
    """Places between which straight lines stay within a tolerance (Ramer, Douglas and Peucker)."""
    last = len(crops) - 1
    kept, waiting = {0, last}, [(0, last)]
    while waiting:
        a, b = waiting.pop()
        if b - a < 2:
            continue
        share = (np.arange(a, b + 1) - a)[:, None] / (b - a)
        off = np.abs(crops[a] + share * (crops[b] - crops[a]) - crops[a : b + 1]).max(1)
        worst = int(off.argmax())
        if off[worst] > tolerance:
            kept.add(a + worst)
            waiting += [(a, a + worst), (a + worst, b)]
    return sorted(kept)
