"""The rules of the house, as sentences about whatever breaks them in a package."""

import ast
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

FLOORS = (
    ("errors", "files"),
    ("metrics", "ops"),
    ("results", "results_markdown", "model_card", "manifest", "config_fields", "hub", "hub_faults",
     "hub_commit", "loading_keywords", "entries", "listing",
     "model_facts", "hub_reach", "other_kinds"),
    ("configuration", "network_inside", "modeling", "onnx_export", "saving", "outputs",
     "processing", "tokenizing",
     "sentence_encoder", "data", "viz"),
    ("explaining", "quantization"),
    ("evaluation",),
    ("backbones", "runner"),
    ("pipelines",),
    ("ui",),
    ("models",),
    ("auto", "registration"),
    ("cards", "publishing"),
    ("cli", "stub", "__init__"),
)  # fmt: skip
# Inside a folder of `models` or `backbones`, a kind of file imports only earlier kinds.
KINDS = (
    "configuration", "image_processing", "processing", "modeling", "evaluation", "recipe",
    "result", "pipeline", "page",
)  # fmt: skip
# The one file that names methods.
NAMES_METHODS = "auto.py"
MOST_LINES = 500
_PACKAGE = "salhub"


class House:
    """The files of a package and what they import.

    Args:
        root: Folder of the package.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def broken_rules(self) -> list[str]:
        """Everything that is wrong, a sentence each."""
        checks = (
            self.without_a_floor, self.climbing_imports, self.imports_between_methods,
            self.named_methods, self.kinds_out_of_order, self.circles, self.long_files,
        )  # fmt: skip
        return [sentence for check in checks for sentence in check()]

    # --- the rules --------------------------------------------------------------------------------

    def without_a_floor(self) -> Iterator[str]:
        known = {name for floor in FLOORS for name in floor}
        for path in self.files:
            if self._top(path) not in known:
                yield f"{self._name(path)} is on no floor"

    def climbing_imports(self) -> Iterator[str]:
        floor_of = {name: floor for floor, names in enumerate(FLOORS) for name in names}
        for path, modules in self.imports.items():
            own = floor_of.get(self._top(path), -1)
            for module in modules:
                part = module.split(".")[1] if "." in module else "__init__"
                # `from salhub import list_models` names no file; where it leads is on every floor.
                part = part if part in floor_of else "__init__"
                if floor_of[part] > own:
                    yield f"{self._name(path)} imports {module} from a higher floor"

    def imports_between_methods(self) -> Iterator[str]:
        for path, modules in self.imports.items():
            own = path.relative_to(self.root).parts
            for module in modules:
                parts = module.split(".")[1:]
                if own[0] == "models" and parts[:1] == ["models"] and len(own) > 2:
                    if len(parts) < 2 or parts[1] != own[1]:
                        yield f"{self._name(path)} imports another method: {module}"
                elif parts[:1] == ["models"] and self._name(path) != NAMES_METHODS:
                    yield f"{self._name(path)} imports a method: {module}"

    def named_methods(self) -> Iterator[str]:
        """Texts that are the name of a method, its folder or its `model_type`."""
        folders = [path.name for path in (self.root / "models").iterdir() if path.is_dir()]
        methods = {name for name in folders if not name.startswith("_")}
        names = methods | {name.replace("_", "-") for name in methods}
        names |= {f"{_PACKAGE}_{name}" for name in methods}
        for path, tree in self.trees.items():
            if self._top(path) == "models" or self._name(path) == NAMES_METHODS:
                continue
            for node in _texts(tree):
                is_place = node.value.startswith(f"{_PACKAGE}.models.")
                if node.value in names or is_place:
                    yield f"{self._name(path)}:{node.lineno} names a method: {node.value!r}"

    def kinds_out_of_order(self) -> Iterator[str]:
        for path, modules in self.imports.items():
            own = path.relative_to(self.root).parts
            if own[0] not in ("models", "backbones") or len(own) < 3:
                continue
            for module in modules:
                parts = module.split(".")[1:]
                if tuple(parts[:2]) == own[:2] and len(parts) > 2:
                    ranks = _rank(path.stem), _rank(parts[2])
                    if None not in ranks and ranks[1] > ranks[0]:
                        yield f"{self._name(path)} imports {module}, which comes after it"

    def circles(self) -> Iterator[str]:
        """Files that import each other, directly or by others, while they are imported."""
        modules = {self._module(path): path for path in self.files}
        edges = {
            name: {_file_of(one, modules) for one in _imported(self.trees[path], at_once=True)}
            for name, path in modules.items()
        }
        edges = {name: (found & modules.keys()) - {name} for name, found in edges.items()}
        for circle in _circles(edges):
            yield f"a circle of imports: {', '.join(sorted(circle))}"

    def long_files(self) -> Iterator[str]:
        for path in self.files:
            count = len(path.read_text(encoding="utf-8").splitlines())
            if count > MOST_LINES:
                yield f"{self._name(path)} has {count} lines"

    # --- the files --------------------------------------------------------------------------------

    @cached_property
    def files(self) -> list[Path]:
        return sorted(self.root.rglob("*.py"))

    @cached_property
    def trees(self) -> dict[Path, ast.Module]:
        return {path: ast.parse(path.read_text(encoding="utf-8")) for path in self.files}

    @cached_property
    def imports(self) -> dict[Path, set[str]]:
        """Modules of the package that each file imports, at once or inside functions."""
        return {path: _imported(tree) for path, tree in self.trees.items()}

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _top(self, path: Path) -> str:
        return path.relative_to(self.root).parts[0].removesuffix(".py")

    def _module(self, path: Path) -> str:
        parts = path.relative_to(self.root).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        return ".".join((_PACKAGE, *parts))


def _imported(tree: ast.Module, at_once: bool = False) -> set[str]:
    names: set[str] = set()
    for node in _at_once(tree) if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which floor is meant"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if name.split(".")[0] == _PACKAGE}


def _at_once(node: ast.AST) -> Iterator[ast.AST]:
    """Everything that runs while the file is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _at_once(child)


def _texts(tree: ast.Module) -> Iterator[ast.Constant]:
    """Texts in code; those of documentation are no code."""
    documentation = {
        id(node.value) for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }  # fmt: skip
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in documentation:
            yield node


def _file_of(name: str, modules: dict[str, Path]) -> str:
    """The module that a dotted name of a module, or of something in one, leads to."""
    return name if name in modules else name.rpartition(".")[0]


def _rank(stem: str) -> int | None:
    return next((index for index, kind in enumerate(KINDS) if stem.startswith(f"{kind}_")), None)


def _circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Sets of more than one node that all reach each other (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for other in edges[node]:
            if other not in order:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], order[other])
        if lowest[node] == order[node]:
            place = stack.index(node)
            found.append(set(stack[place:]))
            del stack[place:]

    for node in edges:
        if node not in order:
            visit(node)
    return [circle for circle in found if len(circle) > 1]
