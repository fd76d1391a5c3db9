"""The card of a finished run: what it made, what was measured, and with which options."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salhub.results import Results
from salhub.results_markdown import conditions, markdown_table, metrics_table, plain_table

if TYPE_CHECKING:
    from salhub.runner.recipe import Recipe

CARD_NAME = "README.md"


@dataclass(frozen=True)
class CardFacts:
    """What only the recipe can say of its model.

    Args:
        summary: One or two sentences.
        usage: Python that uses the model; "{model}" stands for its name.
        task: Task of the Hub, such as "image-classification".
        base_model: Repository that it was made from; None where that is a folder, or nothing.
        tags: Further tags.
        notes: What has to be known before the numbers are believed.
        pictures: File in the folder of the run -> what it shows.
    """

    summary: str = ""
    usage: str = ""
    task: str | None = None
    base_model: str | None = None
    tags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pictures: dict[str, str] = field(default_factory=dict)


def run_card(recipe: "Recipe", results: Results, folder: Path, snapshot: str = "") -> str:
    """The card as Markdown with front matter; only numbers of the results file are in it.

    Args:
        recipe: The recipe, after its model was written.
        results: What was measured.
        folder: Where the model was written.
        snapshot: Name of the snapshot that the model is, if it is one.
    """
    facts, name = recipe.card_facts(), model_name(recipe)
    is_ours = _model_type(folder).startswith("salhub")
    usage = facts.usage
    if snapshot:
        usage = usage.replace('{model}"', f'{{model}}", subfolder="{snapshot}"')
    sections = [
        f"# {snapshot or name.rpartition('/')[2]}",
        facts.summary,
        *(f"![{text}]({file})\n\n{text}" for file, text in facts.pictures.items()),
        _usage(usage.replace("{model}", name), is_ours=is_ours),
        _notes(facts.notes),
        "## Numbers",
        *(markdown_table(table) for table in results.tables),
        metrics_table(results),
        conditions(results),
        f"## Options\n\n{plain_table(['option', 'value'], _option_rows(recipe))}",
    ]
    body = "\n\n".join(section for section in sections if section)
    return f"---\n{_front_matter(recipe, facts, is_ours=is_ours)}\n---\n\n{body}\n"


def model_name(recipe: "Recipe") -> str:
    """What the model is loaded by: the name asked for, its repository, or the folder's own name."""
    options = recipe.arguments
    return options.card_name or options.hub_model_id or Path(options.output_dir).resolve().name


def _usage(code: str, *, is_ours: bool) -> str:
    if not code:
        return ""
    first = "import salhub  # makes transformers know the model\n" if is_ours else ""
    return f"## Use\n\n```python\n{first}{code.strip()}\n```"


def _notes(notes: tuple[str, ...]) -> str:
    listed = "\n".join(f"- {note}" for note in notes)
    return f"## Before you rely on it\n\n{listed}" if notes else ""


def _option_rows(recipe: "Recipe") -> list[list[str]]:
    options = {k: v for k, v in recipe.learned_options().items() if v not in (None, [], "")}
    return [[f"`{name}`", f"`{_without_place(value)}`"] for name, value in options.items()]


def _without_place(value: Any) -> str:
    # Folders of one machine are nothing to the others.
    is_place = isinstance(value, str) and Path(value).is_absolute()
    return Path(value).name if is_place else json.dumps(value).strip('"')


def _front_matter(recipe: "Recipe", facts: CardFacts, *, is_ours: bool) -> str:
    from huggingface_hub import ModelCardData

    tags = dict.fromkeys(["saliency", "salhub", recipe.name, *facts.tags])
    data = ModelCardData(
        base_model=facts.base_model,
        library_name="salhub" if is_ours else "transformers",
        pipeline_tag=facts.task,
        tags=list(tags),
    )
    return data.to_yaml()


def _model_type(folder: Path) -> str:
    path = folder / "config.json"
    if not path.is_file():
        return ""
    return str(json.loads(path.read_text(encoding="utf-8")).get("model_type", ""))
