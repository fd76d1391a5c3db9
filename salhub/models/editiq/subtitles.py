"""Transcripts as files: who says what when, from subtitles and JSON, and back to subtitles."""

import html
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from salhub.errors import plain_letters, require_extra
from salhub.files import require_file
from salhub.models.editiq.film_reading import EXTRA
from salhub.models.editiq.utterances import Transcript, Utterance, split_speaker

TRANSCRIPT_ENDINGS = (".srt", ".vtt", ".ass", ".json")
SUBTITLE_WRITERS = (".srt", ".vtt")
_ENCODINGS = ("utf-8-sig", "utf-16", "cp1252")
_MARKS = (b"\xff\xfe", b"\xfe\xff")
_VOICES = re.compile(r"(?=<v(?:\.[\w.-]+)?\s+[^>]+>)")
_TAGS = re.compile(
    r"</?(?:[biusvc]|font|lang|ruby|rt)(?:[ .][^>]*)?>|<\d[\d:.]*>|\{\\[^}]*\}", re.IGNORECASE
)
# What stands in braces is markup of ASS, which pysubs2 drops; in a transcript it is text.
_BRACES = {ord("{"): 0xE000, ord("}"): 0xE001}
_LISTS = ("segments", "utterances", "lines")
_START, _END = ("start", "start_time", "begin"), ("end", "end_time")
_TEXT, _SPEAKER = ("text", "transcript"), ("speaker", "speaker_label", "name")


def read_transcript(path: str | os.PathLike, cast: Sequence[str] | None = None) -> Transcript:
    r"""Read a transcript.

    Speakers come from the field of ASS and JSON, from `<v Anna>` of WebVTT, and from "ANNA: Hello"
    in a text. As many texts have a colon, the last one counts where the name is in the cast, in
    capitals, or at two lines or more; what was left in the text is said.

    Args:
        path: A file of subtitles ending in .srt, .vtt or .ass; or .json, a list of objects with
            `start` and `end` in seconds, `text` and `speaker`, or an object with such a list as
            `segments`, as speech recognizers write it.
        cast: Names of the people in the film.

    Raises:
        FileNotFoundError, IsADirectoryError: There is no file.
        ValueError: It is no transcript, or has no line.
        MissingExtraError: pysubs2 is not installed.

    Example:
        >>> from salhub.files import write_text
        >>> write_text(Path("talk.srt"), "1\n00:00:01,000 --> 00:00:02,500\nANNA: Hello!\n")
        >>> read_transcript("talk.srt").utterances
        (Utterance(start=1.0, end=2.5, text='Hello!', speaker='ANNA'),)
    """
    path = Path(path)
    require_file(path, "transcript")
    text, notes = _decoded(path)
    is_json = path.suffix.lower() == ".json"
    found = _of_json(text, path) if is_json else _of_subtitles(text, path)
    lines, more = _with_speakers(found, cast)
    notes += more
    kept = []
    for line in lines:
        if line.text and 0 <= line.start < line.end:
            kept.append(Utterance(line.start, line.end, line.text, line.speaker))
    if len(kept) < len(lines):
        notes.append(
            f"{len(lines) - len(kept)} of {len(lines)} lines of {path.name} are empty or end "
            "before they begin; they were left out."
        )
    if not kept:
        raise ValueError(
            f"{path} has no line with a time and a text; write subtitles such as "
            "'00:00:01,000 --> 00:00:02,500' with 'ANNA: Hello' below."
        )
    return Transcript(tuple(kept), tuple(notes))


def is_file_of_lines(path: Path) -> bool:
    """Return whether a file beside a film is its transcript: JSON may be of anything."""
    if path.suffix.lower() != ".json":
        return True
    try:
        content = json.loads(_decoded(path)[0])
    except ValueError:
        return False
    if isinstance(content, Mapping):
        content = next((content[name] for name in _LISTS if name in content), None)
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, Mapping) and _field(first, _TEXT) is not None


def subtitles_text(transcript: Transcript, ending: str) -> str:
    """Return subtitles.

    Args:
        transcript: The lines.
        ending: ".srt", with speakers as "ANNA: Hello"; or ".vtt", with `<v Anna>Hello`.

    Raises:
        MissingExtraError: pysubs2 is not installed.
    """
    pysubs2 = require_extra("pysubs2", EXTRA)
    file = pysubs2.SSAFile()
    for one in transcript.utterances:
        text = one.text
        if ending == ".vtt":
            text = html.escape(text, quote=False)
        if one.speaker is not None:
            name = one.speaker
            text = f"<v {name}>{text}" if ending == ".vtt" else f"{name}: {text}"
        times = {"start": round(1000 * one.start), "end": round(1000 * one.end)}
        event = pysubs2.SSAEvent(**times)
        event.text = text.translate(_BRACES).replace("\n", "\\N")
        file.append(event)
    return file.to_string(ending[1:]).translate({new: old for old, new in _BRACES.items()})


class _Line:
    """A line as it was read, in seconds."""

    def __init__(self, start: float, end: float, text: str, speaker: str | None = None) -> None:
        self.start, self.end, self.text, self.speaker = start, end, text, speaker


def _decoded(path: Path) -> tuple[str, list[str]]:
    data = path.read_bytes()
    if not data.strip():
        raise ValueError(f"{path} is empty; leave the transcript out if nobody speaks.")
    encodings = _ENCODINGS if data.startswith(_MARKS) else (_ENCODINGS[0], _ENCODINGS[2])
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        notes = []
        if encoding == "cp1252":
            notes.append(f"{path.name} is not in UTF-8; it was read as Windows-1252.")
        return text, notes
    raise ValueError(f"{path} is not a text file; save it as UTF-8.")


def _of_subtitles(text: str, path: Path) -> list[_Line]:
    pysubs2 = require_extra("pysubs2", EXTRA)
    keeping = {"keep_unknown_html_tags": True}
    try:
        file = pysubs2.SSAFile.from_string(text, **keeping)
    except (pysubs2.exceptions.Pysubs2Error, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as subtitles ({type(error).__name__}); times are written "
            "00:00:01,000 --> 00:00:02,500 in .srt, and a .vtt begins with WEBVTT."
        ) from error
    lines = []
    for event in file:
        if event.is_comment or event.is_drawing:
            continue
        start, end = event.start / 1000, event.end / 1000
        for part in _VOICES.split(event.text.replace("\\N", "\n").replace("\\n", "\n")):
            if part.strip():
                lines.append(_subtitle(start, end, part, event.name.strip() or None))
    return lines


def _subtitle(start: float, end: float, text: str, name: str | None) -> _Line:
    if text.lstrip().startswith("<v"):
        name, text = split_speaker(text)
        name = html.unescape(name) if name else None
    return _Line(start, end, _one_line(html.unescape(_TAGS.sub("", text))), name)


def _of_json(text: str, path: Path) -> list[_Line]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if isinstance(content, Mapping):
        content = next((content[name] for name in _LISTS if name in content), None)
    if not isinstance(content, list) or not all(isinstance(one, Mapping) for one in content):
        raise ValueError(
            f"{path} holds no transcript; it must be a list of objects with start, end, text and "
            "speaker, or an object with such a list as 'segments'."
        )
    return [_of_object(one, number, path) for number, one in enumerate(content, start=1)]


def _of_object(one: Mapping[str, Any], number: int, path: Path) -> _Line:
    start, end = _field(one, _START), _field(one, _END)
    text, speaker = _field(one, _TEXT), _field(one, _SPEAKER)
    is_time = all(isinstance(t, int | float) and not isinstance(t, bool) for t in (start, end))
    if not is_time or not isinstance(text, str) or not isinstance(speaker, str | None):
        raise ValueError(
            f"Line {number} of {path} needs start and end in seconds and a text, and may have a "
            f"speaker; it has {', '.join(map(str, one)) or 'nothing'}."
        )
    return _Line(float(start), float(end), _one_line(text), (speaker or "").strip() or None)


def _field(one: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((one[name] for name in names if name in one), None)


def _with_speakers(lines: list[_Line], cast: Sequence[str] | None) -> tuple[list[_Line], list[str]]:
    """Take names out of texts, where nothing else says who speaks."""
    known = {plain_letters(name) for name in cast or ()}
    parts = [split_speaker(one.text) for one in lines]
    counts = Counter(name for name, _ in parts if name is not None)
    passed = []
    for line, (name, rest) in zip(lines, parts, strict=True):
        if line.speaker is not None or name is None:
            continue
        if plain_letters(name) in known or counts[name] > 1 or name.isupper():
            line.speaker, line.text = name, rest
        else:
            passed.append(f"'{name}:'")
    if not passed:
        return lines, []
    shown = ", ".join(dict.fromkeys(passed[:3]))
    return lines, [
        f"{shown} was read as part of the text, not as a speaker, because it is not in the "
        "cast and appears only once."
    ]


def _one_line(text: str) -> str:
    return " ".join(text.split())
