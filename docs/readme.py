"""Writes the gallery and the tables of README.md anew: `python -m docs.readme`.

Sentences come from card.yaml, numbers from the results files, pictures from the cards; what stands
between `<!-- gallery -->` and `<!-- gallery end -->`, and likewise of `methods` and `models`, is
replaced.
"""

import re
from collections.abc import Callable
from pathlib import Path

from salhub.entries import METHODS
from salhub.files import write_text
from salhub.listing import list_models
from salhub.manifest import BundledModel, read_manifest
from salhub.model_facts import key_number, method_in_short
from salhub.results_markdown import plain_table

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
_COLUMNS = 3
_HEADER = ["model", "size", "what was measured", "result", "compared with"]


def build_readme(text: str) -> str:
    """Return a README with its generated parts made anew.

    Args:
        text: The README.

    Raises:
        ValueError: It lacks a marker.
    """
    for name, build in _PARTS.items():
        start, end = f"<!-- {name} -->", f"<!-- {name} end -->"
        pattern = re.compile(f"{start}.*?{end}", re.DOTALL)
        if pattern.search(text) is None:
            raise ValueError(f"README.md needs a part from {start} to {end}.")
        made = f"{start}\n\n{build()}\n\n{end}"
        text = pattern.sub(lambda found, made=made: made, text)
    return text


def gallery() -> str:
    """A picture and a sentence of every method, three in a row."""
    cells = [_cell(name) for name in METHODS]
    cells += [""] * (-len(cells) % _COLUMNS)
    rows = [cells[start : start + _COLUMNS] for start in range(0, len(cells), _COLUMNS)]
    return plain_table([" "] * _COLUMNS, rows)


def methods_table() -> str:
    """Every method with the model that stands for it."""
    shipped = read_manifest()
    rows = []
    for name, method in METHODS.items():
        model = shipped[method.default or ""]
        rows.append([_link(name), model.task, *_numbers(model)])
    return plain_table(["method", "task", *_HEADER], rows)


def models_table() -> str:
    """The models that do not stand for a method."""
    defaults = {method.default for method in METHODS.values()}
    others = [model for model in list_models() if model.name not in defaults]
    rows = [[*_numbers(model)[:1], model.task, *_numbers(model)[1:]] for model in others]
    return plain_table(["model", "task", *_HEADER[1:]], rows)


_PARTS: dict[str, Callable[[], str]] = {
    "gallery": gallery,
    "methods": methods_table,
    "models": models_table,
}


def _cell(method: str) -> str:
    picture = f"model_cards/{METHODS[method].default}.png"
    text = method_in_short(method)
    page = f"docs/methods/{method}.md"
    return f"[![{text}]({picture})]({page})<br>**{_title(method)}.** {text}"


def _numbers(model: BundledModel) -> list[str]:
    name = f"[`{model.name}`](model_cards/{model.name}.md)"
    number = key_number(model.name)
    if number is None:
        return [name, _size(model), "not measured yet", "", ""]
    beside = "" if number.beside is None else f"{number.beside_value}, {number.beside}"
    return [name, _size(model), number.what, f"**{number.value}**", beside]


def _size(model: BundledModel) -> str:
    return f"{model.bytes / 1e6:.2f} MB" if model.bytes >= 1e5 else f"{model.bytes / 1e3:.0f} kB"


def _link(method: str) -> str:
    return f"[{_title(method)}](docs/methods/{method}.md)"


def _title(method: str) -> str:
    """What its page is called."""
    page = ROOT / "docs" / "methods" / f"{method}.md"
    return page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").strip()


if __name__ == "__main__":
    write_text(README, build_readme(README.read_text(encoding="utf-8")))
