"""Where people are, as other programs write it: tables of boxes in CSV or JSON."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from salhub.files import require_file
from salhub.models.editiq.actor_tracks import ActorTracks
from salhub.models.editiq.frame_source import FrameSource

TABLE_ENDINGS = (".csv", ".json")
_NAMES = ("name", "actor", "person", "track_id", "id")
_CLOCKS = ("frame", "time")
_CORNERS, _SIZES = ("x1", "y1", "x2", "y2"), ("x", "y", "width", "height")


def read_tracks(path: str | os.PathLike, film: FrameSource) -> ActorTracks:
    """Read the tracks of a film.

    Args:
        path: An .npz archive, as a result saves it. Or a table, a .csv file with a line of headings
            or a .json file with a list of objects: `name`; `frame`, counted from 0, or `time` in
            seconds; and the box in pixels, `x1`, `y1`, `x2`, `y2` or `x`, `y`, `width`, `height`.
            Or a .json file {"anna": [[x1, y1, x2, y2], null, ...]} with one box, or null, a frame.
        film: The film that they are of.

    Raises:
        FileNotFoundError: There is no file.
        ValueError: It holds no boxes, or some that are none; the sentence names the first of them.

    Example:
        >>> read_tracks("talk-tracks.csv", film).names  # doctest: +SKIP
        ('anna', 'ben')
    """
    path = Path(path)
    require_file(path, "file of tracks")
    ending = path.suffix.lower()
    if ending not in TABLE_ENDINGS:
        return ActorTracks.read(path)
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file; save it as UTF-8.") from None
    if ending == ".csv":
        return _tracks(_of_csv(text), film, path)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    return _tracks(_of_lists(content, path) if isinstance(content, dict) else content, film, path)


def _of_csv(text: str) -> list[dict[str, Any]]:
    first = text.split("\n", 1)[0]
    mark = max(",;\t", key=first.count)
    lines = csv.DictReader(io.StringIO(text), delimiter=mark, restkey="more", restval="")
    return [{str(k).strip().lower(): v for k, v in line.items()} for line in lines]


def _of_lists(content: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    rows = []
    for name, boxes in content.items():
        if not isinstance(boxes, list):
            raise ValueError(f"{path} has no list of boxes for '{name}'; give one box per frame.")
        for frame, box in enumerate(boxes):
            if box is None:
                continue
            if not isinstance(box, list) or len(box) != 4:
                raise ValueError(
                    f"{path} has {box!r} as the box of {name} at frame {frame}; give four "
                    "numbers, or null if the person is absent."
                )
            rows.append({"name": name, "frame": frame, **dict(zip(_CORNERS, box, strict=True))})
    return rows


def _tracks(rows: Any, film: FrameSource, path: Path) -> ActorTracks:
    if not isinstance(rows, list) or not rows or not all(isinstance(one, Mapping) for one in rows):
        raise ValueError(
            f"{path} has no boxes; give a table with name, frame, x1, y1, x2 and y2, one row "
            "per box."
        )
    name = _column(rows[0], _NAMES, path)
    clock = _column(rows[0], _CLOCKS, path)
    sides = _SIZES if "width" in rows[0] else _CORNERS
    missing = [one for one in sides if one not in rows[0]]
    if missing:
        raise ValueError(
            f"{path} has no column '{missing[0]}'; its columns are {', '.join(map(str, rows[0]))}."
        )
    found: dict[str, np.ndarray] = {}
    for number, row in enumerate(rows, start=1):
        where = f"Row {number} of {path}"
        who = str(row.get(name, "")).strip()
        if not who:
            raise ValueError(f"{where} has no name; give the name of the person in the box.")
        at, *box = (_number(row.get(one), one, where) for one in (clock, *sides))
        if not all(map(math.isfinite, box)):
            continue  # nobody is there
        frame = at if clock == "frame" else round(at * float(film.frame_rate))
        if not (math.isfinite(frame) and frame == int(frame) and 0 <= frame < film.num_frames):
            raise ValueError(
                f"{where} has the {clock} {at:g}, but the film has {film.num_frames} frames "
                f"at {film.frame_rate} per second, counted from 0."
            )
        own = found.setdefault(who, np.full((film.num_frames, 4), np.nan, np.float32))
        if np.isfinite(own[int(frame)]).all():
            raise ValueError(f"{where} is a second box of {who} at frame {int(frame)}.")
        if sides is _SIZES:
            box[2:] = box[0] + box[2], box[1] + box[3]
        own[int(frame)] = box
    if not found:
        raise ValueError(f"{path} has no box with four numbers.")
    return ActorTracks(tuple(found), np.stack(list(found.values())), film.frame_rate, film.size)


def _column(row: Mapping[str, Any], names: Sequence[str], path: Path) -> str:
    found = next((one for one in names if one in row), None)
    if found is None:
        raise ValueError(
            f"{path} has no column '{names[0]}'; its columns are {_listed(row)}, but "
            f"{_listed(names)} is needed."
        )
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(str, names))


def _number(value: Any, name: str, where: str) -> float:
    if value is None or (isinstance(value, str) and not value.strip()):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{where} has {value!r} as {name}, which is not a number.") from None
