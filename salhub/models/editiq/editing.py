"""The stages of an edit, each kept so that it need not be done again."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from salhub.models.editiq.actor_tracks import ActorTracks, check_names
from salhub.models.editiq.configuration_editiq import MOST_ACTORS, EditIQConfig
from salhub.models.editiq.dialogue_potential import DialoguePotential, cues_of, make_potential
from salhub.models.editiq.edit import Edit, Material
from salhub.models.editiq.edit_decision import EditDecision, spans_of
from salhub.models.editiq.energy import Energy, Scene
from salhub.models.editiq.film_saliency import (
    ActorSaliency,
    check_maps,
    check_saliency,
    potentials_of,
    saliency_of_film,
)
from salhub.models.editiq.frame_source import FrameSource
from salhub.models.editiq.line_readings import LineReading
from salhub.models.editiq.reading_by_chat import Understanding, read_by_chat, read_by_function
from salhub.models.editiq.reading_rules import read_by_rules
from salhub.models.editiq.rushes import Rushes, check_sizes, make_rushes
from salhub.models.editiq.shots import Lock, Shot, check_locks, find_shot
from salhub.models.editiq.stages import Progress, StageStore
from salhub.models.editiq.static_tracker import StaticCameraTracker, track_by_detector
from salhub.models.editiq.steady_tracks import steady
from salhub.models.editiq.utterances import Transcript
from salhub.pipelines.chat import Chat

# Raised when a stage finds something else than before, so that what was kept is found anew.
_EDITION = 3
_TRACKING = ("tracker_rate", "tracker_width", "longest_gap")
_LOOKING = ("saliency_rate", "saliency_width", "saliency_decay")
_FILMING = (
    "aspect_ratio", "subset_policy", "full_shots", "group_size", "medium_factor",
    "medium_head_room", "full_factor", "full_head_room", "look_room", "smallest_crop",
    "containment", "smooth_tracks", "camera_first", "camera_second", "camera_third",
    "camera_first_groups", "camera_third_groups", "camera_still", "still_speed", "camera_overtake",
    "camera_outside", "clear_distance", "longest_gap",
)  # fmt: skip


def gather(
    film: FrameSource,
    transcript: Transcript | None,
    config: EditIQConfig,
    *,
    tracks: ActorTracks | np.ndarray | None,
    detector: Callable | None,
    cast: Sequence[str] | None,
    saliency: Any,
    understand: Callable | None,
    chat: Chat | None,
    chat_name: str | None,
    device: object,
    locks: Sequence[Lock],
    store: StageStore,
    progress: Progress,
) -> Material:
    """Find out all that an edit needs of a film; see `EditIQModel.edit`."""
    duration = film.num_frames / float(film.frame_rate)
    if film.num_frames < 2:
        raise ValueError("The film has only one frame, so there is nothing to edit.")
    notes = list(film.warnings)
    talk = transcript or Transcript(())
    if not talk.utterances:
        notes.append("There is no dialogue; only saliency chooses the shots.")
    if cast is not None:
        check_names(cast)
        talk.check(duration, list(cast))
    known = _given_tracks(tracks, film, cast)
    people = cast if known is None else known.names
    check_locks(locks, duration, people if known is None or not _is_nameless(known) else None)
    check_sizes(locks, people, config)
    if known is not None and not _is_nameless(known):
        talk.check(duration, known.names)
    else:
        # Late and wrong times are refused before the film is read; speakers are matched later.
        talk.check(duration, talk.speakers)
        check_names(talk.speakers)
    if isinstance(saliency, np.ndarray):
        check_maps(saliency)
    if known is None:
        if saliency is None:
            check_saliency(config.saliency)
        known = _find_people(film, detector, cast, config, store, progress)
    measured = _look(film, known, config, saliency, device, store, progress)
    known, said = _matched(known, measured, talk, duration)
    notes += [one for one in known.warnings if one not in notes] + said
    key = digest(config, _FILMING, known.boxes, known.names)
    rushes = _film(known, config, key, store, progress)
    talk = talk.check(duration, known.names)
    understanding = _read(talk, rushes, config, understand, chat, chat_name, store, progress)
    notes += [*talk.warnings, *rushes.warnings, *understanding.warnings]
    return Material(
        known, measured, talk, understanding.readings, rushes, key, tuple(dict.fromkeys(notes))
    )


def with_new_rushes(material: Material, config: EditIQConfig) -> Material:
    """The same material, its cameras aimed anew where other settings ask for it."""
    key = digest(config, _FILMING, material.tracks.boxes, material.tracks.names)
    if key == material.rushes_key:
        return material
    return replace(material, rushes=make_rushes(material.tracks, config), rushes_key=key)


class Prepared(NamedTuple):
    """A scene that is ready to be decided on.

    Args:
        scene: On the clock of the decisions.
        spoken: What is said, on the clock of the film.
        dialogue: (R, T) dialogue potential.
        saliency: (R, T) saliency potential.
        first: Frame of the first decision.
        step: Frames for each.
        warnings: What was demanded and cannot be had, and how often is decided.
    """

    scene: Scene
    spoken: DialoguePotential
    dialogue: np.ndarray
    saliency: np.ndarray
    first: int
    step: int
    warnings: tuple[str, ...]


def prepare(
    material: Material, config: EditIQConfig, show_weight: float, locks: Sequence[Lock] = ()
) -> Prepared:
    """Make numbers of what is known of a film.

    Args:
        material: It.
        config: Forms of the potentials.
        show_weight: Share of the shots that were named.
        locks: What a person demands.
    """
    rushes = material.rushes
    num_frames, rate = rushes.crops.shape[1], float(rushes.frame_rate)
    duration = num_frames / rate
    notes = _check_locks(locks, rushes, duration)
    cues = cues_of(material.transcript, material.readings, config, duration, rushes.names)
    spoken = make_potential(
        cues, material.transcript, rushes.shots, rushes.names, config, rate, num_frames
    )
    dialogue = spoken.joint(show_weight)
    seen = potentials_of(
        material.measured, rushes.shots, rushes.names, config.composition, rate, num_frames,
        config.saliency_sharpness,
    )  # fmt: skip
    first, step = 0, 1
    if config.establishing == "only":
        # What a person demands comes before the wide shot of fixed length.
        others = [one.start for one in locks if Shot.parse(one.shot).size != "WIDE"]
        seconds = min([float(config.establishing_seconds), *others])
        first = min(round(seconds * rate), num_frames - 1)
    if duration > config.decimate_after:
        step = max(1, round(rate / config.decisions_per_second))
    if step > 1:
        notes.append(
            f"The film lasts {duration / 60:.0f} minutes; shots are decided "
            f"{rate / step:.3g} times per second."
        )
    scene = _scene(material, config, dialogue, seen, spoken.quiet, locks, first, step)
    return Prepared(scene, spoken, dialogue, seen, first, step, tuple(notes))


def decide(
    material: Material, config: EditIQConfig, weights: Mapping[str, float], locks: Sequence[Lock]
) -> Edit:
    """Choose the shots.

    Args:
        material: What is known of the film.
        config: Forms of the terms.
        weights: Name of each learned weight -> value.
        locks: What a person demands.
    """
    prepared = prepare(material, config, weights["show_weight"], locks)
    rushes, notes = material.rushes, [*material.warnings, *prepared.warnings]
    num_frames, rate = rushes.crops.shape[1], float(rushes.frame_rate)
    first, step, scene = prepared.first, prepared.step, prepared.scene
    energy = Energy(scene, config, weights)
    path = energy.solve()
    shots = np.repeat(path.shots, step)[: num_frames - first]
    shots = np.concatenate([np.zeros(first, np.int64), shots])
    spans = spans_of(shots, rushes.shots)
    shortest = config.minimum_shot
    for span in spans:
        seconds = (span.stop - span.start) / rate
        if seconds < shortest - 1 / rate and len(spans) > 1:
            notes.append(
                f"The shot {span.shot.name} at {span.start / rate:.2f} s lasts {seconds:.2f} "
                f"s, less than {shortest:g} s, because locks and rules leave no other choice."
            )
    crops = rushes.crops[shots, np.arange(num_frames)]
    decision = EditDecision(
        rushes.frame_rate, num_frames, rushes.frame_size, config.aspect, spans, crops,
        tuple(dict.fromkeys(notes)),
    )  # fmt: skip
    return Edit(
        decision, material, config, prepared.dialogue, prepared.saliency, prepared.spoken.cues,
        energy, path.shots, step, first,
        path.energy, energy.terms(path.shots), tuple(locks), decision.warnings,
    )  # fmt: skip


def _scene(
    material: Material,
    config: EditIQConfig,
    dialogue: np.ndarray,
    seen: np.ndarray,
    quiet: np.ndarray,
    locks: Sequence[Lock],
    first: int,
    step: int,
) -> Scene:
    """What the energy looks at, from the first decision on, some frames each."""
    rushes, rate = material.rushes, float(material.rushes.frame_rate)
    begins = first / rate
    offered = rushes.offered[:, first:].copy()
    if config.establishing == "only":
        offered[[shot.size == "WIDE" for shot in rushes.shots]] = False
        # Where no other shot is offered, the wide one has to do.
        offered[0] |= ~offered.any(0)
    whole = (-offered.shape[1]) % step
    later = [
        Lock(max(0.0, one.start - begins), one.end - begins, one.shot)
        for one in locks
        if one.end > begins
    ]

    def grouped(values: np.ndarray, how: Callable) -> np.ndarray:
        if step == 1:
            return values
        padded = np.pad(values, [(0, 0), (0, whole)], mode="edge")
        return how(padded.reshape(len(values), -1, step), axis=2)

    whole_ones = grouped(offered, np.all if step > 1 else np.any) | _never(offered, step, whole)
    for lock in later:
        # What a person demands is shown, whether it is offered or not.
        places = lock.places(rate / step, whole_ones.shape[1])
        whole_ones[find_shot(lock.shot, rushes.shots), places] = True
    starts = [line.start - begins for line in material.transcript.utterances]
    return Scene(
        rushes.shots,
        grouped(dialogue[:, first:], np.mean),
        grouped(seen[:, first:], np.mean),
        rushes.crops[:, first::step],
        rushes.boxes[:, first::step],
        rushes.names,
        rate / step,
        whole_ones,
        quiet[first::step],
        starts,
        later,
    )


def _never(offered: np.ndarray, step: int, whole: int) -> np.ndarray:
    """Where shots are offered only in a part of all decisions' frames, the wide one is."""
    if step == 1:
        return np.zeros_like(offered)
    padded = np.pad(offered, [(0, 0), (0, whole)], mode="edge")
    found = padded.reshape(len(offered), -1, step).all(2)
    rescue = np.zeros_like(found)
    rescue[0] = ~found.any(0)
    return rescue


def _check_locks(locks: Sequence[Lock], rushes: Rushes, duration: float) -> list[str]:
    check_locks(locks, duration, None)
    notes = []
    for lock in sorted(locks, key=lambda one: one.start):
        row = find_shot(lock.shot, rushes.shots)
        places = lock.places(float(rushes.frame_rate), rushes.offered.shape[1])
        if not rushes.offered[row, places].all():
            notes.append(
                f"The lock of {lock.shot} at {lock.start:g} s requires a shot whose actors "
                "are absent or do not fit into it; it is shown anyway."
            )
    return notes


# --- the stages -----------------------------------------------------------------------------------


def digest(config: EditIQConfig, names: Sequence[str], *parts: Any) -> str:
    """A short digest of some settings and other things, arrays among them."""
    settings = {name: getattr(config, name) for name in names}
    found = hashlib.sha256(json.dumps([_EDITION, settings]).encode())
    for part in parts:
        is_array = isinstance(part, np.ndarray)
        found.update(np.ascontiguousarray(part).tobytes() if is_array else repr(part).encode())
    return found.hexdigest()[:24]


def _given_tracks(
    tracks: ActorTracks | np.ndarray | None, film: FrameSource, cast: Sequence[str] | None
) -> ActorTracks | None:
    if tracks is None:
        return None
    if not isinstance(tracks, ActorTracks):
        boxes = np.asarray(tracks, dtype=np.float32)
        names = tuple(f"actor {n}" for n in range(1, len(boxes) + 1))
        if boxes.ndim == 3 and cast is not None and len(cast) == len(boxes):
            names, cast = tuple(cast), None
        tracks = ActorTracks(names, boxes, film.frame_rate, film.size)
    if tracks.frame_rate != film.frame_rate or tracks.frame_size != film.size:
        (width, height), (wide, high) = tracks.frame_size, film.size
        raise ValueError(
            f"The tracks belong to a film of {width}x{height} pixels at {tracks.frame_rate} "
            f"frames per second, but this one has {wide}x{high} at {film.frame_rate}; give "
            "the tracks of this film."
        )
    fitted = tracks.for_film(film.num_frames, film.size)
    if cast is None or set(cast) == set(fitted.names):
        return fitted
    return fitted.renamed(cast)


def _is_nameless(tracks: ActorTracks) -> bool:
    return all(name.startswith("actor ") for name in tracks.names)


def _find_people(film, detector, cast, config, store: StageStore, progress) -> ActorTracks:
    if detector is not None:
        # Nobody can tell whether a function is the one that it was.
        store = StageStore(None)
    key = digest(config, _TRACKING, film.fingerprint(), len(cast or ()))
    kept = store.get("tracks", key)
    if kept is not None:
        tracks = ActorTracks.from_arrays(kept)
    else:
        tell, most = partial(progress, "tracks"), len(cast) if cast else MOST_ACTORS
        if detector is None:
            tracks = StaticCameraTracker(config).track(film, tell, most)
        else:
            tracks = track_by_detector(film, detector, config, tell, most)
        store.put("tracks", key, tracks.to_arrays())
    tracks = tracks.for_film(film.num_frames, film.size)
    return tracks if cast is None else tracks.renamed(cast)


def _look(film, tracks, config, saliency, device, store: StageStore, progress) -> ActorSaliency:
    source = config.saliency if saliency is None else saliency
    if callable(source):
        store = StageStore(None)
    name = source if isinstance(source, str) else "maps"
    extra = source if isinstance(source, np.ndarray) else ()
    # Who is missing for a moment still draws the eye.
    known = steady(tracks, config.longest_gap, 0.0)
    boxes = np.where(known.present[..., None], known.boxes, np.nan)
    key = digest(config, _LOOKING, film.fingerprint(), name, boxes, extra)
    kept = store.get("saliency", key)
    if kept is not None:
        return ActorSaliency(kept["shares"], kept["kept"], kept["times"])
    tell = partial(progress, "saliency")
    found = saliency_of_film(film, boxes, config, source, device=device, progress=tell)
    store.put("saliency", key, found._asdict())
    return found


def _film(tracks, config, key: str, store: StageStore, progress) -> Rushes:
    kept = store.get("rushes", key)
    if kept is not None:
        return Rushes.from_arrays(kept)
    rushes = make_rushes(tracks, config, partial(progress, "rushes"))
    store.put("rushes", key, rushes.to_arrays())
    return rushes


def _read(
    talk, rushes, config, understand, chat, chat_name: str | None, store, progress
) -> Understanding:
    lines, names = talk.utterances, rushes.names
    if not lines:
        return Understanding((), ())
    # From left to right, as those who read the lines are told.
    singles = [shot.actors[0] for shot in rushes.shots if len(shot.actors) == 1]
    cast = list(dict.fromkeys(singles)) or list(names)
    progress("dialogue", 0, len(lines))
    if understand is not None:
        found = read_by_function(understand, talk, cast, rushes.shots)
    elif chat is not None:
        found = read_by_chat(
            chat, talk, cast, rushes.shots, config.reaction_after,
            store=store, name=chat_name or "", progress=partial(progress, "dialogue"),
        )  # fmt: skip
    elif config.understanding == "none":
        own = (LineReading(n, line.speaker) for n, line in enumerate(lines))
        found = Understanding(tuple(own), ())
    else:
        found = Understanding(tuple(read_by_rules(talk, cast, config.reaction_after)), ())
    progress("dialogue", len(lines), len(lines))
    return found


def _counted(names: Sequence[str]) -> str:
    return "1 person was" if len(names) == 1 else f"{len(names)} people were"


def _matched(
    tracks: ActorTracks, measured: ActorSaliency, talk: Transcript, duration: float
) -> tuple[ActorTracks, list[str]]:
    """Give people whom a tracker has found the names of those who speak while they move."""
    speakers = talk.speakers
    if not speakers or not _is_nameless(tracks) or set(speakers) <= set(tracks.names):
        return tracks, []
    if len(speakers) > len(tracks.names):
        raise ValueError(
            f"The transcript has {len(speakers)} speakers ({', '.join(speakers)}) and "
            f"{_counted(tracks.names)} found; give tracks=... with their names."
        )
    if len(measured.times) < 2:
        raise ValueError(
            "Without saliency, the people in the picture cannot be matched to the names; "
            "name them from left to right with cast=[...]."
        )
    scores = np.zeros((len(speakers), len(tracks.names)))
    for row, name in enumerate(speakers):
        talks = np.zeros(len(measured.times), bool)
        for line in talk.utterances:
            if line.speaker == name:
                talks |= (measured.times >= line.start + 0.3) & (measured.times < line.end + 0.3)
        if talks.any() and not talks.all():
            scores[row] = measured.shares[:, talks].mean(1) - measured.shares[:, ~talks].mean(1)
    rows, columns = linear_sum_assignment(-scores)
    names = list(tracks.names)
    for row, column in zip(rows, columns, strict=True):
        names[column] = speakers[row]
    order = tracks.left_to_right()
    shown = ", ".join(f"{names[place]}" for place in order)
    weakest = float(scores[rows, columns].min())
    sure = "" if weakest > 0.05 else ", which is hardly more than a guess"
    note = (
        f"The names were matched to the people by who moves while speaking{sure}. From left "
        f"to right: {shown}. Correct them with cast=[...]."
    )
    return replace(tracks, names=tuple(names)), [note]
