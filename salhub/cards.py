"""Model cards: facts from card.yaml, numbers from a results file, nothing typed by hand."""

import dataclasses
import fnmatch
import importlib.util
import inspect
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from salhub import manifest
from salhub.entries import entry_of
from salhub.errors import CardError, UnknownNameError, did_you_mean
from salhub.manifest import CARD_FILE, NAMESPACE, BundledModel
from salhub.results import Results, cards_folder, read_results
from salhub.results_markdown import (
    conditions,
    markdown_table,
    metrics_table,
    paragraph,
    plain_table,
)

_PACKAGE = Path(__file__).parent
# What every card says; a fact may stand in the file of the method or in that of the model.
REQUIRED_FACTS = (
    "intended_use",
    "not_for",
    "limits",
    "citation",
    "trained_on",
    "source",
    "license",
)
_PICTURE = ".png"
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
    model = _shipped(name)
    facts = read_facts(model.full_name)
    results = read_results(model.full_name)
    sections = (
        _head_section(model, facts),
        _picture_section(model, facts),
        _use_section(model, facts),
        _section("What it is for", facts["intended_use"]),
        _section("What it is not for", facts["not_for"]),
        _numbers_section(results),
        _origin_section(model, facts),
        _section("Limits and biases", facts["limits"]),
        _licence_section(facts),
        f"## Citation\n\n```bibtex\n{facts['citation'].strip()}\n```",
    )
    body = "\n\n".join(section for section in sections if section)
    return f"---\n{_front_matter(model, facts, results)}\n---\n\n{body}\n"


def card_files(name: str) -> dict[str, bytes]:
    """Return what a Hub repository needs beside weights and configuration.

    Args:
        name: A shipped model, with or without "salhub/".

    Returns:
        File name -> content: README.md, the picture on it and the licence.

    Raises:
        UnknownNameError, CardError: As `build_card`; also when the picture was never made.
    """
    model = _shipped(name)
    files = {"README.md": build_card(name).encode()}
    for other in (name, *_compared_with(read_facts(name))):
        picture = card_picture_name(other)
        if picture is None:
            continue
        path = cards_folder() / picture
        if not path.is_file():
            raise CardError(f"The picture {path} is missing; make it with: salhub card {other}")
        files[picture] = path.read_bytes()
    licence = model.folder_of("LICENSE") / "LICENSE"
    if licence.is_file():
        files["LICENSE"] = licence.read_bytes()
    return files


def card_picture_name(name: str) -> str | None:
    """Return the file name of the picture on a card, or None where the task draws none."""
    model = _shipped(name)
    pipeline_class = entry_of(model).pipeline_class
    if pipeline_class is None or _PICTURE not in pipeline_class.result_class.writers:
        return None
    return model.name + _PICTURE


def save_picture(name: str, path: str | os.PathLike) -> None:
    """Run a model on the sample of its task and save the result as the picture of its card.

    Args:
        name: A shipped model, with or without "salhub/".
        path: File to write.
    """
    from salhub.pipelines import pipeline

    model = _shipped(name)
    run = pipeline(model.full_name)
    kind = type(run)
    # Made again, the picture is the same.
    run(kind.sample, **kind.fixed_settings).save(path)


def is_installed() -> bool:
    """Return whether the cards belong to an installed package, which is not written to."""
    return cards_folder().parent == _PACKAGE


def read_facts(name: str) -> dict[str, Any]:
    """Read what is said of a model: the facts of its method, overruled by its own.

    Raises:
        CardError: A fact that every card needs is in neither file.
    """
    model = _shipped(name)
    files = [_method_folder(model) / CARD_FILE, manifest.WEIGHTS_ROOT / model.name / CARD_FILE]
    facts: dict[str, Any] = {}
    for path in files:
        if path.is_file():
            facts |= yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    missing = [fact for fact in REQUIRED_FACTS if not facts.get(fact)]
    if missing:
        places = " or ".join(str(path) for path in files)
        raise CardError(f"The card of {name} lacks {', '.join(missing)}; write it in {places}.")
    return facts


def _shipped(name: str) -> BundledModel:
    models = manifest.read_manifest()
    short = name.removeprefix(NAMESPACE)
    if short not in models:
        hint = did_you_mean(short, models)
        raise UnknownNameError(f"Only shipped models have a card, and '{name}' is none.{hint}")
    return models[short]


def _method_folder(model: BundledModel) -> Path:
    entry = entry_of(model)
    specification = importlib.util.find_spec(entry.home)
    return Path(specification.submodule_search_locations[0])


# --- sections -----------------------------------------------------------------------------------


def _head_section(model: BundledModel, facts: dict[str, Any]) -> str:
    entry = entry_of(model)
    summary = facts.get("summary") or (inspect.getdoc(entry.model_class) or "").partition("\n")[0]
    lines = [f"# {model.name}", paragraph(summary)]
    if "paper" in facts:
        authors = facts.get("authors", ())
        names = authors if isinstance(authors, str) else ", ".join(authors)
        parts = [
            f"*{paragraph(facts['paper'])}*",
            names,
            facts.get("published"),
            facts.get("year"),
        ]
        if "arxiv" in facts:
            parts.append(f"[arXiv:{facts['arxiv']}](https://arxiv.org/abs/{facts['arxiv']})")
        lines.append(f"Paper: {', '.join(str(part) for part in parts if part)}.")
    return "\n\n".join(lines)


def _picture_section(model: BundledModel, facts: dict[str, Any]) -> str:
    picture = card_picture_name(model.full_name)
    lines = []
    if picture is not None:
        alternative = facts.get("picture_text", f"What {model.name} makes of a sample")
        lines.append(f"![{paragraph(alternative)}]({picture})")
    for other, text in _compared_with(facts).items():
        text = paragraph(text)
        lines += [f"{text}:", f"![{text}]({card_picture_name(other)})"]
    if "how_to_read" in facts:
        lines.append(f"How to read it: {paragraph(facts['how_to_read'])}")
    return "\n\n".join(lines)


def _compared_with(facts: dict[str, Any]) -> dict[str, str]:
    """Other shipped models whose pictures stand on the card too -> what they show."""
    return facts.get("compared_with", {})


def _use_section(model: BundledModel, facts: dict[str, Any]) -> str:
    example = facts.get("example") or getattr(entry_of(model).pipeline_class, "example", None)
    if example is None:
        raise CardError(f"The card of {model.full_name} lacks an example; write it in {CARD_FILE}.")
    code = example.strip().replace("{model}", model.full_name)
    shell = "pip install salhub"
    if entry_of(model).pipeline_class is not None:
        shell += f"\nsalhub run {model.full_name} {entry_of(model).pipeline_class.sample}"
    needs = f"\n\n{paragraph(facts['needs'])}" if "needs" in facts else ""
    return f"## Use\n\n```python\n{code}\n```\n\n```\n{shell}\n```{needs}"


def _section(title: str, content: str | Iterable[str]) -> str:
    if isinstance(content, str):
        return f"## {title}\n\n{paragraph(content)}"
    return f"## {title}\n\n" + "\n".join(f"- {paragraph(item)}" for item in content)


def _numbers_section(results: Results) -> str:
    parts = ["## Numbers", *(markdown_table(table) for table in results.tables)]
    if not results.tables:
        parts.append(metrics_table(results))
    return "\n\n".join([*parts, conditions(results)])


def _origin_section(model: BundledModel, facts: dict[str, Any]) -> str:
    parts = [
        "## Where the weights come from",
        f"- trained on: {paragraph(facts['trained_on'])}\n- source: {paragraph(facts['source'])}",
        *(paragraph(facts[key]) for key in ("notes", "recipe") if key in facts),
    ]
    path = model.folder_of("config.json") / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    shown = sorted((_own_fields(entry_of(model)) - _NOT_SHOWN) & config.keys())
    rows = [[f"`{k}`", f"`{json.dumps(config[k])}`"] for k in shown if config[k] is not None]
    if rows:
        parts += ["Settings stored with this model:", plain_table(["setting", "value"], rows)]
    if "how_it_works" in facts:
        parts += ["## How it works", facts["how_it_works"].strip()]
    return "\n\n".join(parts)


def _licence_section(facts: dict[str, Any]) -> str:
    lines = [f"- weights: {facts['license']}", "- code: apache-2.0"]
    for key, title in (("data_license", "data"), ("reference_code", "reference code")):
        if key in facts:
            lines.append(f"- {title}: {paragraph(facts[key])}")
    return "## Licence\n\n" + "\n".join(lines)


def _front_matter(model: BundledModel, facts: dict[str, Any], results: Results) -> str:
    from huggingface_hub import ModelCardData

    base_model = facts.get("base_model")
    if base_model is None and "weights_from" in facts:
        base_model = NAMESPACE + facts["weights_from"]
    data = ModelCardData(
        base_model=base_model,
        datasets=facts.get("datasets"),
        eval_results=_eval_results(model, facts, results),
        language=facts.get("language"),
        library_name="salhub",
        license=facts["license"],
        metrics=facts.get("metrics"),
        model_name=model.name,
        pipeline_tag=_pipeline_tag(model, facts),
        tags=_tags(model, facts),
    )
    return data.to_yaml()


def _tags(model: BundledModel, facts: dict[str, Any]) -> list[str]:
    tags = ["saliency", entry_of(model).name.replace("_", "-"), *facts.get("tags", ())]
    if "arxiv" in facts:
        tags.append(f"arxiv:{facts['arxiv']}")
    return list(dict.fromkeys(tags))


def _pipeline_tag(model: BundledModel, facts: dict[str, Any]) -> str:
    # The Hub knows no saliency task; a pipeline says which of the Hub's is nearest.
    return facts.get("pipeline_tag") or getattr(
        entry_of(model).pipeline_class, "hub_task", model.task
    )


def _eval_results(model: BundledModel, facts: dict[str, Any], results: Results) -> list[Any] | None:
    """Return the headline metrics, `{metric: pattern, type: ...}` of card.yaml, for the Hub."""
    from huggingface_hub import EvalResult

    found = [
        EvalResult(
            task_type=_pipeline_tag(model, facts),
            dataset_type=str(results.data.get("name", "custom")),
            dataset_name=str(results.data.get("name", "custom")),
            metric_type=headline["type"],
            metric_name=metric.name,
            metric_value=metric.value,
        )
        for headline in facts.get("headline", ())
        for metric in results.metrics
        if fnmatch.fnmatchcase(metric.name, headline["metric"]) and math.isfinite(metric.value)
    ]
    # The Hub client refuses an empty list.
    return found or None


def _own_fields(entry: Any) -> set[str]:
    from salhub.configuration import SaliencyConfig

    fields = {field.name for field in dataclasses.fields(entry.config_class)}
    return fields - {field.name for field in dataclasses.fields(SaliencyConfig)}
