"""Collections of texts, one text at a time."""

import gzip
import json

import pytest

from salhub.data.text_collection import fingerprint, read_texts


def test_every_kind_of_collection(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "b.txt").write_text("Second.\n\nStill second.")
    (folder / "a.txt").write_text("First naïve text.", encoding="utf-8")
    (folder / "c.md").write_text("Not a text of the collection.")
    assert list(read_texts(folder)) == ["First naïve text.", "Second.\n\nStill second."]

    paragraphs = "First\nline.\n\n\n  \nSecond.\n"
    (tmp_path / "all.txt").write_text(paragraphs)
    assert [text.strip() for text in read_texts(tmp_path / "all.txt")] == [
        "First\nline.",
        "Second.",
    ]
    (tmp_path / "all.txt.gz").write_bytes(gzip.compress(paragraphs.encode()))
    assert list(read_texts(tmp_path / "all.txt.gz")) == list(read_texts(tmp_path / "all.txt"))

    rows = [{"text": "One."}, {"sentences": ["Two.", "Three."]}, {"article": "Four.", "id": 3}]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert list(read_texts(tmp_path / "all.jsonl")) == ["One.", "Two. Three.", "Four."]

    (tmp_path / "all.csv").write_text('3,"Title, with comma","A ""quoted"" text"\n1,Other,Text\n')
    assert list(read_texts(tmp_path / "all.csv")) == [
        'Title, with comma A "quoted" text', "Other Text",
    ]  # fmt: skip


def test_texts_are_read_when_they_are_asked_for(tmp_path):
    path = tmp_path / "all.jsonl"
    path.write_text('{"text": "Good."}\nbroken\n')
    texts = read_texts(path)
    assert next(texts) == "Good."
    with pytest.raises(ValueError, match=r"line 2 of .*all\.jsonl is not valid JSON"):
        next(texts)


def test_what_is_no_collection_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; give a folder or file of texts"):
        read_texts(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"has no \.txt files\."):
        read_texts(tmp_path)
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(ValueError, match=r"ending in \.csv, \.jsonl, \.txt"):
        read_texts(tmp_path / "a.pdf")
    (tmp_path / "a.jsonl").write_text('{"words": "x"}\n')
    with pytest.raises(ValueError, match=r"line 1 of .* has none of the fields text, article"):
        list(read_texts(tmp_path / "a.jsonl"))


def test_lines_that_hold_no_text_and_other_encodings_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n')
    with pytest.raises(ValueError, match="has None where a text should be"):
        list(read_texts(tmp_path / "a.jsonl"))
    (tmp_path / "a.csv").write_bytes("1,café\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.csv is not UTF-8 text \("):
        list(read_texts(tmp_path / "a.csv"))


def test_fingerprints_tell_contents_apart(tmp_path):
    for name, text in (("a.txt", "x"), ("b.txt", "x"), ("c.txt", "y")):
        (tmp_path / name).write_text(text)
    first, same, other = (fingerprint(tmp_path / f"{name}.txt") for name in "abc")
    assert first == same != other and len(fingerprint(tmp_path)) == 16


def test_a_folder_of_texts_from_a_mac(tmp_path, caplog):
    for name in ("a.txt", "B.TXT", "notes.md"):
        (tmp_path / name).write_text(name)
    before = list(read_texts(tmp_path)), fingerprint(tmp_path)
    assert before[0] == ["B.TXT", "a.txt"]
    assert "Left out 1 file of another kind (notes.md)." in caplog.text
    (tmp_path / "._a.txt").write_bytes(b"\0\5\26\7")
    assert before == (list(read_texts(tmp_path)), fingerprint(tmp_path))
