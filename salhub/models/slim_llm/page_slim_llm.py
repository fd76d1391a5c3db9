"""The page of SliM-LLM: what a model in few bits writes, where its bits are, and what it cost."""

from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image

import salhub.pipelines  # noqa: F401 - registers all pipelines before one is imported
from salhub.errors import CardError
from salhub.evaluation.language_model import model_bytes
from salhub.hub import bundled_model, resolve
from salhub.models.slim_llm.layer_report import REPORT_FILE, CompressionReport, LayerReport
from salhub.models.slim_llm.plots import bit_map_picture, bits_words, color_of
from salhub.pipelines import pipeline
from salhub.results import Results, read_results
from salhub.ui.controls import Dropdown
from salhub.ui.page import Contents, State, Tab
from salhub.ui.panes import Fact, data_address, facts, notes, python, sentence
from salhub.ui.text_generation import TextGenerationPage, generation_settings
from salhub.viz.curves import CurvePanel, draw_curves

_RUN_RESULTS = "results.json"
# Of results: that of the model, of an evaluation or of a run; and that of the full weights.
_PERPLEXITY = ("perplexity", "perplexity/after")
_FULL_PERPLEXITY = "perplexity/before"
_PARTS = {
    "linears": "packed weights",
    "scales": "scales, zeros and means",
    "embeddings": "embedding and head",
    "others": "norms and the header",
}


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
            first.append("The model that it was made of is not here, so it writes alone.")
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


class Bits(Tab):
    """The groups of one layer, and the search that decided them."""

    title = "Bits"

    def controls(self) -> dict[str, Component]:
        """Build the picker of the layer."""
        layers = self.page.report.layers
        most = max(layers, key=lambda name: layers[name].num_swapped)
        return {"layer": Dropdown(list(layers), value=most, label="Layer")}

    def panes(self) -> dict[str, Component]:
        """Build the groups, the curve and the map of all layers."""
        return {
            "groups": gr.HTML(),
            "curve": gr.HTML(),
            "map": gr.HTML(),
        }

    def contents(self, query: State) -> Contents:
        """Show a layer."""
        report, layer = self.page.report, self.page.layer(query)
        curve = ""
        if layer.curve:
            panel = CurvePanel("D(p), mean KL divergence of the outputs", {"D(p)": layer.curve})
            drawn = draw_curves([panel], "p, groups a bit lower and groups a bit higher")
            words = f"D(p) of {query['layer']}: the least is at p = {layer.num_swapped}"
            curve = _figure(words, drawn)
        return {
            "groups": {"value": _group_bars(query["layer"], layer, report)},
            "curve": {"value": curve},
            "map": {"value": _figure("The bits of all groups", bit_map_picture(report))},
        }

    def code(self, query: State) -> str:
        """Return the program that prints the bits of the layer."""
        self.page.layer(query)
        return (
            "import salhub\n\n"
            f"model = salhub.AutoModelForSaliency.from_pretrained({python(self.page.name)})\n"
            "bits = model.config.quantization_config.group_bits\n"
            f"print(bits[{python(query['layer'])}])\n"
        )


def _figure(words: str, picture: Image.Image) -> str:
    # A pane would lay its label and its buttons over what is written in the picture.
    return (
        f'<figure style="margin: 0"><figcaption>{escape(words)}</figcaption>'
        f'<img src="{data_address(picture)}" alt="{escape(words, quote=True)}" '
        f'style="width: 100%; max-width: {picture.width}px; border-radius: 6px"></figure>'
    )


def _group_bars(name: str, layer: LayerReport, report: CompressionReport) -> str:
    """A bar for each group: as high as it is salient, in the colour of its bits."""
    highest = max(layer.salience, default=0) or 1
    bars = "".join(
        '<div style="flex: 1 1 0; min-width: 10px; display: flex; flex-direction: column; '
        'justify-content: flex-end; height: 150px; text-align: center">'
        f'<div title="group {place}: {bits_words(bits)}, salience {salience:.3g}" '
        f'style="height: {max(2, round(118 * salience / highest))}px; border: 1px solid '
        f'rgb(128 128 128 / .5); background: {color_of(bits, report.bits)}"></div>'
        f'<span style="font-size: .85rem; line-height: 1.5">{bits}</span></div>'
        for place, (bits, salience) in enumerate(zip(layer.group_bits, layer.salience, strict=True))
    )
    words = ", ".join(map(str, layer.group_bits))
    found = (
        f"Each bar is a group of {report.group_size} columns of {name}, as high as it is salient; "
        "below it stand its bits."
    )
    swapped = (
        f"{layer.num_swapped} of {len(layer.group_bits)} groups have a bit less, and as many a bit "
        f"more. The outputs of the layer differ by {layer.error:.1%} of their size on the "
        "calibration text."
    )
    return (
        f'{sentence(found)}<div role="img" aria-label="Bits of the groups: {words}" '
        'style="display: flex; gap: 3px; overflow-x: auto; margin: 10px 0">'
        f"{bars}</div>{sentence(swapped)}"
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
        note = "Nothing was measured of it yet; salhub evaluate does."
        if results is not None:
            metrics = {one.name: one for one in results.metrics}
            found = next((metrics[name] for name in _PERPLEXITY if name in metrics), None)
            if found is not None:
                full = metrics.get(_FULL_PERPLEXITY)
                words = "" if full is None else f"{full.value:.4g} with full weights"
                shown.append(Fact(f"{found.value:.4g}", "perplexity", words))
            with_scales = metrics.get("bits_with_scales")
            if with_scales is not None:
                shown.append(
                    Fact(f"{with_scales.value:.3f}", "bits a packed weight", "scales and all")
                )
            note = page.measured_words
        rows = [(words, sizes[kind]) for kind, words in _PARTS.items()]
        table = "".join(
            f'<tr><th scope="row" style="text-align: left">{words}</th>'
            f'<td style="text-align: right">{size:,} bytes</td>'
            f'<td style="text-align: right">{size / sizes["total"]:.1%}</td></tr>'
            for words, size in rows
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


class Page(TextGenerationPage):
    """A text that goes on, the bits of the layers, and the numbers."""

    title = "SliM-LLM"
    sentence = "A language model in two or three bits a weight, beside the full one."
    tabs = (Writing, Bits, Numbers)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.folder = _folder_of(self.name)
        self.report = CompressionReport.load(self.folder)
        self.sizes = model_bytes(self.folder)
        self.full = _full_model(self.report.base_model)

    @classmethod
    def serves(cls, name: str) -> bool:
        """Only models with what the recipe left beside them."""
        folder = _folder_of(name)
        return folder is not None and (folder / REPORT_FILE).is_file()

    @property
    def display_title(self) -> str:
        """That of the method."""
        return self.title

    @property
    def bits_title(self) -> str:
        """What stands above its text."""
        return f"{bits_words(self.report.bits)} on average"

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
            return f"{bits_words(self.report.bits)} a packed weight on average"
        plain = 2 * sum(one.numel() for one in self.full.model.parameters())
        return f"{plain / 1e6:.2f} MB with 16 bits a weight"

    def layer(self, query: State) -> LayerReport:
        """The layer that a visitor chose."""
        name = query["layer"]
        if not isinstance(name, str) or name not in self.report.layers:
            raise ValueError(f"There is no layer '{name}'; choose one of the list.")
        return self.report.layers[name]


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
