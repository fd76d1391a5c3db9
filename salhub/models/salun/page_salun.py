"""The page of SalUn: forget a class, and see what it costs and which weights it takes."""

from functools import cached_property
from typing import Any

import gradio as gr
from gradio.components import Component

from salhub.errors import CardError
from salhub.models.salun.page_salun_diffusion import (
    ORIGINAL,
    DiffusionFamily,
    DigitsTab,
    DrawingPage,
)
from salhub.models.salun.unlearning_report import UnlearningReport
from salhub.pipelines import pipeline
from salhub.results import Results, read_results
from salhub.ui.controls import Radio, UploadedPicture, open_picture, picture_input
from salhub.ui.page import Contents, State, Tab
from salhub.ui.panes import BarRow, Fact, bar_rows, facts, pipeline_program, python, sentence
from salhub.ui.picture_page import Query

DIGITS = "salhub/salun-ddpm-mnist"
_FORGET = "forget/"


class ClassifierFamily:
    """An unlearned classifier, the original, and what was measured of both.

    Args:
        name: The unlearned one, a shipped model.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.results: Results = read_results(name)
        self.values = {metric.name: metric.value for metric in self.results.metrics}

    @cached_property
    def after(self) -> Any:
        """The pipeline of the unlearned model."""
        return pipeline(self.name)

    @cached_property
    def before(self) -> Any:
        """The pipeline of the original."""
        return pipeline(self.name + ORIGINAL)

    @property
    def class_names(self) -> list[str]:
        """The classes, in order."""
        return list(self.after.class_names.values())

    @property
    def forgotten(self) -> str:
        """The class that the shipped model has forgotten."""
        return str(self.after.model.config.forget).removeprefix("class:")

    def accuracies(self, forgotten: str) -> list[tuple[str, float, float]]:
        """Class, and the share of its test pictures that are recognized before and after."""
        return [
            (
                name,
                self.values[f"original/accuracy/{name}"],
                self.values[f"{_FORGET}{forgotten}/accuracy/{name}"],
            )
            for name in self.class_names
        ]

    def densities(self, forgotten: str) -> list[tuple[str, float]]:
        """Part of the network, and the share of its weights that could move."""
        start = f"{_FORGET}{forgotten}/density/"
        return [
            (name.removeprefix(start), value)
            for name, value in self.values.items()
            if name.startswith(start)
        ]

    def report(self, whose: str = "") -> UnlearningReport:
        """UA, RA, TA and MIA of "" (the shipped model), "original" or "retrained"."""
        prefix = f"{whose}/" if whose else ""
        numbers = [self.values[f"{prefix}{name}"] for name in ("UA", "RA", "TA")]
        return UnlearningReport(*numbers, membership={"confidence": self.values[f"{prefix}MIA"]})


class ForgetTab(Tab):
    """Each class in turn: what forgetting it costs, and which weights it took."""

    title = "Forget a class"
    code_language = "shell"

    def controls(self) -> dict[str, Component]:
        """Build the picker of the class."""
        family = self.page.family
        picker = Radio(family.class_names, value=family.forgotten, label="Class to forget")
        return {"forgotten": picker}

    def panes(self) -> dict[str, Component]:
        """Build the bars, and what was measured of the shipped model."""
        with gr.Row(equal_height=False):
            with gr.Column(min_width=320):
                accuracies = gr.HTML()
            with gr.Column(min_width=320):
                densities = gr.HTML()
                gr.HTML(_shipped(self.page.family))
        return {"accuracies": accuracies, "densities": densities}

    def contents(self, query: State) -> Contents:
        """Return the bars of a class."""
        accuracies, densities, _ = self.page.forget(query["forgotten"])
        return {"accuracies": {"value": accuracies}, "densities": {"value": densities}}

    def code(self, query: State) -> str:
        """Return the command that forgets the class."""
        return self.page.forget(query["forgotten"])[-1]


class PictureTab(Tab):
    """What both classifiers take a picture for."""

    title = "Try a picture"

    def controls(self) -> dict[str, Component]:
        """Build the picture."""
        gr.HTML(
            sentence(
                "Compare the original with the model that forgot "
                f"'{self.page.family.forgotten}' on the same picture. Both see it at 32 x 32 "
                "pixels and know ten classes."
            )
        )
        return {"picture": picture_input("cat", "The picture to classify")}

    def panes(self) -> dict[str, Component]:
        """Build the bars."""
        return {"classes": gr.HTML()}

    def contents(self, query: State) -> Contents:
        """Classify the picture."""
        before, after = self.page.classify(query["picture"])
        rows = [BarRow(name, (before[name], after[name])) for name in before]
        caption = "Probability of each class, before and after forgetting."
        return {"classes": {"value": bar_rows(caption, ["before", "after"], rows)}}

    def code(self, query: State) -> str:
        """Return the program that asks the unlearned model."""
        source = Query.of_upload(query["picture"]).source
        last = ["print(result.summary())"]
        return pipeline_program("classify", self.page.name, python(source), last)


class Page(DrawingPage):
    """Three tabs: each class of CIFAR-10 in turn, a picture of the visitor's, and digits.

    Args:
        name: The unlearned classifier, a shipped model.
        entry: What is known of its kind.
    """

    title = "SalUn"
    sentence = (
        "Make a network forget one kind of thing that it recognizes, by changing only the "
        "numbers (weights) that matter for that kind."
    )
    code_title = "The same on your computer"
    tabs = (ForgetTab, PictureTab, DigitsTab)
    endpoints = {
        "forget": (gr.HTML, gr.HTML, gr.Code),
        "classify": (gr.Label, gr.Label),
        "draw": (gr.Image, gr.Image, gr.Code),
    }

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.family = ClassifierFamily(self.name)
        self.digits = DiffusionFamily(DIGITS)

    @classmethod
    def serves(cls, name: str) -> bool:
        """Whether a model was unlearned class by class; of others its task's page shows more."""
        try:
            metrics = read_results(name).metrics
        except CardError:
            return False
        return any(metric.name.startswith(_FORGET) for metric in metrics)

    def forget(self, forgotten: str) -> tuple[str, str, str]:
        """What forgetting a class costs.

        Args:
            forgotten: A class of CIFAR-10, such as "cat".

        Returns:
            HTML of the accuracies, HTML of the densities, and the command.
        """
        if forgotten not in self.family.class_names:
            raise ValueError(
                f"'{forgotten}' is not a class; choose one of {', '.join(self.family.class_names)}."
            )
        accuracies = bar_rows(
            f"Share of test pictures recognized before and after forgetting '{forgotten}'. "
            "The forgotten class should fall to 0, the others should not change.",
            ["before", "after"],
            [
                BarRow(name, (before, after), name == forgotten)
                for name, before, after in self.family.accuracies(forgotten)
            ],
        )
        densities = bar_rows(
            "Weights that were allowed to change, by part of the network from input to "
            "output. Exactly half of all weights were; the others keep their exact bits.",
            ["open"],
            [BarRow(name, (share,)) for name, share in self.family.densities(forgotten)],
        )
        command = (
            f"salhub unlearn salun model={self.family.name}-original data=cifar10_jpeg.npz "
            f"forget=class:{forgotten} retain=random:10000 augment=true batch_size=128 "
            "num_train_epochs=2"
        )
        return accuracies, densities, command

    def classify(
        self, picture: UploadedPicture | None
    ) -> tuple[dict[str, float], dict[str, float]]:
        """What a picture is taken for.

        Args:
            picture: The picture.

        Returns:
            Class -> probability, of the original and of the unlearned model.
        """
        image = open_picture(picture)
        results = [one(image, top_k=10) for one in (self.family.before, self.family.after)]
        return tuple(dict(zip(one.labels, one.scores, strict=True)) for one in results)


def _shipped(family: ClassifierFamily) -> str:
    own, other = family.report(), family.report("retrained")
    names = {
        "UA": "forgotten pictures not recognized",
        "RA": "retained pictures recognized",
        "TA": "test pictures of other classes recognized",
        "MIA": "forgotten pictures that an attack classifies as never seen",
    }
    items = [
        Fact(f"{value:.1f} %", name, f"{names[name]}; retrained: {other.headline[name]:.1f} %")
        for name, value in own.headline.items()
    ]
    text = (
        f"The shipped model forgot '{family.forgotten}' using all retained pictures. It "
        "should behave like a model trained without the forgotten pictures; the mean "
        f"distance from such a model is {own.average_gap(other):.2f} points. Unlearning is "
        "approximate: it does not prove removal, and fine-tuning can bring a class back."
    )
    return sentence(text) + facts(items)
