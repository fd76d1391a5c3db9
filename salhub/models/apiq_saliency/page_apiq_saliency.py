"""The page of ApiQ: what a model in few bits writes, how its blocks were trained, and its size."""

import gradio as gr
from gradio.components import Component
from PIL import Image

from salhub.models.apiq_saliency.block_report import REPORT_FILE, CompressionReport
from salhub.models.apiq_saliency.block_training import TrainingHistory
from salhub.ui.compressed_text import CompressedTextPage, Numbers, Writing, figure
from salhub.ui.controls import Dropdown
from salhub.ui.page import Contents, State, Tab
from salhub.ui.panes import Fact, facts, python, sentence
from salhub.viz.curves import CurvePanel, draw_curves


class Blocks(Tab):
    """The training of one block, and the errors of all."""

    title = "Blocks"

    def controls(self) -> dict[str, Component]:
        """Build the picker of the block."""
        return {"block": Dropdown(list(self.page.report.blocks), label="Block")}

    def panes(self) -> dict[str, Component]:
        """Build the numbers, the curves, and the errors of all blocks."""
        return {"block_numbers": gr.HTML(), "losses": gr.HTML(), "errors": gr.HTML()}

    def contents(self, query: State) -> Contents:
        """Show a block."""
        name, blocks = self.page.block(query), self.page.report.blocks
        block = blocks[name]
        away = "relative to their size, on the calibration text"
        shown = [Fact(f"{100 * block.error:.1f} %", "error of the outputs", away)]
        losses = _summed([one.losses for one in block.trainings])
        curves = sentence("This block was not trained.")
        if losses:
            words = f"from {losses[0]:.4g} in the first epoch"
            shown.append(Fact(f"{losses[-1]:.4g}", "loss of the last epoch", words))
            curves = figure(f"Training of {name}, epoch by epoch", _picture(block.trainings))
        panel = CurvePanel(
            "error of the outputs",
            {"error": [(place, one.error) for place, one in enumerate(blocks.values())]},
            is_share=True,
        )
        errors = "Output error of each block, including the errors of the blocks before it"
        return {
            "block_numbers": {"value": facts(shown)},
            "losses": {"value": curves},
            "errors": {"value": figure(errors, draw_curves([panel], "block"))},
        }

    def code(self, query: State) -> str:
        """Return the program that prints the losses of the block."""
        page = self.page
        name = page.block(query)
        return (
            "from salhub.hub import resolve\n"
            "from salhub.models.apiq_saliency.block_report import CompressionReport\n\n"
            f"folder = resolve({python(page.name)}).snapshot()\n"
            f"block = CompressionReport.load(folder).blocks[{python(name)}]\n"
            "print(block.error)\n"
            "for training in block.trainings:\n"
            "    print(training.losses, training.regularizers)\n"
        )


def _picture(trainings: list[TrainingHistory]) -> Image.Image:
    """The loss and the regularizer of every epoch, added up over what was trained in turn."""
    losses = _points([one.losses for one in trainings])
    panels = [CurvePanel("loss of the outputs", {"loss": losses})]
    regularizers = _points([one.regularizers for one in trainings])
    if any(value for _, value in regularizers):
        panels.append(CurvePanel("regularizer, without its factor", {"sum": regularizers}))
    return draw_curves(panels, "epoch")


def _points(values: list[list[float]]) -> list[tuple[int, float]]:
    return list(enumerate(_summed(values), start=1))


def _summed(values: list[list[float]]) -> list[float]:
    """The sum over sets of layers of every epoch; sets that nothing was trained of are left out."""
    return [sum(epoch) for epoch in zip(*filter(None, values), strict=True)]


class Page(CompressedTextPage):
    """A text that goes on, the training of the blocks, and the numbers."""

    title = "ApiQ with saliency"
    sentence = (
        "Compare a language model, which writes text, with a copy that is several times smaller "
        "and corrected by small add-ons (adapters)."
    )
    tabs = (Writing, Blocks, Numbers)
    report_file = REPORT_FILE
    report_class = CompressionReport
    linears_words = "packed weights and adapters"

    @property
    def bits_title(self) -> str:
        """What stands above its text."""
        return f"{self.report.bits:g} bits and adapters"

    def block(self, query: State) -> str:
        """The name of the block that a visitor chose."""
        name = query["block"]
        if not isinstance(name, str) or name not in self.report.blocks:
            raise ValueError(f"There is no block '{name}'; choose one from the list.")
        return name
