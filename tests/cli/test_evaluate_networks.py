"""`salhub evaluate` of any classifier, by the words that its training takes."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from salhub.results import Results
from tests import small_clip, small_llama


def draw(folder, names, count):
    drawn = np.random.default_rng(len(names) + count)
    for channel, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = drawn.integers(0, 120, (20 + number, 30, 3), dtype=np.uint8)
            pixels[..., channel] += 120
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def test_pictures_that_were_learned_are_left_out(call, call_json, own_network, tmp_path):
    draw(tmp_path / "photos", ("red", "green"), 10)
    options = ["cpu=true", "max_train_steps=4", "batch_size=8", "output_dir=trained"]
    call("train", "image-classification", f"model={own_network}", "data=photos", *options)
    [record] = call_json("evaluate", "trained", "--data", "photos")
    results, trained = Results.load(record["output"]), Results.load("trained/results.json")
    assert results.metric("accuracy/test") == trained.metric("accuracy/test")
    assert results.data["split"] == trained.data["split"]
    accuracy, confusion = results.tables
    assert [row[0] for row in accuracy.rows] == ["all", "green", "red"]
    assert sum(map(sum, (row[1:] for row in confusion.rows))) == results.metric("accuracy/test").n
    assert "held out of training; the 16 training items are left out" in accuracy.note

    draw(tmp_path / "others", ("red",), 3)
    output = call("evaluate", "trained", "--data", "others", "-o", "others.json").stdout
    assert "so some of them may have been used for training" in output
    assert Results.load("others.json").metric("accuracy/class/red").n == 3
    draw(tmp_path / "strange", ("rad", "green"), 2)
    error = call("evaluate", "trained", "--data", "strange", "-o", "s.json", code=1).stderr
    assert "'rad', a class of strange, is not a class of the model, which has 2: green" in error
    assert "Did you mean 'red'" in error
    # More pictures in the same place: which of them were learned can no longer be told.
    shutil.copy("others/red/0.png", "photos/red/more.png")
    error = call("evaluate", "trained", "--data", "photos", "-o", "s.json", code=1).stderr
    assert "photos has changed since training" in error


def test_a_network_of_nobody_knows_what_data(call, own_network, tmp_path):
    draw(tmp_path / "fruit" / "train", ("apple", "pear", "plum"), 2)
    draw(tmp_path / "fruit" / "test", ("apple", "pear", "plum"), 1)
    output = call("evaluate", own_network, "--data", "fruit").stdout
    assert "the 3 test pictures of fruit; the training data of the model are unknown" in output


def test_a_clip_is_measured_by_the_names_of_classes(call, tmp_path):
    draw(tmp_path / "fruit" / "test", ("apple", "pear", "plum"), 2)
    draw(tmp_path / "colours", ("red", "green"), 3)
    small_clip.save(tmp_path / "clip")
    words = ["other_data=colours", "templates=a photo of a {}."]
    output = call("evaluate", "clip", "--data", "fruit", *words).stdout
    assert "Zero-shot classification" in output and "those of colours" in output
    results = Results.load("clip.results.json")
    assert results.metric("accuracy/all").n == results.metric("accuracy/other/colours").n == 6
    assert results.data["templates"] == ["a photo of a {}."]


@pytest.fixture
def reviews(tmp_path):
    rows = [("what they wrote", "stars")]
    for thing in ("kettle", "lamp", "chair", "clock", "radio"):
        rows += [(f"The {thing} is {word}", 10) for word in ("sturdy", "quick", "lovely", "quiet")]
        rows += [(f"The {thing} is {word}", 1) for word in ("broken", "slow", "ugly", "loud")]
    with (tmp_path / "reviews.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return ["text_column=what they wrote", "label_column=stars"]


def test_texts_that_were_learned_are_left_out(call, call_json, reviews, tmp_path):
    small = ["vocab_size=60", "embedding_size=8", "num_filters=4", "num_train_epochs=1"]
    words = ["data=reviews.csv", *reviews, "cpu=true"]
    call("train", "text-classifier", *words, *small, "output_dir=small")
    options = ["model=small", "max_train_steps=2", "output_dir=trained"]
    call("train", "text-classification", *words, *options)
    [record] = call_json("evaluate", "trained", "--data", "reviews.csv", *reviews)
    results, trained = Results.load(record["output"]), Results.load("trained/results.json")
    assert results.metric("accuracy/test") == trained.metric("accuracy/test")
    assert results.metric("accuracy/class/10").n == 3
    assert "held out of training; the 34 training items are left out" in results.tables[0].note
    # The run says how its data are read; a mistake in the data comes before a file that is there.
    again = call("evaluate", "trained", "--data", "reviews.csv", "-o", "again.json")
    taken = 'label_column="stars" text_column="what they wrote"'
    assert f"From {Path('trained') / 'options.yaml'}: {taken}\n" in again.stderr
    assert Results.load("again.json").metric("accuracy/test") == results.metric("accuracy/test")
    assert "out of training" in Results.load("again.json").tables[0].note
    assert "texts of reviews.csv" in Results.load("again.json").tables[0].note
    wrong = ["--data", "reviews.csv", "label_column=star", "text_column=stars", "-o", "again.json"]
    assert "has no column 'star'" in call("evaluate", "trained", *wrong, code=1).stderr
    (tmp_path / "new.csv").write_text("text,label\nIt is quick,10\nIt is slow,1\n")
    assert (
        "options.yaml"
        not in call("evaluate", "trained", "--data", "new.csv", "-o", "new.json").stderr
    )
    # Read otherwise, the same file is not taken for new texts.
    words = ["class_names=[1,10]", "-o", "s.json"]
    lines = (tmp_path / "reviews.csv").read_text().splitlines()
    (tmp_path / "reviews.csv").write_text("\n".join([*lines, "The sofa is soft,10"]))
    error = call("evaluate", "trained", "--data", "reviews.csv", *reviews, *words, code=1).stderr
    assert "has changed since training, or was read with other columns" in error
    error = call("evaluate", "trained", "--data", "nowhere.csv", "-o", "s.json", code=1).stderr
    assert "nowhere.csv" in error
    assert json.loads((tmp_path / "trained" / "split.json").read_text())["data"]["num_texts"] == 40


def test_a_language_model_predicts_a_text(call, call_json, tmp_path):
    folder = small_llama.save(tmp_path / "writer")
    (tmp_path / "book.txt").write_text("\n\n".join(small_llama.documents(8)))
    words = ["--data", "book.txt", "context=16", "max_tokens=100", "speed_tokens=2"]
    output = call("evaluate", "writer", *words).stdout
    assert "90 tokens predicted in 6 windows of 16 tokens, that follow each other." in output
    results = Results.load("writer.results.json")
    assert results.command.endswith(
        "writer --data book.txt context=16 max_tokens=100 speed_tokens=2"
    )
    size = (folder / "model.safetensors").stat().st_size
    assert results.metric("bytes/total").value == size
    embeddings = results.metric("bytes/embeddings").value
    assert results.metric("share_of_embeddings").value == pytest.approx(embeddings / size)
    error = call("evaluate", "writer", "--data", "nowhere.txt", "-o", "s.json", code=1).stderr
    assert "The text file nowhere.txt does not exist" in error
    error = call("evaluate", "writer", *words[:2], "-o", "s.json", "stride=512", code=1).stderr
    assert "stride must be from 1 to 63, below context, got 512" in error
    [record] = call_json("run", "writer", "the film", "max_new_tokens=3")
    assert record["text"].startswith("the film") and len(record["token_ids"]) == 3
    assert "task        text-generation" in call("info", "writer").stdout
