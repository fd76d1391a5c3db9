"""The list of what is shipped, all of it or that of a task or a method."""

from salhub.entries import METHODS, TASKS
from salhub.errors import UnknownNameError, did_you_mean
from salhub.manifest import BundledModel, read_manifest


def list_models(*, task: str | None = None, method: str | None = None) -> "ModelTable":
    """List the models shipped with salhub.

    Args:
        task: Only the models of this task, such as "image-saliency".
        method: Only the models of this method, such as "normgrad".

    Returns:
        A list of `BundledModel` that prints as a table of 100 columns: name, method, task, size.
        Each model also has `trained_on`, `source`, `license` and `files`.

    Raises:
        UnknownNameError: There is no such task or method; the message names the nearest.

    Example:
        >>> [model.name for model in list_models(method="lexrank")]
        ['lexrank-minilm', 'lexrank-news-en']
        >>> "salhub/normgrad-efficientnet-lite0" in str(list_models(task="image-saliency"))
        True
    """
    models = list(read_manifest().values())
    if task is not None:
        tasks = dict.fromkeys([*TASKS, *(model.task for model in models)])
        wanted = _known("task", task, tasks)
        models = [model for model in models if model.task == wanted]
    if method is not None:
        wanted = _known("method", method, METHODS)
        models = [model for model in models if model.method == wanted]
    return ModelTable(models)


def _known(kind: str, word: str, known: dict) -> str:
    """The name that a word means, dashes and underscores being one."""
    names = {name.replace("-", "_"): name for name in known}
    found = names.get(str(word).replace("-", "_"))
    if found is None:
        hint = did_you_mean(str(word), known)
        raise UnknownNameError(
            f"There is no {kind} '{word}'; the {kind}s are {', '.join(known)}.{hint}"
        )
    return found


class ModelTable(list[BundledModel]):
    """A list of models that prints as an aligned table."""

    _HEADER = ("name", "method", "task", "MB")

    def __repr__(self) -> str:
        rows = [self._HEADER] + [
            (model.full_name, model.method or "-", model.task, f"{model.bytes / 1e6:.2f}")
            for model in self
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self._HEADER))]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )
        return "\n".join(lines)
