"""Folders of files with every kind of name: each input gets a file of its own, or is named."""

import json
import os

import pytest

from salhub.cli.targets import output_name

NOT_UTF8 = os.fsdecode(b"caf\xe9.txt")


@pytest.fixture
def pile(tmp_path):
    """Makes a folder of texts that say how they are called."""

    def make(*names):
        folder = tmp_path / "pile"
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).write_text(f"a{name}", errors="replace")
        return folder

    return make


def written(folder):
    return {path.name: path.read_text() for path in folder.glob("*.out")}


@pytest.mark.parametrize(
    "names",
    [
        ("a.txt", "a.text", "a.txt.text"),
        ("a.txt", "A.TXT", "b.txt"),
        ("a.txt", "a.text", "a.text.txt", "a.text-2.txt", "A.Text.txt"),
        ("é.txt", "e\u0301.txt", "É.txt"),
    ],
)
def test_every_input_has_an_output_of_its_own(call, letters, pile, tmp_path, names):
    pile(*names)
    call("run", "letters", "pile", "-o", "kept", "--keep", "all")
    found = written(tmp_path / "kept")
    assert sorted(found.values()) == sorted(f"a{name}" for name in names)
    assert len({name.casefold() for name in found}) == len(names)


def test_an_input_that_came_later_never_takes_the_output_of_another(call, letters, pile, tmp_path):
    pile("a.txt.text")
    call("run", "letters", "pile", "-o", "kept", "--keep", "all")
    pile("a.txt", "a.text")
    call("run", "letters", "pile", "-o", "kept", "--keep", "all")
    found = written(tmp_path / "kept")
    assert sorted(found.values()) == ["aa.text", "aa.txt", "aa.txt.text"]
    assert found["a.txt-letters-en.out"] == "aa.txt.text", "what was written stays"
    assert "Wrote 0" in call("run", "letters", "pile", "-o", "kept", "--keep", "all").stdout


@pytest.mark.parametrize("letter", ["x", "ж"])
def test_a_name_of_full_length_costs_no_input(call, letters, pile, tmp_path, letter):
    size = len(os.fsencode(letter))
    one, other = letter * (248 // size) + "1.txt", letter * (248 // size) + "2.txt"
    pile(one, other, "short.txt")
    call("run", "letters", "pile", "-o", "kept", "--keep", "all")
    assert sorted(written(tmp_path / "kept").values()) == sorted(
        f"a{name}" for name in (one, other, "short.txt")
    )
    result = call("run", "letters", f"pile/{one}", "--keep", "all")
    assert len(os.fsencode(result.stdout.splitlines()[0].rpartition("/")[2])) in (254, 255)


def test_an_input_whose_output_cannot_be_named_is_left_out(
    call, letters, pile, tmp_path, monkeypatch
):
    pile("a.txt", "long.txt", "z.txt")
    monkeypatch.setattr(
        "salhub.cli.targets.output_name",
        lambda stem, end: ("x" * 300 if stem == "long" else stem) + end,
    )
    result = call("run", "letters", "pile", "-o", "kept", code=1)
    assert "Left out pile/long.txt:" in result.stderr and "too long" in result.stderr
    assert len(written(tmp_path / "kept")) == 2


def test_names_that_are_no_text(call, call_json, letters, pile, tmp_path):
    pile(NOT_UTF8, "z.txt")
    first, second = call_json("run", "letters", "pile", "-o", "kept")
    assert os.fsencode(first["input"]) == b"pile/caf\xe9.txt"
    assert second["input"] == "pile/z.txt"
    assert len(list((tmp_path / "kept").glob("*.out"))) == 2
    assert r"caf\udce9-letters-en.out" in call("run", "letters", f"pile/{NOT_UTF8}").stdout
    (tmp_path / "pile" / os.fsdecode(b"bad\xe9.txt")).write_text("\0")
    [*_, failed] = call_json("run", "letters", "pile", "-o", "kept", code=1)
    assert "is no text" in failed["error"]
    (tmp_path / "pile").rename(tmp_path / os.fsdecode(b"p\xeele"))
    result = call("run", "letters", os.fsdecode(b"p\xeele"), code=1)
    assert "Wrote 2 to" in result.stdout


def test_what_is_left_out_of_a_folder_is_said_once(call, call_json, letters, texts):
    (texts / "broken.txt").unlink()
    (texts / ".DS_Store").write_text("x")
    said = "Left out 1 file of another kind (picture.png) and 1 sub-folder (deeper)."
    assert call("run", "letters", "texts", "-o", "kept").stdout.count(said) == 1
    result = call("run", "letters", "texts", "-o", "kept", "--json")
    assert result.stderr.strip() == said
    assert all(json.loads(line)["skipped"] for line in result.stdout.splitlines())


def test_names_are_cut_where_they_may_be():
    assert output_name("cat", "-m.png") == "cat-m.png"
    cut = {output_name("ж" * 200 + last, "-m.png") for last in "ab"}
    assert len(cut) == 2 and {len(os.fsencode(one)) <= 255 for one in cut} == {True}
