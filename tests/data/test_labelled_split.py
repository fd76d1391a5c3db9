"""What a model knows, what it was made to forget, and a file that says so."""

import hashlib
import json

import pytest
import torch

from salhub.data.labelled_split import LabelledSplit

DATA = {"name": "d", "num_images": 12, "fingerprint": "abc"}


def split() -> LabelledSplit:
    return LabelledSplit(DATA, torch.tensor([0, 1, 2, 5, 7, 8]), torch.tensor([3, 10, 11]))


def test_what_is_forgotten_leaves_the_training_pictures_and_is_remembered():
    once = split().without(torch.tensor([7, 1]))
    assert once.train.tolist() == [0, 2, 5, 8]
    assert once.forgotten.tolist() == [1, 7] and once.test.tolist() == [3, 10, 11]
    twice = once.without(torch.tensor([5]))
    assert twice.train.tolist() == [0, 2, 8] and twice.forgotten.tolist() == [1, 5, 7]
    assert split().train.tolist() == [0, 1, 2, 5, 7, 8] and not len(split().forgotten)


def test_what_was_never_learned_or_is_forgotten_already_cannot_be_forgotten():
    with pytest.raises(
        ValueError, match=r"2 of the 3 pictures .* among the 6 .* the first being 3, 9; only"
    ):
        split().without(torch.tensor([0, 3, 9]))
    with pytest.raises(ValueError, match="1 of the 1 pictures to forget are not among the 4"):
        split().without(torch.tensor([1, 7])).without(torch.tensor([7]))


def test_the_digest_is_that_of_the_data_and_of_what_is_left():
    left = split().without(torch.tensor([1, 7]))
    expected = hashlib.sha256(b"abc")
    for place in (0, 2, 5, 8):
        expected.update(place.to_bytes(8, "little"))
    assert left.digest == expected.hexdigest() != split().digest
    # In one request or in two, and as if it had never been learned.
    assert split().without(torch.tensor([7])).without(torch.tensor([1])).digest == left.digest
    assert LabelledSplit(DATA, torch.tensor([0, 2, 5, 8]), torch.tensor([3])).digest == left.digest
    other = LabelledSplit({"fingerprint": "abd"}, left.train, left.test)
    assert other.digest != left.digest


@pytest.mark.parametrize("forgotten", [[], [1], [0, 1, 2, 7]])
def test_a_file_holds_all_of_it(tmp_path, forgotten):
    saved = split().without(torch.tensor(forgotten, dtype=torch.long))
    saved.save(tmp_path)
    loaded = LabelledSplit.load(tmp_path)
    assert (loaded.data, loaded.digest) == (DATA, saved.digest)
    for name in ("train", "test", "forgotten"):
        found = getattr(loaded, name)
        assert torch.equal(found, getattr(saved, name)) and found.dtype == torch.int64


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("forgotten"),
        lambda content: content.update(train=[[5, 2]]),
        lambda content: content.update(train=[5, 2]),
        lambda content: content.update(train=[["a", "b"]]),
        lambda content: content.update(train=[[0, 2]]),
        lambda content: content.update(data=None),
        lambda content: content["data"].update(fingerprint="abd"),
        lambda content: content.pop("digest"),
    ],
)
def test_damaged_files_are_refused(tmp_path, damage):
    path = split().save(tmp_path)
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is damaged"):
        LabelledSplit.load(tmp_path)


def test_files_that_are_no_splits_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="so the training data of its model are unknown"):
        LabelledSplit.load(tmp_path)
    for content in ("[]", "{", "3"):
        (tmp_path / "split.json").write_text(content)
        with pytest.raises(ValueError, match="is damaged"):
            LabelledSplit.load(tmp_path)
