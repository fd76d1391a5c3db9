"""The edit as a picture: a still of every shot, the shots along the time, and who speaks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from salhub.models.editiq.edit_decision import EditDecision, ShotSpan
from salhub.models.editiq.film_reading import FilmFile
from salhub.models.editiq.utterances import Transcript
from salhub.viz.text import draw_lines, shorten, text_height, wrap

_INK, _SOFT, _PAPER, _RULE = "#1b1b1b", "#595959", "#ffffff", "#c4c4c4"
# Of one person after the other; wide shots and groups have their own.
_ACTORS = ("#b8423a", "#3568b0", "#2b7f50", "#9a4fb0", "#8a6500", "#c2416b", "#3b7280", "#7a6a58")
_WIDE, _GROUP = "#6c6c6c", "#4f5d75"
_WIDTH, _MARGIN, _COLUMNS, _GAP = 1200, 24, 6, 12
_TITLE, _CAPTION, _SMALL = 24, 15, 13
_MOST_STILLS = 24
_STILL_WIDTH = 640
_BAR, _LINE, _NAMES = 44, 18, 90


def shot_color(span_actors: Sequence[str], names: Sequence[str]) -> str:
    """Return the colour of a shot: that of the person it shows, or one for groups or wide shots."""
    if not span_actors:
        return _WIDE
    if len(span_actors) > 1 or span_actors[0] not in names:
        return _GROUP
    return _ACTORS[list(names).index(span_actors[0]) % len(_ACTORS)]


def written_time(seconds: float) -> str:
    """Write a time for people.

    Example:
        >>> written_time(3.24), written_time(754.0)
        ('0:03.2', '12:34.0')
    """
    tenths = int(seconds * 10 + 0.5)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


def stills(
    film: FilmFile, decision: EditDecision, spans: Sequence[ShotSpan], size: tuple[int, int]
) -> list[Image.Image]:
    """Return a picture from the middle of each shot, cropped as the shot is.

    Args:
        film: The film.
        decision: The edit.
        spans: Some of its shots, in order.
        size: Width and height of the pictures; wide shots get bars.
    """
    ticks = [(span.start + span.stop) // 2 for span in spans]
    found = film.stills(ticks, max(_STILL_WIDTH, 2 * size[0]))
    return [crop_still(picture, decision, tick, size) for tick, picture in found]


def crop_still(
    picture: np.ndarray, decision: EditDecision, tick: int, size: tuple[int, int]
) -> Image.Image:
    """Crop a picture of the film as its shot is at a tick."""
    return cropped(picture, decision.crops[tick], decision.frame_size[0], size)


def cropped(
    picture: np.ndarray, crop: np.ndarray, frame_width: int, size: tuple[int, int]
) -> Image.Image:
    """Crop a picture that may be smaller than the film, and put it on black.

    Args:
        picture: RGB uint8 (h, w, 3).
        crop: Left, top, right, bottom in pixels of the film.
        frame_width: Width of the film in pixels.
        size: Width and height of what comes out.
    """
    image = Image.fromarray(picture)
    box = np.clip(crop * (image.width / frame_width), 0, np.tile(image.size, 2))
    across, down = box[2] - box[0], box[3] - box[1]
    scale = min(size[0] / across, size[1] / down)
    inner = (max(1, round(across * scale)), max(1, round(down * scale)))
    drawn = image.resize(inner, Image.Resampling.LANCZOS, tuple(box.tolist()))
    canvas = Image.new("RGB", size)
    canvas.paste(drawn, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return canvas


def timeline_picture(
    film: FilmFile,
    decision: EditDecision,
    names: Sequence[str],
    transcript: Transcript,
    title: str,
    note: str = "",
) -> Image.Image:
    """Draw an edit.

    Args:
        film: The film.
        decision: The edit.
        names: Of the people in it.
        transcript: What is said.
        title: Above.
        note: Below, what is to be known of it.
    """
    shown = list(decision.spans[:_MOST_STILLS])
    across = (_WIDTH - 2 * _MARGIN - (_COLUMNS - 1) * _GAP) // _COLUMNS
    down = round(across / float(decision.aspect))
    pictures = stills(film, decision, shown, (across, down))
    rows = -(-len(shown) // _COLUMNS)
    speakers = [name for name in names if name in transcript.speakers]
    lines = wrap(note, _SMALL, _WIDTH - 2 * _MARGIN) if note else []
    left_out = len(decision.spans) - len(shown)
    if left_out:
        lines.insert(0, f"{left_out} later shots are shown only in the row of shots.")
    cell = down + text_height(["", ""], _CAPTION) + _GAP
    grid_top = _MARGIN + text_height([title], _TITLE) + _GAP
    bar_top = grid_top + rows * cell + _GAP
    below = bar_top + _BAR + 8 + len(speakers) * (_LINE + 4) + 26
    canvas = Image.new("RGB", (_WIDTH, below + text_height(lines, _SMALL) + _MARGIN), _PAPER)
    draw_lines(canvas, (_MARGIN, _MARGIN), [title], _TITLE, _INK)
    for place, (span, picture) in enumerate(zip(shown, pictures, strict=True)):
        x = _MARGIN + place % _COLUMNS * (across + _GAP)
        y = grid_top + place // _COLUMNS * cell
        canvas.paste(picture, (x, y))
        when = written_time(float(span.start / decision.frame_rate))
        name = shorten(span.shot.name, _CAPTION, across)
        draw_lines(canvas, (x, y + down + 4), [name, when], _CAPTION, _INK)
        color = shot_color(span.shot.actors, names)
        ImageDraw.Draw(canvas).rectangle((x, y + down, x + across - 1, y + down + 2), color)
    _draw_bars(canvas, bar_top, decision, names, transcript)
    draw_lines(canvas, (_MARGIN, below), lines, _SMALL, _SOFT)
    return canvas


def _draw_bars(
    canvas: Image.Image,
    top: int,
    decision: EditDecision,
    names: Sequence[str],
    transcript: Transcript,
) -> None:
    draw = ImageDraw.Draw(canvas)
    start, room = _MARGIN + _NAMES, _WIDTH - 2 * _MARGIN - _NAMES
    duration = float(decision.num_frames / decision.frame_rate)

    def across(seconds: float) -> float:
        return start + room * min(seconds / duration, 1.0)

    for span in decision.spans:
        left, right = (across(float(one / decision.frame_rate)) for one in (span.start, span.stop))
        draw.rectangle((left, top, right - 1, top + _BAR), shot_color(span.shot.actors, names))
        label = shorten(span.shot.name, _SMALL, int(right - left) - 8)
        if len(label) > 2:
            draw_lines(canvas, (int(left) + 4, top + 14), [label], _SMALL, _PAPER)
    y = top + _BAR + 8
    by_speaker: dict[Any, list] = {}
    for one in transcript.utterances:
        by_speaker.setdefault(one.speaker, []).append(one)
    for name in [one for one in names if one in by_speaker]:
        draw.line((start, y + _LINE // 2, start + room, y + _LINE // 2), _RULE)
        for one in by_speaker[name]:
            box = (across(one.start), y + 3, max(across(one.end), across(one.start) + 1), y + 15)
            draw.rectangle(box, shot_color((name,), names))
        label = shorten(name, _SMALL, _NAMES - 8)
        draw_lines(canvas, (_MARGIN, y), [label], _SMALL, _INK)
        y += _LINE + 4
    draw_lines(canvas, (_MARGIN, top + 14), ["on screen"], _SMALL, _INK)
    draw_lines(canvas, (start, y + 4), ["0:00.0"], _SMALL, _SOFT)
    draw_lines(canvas, (start + room, y + 4), [written_time(duration)], _SMALL, _SOFT, "r")
