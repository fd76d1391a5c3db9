"""`options.yaml` repeats a run from wherever it is read."""

from pathlib import Path

import pytest
import yaml

from salhub.runner.arguments import read_settings_file
from salhub.runner.run import run
from salhub.runner.settings_file import beside_file
from tests.runner.test_run_folder import ReadingArguments, ReadingRecipe, read
from tests.testers.recipe import products

SOURCES = ReadingRecipe.sources


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "texts.txt").write_text("one")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("is_absolute", [False, True])
def test_a_run_is_repeated_by_its_own_file_of_options(home, monkeypatch, is_absolute):
    data = home / "data" / "texts.txt" if is_absolute else Path("data/texts.txt")
    options = {"learning_rate": 1e-5, "batch_size": 9, "model": "salhub/tiny-llama-en"}
    read("runs/first", data=str(data), overwrite=True, **options)
    text = (home / "runs" / "first" / "options.yaml").read_text()
    assert text.startswith("# salhub train toy --config options.yaml output_dir=FOLDER\n")
    content = yaml.safe_load(text)
    assert content["data"] == "../../data/texts.txt" and content["model"] == "salhub/tiny-llama-en"
    assert not {"output_dir", "overwrite", "resume_from_checkpoint", "push_to_hub"} & set(content)
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    file = Path("../runs/first/options.yaml")
    settings = beside_file(read_settings_file(file), file, SOURCES)
    again = {**settings, "output_dir": str(home / "second")}
    run(ReadingRecipe(ReadingArguments.from_settings(again)))
    assert products(home / "second") == products(home / "runs" / "first")
    first, second = (home / name / "options.json" for name in ("runs/first", "second"))
    assert first.read_text().replace(str(data), "") == second.read_text().replace(
        settings["data"], ""
    )


def test_a_path_is_looked_for_beside_the_file_and_then_from_here(home, caplog):
    file = home / "data" / "my.yaml"
    for settings, expected in (
        ({"data": "texts.txt", "seed": 3}, {"data": str(home / "data" / "texts.txt"), "seed": 3}),
        ({"data": "data/texts.txt"}, {"data": "data/texts.txt"}),  # as always
        ({"data": ["texts.txt", "no"]}, {"data": [str(home / "data" / "texts.txt"), "no"]}),
        ({"forget": "file:texts.txt"}, {"forget": f"file:{home / 'data' / 'texts.txt'}"}),
        ({"word": "texts.txt", "data": None}, {"word": "texts.txt", "data": None}),
        ({"data": str(home / "data")}, {"data": str(home / "data")}),
    ):
        assert beside_file(settings, file, SOURCES) == expected
    assert not caplog.text
    (home / "texts.txt").write_text("another")
    assert beside_file({"data": "texts.txt"}, file, SOURCES)["data"].startswith(str(home / "data"))
    assert f"There are two files called texts.txt; the one next to {file} is used" in caplog.text


def test_a_run_of_a_former_version_gets_the_file_when_it_goes_on(home):
    again = {"data": "data/texts.txt", "resume_from_checkpoint": "latest"}
    read("out", data="data/texts.txt")
    content = (home / "out" / "options.yaml").read_bytes()
    for name in ("options.yaml", "results.json"):
        (home / "out" / name).unlink()
    read("out", **again)
    assert (home / "out" / "options.yaml").read_bytes() == content


def test_somebody_elses_options_are_not_replaced(home):
    (home / "out").mkdir()
    (home / "out" / "options.yaml").write_text("mine: 1\n")
    with pytest.raises(FileExistsError, match=r"out has options\.yaml, which a run would replace"):
        read("out", data="data/texts.txt")
    assert (home / "out" / "options.yaml").read_text() == "mine: 1\n"
