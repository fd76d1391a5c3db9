"""Tracks as cameras need them: short gaps filled, steady, and in order from left to right."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.ndimage import median_filter

from salhub.models.editiq.actor_tracks import ActorTracks

# Seconds that two people must have changed sides to be sorted anew.
_SWAP_SECONDS = 0.5


class SteadyTracks(NamedTuple):
    """Tracks without gaps.

    Args:
        boxes: (A, T, 4) float64; where somebody is away, the last or next box that there is.
        present: (A, T) bool: where somebody is, gaps that were filled included.
        order: (T, A) places of the actors from left to right.
        filled: Number of boxes that were filled in.
    """

    boxes: np.ndarray
    present: np.ndarray
    order: np.ndarray
    filled: int


def steady(tracks: ActorTracks, longest_gap: float, smoothing: float) -> SteadyTracks:
    """Fill short gaps evenly, take a running median, and sort.

    Args:
        tracks: The tracks.
        longest_gap: Seconds; in longer gaps a person is away.
        smoothing: Seconds of the running median; 0 for none.
    """
    rate = float(tracks.frame_rate)
    boxes = tracks.boxes.astype(np.float64)
    seen, present = tracks.present, tracks.present.copy()
    frames = np.arange(tracks.num_frames)
    for actor in range(len(boxes)):
        at = np.flatnonzero(seen[actor])
        for side in range(4):
            boxes[actor, :, side] = np.interp(frames, at, boxes[actor, at, side])
        for before, after in pairwise(at):
            if after - before > 1 and (after - before - 1) / rate <= longest_gap:
                present[actor, before:after] = True
        # Where the film begins or ends nothing comes on the other side.
        if at[0] / rate <= longest_gap:
            present[actor, : at[0]] = True
        if (tracks.num_frames - 1 - at[-1]) / rate <= longest_gap:
            present[actor, at[-1] :] = True
    width = 2 * round(smoothing * rate / 2) + 1
    if width > 1:
        boxes = median_filter(boxes, size=(1, width, 1), mode="nearest")
    filled = int(present.sum() - seen.sum())
    return SteadyTracks(boxes, present, _order(boxes, rate), filled)


def _order(boxes: np.ndarray, rate: float) -> np.ndarray:
    """Actors from left to right at each frame, (T, A); short swaps do not count."""
    middles = boxes[..., ::2].mean(2)
    wait = max(1, round(_SWAP_SECONDS * rate))
    raw = np.argsort(middles, axis=0, kind="stable").T
    order = np.empty_like(raw)
    held, since, candidate = raw[0], 0, raw[0]
    for frame, now in enumerate(raw):
        if (now != candidate).any():
            candidate, since = now, frame
        if frame - since + 1 > wait:
            held = candidate
        order[frame] = held
    return order
