"""The page of SliM-LLM: what a model in few bits writes, where its bits are, and what it cost."""

import gradio as gr
from gradio.components import Component

from salhub.models.slim_llm.layer_report import REPORT_FILE, CompressionReport, LayerReport
from salhub.models.slim_llm.plots import bit_map_picture, bits_words, color_of
from salhub.ui.compressed_text import CompressedTextPage, Numbers, Writing, figure
from salhub.ui.controls import Dropdown
from salhub.ui.page import Contents, State, Tab
from salhub.ui.panes import python, sentence
from salhub.viz.curves import CurvePanel, draw_curves


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
            panel = CurvePanel("D(p), expected loss of the outputs", {"D(p)": layer.curve})
            drawn = draw_curves(
                [panel], "p, number of groups with one bit less, and with one bit more"
            )
            words = f"D(p) of {query['layer']}: the minimum is at p = {layer.num_swapped}"
            curve = figure(words, drawn)
        return {
            "groups": {"value": _group_bars(query["layer"], layer, report)},
            "curve": {"value": curve},
            "map": {"value": figure("Bits of all groups", bit_map_picture(report))},
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
        f"Each bar is a group of {report.group_size} columns of {name}. Its height is the "
        "salience, the number below it the bits."
    )
    counts = (
        f"{layer.num_swapped} of {len(layer.group_bits)} groups have one bit less, and the same "
        "number one bit more."
    )
    if len(set(layer.group_bits)) == 1:
        counts = f"All groups have {bits_words(layer.group_bits[0])}."
    swapped = (
        f"{counts} On the calibration text, the outputs of the layer change by "
        f"{100 * layer.error:.1f} % of their size."
    )
    return (
        f'{sentence(found)}<div role="img" aria-label="Bits of the groups: {words}" '
        'style="display: flex; gap: 3px; overflow-x: auto; margin: 10px 0">'
        f"{bars}</div>{sentence(swapped)}"
    )


class Page(CompressedTextPage):
    """A text that goes on, the bits of the layers, and the numbers."""

    title = "SliM-LLM"
    sentence = (
        "Compare a language model, which writes text, with a copy that is several times "
        "smaller: two or three bits per number."
    )
    tabs = (Writing, Bits, Numbers)
    report_file = REPORT_FILE
    report_class = CompressionReport

    @property
    def bits_title(self) -> str:
        """What stands above its text."""
        return f"{bits_words(self.report.bits)} on average"

    def layer(self, query: State) -> LayerReport:
        """The layer that a visitor chose."""
        name = query["layer"]
        if not isinstance(name, str) or name not in self.report.layers:
            raise ValueError(f"There is no layer '{name}'; choose one from the list.")
        return self.report.layers[name]
