"""The page of the verbalizer: a text, its words shaded by score, and a sentence that says why."""

import json
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

import salhub.pipelines  # noqa: F401 - registers all pipelines before one is imported
from salhub.data.text_sources import load_text
from salhub.models.verbalizer.configuration_verbalizer import LANGUAGES
from salhub.models.verbalizer.result_verbalizer import SaliencyVerbalizationResult
from salhub.pipelines import pipeline
from salhub.ui.controls import Dropdown, Radio, sent_number, slider
from salhub.ui.page import Contents, State
from salhub.ui.panes import BarRow, bar_rows, code_pane, pipeline_program
from salhub.ui.text_page import TextPage
from salhub.viz.shaded_text import shaded_html
from salhub.viz.text import percentage

NOTHING = "nothing"
_SHIPPED = {
    "Film reviews": "salhub/verbalizer-movie-reviews",
    "News": "salhub/verbalizer-news-topics",
}
_AUDIT_ROWS = {
    "citation_precision": "Quotations that occur in the text",
    "sign_faithfulness": "Named words whose score has the claimed sign",
    "numeric_faithfulness": "Printed numbers that match the scores",
    "superlative_faithfulness": "Words correctly called most important",
    "coverage": "Share of the positive evidence that is mentioned",
    "share_of_best": "The same, relative to the best possible choice of as many words",
}


class Page(TextPage):
    """One text, its class, and why.

    Args:
        name: A verbalizer; where it is one that comes with salhub, the others can be chosen too.
        entry: What is known of its kind.
        classifier: A text classifier of somebody's own, by name, which is shown alone; or None.
    """

    title = "Saliency verbalizer"
    sentence = (
        "See which words made a program sort a text as it did, in a sentence that is checked "
        "against the scores."
    )
    verb = "Explain"
    samples = {"Film reviews": "sample:review", "News": "sample:news"}
    most_characters = 20_000
    dependents = {"classifier": ("contrast",)}
    endpoints = {"verbalize": (gr.Textbox, gr.HTML, gr.HTML, gr.HTML, gr.Code, gr.Code)}

    def __init__(self, name: str, *arguments: Any) -> None:
        super().__init__(name, *arguments)
        if self.loading:
            shown = {Path(self.loading["classifier"]).name: name}
        else:
            shown = _SHIPPED if name in _SHIPPED.values() else {name: name}
        self.pipelines = {title: pipeline(model, **self.loading) for title, model in shown.items()}
        self.first = next(title for title, model in shown.items() if model == name)
        own = self.samples.get(self.first)
        # The page opens with a text for its own classifier.
        self.samples = {self.first: own, **self.samples} if own else self.samples

    def build(self) -> gr.Blocks:
        """Build the page; a link to it need not say that a class is compared with nothing."""
        blocks = super().build()
        self.defaults["contrast"] = NOTHING
        return blocks

    def picked(self, pick: str, state: State) -> State:
        """Open a sample with the classifier that it is for."""
        chosen = {"classifier": pick} if pick in self.pipelines else {}
        return {**super().picked(pick, state), **chosen}

    def consequences(self, state: State, moved: list[str]) -> State:
        """Another classifier gets a sample of its own, unless the text is the visitor's."""
        texts = [load_text(sample) for sample in self.samples.values()]
        # Anything may have been sent, a list too.
        chosen = [sample for name, sample in self.samples.items() if name == state["classifier"]]
        if "classifier" not in moved or not chosen or state["text"] not in texts:
            return {}
        return {"text": load_text(chosen[0])}

    def main_controls(self) -> dict[str, Component]:
        """Build the picker of the classifier."""
        return {"classifier": Radio(list(self.pipelines), value=self.first, label="Classifier")}

    def setting_controls(self) -> dict[str, Component]:
        """Build what the class is compared with, and the settings of the sentence."""
        config = self.pipelines[self.first].model.config
        return {
            "contrast": Dropdown(
                label="Rather than", info="Explain the predicted class against another class."
            ),
            "max_words": slider(1, 30, config.max_words, step=1, label="Maximum number of words"),
            "language": Dropdown(
                list(LANGUAGES), value=config.language, label="Language of the sentence"
            ),
        }

    def choices(self, state: State) -> Contents:
        """Return the classes that the class of a text can be compared with."""
        classes = [NOTHING, *self._explain(state).class_names.values()]
        choices = [(name, name) for name in classes]
        return {"contrast": {"choices": choices, "value": state["contrast"] or NOTHING}}

    def panes(self) -> dict[str, Component]:
        """Build the sentence and what it rests on."""
        panes: dict[str, Component] = {
            "said": gr.Textbox(
                label="Explanation",
                lines=4,
                interactive=False,
                buttons=["copy"],
                elem_classes="salhub-said",
            )
        }
        with gr.Tabs():
            for name, title in (("shaded", "Words"), ("phrases", "Phrases"), ("audit", "Audit")):
                with gr.Tab(title):
                    panes[name] = gr.HTML()
            with gr.Tab("JSON"):
                panes["record"] = code_pane("json", buttons=["copy", "download"], max_lines=20)
        return panes

    def contents(self, query: State) -> Contents:
        """Explain the class of the text."""
        result = self._explain(query)(query["text"], **_rival(query), **self._changed(query))
        record = json.dumps(result.to_dict(), indent=2, ensure_ascii=False)
        return {
            "said": {"value": result.text},
            "shaded": {"value": _verdict(result) + shaded_html(result.shaded())},
            "phrases": {"value": _phrase_bars(result)},
            "audit": {"value": _audit_table(result)},
            "record": {"value": record},
        }

    def code(self, query: State) -> str:
        """Return the program that says the same."""
        return pipeline_program(
            "explain",
            self.name if self.loading else self._explain(query).model.config.name_or_path,
            'Path("text.txt")',
            ["print(result.text)"],
            settings={**self.loading, **self._changed(query)},
            call=_rival(query),
        )

    def verbalize(
        self,
        text: str,
        classifier: str = "",
        contrast: str = NOTHING,
        max_words: float = 12,
        language: str = "en",
    ) -> tuple[str, ...]:
        """Explain the class of a text.

        Args:
            text: The text.
            classifier: One that the page shows; "" for its first.
            contrast: A class that the text's is compared with; "nothing" for none.
            max_words: Most words that are named, 1 or more.
            language: "en", "de", "fr", "es" or "zh".

        Returns:
            The explanation; HTML of the shaded text, of the phrases and of the audit; a program
            that does the same; and everything as JSON.
        """
        state = {
            "text": text,
            "classifier": classifier or self.first,
            "contrast": contrast,
            "max_words": max_words,
            "language": language,
        }
        return self.values_of(state, "said", "shaded", "phrases", "audit", "code", "record")

    def _explain(self, state: State) -> Any:
        classifier = state["classifier"]
        if not isinstance(classifier, str) or classifier not in self.pipelines:
            raise ValueError(
                f"There is no classifier '{classifier}'; choose one of {', '.join(self.pipelines)}."
            )
        return self.pipelines[classifier]

    def _changed(self, query: State) -> dict[str, Any]:
        """What the controls change of the shipped model."""
        shipped = self._explain(query).model.config
        # Half a word is refused by the configuration.
        words = sent_number("max_words", query["max_words"])
        wanted = {"max_words": words, "language": query["language"]}
        return {name: one for name, one in wanted.items() if one != getattr(shipped, name)}


def _rival(query: State) -> dict[str, str]:
    return {} if query["contrast"] in (NOTHING, "", None) else {"contrast": query["contrast"]}


def _verdict(result: SaliencyVerbalizationResult) -> str:
    return (
        f"<p><strong>{escape(str(result.label))}</strong>, probability "
        f"{percentage(result.probability)}. Amber words speak for it, blue ones against it.</p>"
    )


def _phrase_bars(result: SaliencyVerbalizationResult) -> str:
    if not result.phrases:
        return "<p>No word stands out.</p>"
    rows = []
    for phrase in result.phrases:
        share, is_for = abs(phrase.coverage), phrase.sign == "+"
        rows.append(BarRow(phrase.text, (share, None) if is_for else (None, share)))
    caption = "Weight of each phrase, as a share of all evidence for the class."
    return bar_rows(caption, ["for the class", "against it"], rows)


def _audit_table(result: SaliencyVerbalizationResult) -> str:
    rows = []
    for name, title in _AUDIT_ROWS.items():
        value = result.audit[name]
        shown = "no such claim" if value is None else f"{100 * value:.0f} %"
        rows.append(f"<tr><td>{title}</td><td>{shown}</td></tr>")
    found = "".join(f"<li>{escape(problem)}</li>" for problem in result.audit["problems"])
    faults = f"<ul>{found}</ul>" if found else "<p>All statements match the scores.</p>"
    return f"<table>{''.join(rows)}</table>{faults}"
