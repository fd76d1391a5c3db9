"""The program that makes the map in sight, to be copied."""

import json
from collections.abc import Mapping
from typing import Any

from salhub.ui.query import Query


def pipeline_code(name: str, query: Query, label: str | None, settings: Mapping[str, Any]) -> str:
    """Return a program for a pipeline that explains one picture.

    Args:
        name: The model.
        query: The picture and the class.
        label: Name of the class, written as a comment.
        settings: What is given to `salhub.pipeline` beside the name.

    Example:
        >>> from PIL import Image
        >>> query = Query(Image.new("RGB", (8, 8)), "cat", "sample:cat", 281)
        >>> print(pipeline_code("salhub/model", query, "tabby", {"meta_step": 0.001}))
        import salhub
        <BLANKLINE>
        explain = salhub.pipeline(
            "salhub/model",
            meta_step=0.001,
        )
        result = explain(
            "sample:cat",
            class_labels=281,  # tabby
        )
        result.save("explained.png")
        result.save("explained.npy")
    """
    call = [f"{_literal(query.source)},"]
    if query.class_label is not None:
        call.append(f"class_labels={query.class_label},  # {_comment(str(label))}")
    return "\n".join(
        [
            "import salhub",
            "",
            *_call("explain = salhub.pipeline", [f"{_literal(name)},", *setting_lines(settings)]),
            *_call("result = explain", call),
            'result.save("explained.png")',
            'result.save("explained.npy")',
        ]
    )


def setting_lines(settings: Mapping[str, Any]) -> list[str]:
    """Return keyword arguments, one a line."""
    return [f"{name}={_literal(value)}," for name, value in settings.items()]


def _comment(label: str) -> str:
    """A label on one line; a network may call its classes anything, line breaks included."""
    return "".join(letter for letter in " ".join(label.split()) if letter.isprintable())


def _literal(value: Any) -> str:
    """Python for a value; text in double quotes, as in the rest of the program."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value)


def _call(head: str, arguments: list[str]) -> list[str]:
    if len(arguments) == 1:
        return [f"{head}({arguments[0].rstrip(',')})"]
    return [f"{head}(", *(f"    {one}" for one in arguments), ")"]
