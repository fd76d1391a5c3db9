"""The folder of a run: nothing in it is lost or taken for something else."""

import json
import subprocess
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from salhub.manifest import file_sha256
from salhub.results import Results
from salhub.runner import sources
from salhub.runner.run import run
from salhub.runner.run_folder import OPTIONS_NAME, exported_files, fill_from, is_finished
from salhub.runner.sources import source_digests
from tests.runner.test_loop import run_toy
from tests.runner.toy_recipe import ToyArguments, ToyRecipe


@dataclass(kw_only=True)
class ReadingArguments(ToyArguments):
    data: str = "none.txt"
    model: str | None = None
    mask: str | None = None


class ReadingRecipe(ToyRecipe):
    """The toy with options that name files."""

    arguments_class = ReadingArguments
    sources = {"data": "*", "model": "model*.safetensors", "mask": "mask.safetensors"}


def read(folder, **options) -> Results | None:
    options = {"max_train_steps": 2, **options}
    return run(ReadingRecipe(ReadingArguments(output_dir=str(folder), cpu=True, **options)))


def make_model(folder, content: bytes = b"weights"):
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content)
    (folder / "config.json").write_text("{}")
    return folder


# --- what is there is not lost --------------------------------------------------------------------


@pytest.mark.parametrize("absent", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("resume", [None, "latest"])
def test_a_model_that_no_run_has_written_is_not_replaced(tmp_path, absent, resume):
    folder = make_model(tmp_path / "theirs")
    (folder / absent).unlink()
    with pytest.raises(
        FileExistsError, match=r"has a model that was not made by a run; choose another"
    ):
        run_toy(folder, resume_from_checkpoint=resume)
    assert len(list(folder.iterdir())) == 1
    run_toy(folder, overwrite=True)
    assert (folder / "results.json").is_file()


def test_a_model_that_is_read_is_never_replaced(tmp_path):
    folder = make_model(tmp_path / "theirs")
    for settings in ({}, {"overwrite": True}, {"resume_from_checkpoint": "latest"}):
        with pytest.raises(ValueError, match=r"output_dir is the folder of model=.*choose another"):
            read(folder / ".." / "theirs", model=str(folder), **settings)
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    (folder / "mask.safetensors").touch()  # a file of the folder may be read there
    assert read(folder, mask=str(folder), overwrite=True) is not None


@pytest.mark.parametrize(
    "name",
    ["checkpoint-500/weights.bin", "README.md", "log.jsonl", "failure.json", "exported.json"],
)
def test_files_named_like_those_of_a_run_are_not_lost(tmp_path, name):
    theirs = tmp_path / "out" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("[]")
    said = f"has {name.partition('/')[0]}, which a run would replace"
    for resume in (None, "latest"):
        with pytest.raises(FileExistsError, match=said):
            run_toy(tmp_path / "out", resume_from_checkpoint=resume)
    assert theirs.read_text() == "[]"
    run_toy(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("name", ["log.jsonl", "checkpoint-5/texts.txt"])
def test_a_file_that_is_read_is_not_one_of_the_run(tmp_path, name):
    data = tmp_path / name
    data.parent.mkdir(exist_ok=True)
    data.write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"would be lost, because a run saves its own"):
            read(tmp_path, data=str(data), overwrite=overwrite)
    assert data.read_text() == "mine"


def test_an_output_that_is_a_file_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "out").touch()
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="is a file; give a folder"):
            run_toy(tmp_path / "out", overwrite=overwrite)


def test_a_list_of_exported_files_names_none_outside_of_its_folder(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "out"
    for path in (outside, folder):
        path.mkdir()
    precious = outside / "precious.txt"
    precious.touch()
    (folder / "link").symlink_to(outside)
    names = ["../outside/precious.txt", str(precious), "link/precious.txt", "a/../b", ".", "", 3]
    (folder / "exported.json").write_text(json.dumps([*names, "early/model.safetensors"]))
    assert exported_files(folder) == ["early/model.safetensors"]
    run_toy(folder, overwrite=True)
    assert precious.exists()


def test_a_folder_of_somebody_else_is_not_replaced_by_an_exported_one(tmp_path):
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "thesis.tex").touch()

    class Exporting(ToyRecipe):
        def export(self, model, folder):
            super().export(model, folder)
            (folder / "extra").mkdir()
            (folder / "extra" / "part").touch()

    def make(**options):
        return Exporting(ToyArguments(output_dir=str(tmp_path), cpu=True, **options))

    with pytest.raises(
        FileExistsError, match=r"is a folder that this run did not create; move it away, and"
    ):
        run(make())
    (tmp_path / "extra").rename(tmp_path / "moved")
    assert run(make(resume_from_checkpoint="latest")) is not None
    assert [path.name for path in tmp_path.glob("*/thesis.tex")] == ["thesis.tex"]
    run(make(overwrite=True))
    assert [path.name for path in (tmp_path / "extra").iterdir()] == ["part"]


# --- going on -------------------------------------------------------------------------------------


def test_a_finished_run_is_not_run_again(tmp_path, caplog):
    first = run_toy(tmp_path, max_train_steps=3)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = run_toy(tmp_path, max_train_steps=3, resume_from_checkpoint="latest")
    assert again.metric("seconds/steps").value == first.metric("seconds/steps").value
    assert f"The run in {tmp_path} is already finished" in caplog.text
    with pytest.raises(
        ValueError, match="has max_train_steps=3 and cannot be resumed with 4; give the same"
    ):
        run_toy(tmp_path, max_train_steps=4, resume_from_checkpoint="latest")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    with pytest.raises(ValueError, match=f"push it to the Hub with: salhub push {tmp_path} me/toy"):
        run_toy(
            tmp_path, max_train_steps=3, resume_from_checkpoint="latest", push_to_hub=True,
            hub_model_id="me/toy",
        )  # fmt: skip


def test_a_run_of_another_version_gives_its_results_and_is_not_gone_on_with(tmp_path):
    again = {"checkpointing_steps": 4, "resume_from_checkpoint": "latest"}
    first = run_toy(tmp_path, checkpointing_steps=4)
    options = json.loads((tmp_path / OPTIONS_NAME).read_text())
    del options["validation_steps"]  # which came later
    (tmp_path / OPTIONS_NAME).write_text(json.dumps({**options, "gone": 3}))
    found = run_toy(tmp_path, **again)
    assert found.metric("accuracy").value == first.metric("accuracy").value
    with pytest.raises(
        ValueError, match="has validation_steps=None and cannot be resumed with 2; give the same"
    ):
        run_toy(tmp_path, validation_steps=2, **again)
    (tmp_path / "results.json").unlink()
    with pytest.raises(
        ValueError, match="was started by another version of salhub with other options"
    ):
        run_toy(tmp_path, **again)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    run_toy(tmp_path / "one", checkpointing_steps=4)
    checkpoint = tmp_path / "one" / "checkpoint-4"
    with pytest.raises(ValueError, match=f"set output_dir={tmp_path / 'one'} to resume it"):
        run_toy(tmp_path / "two", checkpointing_steps=4, resume_from_checkpoint=str(checkpoint))
    assert not (tmp_path / "two").exists()


def test_a_run_goes_on_only_with_the_content_that_it_began_with(tmp_path):
    data, model, folder = tmp_path / "data.txt", make_model(tmp_path / "theirs"), tmp_path / "out"
    data.write_text("one")
    options = {"data": str(data), "model": str(model)}
    read(folder, **options)
    (folder / "results.json").unlink()
    options["resume_from_checkpoint"] = "latest"
    recorded = json.loads((folder / OPTIONS_NAME).read_text())
    assert len(recorded["data sha256"]) == len(recorded["model sha256"]) == 16
    for name, path in (("data", data), ("model", model / "model.safetensors")):
        content = path.read_bytes()
        path.write_bytes(b"two")
        with pytest.raises(ValueError, match=f"other contents of its {name} ") as refused:
            read(folder, **options)
        assert recorded[f"{name} sha256"] in str(refused.value)
        path.write_bytes(content)
    (model / "config.json").write_text('{"a": 1}')  # only weights are compared
    assert read(folder, **options) is not None
    assert "sha256" not in (folder / "README.md").read_text().split("## Options")[1]


def test_every_file_of_a_folder_counts(tmp_path):
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "texts" / name).write_text(name)
    recipe = ReadingRecipe(ReadingArguments(output_dir="out", data=str(tmp_path / "texts")))
    before = recipe.recorded_options()["data sha256"]
    (tmp_path / "texts" / "b.txt").write_text("c")
    assert recipe.recorded_options()["data sha256"] != before


def test_files_in_folders_of_classes_count(tmp_path):
    for name in ("cat/a.jpg", "dog/b.jpg", "out/model.safetensors"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    arguments = ReadingArguments(output_dir=str(tmp_path / "out"), data=str(tmp_path))
    seen = [source_digests(arguments, ToyRecipe.sources)["data sha256"]]
    (tmp_path / "out" / "log.jsonl").write_text("what the run writes is not what it reads")
    (tmp_path / "dog" / "cache-1.arrow").write_text("nor what a library computes from it")
    (tmp_path / "cat" / ".DS_Store").write_text("nor what a system puts there")
    (tmp_path / "cat" / "back").symlink_to(tmp_path)
    assert source_digests(arguments, ToyRecipe.sources)["data sha256"] == seen[0]
    (tmp_path / "dog" / "b.jpg").rename(tmp_path / "cat" / "b.jpg")
    seen.append(source_digests(arguments, ToyRecipe.sources)["data sha256"])
    (tmp_path / "cat" / "b.jpg").unlink()
    seen.append(source_digests(arguments, ToyRecipe.sources)["data sha256"])
    assert len(set(seen)) == 3


def test_of_many_files_names_and_sizes_count_and_what_is_in_some(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_MOST_READ", 4)
    monkeypatch.setattr(sources, "_NUM_SAMPLED", 2)
    read = []
    monkeypatch.setattr(
        sources, "file_sha256", lambda path: read.append(path.name) or file_sha256(path)
    )
    (tmp_path / "cat").mkdir()
    files = [tmp_path / "cat" / f"{number}.jpg" for number in range(6)]

    def digest(place: int, content: str) -> str:
        for file in files:
            file.write_text("same")
        files[place].write_text(content)
        arguments = SimpleNamespace(data=str(tmp_path))
        return source_digests(arguments, ToyRecipe.sources)["data sha256"]

    before = digest(0, "same")
    assert read == ["0.jpg", "3.jpg"]
    assert before not in (digest(3, "else"), digest(5, "longer"), digest(5, ""))
    files[5] = files[5].rename(tmp_path / "cat" / "7.jpg")
    assert digest(0, "same") != before


def test_a_saved_data_set_of_several_parts_counts(tmp_path):
    datasets = pytest.importorskip("datasets")
    digests = []
    for words in (["a", "b"], ["a", "c"]):
        part = datasets.Dataset.from_dict({"text": words})
        datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "saved")
        digests.append(
            source_digests(SimpleNamespace(data=str(tmp_path / "saved")), ToyRecipe.sources)
        )
    assert digests[0]["data sha256"] != digests[1]["data sha256"]


# --- files ----------------------------------------------------------------------------------------


def test_drafts_of_a_killed_run_are_removed(tmp_path):
    run_toy(tmp_path)
    with subprocess.Popen(["true"]) as ended:
        process = ended.pid
    for name in (f".salhub-{process}-abc", ".checkpoint-3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    run_toy(tmp_path, overwrite=True)
    assert not list(tmp_path.glob(".*"))


def test_what_is_not_written_any_more_goes_after_the_rest_has_come(tmp_path):
    (tmp_path / "mask").touch()
    (tmp_path / "delta").touch()

    def export(scratch):
        assert (tmp_path / "mask").exists() and (tmp_path / "delta").exists()
        (scratch / "mask").write_text("new")

    written = fill_from(tmp_path, export, optional=("mask", "delta"))
    assert written == [tmp_path / "mask"]
    assert {path.name for path in tmp_path.iterdir()} == {"mask", "exported.json"}


def test_the_commit_of_a_checkout_is_recorded(tmp_path, monkeypatch):
    from salhub.runner import checkout

    found = checkout.checkout_version()
    assert run_toy(tmp_path / "out").versions.get("commit") == found.get("commit")
    if (checkout._ROOT / ".git").exists():
        assert len(found["commit"].removesuffix("-dirty")) == 40
    monkeypatch.setattr(checkout, "_ROOT", tmp_path)
    assert checkout.checkout_version() == {}


def test_a_run_that_diverged_says_so_until_it_is_started_anew(tmp_path):
    with pytest.raises(ValueError, match="the loss is"):
        run_toy(tmp_path, learning_rate=1e30)
    assert json.loads((tmp_path / "failure.json").read_text())["failure"].startswith("the loss is")
    run_toy(tmp_path, overwrite=True)
    assert not (tmp_path / "failure.json").exists()
    recipe = ToyRecipe(ToyArguments(output_dir=str(tmp_path)))
    assert is_finished(tmp_path, recipe.recorded_options())


def test_files_in_a_list_have_one_digest_of_all(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    paths = [str(tmp_path / name) for name in "ab"]
    two = source_digests(SimpleNamespace(more=paths), {"more": "*"})
    assert len(two["more sha256"]) == 16
    other = source_digests(SimpleNamespace(more=[*paths[:1], str(tmp_path / "c")]), {"more": "*"})
    assert two != other
    assert source_digests(SimpleNamespace(more=[]), {"more": "*"}) == {}
