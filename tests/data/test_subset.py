"""Words that name a part of a data set, and words that name none."""

import json

import numpy as np
import pytest
import torch

from salhub.data.subset import Subset, choose_subset

NAMES = ["cat", "dog", "ice, cream", "7"]
LABELS = torch.tensor([0, 1, 2, 3] * 5)
# What the model has learned: not all of the data.
AMONG = torch.tensor([1, 2, 4, 5, 6, 7, 9, 10, 12, 13, 14, 15])


def choose(spec: str, seed: int = 0) -> Subset:
    return choose_subset(spec, LABELS, AMONG, NAMES, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("spec", "classes"),
    [
        ("class:cat", (0,)),
        ("class:0", (0,)),
        ("class:dog, cat", (0, 1)),
        ("class:1,0,1", (0, 1)),
        ("class:ice, cream", (2,)),  # a name with a comma in it
        ("class:7", (3,)),  # a name that is a number
        ("class:3,2", (2, 3)),
    ],
)
def test_classes_by_name_and_number(spec, classes):
    found = choose(spec)
    assert (found.classes, found.spec) == (classes, spec)
    expected = [place for place in AMONG.tolist() if int(LABELS[place]) in classes]
    assert found.places.tolist() == expected and found.places.dtype == torch.int64


@pytest.mark.parametrize(
    ("spec", "count"), [("random:0.25", 3), ("random:1.0", 12), ("random:1", 1), ("random:5", 5)]
)
def test_random_places_are_drawn_among_those_that_were_learned(spec, count):
    found = choose(spec)
    assert len(found.places) == count and found.classes == ()
    assert set(found.places.tolist()) <= set(AMONG.tolist())
    assert found.places.tolist() == sorted(set(found.places.tolist()))


def test_random_places_follow_the_seed_and_each_is_as_likely():
    assert torch.equal(choose("random:4", 1).places, choose("random:4", 1).places)
    drawn = torch.cat([choose("random:4", seed).places for seed in range(300)]).bincount()[AMONG]
    assert drawn.sum() == 1200 and int(drawn.min()) > 70 and int(drawn.max()) < 130


def test_places_by_number_may_lie_anywhere(tmp_path):
    expected = [0, 3, 19]
    assert choose("indices:19, 3 0,3").places.tolist() == expected
    (tmp_path / "a.txt").write_text("19\n3,0\n")
    (tmp_path / "b.json").write_text(json.dumps([3, 19, 0]))
    np.save(tmp_path / "c.npy", np.array([[19], [3], [0]]))
    for name in ("a.txt", "b.json", "c.npy"):
        found = choose(f"file:{tmp_path / name}")
        assert found.places.tolist() == expected and found.classes == ()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("cat", "'cat' is not a valid subset; expected class:NAME"),
        ("class:", "' is not a valid subset; expected"),
        ("klass:cat", "' is not a valid subset; expected"),
        (
            "class:catt",
            r"There is no class 'catt'\. Did you mean 'cat'\? Give a name, or an index of 0 to 3\.",
        ),
        ("class:4", "no class '4'"),
        ("class:-1", "no class '-1'"),
        ("class:cat,", "no class ''"),
        ("random:0", "selects 0 of 12 pictures; select 1 or more"),
        ("random:0.01", "selects 0 of 12 pictures"),
        ("random:13", "selects 13 of 12 pictures"),
        ("random:1.5", "a share above 0 and at most 1, or a number"),
        ("random:-0.5", "a share above 0"),
        ("random:nan", "a share above 0"),
        ("random:half", "a share above 0"),
        ("indices:1,x", "must list whole numbers"),
        ("indices:1.0", "must list whole numbers"),
        ("indices:-1", "must list whole numbers"),
        ("indices: ", "must list whole numbers"),
        ("indices:3,20,21", "has 2 indices beyond the 20 pictures, the first being 20"),
    ],
)
def test_words_that_are_not_understood_are_refused(spec, words):
    with pytest.raises(ValueError, match=words):
        choose(spec)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"1\nx\n"),
        ("a.txt", b""),
        ("a.txt", b"\xff\xfe\x00"),
        ("a.json", b"{"),
        ("a.json", b'{"3": 1}'),
        ("a.json", b'"12"'),
        ("a.json", b"[[1], [2]]"),
        ("a.json", b"[1.5]"),
        ("a.json", b"[true]"),
        ("a.json", b"7"),
        ("a.npy", b"no array"),
    ],
)
def test_files_that_hold_no_places_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"must (hold a )?list (of )?whole numbers, 0 or more"):
        choose(f"file:{tmp_path / name}")


def test_arrays_of_other_numbers_and_missing_files_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([0.5, 1.0]))
    np.save(tmp_path / "b.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for name in ("a.npy", "b.npy"):
        with pytest.raises(ValueError, match="must hold a list of whole numbers"):
            choose(f"file:{tmp_path / name}")
    with pytest.raises(FileNotFoundError, match="There is no file of places at"):
        choose(f"file:{tmp_path / 'none.txt'}")
