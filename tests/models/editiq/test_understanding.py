"""Reading lines: rules, chat models and functions, and what their answers must be."""

import json

import pytest

from salhub.models.editiq.configuration_editiq import EditIQConfig
from salhub.models.editiq.dialogue_potential import cues_of
from salhub.models.editiq.line_readings import ReadingError, read_answer
from salhub.models.editiq.reading_by_chat import read_by_chat, read_by_function
from salhub.models.editiq.reading_rules import read_by_rules, turns_of
from salhub.models.editiq.shots import Lock, Shot, find_shot
from salhub.models.editiq.stages import StageStore
from salhub.models.editiq.utterances import Transcript, Utterance, split_speaker

CAST = ["anna", "ben", "cleo"]
SHOTS = [Shot("WIDE"), *(Shot("MS", (name,)) for name in CAST), Shot("MS", ("anna", "ben"))]


def talk(*lines):
    """Lines of (speaker, text, seconds), half a second apart."""
    found, now = [], 1.0
    for speaker, text, seconds in lines:
        found.append(Utterance(now, now + seconds, text, speaker))
        now += seconds + 0.5
    return Transcript(tuple(found))


@pytest.mark.parametrize(
    "text, kind, addressee",
    [
        ("Ben, where were you?", "question", "ben"),
        ("Where were you last night", "question", "cleo"),
        ("I was at home.", "statement", "cleo"),
        ("Everyone, listen to me.", "address_all", "all"),
        ("Everybody in town knows it.", "statement", "cleo"),
        ("All of you know what happened.", "address_all", "all"),
        ("Ben and Cleo, come here.", "address_all", "all"),
        ("Is it you two again?", "address_all", "all"),
        ("It is ten. Do you hear me?", "question", "cleo"),
    ],
)
def test_rules_read_to_whom_a_line_goes(text, kind, addressee):
    lines = talk(("anna", text, 2.0), ("cleo", "Well.", 1.0))
    reading = read_by_rules(lines, CAST, 8.0)[0]
    assert (reading.kind, reading.addressee) == (kind, addressee)
    assert reading.show == (("WIDE",) if kind == "address_all" else ("MS:anna",))


def test_answers_actions_and_reactions():
    lines = talk(
        ("anna", "Did you see it?", 2.0), ("ben", "I did.", 1.0), (None, "[She leaves]", 2.0),
        ("ben", "It was a long night.", 5.0), ("ben", "And it was cold.", 5.0),
        ("cleo", "No, you are lying to us again and again!", 4.5),
    )  # fmt: skip
    found = read_by_rules(lines, CAST, 8.0)
    assert [one.kind for one in found] == [
        "question", "answer", "action", "statement", "statement", "statement",
    ]  # fmt: skip
    assert [one.reaction_of for one in found] == [None, None, None, "cleo", "cleo", "ben"]
    assert [(turn.first, turn.last) for turn in turns_of(lines)] == [
        (0, 0), (1, 1), (2, 2), (3, 4), (5, 5),
    ]  # fmt: skip


def cues(lines, **settings):
    config = EditIQConfig(**settings)
    readings = read_by_rules(lines, CAST, config.reaction_after)
    end = lines.utterances[-1].end + 1
    return cues_of(lines, readings, config, end, CAST)


def test_the_camera_waits_for_an_answer_and_shows_who_listens():
    lines = talk(("anna", "Did you see it, Ben?", 2.0), ("ben", "A long story.", 9.0))
    found = cues(lines, establishing="off")
    waits = next(one for one in found if one.why == "answer awaited")
    assert (waits.start, waits.end, waits.show) == (3.0, 3.5, ("MS:ben",))
    reacts = next(one for one in found if one.why == "reaction")
    assert (reacts.start, reacts.end) == (7.0, 9.0) and reacts.show == ("MS:anna",)
    assert reacts.importance == {"anna": 0.9, "ben": 0.5} and reacts.replaces


def test_fast_exchanges_and_people_who_speak_at_once_are_shown_together():
    fast = talk(*((name, "No.", 0.8) for name in ("anna", "ben", "anna", "ben")))
    one = next(one for one in cues(fast) if one.why == "fast exchange")
    assert one.show == ("MS:anna+ben",) and one.start == 1.0
    slow = talk(*((name, "No.", 1.8) for name in ("anna", "ben", "anna", "ben")))
    assert not any(one.why == "fast exchange" for one in cues(slow))
    at_once = Transcript((Utterance(1, 4, "I say", "ben"), Utterance(3.5, 6, "No!", "anna")))
    one = next(one for one in cues(at_once) if one.why == "at once")
    assert (one.start, one.end, one.show) == (3.5, 4, ("MS:anna+ben",))


def test_the_wide_shot_comes_first_and_again_after_a_long_time():
    lines = talk(*(("anna", "A line of words.", 4.0) for _ in range(5)))
    found = cues(lines, reestablish_after=10.0)
    assert [one.start for one in found if one.why == "establishing"] == [0.0]
    again = [one.start for one in found if one.why == "re-establishing"]
    assert again == [14.0]


ANSWER = [
    {"id": 0, "speaker": "anna", "addressee": "BEN", "show": ["MS:ben+anna", "anna", "MS:dora"],
     "kind": "question", "intensity": 0.5, "reaction_of": "zoe"},
    {"id": 1, "addressee": "all", "show": ["wide"]},
]  # fmt: skip
LINES = talk(("anna", "Well?", 1.0), ("ben", "No.", 1.0))


class Scripted:
    """A chat model that says what it is told."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def generate(self, conversations):
        self.asked += conversations
        return [self.answers.pop(0)]


def test_a_chat_model_is_asked_by_names_and_its_unknown_names_are_dropped():
    chat = Scripted("Sure!\n```json\n" + json.dumps(ANSWER) + "\n```")
    found = read_by_chat(chat, LINES, CAST, SHOTS, 8.0)
    first, second = found.readings
    assert first.addressee == "ben" and first.show == ("MS:anna+ben", "MS:anna")
    assert first.reaction_of is None and second.show == ("WIDE",) and second.speaker == "ben"
    assert len(found.warnings) == 2 and "MS:dora" in " ".join(found.warnings)
    system, user = chat.asked[0]
    assert "film editor" in system["content"] and "0. anna: Well?" in user["content"]
    assert "MS:anna+ben" in user["content"]


def test_prose_is_asked_for_once_more_and_then_rules_read():
    chat = Scripted("I cannot do that.", "Still not.")
    found = read_by_chat(chat, LINES, CAST, SHOTS, 8.0)
    assert found.readings == tuple(read_by_rules(LINES, CAST, 8.0))
    assert found.warnings == (
        "The language model's answer for the lines 0 to 1 could not be used, because "
        "it holds no JSON; the rules read them instead.",
    )
    second = Scripted("Well.", json.dumps(ANSWER))
    assert read_by_chat(second, LINES, CAST, SHOTS, 8.0).readings[0].kind == "question"


def test_long_transcripts_are_read_in_windows_and_answers_are_kept(tmp_path):
    lines = talk(*((CAST[n % 3], f"Line {n}.", 1.0) for n in range(45)))
    answers = [
        json.dumps({"lines": [{"id": n} for n in range(a, b)]})
        for a, b in ((0, 20), (20, 40), (40, 45))
    ]
    chat, store = Scripted(*answers), StageStore(tmp_path)
    found = read_by_chat(chat, lines, CAST, SHOTS, 8.0, store=store, name="some/model")
    assert len(found.readings) == 45 and not found.warnings
    asked = chat.asked[1][1]["content"]
    assert "16. ben: Line 16." in asked and "15. anna" not in asked and "39. anna" in asked
    silent = Scripted()
    again = read_by_chat(silent, lines, CAST, SHOTS, 8.0, store=store, name="some/model")
    assert again.readings == found.readings


@pytest.mark.parametrize(
    "answer, reason",
    [
        ("text", "it is not a list of lines"),
        ([{"id": 0}], "1 lines are missing, the first of them 1"),
        ([{"id": 0}, {"id": 0}], "line 0 appears twice"),
        ([{"id": "0"}], "the id of a line is not a whole number"),
        ([{"id": 0, "kind": "song"}], "line 0 has the unknown kind 'song'"),
        ([{"id": 0, "intensity": 3}], "line 0 has the intensity 3, outside of 0 to 1"),
        ([{"id": 0, "intensity": "high"}], "which is not a number"),
        ([{"id": 0, "show": "MS:anna"}], "has a 'show' that is not a list of names"),
        ([{"id": 0, "camera": 1}], "a line has the unknown key 'camera'"),
        ([{"id": 0, "speaker": 4}], "has 4 as speaker, which is not a name"),
    ],
)
def test_answers_of_another_form_are_named(answer, reason):
    with pytest.raises(ReadingError, match=reason):
        read_answer(answer, [0, 1], CAST, SHOTS)


def test_a_function_reads_and_its_mistakes_are_its_own():
    found = read_by_function(lambda lines, cast, shots: ANSWER, LINES, CAST, SHOTS)
    assert found.readings[0].kind == "question"
    with pytest.raises(
        ValueError,
        match="an invalid answer, because it is not a list of lines; it must return a list of",
    ):
        read_by_function(lambda *_: "prose", LINES, CAST, SHOTS)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("ANNA: Hello", ("ANNA", "Hello")),
        ("<v Anna Lee>Hello</v>", ("Anna Lee", "Hello")),
        ("[Ben] Hello", ("Ben", "Hello")),
        ("It is 10:30 now", (None, "It is 10:30 now")),
        ("He said it and then they all went home: good", (None,
         "He said it and then they all went home: good")),
    ],
)  # fmt: skip
def test_who_speaks_is_read_from_subtitles(text, expected):
    assert split_speaker(text) == expected


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: Utterance(2, 1, "Hi"), "s; it must begin at 0 or later, and end after it begins"),
        (lambda: Utterance(float("nan"), 1, "Hi"), "give both in seconds"),
        (lambda: Lock.parse("12=MS:ben"), "'12=MS:ben' is not a lock; write it as '12"),
        (lambda: Lock(3, 2, "WIDE"), "goes from 3 s to 2 s"),
        (lambda: Lock(1, 2, "CLOSE:ben"), "'CLOSE:ben' is not a shot"),
        (lambda: find_shot("MS:bem", SHOTS), "There is no shot 'MS:bem'.*Did you mean 'MS:ben'"),
    ],
)
def test_bad_lines_and_locks_are_refused_with_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_transcripts_are_fitted_to_the_film():
    lines = Transcript((Utterance(5, 9, "b", "BEN"), Utterance(0, 2, "a", "Anna"),
                        Utterance(3, 4, "c")))  # fmt: skip
    found = lines.check(8.0, CAST)
    assert [one.speaker for one in found.utterances] == ["anna", None, "ben"]
    assert found.utterances[-1].end == 8.0
    said = " ".join(found.warnings)
    assert (
        "sorted" in said
        and "run past the film's end" in said
        and "lines have no speaker; they do not affect who is shown" in said
    )
    sentence = "not in the cast: dora, Bem; the cast is anna, ben.*Did you mean, for Bem, 'ben'"
    with pytest.raises(ValueError, match=sentence):
        Transcript((Utterance(0, 1, "x", "dora"), Utterance(1, 2, "y", "Bem"))).check(9, CAST)
    forty = Transcript(tuple(Utterance(60 * k, 60 * k + 5, "x", "anna") for k in range(40)))
    with pytest.raises(ValueError, match="37 of 40 lines of the transcript begin after"):
        forty.check(125.0, CAST)
