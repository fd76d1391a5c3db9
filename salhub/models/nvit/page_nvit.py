"""The page of NViT: choose how fast a network is to be, and see the shape that it gets."""

from functools import cached_property, lru_cache
from html import escape
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component

from salhub.data.split_beside import find_file
from salhub.errors import CardError
from salhub.hub import read_config
from salhub.listing import list_models
from salhub.models.nvit.distilling_recipe import SCORES_NAME, TABLE_NAME
from salhub.models.nvit.planning import load_nvit_pruner, original_name
from salhub.models.nvit.pruner_nvit import NViTPlan, NViTPruner
from salhub.models.nvit.shapes import NViTShape
from salhub.models.nvit.speed import times_in_turns
from salhub.pipelines import pipeline
from salhub.results import Results, read_results
from salhub.ui.controls import Radio, UploadedPicture, open_picture, picture_input, slider
from salhub.ui.page import Contents, State, Tab
from salhub.ui.page import Page as BasePage
from salhub.ui.panes import BarRow, Fact, bar_rows, facts, pipeline_program, python, sentence
from salhub.ui.picture_page import Query

# What ranks the structures, as a visitor reads it -> as `load_nvit_pruner` takes it.
SCORES = {"saliency": None, "weight magnitude": "magnitude", "chance": "random"}
_LOWEST, _HIGHEST, _KAPPAS = 0.35, 0.95, (0.0, 1.0)
_ROUNDS = 4
_STRUCTURES = ("heads", "QK", "V", "neurons")


class ShapeTab(Tab):
    """A target, the shape that meets it, and its time here."""

    title = "Choose a speed"

    def controls(self) -> dict[str, Component]:
        """Build the target, and what decides which structures go."""
        with gr.Row():
            target = slider(
                _LOWEST, _HIGHEST, self.page.first_target, step=0.05,
                label="Share of the original's time",
            )  # fmt: skip
            score = Radio(list(SCORES), value=next(iter(SCORES)), label="Structures ranked by")
            kappa = slider(*_KAPPAS, 0.1, step=0.1, label="Credit for saved time")
        return {"target": target, "score": score, "kappa": kappa}

    def panes(self) -> dict[str, Component]:
        """Build the numbers and the chart."""
        return {"speed": gr.HTML(), "shape": gr.HTML()}

    def contents(self, query: State) -> Contents:
        """Plan a shape, and time it."""
        speed, shape, _ = self.page.plan(query["target"], query["score"], query["kappa"])
        return {"speed": {"value": speed}, "shape": {"value": shape}}

    def code(self, query: State) -> str:
        """Return the program that makes the network of this shape."""
        return self.page.program(query["target"], query["score"], query["kappa"])


class PictureTab(Tab):
    """What the original and a pruned network take a picture for."""

    title = "Try a picture"

    def controls(self) -> dict[str, Component]:
        """Build the picture, and the choice of the network."""
        gr.HTML(
            sentence(
                "Compare the original with a pruned and fine-tuned network on the same "
                f"picture. Both see it at {self.page.side} x {self.page.side} pixels and "
                f"know {len(self.page.class_names)} classes."
            )
        )
        names = [name.rpartition("/")[2] for name in self.page.family]
        chosen = self.page.name.rpartition("/")[2]
        return {
            "picture": picture_input("cat", "The picture to classify"),
            "network": Radio(names, value=chosen, label="Pruned network"),
        }

    def panes(self) -> dict[str, Component]:
        """Build the bars."""
        return {"classes": gr.HTML()}

    def contents(self, query: State) -> Contents:
        """Classify the picture."""
        before, after = self.page.classify(query["picture"], query["network"])
        rows = [BarRow(name, (before[name], after[name])) for name in before]
        caption = f"Probability of each class, by the original and by {query['network']}."
        return {"classes": {"value": bar_rows(caption, ["original", "pruned"], rows)}}

    def code(self, query: State) -> str:
        """Return the program that asks the pruned network."""
        source = Query.of_upload(query["picture"]).source
        last = ["print(result.summary())"]
        name = self.page.full_name(query["network"])
        return pipeline_program("classify", name, python(source), last)


class NumbersTab(Tab):
    """What was measured of the pruned networks, fine-tuned."""

    title = "Measured"
    code_language = "shell"

    def panes(self) -> dict[str, Component]:
        """Build the table."""
        return {"measured": gr.HTML()}

    def contents(self, query: State) -> Contents:
        """Show the numbers of the results files."""
        return {"measured": {"value": _measured(self.page.family)}}

    def code(self, query: State) -> str:
        """Return the command that measures the network."""
        return f"salhub evaluate {self.page.name} --data cifar10.npz original={self.page.original}"


class Page(BasePage):
    """Three tabs: a shape for any speed, both networks on a picture, and what was measured.

    Args:
        name: A pruned network with its latency table and scores beside it, of a shipped original.
        entry: What is known of its kind.
    """

    title = "NViT"
    sentence = (
        "Make a network that recognizes pictures as fast as you need, by removing the parts "
        "that matter least to its answers."
    )
    code_title = "The same on your computer"
    tabs = (ShapeTab, PictureTab, NumbersTab)
    endpoints = {
        "plan": (gr.HTML, gr.HTML, gr.JSON),
        "classify": (gr.Label, gr.Label),
    }

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.original = original_name(self.name)
        self.before = pipeline(self.original)
        self.pruner = lru_cache(maxsize=8)(self._pruner)
        self._planned = lru_cache(maxsize=64)(self._plan)

    @classmethod
    def serves(cls, name: str) -> bool:
        """Whether what planning takes lies beside it; others get the page of their task."""
        try:
            original_name(name)
        except ValueError:
            return False
        return all(find_file(name, file) for file in (TABLE_NAME, SCORES_NAME))

    @cached_property
    def family(self) -> dict[str, Results | None]:
        """This network and the shipped ones of the same original, with what was measured."""
        others = [one.full_name for one in list_models() if one.method == self.entry.method]
        names = {self.name, *(one for one in others if self.serves(one))}
        same = [one for one in names if original_name(one) == self.original]
        return {name: _results(name) for name in sorted(same, reverse=True)}

    @cached_property
    def class_names(self) -> list[str]:
        """The classes, in order."""
        return list(self.before.class_names.values())

    @property
    def side(self) -> int:
        """Pixels of a side of what the networks see."""
        return self.before.model.config.image_size

    @property
    def first_target(self) -> float:
        """The target that the network was pruned to, on the steps of the slider."""
        record = read_config(self.name)["pruning_record"]
        target = round(20 * float(record.get("target", 0.5))) / 20
        return min(max(target, _LOWEST), _HIGHEST)

    def full_name(self, network: str) -> str:
        """Name of a network of the family.

        Raises:
            ValueError: There is none of that name.
        """
        for name in self.family:
            if network in (name, name.rpartition("/")[2]):
                return name
        raise ValueError(f"There is no '{network}'; choose one of {', '.join(self.family)}.")

    def plan(
        self, target: float = 0.5, score: str = "saliency", kappa: float = 0.1
    ) -> tuple[str, str, dict[str, Any]]:
        """The shape that meets a target, and its time on this server.

        Args:
            target: Time of a batch as a share of the original's.
            score: "saliency", "size of the weights" or "chance".
            kappa: Credit for time that removing a structure saves; 0 for none.

        Returns:
            HTML of the numbers, HTML of the chart, and both as numbers.
        """
        plan, times = self._planned(float(target), str(score), float(kappa))
        pruner = self.pruner(str(score), float(kappa))
        ratio = float(np.median(times[:, 1] / times[:, 0]))
        config, table = pruner.model.config, pruner.table
        before = pruner.layout.shape
        items = [
            Fact(
                f"{100 * plan.ratio:.0f} %", "Predicted time",
                f"of the original's, on {table.device.removeprefix('cpu ')}",
            ),
            Fact(
                f"{100 * ratio:.0f} %", "Measured here",
                f"{1e3 * np.median(times[:, 1]):.0f} ms instead of "
                f"{1e3 * np.median(times[:, 0]):.0f} ms, {table.batch_size} pictures",
            ),
            Fact(
                f"{plan.num_parameters / 1e6:.2f} million", "Weights",
                f"of {before.num_parameters(config) / 1e6:.2f} million",
            ),
            Fact(
                f"{plan.macs / 1e6:.0f} million", "Multiplications per picture",
                f"of {before.macs(config) / 1e6:.0f} million",
            ),
        ]  # fmt: skip
        text = (
            f"{_left(plan.shape.hidden_size, before.hidden_size)}; the chart shows what "
            "remains of each block. Times are predicted for one thread of the machine named "
            "above; yours may differ. The network is not fine-tuned yet, so it is less "
            "accurate than those on the next tab."
        )
        found = {
            "predicted_ratio": plan.ratio,
            "measured_ratio": ratio,
            "num_parameters": plan.num_parameters,
            "macs": plan.macs,
            "eta": plan.eta,
            **plan.shape.fields(),
        }
        return sentence(text) + facts(items), shape_chart(before, plan.shape), found

    def program(self, target: float, score: str, kappa: float) -> str:
        """The program that makes the network of a plan."""
        chosen = SCORES[score]
        settings = [python(self.name), *([] if chosen is None else [f"score={python(chosen)}"])]
        return "\n".join([
            "import salhub",
            "",
            f"pruner = salhub.load_nvit_pruner({', '.join(settings)}, kappa={kappa:g})",
            f"[plan] = pruner.plan([{target:g}])",
            "print(plan.shape)",
            "print(plan.ratio)",
            "small = pruner.compact(plan)",
            'small.save_pretrained("pruned")',
        ])  # fmt: skip

    def classify(
        self, picture: UploadedPicture | None, network: str = ""
    ) -> tuple[dict[str, float], dict[str, float]]:
        """What a picture is taken for.

        Args:
            picture: The picture.
            network: A pruned network; that of the page unless given.

        Returns:
            Class -> probability, of the original and of the pruned network.
        """
        image = open_picture(picture)
        after = pipeline(self.full_name(network or self.name))
        results = [one(image, top_k=len(self.class_names)) for one in (self.before, after)]
        before, pruned = (dict(zip(one.labels, one.scores, strict=True)) for one in results)
        return {name: before[name] for name in self.class_names}, pruned

    def _pruner(self, score: str, kappa: float) -> NViTPruner:
        if score not in SCORES:
            raise ValueError(f"There is no '{score}'; choose one of {', '.join(SCORES)}.")
        if not _KAPPAS[0] <= kappa <= _KAPPAS[1]:
            raise ValueError(f"kappa must be from {_KAPPAS[0]:g} to {_KAPPAS[1]:g}, got {kappa:g}.")
        return load_nvit_pruner(self.name, score=SCORES[score], kappa=kappa)

    def _plan(self, target: float, score: str, kappa: float) -> tuple[NViTPlan, Any]:
        pruner = self.pruner(score, kappa)
        [plan] = pruner.plan([target])
        small = pruner.compact(plan).eval()
        return plan, times_in_turns(
            pruner.model, small, pruner.table.batch_size, _ROUNDS, warmup=1
        )  # fmt: skip


def _left(own: int, other: int) -> str:
    if own == other:
        return f"All {own} residual channels remain"
    return f"{own} of {other} residual channels remain"


def shape_chart(before: NViTShape, after: NViTShape) -> str:
    """Bars of what is left of each block, as HTML.

    Args:
        before: Of the original.
        after: Of the smaller network, with as many blocks.
    """
    heads = "".join(
        f'<th scope="col" style="width: auto">{escape(name)}</th>' for name in _STRUCTURES
    )
    rows = ""
    for block, (old, new) in enumerate(zip(before.blocks, after.blocks, strict=True), 1):
        cells = "".join(
            f'<td><div title="{own} of {other} {escape(name)}" style="height: 14px; '
            'border-radius: 2px; background: rgb(128 128 128 / .22)"><div style="height: 14px; '
            f"border-radius: 2px; width: {100 * own / other:.1f}%; "
            f'background: rgb(20 150 136)"></div></div>'
            f'<span style="font-size: .82rem; white-space: nowrap">{own} of {other}</span></td>'
            for name, own, other in zip(_STRUCTURES, new, old, strict=True)
        )
        rows += f'<tr><th scope="row" style="width: auto">{block}</th>{cells}</tr>'
    return (
        '<figure class="salhub-bars"><figcaption>Remaining parts of each block, from first to '
        "last: heads, query-key and value channels of each head, and neurons.</figcaption>"
        '<table style="table-layout: fixed; border-spacing: 8px 4px; border-collapse: separate">'
        '<thead><tr><th scope="col" style="width: 42px">Block</th>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table></figure>"
    )


def _results(name: str) -> Results | None:
    try:
        return read_results(name)
    except CardError:
        return None


def _measured(family: dict[str, Results | None]) -> str:
    parts = []
    for name, results in family.items():
        short = name.rpartition("/")[2]
        if results is None:
            parts.append(sentence(f"{short} has not been measured yet."))
            continue
        values = {metric.name: metric.value for metric in results.metrics}
        items = [
            Fact(
                f"{100 * values['accuracy/test']:.1f} %", "Pictures recognized",
                f"original: {100 * values['accuracy/original']:.1f} %",
            ),
            Fact(
                f"{100 * values['latency_ratio/measured']:.0f} %", "Time, measured",
                f"of the original's; predicted: {100 * values['latency_ratio/predicted']:.0f} %",
            ),
            Fact(f"{values['parameters'] / 1e6:.2f} million", "Weights"),
            Fact(f"{values['macs'] / 1e6:.0f} million", "Multiplications per picture"),
        ]  # fmt: skip
        where = f"{results.machine['processor']}, {results.machine['torch_threads']} thread"
        parts.append(sentence(f"{short}, fine-tuned, on {where}:") + facts(items))
    return "<br>".join(parts)
