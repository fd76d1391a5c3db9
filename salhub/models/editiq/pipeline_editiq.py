"""The pipeline of the models that edit films."""

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.constants import HF_HOME
from tqdm.auto import tqdm

from salhub.errors import check_choice
from salhub.models.editiq.actor_tracks import check_names
from salhub.models.editiq.film_reading import FILM_ENDINGS, FilmFile
from salhub.models.editiq.film_rendering import check_size
from salhub.models.editiq.film_writing import ENCODERS
from salhub.models.editiq.frame_rates import SMPTE_RATES, smpte_rate
from salhub.models.editiq.result_editiq import Delivery, VideoEditingResult, all_warnings
from salhub.models.editiq.shots import Lock
from salhub.models.editiq.stage_sample import SAMPLE, sample_film, sample_scene, sample_seed
from salhub.models.editiq.stages import Progress, StageStore
from salhub.models.editiq.subtitles import (
    TRANSCRIPT_ENDINGS,
    is_file_of_lines,
    read_transcript,
)
from salhub.models.editiq.timelines import edl_rate_of, start_time
from salhub.models.editiq.track_files import read_tracks
from salhub.models.editiq.utterances import Transcript
from salhub.pipelines.base import TaskPipeline

# Beside a film; a .json file that is called like it is its transcript.
TRACK_ENDINGS = ("-tracks.npz", "-tracks.csv", "-tracks.json", ".npz")
_DELIVERY = ("size", "encoder", "start_timecode", "edl_rate", "address")
_PEOPLE = ("cast", "locks", "detector", "saliency_maps", "understand")
# Settings that are functions, and of what.
_FUNCTIONS = {"detector": "a picture", "understand": "lines", "progress": "a stage and two numbers"}
_WORKING = ("resume", "progress")
# Films whose stages are kept; the ones used longest ago are forgotten.
_MOST_KEPT = 32


class VideoEditingPipeline(TaskPipeline):
    """Edit films from a static camera.

    Example:
        >>> import salhub
        >>> edit = salhub.pipeline("salhub/editiq-stage")  # doctest: +SKIP
        >>> result = edit("talk.mp4", transcript="talk.srt", cast=["Anna", "Ben"])  # doctest: +SKIP
        >>> result.save("edited.mp4"), result.save("edited.edl")  # doctest: +SKIP
    """

    input_type = "video"
    input_suffixes = FILM_ENDINGS
    companions = {"transcript": TRANSCRIPT_ENDINGS, "tracks": TRACK_ENDINGS}
    result_class = VideoEditingResult
    output_suffix = ".mp4"
    call_settings = (*_DELIVERY, *_PEOPLE, *_WORKING)
    extra = "video"
    sample = SAMPLE
    example = """
import salhub

# a film from a static camera; add transcript="talk.srt" and cast=["Anna", "Ben"]
result = salhub.pipeline("{model}")("{sample}")
print(result.summary())
result.save("edited.mp4")
"""
    hub_task = "video-to-video"

    @staticmethod
    def read(source: Any) -> Any:
        """Return what is known of a film before its pictures are read, for the command line.

        Raises:
            ValueError: Bytes, such as those piped into the command; or no film.
        """
        if isinstance(source, bytes):
            raise ValueError("A film cannot be read from standard input; give a file.")
        return source if sample_seed(source) is not None else FilmFile.open(source)

    @classmethod
    def belongs(cls, name: str, path: Path) -> bool:
        return name != "transcript" or is_file_of_lines(path)

    def __call__(self, films: Any, **kwargs: Any) -> VideoEditingResult | list[VideoEditingResult]:
        """Edit one film, or several.

        Args:
            films: A file that FFmpeg reads, a `FilmFile`, "sample:stage", or a list of these.
            **kwargs: `transcript`, a file ending in .srt, .vtt, .ass or .json, or a `Transcript`;
                `tracks`, where the people are, a file, see `read_tracks`, an `ActorTracks` or an
                array (A, T, 4) of boxes in pixels; of a list of films a list of each, with
                None for none. `cast`, names from left to right as they stand at the start. `locks`,
                shots that are wanted at some time, such as "12.0-15.0=MS:ben". `detector`, a
                function that finds people in a picture. `saliency_maps`, maps (S, h, w) or a
                function of pictures, in place of the model's own. `understand`, a function that
                reads lines in place of the rules. `size`, `encoder`, `start_timecode`, `edl_rate`
                and `address`, see `Delivery`. `resume`, whether stages that were done for the same
                film are taken from the cache, True by default, or a folder to keep them in.
                `progress`, a function that is told (stage, done, total); bars in a terminal by
                default. And settings of the model for this call alone.

        Returns:
            One result a film. The film is rendered when the result is saved.

        Raises:
            ValueError: No film, a transcript of another film, people who are not in the cast, or a
                setting out of its range.
            TypeError: A setting of the wrong type.
        """
        # Films differ in everything, so they pass one by one.
        return super().__call__(films, **{**kwargs, "batch_size": 1})

    def _sanitize_parameters(self, **settings):
        calling = {name: settings.pop(name) for name in self.call_settings if name in settings}
        self._model_with(settings)
        delivery = delivery_of({name: calling.get(name) for name in _DELIVERY})
        people = {name: calling.get(name) for name in _PEOPLE}
        people["cast"] = _names(people["cast"])
        people["locks"] = _locks(people["locks"])
        work = {"resume": calling.get("resume", True), "progress": calling.get("progress")}
        _check_functions({**people, **work})
        editing = {"people": people, "settings": settings, **work}
        reading = {"people": people, "delivery": delivery}
        return reading, editing, {"delivery": delivery, "progress": work["progress"]}

    def choices(self) -> dict[str, list[str]]:
        """Return what the settings of a call choose from, for `salhub info`."""
        return {"encoder": list(ENCODERS)}

    def prepare(
        self,
        source: Any,
        transcript: Any = None,
        tracks: Any = None,
        people: Mapping[str, Any] | None = None,
        delivery: Delivery | None = None,
    ) -> dict[str, Any]:
        if not isinstance(source, str | os.PathLike | FilmFile):
            raise TypeError(
                f"A film must be a file, a FilmFile or '{SAMPLE}', got {type(source).__name__}."
            )
        seed = sample_seed(source)
        if seed is not None:
            scene = sample_scene(seed)
            source = sample_film(seed)
            tracks = scene.tracks if tracks is None else tracks
            transcript = scene.transcript if transcript is None else transcript
        film = source if isinstance(source, FilmFile) else FilmFile.open(source)
        if isinstance(tracks, str | os.PathLike):
            tracks = read_tracks(tracks, film)
        cast = (people or {}).get("cast") or getattr(tracks, "names", None)
        if isinstance(transcript, str | os.PathLike):
            transcript = read_transcript(transcript, cast)
        elif not isinstance(transcript, Transcript | None):
            raise TypeError(
                f"transcript must be a file or a Transcript, got {type(transcript).__name__}."
            )
        transcript = None if transcript is None else _on_clock_of(film, transcript)
        check_start(film, delivery or Delivery())
        return {"film": [film], "transcript": [transcript], "tracks": [tracks]}

    def _forward(
        self,
        model_inputs,
        people: Mapping[str, Any],
        settings: Mapping[str, Any],
        resume: Any = True,
        progress: Progress | None = None,
    ):
        [film], [transcript], [tracks] = (
            model_inputs[name] for name in ("film", "transcript", "tracks")
        )
        store = _RecordingStore(_store_folder(film, resume))
        edit = self._model_with(settings).edit(
            film,
            transcript,
            tracks=tracks,
            detector=people["detector"],
            cast=people["cast"],
            saliency=people["saliency_maps"],
            understand=people["understand"],
            locks=people["locks"],
            store=store,
            progress=progress or tell_in_bars(),
        )
        return {**model_inputs, "edit": [edit], "resumed": [tuple(store.taken)]}

    def postprocess(
        self, model_outputs, delivery: Delivery, progress: Progress | None = None
    ) -> VideoEditingResult:
        [film], [edit], [resumed] = (model_outputs[name] for name in ("film", "edit", "resumed"))
        return VideoEditingResult(
            film=film,
            edit=edit,
            warnings=all_warnings(film, edit),
            delivery=delivery,
            resumed=resumed,
            progress=progress or tell_in_bars(),
            model_name=self._model_name(),
        )


def delivery_of(given: Mapping[str, Any]) -> Delivery:
    """Read how an edit leaves, as people write it.

    Args:
        given: Some of `size` ("1280x720" or two numbers), `encoder`, `start_timecode`, `edl_rate`
            (such as "24000/1001" or 25) and `address`; None for the default.

    Raises:
        ValueError, TypeError: One of them cannot be so.
    """
    found = {name: value for name, value in given.items() if value is not None}
    if "size" in found:
        found["size"] = _size(found["size"])
        check_size(found["size"])
    if "encoder" in found:
        check_choice("encoder", found["encoder"], ENCODERS)
    if "edl_rate" in found:
        found["edl_rate"] = edl_rate_of(found["edl_rate"])
    if "start_timecode" in found:
        found["start_timecode"] = str(found["start_timecode"])
        # Which frames there are is known with the film, see `check_start`.
        start_time(found["start_timecode"], found.get("edl_rate", max(SMPTE_RATES)))
    return Delivery(**found)


def check_start(film: FilmFile, delivery: Delivery) -> None:
    """Refuse a timecode that the rate of a film's edit decision list does not have.

    Raises:
        ValueError: As of `start_time`.
    """
    start_time(delivery.start_timecode, delivery.edl_rate or smpte_rate(film.frame_rate))


def _check_functions(given: Mapping[str, Any]) -> None:
    """Refuse settings of a call that Python alone can give, where they are something else.

    Raises:
        TypeError, ValueError: The sentence says what is wanted.
    """
    for name, takes in _FUNCTIONS.items():
        if given[name] is not None and not callable(given[name]):
            raise TypeError(f"{name} must be a function of {takes}, got {given[name]!r}.")
    maps = given["saliency_maps"]
    if not (maps is None or callable(maps) or isinstance(maps, np.ndarray)):
        raise TypeError(
            "saliency_maps must be an array (maps, height, width) or a function of a "
            f"picture, got {type(maps).__name__}; for a model use saliency=NAME."
        )
    resume = given["resume"]
    if not isinstance(resume, bool | str | os.PathLike | None):
        raise TypeError(f"resume must be True, False or a folder, got {resume!r}.")
    if isinstance(resume, str | os.PathLike) and Path(resume).is_file():
        raise ValueError(f"resume must be a folder, and {resume} is a file.")


def tell_in_bars() -> Progress:
    """Return a function that shows progress as bars in a terminal, one a stage."""
    bars: dict[str, Any] = {}

    def tell(stage: str, done: int, total: int | None) -> None:
        if stage not in bars:
            # disable=None: no bar where nobody watches a terminal.
            bars[stage] = tqdm(total=total, desc=stage, disable=None)
        bar = bars[stage]
        bar.update(done - bar.n)
        if total is not None and done >= total:
            bars.pop(stage).close()

    return tell


class _RecordingStore(StageStore):
    """A store that remembers what was taken from it."""

    def __init__(self, folder: Path | None) -> None:
        super().__init__(folder)
        self.taken: list[str] = []

    def get(self, stage: str, key: str) -> dict[str, Any] | None:
        found = super().get(stage, key)
        if found is not None and stage not in self.taken:
            self.taken.append(stage)
        return found


def _store_folder(film: FilmFile, resume: Any) -> Path | None:
    if resume is False or resume is None:
        return None
    root = Path(HF_HOME) / "salhub" / "editiq" if resume is True else Path(resume)
    folder = root / film.fingerprint()[:24]
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):  # another process may forget it; a stage makes it again
        os.utime(folder)
    if resume is True:
        _forget_old(root)
    return folder


def _forget_old(root: Path) -> None:
    used = {}
    for one in root.iterdir():
        with suppress(FileNotFoundError):  # another process forgets, too
            used[one] = one.stat()
    folders = [one for one, found in used.items() if stat.S_ISDIR(found.st_mode)]
    for folder in sorted(folders, key=lambda one: used[one].st_mtime)[:-_MOST_KEPT]:
        with suppress(OSError):  # something else is in it, or it is gone
            for file in folder.glob("*.npz"):
                file.unlink(missing_ok=True)
            folder.rmdir()


def _on_clock_of(film: FilmFile, transcript: Transcript) -> Transcript:
    """Move the times of a transcript, which players count from where the sound may begin first."""
    lead = float(film.lead)
    if abs(lead) < 1e-3:
        return transcript
    lines = tuple(
        replace(one, start=max(0.0, one.start - lead), end=one.end - lead)
        for one in transcript.utterances
        if one.end - lead > 0
    )
    return replace(transcript, utterances=lines)


def _names(cast: Any) -> list[str] | None:
    if cast is None:
        return None
    names = [one.strip() for one in cast.split(",")] if isinstance(cast, str) else cast
    if not isinstance(names, Sequence) or not all(isinstance(one, str) and one for one in names):
        raise TypeError(f"cast must be names from left to right, such as Anna,Ben; got {cast!r}.")
    check_names(names)
    return list(names)


def _locks(locks: Any) -> tuple[Lock, ...]:
    several = locks.split(",") if isinstance(locks, str) and locks else locks or ()
    if isinstance(several, Lock):
        several = [several]
    is_list = isinstance(several, list | tuple)
    if not is_list or not all(isinstance(one, str | Lock) for one in several):
        raise TypeError(f"locks must be texts such as '12.0-15.0=MS:ben', got {locks!r}.")
    return tuple(one if isinstance(one, Lock) else Lock.parse(one) for one in several)


def _size(size: Any) -> tuple[int, int]:
    parts = size.lower().split("x") if isinstance(size, str) else size
    try:
        width, height = (int(one) for one in parts)
    except (TypeError, ValueError):
        raise ValueError(f"size must look like 1280x720, got {size!r}.") from None
    return width, height
