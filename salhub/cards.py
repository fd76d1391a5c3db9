"""Model cards: facts from card.yaml, numbers from a results file, nothing typed by hand."""

import dataclasses
import fnmatch
import inspect
import io
import json
import math
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import PreTrainedConfig

from salhub.entries import Model, entry_of
from salhub.errors import CardError
from salhub.files import to_bytes, write_bytes
from salhub.manifest import CARD_FILE, BundledModel
from salhub.model_card import Facts, card_text
from salhub.model_facts import fact_files, key_number, read_facts, shipped_model
from salhub.results import Results, cards_folder, read_results
from salhub.results_markdown import paragraph

_PACKAGE = Path(__file__).parent
_PICTURE = ".png"
_NUM_COLOURS = 256
# A whole configuration by itself; the card of the backbone has it.
_NOT_SHOWN = frozenset({"backbone_config"})


def build_card(name: str) -> str:
    """Build the card of a shipped model as Markdown with front matter.

    Args:
        name: A shipped model, with or without "salhub/".

    Returns:
        The text; the same facts and results give the same bytes.

    Raises:
        UnknownNameError: No such model is shipped.
        CardError: There is no results file, or a fact is missing.

    Example:
        >>> build_card("normgrad-efficientnet-lite0").splitlines()[0]
        '---'
    """
    model = shipped_model(name)
    entry, facts = entry_of(model), read_facts(model.full_name)
    results = read_results(model.full_name)
    pipeline_class = entry.pipeline_class
    example = facts.example or getattr(pipeline_class, "example", None)
    if example is None:
        raise CardError(f"The card of {model.full_name} has no example; add one to {CARD_FILE}.")
    extra = getattr(pipeline_class, "extra", "")
    lines = []
    if extra:
        lines.append(f"pip install 'salhub[{extra}]'")
        example = f"# {lines[0]}\n{example.lstrip()}"
    sample = facts.sample or getattr(pipeline_class, "sample", "")
    if pipeline_class is not None:
        lines.append(f"salhub run {model.full_name} {shlex.quote(sample)}")
    # The Hub knows no saliency task; a pipeline says which of the Hub's is nearest.
    tag = facts.pipeline_tag or getattr(pipeline_class, "hub_task", model.task)
    summary = facts.summary or (inspect.getdoc(entry.model_class) or "").partition("\n")[0]
    tags = ["saliency", entry.name.replace("_", "-"), *facts.tags]
    return card_text(
        model.name,
        dataclasses.replace(facts, summary=summary, pipeline_tag=tag),
        library="salhub",
        tags=tags + ([f"arxiv:{facts.arxiv}"] if facts.arxiv else []),
        code=example.replace("{model}", model.full_name).replace("{sample}", sample),
        shell="\n".join(lines),
        pictures=_pictures(model, facts),
        results=results,
        verdict=_verdict(model.name),
        settings=_settings(model, entry),
        model_name=model.name,
        eval_results=_eval_results(tag, facts, results),
    )


def card_files(name: str) -> dict[str, bytes]:
    """Return what a Hub repository needs beside weights and configuration.

    Args:
        name: A shipped model, with or without "salhub/".

    Returns:
        File name -> content: README.md, the picture on it and the licence.

    Raises:
        UnknownNameError, CardError: As `build_card`; also when the picture was never made.
    """
    model = shipped_model(name)
    files = {"README.md": to_bytes(build_card(name))}
    for other in (name, *read_facts(name).compared_with):
        picture = card_picture_name(other)
        if picture is None:
            continue
        path = cards_folder() / picture
        if not path.is_file():
            raise CardError(f"The picture {path} is missing; make it with: salhub card {other}")
        files[picture] = path.read_bytes()
    for picture in read_facts(name).pictures:
        path = cards_folder() / picture
        if not path.is_file():
            raise CardError(f"The picture {path} is missing; run the recipe to make it.")
        files[picture] = path.read_bytes()
    licence = model.folder_of("LICENSE") / "LICENSE"
    if licence.is_file():
        files["LICENSE"] = licence.read_bytes()
    return files


def card_picture_name(name: str) -> str | None:
    """Return the file name of the picture on a card, or None where the task draws none."""
    model = shipped_model(name)
    pipeline_class = entry_of(model).pipeline_class
    if pipeline_class is None or _PICTURE not in pipeline_class.result_class.writers:
        return None
    return model.name + _PICTURE


def save_picture(name: str, path: str | os.PathLike) -> None:
    """Run a model on its sample and save the result as the picture of its card.

    Args:
        name: A shipped model, with or without "salhub/".
        path: File to write.
    """
    from salhub.pipelines import pipeline

    model = shipped_model(name)
    run = pipeline(model.full_name)
    kind = type(run)
    # Made again, the picture is the same.
    sample = Facts.read(*fact_files(model)).sample or kind.sample
    run(sample, **kind.fixed_settings).save(path, view="plot")
    _save_in_few_colours(Path(path))


def _save_in_few_colours(path: Path) -> None:
    """Write a picture anew in 256 colours if that saves bytes, which all installations carry."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    palette = picture.quantize(_NUM_COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=2)
    few_colours = picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    content = io.BytesIO()
    few_colours.save(content, format="PNG", optimize=True)
    if content.tell() < path.stat().st_size:
        write_bytes(path, content.getvalue())


def _verdict(name: str) -> str:
    number = key_number(name)
    if number is None:
        return ""
    said = f"{number.what[0].upper()}{number.what[1:]}: **{number.value}**"
    if number.beside is None:
        return f"{said}."
    return f"{said}. Compared with {number.beside}: {number.beside_value}."


def _pictures(model: BundledModel, facts: Facts) -> Iterator[str]:
    picture = card_picture_name(model.full_name)
    if picture is not None:
        alternative = facts.picture_text or f"Result of {model.name} on a sample input"
        yield f"![{paragraph(alternative)}]({picture})"
    for file, text in facts.pictures.items():
        yield f"![{paragraph(text)}]({file})\n\n{paragraph(text)}"
    for other, text in facts.compared_with.items():
        yield f"{paragraph(text)}:"
        yield f"![{paragraph(text)}]({card_picture_name(other)})"


def _settings(model: BundledModel, entry: Model) -> list[list[str]]:
    path = model.folder_of("config.json") / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    own = {field.name for field in dataclasses.fields(entry.config_class)}
    own -= {field.name for field in dataclasses.fields(PreTrainedConfig)} | _NOT_SHOWN
    shown = sorted(own & config.keys())
    return [[f"`{k}`", f"`{json.dumps(config[k])}`"] for k in shown if config[k] is not None]


def _eval_results(task: str, facts: Facts, results: Results) -> list[Any] | None:
    """Return the headline metrics for the Hub."""
    from huggingface_hub import EvalResult

    found = [
        EvalResult(
            task_type=task,
            dataset_type=str(results.data.get("name", "custom")),
            dataset_name=str(results.data.get("name", "custom")),
            metric_type=headline["type"],
            metric_name=metric.name,
            metric_value=metric.value,
        )
        for headline in facts.headline
        for metric in results.metrics
        if fnmatch.fnmatchcase(metric.name, headline["metric"]) and math.isfinite(metric.value)
    ]
    # The Hub client refuses an empty list.
    return found or None
