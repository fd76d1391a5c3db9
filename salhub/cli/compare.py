"""`salhub compare`: several models or settings on one input, side by side."""

import re
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from salhub.cli.choice import Choice, choose
from salhub.cli.completion import complete_model
from salhub.cli.device import DeviceOption
from salhub.cli.files import echo_json
from salhub.cli.settings import (
    is_pair,
    option_as_pair,
    parse_settings,
    refuse_unknown,
    typed_settings,
)
from salhub.cli.sources import Source, accompanied, folder_sources, single_source
from salhub.cli.targets import output_name, single_target
from salhub.files import draft

# Commas inside [brackets] belong to a list.
_COMMA = re.compile(r",(?![^\[]*\])")


class Variant(NamedTuple):
    """One column of a comparison.

    Attributes:
        title: Its heading.
        choice: The model.
        settings: What it is set to.
    """

    title: str
    choice: Choice
    settings: dict[str, Any]


def compare_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A file, a URL, sample:cat, or - for standard input; for generative models, a "
            "class or all.",
        ),
    ],
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME... [SETTING=VALUE]...",
            help="Models or methods to compare, and settings for all of them.",
            autocompletion=complete_model,
        ),
    ],
    output: Annotated[str | None, typer.Option("-o", "--output", help="Picture to write.")] = None,
    methods: Annotated[
        str | None, typer.Option(help="Values of the setting 'method', separated by commas.")
    ] = None,
    vary: Annotated[
        str | None,
        typer.Option(metavar="SETTING=A,B,...", help="Values of any setting, separated by commas."),
    ] = None,
    device: DeviceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the output if it exists.")
    ] = False,
) -> None:
    """Put several models, methods or settings side by side in one picture.

    --classifier is your own network to explain, and --class the class to explain, by name or index.

    \b
    salhub compare photo.jpg normgrad salient_relevance
    salhub compare photo.jpg normgrad --methods norm_grad,grad_cam,gradient
    salhub compare photo.jpg normgrad --vary layers=blocks.4,blocks.10,blocks.15
    """  # noqa: D301
    settings = parse_settings(word for word in words if is_pair(word))
    names = [name for word in words if not is_pair(word) for name in word.split(",") if name]
    choices = [choose(name, settings) for name in names]
    kinds = [choice.entry.config_class for choice in choices]
    settings = typed_settings(filter(is_pair, words), *kinds)
    _check_comparable(choices)
    variants = _variants(choices, settings, _varied(methods, vary, kinds))
    kind = choices[0].pipeline_class
    if folder_sources(source, kind) is not None:
        raise typer.BadParameter("compare needs a single input, not a folder.")
    one = accompanied(single_source(source, kind), kind, settings)
    default = output_name(one.stem, f"-compare{kind.comparison_suffixes[0]}")
    target = single_target(output, one, default, kind.comparison_suffixes, overwrite)
    results = _results(one, variants, device)
    with draft(target) as path:
        kind.compare(results).save(path)
    _report(one, target, results, as_json)


def _check_comparable(choices: list[Choice]) -> None:
    if not choices:
        raise typer.BadParameter("Give at least one model or method to compare.")
    tasks = {choice.entry.task for choice in choices}
    if len(tasks) > 1:
        raise ValueError(
            "Only models of the same task can be compared; these are for "
            f"{' and '.join(sorted(tasks))}."
        )
    if not hasattr(choices[0].pipeline_class.result_class, "compare"):
        raise ValueError(f"Results of the task {tasks.pop()} cannot be shown side by side.")


def _varied(
    methods: str | None, vary: str | None, kinds: list[Any]
) -> tuple[str, dict[str, Any]] | None:
    """Return the setting to vary, and its values by what the user wrote."""
    if methods is not None and vary is not None:
        raise typer.BadParameter("Give --methods or --vary, not both.")
    text = f"method={methods}" if methods is not None else vary
    if text is None:
        return None
    if not is_pair(text):
        raise typer.BadParameter(f"--vary is written SETTING=A,B,...; got '{text}'.")
    option, _, values = text.partition("=")
    texts = [text.strip() for text in _COMMA.split(values) if text.strip()]
    if not texts:
        raise typer.BadParameter(f"--vary {option}= has no values; write SETTING=A,B.")
    read = {text: typed_settings([option_as_pair(option, text)], *kinds) for text in texts}
    [name] = {name for one in read.values() for name in one}
    return name, {text: one[name] for text, one in read.items()}


def _variants(
    choices: list[Choice], settings: dict[str, Any], varied: tuple[str, dict[str, Any]] | None
) -> list[Variant]:
    accepted = set[str]().union(*(_accepted(choice) for choice in choices))
    names = {**settings, **({varied[0]: None} if varied else {})}
    refuse_unknown(names, accepted, " and ".join(choice.short_name for choice in choices))
    variants = []
    for choice in choices:
        # A setting is for the models that have it, as each method has its own.
        own = {name: value for name, value in settings.items() if name in _accepted(choice)}
        if varied is None or varied[0] not in _accepted(choice):
            variants.append(Variant(choice.short_name, choice, own))
            continue
        name, values = varied
        for text, value in values.items():
            title = text if len(choices) == 1 else f"{choice.short_name} {text}"
            variants.append(Variant(title, choice, {**own, name: value}))
    return variants


def _accepted(choice: Choice) -> set[str]:
    loading, calling = choice.setting_names()
    return loading | calling


def _results(source: Source, variants: list[Variant], device: str | None) -> dict[str, Any]:
    from tqdm.auto import tqdm

    kind = variants[0].choice.pipeline_class
    content = source.read(kind)
    results: dict[str, Any] = {}
    for variant in tqdm(variants, unit="map", disable=None):
        load, call = variant.choice.split(variant.settings)
        title, number = variant.title, 2
        while title in results:
            title, number = f"{variant.title} ({number})", number + 1
        pipeline = variant.choice.load(load, device=device)
        asked = {**dict.fromkeys(kind.companions), **source.companions}
        results[title] = pipeline(content, **{**kind.fixed_settings, **call, **asked})
    return results


def _report(source: Source, target: Path, results: dict[str, Any], as_json: bool) -> None:
    if as_json:
        maps = [{"title": title, **result.to_dict()} for title, result in results.items()]
        echo_json({"input": source.text, "output": str(target), "results": maps})
        return
    typer.echo(f"Wrote {target.resolve()}")
    for title, result in results.items():
        typer.echo(f"{title}: {result.summary()}")
