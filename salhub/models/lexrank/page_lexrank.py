"""The page of LexRank: a text, its sentences shaded by how central they are, and a summary."""

import re
import threading
from html import escape

import gradio as gr
import numpy as np

from salhub.data.text_sources import load_text
from salhub.entries import Model
from salhub.models.lexrank.modeling_lexrank import LexRankModel
from salhub.models.lexrank.result_lexrank import ExtractiveSummarizationResult
from salhub.models.lexrank.sentence_splitting import split_sentences
from salhub.models.lexrank.summarizing import Summary, summarize
from salhub.ui.faults import plain_errors
from salhub.ui.markup import header, sentence
from salhub.ui.reproducing import setting_lines
from salhub.ui.tab import code_pane
from salhub.viz.shaded_text import shaded_html

PAPER = ("Paper", "https://doi.org/10.1613/jair.1523")
MOST_CHARACTERS = 200_000
# Three dashes and no more, as longer lines underline headings.
_SEPARATOR = re.compile(r"^---\s*$", re.MULTILINE)
# Seconds between looks for old files, and seconds that they are kept.
_KEEP = (60 * 60, 2 * 60 * 60)

Answer = tuple[str, str, str, str, str]


class Page:
    """One text, or several, and what carries them.

    Args:
        name: A model of LexRank.
        method: Its method.
    """

    title = "LexRank"
    sentence = "Which sentences carry a text, or a pile of texts: those that many others resemble."

    def __init__(self, name: str, method: Model) -> None:
        self.name, self.method = name, method
        self.model = LexRankModel.from_pretrained(name)
        # Settings belong to a request, so one request runs at a time.
        self.lock = threading.Lock()

    def build(self) -> gr.Blocks:
        """Build the page, with the sample text summarised on it."""
        text = load_text("sample:article")
        first = self.answer(text)
        with gr.Blocks(title=self.title, analytics_enabled=False, delete_cache=_KEEP) as blocks:
            gr.HTML(header(self.title, self.sentence, [PAPER]))
            with gr.Row(equal_height=False):
                with gr.Column(min_width=320):
                    inputs, button = self._add_inputs(text)
                with gr.Column(min_width=320):
                    outputs = self._add_outputs(first)
            for component in inputs:
                moved = component.submit if isinstance(component, gr.Textbox) else component.input
                moved(plain_errors(self.answer), inputs, outputs, api_name=False)
            button.click(
                plain_errors(self.answer),
                inputs,
                outputs,
                api_name="summarise",
                api_description="The summary, and HTML of the texts shaded by centrality.",
            )
        return blocks

    def _add_inputs(self, text: str) -> tuple[list[gr.components.Component], gr.Button]:
        box = gr.Textbox(
            text,
            label="Text",
            info="Several texts are divided by a line of three dashes.",
            lines=12,
            max_lines=16,
            max_length=MOST_CHARACTERS,
        )
        button = gr.Button("Summarise", variant="primary")
        controls = [
            gr.Slider(1, 20, 3, step=1, label="Sentences of the summary"),
            gr.Textbox("", label="About", info="What it should be about; nothing for anything."),
            gr.Slider(0, 0.5, 0, step=0.05, label="Threshold", info="0 is the continuous method."),
            gr.Slider(0.05, 1, 0.85, step=0.05, label="Damping", info="Chance to follow a link."),
            gr.Checkbox(True, label="Leave out repetitions"),
        ]
        return [box, *controls], button

    def _add_outputs(self, first: Answer) -> list[gr.components.Component]:
        summary = gr.Textbox(
            first[0], label="Summary", lines=4, interactive=False, buttons=["copy"]
        )
        with gr.Tabs():
            with gr.Tab("Shaded"):
                shaded = gr.HTML(first[1])
            with gr.Tab("Why"):
                reasons = gr.HTML(first[2])
            with gr.Tab("Others"):
                others = gr.HTML(first[3])
            with gr.Tab("Code"):
                code = code_pane(first[4], "The same in Python")
        return [summary, shaded, reasons, others, code]

    def answer(
        self,
        text: str,
        num_sentences: int = 3,
        query: str = "",
        threshold: float = 0.0,
        damping: float = 0.85,
        leave_out_repetitions: bool = True,
    ) -> Answer:
        """Summarise a text, or several with a line of three dashes between them.

        Args:
            text: The text.
            num_sentences: Sentences of the summary, 1 or more.
            query: What it should be about; "" for anything.
            threshold: Similarity that makes neighbours, in [0, 1); 0 for the continuous method.
            damping: Probability of following a link, above 0 and at most 1.
            leave_out_repetitions: Whether sentences that repeat a chosen one are passed over.

        Returns:
            The summary; HTML of the shaded texts, of the reasons and of what others would choose;
            and a program that does the same.
        """
        if not isinstance(text, str) or not text.strip():
            raise ValueError("There is no text; write or paste one.")
        if len(text) > MOST_CHARACTERS:
            raise ValueError(
                f"The text has {len(text)} characters, and at most {MOST_CHARACTERS} are read "
                "here; salhub run takes more."
            )
        settings = {
            "threshold": float(threshold) or None,
            "damping": float(damping),
            "redundancy": "cosine" if leave_out_repetitions else None,
        }
        documents = [part for part in _SEPARATOR.split(text) if part.strip()]
        with self.lock:
            before = {name: getattr(self.model.config, name) for name in settings}
            try:
                self._set(settings)
                found = summarize(
                    self.model, documents, budget=int(num_sentences), query=query.strip() or None
                )
            finally:
                self._set(before)
        result = ExtractiveSummarizationResult(found, self.name)
        shaded = "<hr>".join(shaded_html(result.shaded(n)) for n in range(len(documents)))
        changed = {name: value for name, value in settings.items() if value != before[name]}
        return (
            found.text,
            shaded,
            _reasons(found),
            _others(documents, len(found.chosen), self.model.config.language),
            self._code(changed, int(num_sentences), query.strip(), len(documents)),
        )

    def _set(self, settings: dict) -> None:
        for name, value in settings.items():
            setattr(self.model.config, name, value)
        self.model.config.validate()

    def _code(self, settings: dict, num_sentences: int, query: str, num_texts: int) -> str:
        loading = "".join(f", {line[:-1]}" for line in setting_lines(settings))
        calling = {"budget": num_sentences} | ({"query": query} if query else {})
        call = "".join(f", {line[:-1]}" for line in setting_lines(calling))
        texts = 'Path("text.txt")'
        if num_texts > 1:
            names = ", ".join(f'Path("text{n + 1}.txt")' for n in range(num_texts))
            texts, call = f"[{names}]", f", together=True{call}"
        return (
            "from pathlib import Path\n\nimport salhub\n\n"
            f'summarise = salhub.pipeline("{self.name}"{loading})\n'
            f"print(summarise({texts}{call}).text)"
        )


def _reasons(found: Summary) -> str:
    items = []
    for place in found.chosen:
        chosen = found.sentences[place]
        near = "".join(
            f"<li>{escape(found.sentences[other].text)}</li>" for other in chosen.supporters
        )
        text = f"<strong>{escape(chosen.text)}</strong> Rank {chosen.rank}."
        items.append(f"<li>{text}{' Nearest to it:' if near else ''}<ul>{near}</ul></li>")
    dropped = "".join(
        f"<li>{escape(found.sentences[one.sentence].text)} ({one.similarity:.0%} like “"
        f"{escape(found.sentences[one.repeats].text)}”)</li>"
        for one in found.left_out
    )
    left_out = f"<p>Left out, because they repeat a chosen one:</p><ul>{dropped}</ul>"
    return f"<ol>{''.join(items)}</ol>" + (left_out if dropped else "")


def _others(documents: list[str], count: int, language: str) -> str:
    sentences = [span.of(text) for text in documents for span in split_sentences(text, language)]
    drawn = sorted(np.random.default_rng(0).permutation(len(sentences))[:count].tolist())
    rows = {
        "The first sentences": sentences[:count],
        "Sentences drawn at random": [sentences[place] for place in drawn],
    }
    return sentence("What a summary has to be better than:") + "".join(
        f"<h4>{escape(title)}</h4><p>{escape(' '.join(chosen))}</p>"
        for title, chosen in rows.items()
    )
