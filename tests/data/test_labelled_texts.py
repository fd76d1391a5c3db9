"""Labelled texts: every layout, and what is no such layout."""

import gzip
import json

import pytest
import torch

from salhub.data.labelled_texts import read_labelled_texts, read_unlabelled_texts
from salhub.evaluation.held_out import classes_of_model


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
    assert texts.class_names == ["neg", "pos"]
    assert read_unlabelled_texts(path) == texts.texts


def test_sentence_polarity_is_a_pair_of_latin_1_files(tmp_path):
    (tmp_path / "rt.pos").write_bytes("caf\u00e9 fun \n".encode("latin-1"))
    with pytest.raises(FileNotFoundError, match=r"rt\.neg is missing next to rt\.pos"):
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
        ("ag_news.csv", '"5","a","b"\n', "line 1 of ag_news.csv is not a class from 1 to 4"),
        ("sst2.tsv", "fine\t2\n", "line 1 of sst2.tsv is not a text, a tab and 0 or 1"),
        ("a.jsonl", '{"text": "x"}\n', "not clear which column of a.jsonl .* label_column: it has"),
        ("a.jsonl", "{}\n[]\n", "jsonl is not a JSON object"),
        ("a.json", '{"text": 1', "line 1 of a.json is not valid JSON"),
        ("a.xml", "<a/>", "has an unknown format; give a file ending in"),
        ("a.csv", "text,label\n", "a.csv contains no text"),
        (
            "a.csv",
            "text,label\nfine\n",
            "csv has 1 fields, but the first line has 2; put quotation marks around",
        ),
        ("a.csv", "text,text\na,b\n", "two columns called 'text'"),
        ("a.csv", 'text,label\n"open,1\n', "cannot be read from line 2 on"),
        ("a.tsv", "", "a.tsv contains no text"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, pattern):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=pattern):
        read_labelled_texts(tmp_path / name)


def test_a_column_of_one_class_is_named_and_so_is_the_file(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text("date,text,label\n2024,good,1\n2024,bad,1\n", encoding="utf-8")
    for options, column in (({}, "label"), ({"label_column": "date"}, "date")):
        texts = read_labelled_texts(path, **options)
        with pytest.raises(ValueError, match=f"reviews.csv has 1 class in the column '{column}'"):
            texts.check_learnable()
    with pytest.raises(ValueError, match=r"must be one of date, text, label\.$"):
        read_labelled_texts(path, text_column="tile")


def test_a_missing_file_is_named():
    for read in (read_labelled_texts, read_unlabelled_texts):
        with pytest.raises(
            FileNotFoundError, match=r"The data nowhere\.tsv do not exist; give a file or folder\."
        ):
            read("nowhere.tsv")


def test_json_lines_without_labels(tmp_path):
    path = tmp_path / "news.jsonl"
    rows = [{"article": "one"}, {"sentences": ["two.", "Three."]}, {"text": "four", "label": 1}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert read_unlabelled_texts(path) == ["one", "two. Three.", "four"]
    path.write_text("[]\n", encoding="utf-8")
    with pytest.raises(ValueError, match="none of the fields text, article, sentences"):
        read_unlabelled_texts(path)


def test_a_file_of_three_columns_without_headings_is_not_taken_for_news(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text("1,Great kettle,Boils fast\n4,Poor kettle,Leaks\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"not clear .* text_column: it has '1', 'Great kettle'"):
        read_labelled_texts(path)
    texts = read_labelled_texts(path, text_column="3", label_column="1")
    assert texts.texts == ["Boils fast", "Leaks"] and texts.class_names == ["1", "4"]
    news = read_labelled_texts(path, layout="ag_news")
    assert [news.class_names[label] for label in news.labels] == ["World", "Sci/Tech"]


def test_columns_are_found_by_their_headings_or_named(tmp_path, caplog):
    path = tmp_path / "reviews.csv"
    path.write_text('id,Review,stars\n7,"Good, really",5\n8,Bad,1\n', encoding="utf-8")
    with pytest.raises(ValueError, match="label_column: it has 'id', 'Review', 'stars'"):
        read_labelled_texts(path)
    texts = read_labelled_texts(path, label_column="stars")
    assert "text_column of reviews.csv is 'Review', chosen by its heading" in caplog.text
    assert texts.texts == ["Good, really", "Bad"] and texts.class_names == ["1", "5"]
    with pytest.raises(ValueError, match=r"no column 'star'; .* Did you mean 'stars'"):
        read_labelled_texts(path, label_column="star")


NUMBERED = {"text_column": "1", "label_column": "2"}
NAMED = {"text_column": "Satz", "label_column": "Note"}
OFTEN = "a\tx\nb\ty\n" * 5


HEADINGS, DIVIDED, QUOTED = "is read as headings", "are separated by", "are removed"


@pytest.mark.parametrize(
    ("name", "content", "columns", "texts", "classes", "said"),
    [
        ("a.csv", "text,label\nfine,x\nbad,y\n", NUMBERED, ["fine", "bad"], "xy", HEADINGS),
        ("a.csv", "Kommentar,Note\ngut,5\nöd,1\n", NUMBERED, ["gut", "öd"], "15", HEADINGS),
        ("a.csv", "gut,n\nöd,a\n", NUMBERED, ["gut", "öd"], "an", ""),
        ("a.tsv", "Review\tstars\nfine\t5\nbad\t1\n", {}, ["fine", "bad"], "15", HEADINGS),
        ("a.tsv", f"Kommentar\tKlasse\n{OFTEN}", {}, ["a", "b"] * 5, "xy", HEADINGS),
        ("a.tsv", "first\tx\nb\ty\n", {}, ["first", "b"], "xy", ""),
        ("a.csv", "text;label\nGood, so;5\nBad;1\n", {}, ["Good, so", "Bad"], "15", DIVIDED),
        ("a.csv", "text|label\na|x\n;|y\n", {}, ["a", ";"], "xy", DIVIDED),
        ("a.csv", "Satz;Note\na, b;5\nc, d;1\n", NAMED, ["a, b", "c, d"], "15", DIVIDED),
        ("a.csv", "a, b\tx\nc\ty\n", NUMBERED, ["a, b", "c"], "xy", DIVIDED),
        ("a.tsv", '"a ""b"""\tx\n"c\nd"\ty\n', {}, ['a "b"', "c\nd"], "xy", QUOTED),
        ("a.tsv", '"a" b\tx\n"c\ty\n', {}, ['"a" b', '"c'], "xy", ""),
        ("a.tsv", '"an\tx\ny"\ty\n', {}, ['"an', 'y"'], "xy", ""),
    ],
)
@pytest.mark.parametrize("in_folder", [False, True])
def test_headings_delimiters_and_quotation_marks_are_found(
    tmp_path, caplog, name, content, columns, texts, classes, said, in_folder
):
    (tmp_path / name).write_text(content, encoding="utf-8")
    found = read_labelled_texts(tmp_path if in_folder else tmp_path / name, **columns)
    assert found.texts == texts and found.class_names == list(classes)
    for words in (HEADINGS, DIVIDED, QUOTED):
        assert (words in caplog.text) == (words == said), words


def test_fields_that_may_be_divided_in_two_ways_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("Good, so;5\nBad, no;1\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"it is not clear which of ',', ';' separates the fields of a"
    ):
        read_labelled_texts(tmp_path / "a.csv", **NUMBERED)
    (tmp_path / "a.tsv").write_text("7\tfine\tx\n8\tbad\ty\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"not clear .* text_column: it has '7', 'fine', 'x'"):
        read_labelled_texts(tmp_path / "a.tsv")


def test_names_are_the_same_however_their_letters_are_composed(tmp_path):
    apart, whole = "Cafe\u0301", "Caf\u00e9"
    (tmp_path / "a.csv").write_text(f"text,{apart}\na,{apart}\nb,Tea\n", encoding="utf-8")
    texts = read_labelled_texts(tmp_path / "a.csv", label_column=whole)
    assert texts.class_names == [whole, "Tea"]
    # A model keeps its own spelling.
    assert texts.in_order_of(["Tea", apart]).class_names == ["Tea", apart]
    assert texts.in_order_of(["Tea", apart]).labels == [1, 0]
    assert classes_of_model(
        torch.tensor([0, 1]), [whole, "Tea"], {0: "Tea", 1: apart}, "a"
    ).tolist() == [1, 0]


def test_labels_keep_their_names_and_stand_in_the_order_of_their_numbers(tmp_path):
    path = tmp_path / "stars.csv"
    path.write_text("text,label\na,10\nb,2\nc,007\n", encoding="utf-8")
    texts = read_labelled_texts(path)
    assert texts.class_names == ["2", "007", "10"] and texts.labels == [2, 0, 1]
    path.write_text("text,label\na,1\nb,0\n", encoding="utf-8")
    assert read_labelled_texts(path).class_names == ["0", "1"]
    named = read_labelled_texts(path, class_names=["bad", "good"])
    assert named.class_names == ["bad", "good"] and named.labels == [1, 0]
    with pytest.raises(
        ValueError, match="has 2 classes, 0, 1, but class_names has 3; give one name for each class"
    ):
        read_labelled_texts(path, class_names=["a", "b", "c"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\nfine,1\n,0\nbad,\n"),
        ("a.jsonl", '{"text":"fine","label":1}\n{"text":null,"label":0}\n{"text":"x"}\n'),
        ("a.json", '[{"text":"fine","label":1},{"text":" ","label":0},{"text":"x","label":null}]'),
    ],
)
def test_a_missing_text_or_label_is_refused_where_it_is(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    lines = "line 3, line 4" if name == "a.csv" else "line 2, line 3"
    with pytest.raises(ValueError, match=f"no text in 'text' or no label in 'label' at {lines}"):
        read_labelled_texts(tmp_path / name)


def test_what_editors_leave_in_a_file_does_no_harm(tmp_path):
    long = "word " * 40_000
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8"), (b"", "utf-16")):
        content = f'text,label\r\n"{long}",caf\u00e9\r\nb,tea\r\n\r\n\n'.encode(encoding)
        (tmp_path / "a.csv").write_bytes(mark + content)
        texts = read_labelled_texts(tmp_path / "a.csv")
        assert texts.texts == [long, "b"] and texts.class_names == ["caf\u00e9", "tea"]
    lines = '\ufeff{"text": "a", "label": "x"}\n\n{"text": "b", "label": "y"}\n\n\n'
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    assert read_labelled_texts(tmp_path / "a.jsonl").texts == ["a", "b"]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_another_encoding_is_named_with_the_file(tmp_path, name):
    (tmp_path / name).write_bytes("text\tlabel\ncaf\u00e9\t1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{name} is not .*UTF-8.*0xe9.*save it as UTF-8"):
        read_labelled_texts(tmp_path / name)


def test_a_folder_that_was_saved_keeps_its_parts_and_the_names_of_its_classes(tmp_path):
    datasets = pytest.importorskip("datasets")
    kinds = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "a", "q"])}
    )
    parts = {
        name: datasets.Dataset.from_dict({"text": texts, "label": labels}, features=kinds)
        for name, texts, labels in (("train", ["x", "y"], [0, 1]), ("test", ["w"], [1]))
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    texts = read_labelled_texts(tmp_path / "saved")
    assert texts.class_names == ["z", "a", "q"] and texts.labels == [0, 1, 1]
    assert texts.parts == ["train", "train", "test"]
    secret = datasets.Dataset.from_dict({"text": ["x"], "label": [-1]}, features=kinds)
    secret.save_to_disk(tmp_path / "secret")
    with pytest.raises(ValueError, match="no label in 'label' at row 1"):
        read_labelled_texts(tmp_path / "secret")


def test_parquet_and_a_folder_of_files(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"sentence": ["a", "b"], "topic": ["x", "y"]})
    rows.to_parquet(tmp_path / "a.parquet")
    assert read_labelled_texts(tmp_path / "a.parquet").class_names == ["x", "y"]
    folder = tmp_path / "folder"
    folder.mkdir()
    for part in ("train", "validation"):
        (folder / f"{part}.csv").write_text("text,label\na,x\nb,y\n", encoding="utf-8")
    texts = read_labelled_texts(folder)
    assert texts.parts == ["train", "train", "validation", "validation"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match="has no known data; give a folder with one sub-folder per"
    ):
        read_labelled_texts(tmp_path / "empty")


def test_parts_whose_classes_are_listed_otherwise_are_joined(tmp_path):
    datasets = pytest.importorskip("datasets")

    def part(names, labels):
        kinds = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
        rows = {"text": ["x"] * len(labels), "label": labels}
        return datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))

    both = {"train": part(["b", "a", "c"], [0, 1, 2]), "test": part(["c", "a"], [0, 1])}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "few")
    texts = read_labelled_texts(tmp_path / "few")
    assert texts.class_names == ["b", "a", "c"] and texts.labels == [0, 1, 2, 2, 1]
    texts.check_learnable()
    both["test"] = part(["d"], [0])
    datasets.DatasetDict(both).save_to_disk(tmp_path / "odd")
    with pytest.raises(ValueError, match="odd has the class 'd' only"):
        read_labelled_texts(tmp_path / "odd").check_learnable()
