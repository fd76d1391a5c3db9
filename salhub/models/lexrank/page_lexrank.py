"""The page of LexRank: a text, its sentences shaded by how central they are, and a summary."""

import re
from html import escape
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component

import salhub.pipelines  # noqa: F401 - registers all pipelines before one is imported
from salhub.models.lexrank.sentence_splitting import split_sentences
from salhub.models.lexrank.summarizing import Summary
from salhub.pipelines import pipeline
from salhub.ui.controls import sent_number, slider
from salhub.ui.page import Contents, State
from salhub.ui.panes import pipeline_program, sentence
from salhub.ui.text_page import TextPage
from salhub.viz.shaded_text import shaded_html

# Three dashes and no more, as longer lines underline headings.
_SEPARATOR = re.compile(r"^---\s*$", re.MULTILINE)


class Page(TextPage):
    """One text, or several, and what carries them."""

    title = "LexRank"
    sentence = (
        "Summarize one or several texts by the sentences that have most in common with the others."
    )
    verb = "Summarize"
    help = "Separate several texts with a line of three dashes."
    samples = {"Article": "sample:article"}
    most_characters = 200_000
    endpoints = {"summarise": (gr.Textbox, gr.HTML, gr.HTML, gr.HTML, gr.Code)}

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pipeline = pipeline(self.name)

    def main_controls(self) -> dict[str, Component]:
        """Build the length of the summary."""
        return {"num_sentences": slider(1, 20, 3, step=1, label="Sentences")}

    def setting_controls(self) -> dict[str, Component]:
        """Build what the summary is about, and the settings of the model."""
        config = self.pipeline.model.config
        return {
            "about": gr.Textbox(
                "", label="About", info="Topic of the summary; leave empty for a general one."
            ),
            "threshold": slider(
                0, 0.5, config.threshold or 0, step=0.05, label="Threshold",
                info="0 selects the continuous method.",
            ),
            "damping": slider(
                0.05, 1, config.damping, step=0.05, label="Damping",
                info="Probability of following a link.",
            ),
            "leave_out_repetitions": gr.Checkbox(
                config.redundancy is not None, label="Remove repetitions"
            ),
        }  # fmt: skip

    def panes(self) -> dict[str, Component]:
        """Build the summary and what it rests on."""
        panes: dict[str, Component] = {
            "summary": gr.Textbox(label="Summary", lines=4, interactive=False, buttons=["copy"])
        }
        with gr.Tabs():
            for name, title in (("shaded", "Shaded"), ("reasons", "Why"), ("others", "Others")):
                with gr.Tab(title):
                    panes[name] = gr.HTML()
        return panes

    def contents(self, query: State) -> Contents:
        """Summarize."""
        documents = _documents(query["text"])
        result = self.pipeline(
            documents, together=True, **_call_settings(query), **self._changed(query)
        )
        shaded = "<hr>".join(shaded_html(result.shaded(n)) for n in range(len(documents)))
        language = self.pipeline.model.config.language
        return {
            "summary": {"value": result.summary()},
            "shaded": {"value": shaded},
            "reasons": {"value": _reasons(result.found)},
            "others": {"value": _others(documents, len(result.chosen), language)},
        }

    def code(self, query: State) -> str:
        """Return the program that writes the summary."""
        number = len(_documents(query["text"]))
        paths = [f'Path("text{n + 1}.txt")' for n in range(number)]
        several = {"together": True} if number > 1 else {}
        return pipeline_program(
            "summarise",
            self.name,
            f"[{', '.join(paths)}]" if several else 'Path("text.txt")',
            ["print(result.text)"],
            settings=self._changed(query),
            call={**several, **_call_settings(query)},
        )

    def summarise(
        self,
        text: str,
        num_sentences: float = 3,
        query: str = "",
        threshold: float = 0.0,
        damping: float = 0.85,
        leave_out_repetitions: bool = True,
    ) -> tuple[str, ...]:
        """Summarize a text, or several with a line of three dashes between them.

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
        state = {
            "text": text,
            "num_sentences": num_sentences,
            "about": query,
            "threshold": threshold,
            "damping": damping,
            "leave_out_repetitions": leave_out_repetitions,
        }
        return self.values_of(state, "summary", "shaded", "reasons", "others", "code")

    def _changed(self, query: State) -> dict[str, Any]:
        """What the controls change of the shipped model."""
        shipped = self.pipeline.model.config
        wanted = {
            "threshold": float(sent_number("threshold", query["threshold"])) or None,
            "damping": float(sent_number("damping", query["damping"])),
            "redundancy": (shipped.redundancy or "cosine")
            if query["leave_out_repetitions"]
            else None,
        }
        return {name: one for name, one in wanted.items() if one != getattr(shipped, name)}


def _documents(text: str) -> list[str]:
    return [part for part in _SEPARATOR.split(text) if part.strip()]


def _call_settings(query: State) -> dict[str, Any]:
    about = (query["about"] or "").strip()
    # Half a sentence is refused by the pipeline.
    budget = sent_number("num_sentences", query["num_sentences"])
    return {"budget": budget, **({"query": about} if about else {})}


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
        f"<li>{escape(found.sentences[one.sentence].text)} ({100 * one.similarity:.0f} % like “"
        f"{escape(found.sentences[one.repeats].text)}”)</li>"
        for one in found.left_out
    )
    left_out = f"<p>Left out because they repeat a chosen sentence:</p><ul>{dropped}</ul>"
    return f"<ol>{''.join(items)}</ol>" + (left_out if dropped else "")


def _others(documents: list[str], count: int, language: str) -> str:
    sentences = [span.of(text) for text in documents for span in split_sentences(text, language)]
    drawn = sorted(np.random.default_rng(0).permutation(len(sentences))[:count].tolist())
    rows = {
        "The first sentences": sentences[:count],
        "Random sentences": [sentences[place] for place in drawn],
    }
    return sentence("A good summary must beat these:") + "".join(
        f"<h4>{escape(title)}</h4><p>{escape(' '.join(chosen))}</p>"
        for title, chosen in rows.items()
    )
