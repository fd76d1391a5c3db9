"""The page of the verbalizer: a text, its words shaded by score, and a sentence that says why."""

import json
import threading
from html import escape
from typing import Any

import gradio as gr

from salhub.data.text_sources import load_text
from salhub.entries import Model
from salhub.models.verbalizer.configuration_verbalizer import LANGUAGES
from salhub.models.verbalizer.result_verbalizer import SaliencyVerbalizationResult
from salhub.pipelines import pipeline
from salhub.ui.faults import plain_errors
from salhub.ui.markup import header
from salhub.ui.reproducing import setting_lines
from salhub.ui.tab import code_pane
from salhub.viz.shaded_text import shaded_html
from salhub.viz.text import percentage

PAPER = ("Paper", "https://arxiv.org/abs/2210.07222")
MOST_CHARACTERS = 20_000
NOTHING = "nothing"
_SHIPPED = {
    "Film reviews": "salhub/verbalizer-movie-reviews",
    "News": "salhub/verbalizer-news-topics",
}
_AUDIT_ROWS = {
    "citation_precision": "Quotations that stand in the text",
    "sign_faithfulness": "Named words whose score has the claimed sign",
    "numeric_faithfulness": "Printed numbers that are those of the map",
    "superlative_faithfulness": "Words called most important that are",
    "coverage": "Share of the positive evidence that is named",
    "share_of_best": "That, by the most that as many words could carry",
}
# Seconds between looks for old files, and seconds that they are kept.
_KEEP = (60 * 60, 2 * 60 * 60)

Answer = tuple[str, str, str, str, str, str]


class Page:
    """One text, its class, and why.

    Args:
        name: A verbalizer; where it is one that comes with salhub, the others can be chosen too.
        method: Its method.
    """

    title = "Saliency verbalizer"
    sentence = "Which words made a classifier decide as it did, in a sentence that is checked."

    def __init__(self, name: str, method: Model) -> None:
        self.name, self.method = name, method
        shipped = _SHIPPED if name in _SHIPPED.values() else {name: name}
        self.pipelines = {title: pipeline(model) for title, model in shipped.items()}
        self.first = next(title for title, model in shipped.items() if model == name)
        # Settings belong to a request, so one request runs at a time.
        self.lock = threading.Lock()

    def build(self) -> gr.Blocks:
        """Build the page, with the sample text explained on it."""
        text = load_text("sample:review")
        first = self.answer(text, self.first)
        with gr.Blocks(title=self.title, analytics_enabled=False, delete_cache=_KEEP) as blocks:
            gr.HTML(header(self.title, self.sentence, [PAPER]))
            with gr.Row(equal_height=False):
                with gr.Column(min_width=320):
                    inputs, button = self._add_inputs(text)
                with gr.Column(min_width=320):
                    outputs = self._add_outputs(first)
            classifier, contrast = inputs[1], inputs[2]
            classifier.input(self._classes, classifier, contrast, api_name=False)
            for component in inputs:
                moved = component.submit if isinstance(component, gr.Textbox) else component.input
                moved(plain_errors(self.answer), inputs, outputs, api_name=False)
            button.click(
                plain_errors(self.answer),
                inputs,
                outputs,
                api_name="verbalize",
                api_description="The explanation, HTML of the shaded text, of the phrases and of "
                "the audit, a program that does the same, and everything as JSON.",
            )
        return blocks

    def _add_inputs(self, text: str) -> tuple[list[gr.components.Component], gr.Button]:
        box = gr.Textbox(
            text,
            label="Text",
            lines=7,
            max_lines=16,
            max_length=MOST_CHARACTERS,
            elem_id="verbalizer-text",
        )
        button = gr.Button("Explain", variant="primary")
        controls = [
            gr.Radio(list(self.pipelines), value=self.first, label="Classifier"),
            gr.Dropdown(
                self._contrasts(self.first),
                value=NOTHING,
                label="Rather than",
                info="Why the class of the text and not another one.",
            ),
            gr.Slider(1, 30, 12, step=1, label="Most words named"),
            gr.Dropdown(list(LANGUAGES), value="en", label="Language of the sentence"),
        ]
        return [box, *controls], button

    def _add_outputs(self, first: Answer) -> list[gr.components.Component]:
        said = gr.Textbox(
            first[0],
            label="Explanation",
            lines=4,
            interactive=False,
            buttons=["copy"],
            elem_id="verbalizer-explanation",
        )
        with gr.Tabs():
            with gr.Tab("Words"):
                shaded = gr.HTML(first[1])
            with gr.Tab("Phrases"):
                phrases = gr.HTML(first[2])
            with gr.Tab("Audit"):
                audit = gr.HTML(first[3])
            with gr.Tab("Code"):
                code = code_pane(first[4], "The same in Python")
            with gr.Tab("JSON"):
                record = gr.Code(
                    first[5], language="json", interactive=False, wrap_lines=True,
                    buttons=["copy", "download"], max_lines=20, label="Everything that was found",
                )  # fmt: skip
        return [said, shaded, phrases, audit, code, record]

    def _contrasts(self, classifier: str) -> list[str]:
        return [NOTHING, *self.pipelines[classifier].class_names.values()]

    def _classes(self, classifier: str) -> Any:
        return gr.Dropdown(choices=self._contrasts(classifier), value=NOTHING)

    def answer(
        self,
        text: str,
        classifier: str = "",
        contrast: str = NOTHING,
        max_words: int = 12,
        language: str = "en",
    ) -> Answer:
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
        if not isinstance(text, str) or not text.strip():
            raise ValueError("There is no text; write or paste one.")
        if len(text) > MOST_CHARACTERS:
            raise ValueError(
                f"The text has {len(text)} characters, and at most {MOST_CHARACTERS} are read "
                "here; salhub run takes more."
            )
        explain = self.pipelines.get(classifier or self.first)
        if explain is None:
            raise ValueError(
                f"There is no classifier '{classifier}'; choose one of {', '.join(self.pipelines)}."
            )
        settings = {"max_words": int(max_words), "language": language}
        known = contrast in explain.class_names.values()
        rival = {"contrast": contrast} if known else {}
        with self.lock:
            config = explain.model.config
            before = {name: getattr(config, name) for name in settings}
            try:
                _set(config, settings)
                result = explain(text, **rival)
            finally:
                _set(config, before)
        changed = {name: value for name, value in settings.items() if value != before[name]}
        return (
            result.text,
            _verdict(result) + shaded_html(result.shaded()),
            _phrase_table(result),
            _audit_table(result),
            _code(config.name_or_path, changed, rival),
            json.dumps(result.to_dict(), indent=2, ensure_ascii=False),
        )


def _set(config: Any, settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        setattr(config, name, value)
    config.validate()


def _verdict(result: SaliencyVerbalizationResult) -> str:
    return (
        f"<p><strong>{escape(str(result.label))}</strong>, probability "
        f"{percentage(result.probability)}. Amber words speak for it, blue ones against it.</p>"
    )


def _phrase_table(result: SaliencyVerbalizationResult) -> str:
    rows = []
    for phrase in result.phrases:
        width = round(100 * min(1.0, abs(phrase.coverage)))
        color = "rgb(255, 190, 60)" if phrase.sign == "+" else "rgb(120, 170, 255)"
        bar = f'<div style="background: {color}; width: {width}%; height: 0.8rem"></div>'
        rows.append(
            f'<tr><td dir="auto">{escape(phrase.text)}</td>'
            f"<td>{_amount(phrase.coverage)}</td>"
            f'<td style="width: 40%">{bar}</td></tr>'
        )
    head = "<tr><th>Words</th><th>Share</th><th>Of the positive evidence</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>" if rows else "<p>No word stands out.</p>"


def _amount(share: float) -> str:
    return "more than all that speaks for it" if share < -1 else f"{round(100 * share)} %"


def _audit_table(result: SaliencyVerbalizationResult) -> str:
    rows = []
    for name, title in _AUDIT_ROWS.items():
        value = result.audit[name]
        shown = "no such claim" if value is None else f"{100 * value:.0f} %"
        rows.append(f"<tr><td>{title}</td><td>{shown}</td></tr>")
    found = "".join(f"<li>{escape(problem)}</li>" for problem in result.audit["problems"])
    faults = f"<ul>{found}</ul>" if found else "<p>Everything it says is what the scores show.</p>"
    return f"<table>{''.join(rows)}</table>{faults}"


def _code(name: str, settings: dict[str, Any], call: dict[str, Any]) -> str:
    loading = "".join(f", {line[:-1]}" for line in setting_lines(settings))
    calling = "".join(f", {line[:-1]}" for line in setting_lines(call))
    return (
        "from pathlib import Path\n\nimport salhub\n\n"
        f'explain = salhub.pipeline("{name}"{loading})\n'
        f'print(explain(Path("text.txt"){calling}).text)'
    )
