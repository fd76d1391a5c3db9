"""`salhub run` on a task of texts: nothing about pictures is built in."""

import json
import os
import subprocess
import sys

import pytest

_CAPTURED = {"capture_output": True, "check": True, "text": True}


def outputs(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.suffix == ".out"}


def test_one_file(call, tmp_path):
    """A missing file is named, with the nearest that is there."""
    (tmp_path / "photo.txt").write_text("x")
    error = call("run", "normgrad", "foto.txt", code=1).stderr
    assert "There is no file foto.txt. Did you mean 'photo.txt'?" in error
    assert (
        "The folder nowhere does not exist"
        in call("run", "normgrad", "nowhere/a.txt", code=1).stderr
    )


def test_the_output_is_named_after_input_and_model_and_said_how_to_read(call, letters, tmp_path):
    (tmp_path / "story.txt").write_text("banana")
    result = call("run", "letters", "story.txt")
    assert (tmp_path / "story-letters-en.out").read_text() == "aaa"
    assert result.stdout == f"Wrote {tmp_path / 'story-letters-en.out'}\n3 letters are kept.\n"
    assert result.stderr == ""


def test_settings_go_to_loading_or_to_the_call(call_json, letters):
    words = ["--keep", "all", "--budget=100w", "--device", "cpu:0", "--batch-size", "4"]
    [record] = call_json("run", "letters", "sample:abc", *words, "steps=[1,1e-1]")
    assert record == {
        "input": "sample:abc",
        "output": "abc-letters-en.out",
        "model": "toys/letters-en",
        "text": "abc",
        "budget": "100w",
        "steps": [1, 0.1],
    }
    [made] = letters.made
    assert made.loading == {"name": "toys/letters-en", "device": "cpu:0", "batch_size": 4}


def test_settings_may_stand_anywhere_when_written_as_options(call_json, letters):
    [record] = call_json("run", "--keep", "all", "letters", "--budget", "3", "sample:abc")
    assert (record["text"], record["budget"]) == ("abc", 3)


def test_values_may_start_with_a_dash(call_json, letters):
    [record] = call_json("run", "letters", "sample:abc", "--budget", "-1e3")
    assert record["budget"] == -1000.0
    [record] = call_json("run", "letters", "sample:abc", "--budget=-odd", "-o", "b.out")
    assert record["budget"] == "-odd"


def test_a_value_the_configuration_refuses_is_one_sentence(call, letters, tmp_path):
    error = call("run", "letters", "sample:abc", "--keep", "some", code=1).stderr
    assert error == "Error: keep must be vowels or all, got 'some'.\n"
    assert list(tmp_path.iterdir()) == []


def test_where_to_write(call, letters, tmp_path):
    call("run", "letters", "sample:abc", "-o", "new/place/x.out", "--view", "upper")
    assert (tmp_path / "new" / "place" / "x.out").read_text() == "A"
    call("run", "letters", "sample:abc", "-o", "new", "--format", "json")
    assert (tmp_path / "new" / "abc-letters-en.json").read_text() == "a"
    result = call("run", "letters", "sample:abc", "-o", "-")
    assert result.stdout_bytes == b"a"
    assert "letters are kept" in result.stderr


def test_an_existing_output_is_replaced_only_when_asked(call, letters, tmp_path):
    target = tmp_path / "abc-letters-en.out"
    target.write_text("mine")
    error = call("run", "letters", "sample:abc", code=1).stderr
    assert "abc-letters-en.out exists; give --overwrite" in error
    assert target.read_text() == "mine" and letters.made == []
    call("run", "letters", "sample:abc", "--overwrite")
    assert target.read_text() == "a"


def test_an_ending_alone_is_no_output(call, letters, tmp_path):
    error = call("run", "letters", "sample:abc", "-o", ".out", code=2).stderr
    assert "'.out' is only a file ending" in error
    assert letters.made == [] and list(tmp_path.glob(".out*")) == []


def test_the_input_is_never_overwritten(call, letters, tmp_path):
    source = tmp_path / "input.out"
    source.write_text("abc")
    error = call("run", "letters", "input.out", "-o", "input.out", "--overwrite", code=1).stderr
    assert "is the input itself" in error and source.read_text() == "abc"


def test_standard_input(call, letters, tmp_path):
    call("run", "letters", "-", stdin=b"aloud")
    assert (tmp_path / "stdin-letters-en.out").read_text() == "aou"
    error = call("run", "letters", "-", "-o", "x.out", code=1, stdin=b"").stderr
    assert "Standard input is empty" in error


def test_a_folder_is_worked_through_in_order_and_what_cannot_be_read_is_left_out(
    call, letters, texts
):
    result = call("run", "letters", "texts", "-o", "kept", "--batch-size", "2", code=1)
    assert outputs(texts.parent / "kept") == {
        "one-letters-en.out": "oe",
        "two-letters-en.out": "o",
        "three.text-letters-en.out": "ee",
        "three.txt-letters-en.out": "aoe ee".replace(" ", ""),
    }
    assert result.stderr == "Left out texts/broken.txt: texts/broken.txt is no text.\n"
    assert f"Wrote 4 to {texts.parent / 'kept'}, 1 left out" in result.stdout
    [made] = letters.made
    assert made.calls == [1, 2, 1]


def test_a_folder_is_resumed(call, call_json, letters, texts):
    (texts / "broken.txt").unlink()
    call("run", "letters", "texts", "-o", "kept")
    (texts.parent / "kept" / "one-letters-en.out").unlink()
    (texts.parent / "kept" / "two-letters-en.out").write_text("as it was")
    *skipped, record = call_json("run", "letters", "texts", "-o", "kept")
    assert record["input"] == "texts/one.txt" and "skipped" not in record
    assert len(skipped) == 3
    assert skipped[-1] == {
        "input": "texts/two.TXT",
        "output": "kept/two-letters-en.out",
        "skipped": True,
    }
    assert outputs(texts.parent / "kept")["two-letters-en.out"] == "as it was"
    before = len(letters.made)
    assert "Wrote 0" in call("run", "letters", "texts", "-o", "kept").stdout
    assert len(letters.made) == before, "nothing is loaded when there is nothing to do"
    call("run", "letters", "texts", "-o", "kept", "--overwrite")
    assert outputs(texts.parent / "kept")["two-letters-en.out"] == "o"


def test_a_resumed_folder_does_not_mix_settings(call, letters, texts):
    (texts / "broken.txt").unlink()
    call("run", "letters", "texts", "-o", "kept")
    error = call("run", "letters", "texts", "-o", "kept", "--keep", "all", code=1).stderr
    assert "has outputs of another model or other settings" in error
    call("run", "letters", "texts", "-o", "kept", "--keep", "all", "--overwrite")
    assert outputs(texts.parent / "kept")["one-letters-en.out"] == "one"
    record = json.loads((texts.parent / "kept" / "salhub-run.json").read_text())
    assert record["settings"] == {"keep": "all"}


def test_a_token_is_never_recorded(call, letters, texts):
    (texts / "broken.txt").unlink()
    words = ["token=hf_SECRET", "--cache-dir", "/somewhere", "revision=v1", "--keep", "all"]
    call("run", "letters", "texts", "-o", "kept", *words)
    record = json.loads((texts.parent / "kept" / "salhub-run.json").read_text())
    assert record["settings"] == {"revision": "v1", "keep": "all"}
    # Another token makes the same files.
    assert "4 already done" in (
        call("run", "letters", "texts", "-o", "kept", "revision=v1", "--keep", "all").stdout
    )


def test_one_input_that_fails_in_a_batch_does_not_cost_the_others(call, letters, texts):
    (texts / "broken.txt").write_text("poison")
    result = call("run", "letters", "texts", "-o", "kept", "--batch-size", "5", code=1)
    assert len(outputs(texts.parent / "kept")) == 4
    assert "Left out texts/broken.txt: This text cannot be worked on." in result.stderr


def test_a_setting_that_fails_everywhere_stops_the_run_at_once(call, letters, texts):
    result = call("run", "letters", "texts", "-o", "kept", "--budget", "none", code=1)
    assert result.stderr.splitlines()[-1] == "Error: The budget must be a number."
    assert outputs(texts.parent / "kept") == {}


def test_a_folder_default_and_machine_readable_lines(call_json, letters, texts):
    records = call_json("run", "letters", "texts", code=1)
    assert [record["input"] for record in records] == [
        f"texts/{name}" for name in ("broken.txt", "one.txt", "three.text", "three.txt", "two.TXT")
    ]
    assert records[0]["error"] == "texts/broken.txt is no text."
    assert records[1]["output"] == "texts-letters-en/one-letters-en.out"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["texts/deeper/empty"], "has no file ending in .txt, .text"),
        (["texts", "-o", "texts"], "is the input folder"),
        (["texts", "-o", "texts/one.txt"], "is a file"),
        (["texts", "-o", "answers.out"], "use -o answers --format out"),
    ],
)
def test_folders_that_cannot_be(call, letters, texts, words, message):
    (texts / "deeper" / "empty").mkdir()
    assert message in call("run", "letters", *words, code=1).stderr
    assert letters.made == []


def test_interrupting_keeps_what_is_finished_and_no_half_file(call, letters, texts):
    (texts / "broken.txt").write_text("aa")
    (texts / "three.text").write_text("unwritable")
    result = call("run", "letters", "texts", "-o", "kept", code=130)
    assert result.stderr.endswith("is kept. Run the same command again to continue.\n")
    assert sorted(path.name for path in (texts.parent / "kept").iterdir()) == [
        "broken-letters-en.out",
        "one-letters-en.out",
        "salhub-run.json",
    ]


def test_what_a_killed_run_left_is_removed_when_it_is_resumed(call, letters, texts):
    (texts / "broken.txt").unlink()
    kept = texts.parent / "kept"
    # The number of a process that has ended, and that of one that runs: this one.
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], **_CAPTURED)
    stale, live = kept / f".salhub-{int(ended.stdout)}-abc", kept / f".salhub-{os.getpid()}-abc"
    forgotten, foreign = kept / f".salhub-{os.getpid()}-old", kept / ".salhub-notes"
    for folder in (stale, live, forgotten, foreign):
        folder.mkdir(parents=True)
        (folder / "half.out").write_text("half")
    for path in (forgotten / "half.out", forgotten):
        os.utime(path, (0, 0))
    call("run", "letters", "texts", "-o", "kept")
    assert not stale.exists() and not forgotten.exists()
    assert live.exists() and foreign.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bad.txt"], "bad.txt is no text."),
        (["missing.txt"], "There is no file missing.txt."),
        (["sample:abc", "--budget", "none"], "The budget must be a number."),
    ],
)
def test_one_bad_input_is_an_object_as_in_a_folder(call, letters, tmp_path, words, message):
    (tmp_path / "bad.txt").write_text("\0")
    result = call("run", "letters", *words, "--json", code=1)
    assert json.loads(result.stdout) == {"input": words[0], "error": message}
    assert result.stderr == f"Error: {message}\n"


def test_addresses_are_left_to_the_pipeline(call_json, letters, monkeypatch):
    read = []
    monkeypatch.setattr(letters, "read", staticmethod(lambda source: read.append(source) or "text"))
    address = "https://example.org/a/story.txt?size=2"
    [record] = call_json("run", "letters", address)
    assert read == [address]
    assert record["output"] == "story-letters-en.out"


# --- texts that are typed, and piles of texts ---------------------------------------------------


def test_a_text_that_is_typed_is_the_input_itself(call, letters, tmp_path, monkeypatch):
    monkeypatch.setattr(letters, "takes_literals", True)
    call("run", "letters", "an odd <b>title</b>/x")
    assert outputs(tmp_path) == {"an-odd-b-title-b-x-letters-en.out": "aoie"}
    (tmp_path / "story.txt").write_text("banana")
    call("run", "letters", "story.txt", "-o", "file.out")
    assert (tmp_path / "file.out").read_text() == "aaa"
    # A name with the ending of a text file is a file, whether it is there or not.
    assert "Did you mean 'story.txt'" in call("run", "letters", "storry.txt", code=1).stderr
    call("run", "letters", "long " * 2000, "-o", "long.out")
    assert (tmp_path / "long.out").read_text() == "o" * 2000


def test_where_nothing_is_written_by_default_the_answer_is_printed(
    call, call_json, letters, tmp_path, monkeypatch
):
    monkeypatch.setattr(letters, "writes_by_default", False)
    assert call("run", "letters", "sample:abca").stdout == "2 letters are kept.\n"
    [record] = call_json("run", "letters", "sample:abca")
    assert (record["text"], record["output"]) == ("aa", None)
    assert outputs(tmp_path) == {}
    call("run", "letters", "sample:abca", "-o", "some.out")
    call("run", "letters", "sample:abca", "--format", "out")
    assert outputs(tmp_path) == {"some.out": "aa", "abca-letters-en.out": "aa"}


def test_the_files_of_a_folder_as_one_input(call, letters, tmp_path, monkeypatch):
    folder = tmp_path / "pile"
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    (folder / "b.txt").write_text("two")
    refused = call("run", "letters", "pile", "--together", code=2).stderr
    assert "takes one input at a time; leave out --together" in " ".join(refused.split())
    monkeypatch.setattr(letters, "call_settings", ("budget", "together"))
    call("run", "letters", "pile", "--together")
    assert outputs(tmp_path) == {"pile-letters-en.out": "oeo"}
    refused = call("run", "letters", "pile/a.txt", "--together", code=1).stderr
    assert "--together needs a folder, but pile/a.txt is not one" in refused
