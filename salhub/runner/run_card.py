"""The card of a finished run: what it made, what was measured, and with which options."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salhub.model_card import card_text
from salhub.results import Results
from salhub.runner.run_folder import CURVES_NAME
from salhub.runner.summary import held_out_words, times_last

if TYPE_CHECKING:
    from salhub.runner.recipe import Recipe

_CURVES = "Training curves. Each point is the mean of the steps since the previous one."
_CHOSEN = (
    "The weights are those of the best measurement on held-out data during training; "
    "numbers on the same data are too optimistic."
)
_HELD_OUT = " Held-out data were measured separately and not used for training."


def run_card(recipe: "Recipe", results: Results, folder: Path, snapshot: str = "") -> str:
    """The card as Markdown with front matter; only numbers of the results file are in it.

    Args:
        recipe: The recipe, after its model was written.
        results: What was measured.
        folder: Where the model was written.
        snapshot: Name of the snapshot that the model is, if it is one.
    """
    facts, name = recipe.card_facts(), model_name(recipe)
    if words := held_out_words(type(recipe), results):
        facts = replace(facts, summary=f"{facts.summary} {words}".strip())
    if "best_step" in results.data:
        facts = replace(facts, cautions=[*facts.cautions, _CHOSEN])
    pictures = dict(facts.pictures)
    if (folder / CURVES_NAME).is_file():
        pictures[CURVES_NAME] = _CURVES + (_HELD_OUT if getattr(recipe, "validations", ()) else "")
    is_ours = _model_type(folder).startswith("salhub")
    code = facts.example or ""
    if snapshot:
        code = code.replace('{model}"', f'{{model}}", subfolder="{snapshot}"')
    if code and is_ours:
        code = "import salhub  # makes transformers know the model\n" + code
    return card_text(
        snapshot or name.rpartition("/")[2],
        facts,
        library="salhub" if is_ours else "transformers",
        tags=("saliency", "salhub", recipe.name, *facts.tags),
        code=code.replace("{model}", name),
        pictures=[f"![{text}]({file})\n\n{text}" for file, text in pictures.items()],
        results=times_last(results),
        all_metrics=True,
        options=_option_rows(recipe),
    )


def model_name(recipe: "Recipe") -> str:
    """What the model is loaded by: the name asked for, its repository, or the folder's own name."""
    options = recipe.arguments
    return options.card_name or options.hub_model_id or Path(options.output_dir).resolve().name


def _option_rows(recipe: "Recipe") -> list[list[str]]:
    options = {k: v for k, v in recipe.learned_options().items() if v not in (None, [], "")}
    return [[f"`{name}`", f"`{_without_place(value)}`"] for name, value in options.items()]


def _without_place(value: Any) -> str:
    # Folders of one machine are nothing to the others.
    is_place = isinstance(value, str) and Path(value).is_absolute()
    return Path(value).name if is_place else json.dumps(value).strip('"')


def _model_type(folder: Path) -> str:
    path = folder / "config.json"
    if not path.is_file():
        return ""
    return str(json.loads(path.read_text(encoding="utf-8")).get("model_type", ""))
