"""What editors and type checkers know of `import salhub`: the file `salhub/__init__.pyi`.

Public names are imported when they are first used, which no editor follows. Run
`python -m salhub.stub` after adding a model, a method, a task or a public name.
"""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import salhub
from salhub.entries import MODELS, TASKS, Model, Task, entry_of
from salhub.files import write_text
from salhub.manifest import read_manifest

STUB = Path(salhub.__file__).with_suffix(".pyi")
_HEAD = """\
# Written by `python -m salhub.stub`.
import os
from typing import Any, Literal, overload

from torch import nn

from salhub.pipelines.base import TaskPipeline
"""
_CLASS = """
class _{pipeline}({pipeline}):
"""
_CALL = """\
    @overload
    def __call__(
        self, {first}: {kind}, {settings}**others: Any
    ) -> {result}: ...
"""
_OVERLOAD = """
@overload
def pipeline(
    model: Literal[
{names}
    ],
    /,
    **settings: Any,
) -> _{pipeline}: ...
"""
_TAIL = """
@overload
def pipeline(
    model: str | os.PathLike[str] | nn.Module, /, **settings: Any
) -> TaskPipeline: ...
"""


def build_stub() -> str:
    """Build the text of `salhub/__init__.pyi`: public names, and what `pipeline` gives by name.

    Example:
        >>> "def pipeline(" in build_stub()
        True
    """
    homes = vars(salhub)["_PUBLIC"].items()
    imports = [f"from {home} import {name} as {name}" for name, home in homes if name != "pipeline"]
    classes, overloads = [], []
    for task in TASKS.values():
        names = _names_of(task)
        if not names:
            continue
        kind = task.pipeline_class
        result = kind.result_class
        imports.append(f"from {task.module} import {task.pipeline}")
        imports.append(f"from {result.__module__} import {result.__name__}")
        classes += [_CLASS.format(pipeline=task.pipeline), *_calls(kind)]
        listed = "\n".join(f'        "{name}",' for name in names)
        overloads.append(_OVERLOAD.format(pipeline=task.pipeline, names=listed))
    listed = "\n".join(f'    "{name}",' for name in salhub.__all__)
    parts = [_HEAD, "\n".join(sorted(set(imports))), "\n\n__version__: str\n__all__ = [\n", listed]
    return "".join([*parts, "\n]\n", *classes, *overloads, _TAIL])


def _calls(kind: Any) -> Iterator[str]:
    """A call with several inputs gives a list, unless they are taken together."""
    _, first, *_ = inspect.signature(kind.__call__).parameters
    taken = dict.fromkeys([*kind.companions, *kind.call_settings], "Any = ...")
    one, several = kind.result_class.__name__, f"list[{kind.result_class.__name__}]"
    calls = [("list[Any] | tuple[Any, ...]", several, taken), ("Any", one, taken)]
    if "together" in taken:
        calls.insert(
            0, ("list[Any] | tuple[Any, ...]", one, {**taken, "together": "Literal[True]"})
        )
    for inputs, result, settings in calls:
        words = "".join(f"{name}: {annotation}, " for name, annotation in settings.items())
        yield _CALL.format(
            first=first, kind=inputs, result=result, settings=f"*, {words}" if words else ""
        )


def _names_of(task: Task) -> list[str]:
    """Everything that a person may call a model of a task, shipped ones and methods."""
    shipped = [model for model in read_manifest().values() if _is_of(entry_of(model), task)]
    kinds = [one for one in MODELS.values() if one.method and one.default_model]
    methods = [one.name for one in kinds if _is_of(one, task)]
    named = [name for model in shipped for name in (model.name, model.full_name)]
    return list(
        dict.fromkeys([*named, *(word for one in methods for word in (one, one.replace("_", "-")))])
    )


def _is_of(entry: Model, task: Task) -> bool:
    return entry.is_run and entry.task == task.name


if __name__ == "__main__":
    write_text(STUB, build_stub())
