"""`salhub info`: what a model is, what it can be set to, and where it comes from."""

import shlex
import shutil
import textwrap
from dataclasses import asdict
from typing import Annotated, Any

import typer

from salhub.cli.choice import Choice, check_known, quiet_transformers
from salhub.cli.completion import NameArgument
from salhub.cli.config_fields import config_fields
from salhub.cli.files import echo_json
from salhub.entries import Model, entry_of, find_entry, model_named, network_entry
from salhub.hub import bundled_model, canonical_name, load
from salhub.manifest import NAMESPACE

_HASH_DIGITS = 12
_WIDEST = 100
_FACTS = (
    ("task", "task"),
    ("method", "method"),
    ("kind", "kind"),
    ("paper", "paper"),
    ("explains", "classifier"),
    ("size", "bytes"),
    ("trained on", "trained_on"),
    ("source", "source"),
    ("licence", "license"),
    ("revision", "revision"),
)


def info_command(
    name: NameArgument,
    classifier: Annotated[
        str | None,
        typer.Option(help="Your own network; lists the choices it offers, such as layers."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a model is for, how to run it, how good it is, and its settings.

    \b
    salhub info normgrad-efficientnet-lite0
    salhub info normgrad --classifier my-network
    """  # noqa: D301
    description = describe(name, classifier)
    if as_json:
        echo_json(description)
    else:
        typer.echo("\n".join(_lines(description)))


def describe(name: str, classifier: str | None = None) -> dict[str, Any]:
    """Gather everything known about a model, as plain data.

    Args:
        name: A model, a method, a folder or a repository.
        classifier: The user's own network, or None.

    Raises:
        UnknownNameError: It is no model of salhub.
    """
    check_known(name)
    quiet_transformers()
    full_name, entry = _find(name, classifier)
    config = _read_config(full_name, entry)
    choice = Choice(full_name, entry, classifier) if entry.pipeline_class else None
    return {
        "name": full_name or entry.name,
        **_introduction(full_name, entry, classifier),
        "method": entry.method,
        "kind": entry.name,
        "paper": entry.paper,
        "task": entry.task,
        "classifier": classifier,
        **_provenance(full_name),
        "notes": list(getattr(config, "answer_notes", None) or ()),
        "settings": [field._asdict() for field in config_fields(config)],
        "call_settings": _call_settings(choice),
        "choices": _choices(choice),
    }


def _find(name: str, classifier: str | None) -> tuple[str | None, Model]:
    if model_named(name) is not None:
        return find_entry(name, classifier=classifier)
    full_name = canonical_name(name)
    return full_name, network_entry(full_name) or entry_of(full_name)


def _introduction(name: str | None, entry: Model, classifier: str | None) -> dict[str, Any]:
    """What it is for, a line that runs it and the number that matters; None where not known."""
    from salhub.model_card import Facts
    from salhub.model_facts import fact_files, key_number, method_in_short

    shipped = None if name is None else bundled_model(name)
    facts = Facts() if shipped is None else Facts.read(*fact_files(shipped))
    in_short = facts.in_short
    if in_short is None and entry.method is not None:
        in_short = method_in_short(entry.method)
    number = None if shipped is None else key_number(shipped.name)
    called = (name or entry.name.replace("_", "-")).removeprefix(NAMESPACE)
    return {
        "in_short": in_short,
        "run": _line_to_copy(called, entry, classifier, facts.sample),
        "key_number": None if number is None else asdict(number),
    }


def _line_to_copy(called: str, entry: Model, classifier: str | None, sample: str | None) -> str:
    if entry.pipeline_class is None:
        return shlex.join(["salhub", "evaluate", called, "--data", "FOLDER"])
    words = ["salhub", "run", called, sample or entry.pipeline_class.sample]
    return shlex.join(words + ([] if classifier is None else ["--classifier", str(classifier)]))


def _read_config(name: str | None, entry: Model) -> Any:
    return entry.config_class() if name is None else load(entry.config_class, name)


def _provenance(name: str | None) -> dict[str, Any]:
    model = None if name is None else bundled_model(name)
    if model is None:
        return {}
    return {
        "task": model.task,
        "bytes": model.bytes,
        "trained_on": model.trained_on,
        "source": model.source,
        "license": model.license,
        "revision": model.revision,
        "files": [
            {"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in model.files
        ],
    }


def _choices(choice: Choice | None) -> dict[str, list[str]]:
    if choice is None or not hasattr(choice.pipeline_class, "choices"):
        return {}
    return choice.load({"classifier": choice.classifier} if choice.classifier else {}).choices()


def _call_settings(choice: Choice | None) -> list[str]:
    kind = choice and choice.pipeline_class
    return [*kind.call_settings, *kind.companions] if kind else []


def _lines(description: dict[str, Any]) -> list[str]:
    lines = [description["name"]]
    if description["in_short"]:
        lines += _wrapped(description["in_short"], "")
    for note in description["notes"]:
        lines += _wrapped(note, "")
    lines += ["", f"  {description['run']}", ""]
    if number := description["key_number"]:
        rows = {number["what"]: number["value"]}
        if number["beside"] is not None:
            rows |= {number["beside"]: number["beside_value"]}
        width = max(map(len, rows))
        lines += [f"  {what:<{width}}  {value}" for what, value in rows.items()] + [""]
    for title, key in _FACTS:
        value = description.get(key)
        if value is not None:
            text = _size(value) if key == "bytes" else value
            lines += _wrapped(text, f"  {title:<12}")
    if description.get("files"):
        lines += ["", "Files"]
        for file in description["files"]:
            digest = file["sha256"][:_HASH_DIGITS]
            lines.append(f"  {file['name']:<26}{_size(file['bytes']):>9}  sha256 {digest}")
    settings = [field for field in description["settings"] if not field["of_training"]]
    if settings:
        lines += ["", "Settings (--name value or name=value)"]
    for field in settings:
        lines.append(f"  {field['name']} = {_shown(field['value'])}")
        lines += _wrapped(field["help"], "      ")
    if trained := [field["name"] for field in description["settings"] if field["of_training"]]:
        lines += ["", *_wrapped(f"Set in training, see config.json: {', '.join(trained)}", "")]
    if description["call_settings"]:
        names = ", ".join(description["call_settings"])
        lines += ["", *_wrapped(f"Settings of a single call (written the same way): {names}", "")]
    for setting, options in description["choices"].items():
        lines += ["", f"Choices for {setting}"]
        lines += [f"  {option}" for option in options]
    return lines


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def _size(num_bytes: int) -> str:
    unit, scale = ("MB", 1e6) if num_bytes >= 1e5 else ("kB", 1e3)
    return f"{num_bytes / scale:.1f} {unit}"


def _wrapped(text: str, first: str) -> list[str]:
    width = min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns)
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=" " * len(first))
