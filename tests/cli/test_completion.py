"""The shell completes the names of models, methods, tasks and recipes."""

import pytest
from typer.testing import CliRunner

from salhub.cli import app
from salhub.entries import METHODS, recipes_to
from salhub.manifest import read_manifest


def offered(line: str) -> list[str]:
    """What bash is told about a line whose last word is half written."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    environment = {"_SALHUB_COMPLETE": "complete_bash", **words}
    result = CliRunner().invoke(app, [], prog_name="salhub", env=environment)
    assert result.exit_code == 0, result.output
    return result.stdout.split()


@pytest.mark.parametrize(
    "before",
    ["run", "info", "evaluate", "card", "push", "demo", "export", "cache seed", "compare photo.jpg",
     "compare photo.jpg normgrad", "run --device cpu"],
)  # fmt: skip
def test_names_of_models_are_completed(before):
    wanted = {name for name in read_manifest() if name.startswith("salun-")} | {"salun"}
    assert set(offered(f"salhub {before} salu")) == wanted
    assert offered(f"salhub {before} salhub/editiq") == ["salhub/editiq-stage"]
    assert offered(f"salhub {before} salient-relevance-")


def test_methods_tasks_and_recipes_are_completed():
    assert offered("salhub list --method sal") == [one for one in METHODS if one.startswith("sal")]
    assert offered("salhub list --task video") == ["video-editing"]
    for verb in ("train", "unlearn", "compress"):
        assert offered(f"salhub {verb} ") == list(recipes_to(verb))


def test_a_line_with_unknown_options_is_completed_too():
    assert offered("salhub run --method grad_cam normgrad-") == ["normgrad-efficientnet-lite0"]


def test_it_can_be_installed(call):
    assert "--install-completion" in call("--help").stdout
