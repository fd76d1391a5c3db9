"""Transcripts of all kinds are read with their speakers, and what was left out is said."""

import json

import pytest

pytest.importorskip("pysubs2", reason="transcripts need the extra 'video'")

from salhub.models.editiq.subtitles import is_file_of_lines, read_transcript, subtitles_text
from salhub.models.editiq.utterances import Transcript, Utterance

SRT = """\ufeff1
00:00:01,000 --> 00:00:02,500
ANNA: Hello, <i>Ben</i>!

2
00:00:03,000 --> 00:00:04,040
Ben O'Neil: How are
you?

3
00:00:05,000 --> 00:00:06,000
Ben O'Neil: What time is it: 10:30?

4
00:00:07,000 --> 00:00:08,000
One more thing: look here.
"""
VTT = """WEBVTT

NOTE a comment

intro
00:01.000 --> 00:02.500 align:start
<v Anna>Hello &amp; welcome,<00:01.500> Ben!</v>

00:03.000 --> 00:04.000
<v.loud Ben O'Neil>How are you?
<v Anna>Fine.
"""
ASS = """[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:00.00,0:00:01.00,Default,Anna,0,0,0,,not this
Dialogue: 0,0:00:01.00,0:00:02.50,Default,Anna,0,0,0,,{\\i1}Hello{\\i0},\\NBen!
Dialogue: 0,0:00:03.00,0:00:04.00,Default,,0,0,0,,Birds sing.
"""


def lines(transcript):
    return [(one.start, one.end, one.speaker, one.text) for one in transcript.utterances]


def test_srt_with_names_before_texts(tmp_path):
    (tmp_path / "talk.srt").write_text(SRT, encoding="utf-8")
    found = read_transcript(tmp_path / "talk.srt")
    assert lines(found) == [
        (1.0, 2.5, "ANNA", "Hello, Ben!"),
        (3.0, 4.04, "Ben O'Neil", "How are you?"),
        (5.0, 6.0, "Ben O'Neil", "What time is it: 10:30?"),
        (7.0, 8.0, None, "One more thing: look here."),
    ]
    assert "'One more thing:' was read as part of the" in found.warnings[0]
    # With the cast a name is a name, however rare.
    (tmp_path / "talk.srt").write_text(SRT.replace("One more thing", "Cleo"), encoding="utf-8")
    found = read_transcript(tmp_path / "talk.srt", ["Anna", "cleo"])
    assert lines(found)[3][2:] == ("Cleo", "look here.") and not found.warnings


def test_vtt_with_voices(tmp_path):
    (tmp_path / "talk.vtt").write_text(VTT, encoding="utf-8")
    assert lines(read_transcript(tmp_path / "talk.vtt")) == [
        (1.0, 2.5, "Anna", "Hello & welcome, Ben!"),
        (3.0, 4.0, "Ben O'Neil", "How are you?"),
        (3.0, 4.0, "Anna", "Fine."),
    ]


def test_ass_with_names_and_comments(tmp_path):
    (tmp_path / "talk.ass").write_text(ASS, encoding="utf-8")
    assert lines(read_transcript(tmp_path / "talk.ass")) == [
        (1.0, 2.5, "Anna", "Hello, Ben!"),
        (3.0, 4.0, None, "Birds sing."),
    ]


@pytest.mark.parametrize("wrapped", ["list", "segments", "utterances"])
def test_json_of_recognizers(tmp_path, wrapped):
    content = [
        {"start": 1, "end": 2.5, "speaker": "Anna", "text": " Hello! "},
        {"start": 3.0, "end": 4.0, "text": "Nobody knows."},
        {"start": 5.0, "end": 6.0, "text": "ANNA: Bye."},
    ]
    written = content if wrapped == "list" else {"language": "en", wrapped: content}
    (tmp_path / "talk.json").write_text(json.dumps(written))
    found = read_transcript(tmp_path / "talk.json")
    assert lines(found) == [
        (1.0, 2.5, "Anna", "Hello!"),
        (3.0, 4.0, None, "Nobody knows."),
        (5.0, 6.0, "ANNA", "Bye."),
    ]
    assert is_file_of_lines(tmp_path / "talk.json")


@pytest.mark.parametrize("ending", [".srt", ".vtt"])
def test_what_is_written_is_read_again(tmp_path, ending):
    talk = Transcript(
        (
            Utterance(0.0, 1.001, "Hello {you} & <me>, 3 < 4 > 2", "anna"),
            Utterance(1.043, 2.0, "What time is it: 10:30?"),
            Utterance(3599.5, 3600.0, "Ünïcödé \u4e2d\u6587", "Ben O'Neil"),
        )
    )
    path = tmp_path / f"talk{ending}"
    path.write_text(subtitles_text(talk, ending), encoding="utf-8")
    found = read_transcript(path, ["anna", "Ben O'Neil"])
    assert found.utterances == talk.utterances


def test_every_frame_of_ten_minutes_survives_milliseconds(tmp_path):
    frames = range(0, 14_386, 7)
    talk = Transcript(
        tuple(Utterance(k * 1001 / 24000, (k + 6) * 1001 / 24000, "x") for k in frames)
    )
    (tmp_path / "talk.srt").write_text(subtitles_text(talk, ".srt"))
    found = read_transcript(tmp_path / "talk.srt").utterances
    assert [round(one.start * 24000 / 1001) for one in found] == list(frames)


def test_other_encodings(tmp_path):
    text = SRT.removeprefix("\ufeff").replace("Hello", "Grüß Gott")
    for encoding, note in (("utf-8", False), ("utf-16", False), ("cp1252", True)):
        (tmp_path / "talk.srt").write_bytes(text.replace("\n", "\r\n").encode(encoding))
        found = read_transcript(tmp_path / "talk.srt")
        assert found.utterances[0].text == "Grüß Gott, Ben!"
        assert any("Windows-1252" in one for one in found.warnings) is note


def test_lines_without_length_or_text_are_left_out_and_said(tmp_path):
    bad = SRT.replace("00:00:02,500", "00:00:01,000").replace("One more thing: look here.", " ")
    (tmp_path / "talk.srt").write_text(bad)
    found = read_transcript(tmp_path / "talk.srt")
    assert len(found.utterances) == 2
    assert any("of 4 lines of talk.srt" in one or "of 3 lines" in one for one in found.warnings)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.srt", "", "is empty; leave the transcript out if nobody speaks"),
        ("a.srt", "Dear all, this is prose.", "cannot be read as subtitles"),
        ("a.srt", "1\n00:00:05 --> 00:00:07\nno milliseconds\n", "cannot be read as subtitles"),
        ("a.srt", "1\n00:00:05,000 --> 00:00:05,000\nANNA: Hi\n", "no line with a time"),
        ("a.vtt", VTT.removeprefix("WEBVTT"), "begins with WEBVTT"),
        ("a.json", "{", "is not valid JSON"),
        ("a.json", '{"result": 3}', "holds no transcript"),
        ("a.json", '[{"start": "1", "end": 2, "text": "x"}]', "needs start and end"),
        ("a.json", '[{"start": 1, "end": 2, "text": "x", "speaker": 3}]', "needs start and end"),
        ("a.json", "[]", "no line with a time"),
    ],
)
def test_what_is_no_transcript_gets_a_sentence(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=words) as error:
        read_transcript(tmp_path / name)
    assert name in str(error.value)


def test_json_of_something_else_is_no_companion(tmp_path):
    for content in ('{"model": "salhub/editiq-stage", "shots": []}', "[1, 2]", "{", "[]"):
        (tmp_path / "talk.json").write_text(content)
        assert not is_file_of_lines(tmp_path / "talk.json")
    assert is_file_of_lines(tmp_path / "talk.srt")


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no transcript at"):
        read_transcript(tmp_path / "talk.srt")
    with pytest.raises(IsADirectoryError):
        read_transcript(tmp_path)
