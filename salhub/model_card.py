"""Model cards as text: the one writer for models that are shipped, made by a run, or only saved."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

from salhub.errors import CardError, did_you_mean
from salhub.manifest import NAMESPACE
from salhub.results import Results
from salhub.results_markdown import (
    conditions,
    markdown_table,
    metrics_table,
    paragraph,
    plain_table,
)

Rows = Sequence[Sequence[str]]


@strict
@dataclass(kw_only=True)
class Facts:
    """What only a person can say of a model: card.yaml, or `Recipe.card_facts`.

    Args:
        summary: One or two sentences.
        in_short: One sentence that anybody understands: what it does for a person.
        key_number: The number that matters, by its name in the results file: `what` was measured,
            `metric`, and where it is compared `beside` what, with `beside_metric` and, where it is
            another shipped model's, `beside_model`; `unit` where the file has none.
        example: Python that uses the model; "{model}" stands for its name.
        pipeline_tag: Task of the Hub, such as "image-classification".
        base_model: Repository that it was made from; None where that is a folder, or nothing.
        tags: Further tags.
        cautions: What has to be known before the numbers are believed.
        pictures: File beside the card -> what it shows.
        compared_with: Shipped models whose pictures stand on the card too -> what they show.
        headline: Metrics for the Hub, `{metric: pattern, type: ...}`.
        main_table: Title of the table of results that is shown; the first by default.
        method: Method of a shipped model.
        task: What a shipped model does.
        weights_from: Shipped model whose weight file it shares.
        sample: What a shipped model is shown on; the sample of its task by default.
        quick_evaluation: Settings of `salhub evaluate` that make it take a minute or two.

    The others are sections or lines of the card, called alike.
    """

    summary: str = ""
    in_short: str | None = None
    key_number: dict[str, str] | None = None
    example: str | None = None
    pipeline_tag: str | None = None
    base_model: str | None = None
    tags: list[str] | tuple[str, ...] = ()
    cautions: list[str] | tuple[str, ...] = ()
    pictures: dict[str, str] = field(default_factory=dict)
    compared_with: dict[str, str] = field(default_factory=dict)
    picture_text: str | None = None
    how_to_read: str | None = None
    needs: str | None = None
    intended_use: str | list[str] | None = None
    not_for: str | list[str] | None = None
    limits: str | list[str] | None = None
    headline: list[dict[str, str]] | tuple = ()
    main_table: str | None = None
    paper: str | None = None
    authors: str | list[str] | None = None
    published: str | None = None
    year: int | None = None
    arxiv: str | None = None
    how_it_works: str | None = None
    citation: str | None = None
    method: str | None = None
    task: str | None = None
    trained_on: str | None = None
    source: str | None = None
    notes: str | None = None
    recipe: str | None = None
    weights_from: str | None = None
    sample: str | None = None
    quick_evaluation: str | None = None
    license: str | None = None
    data_license: str | None = None
    reference_code: str | None = None
    patents: str | None = None
    datasets: list[str] | None = None
    language: str | list[str] | None = None
    metrics: list[str] | None = None

    @classmethod
    def read(cls, *paths: Path) -> "Facts":
        """Read card.yaml files, the later of which overrule the earlier; they need not exist.

        Raises:
            CardError: A file that is no mapping, a key that no card shows, or a value of the wrong
                type.
        """
        known = {one.name for one in fields(cls)}
        content: dict[str, Any] = {}
        for path in filter(Path.is_file, paths):
            try:
                found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            except yaml.YAMLError as error:
                text = " ".join(str(error).split())
                raise CardError(f"{path} is not valid YAML: {text}.") from None
            if not isinstance(found, dict):
                raise CardError(f"{path} must map facts to their texts, one per line.")
            for key in found.keys() - known:
                hint = did_you_mean(key, known) or f" Those are {', '.join(sorted(known))}."
                raise CardError(f"{path} has '{key}', which is not a fact of a card.{hint}")
            for key, value in found.items():
                if isinstance(value, float):
                    raise CardError(
                        f"{path} has the number {value} as '{key}', which may have lost a "
                        "trailing 0; put it in quotes."
                    )
            content |= found
        try:
            return cls(**content)
        except StrictDataclassError as error:
            where = " or ".join(map(str, paths))
            raise CardError(f"A fact in {where} is wrong: {error.__cause__ or error}") from None


def card_text(
    title: str,
    facts: Facts,
    *,
    library: str,
    tags: Iterable[str],
    code: str = "",
    shell: str = "",
    pictures: Iterable[str] = (),
    results: Results | None = None,
    verdict: str = "",
    all_metrics: bool = False,
    settings: Rows = (),
    options: Rows = (),
    model_name: str | None = None,
    eval_results: list[Any] | None = None,
) -> str:
    """Write a card as Markdown with front matter; what there is nothing to say of is left out.

    Args:
        title: Heading.
        facts: What only a person can say.
        library: "salhub" or "transformers".
        tags: For the Hub.
        code: Python that uses the model.
        shell: The same on the command line.
        pictures: Pictures and what is said of them, as Markdown.
        results: What was measured: the first table is shown, the others are folded.
        verdict: The number that matters, in one line.
        all_metrics: Whether all numbers follow after tables.
        settings: Settings stored with the model, names and values.
        options: Options it was made with, names and values.
        model_name: For the Hub's index of results.
        eval_results: For that index.
    """
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=facts.base_model or (facts.weights_from and NAMESPACE + facts.weights_from),
        datasets=facts.datasets,
        eval_results=eval_results,
        language=facts.language,
        library_name=library,
        license=facts.license,
        metrics=facts.metrics,
        model_name=model_name,
        pipeline_tag=facts.pipeline_tag,
        tags=list(dict.fromkeys(tags)),
    )
    sections = (
        f"# {title}",
        paragraph(facts.summary),
        _paper(facts),
        *pictures,
        facts.how_to_read and f"How to read it: {paragraph(facts.how_to_read)}",
        code and f"## Use\n\n```python\n{code.strip()}\n```",
        shell and f"```\n{shell}\n```",
        facts.needs and paragraph(facts.needs),
        _section("What it is for", facts.intended_use),
        _section("What it is not for", facts.not_for),
        _section("Before you rely on it", facts.cautions),
        *(() if results is None else _numbers(results, facts.main_table, verdict, all_metrics)),
        *_origin(facts, settings),
        facts.how_it_works and f"## How it works\n\n{facts.how_it_works.strip()}",
        _section("Limits and biases", facts.limits),
        _licence(facts),
        facts.citation and f"## Citation\n\n```bibtex\n{facts.citation.strip()}\n```",
        options and f"## Options\n\n{plain_table(['option', 'value'], options)}",
    )
    body = "\n\n".join(str(section) for section in sections if section)
    return f"---\n{data.to_yaml()}\n---\n\n{body}\n"


def _paper(facts: Facts) -> str:
    if facts.paper is None:
        return ""
    authors = facts.authors or ""
    names = authors if isinstance(authors, str) else ", ".join(authors)
    parts = [f"*{paragraph(facts.paper)}*", names, facts.published, facts.year]
    if facts.arxiv is not None:
        parts.append(f"[arXiv:{facts.arxiv}](https://arxiv.org/abs/{facts.arxiv})")
    return f"Paper: {', '.join(str(part) for part in parts if part)}."


def _section(title: str, content: str | Iterable[str] | None) -> str:
    if not content:
        return ""
    if isinstance(content, str):
        return f"## {title}\n\n{paragraph(content)}"
    return f"## {title}\n\n" + "\n".join(f"- {paragraph(item)}" for item in content)


def _numbers(
    results: Results, main_table: str | None, verdict: str, all_metrics: bool
) -> Iterator[str]:
    yield "## Numbers"
    yield verdict
    tables = sorted(results.tables, key=lambda table: table.title != main_table)
    main, *others = [*map(markdown_table, tables)] or [metrics_table(results)]
    yield main
    if all_metrics and results.tables:
        others.append(metrics_table(results))
    if others:
        yield _folded("More numbers", *others)
    yield _folded("How these were measured", conditions(results))


def _folded(title: str, *sections: str) -> str:
    """Sections that are shown when somebody presses their title."""
    parts = [f"<details>\n<summary>{title}</summary>", *sections, "</details>"]
    return "\n\n".join(parts)


def _origin(facts: Facts, settings: Rows) -> Iterator[str]:
    if facts.trained_on is None or facts.source is None:
        return
    yield "## Where the weights come from"
    yield f"- trained on: {paragraph(facts.trained_on)}\n- source: {paragraph(facts.source)}"
    yield from map(paragraph, filter(None, (facts.notes, facts.recipe)))
    if settings:
        yield "Settings stored with this model:"
        yield plain_table(["setting", "value"], settings)


def _licence(facts: Facts) -> str:
    if facts.license is None:
        return ""
    lines = [f"- weights: {facts.license}", "- code: apache-2.0"]
    others = {"data": facts.data_license, "reference code": facts.reference_code}
    others["patents"] = facts.patents
    lines += [f"- {title}: {paragraph(text)}" for title, text in others.items() if text]
    return "## Licence\n\n" + "\n".join(lines)
