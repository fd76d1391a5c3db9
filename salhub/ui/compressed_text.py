"""The page of a language model in few bits: what it writes beside the full one, and its size."""

from abc import abstractmethod
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, ClassVar

import gradio as gr
from gradio.components import Component
from PIL import Image

import salhub.pipelines  # noqa: F401 - registers all pipelines before one is imported
from salhub.errors import CardError
from salhub.evaluation.language_model import model_bytes
from salhub.hub import bundled_model, resolve
from salhub.pipelines import pipeline
from salhub.results import Results, read_results
from salhub.ui.page import Contents, State, Tab
from salhub.ui.panes import Fact, data_address, facts, notes, python, sentence
from salhub.ui.text_generation import TextGenerationPage, generation_settings

_RUN_RESULTS = "results.json"
# Of results: that of the model, of an evaluation or of a run; and that of the full weights.
_PERPLEXITY = ("perplexity", "perplexity/after")
_FULL_PERPLEXITY = "perplexity/before"
# Of results, the bits of a packed weight with all that belongs to it, and what that is.
_ALL_BITS = {"bits_with_adapters": "scales, adapters and all", "bits_with_scales": "scales and all"}


class Writing(Tab):
    """What the model and the one that it was made of add to a text."""

    title = "Text"

    def panes(self) -> dict[str, Component]:
        """Build both continuations, and what is to be known of them."""
        return {"written": gr.HTML(), "notes": gr.HTML(visible=False)}

    def contents(self, query: State) -> Contents:
        """Continue the text with both."""
        page, settings = self.page, generation_settings(query)
        results = [(page.bits_title, page.pipeline(query["text"], **settings))]
        if page.full is not None:
            results.append(("16 bits, the full model", page.full(query["text"], **settings)))
        columns = "".join(_column(title, result) for title, result in results)
        shown = f'<div style="{_SIDE_BY_SIDE}">{columns}</div>'
        first = [*results[0][1].notes]
        if page.full is None:
            first.append(
                "The original model is not available here, so only the compressed model writes."
            )
        return {"written": {"value": shown}, "notes": notes(first)}


_SIDE_BY_SIDE = (
    "display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 16px 24px"
)


def _column(title: str, result: Any) -> str:
    text = f"<strong>{escape(result.prompt)}</strong>{escape(result.completion)}"
    return (
        f'<div><h3 style="margin: 0 0 6px">{escape(title)}</h3>'
        '<p class="salhub-sentence" dir="auto" '
        f'style="white-space: pre-wrap; overflow-wrap: anywhere">{text}</p></div>'
    )


class Numbers(Tab):
    """What the file weighs and how well the model predicts."""

    title = "Size and perplexity"

    def panes(self) -> dict[str, Component]:
        """Build the numbers and the tables."""
        return {"numbers": gr.HTML(), "tables": gr.HTML()}

    def contents(self, query: State) -> Contents:
        """Show what was measured."""
        page = self.page
        sizes, results = page.sizes, page.results
        shown = [Fact(f"{sizes['total'] / 1e6:.2f} MB", "weights on disk", page.size_words)]
        note = "Its perplexity has not been measured yet; run salhub evaluate."
        if results is not None:
            metrics = {one.name: one for one in results.metrics}
            found = next((metrics[name] for name in _PERPLEXITY if name in metrics), None)
            if found is not None:
                full = metrics.get(_FULL_PERPLEXITY)
                words = "" if full is None else f"{full.value:.4g} with full weights"
                shown.append(Fact(f"{found.value:.4g}", "perplexity", words))
                note = page.measured_words
            name = next((name for name in _ALL_BITS if name in metrics), None)
            if name is not None:
                bits = f"{metrics[name].value:.3f}"
                shown.append(Fact(bits, "bits per packed weight", _ALL_BITS[name]))
        parts = {
            "linears": page.linears_words,
            "scales": "scales, zeros and means",
            "embeddings": "embedding and head",
            "others": "norms and the header",
        }
        table = "".join(
            f'<tr><th scope="row" style="text-align: left">{words}</th>'
            f'<td style="text-align: right">{sizes[kind]:,} bytes</td>'
            f'<td style="text-align: right">{100 * sizes[kind] / sizes["total"]:.1f} %</td></tr>'
            for kind, words in parts.items()
        )
        return {
            "numbers": {"value": facts(shown)},
            "tables": {"value": f"{sentence(note)}<table>{table}</table>"},
        }

    def code(self, query: State) -> str:
        """Return the program that prints the size of the file by its parts."""
        if bundled_model(self.page.name) is None:
            return (
                "from salhub.evaluation.language_model import model_bytes\n\n"
                f"print(model_bytes({python(self.page.name)}))\n"
            )
        return (
            "from salhub.results import read_results\n\n"
            f"for metric in read_results({python(self.page.name)}).metrics:\n"
            "    print(metric.name, metric.value, metric.unit)\n"
        )


class CompressedTextPage(TextGenerationPage):
    """A text that goes on, beside that of the full model, and the numbers.

    A method adds its title, what its recipe left beside the model, and tabs that show it.

    Attributes:
        report_file: What the recipe left; only models with it are shown here.
        report_class: Reads it with `load(folder)`, and knows the `base_model`.
        linears_words: What the matrices of the file are.
    """

    tabs = (Writing, Numbers)
    report_file: ClassVar[str]
    report_class: ClassVar[Any]
    linears_words: ClassVar[str] = "packed weights"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.folder = _folder_of(self.name)
        self.report = self.report_class.load(self.folder)
        self.sizes = model_bytes(self.folder)
        self.full = _full_model(self.report.base_model)

    @classmethod
    def serves(cls, name: str) -> bool:
        """Only models with what the recipe left beside them."""
        folder = _folder_of(name)
        return folder is not None and (folder / cls.report_file).is_file()

    @property
    def display_title(self) -> str:
        """That of the method."""
        return self.title

    @property
    @abstractmethod
    def bits_title(self) -> str:
        """What stands above its text."""

    @cached_property
    def results(self) -> Results | None:
        """What was measured, by an evaluation or by the run; None where nothing was."""
        try:
            if bundled_model(self.name) is not None:
                return read_results(self.name)
            return Results.load(self.folder / _RUN_RESULTS)
        except (CardError, FileNotFoundError):
            return None

    @property
    def measured_words(self) -> str:
        """On what, in a sentence."""
        data = self.results.data
        words = data.get("measured") or (
            f"{data.get('num_predicted')} tokens of {data.get('name')}, in windows of "
            f"{data.get('context')}."
        )
        return f"Perplexity was measured on {words}"

    @property
    def size_words(self) -> str:
        """The size beside that of all weights in 16 bits."""
        if self.full is None:
            return self.bits_title
        plain = 2 * sum(one.numel() for one in self.full.model.parameters())
        return f"{plain / 1e6:.2f} MB at 16 bits per weight"


def figure(words: str, picture: Image.Image) -> str:
    """Return a picture as wide as its place, with words above it."""
    # A pane would lay its label and its buttons over what is written in the picture.
    return (
        f'<figure style="margin: 0"><figcaption>{escape(words)}</figcaption>'
        f'<img src="{data_address(picture)}" alt="{escape(words, quote=True)}" '
        f'style="width: 100%; max-width: {picture.width}px; border-radius: 6px"></figure>'
    )


def _folder_of(name: str) -> Path | None:
    return resolve(name).snapshot()


def _full_model(name: str | None) -> Any:
    """The model that it was made of, where it is here already; None otherwise."""
    if name is None:
        return None
    local = {} if bundled_model(name) is not None else {"local_files_only": True}
    try:
        return pipeline(name, **local)
    except (OSError, ValueError):
        return None
