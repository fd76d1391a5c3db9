"""Texts from anywhere, byte for byte as they were."""

import io
import json
import os

import pytest

from salhub import LexRankConfig, LexRankModel
from salhub.data.samples import sample_text_names, sample_text_path
from salhub.data.text_collection import read_texts
from salhub.data.text_sources import MAX_TEXT_BYTES, load_text
from salhub.errors import UnknownNameError
from salhub.models.lexrank.summarizing import summarize
from salhub.models.verbalizer.explaining import check_text

TEXT = "مرحبا 你好 नमस्ते 🙂\r\n<b>bold</b> naïve\n"


def test_the_text_itself_a_file_bytes_and_an_open_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    for source in (TEXT, path, TEXT.encode(), bytearray(TEXT.encode()), io.StringIO(TEXT)):
        assert load_text(source) == TEXT
    with path.open("rb") as file:
        assert load_text(file) == TEXT


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_what_the_bytes_are(encoding):
    assert load_text(TEXT.encode(encoding)) == TEXT


def test_samples():
    for name in sample_text_names():
        assert load_text(f"sample:{name}") == sample_text_path(name).read_text(encoding="utf-8")
    # Somebody may write about samples.
    assert load_text("sample: a small part") == "sample: a small part"
    with pytest.raises(UnknownNameError, match=r"no sample text 'artcle'.*Did you mean 'article'"):
        load_text("sample:artcle")


def test_what_is_no_text_gets_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "article.txt").write_text("words")
    with pytest.raises(FileNotFoundError, match=r"no file .*Did you mean 'article.txt'"):
        load_text(tmp_path / "artcle.txt")
    with pytest.raises(ValueError, match="is not a regular file"):
        load_text(tmp_path)
    with pytest.raises(ValueError, match=r"not text in UTF-8 \(byte 2 is 0xef\); save it as UTF-8"):
        load_text("naïve".encode("latin-1"))
    with pytest.raises(ValueError, match="zero bytes"):
        load_text(b"a\0b")
    with pytest.raises(TypeError, match="from an object of type int"):
        load_text(3)
    monkeypatch.setattr("salhub.data.text_sources.MAX_TEXT_BYTES", 3)
    with pytest.raises(ValueError, match="has 5 bytes, more than the limit of 3"):
        load_text(tmp_path / "article.txt")
    assert MAX_TEXT_BYTES > 10**6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            os.fsdecode(b"caf\xe9"),
            r"contains the byte 0xe9 \(U\+DCE9\) at position 3, so it was cut or is not",
        ),
        ("so \ud83d", r"contains half a character \(U\+D83D\) at position 3, so it was"),
    ],
)
def test_half_a_character_is_said_wherever_a_text_comes_in(text, said, tmp_path):
    model = LexRankModel(LexRankConfig(idf="uniform"))
    (tmp_path / "all.jsonl").write_text(json.dumps({"text": text}))
    for take in (
        lambda: load_text(text),
        lambda: check_text(text),
        lambda: model.rank(["a sentence", text]),
        lambda: summarize(model, text),
        lambda: summarize(model, [["a sentence", text]]),
        lambda: list(read_texts(tmp_path / "all.jsonl")),
    ):
        with pytest.raises(ValueError, match=said):
            take()
    assert load_text("whole \U0001f642") == "whole \U0001f642"


def test_a_text_that_looks_like_the_name_of_a_file_is_read_as_it_is_and_said(caplog):
    assert load_text("notes/town.txt") == "notes/town.txt"
    assert "pathlib.Path('notes/town.txt')" in caplog.text
    caplog.clear()
    load_text("See town.txt.")
    load_text("https://example.com/town.txt")
    assert not caplog.text
