"""`salhub train RECIPE --help`: every option of a recipe, with its default and what it means."""

import dataclasses
import inspect
import re
from collections.abc import Collection
from typing import Any, get_type_hints

import typer
import typer.core

from salhub.cli.config_fields import docstring_arguments
from salhub.cli.settings import RunCommand
from salhub.entries import recipe_named, recipes_to
from salhub.errors import choices_of

_HELP = ("--help", "-h")
_WIDTH = 100
_SEE = re.compile(r"(?:,|;)? \(?(?:s|S)ee `(\w[\w.]*)`(?: and `\w+`)?\)?(?=[.,;:)]|$)")


class RecipeCommand(RunCommand):
    """A command that carries out recipes; `RECIPE --help` lists the options of one."""

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        """Show the options of the recipe that is named before `--help`."""
        end = args.index("--") if "--" in args else len(args)
        if args and not args[0].startswith("-") and set(_HELP) & set(args[1:end]):
            typer.echo(recipe_help(args[0], str(ctx.info_name), ctx.command_path))
            ctx.exit()
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx, formatter) -> None:
        """List the recipes."""
        verb = str(ctx.info_name)
        recipes = ", ".join(recipes_to(verb)) or "none yet"
        formatter.write_paragraph()
        formatter.write_text(f"Recipes: {recipes}.")
        formatter.write_text(f"Options of a recipe: salhub {verb} RECIPE --help")


def recipe_help(name: str, verb: str, command: str) -> str:
    """The options of a recipe, its own first, then those of training, then those of every run.

    Args:
        name: The recipe.
        verb: "train", "unlearn" or "compress".
        command: What stands before the recipe on the command line.

    Raises:
        UnknownNameError: No recipe of that verb is called that.
    """
    kind = recipe_named(name, verb).recipe_class
    formatter = typer.core.TyperCommand(name).make_context(name, []).make_formatter()
    formatter.width = _WIDTH
    formatter.write_usage(f"{command} {name}", "[OPTION=VALUE]... [--config FILE] [--nproc N]")
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text((inspect.getdoc(kind) or "").partition("\n\n")[0])
    for title, rows in _groups(kind.arguments_class, name, verb).items():
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows, col_max=36)
    return formatter.getvalue().rstrip()


def _groups(arguments_class: type, name: str, verb: str) -> dict[str, list[tuple[str, str]]]:
    from salhub.runner.arguments import RunArguments, TrainingArguments

    titles = {RunArguments: "Options of every run", TrainingArguments: "Options of training"}
    own = f"Options of {name}"
    found: dict[str, list[tuple[str, str]]] = {own: [], **{t: [] for t in titles.values()}}
    found = {
        title: found[title] for title in (own, titles[TrainingArguments], titles[RunArguments])
    }
    texts: dict[str, str] = {}
    for cls in reversed(arguments_class.__mro__):
        texts |= docstring_arguments(cls) if dataclasses.is_dataclass(cls) else {}
    kinds = get_type_hints(arguments_class)
    fields = dataclasses.fields(arguments_class)
    for field in sorted(fields, key=lambda one: not _is_needed(one)):
        first = [c for c in arguments_class.__mro__ if field.name in inspect.get_annotations(c)][-1]
        text = _as_typed(texts.get(field.name, ""), kinds)
        row = _row(field, kinds[field.name], text)
        if field.name == "output_dir":  # which the command line gives a name
            row = (f"output_dir={name}-{verb}", row[1])
        found[titles.get(first, own)].append(row)
    return found


def _as_typed(text: str, options: Collection[str]) -> str:
    """A text of Python's documentation for the command line: no functions, values as typed."""
    text = _SEE.sub(lambda found: found[0] if found[1] in options else "", text)
    for value, typed in (("None", "none"), ("True", "true"), ("False", "false")):
        text = re.sub(rf"(?<!`)\b{value}\b(?!`)", f"`{typed}`", text)
    return text


def _row(field: Any, kind: Any, text: str) -> tuple[str, str]:
    choices = [choice for choice in choices_of(kind) if choice is not None]
    if not all(f'"{choice}"' in text for choice in choices):
        text += f" One of: {', '.join(choices)}."
    default = _default(field)
    # A choice may have that name too, which is not the default then.
    default = "null" if default in choices and field.default is None else default
    return f"{field.name}={default}", text.strip()


def _is_needed(field: Any) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _default(field: Any) -> str:
    if _is_needed(field):
        return "… (needed)"
    value = (
        field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    )
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value)
