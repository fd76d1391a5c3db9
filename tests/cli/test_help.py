"""Help is quick: it imports neither torch nor transformers."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import salhub
from salhub.cli import app
from salhub.entries import RECIPES

HEAVY = ("torch", "transformers", "numpy", "scipy", "PIL", "gradio", "huggingface_hub")
COMMANDS = [
    ["list"], ["info"], ["run"], ["compare"], ["train"], ["unlearn"], ["compress"],
    ["export"], ["evaluate"], ["card"], ["push"], ["demo"],
    ["cache"], ["cache", "seed"], ["cache", "where"],
]  # fmt: skip


def _in_a_new_process(*words: str) -> tuple[str, list[str]]:
    code = (
        "import json, sys\n"
        "from salhub.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        f"    heavy = [name for name in {HEAVY} if name in sys.modules]\n"
        "    print(json.dumps(heavy), file=sys.stderr)\n"
    )
    root = str(Path(salhub.__file__).parent.parent)
    run = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout, json.loads(run.stderr.splitlines()[-1])


@pytest.mark.parametrize("words", [["--help"], ["list"], ["--version"], ["run", "--help"]])
def test_nothing_heavy_is_imported(words):
    output, heavy = _in_a_new_process(*words)
    assert heavy == []
    assert output.strip()


@pytest.mark.parametrize("command", COMMANDS, ids="-".join)
def test_every_command_explains_itself(call, command):
    output = call(*command, "--help").stdout
    assert "Usage: " in output and len(output.splitlines()) > 5
    if command[0] != "cache":
        assert f"\n  salhub {command[0]}" in output, "show an example"


@pytest.mark.parametrize("entry", RECIPES, ids=lambda entry: f"{entry.verb}-{entry.name}")
def test_help_of_a_recipe_lists_every_option_with_its_default_and_meaning(call, entry):
    fields = dataclasses.fields(entry.recipe_class.arguments_class)
    output = call(entry.verb, entry.name, "--help").stdout
    assert "`none` for none" not in output
    heads = re.findall(r"(?m)^  (\w+)=", output)
    assert sorted(heads) == sorted(field.name for field in fields)
    for name, text in re.findall(r"(?m)^  (\w+)=\S*(?: \(needed\))?\s+(.*)", output):
        assert len(text) > 8, f"{name} of {entry.name} has no meaning; say it under Args"


def test_help_of_a_recipe_is_grouped_its_own_options_first(call):
    output = call("train", "cifar-resnet", "-h").stdout
    assert output.startswith("Usage: salhub train cifar-resnet [OPTION=VALUE]...")
    places = [output.index(f"\n  {name}=") for name in ("data", "width", "batch_size", "seed")]
    titles = [output.index(f"Options of {name}:") for name in ("cifar-resnet", "training")]
    assert titles[0] < places[0] < places[1] < titles[1] < places[2] < places[3]
    assert "  lr_scheduler=cosine " in output  # the recipe's own default
    choices = "One of: constant, constant_with_warmup, linear, cosine, polynomial."
    assert choices in " ".join(output.split())
    assert "  data=… (needed) " in output and "  output_dir=cifar-resnet-train " in output
    # A recipe that descends no loss has no options of training.
    assert "Options of training" not in call("train", "lexrank", "--help").stdout
    assert "salun" in call("unlearn", "--help").stdout.split("Recipes: ")[1]


@pytest.mark.parametrize("entry", RECIPES, ids=lambda entry: f"{entry.verb}-{entry.name}")
def test_help_of_a_recipe_speaks_of_what_is_typed(call, entry):
    options = call(entry.verb, entry.name, "--help").stdout.partition("Options of")[2]
    fields = {field.name for field in dataclasses.fields(entry.recipe_class.arguments_class)}
    assert set(re.findall(r"[Ss]ee\s+`(\w+)`", options)) <= fields
    assert not re.findall(r"\b(?:None|True|False)\b", options)


def test_help_of_an_unknown_recipe_names_the_nearest(call):
    said = call("train", "cifar-resnt", "--help", code=1).stderr
    assert said.startswith("Error: There is no recipe 'cifar-resnt'") and "'cifar-resnet'" in said


@pytest.mark.parametrize("words", [[], ["run"]])
def test_exit_codes_are_explained(call, words):
    output = " ".join(call(*words, "--help").stdout.split())
    assert "Exit codes: 0 success; 1 an input" in output and "130 Ctrl-C." in output


def test_all_commands_are_tried_here():
    groups = {group.name for group in app.registered_groups}
    names = {command.name for command in app.registered_commands} | groups
    assert names == {words[0] for words in COMMANDS}


def test_the_version_is_shown(call):
    assert call("--version").stdout.strip() == salhub.__version__
