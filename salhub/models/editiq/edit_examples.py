"""Films with an edit by a person or by a rule, to learn from and to be measured on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salhub.models.editiq.actor_tracks import ActorTracks
from salhub.models.editiq.edit_metrics import Reference
from salhub.models.editiq.film_reading import FilmFile
from salhub.models.editiq.frame_source import FrameSource
from salhub.models.editiq.shots import Shot
from salhub.models.editiq.stage_scene import make_stage_scene
from salhub.models.editiq.subtitles import read_transcript
from salhub.models.editiq.utterances import Transcript

STAGE = "stage"
# First seeds of the scenes that are learned from, tried out on, and measured on.
LEARNING_SEED, TRIAL_SEED, MEASURING_SEED = 1000, 500, 100
# Seconds around a cut of a person in which the shots of both sides are right.
EITHER = 0.3


@dataclass(frozen=True)
class EditExample:
    """A film and how it should be cut.

    Args:
        name: What it is called.
        film: The film; None where only its tracks are there, so that saliency has no part.
        transcript: What is said.
        tracks: Where people are.
        spans: (from, until, names of shots that are right, the best one first) in seconds.
        inserts: (from, until, name of the shot) of reactions, where they are known.
    """

    name: str
    film: FrameSource | None
    transcript: Transcript
    tracks: ActorTracks
    spans: tuple[tuple[float, float, tuple[str, ...]], ...]
    inserts: tuple[tuple[float, float, str], ...] = ()

    def reference(self) -> Reference:
        """The same frame by frame."""
        rate = float(self.tracks.frame_rate)
        shots, accepted = [], []
        for frame in range(self.tracks.num_frames):
            time = frame / rate + 1e-9
            own = next((s for s in reversed(self.spans) if s[0] <= time), self.spans[0])
            near = [s for s in self.spans if s[0] - EITHER <= time < s[1] + EITHER]
            shots.append(own[2][0])
            accepted.append(frozenset({*own[2], *(s[2][0] for s in near)}))
        return Reference(shots, accepted)


def stage_examples(seed: int, count: int, seconds: float) -> list[EditExample]:
    """Draw scenes with the edit by the rule of each beat.

    Args:
        seed: Of the first scene; the others follow.
        count: Scenes.
        seconds: Length of each.
    """
    found = []
    for number in range(seed, seed + count):
        scene = make_stage_scene(number, seconds=seconds)
        spans = tuple((o.start, o.end, (o.shot, *o.accepted)) for o in scene.script.reference)
        # The reference comes back to the speaker, who is accepted beside who listens.
        inserts = tuple(
            (o.start, o.end, o.shot)
            for o in scene.script.reference
            if len(o.accepted) == 1 and o.accepted[0].count("+") == 0 and o.end - o.start < 2.5
        )
        found.append(
            EditExample(f"stage-{number}", scene, scene.transcript, scene.tracks, spans, inserts)
        )
    return found


def read_examples(folder: str | Path) -> list[EditExample]:
    """Read a folder of films that people have edited.

    For each NAME there are NAME.json, the edit: a list of [from, until, shot, further shots that
    are as good...] in seconds, or an object with such a list under "edit"; NAME.npz, the tracks, as
    `ActorTracks.save` writes them; and NAME.srt, .vtt or .ass, what is said, empty where nobody
    speaks. NAME.mp4, .mov, .mkv or .webm, the film, is needed where saliency is to have a part.

    Args:
        folder: The folder.

    Raises:
        FileNotFoundError: There is no folder, or no edit in it, or a file of an edit is missing.
        ValueError: An edit that is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder of edits {folder} does not exist.")
    edits = sorted(folder.glob("*.json"))
    if not edits:
        raise FileNotFoundError(
            f"{folder} holds no edit; expected NAME.json with [from, until, shot] for each "
            "shot, next to NAME.npz and NAME.srt."
        )
    found = []
    for path in edits:
        tracks = ActorTracks.read(path.with_suffix(".npz"))
        spans = _spans(path)
        for name in {name for _, _, names in spans for name in names}:
            unknown = [one for one in Shot.parse(name).actors if one not in tracks.names]
            if unknown:
                raise ValueError(
                    f"{path} shows '{name}', but {unknown[0]} is not tracked; the tracks "
                    f"contain {', '.join(tracks.names)}."
                )
        lines = _beside(path, (".srt", ".vtt", ".ass", ".lines.json"))
        if lines is None:
            raise FileNotFoundError(
                f"There is no transcript next to {path}, such as {path.stem}.srt."
            )
        film = _beside(path, (".mp4", ".mov", ".mkv", ".webm"))
        opened = None if film is None else FilmFile.open(film)
        is_silent = not lines.read_bytes().strip()
        transcript = Transcript(()) if is_silent else read_transcript(lines, tracks.names)
        found.append(EditExample(path.stem, opened, transcript, tracks, spans))
    return found


def _spans(path: Path) -> tuple[tuple[float, float, tuple[str, ...]], ...]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}).") from None
    rows: Any = content.get("edit") if isinstance(content, dict) else content
    try:
        spans = tuple((float(a), float(b), tuple(map(str, names))) for a, b, *names in rows)
        for _, _, names in spans:
            for name in names:
                Shot.parse(name)
        is_right = all(0 <= a < b and names for a, b, names in spans) and bool(spans)
    except (TypeError, ValueError):
        is_right = False
    if not is_right:
        raise ValueError(
            f"{path} is not an edit; expected a list of [from, until, shot] in seconds, such "
            'as [0, 2.5, "WIDE"].'
        )
    return spans


def _beside(path: Path, endings: tuple[str, ...]) -> Path | None:
    found = (path.with_name(path.stem + ending) for ending in endings)
    return next((one for one in found if one.is_file()), None)


def film_of(one: EditExample) -> FrameSource:
    """The film of an example; without one, what its tracks know of it and no pictures."""
    return one.film if one.film is not None else _NoFilm(one.tracks)


class _NoFilm:
    """What is known of a film whose pictures are not at hand."""

    has_sound, warnings = False, ()

    def __init__(self, tracks: ActorTracks) -> None:
        self.size, self.frame_rate = tracks.frame_size, tracks.frame_rate
        self.num_frames = tracks.num_frames

    def frames(self, *_: Any, **__: Any) -> Any:
        raise ValueError("The film is not available.")

    def fingerprint(self) -> str:
        return ""
