"""Help is quick: it imports neither torch nor transformers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import salhub
from salhub.cli import app

HEAVY = ("torch", "transformers", "numpy", "scipy", "PIL", "gradio", "huggingface_hub")
COMMANDS = [
    ["list"], ["info"], ["run"], ["compare"], ["train"], ["unlearn"], ["compress"],
    ["evaluate"], ["card"], ["push"], ["demo"], ["cache"], ["cache", "seed"], ["cache", "where"],
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


@pytest.mark.parametrize("words", [[], ["run"]])
def test_exit_codes_are_explained(call, words):
    output = " ".join(call(*words, "--help").stdout.split())
    assert "Exit codes: 0 all done; 1 an input" in output and "130 Ctrl-C." in output


def test_all_commands_are_tried_here():
    groups = {group.name for group in app.registered_groups}
    names = {command.name for command in app.registered_commands} | groups
    assert names == {words[0] for words in COMMANDS}


def test_the_version_is_shown(call):
    assert call("--version").stdout.strip() == salhub.__version__
