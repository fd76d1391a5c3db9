"""A synthetic stage: drawn actors who speak, walk and gesture, with sound and a reference edit."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from salhub.files import write_text
from salhub.models.editiq.actor_tracks import ActorTracks
from salhub.models.editiq.frame_source import size_at
from salhub.models.editiq.stage_script import Gesture, Script, write_script
from salhub.models.editiq.utterances import Transcript

_COLOURS = ((196, 70, 60), (64, 112, 190), (70, 150, 84), (206, 160, 60))
_SKIN = (226, 188, 160)
_NOISE_SD = 4.0
# Noise is a window of one larger picture, anywhere within so many pixels.
_NOISE_SHIFT = 97
# Seconds around a cut of the reference in which either shot is right.
_EITHER = 0.3
_SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class StageScene:
    """A film that is drawn when its pictures are asked for; it is a `FrameSource`.

    Args:
        script: What is said and done.
        seconds: Its length.
        size: (width, height) in pixels.
        frame_rate: Pictures a second.
        seed: Of what is drawn.
        homes: (A,) where each actor stands at first, in pixels from the left.
        heights: (A,) of the actors in pixels.
    """

    script: Script
    seconds: float
    size: tuple[int, int]
    frame_rate: Fraction
    seed: int
    homes: np.ndarray
    heights: np.ndarray
    has_sound: bool = True
    warnings: tuple[str, ...] = ()

    @property
    def num_frames(self) -> int:
        """T."""
        return round(self.seconds * self.frame_rate)

    @property
    def names(self) -> tuple[str, ...]:
        """The actors from left to right."""
        return self.script.names

    @property
    def transcript(self) -> Transcript:
        """What is said."""
        return Transcript(tuple(self.script.lines))

    @cached_property
    def middles(self) -> np.ndarray:
        """(A, T) where each actor is, in pixels from the left."""
        times = np.arange(self.num_frames) / float(self.frame_rate)
        found = np.repeat(self.homes[:, None], len(times), axis=1).astype(np.float64)
        for step in self.script.gestures:
            if step.kind == "walk":
                share = np.clip((times - step.start) / (step.end - step.start), 0, 1)
                found[step.actor] += step.distance * share**2 * (3 - 2 * share)
        phase = np.arange(len(found))[:, None]
        found += 2 * np.sin(2 * np.pi * 0.31 * times + 1.7 * phase)
        half = 0.2 * self.heights[:, None]
        return np.clip(found, half, self.size[0] - half)

    @cached_property
    def tracks(self) -> ActorTracks:
        """The exact boxes."""
        half, floor = 0.2 * self.heights[:, None], self._floor
        top = np.broadcast_to(floor - self.heights[:, None], self.middles.shape)
        bottom = np.full_like(self.middles, floor)
        boxes = np.stack([self.middles - half, top, self.middles + half, bottom], -1)
        return ActorTracks(self.names, boxes.astype(np.float32), self.frame_rate, self.size)

    @property
    def _floor(self) -> float:
        return 0.955 * self.size[1]

    # --- pictures ---------------------------------------------------------------------------------

    def frames(
        self, width: int | None = None, *, start: int = 0, stop: int | None = None, step: int = 1
    ) -> Iterator[tuple[int, np.ndarray]]:
        """See `FrameSource`."""
        wanted = size_at(self.size, width)
        for frame in range(self.num_frames)[start:stop:step]:
            image = self._clean(frame)
            if wanted != self.size:
                image = image.resize(wanted, Image.Resampling.BOX)
            yield frame, self._with_noise(image, frame)

    def picture(self, frame: int) -> np.ndarray:
        """Draw one frame, (h, w, 3) RGB, uint8."""
        return self._with_noise(self._clean(frame), frame)

    def _clean(self, frame: int) -> Image.Image:
        image = self._background.copy()
        pen = ImageDraw.Draw(image)
        self._draw_lamp(pen, frame)
        for actor in range(len(self.names)):
            self._draw_actor(pen, actor, frame)
        return image

    def _with_noise(self, image: Image.Image, frame: int) -> np.ndarray:
        """Add the camera's noise, which shrinks with the picture as means of pixels do."""
        draw = np.random.default_rng((self.seed, frame))
        width, height = image.size
        bank = self._noise_of(image.size)
        down, across = draw.integers(0, _NOISE_SHIFT, 2)
        noise = bank[down : down + height, across : across + width]
        found = np.asarray(image).astype(np.int16)
        found += noise
        return np.clip(found, 0, 255, out=found).astype(np.uint8)

    def _noise_of(self, size: tuple[int, int]) -> np.ndarray:
        if size not in self._banks:
            draw = np.random.default_rng((self.seed, 1))
            deviation = _NOISE_SD * size[0] / self.size[0]
            shape = (size[1] + _NOISE_SHIFT, size[0] + _NOISE_SHIFT, 3)
            noise = draw.normal(0, 1, shape).astype(np.float32)
            self._banks[size] = np.rint(deviation * noise).astype(np.int8)
        return self._banks[size]

    @cached_property
    def _banks(self) -> dict[tuple[int, int], np.ndarray]:
        return {}

    @cached_property
    def _background(self) -> Image.Image:
        draw = np.random.default_rng((self.seed, 2))
        width, height = self.size
        down = np.linspace(0, 1, height)[:, None, None]
        across = np.linspace(-1, 1, width)[None, :, None]
        tones = np.array([52.0, 40.0, 66.0]) + 46 * down - 14 * across**2
        image = Image.fromarray(np.clip(tones, 0, 255).astype(np.uint8))
        pen = ImageDraw.Draw(image)
        pen.rectangle([0, 0.88 * height, width, height], fill=(96, 76, 58))
        for _ in range(20):
            x, y = draw.uniform(0, width), draw.uniform(0.1, 0.85) * height
            w, h = draw.uniform(8, 46), draw.uniform(8, 46)
            fill = tuple(int(one) for one in draw.uniform(40, 150, 3))
            box = [x, y, x + w, y + h]
            (pen.rectangle if draw.random() < 0.6 else pen.ellipse)(box, fill=fill)
        return image

    def _draw_lamp(self, pen: ImageDraw.ImageDraw, frame: int) -> None:
        bright = int(np.random.default_rng((self.seed, 3, frame)).integers(120, 255))
        r, x, y = 0.03 * self.size[1], 0.015 * self.size[0], 0.08 * self.size[1]
        pen.ellipse([x, y, x + 2 * r, y + 2 * r], fill=(bright, bright, bright // 2))

    def _draw_actor(self, pen: ImageDraw.ImageDraw, actor: int, frame: int) -> None:
        time = frame / float(self.frame_rate)
        x, h, floor = float(self.middles[actor, frame]), float(self.heights[actor]), self._floor
        doing = [g for g in self.script.gestures if g.actor == actor and g.start <= time < g.end]
        speech = any(one.kind == "speech" for one in doing)
        large = any(one.kind == "gesture" for one in doing)
        pace = 3.0 + 0.6 * actor
        beat = float(np.sin(2 * np.pi * pace * time))
        colour, dark = _COLOURS[actor], tuple(one // 2 for one in _COLOURS[actor])
        top, wide = floor - h, 0.5 * 0.26 * h
        head = 0.075 * h
        shoulders, hips = top + 0.17 * h, top + 0.52 * h
        for side in (-1, 1):
            leg = x + side * 0.06 * h
            pen.line(
                [x + side * 0.04 * h, hips, leg, floor], fill=dark, width=max(3, int(0.07 * h))
            )
            swing = 0.05 * h
            if large:
                swing, raised = (0.17 + 0.02 * beat) * h, (0.14 + 0.13 * beat * side) * h
            elif speech and side > 0:
                swing, raised = 0.14 * h, (0.02 + 0.1 * beat) * h
            else:
                raised = -0.24 * h
            hand = (x + side * min(wide + swing, 0.19 * h), shoulders + 0.06 * h - raised)
            arm = [x + side * wide * 0.8, shoulders + 0.03 * h, *hand]
            pen.line(arm, fill=colour, width=max(3, int(0.05 * h)))
        pen.rectangle([x - wide * 0.8, shoulders, x + wide * 0.8, hips], fill=colour)
        pen.ellipse([x - head, top, x + head, top + 2 * head], fill=_SKIN)
        mouth = (0.35 + 0.3 * beat if speech else 0.12) * head
        middle = top + 1.4 * head
        box = [x - 0.4 * head, middle - mouth / 2, x + 0.4 * head, middle + mouth / 2]
        pen.ellipse(box, fill=(90, 30, 30))

    # --- sound and files --------------------------------------------------------------------------

    def sound(self, sample_rate: int = _SAMPLE_RATE) -> np.ndarray:
        """Voices as buzzes with a pitch for each actor, (S,) float32 in [-1, 1].

        Args:
            sample_rate: Samples a second.
        """
        times = np.arange(round(self.seconds * sample_rate)) / sample_rate
        draw = np.random.default_rng((self.seed, 4))
        found = 0.003 * draw.standard_normal(len(times))
        for line in self.script.lines:
            first, last = round(line.start * sample_rate), round(line.end * sample_rate)
            own = times[first:last]
            pitch = 110.0 * 1.35 ** self.names.index(line.speaker)
            tone = sum(np.sin(2 * np.pi * pitch * n * own) / n for n in range(1, 6))
            syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4.2 * (own - line.start))
            found[first:last] += 0.12 * tone * syllables
        return np.clip(found, -1, 1).astype(np.float32)

    def srt(self) -> str:
        """The lines as a subtitle file, "NAME: text"."""
        blocks = [
            f"{number}\n{_clock(line.start)} --> {_clock(line.end)}\n"
            f"{line.speaker.upper()}: {line.text}\n"
            for number, line in enumerate(self.script.lines, 1)
        ]
        return "\n".join(blocks)

    def truth(self) -> dict[str, Any]:
        """What the scene is made of, as JSON holds it."""
        return {
            "names": list(self.names),
            "seconds": self.seconds,
            "frame_rate": str(self.frame_rate),
            "size": list(self.size),
            "seed": self.seed,
            "beats": [[name, start] for name, start in self.script.beats],
            "edit": [[o.start, o.end, o.shot, *o.accepted] for o in self.script.reference],
            "gestures": [[o.start, o.end, self.names[o.actor], o.kind] for o in self._gestures],
        }

    @property
    def _gestures(self) -> list[Gesture]:
        return sorted(self.script.gestures, key=lambda one: one.start)

    def reference(self) -> tuple[list[str], list[frozenset[str]]]:
        """The reference edit: for each frame the shot, and all names that are as good."""
        names: list[str] = []
        accepted: list[frozenset[str]] = []
        spans = self.script.reference
        rate = float(self.frame_rate)
        for frame in range(self.num_frames):
            time = frame / rate
            near = [o for o in spans if o.start - _EITHER <= time < o.end + _EITHER]
            own = next(o for o in reversed(spans) if o.start <= time + 1e-9)
            names.append(own.shot)
            others = {o.shot for o in near}
            accepted.append(frozenset({own.shot, *own.accepted, *others}))
        return names, accepted

    def save(self, folder: str | Path) -> Path:
        """Write scene.mp4 with sound, scene.srt, scene.npz (tracks) and scene.json (the truth).

        Args:
            folder: Where to.

        Returns:
            The path of the film.

        Raises:
            MissingExtraError: PyAV is not installed.
        """
        from salhub.models.editiq.film_writing import write_film

        folder = Path(folder)
        write_text(folder / "scene.srt", self.srt())
        write_text(folder / "scene.json", json.dumps(self.truth(), indent=1))
        self.tracks.save(folder / "scene.npz")
        film = folder / "scene.mp4"
        pictures = (picture for _, picture in self.frames())
        write_film(film, pictures, self.frame_rate, (self.sound(), _SAMPLE_RATE))
        return film

    def fingerprint(self) -> str:
        """See `FrameSource`."""
        return hashlib.sha256(json.dumps(self.truth()).encode()).hexdigest()[:24]


def make_stage_scene(
    seed: int,
    num_actors: int | None = None,
    seconds: float = 40.0,
    size: tuple[int, int] = (1280, 360),
    frame_rate: Fraction = Fraction(25, 2),
) -> StageScene:
    """Draw a scene.

    Args:
        seed: Of all that is drawn.
        num_actors: 2 to 4; drawn by default.
        seconds: Its length, 5 or more.
        size: (width, height) in pixels.
        frame_rate: Pictures a second.

    Raises:
        ValueError: Another number of actors, or a scene that is too short.

    Example:
        >>> scene = make_stage_scene(0, 2, seconds=10)
        >>> scene.num_frames, scene.names
        (125, ('anna', 'ben'))
    """
    draw = np.random.default_rng(seed)
    num_actors = int(draw.integers(2, 5)) if num_actors is None else num_actors
    if not 2 <= num_actors <= 4 or seconds < 5:
        raise ValueError(
            f"A scene has 2 to 4 actors and 5 seconds or more, got {num_actors} and {seconds}."
        )
    width, height = size
    # So near that two neighbours fit into one crop.
    lane = width / (num_actors + 1)
    jitter = draw.uniform(-0.08, 0.08, num_actors)
    homes = lane * (np.arange(num_actors) + 1 + jitter)
    heights = draw.uniform(150, 190, num_actors) * height / 360
    script = write_script(draw, num_actors, seconds)
    return StageScene(script, float(seconds), size, Fraction(frame_rate), seed, homes, heights)


def _clock(seconds: float) -> str:
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02},{rest % 1000:03}"
