"""The rules of the house: who may import whom, how long a file may be, how light an import is."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import salhub

PACKAGE = Path(salhub.__file__).parent
FLOORS = {
    "errors": 0, "files": 0, "ops": 0, "metrics": 0, "manifest": 1,
    "results": 2, "results_markdown": 2, "hub": 2, "hub_commit": 1, "entries": 2,
    "configuration": 3, "modeling": 3, "outputs": 3, "processing": 3, "data": 3, "viz": 3,
    "explaining": 4,
    "backbones": 5, "runner": 5, "evaluation": 5,
    "pipelines": 7,
    "ui": 8,
    "models": 9,
    "auto": 10, "registration": 10,
    "cards": 11, "publishing": 11,
    "cli": 12, "__init__": 12,
}  # fmt: skip
# Inside a folder of `models` or `backbones`, a kind of file imports only earlier kinds.
KINDS = [
    "configuration", "image_processing", "processing", "modeling", "evaluation", "recipe",
    "result", "pipeline", "page",
]  # fmt: skip


def _files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _imports(path: Path) -> set[str]:
    """Return the salhub modules a file imports, at module level or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which floor is meant"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if name.split(".")[0] == "salhub"}


def _floor(parts: tuple[str, ...]) -> int:
    return FLOORS[parts[0] if parts else "__init__"]


def _parts(module: str) -> tuple[str, ...]:
    return tuple(module.split(".")[1:])


def test_every_part_has_a_floor():
    for path in _files():
        assert path.relative_to(PACKAGE).parts[0].removesuffix(".py") in FLOORS, path


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_its_own_or_lower_floors(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts
    for module in _imports(path):
        imported = _parts(module)
        assert _floor(imported) <= _floor(own), f"{path} imports {module} from a higher floor"
        if own[0] == "models" and imported[0] == "models" and len(own) > 2:
            assert imported[1] == own[1], f"{path} imports another method: {module}"
        is_page = own[0] in ("ui", "cli") or own[-1].startswith("page_")
        assert imported[:1] != ("ui",) or is_page, f"{path} imports {module}"


@pytest.mark.parametrize(
    "path",
    [path for path in _files() if path.relative_to(PACKAGE).parts[0] in ("models", "backbones")],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_inside_a_method_configuration_comes_before_model_and_model_before_evaluation(path):
    def rank(stem: str) -> int | None:
        return next(
            (index for index, kind in enumerate(KINDS) if stem.startswith(f"{kind}_")), None
        )

    own = rank(path.stem)
    for module in _imports(path):
        parts = _parts(module)
        same_folder = parts[:2] == path.relative_to(PACKAGE).parts[:2] and len(parts) > 2
        other = rank(parts[2]) if same_folder else None
        if own is not None and other is not None:
            assert other <= own, f"{path} imports {module}"


def test_only_files_py_moves_drafts_into_place():
    """Everybody else writes through it, so that no reader sees half a file."""
    movers = {"os.replace", "os.rename", "shutil.move", "tempfile.mkstemp"}
    for path in _files():
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
    for path in _files():
        if path.relative_to(PACKAGE).parts[0] in ("ops", "metrics"):
            assert "transformers" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("root", ["salhub", "tests", "spaces", "benchmarks"])
def test_no_file_is_over_500_lines(root):
    for path in (PACKAGE.parent / root).rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 500, path


def test_import_is_light_and_the_public_surface_small():
    code = (
        "import sys, json, salhub; "
        "print(json.dumps([n for n in ('torch', 'transformers', 'numpy') if n in sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == []
    assert len(salhub.__all__) < 40
    for name in salhub.__all__:
        assert getattr(salhub, name).__doc__, name
