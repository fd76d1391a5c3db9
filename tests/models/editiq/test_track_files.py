"""Tables of boxes, as other programs write them, become tracks of a film."""

import json

import numpy as np
import pytest

from salhub.models.editiq.actor_tracks import ActorTracks
from salhub.models.editiq.track_files import read_tracks
from tests.models.editiq.small_scenes import BlankFilm

FILM = BlankFilm(seconds=2.0, size=(100, 50))
HEADS = "name,frame,x1,y1,x2,y2"


def written(folder, text, name="talk-tracks.csv"):
    path = folder / name
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "name,frame,x1,y1,x2,y2\nanna,0,10,5,20,40\nben,3,60,5,70,40\nanna,1,,,,\n"),
        ("a.csv", "Actor;Time;X;Y;Width;Height\nanna;0.0;10;5;10;35\nben;0.3;60;5;10;35\n"),
        ("a.json", json.dumps([{"id": "anna", "frame": 0, "x1": 10, "y1": 5, "x2": 20, "y2": 40},
                               {"id": "ben", "frame": 3, "x1": 60, "y1": 5, "x2": 70, "y2": 40}])),
        ("a.json", '{"anna": [[10, 5, 20, 40]], "ben": [null, null, null, [60, 5, 70, 40]]}'),
    ],
    ids=["corners", "sizes and seconds", "objects", "lists"],
)  # fmt: skip
def test_all_forms_give_the_same_boxes_and_gaps(tmp_path, name, text):
    found = read_tracks(written(tmp_path, text, name), FILM)
    assert found.names == ("anna", "ben") and found.frame_rate == FILM.frame_rate
    assert found.boxes[0, 0].tolist() == [10, 5, 20, 40]
    assert found.boxes[1, 3].tolist() == [60, 5, 70, 40]
    assert found.present.sum() == 2


def test_what_a_result_saved_is_read_too(tmp_path):
    boxes = np.tile(np.array([10, 5, 20, 40], np.float32), (1, FILM.num_frames, 1))
    tracks = ActorTracks(("anna",), boxes, FILM.frame_rate, FILM.size)
    tracks.save(tmp_path / "a.npz")
    np.testing.assert_array_equal(read_tracks(tmp_path / "a.npz", FILM).boxes, boxes)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "", "has no boxes; give a table with name, frame, x1, y1, x2 and"),
        ("a.csv", "frame,x1,y1,x2,y2\n0,1,1,2,2\n", "has no column 'name'; its columns are frame"),
        ("a.csv", "name,frame,x1,y1,x2\nanna,0,1,1,2\n", "has no column 'y2'"),
        ("a.csv", f"{HEADS}\nanna,0,1,1,two,2\n", "which is not a number"),
        ("a.csv", f"{HEADS}\nanna,20,1,1,2,2\n", "has the frame 20, but the film has 20 frames"),
        ("a.csv", f"{HEADS}\nanna,0.5,1,1,2,2\n", "has the frame 0.5, but"),
        ("a.csv", f"{HEADS}\nanna,0,1,1,2,2\nanna,0,1,1,2,2\n", "Row 2 .* is a second box of anna"),
        ("a.csv", f"{HEADS}\nanna,0,2,1,1,2\n", "The box of anna at frame 0 is empty"),
        ("a.csv", f"{HEADS}\n,0,1,1,2,2\n", "has no name; give the name of the person in the box"),
        ("a.csv", f"{HEADS}\nanna,0,,,,\n", "has no box with four numbers"),
        ("a.csv", f"{HEADS}\na+b,0,1,1,2,2\n", "cannot be an actor's name"),
        ("a.json", "[1, 2", "is not valid JSON"),
        ("a.json", '{"anna": 3}', "no list of boxes for 'anna'"),
        ("a.json", '{"anna": [[1, 2]]}', r"has \[1, 2\] as the box of anna at frame 0"),
        ("a.npz", "no archive", "does not hold tracks saved by a result as"),
        (
            "a.srt",
            "1\n00:00:01,000 --> 00:00:02,000\nHi\n",
            "does not hold tracks saved by a result as",
        ),
    ],
)
def test_what_is_none_gets_its_sentence(tmp_path, name, text, words):
    with pytest.raises(ValueError, match=words):
        read_tracks(written(tmp_path, text, name), FILM)
