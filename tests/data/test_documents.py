"""Texts for language models: what a document is, how it is encoded, and where windows are cut."""

import csv
import gzip
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from salhub.data.documents import (
    calibration_windows,
    encode_documents,
    encode_text,
    read_documents,
    read_texts,
    read_tokens,
    windows_of,
)
from tests import small_llama

TEXT = "One.\nStill one.\n\n    Two, indented.\n \t\n\n\nThree.\n"
DOCUMENTS = ["One.\nStill one.", "    Two, indented.", "Three.\n"]


@pytest.fixture(scope="module")
def tokenizer():
    return small_llama.tokenizer()


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("books") / "book.txt"
    path.write_text("\n\n".join(small_llama.documents(20)))
    return path


# --- reading --------------------------------------------------------------------------------------


def test_documents_of_a_file_stand_between_blank_lines_and_keep_their_indentation(tmp_path):
    for name, content in {
        "a.txt": TEXT.encode(),
        "b.txt.gz": gzip.compress(TEXT.encode()),
        "c": TEXT.encode("utf-16"),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert read_documents(tmp_path / name) == DOCUMENTS
    (tmp_path / "windows.txt").write_bytes(TEXT.replace("\n", "\r\n").encode())
    found = read_documents(tmp_path / "windows.txt")
    assert found == [document.replace("\n", "\r\n") for document in DOCUMENTS]
    whole = read_texts(tmp_path / "windows.txt")
    assert (whole.whole, whole.part) == (TEXT.replace("\n", "\r\n"), "")


def test_a_table_has_a_document_in_each_row(tmp_path):
    rows = ["One.\n\nStill one.", "", "Two."]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("story", "year"), *((row, 1999) for row in rows)])
    lines = [json.dumps({"text": row or None}) for row in rows]
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    column = {"text_column": "story"}
    assert read_documents(tmp_path / "a.csv", **column) == ["One.\n\nStill one.", "Two."]
    assert read_documents(tmp_path / "b.jsonl") == ["One.\n\nStill one.", "Two."]
    # Blank rows belong to the text as published measures take it.
    assert read_texts(tmp_path / "b.jsonl").whole == "One.\n\nStill one.\n\n\n\nTwo."


def test_the_last_part_of_a_data_set_is_what_is_measured(tmp_path):
    for part in ("train", "test"):
        (tmp_path / f"{part}.jsonl").write_text(json.dumps({"text": part}))
    assert read_documents(tmp_path) == ["train"]
    found = read_texts(tmp_path, part=None)
    assert (found.whole, found.part) == ("test", "test")
    with pytest.raises(ValueError, match="has no part 'validation'; it has t"):
        read_texts(tmp_path, part="validation")


@pytest.mark.parametrize(
    ("name", "content", "error", "sentence"),
    [
        ("a.txt", b" \n\n\t", ValueError, r"a\.txt contains no text"),
        ("a.jsonl", b'{"text": ""}', ValueError, r"a\.jsonl contains no text"),
        ("a.jsonl", b'{"text": [1, 2]}', ValueError, r"line 1 of a\.jsonl has '\[1, 2\]' where a"),
        ("a.txt", b"\xff\xff", ValueError, "is not text in UTF-8"),
        (
            "a.npz",
            b"PK\3\4\x14\0\xa6",
            ValueError,
            r"a\.npz is not a text; give a text file, such as",
        ),
        ("b.txt", None, FileNotFoundError, r"The text file .*b\.txt does not exist"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, name, content, error, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=sentence):
        read_documents(tmp_path / name)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(FileNotFoundError, match="has no table of texts; give a text file, such as"):
        read_documents(tmp_path / "pictures")
    # Also where the name has no folder, and could be that of a data set.
    if content is None:
        with pytest.raises(error, match=sentence):
            read_documents(name)


def test_options_of_tables_are_refused_for_texts_and_tokens(tokenizer, tmp_path):
    (tmp_path / "a.txt").write_text("the film " * 50)
    np.save(tmp_path / "b.npy", np.arange(40))
    for name in ("a.txt", "b.npy"):
        for option in ("text_column", "dataset_config_name"):
            sentence = f"{option} is story, but {name} is a [a-z ]*, which has none; leave {option}"
            with pytest.raises(ValueError, match=sentence):
                calibration_windows(tmp_path / name, tokenizer, 2, 8, **{option: "story"})
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": "the film"}))
    with pytest.raises(ValueError, match=r"dataset_config_name is raw, but c\.jsonl is a file"):
        read_texts(tmp_path / "c.jsonl", dataset_config_name="raw")


def test_a_broken_parquet_file_is_refused_in_one_sentence(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "a.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read as a Parquet file \(\w+\);"):
        read_documents(tmp_path / "a.parquet")


# --- encoding -------------------------------------------------------------------------------------


def test_an_end_stands_behind_every_document_and_nothing_is_added_to_one_text(tokenizer):
    ids = encode_documents(["the film", "a king"], tokenizer).tolist()
    assert [tokenizer.decode(part) for part in split(ids, 0)] == ["the film", "a king"]
    assert ids[-1] == 0 and ids.count(0) == 2
    plain = encode_text("the film\n\na king", tokenizer)
    assert plain.dtype == torch.long and 0 not in plain
    assert tokenizer.decode(plain) == "the film\n\na king"


def split(ids, end):
    parts = [[]]
    for token in ids:
        parts[-1].append(token)
        if token == end:
            parts[-1].pop()
            parts.append([])
    return parts[:-1]


def test_a_tokenizer_without_an_end_is_refused(tokenizer, book):
    class Endless:
        eos_token_id = None

        def __len__(self):
            return len(tokenizer)

        def __call__(self, *arguments, **keywords):
            return tokenizer(*arguments, **keywords)

    with pytest.raises(ValueError, match="This Endless has no end token to put"):
        calibration_windows(book, Endless(), 2, 8)
    assert calibration_windows(book, Endless(), 2, 8, as_documents=False).shape == (2, 8)


# --- windows --------------------------------------------------------------------------------------


def test_windows_follow_each_other_and_the_rest_is_left_out():
    assert windows_of(torch.arange(8), 3).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert windows_of(torch.arange(8), 3, first=9).shape == (0, 3)


def test_calibration_windows_are_drawn_by_the_seed_from_anywhere_in_the_text(tokenizer, book):
    whole = encode_documents(read_documents(book), tokenizer)
    found = calibration_windows(book, tokenizer, 400, 16, seed=3)
    assert found.shape == (400, 16) and found.dtype == torch.long
    possible = {tuple(row) for row in whole.unfold(0, 16, 1).tolist()}
    drawn = {tuple(row) for row in found.tolist()}
    assert drawn <= possible and len(drawn) > 150
    assert torch.equal(found, calibration_windows(book, tokenizer, 400, 16, seed=3))
    assert not torch.equal(found, calibration_windows(book, tokenizer, 400, 16, seed=4))
    # The first and the last place are among those that are drawn.
    ends = calibration_windows(book, tokenizer, 60, len(whole) - 1, seed=0)
    assert {int(row[0]) for row in ends} == {int(whole[0]), int(whole[1])}
    assert torch.equal(calibration_windows(book, tokenizer, 1, len(whole))[0], whole)


@pytest.mark.parametrize("ending", [".npy", ".safetensors"])
def test_tokens_may_be_given_instead_of_text(tokenizer, tmp_path, ending):
    rows, path = torch.arange(60).view(6, 10), tmp_path / f"tokens{ending}"

    def keep(tokens):
        if ending == ".npy":
            np.save(path, tokens.numpy().astype(np.uint16))
        else:
            save_file({"input_ids": tokens.int(), "more": torch.ones(1)}, path)

    keep(rows)
    assert torch.equal(read_tokens(path, 300), rows)
    assert torch.equal(calibration_windows(path, tokenizer, 6, 10), rows)
    some = [calibration_windows(path, tokenizer, 3, 10, seed).tolist() for seed in range(9)]
    assert all(row in rows.tolist() for one in some for row in one)
    assert len({str(one) for one in some}) > 1
    keep(rows.flatten())
    found = calibration_windows(path, tokenizer, 5, 7)
    assert torch.equal(found - found[:, :1], torch.arange(7).expand(5, 7))


ROWS = np.arange(20).reshape(2, 10)


@pytest.mark.parametrize(
    ("tokens", "asked", "sentence"),
    [
        (ROWS, (3, 10), r"a\.npy has 2 windows of 10 tokens, but you asked for 3 of 10\."),
        (ROWS, (2, 8), "has 2 windows of 10 tokens, but you asked for 2 of 8"),
        (ROWS.ravel(), (1, 21), "has 20 tokens, fewer than one window of 21"),
        (ROWS + 290, (2, 10), "has tokens from 290 to 309, but the model only knows 0 to"),
        (ROWS - 1, (2, 10), "tokens from -1 to 18"),
        (ROWS / 2, (2, 10), "float64, but tokens must be whole numbers"),
        (ROWS > 2, (2, 10), "bool, but tokens must be whole numbers"),
        (ROWS[:0], (2, 10), r"has the shape \(0, 10\)"),
        (ROWS[None], (2, 10), r"has the shape \(1, 2, 10\)"),
        (
            np.array([{}]),
            (2, 10),
            r"a\.npy cannot be read as tokens \(it is no array",
        ),
    ],
)
def test_tokens_that_make_no_windows_are_refused_with_numbers(
    tokenizer, tmp_path, tokens, asked, sentence
):
    np.save(tmp_path / "a.npy", tokens, allow_pickle=True)
    with pytest.raises(ValueError, match=sentence):
        calibration_windows(tmp_path / "a.npy", tokenizer, *asked)


def test_a_text_that_makes_no_window_is_refused_with_numbers(tokenizer, book, tmp_path):
    number = len(encode_documents(read_documents(book), tokenizer))
    for asked, sentence in {
        (1, number + 1): f"txt has {number} tokens, fewer than one window of {number + 1}",
        (0, 8): "num_windows must be at least 1, got 0",
        (1, 1): "length must be at least 2, got 1",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            calibration_windows(book, tokenizer, *asked)
    with pytest.raises(FileNotFoundError, match=r"The token file .*b\.npy does not exist"):
        calibration_windows(tmp_path / "b.npy", tokenizer, 1, 8)
    save_file({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match="has the tensors a, b; call one of them input_ids"):
        read_tokens(tmp_path / "two.safetensors", 300)
    save_file({}, tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"none\.safetensors has no tensors; give one"):
        read_tokens(tmp_path / "none.safetensors", 300)
