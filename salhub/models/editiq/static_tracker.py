"""People in the pictures of a camera that never moves, without any weights."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import binary_opening, find_objects, label, maximum_filter1d, minimum_filter1d
from scipy.optimize import linear_sum_assignment

from salhub.models.editiq.actor_tracks import ActorTracks
from salhub.models.editiq.configuration_editiq import MOST_ACTORS, EditIQConfig
from salhub.models.editiq.frame_source import FrameSource

# Pictures whose median is the background.
_SAMPLES = 60
# Deviations of the noise from which on a pixel has changed, and the least change of a grey level.
_NOISES, _LEAST_CHANGE = 4.5, 8.0
# Seconds over which a pixel is watched for motion: people sway, the stage does not.
_WATCH = 1.5
# Share of a person's box that moves in so many seconds; furniture, and the hole that somebody
# leaves in the background, keep still altogether.
_MOVING, _STILL_SECONDS = 0.015, 1.5
# Of a person, as shares of the frame's height, and the most that is wide for its height.
_LEAST_HEIGHT, _WIDEST = 0.14, 1.6
# Parts this near each other are one, as a share of the frame's height.
_REACH = 0.09
# Two that stay this near each other are one person, as a share of their height.
_ONE_PERSON = 0.3
# Cost of a link from which on a blob is somebody else.
_DEAREST = 0.9
# Share of the film in which somebody must be seen, and the seconds that are enough.
_LEAST_SEEN, _ENOUGH_SECONDS = 0.15, 10.0
# Share of a person's usual height below which only a part of a body is seen.
_WHOLE = 0.6
_BINS = 8


@dataclass
class _Person:
    """Somebody who is followed: a Kalman filter of constant speed over middle, top, width, height.

    Args:
        box: The last one, in pixels of the small picture.
        colours: Histogram of what it holds.
    """

    box: np.ndarray
    colours: np.ndarray
    speed: np.ndarray = field(default_factory=lambda: np.zeros(2))
    doubt: float = 4.0
    missed: int = 0
    seen: dict[int, np.ndarray] = field(default_factory=dict)

    def predicted(self) -> np.ndarray:
        return self.box + np.tile(self.speed, 2)

    def correct(self, frame: int, box: np.ndarray, colours: np.ndarray, noise: float) -> None:
        """Take a box that was measured."""
        expected, self.doubt = self.predicted(), self.doubt + 1.0
        gain = self.doubt / (self.doubt + noise)
        fresh = expected + gain * (box - expected)
        move = (fresh - self.box).reshape(2, 2).mean(0)
        self.speed = 0.7 * self.speed + 0.3 * move
        self.box, self.doubt = fresh, (1 - gain) * self.doubt
        self.colours = 0.9 * self.colours + 0.1 * colours
        self.missed = 0
        self.seen[frame] = fresh

    def coast(self) -> None:
        """Go on without a box."""
        self.box, self.doubt = self.predicted(), self.doubt + 4.0
        self.speed = 0.8 * self.speed
        self.missed += 1


class StaticCameraTracker:
    """Finds people by what differs from the background, and by what never keeps quite still.

    The background is the median of pictures spread over the film. People who never leave their
    place are part of it, and found by the variance of their outlines. Blobs are merged where one
    stands above another, parted where two people touch, and linked by overlap, distance and colour.
    A fallback: where you have tracks or a detector, give those.

    Args:
        config: Rate and size of the pictures, and the longest gap.
    """

    def __init__(self, config: EditIQConfig) -> None:
        self.config = config

    def track(
        self,
        film: FrameSource,
        progress: Callable[[int, int], None] | None = None,
        most: int = MOST_ACTORS,
    ) -> ActorTracks:
        """Follow everybody in a film.

        Args:
            film: The film.
            progress: Called with pictures done, and all of them.
            most: People at most; those who are seen most are kept.

        Returns:
            Tracks of "actor 1", "actor 2" and so on from left to right.

        Raises:
            ValueError: Nobody was found.
        """
        width, rate = _width_of(film, self.config), float(film.frame_rate)
        step = max(1, round(rate / self.config.tracker_rate))
        spread = max(1, film.num_frames // _SAMPLES)
        samples = [_grey(picture) for _, picture in film.frames(width, step=spread)]
        background = np.median(np.stack(samples[: 2 * _SAMPLES]), axis=0)
        total, people, last = len(range(0, film.num_frames, step)), [], None
        watch = _Watch(background, rate / step)
        small = background.shape[::-1]
        for done, (frame, picture) in enumerate(film.frames(width, step=step), 1):
            boxes = self._parted(watch.moving_blobs(_grey(picture)), people)
            self._link(frame, boxes, picture, people, rate / step)
            last = frame
            if progress is not None:
                progress(done, total)
        return self._tracks(film, people, small, step, 0 if last is None else last, most)

    def _parted(self, boxes: list[np.ndarray], people: list[_Person]) -> list[np.ndarray]:
        """Part a blob that holds two people by the widths that they had."""
        found = []
        for box in boxes:
            inside = [
                one
                for one in people
                if one.missed <= 2 and box[0] - 2 <= (one.box[0] + one.box[2]) / 2 <= box[2] + 2
            ]
            wide = box[2] - box[0]
            own = sum(one.box[2] - one.box[0] for one in inside)
            if len(inside) < 2 or wide < 0.6 * own:
                found.append(box)
                continue
            for one in sorted(inside, key=lambda person: person.box[0]):
                half = (one.box[2] - one.box[0]) / 2
                middle = np.clip(one.predicted()[::2].mean(), box[0] + half, box[2] - half)
                found.append(np.array([middle - half, box[1], middle + half, box[3]]))
        return found

    def _link(self, frame, boxes, picture, people: list[_Person], rate: float) -> None:
        live = [one for one in people if one.missed <= self.config.longest_gap * rate * 4]
        colours = [_colours(picture, box) for box in boxes]
        costs = np.array([[_cost(one, b, c) for b, c in zip(boxes, colours, strict=True)]
                          for one in live]).reshape(len(live), len(boxes))  # fmt: skip
        rows, columns = linear_sum_assignment(costs)
        taken = set()
        for row, column in zip(rows, columns, strict=True):
            if costs[row, column] < _DEAREST:
                live[row].correct(frame, boxes[column], colours[column], noise=6.0)
                taken |= {("person", row), ("box", column)}
        for row, one in enumerate(live):
            if ("person", row) not in taken:
                one.coast()
        for column, box in enumerate(boxes):
            if ("box", column) not in taken:
                one = _Person(box.astype(np.float64), colours[column])
                one.seen[frame] = one.box
                people.append(one)

    def _tracks(
        self, film, people: list[_Person], small, step: int, last: int, most: int
    ) -> ActorTracks:
        """Boxes of those who are seen for long, on all frames of the film."""
        rate = float(film.frame_rate) / step
        seconds = min(_LEAST_SEEN * (last + 1) / float(film.frame_rate), _ENOUGH_SECONDS)
        needed, some = max(2, seconds * rate), max(2, seconds * rate / 4)
        # What is seen for a moment is no person, but may be a part of one's way.
        joined = _joined([one for one in people if len(one.seen) >= some])
        kept = [one for one in joined if len(one.seen) >= needed]
        kept.sort(key=lambda one: -len(one.seen))
        notes = []
        if not kept:
            raise ValueError(
                "Nobody was found: nothing of the size of a person moves in front of the "
                "background; give tracks=..., or a detector=..."
            )
        if len(kept) > most:
            notes.append(f"{len(kept)} people were found; the {most} seen most often were kept.")
            kept = kept[:most]
        kept.sort(key=lambda one: next(iter(one.seen.values()))[0])
        scale = np.tile(np.array(film.size) / np.array(small), 2)
        boxes = np.full((len(kept), film.num_frames, 4), np.nan, np.float32)
        gap = self.config.longest_gap * float(film.frame_rate)
        frames = np.arange(film.num_frames)
        for row, one in enumerate(kept):
            at, own = _whole_bodies(one.seen)
            after = np.searchsorted(at, frames).clip(1, len(at) - 1)
            before, later = at[after - 1], at[after]
            nearest = np.minimum(np.abs(frames - before), np.abs(frames - later))
            is_short = (before <= frames) & (frames <= later) & (later - before <= 2 * gap)
            sides = [np.interp(frames, at, scale[side] * own[:, side]) for side in range(4)]
            is_there = is_short | (nearest < step)
            boxes[row] = np.where(is_there[:, None], np.stack(sides, 1), np.nan)
        who = "1 person was" if len(kept) == 1 else f"{len(kept)} people were"
        notes.append(
            f"{who} found by the tracker for static cameras, which can be wrong; check the "
            "boxes, or give tracks."
        )
        names = tuple(f"actor {number}" for number in range(1, len(kept) + 1))
        limit = np.tile(np.array(film.size, np.float32), 2)
        boxes = np.clip(boxes, 0, limit)
        return ActorTracks(
            names, boxes, film.frame_rate, film.size, "static-camera", (*film.warnings, *notes)
        )


def track_by_detector(
    film: FrameSource,
    detector: Callable,
    config: EditIQConfig,
    progress: Callable[[int, int], None] | None = None,
    most: int = MOST_ACTORS,
) -> ActorTracks:
    """Follow the boxes that a detector gives.

    Args:
        film: The film.
        detector: Takes a picture (h, w, 3) RGB, uint8, and gives boxes (N, 4) in its pixels.
        config: Rate and size of the pictures.
        progress: Called with pictures done, and all of them.
        most: People at most; those who are seen most are kept.

    Raises:
        ValueError: It gives something else, or nobody at all.
    """
    tracker = StaticCameraTracker(config)
    rate = float(film.frame_rate)
    step = max(1, round(rate / config.tracker_rate))
    people: list[_Person] = []
    last, shape, total = 0, (1, 1), len(range(0, film.num_frames, step))
    for done, (frame, picture) in enumerate(film.frames(_width_of(film, config), step=step), 1):
        found = np.asarray(detector(picture), dtype=np.float64)
        found = found.reshape(-1, 4) if found.size == 0 else found
        if found.ndim != 2 or found.shape[1] != 4 or not np.isfinite(found).all():
            raise ValueError(
                f"The detector returned boxes of shape {found.shape}; expected (N, 4) finite "
                "numbers, x1, y1, x2, y2 in pixels of its input picture."
            )
        tracker._link(frame, list(found), picture, people, rate / step)
        last, shape = frame, picture.shape[1::-1]
        if progress is not None:
            progress(done, total)
    if not people:
        raise ValueError("The detector found nobody in the whole film; check the detector.")
    tracks = tracker._tracks(film, people, shape, step, last, most)
    return ActorTracks(
        tracks.names, tracks.boxes, tracks.frame_rate, tracks.frame_size, "callback", film.warnings
    )


class _Watch:
    """What has changed: pixels unlike the background, and pixels that do not keep still.

    Args:
        background: The empty stage in grey levels, (h, w).
        rate: Pictures a second.
    """

    def __init__(self, background: np.ndarray, rate: float) -> None:
        self.background = background
        self.share = 1 / max(2.0, _WATCH * rate)
        self.mean, self.square = background.copy(), background**2
        self.before: np.ndarray | None = None
        self.motions: deque[np.ndarray] = deque(maxlen=max(2, round(_STILL_SECONDS * rate)))

    def moving_blobs(self, grey: np.ndarray) -> list[np.ndarray]:
        """Boxes of what may be a person, and moves; what only differs becomes background."""
        mask = self.changed(grey)
        self._look_for_motion(grey)
        if len(self.motions) < 2:
            return _blobs(mask)
        moved, found = np.any(self.motions, axis=0), []
        for box in _blobs(mask):
            x1, y1, x2, y2 = box.astype(int)
            place = slice(y1, y2), slice(x1, x2)
            if moved[place].mean() >= _MOVING:
                found.append(box)
            elif len(self.motions) == self.motions.maxlen:
                self.background[place] = self.mean[place] = grey[place]
                self.square[place] = grey[place] ** 2
        return found

    def _look_for_motion(self, grey: np.ndarray) -> None:
        if self.before is not None:
            change = grey - self.before
            change -= _median(change)
            noise = max(0.5, 1.4826 * _median(np.abs(change)))
            self.motions.append(np.abs(change) > max(_NOISES * noise, 0.75 * _LEAST_CHANGE))
        self.before = grey

    def changed(self, grey: np.ndarray) -> np.ndarray:
        difference = grey - self.background
        difference -= _median(difference)
        noise = max(0.5, 1.4826 * _median(np.abs(difference)))
        self.mean += self.share * (grey - self.mean)
        self.square += self.share * (grey**2 - self.square)
        deviation = np.sqrt(np.maximum(self.square - self.mean**2, 0))
        usual = max(0.5, _median(deviation))
        mask = np.abs(difference) > max(_NOISES * noise, _LEAST_CHANGE)
        mask |= deviation > max(3.0 * usual, _LEAST_CHANGE / 2)
        reach = max(3, round(_REACH * len(mask)))
        return binary_opening(_closed(mask, reach), np.ones((3, 2)))


def _median(values: np.ndarray) -> float:
    """The median of every second pixel both ways, in a quarter of the time."""
    return float(np.median(values[::2, ::2]))


def _width_of(film: FrameSource, config: EditIQConfig) -> int:
    """Width of the small pictures, whose longer side the configuration says."""
    across, down = film.size
    return max(2, round(config.tracker_width * min(1.0, across / down)))


def _closed(mask: np.ndarray, reach: int) -> np.ndarray:
    """Morphological closing by a square, one side after the other, as large squares are slow."""
    found = np.pad(mask, reach).view(np.uint8)
    for axis in (0, 1):
        origin = reach % 2 - 1
        found = maximum_filter1d(found, reach, axis, mode="constant", origin=origin)
    for axis in (0, 1):
        found = minimum_filter1d(found, reach, axis, mode="constant")
    return found[reach:-reach, reach:-reach].astype(bool)


def _blobs(mask: np.ndarray) -> list[np.ndarray]:
    """Boxes of what may be a person; parts that stand above each other are one."""
    height = mask.shape[0]
    parts = [
        np.array([s[1].start, s[0].start, s[1].stop, s[0].stop], np.float64)
        for s in find_objects(label(mask)[0])
        if (s[1].stop - s[1].start) * (s[0].stop - s[0].start) >= 12
    ]
    parts.sort(key=lambda box: -(box[2] - box[0]) * (box[3] - box[1]))
    merged: list[np.ndarray] = []
    for part in parts:
        for one in merged:
            shared = min(one[2], part[2]) - max(one[0], part[0])
            apart = max(one[1], part[1]) - min(one[3], part[3])
            if shared > 0.5 * min(part[2] - part[0], one[2] - one[0]) and apart < 0.15 * height:
                one[:2], one[2:] = np.minimum(one[:2], part[:2]), np.maximum(one[2:], part[2:])
                break
        else:
            merged.append(part.copy())
    found = []
    for box in merged:
        wide, tall = box[2:] - box[:2]
        if tall >= _LEAST_HEIGHT * height and wide <= _WIDEST * tall:
            found.append(box)
    return found


def _whole_bodies(seen: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Frames and boxes of a person but for those who come in or go out by a foot or a shadow."""
    at, own = np.array(list(seen)), np.stack(list(seen.values()))
    tall = own[:, 3] - own[:, 1]
    is_whole = tall >= _WHOLE * np.median(tall)
    return at[is_whole], own[is_whole]


def _joined(people: list[_Person]) -> list[_Person]:
    """Join tracks that are parts of one person: they stay too near each other to be two."""
    kept: list[_Person] = []
    for one in sorted(people, key=lambda person: -len(person.seen)):
        for other in kept:
            both = [frame for frame in one.seen if frame in other.seen]
            if len(both) < 0.3 * len(one.seen):
                if not _follow(one, other):
                    continue
                other.seen = dict(sorted({**one.seen, **other.seen}.items()))
                break
            pairs = np.stack([(one.seen[frame], other.seen[frame]) for frame in both])
            middles = pairs[..., ::2].mean(2)
            tall = (pairs[..., 3] - pairs[..., 1]).max(1)
            if (np.abs(middles[:, 0] - middles[:, 1]) / tall).mean() < _ONE_PERSON:
                for frame in both:
                    box, part = other.seen[frame], one.seen[frame]
                    other.seen[frame] = np.append(
                        np.minimum(box[:2], part[:2]), np.maximum(box[2:], part[2:])
                    )
                break
        else:
            kept.append(one)
    return kept


def _follow(one: _Person, other: _Person) -> bool:
    """Whether a track goes on where another has ended, or the other way round."""
    early, late = sorted((one, other), key=lambda person: next(iter(person.seen)))
    first = next(iter(late.seen.values()))
    inside = [abs(frame - next(iter(late.seen))) for frame in early.seen]
    # Where the later one begins, the earlier one may have stood for a while.
    last = early.seen[list(early.seen)[int(np.argmin(inside))]]
    tall = max(last[3] - last[1], first[3] - first[1])
    return abs(last[::2].mean() - first[::2].mean()) < _ONE_PERSON * tall


def _cost(person: _Person, box: np.ndarray, colours: np.ndarray) -> float:
    expected = person.predicted()
    low, high = np.maximum(expected[:2], box[:2]), np.minimum(expected[2:], box[2:])
    shared = float(np.maximum(high - low, 0).prod())
    sizes = float((expected[2:] - expected[:2]).prod() + (box[2:] - box[:2]).prod())
    overlap = shared / max(sizes - shared, 1e-9)
    far = abs(expected[::2].mean() - box[::2].mean()) / max(1.0, expected[3] - expected[1])
    alike = float(np.minimum(person.colours, colours).sum())
    return 0.45 * (1 - overlap) + 0.35 * min(far, 2.0) + 0.35 * (1 - alike)


def _colours(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Histogram of each channel in a box, (24,) of sum 1."""
    x1, y1, x2, y2 = np.round(box).astype(int)
    part = picture[max(0, y1) : max(1, y2), max(0, x1) : max(1, x2)].reshape(-1, 3)
    if not len(part):
        return np.full(3 * _BINS, 1 / (3 * _BINS))
    places = part.astype(np.int64) * _BINS // 256
    counts = [np.bincount(places[:, c], minlength=_BINS)[:_BINS] for c in range(3)]
    found = np.concatenate(counts).astype(np.float64)
    return found / found.sum()


def _grey(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float32).mean(2)
