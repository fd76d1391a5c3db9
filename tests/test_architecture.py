"""The rules of the house: who may import whom, how long a file may be, how light an import is."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import salhub
from tests.architecture import MOST_LINES, House

PACKAGE = Path(salhub.__file__).parent


def test_the_house_stands():
    assert House(PACKAGE).broken_rules() == []


# What is wrong -> the file that does it, what is in it, and what the sentence says.
VIOLATIONS = {
    "an unknown part": ("helpers/lists.py", "", "helpers/lists.py is on no floor"),
    "a higher floor": (
        "ops/maps.py", "from salhub.data import samples", "ops/maps.py imports salhub.data.samples",
    ),
    "a higher floor, late": (
        "hub.py", "def load():\n    import salhub.modeling", "hub.py imports salhub.modeling from",
    ),
    "another method": (
        "models/one/modeling_one.py", "from salhub.models.two import configuration_two",
        "models/one/modeling_one.py imports another method: salhub.models.two",
    ),
    "a method from above": (
        "cli/info.py", "def info():\n    from salhub.models.one import modeling_one",
        "cli/info.py imports a method: salhub.models.one.modeling_one",
    ),
    "a method by name": ("cards.py", "if name == 'one': pass", "cards.py:1 names a method: 'one'"),
    "a method by its type": ("ui/page.py", "KIND = 'salhub_two'", "names a method: 'salhub_two'"),
    "a method by its place": (
        "publishing.py", "PLACE = 'salhub.models.two.x'", "names a method: 'salhub.models.two.x'",
    ),
    "a model that needs its evaluation": (
        "models/one/modeling_one.py", "from salhub.models.one import evaluation_one",
        "which comes after it",
    ),
    "a circle": (
        "data/samples.py", "from salhub.data import mosaic",
        "a circle of imports: salhub.data.mosaic, salhub.data.samples",
    ),
    "a long file": ("viz/grid.py", "\n" * (MOST_LINES + 1), f"has {MOST_LINES + 1} lines"),
}  # fmt: skip


@pytest.fixture
def small_house(tmp_path) -> Path:
    """A package without a fault."""
    files = {
        "__init__.py": "from salhub.auto import AutoModel",
        "auto.py": "KNOWN = ('one', 'two', 'salhub.models.one.modeling_one')\nclass AutoModel: ...",
        "data/__init__.py": '"""The data of one and two."""',
        "data/mosaic.py": "from salhub.data import samples\nimport salhub.errors",
        "data/samples.py": "def late():\n    from salhub.data import mosaic",
        "errors.py": "import typing\nif typing.TYPE_CHECKING:\n    import salhub.errors",
        "models/one/modeling_one.py": "from salhub.models.one import configuration_one",
        "models/one/configuration_one.py": "NAME = 'one'",
        "models/two/configuration_two.py": "from salhub.data.mosaic import something",
        "cli/info.py": "from salhub import list_models\nSOME = 'someone'",
    }
    for name, text in files.items():
        path = tmp_path / "salhub" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "salhub"


def test_a_house_without_a_fault_is_left_in_peace(small_house):
    assert House(small_house).broken_rules() == []


@pytest.mark.parametrize(("file", "text", "sentence"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_every_rule_can_be_broken(small_house, file, text, sentence):
    (small_house / file).parent.mkdir(parents=True, exist_ok=True)
    (small_house / file).write_text(text)
    [found] = House(small_house).broken_rules()
    assert sentence in found


def test_a_circle_of_three_is_found_and_named(small_house):
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        (small_house / "data" / f"{name}.py").write_text(f"from salhub.data.{other} import thing")
    [found] = House(small_house).broken_rules()
    assert found == "a circle of imports: salhub.data.a, salhub.data.b, salhub.data.c"


def test_only_files_py_moves_drafts_into_place():
    """Everybody else writes through it, so that no reader sees half a file."""
    movers = {"os.replace", "os.rename", "shutil.move", "tempfile.mkstemp"}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path == PACKAGE / "files.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            called, place = ast.unparse(node.func), f"{path}:{node.lineno}"
            assert called not in movers, f"{place} moves a file itself; use salhub.files"
            # One argument: that of a path, as that of a text takes two.
            is_path = node.func.attr in ("replace", "rename") and len(node.args) == 1
            assert not is_path or node.keywords, f"{place} moves a file itself; use salhub.files"
            beside = any(keyword.arg == "dir" for keyword in node.keywords)
            is_draft = called.startswith("tempfile.") and beside
            assert not is_draft, f"{place} makes a draft itself; use salhub.files"


def test_operations_and_metrics_do_not_need_transformers():
    for folder in ("ops", "metrics"):
        for path in (PACKAGE / folder).glob("*.py"):
            assert "transformers" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("root", ["tests", "spaces", "benchmarks"])
def test_no_file_is_over_500_lines(root):
    for path in (PACKAGE.parent / root).rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES, path


def test_import_is_light_and_the_public_surface_small():
    code = (
        "import sys, json, salhub; "
        "print(json.dumps([n for n in ('torch', 'transformers', 'numpy') if n in sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == []
    assert len(salhub.__all__) < 60
    for name in salhub.__all__:
        assert getattr(salhub, name).__doc__, name
