"""A model is called with or without `salhub/`, by every command and every way of loading."""

import sys
from types import ModuleType

import pytest

import salhub
from salhub.cli import app
from salhub.publishing import files_to_push

NAME = "lexrank-news-en"
NAMES = [NAME, f"salhub/{NAME}"]


@pytest.fixture
def both(call):
    """Run a command by both names; returns what it printed each time, without the prefix."""

    def run(*words: str, name: str = NAME, code: int = 0) -> list[str]:
        said = []
        for called in (name, f"salhub/{name}"):
            result = call(*(word.replace("NAME", called) for word in words), code=code)
            said.append(result.output.replace("salhub/", ""))
        return said

    return run


@pytest.mark.parametrize("name", NAMES)
def test_python_knows_both(name):
    config = salhub.LexRankConfig.from_pretrained(name)
    for model in (
        salhub.AutoModelForSaliency.from_pretrained(name),
        salhub.LexRankModel.from_pretrained(name),
        salhub.pipeline(name).model,
    ):
        assert model.config.name_or_path == f"salhub/{NAME}" == config.name_or_path
    assert salhub.seed_cache([name], cache_dir="cache")[0].is_dir()


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


TRIED = {
    "run": ["run", "NAME", "One sentence. Another sentence. A third one."],
    "info": ["info", "NAME"],
    "compare": ["compare", "missing.txt", "NAME"],
    "evaluate": ["evaluate", "NAME", "--data", "missing"],
    "card": ["card", "NAME", "--no-picture", "-o", "card.md", "--overwrite"],
    "cache": ["cache", "seed", "NAME"],
}


@pytest.mark.parametrize("command", TRIED)
def test_a_command_does_the_same_by_both_names(both, command, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    code = 1 if command in ("compare", "evaluate") else 0
    bare, full = both(*TRIED[command], code=code)
    assert bare == full
    if code:
        assert "missing" in bare  # the name is known: what is missing is the input


def test_a_network_to_explain_has_both_names(both):
    words = ["info", "normgrad", "--classifier", "NAME", "--json"]
    bare, full = both(*words, name="efficientnet-lite0")
    assert bare == full


def test_recipes_take_both_names(both, tmp_path):
    (tmp_path / "a.txt").write_text("A few words about nothing at all. " * 400)
    for folder in ("a", "b"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for place in range(4):
            salhub.load_image("sample:cat").resize((40, 40)).save(
                tmp_path / "photos" / folder / f"{place}.png"
            )
    compress = ["compress", "slim-llm", "model=NAME", "calibration=a.txt", "context_length=1024"]
    # Two classes are not those of the network, which is said once its name is known.
    for words, name, code in (
        (["train", "image-classification", "model=NAME", "data=photos"], "efficientnet-lite0", 0),
        (compress, "tiny-llama-en", 0),
        (["unlearn", "ft", "model=NAME", "data=photos", "forget=class:a"], "efficientnet-lite0", 1),
    ):
        bare, full = both(*words, "dry_run=true", "cpu=true", name=name, code=code)
        assert bare == full, words


def test_export_takes_both_names(call):
    for folder, name in enumerate(("slim-llm-tiny-llama-w2", "salhub/slim-llm-tiny-llama-w2")):
        call("export", name, str(folder), "--format", "dense", "--dtype", "float16")


def test_push_and_demo_pass_both_names_on(both, monkeypatch):
    bare, full = (files_to_push(name, "me/x") for name in NAMES)
    assert bare == full
    shown = []
    ui = ModuleType("salhub.ui")
    ui.build_page = lambda name, classifier: shown.append(name)
    ui.build_gallery, ui.launch = None, lambda page, **settings: None
    monkeypatch.setitem(sys.modules, "salhub.ui", ui)
    both("demo", "NAME", "--no-browser")
    assert shown == NAMES


def test_every_command_is_tried():
    groups = {group.name for group in app.registered_groups}
    names = {command.name for command in app.registered_commands} | groups
    elsewhere = {"list", "train", "unlearn", "compress", "export", "push", "demo"}
    assert names == TRIED.keys() | elsewhere
