"""Labelled texts: every layout, and what is no such layout."""

import gzip
import json

import pytest

from salhub.data.labelled_texts import read_labelled_texts, read_unlabelled_texts


def test_tab_separated_sentiment(tmp_path):
    path = tmp_path / "sst2_train.tsv"
    path.write_text("a good film\t1\nno 'good' at all\t0\n", encoding="utf-8")
    texts = read_labelled_texts(path)
    assert texts.name == "sst2_train"
    assert texts.texts == ["a good film", "no 'good' at all"]
    assert texts.labels == [1, 0] and texts.class_names == ["negative", "positive"]
    assert texts.describe()["num_texts"] == 2 and len(texts.describe()["fingerprint"]) == 16


def test_the_header_of_the_published_file_is_no_text(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("sentence\tlabel\nfine\t1\n", encoding="utf-8")
    assert read_labelled_texts(path).texts == ["fine"]


def test_news_of_four_classes(tmp_path):
    path = tmp_path / "ag_news_test.csv"
    path.write_text('"3","Shares up","The ""index""\\rose."\n"1","Talks","On."\n', encoding="utf-8")
    texts = read_labelled_texts(path)
    assert texts.texts == ['Shares up The "index" rose.', "Talks On."]
    assert [texts.class_names[label] for label in texts.labels] == ["Business", "World"]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_json_lines(tmp_path, suffix):
    path = tmp_path / f"reviews{suffix}"
    rows = [{"text": "دافئ 🎬", "label": "pos"}, {"text": "dull", "label": "neg"}]
    with (gzip.open if suffix.endswith("gz") else open)(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    texts = read_labelled_texts(path)
    assert texts.texts[0] == "دافئ 🎬" and texts.labels == [1, 0]
    assert texts.class_names == ["negative", "positive"]
    assert read_unlabelled_texts(path) == texts.texts


def test_sentence_polarity_is_a_pair_of_latin_1_files(tmp_path):
    (tmp_path / "rt.pos").write_bytes("caf\u00e9 fun \n".encode("latin-1"))
    with pytest.raises(FileNotFoundError, match=r"rt\.neg is missing beside rt\.pos"):
        read_labelled_texts(tmp_path / "rt.pos")
    (tmp_path / "rt.neg").write_bytes(b"dull\n")
    texts = read_labelled_texts(tmp_path / "rt.pos")
    assert texts.texts == ["dull", "caf\u00e9 fun"] and texts.labels == [0, 1]


def test_other_classes_keep_their_names_in_order(tmp_path):
    path = tmp_path / "tickets.tsv"
    path.write_text("x\tlate\ny\tbroken\n", encoding="utf-8")
    texts = read_labelled_texts(path)
    assert texts.class_names == ["broken", "late"] and texts.labels == [1, 0]


def test_plain_lines_are_texts_without_labels(tmp_path):
    (tmp_path / "prose.txt").write_text("one\n\n two \n", encoding="utf-8")
    assert read_unlabelled_texts(tmp_path / "prose.txt") == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "pattern"),
    [
        ("a.tsv", "no tab here\n", "line 1 of a.tsv is not a text, a tab and a label"),
        ("a.csv", '"5","a","b"\n', "row 1 of a.csv is not a class from 1 to 4"),
        ("a.jsonl", '{"text": "x"}\n', "line 1 of a.jsonl is no JSON object with text and label"),
        ("a.xml", "<a/>", "a.xml is laid out in no known way; give .tsv"),
        ("a.tsv", "", "a.tsv holds no text"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, pattern):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=pattern):
        read_labelled_texts(tmp_path / name)


def test_a_missing_file_is_named():
    for read in (read_labelled_texts, read_unlabelled_texts):
        with pytest.raises(FileNotFoundError, match=r"There is no file nowhere\.tsv"):
            read("nowhere.tsv")


def test_json_lines_without_labels(tmp_path):
    path = tmp_path / "news.jsonl"
    rows = [{"article": "one"}, {"sentences": ["two.", "Three."]}, {"text": "four", "label": 1}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert read_unlabelled_texts(path) == ["one", "two. Three.", "four"]
    path.write_text("[]\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no JSON object with text, article or sentences"):
        read_unlabelled_texts(path)
