"""Scenes that take no time: drawn ones, and films whose pictures are blank."""

from fractions import Fraction

import numpy as np

from salhub.models.editiq.actor_tracks import ActorTracks
from salhub.models.editiq.utterances import Transcript, Utterance


class BlankFilm:
    """A film of grey pictures."""

    has_sound, warnings = False, ()

    def __init__(self, seconds=12.0, size=(1280, 360), rate=Fraction(10)):
        self.size, self.frame_rate = size, Fraction(rate)
        self.num_frames = round(seconds * self.frame_rate)
        self.passes = 0

    def frames(self, width=None, *, start=0, stop=None, step=1):
        self.passes += 1
        width = min(width or self.size[0], self.size[0])
        height = max(2, round(self.size[1] * width / self.size[0]))
        for frame in range(self.num_frames)[start:stop:step]:
            yield frame, np.full((height, width, 3), 90, np.uint8)

    def fingerprint(self):
        return f"{self.size}-{self.frame_rate}-{self.num_frames}"


def standing(film, names=("anna", "ben")):
    """Tracks of people who stand where they are."""
    width, height = film.size
    boxes = []
    for number in range(len(names)):
        x = width * (number + 1) / (len(names) + 1)
        box = [x - 0.03 * width, 0.4 * height, x + 0.03 * width, 0.93 * height]
        boxes.append(np.tile(box, (film.num_frames, 1)))
    return ActorTracks(tuple(names), np.stack(boxes), film.frame_rate, film.size)


def two_lines():
    """Anna asks and Ben answers."""
    return Transcript((
        Utterance(3.5, 6.5, "Where were you, Ben?", "ANNA"),
        Utterance(7.0, 11.0, "At home all day long.", "BEN"),
    ))  # fmt: skip
