"""`salhub compare`, with a task of texts."""

import pytest


def test_varied_settings_are_columns(call, letters, tmp_path):
    output = call("compare", "sample:abe", "letters", "--vary", "keep=vowels, all").stdout
    target = tmp_path / "abe-compare.out"
    assert target.read_text() == "vowels=ae|all=abe"
    assert output.splitlines() == [
        f"Wrote {target}",
        "vowels: 2 letters are kept.",
        "all: 3 letters are kept.",
    ]


def test_commas_in_lists_do_not_separate_values(call_json, letters):
    [record] = call_json("compare", "sample:abe", "letters", "--vary", "steps=[1,2],[3]")
    assert [one["title"] for one in record["results"]] == ["[1,2]", "[3]"]
    assert [one["steps"] for one in record["results"]] == [[1, 2], [3]]


def test_varied_values_are_read_as_options_are(call_json, letters, monkeypatch):
    monkeypatch.setattr(letters, "call_settings", ("budget", "class_labels"))
    asked = []
    keep = letters.__call__
    monkeypatch.setattr(
        letters,
        "__call__",
        lambda self, text, class_labels: asked.append(class_labels) or keep(self, text),
    )
    call_json("compare", "sample:abe", "letters", "--vary", "class=no,007,cat")
    assert asked == ["no", "007", "cat"]


def test_varied_text_stays_as_it_is_written(call, letters):
    # "no" is a switch elsewhere; keep takes words.
    error = call("compare", "sample:abe", "letters", "--vary", "keep=no,all", code=1).stderr
    assert "keep must be vowels or all, got 'no'" in error


def test_the_same_model_twice_and_settings_for_all(call_json, letters):
    [record] = call_json("compare", "sample:abe", "letters,letters", "keep=all", "--budget", "2")
    assert [one["title"] for one in record["results"]] == ["letters-en", "letters-en (2)"]
    assert {(one["text"], one["budget"]) for one in record["results"]} == {("abe", 2)}


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["letters", "--methods", "a,b"], "no setting 'method'", 2),
        (["letters", "--methods", "a", "--vary", "keep=a"], "not both", 2),
        (["letters", "--vary", "keep"], "--vary is written SETTING=A,B", 2),
        (["letters", "--vary", "keep=,"], "has no values", 2),
        (["keep=all"], "Give at least one model", 2),
        (["letters", "normgrad"], "Only models of the same task can be compared", 1),
    ],
)
def test_mistakes_are_named_before_anything_is_loaded(call, letters, words, message, code):
    assert message in call("compare", "sample:abe", *words, code=code).stderr
    assert letters.made == []


def test_an_unknown_model_is_refused(call):
    error = call("compare", "sample:cat", "normgrad", "nothing", code=1).stderr
    assert "no model, method or folder 'nothing'" in error


def test_a_folder_is_refused(call, letters, texts):
    assert "a single input, not a folder" in call("compare", "texts", "letters", code=2).stderr


def test_an_existing_output_is_kept(call, letters, tmp_path):
    (tmp_path / "abe-compare.out").write_text("mine")
    assert "--overwrite" in call("compare", "sample:abe", "letters", code=1).stderr
    assert (tmp_path / "abe-compare.out").read_text() == "mine"


@pytest.mark.parametrize(
    ("target", "words"),
    [("x.txt", "cannot be written as '.txt'; choose .out"), ("-", "cannot be written without an")],
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_loaded(
    call, letters, target, words
):
    assert words in call("compare", "sample:abe", "letters", "-o", target, code=2).stderr
    assert letters.made == []


def test_a_folder_gets_the_file_under_its_usual_name(call, letters, tmp_path):
    call("compare", "sample:abe", "letters", "-o", "new/")
    assert (tmp_path / "new" / "abe-compare.out").is_file()
