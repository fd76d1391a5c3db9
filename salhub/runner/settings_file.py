"""`options.yaml`: the file by which a run can be repeated, and the paths that such files name."""

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from salhub.runner.recipe import Recipe

logger = logging.getLogger(__name__)

SETTINGS_NAME = "options.yaml"
# What is said anew each time: where to, and whether to go on, replace or push.
_ONCE = frozenset(
    {
        "card_name",
        "dry_run",
        "hub_model_id",
        "hub_private_repo",
        "output_dir",
        "overwrite",
        "push_to_hub",
        "resume_from_checkpoint",
    }
)
# A value that names a file behind a word, such as "file:places.txt".
_BEHIND = "file:"


def settings_text(recipe: "Recipe") -> str:
    """The options of a run as YAML, for `--config`; its files are named as seen from its folder.

    Args:
        recipe: The run.
    """
    home = Path(recipe.arguments.output_dir).resolve()

    def as_seen(place: str) -> str:
        if not Path(place).exists():
            return place
        try:
            return Path(os.path.relpath(Path(place).resolve(), home)).as_posix()
        except ValueError:  # on another drive
            return str(Path(place).resolve())

    options = {
        field.name: getattr(recipe.arguments, field.name)
        for field in dataclasses.fields(recipe.arguments)
        if field.name not in _ONCE
    }
    text = yaml.safe_dump(_with_places(options, recipe.sources, as_seen), sort_keys=False)
    line = f"salhub {recipe.verb} {recipe.name} --config {SETTINGS_NAME} output_dir=FOLDER"
    return f"# {line}\n{text}"


def beside_file(
    settings: Mapping[str, Any], file: Path, sources: Mapping[str, str]
) -> dict[str, Any]:
    """The settings of a file, whose relative paths are looked for beside it.

    One that is not there is left as it is: a path from the current folder, or a name of something
    else.

    Args:
        settings: What stands in the file.
        file: Where it lies.
        sources: Options that may name files or folders.

    Example:
        >>> beside_file({"data": "nowhere.npz", "seed": 1}, Path("a/options.yaml"), {"data": "*"})
        {'data': 'nowhere.npz', 'seed': 1}
    """

    def found(place: str) -> str:
        beside = file.parent / place
        if Path(place).is_absolute() or not beside.exists():
            return place
        if Path(place).exists() and not beside.samefile(place):
            logger.warning(
                "There are two files called %s; the one next to %s is used.", place, file
            )
        return str(beside)

    return _with_places(settings, sources, found)


def _with_places(
    settings: Mapping[str, Any], sources: Mapping[str, str], change: Callable[[str], str]
) -> dict[str, Any]:
    def changed(name: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [changed(name, one) for one in value]
        if isinstance(value, str) and value.startswith(_BEHIND):
            return _BEHIND + change(value.removeprefix(_BEHIND))
        return change(value) if isinstance(value, str) and value and name in sources else value

    return {name: changed(name, value) for name, value in settings.items()}
