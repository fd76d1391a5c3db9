"""What the code of a class says, read without importing it: importing torch takes seconds."""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import salhub

_PACKAGE = Path(salhub.__file__).parent


class NotWrittenDownError(Exception):
    """The value is computed; only running the code would tell it."""


@dataclass(frozen=True)
class WrittenClass:
    """A class as it stands in its file.

    Args:
        module: Dotted name of a module of salhub.
        name: Name of the class.
    """

    module: str
    name: str

    @property
    def documentation(self) -> str:
        """Its docstring, or ""."""
        return inspect.cleandoc(ast.get_docstring(self._definition, clean=False) or "")

    def annotated(self, top: str) -> set[str]:
        """Names annotated in the class and its bases, below the base called `top`."""
        return {
            node.target.id
            for one in self._lineage()
            if one.name != top
            for node in one._definition.body
            if isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and "ClassVar" not in ast.unparse(node.annotation)
        }

    def value(self, attribute: str) -> Any:
        """The value of a class attribute, its own or that of the nearest base.

        Raises:
            NotWrittenDownError: It is computed, or no class of salhub sets it.
        """
        for one in self._lineage():
            for node in one._definition.body:
                if isinstance(node, ast.Assign | ast.AnnAssign) and attribute in _targets(node):
                    return _evaluate(node.value, one.module)
        raise NotWrittenDownError(attribute)

    def keywords(self, method: str) -> set[str]:
        """Names that a method takes by keyword only; of the nearest class that has it."""
        for one in self._lineage():
            for node in one._definition.body:
                if isinstance(node, ast.FunctionDef) and node.name == method:
                    return {argument.arg for argument in node.args.kwonlyargs}
        raise NotWrittenDownError(method)

    @property
    def _definition(self) -> ast.ClassDef:
        node = _definitions(self.module).get(self.name)
        if not isinstance(node, ast.ClassDef):
            raise NotWrittenDownError(self.name)
        return node

    def _lineage(self) -> Iterator["WrittenClass"]:
        """The class and its bases in salhub, nearest first."""
        yield self
        for base in self._definition.bases:
            place = _place(base.id, self.module) if isinstance(base, ast.Name) else None
            if place is not None:
                yield from WrittenClass(*place)._lineage()


def _evaluate(node: ast.AST | None, module: str) -> Any:
    """A constant, or a tuple, list or dictionary of them; names lead to where they are set."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_elements(node, module))
    if isinstance(node, ast.Dict):
        keys = [_evaluate(key, module) for key in node.keys]
        return dict.fromkeys(keys)
    place = _place(node.id, module) if isinstance(node, ast.Name) else None
    found = None if place is None else _definitions(place[0]).get(place[1])
    if place is None or not isinstance(found, ast.Assign | ast.AnnAssign):
        raise NotWrittenDownError(ast.unparse(node) if node else "")
    return _evaluate(found.value, place[0])


def _elements(node: ast.Tuple | ast.List, module: str) -> Iterator[Any]:
    for element in node.elts:
        if isinstance(element, ast.Starred):
            yield from _evaluate(element.value, module)
        else:
            yield _evaluate(element, module)


def _place(name: str, module: str) -> tuple[str, str] | None:
    """Where a name of a module is defined: the module, and its name there; None outside salhub."""
    node = _definitions(module).get(name)
    if isinstance(node, ast.ImportFrom):
        [original] = [one.name for one in node.names if (one.asname or one.name) == name]
        is_ours = (node.module or "").split(".")[0] == salhub.__name__
        return _place(original, node.module) if is_ours and node.module else None
    return None if node is None else (module, name)


@cache
def _definitions(module: str) -> dict[str, ast.stmt]:
    """The statements at the top of a module by the names that they define."""
    path = _PACKAGE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.is_file():
        return {}
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        found |= dict.fromkeys(_targets(node), node)
    return found


def _targets(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    if isinstance(node, ast.ImportFrom):
        return [one.asname or one.name for one in node.names]
    if isinstance(node, ast.AnnAssign):
        return [node.target.id] if isinstance(node.target, ast.Name) and node.value else []
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []
