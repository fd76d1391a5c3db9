"""The edit as editing programs open it: OpenTimelineIO, and an edit decision list (CMX3600)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from salhub.errors import require_extra
from salhub.models.editiq.edit_decision import CropKeyframe, EditDecision
from salhub.models.editiq.film_reading import EXTRA, FilmFile
from salhub.models.editiq.frame_rates import SMPTE_RATES, smpte_rate
from salhub.models.editiq.shots import Shot

EFFECT = "salhub.crop"
METADATA = "salhub"
_CMX = "cmx_3600"
_REEL_LETTERS = re.compile(r"[^A-Z0-9_]")
_LONGEST_REEL = 8
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Share by which what people write may be off: 23.98 is 23.976, and 24 is not.
_SAME_RATE = Fraction(1, 4000)
_TIMECODE = re.compile(r"(\d\d):(\d\d):(\d\d)[:;](\d\d)")


@dataclass(frozen=True)
class CameraMove:
    """Where a virtual camera looks in the course of a film.

    Args:
        shot: What it shows.
        keyframes: Of its crop; between them it moves evenly.
    """

    shot: Shot
    keyframes: Sequence[CropKeyframe]


def to_otio(
    decision: EditDecision,
    film: FilmFile,
    *,
    cameras: Sequence[CameraMove] = (),
    output_size: tuple[int, int] | None = None,
    tolerance: float = 0.25,
    address: str | None = None,
) -> Any:
    """Return the edit as a timeline of OpenTimelineIO.

    The first track is the edit: a clip a shot, of the film itself, with an effect "salhub.crop"
    that holds the keyframes of the crop. Behind it, switched off, follows a track for each virtual
    camera over the whole film, and a track of sound where there is sound. Rates are exact, such as
    24000/1001.

    Args:
        decision: The edit.
        film: The film that was edited.
        cameras: All virtual cameras, for tracks to choose other shots from.
        output_size: Width and height that crops are scaled to, noted in the effects.
        tolerance: Pixels by which a crop may be off between its keyframes.
        address: Where editing programs look for the film; by default where it lies.

    Raises:
        MissingExtraError: OpenTimelineIO is not installed.
    """
    otio = require_extra("opentimelineio", EXTRA)
    rate = float(decision.frame_rate)
    first = source_start(film, decision.frame_rate)
    whole = _range(otio, first, decision.num_frames, rate)
    media = _media(otio, film, whole, address)
    timeline = otio.schema.Timeline(film.path.stem)
    timeline.metadata[METADATA] = {
        "film": film.path.name,
        "frame_rate": str(decision.frame_rate),
        "num_frames": decision.num_frames,
        "frame_size": list(decision.frame_size),
        "is_variable": film.is_variable,
        "warnings": [*film.warnings, *decision.warnings],
    }
    edited = otio.schema.Track("Edit", kind=otio.schema.TrackKind.Video)
    for number, span in enumerate(decision.spans, start=1):
        source = _range(otio, first + span.start, span.stop - span.start, rate)
        clip = otio.schema.Clip(f"{number} {span.shot.name}", media.clone(), source)
        clip.metadata[METADATA] = {"shot": span.shot.name, "frames": [span.start, span.stop]}
        clip.metadata[_CMX] = {"reel": reel_of(film.path), "comments": [_comment(span.shot.name)]}
        keyframes = decision.keyframes(span, tolerance)
        clip.effects.append(_crop_effect(otio, decision, keyframes, output_size))
        edited.append(clip)
    timeline.tracks.append(edited)
    for camera in cameras:
        track = otio.schema.Track(camera.shot.name, kind=otio.schema.TrackKind.Video)
        clip = otio.schema.Clip(camera.shot.name, media.clone(), whole)
        clip.effects.append(_crop_effect(otio, decision, camera.keyframes, output_size))
        track.append(clip)
        track.enabled = False
        timeline.tracks.append(track)
    if film.has_sound:
        sound = otio.schema.Track("Sound", kind=otio.schema.TrackKind.Audio)
        sound.append(otio.schema.Clip(film.path.stem, media.clone(), whole))
        timeline.tracks.append(sound)
    return timeline


def to_edl(
    decision: EditDecision,
    film: FilmFile,
    *,
    start: str = "00:00:00:00",
    rate: Fraction | None = None,
    address: str | None = None,
) -> tuple[str, list[str]]:
    """Return the edit as an edit decision list.

    CMX3600 knows the ten rates of SMPTE timecode, one video track, and no crops: those are named in
    comments, and the .otio file has them in full. Cuts are rounded from their time in seconds, each
    by itself, so that nothing drifts. Rates of 29.97 and 59.94 are counted in drop frame.

    Args:
        decision: The edit.
        film: The film that was edited.
        start: Timecode at which the edit begins.
        rate: Frames a second of the list; by default the film's own, or the rate of SMPTE that it
            fits into, see `smpte_rate`.
        address: Where editing programs look for the film; by default where it lies.

    Returns:
        The list, and sentences on what was rounded.

    Raises:
        ValueError: No such rate or timecode.
        MissingExtraError: OpenTimelineIO or its adapter is not installed.
    """
    otio = require_extra("opentimelineio", EXTRA)
    require_extra("otio_cmx3600_adapter", EXTRA)
    conformed = smpte_rate(decision.frame_rate) if rate is None else edl_rate_of(rate)
    exact = float(conformed)
    begin = start_time(start, conformed)
    ticks = [_conformed(span.start, decision, conformed) for span in decision.spans]
    ticks.append(_conformed(decision.num_frames, decision, conformed))
    first = source_start(film, conformed)
    track = otio.schema.Track("Edit", kind=otio.schema.TrackKind.Video)
    if begin:
        gap = otio.opentime.TimeRange(duration=otio.opentime.RationalTime(begin, exact))
        track.append(otio.schema.Gap(source_range=gap))
    media = _media(otio, film, _range(otio, first, ticks[-1], exact), address)
    lost = 0
    for span, from_, to in zip(decision.spans, ticks, ticks[1:], strict=False):
        if to == from_:
            lost += 1
            continue
        clip = otio.schema.Clip(
            _clean(film.path.stem), media.clone(), _range(otio, first + from_, to - from_, exact)
        )
        clip.metadata[_CMX] = {"reel": reel_of(film.path), "comments": [_comment(span.shot.name)]}
        track.append(clip)
    timeline = otio.schema.Timeline(_clean(film.path.stem) or "edit")
    timeline.tracks.append(track)
    text = otio.adapters.write_to_string(timeline, _CMX, rate=exact)
    mode = "DROP FRAME" if ";" in text else "NON-DROP FRAME"
    text = text.replace("\n\n", f"\nFCM: {mode}\n\n", 1)
    return text, _edl_notes(decision, film, conformed, lost)


def edl_rate_of(value: Any) -> Fraction:
    """Return the frames a second of an edit decision list, as people write them.

    Args:
        value: Such as 25, "24000/1001", or the 23.976, 23.98 and 29.97 that people say for exact
            fractions.

    Raises:
        ValueError: There is no list of such a rate.

    Example:
        >>> edl_rate_of(23.976), edl_rate_of("25")
        (Fraction(24000, 1001), Fraction(25, 1))
    """
    try:
        given = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"edl_rate must be a number such as 25 or 24000/1001, got {value!r}."
        ) from None
    nearest = min(SMPTE_RATES, key=lambda rate: abs(rate - given))
    if abs(nearest - given) > _SAME_RATE * nearest:
        known = ", ".join(f"{float(one):.6g}" for one in SMPTE_RATES)
        raise ValueError(
            f"An edit decision list does not support {float(given):g} frames per second; "
            f"choose one of {known}."
        )
    return nearest


def start_time(timecode: str, rate: Fraction) -> int:
    """Return the number of frames from 00:00:00:00 to a timecode.

    Args:
        timecode: Such as "10:59:59:00"; at 29.97 and 59.94 frames a second it is drop frame.
        rate: One of `SMPTE_RATES`.

    Raises:
        ValueError: It is no timecode at this rate.

    Example:
        >>> start_time("00:01:00:02", Fraction(30000, 1001))
        1800
    """
    found = _TIMECODE.fullmatch(timecode.strip())
    # As written in full: 24 a second for 23.976.
    whole = -(-rate.numerator // rate.denominator)
    parts = [int(one) for one in found.groups()] if found else [24] * 4
    hours, minutes, seconds, frames = parts
    if hours >= 24 or minutes >= 60 or seconds >= 60 or frames >= whole:
        raise ValueError(
            f"'{timecode}' is not a timecode at {float(rate):.6g} frames per second; write "
            "hours, minutes, seconds and frames, such as 10:59:59:00."
        )
    total = ((hours * 60 + minutes) * 60 + seconds) * whole + frames
    dropped = _dropped_a_minute(rate)
    if not dropped:
        return total
    if minutes % 10 and not seconds and frames < dropped:
        raise ValueError(f"Drop frame skips '{timecode}'; begin at {timecode[:-2]}{dropped:02d}.")
    passed = hours * 60 + minutes
    return total - dropped * (passed - passed // 10)


def source_start(film: FilmFile, rate: Fraction) -> int:
    """Return the frame at which the film begins on its own timecode; 0 where it has none."""
    try:
        return start_time(film.timecode or "", rate)
    except ValueError:
        return 0


def reel_of(path: Path) -> str:
    """Return what a film is called in edit decision lists: at most 8 letters and digits.

    Example:
        >>> reel_of(Path("My talk (final).mp4"))
        'MYTALKFI'
    """
    return _REEL_LETTERS.sub("", path.stem.upper())[:_LONGEST_REEL] or "FILM"


def _dropped_a_minute(rate: Fraction) -> int:
    return {Fraction(30000, 1001): 2, Fraction(60000, 1001): 4}.get(rate, 0)


def _conformed(frame: int, decision: EditDecision, rate: Fraction) -> int:
    return int((2 * frame * rate / decision.frame_rate + 1) // 2)


def _edl_notes(decision: EditDecision, film: FilmFile, rate: Fraction, lost: int) -> list[str]:
    notes = []
    if rate != decision.frame_rate:
        ratio = rate / decision.frame_rate
        how = "no time changes" if ratio.denominator == 1 else "cuts are rounded to its frames"
        notes.append(
            f"The edit decision list counts {float(rate):.6g} frames per second, but the "
            f"film has {float(decision.frame_rate):.6g}; {how}."
        )
    if film.is_variable:
        notes.append(
            "The film's frame rate varies, but an edit decision list has only one rate: "
            "each cut is placed at the nearest frame."
        )
    if film.timecode and not source_start(film, rate) and set(film.timecode) - set("0:;"):
        notes.append(
            f"The film's own timecode, {film.timecode}, is not valid at this rate; counting "
            "starts at 0."
        )
    if lost:
        notes.append(f"{lost} shots are shorter than a frame of the list and are left out of it.")
    return notes


def _media(otio: Any, film: FilmFile, available: Any, address: str | None) -> Any:
    url = film.path.resolve().as_uri() if address is None else address
    return otio.schema.ExternalReference(target_url=url, available_range=available)


def _range(otio: Any, start: int, length: int, rate: float) -> Any:
    time = otio.opentime.RationalTime
    return otio.opentime.TimeRange(time(start, rate), time(length, rate))


def _crop_effect(
    otio: Any,
    decision: EditDecision,
    keyframes: Sequence[CropKeyframe],
    output_size: tuple[int, int] | None,
) -> Any:
    crop = {
        "frame_size": list(decision.frame_size),
        "keyframes": [
            {"frame": one.frame, **{n: round(getattr(one, n), 4) for n in one._fields[1:]}}
            for one in keyframes
        ],
    }
    if output_size is not None:
        crop["output_size"] = list(output_size)
    return otio.schema.Effect(effect_name=EFFECT, metadata={METADATA: crop})


def _comment(text: str) -> str:
    return f"salhub {_clean(text)}"


def _clean(text: str) -> str:
    """A line stays one line."""
    return _CONTROL.sub(" ", text)
