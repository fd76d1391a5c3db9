"""The pipeline of the models that choose the sentences of a text that carry it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from salhub.data.text_sources import load_text
from salhub.models.lexrank.result_lexrank import (
    ExtractiveSummarizationResult,
)
from salhub.models.lexrank.summarizing import DEFAULT_BUDGET, summarize
from salhub.pipelines.base import TextPipeline

_SETTINGS = ("budget", "query", "order")


@dataclass(frozen=True)
class _Together:
    """Texts that have one summary; a list would be one text that is split already."""

    texts: list[Any]


class ExtractiveSummarizationPipeline(TextPipeline):
    """Summarize texts by choosing some of their sentences.

    Example:
        >>> import salhub
        >>> summarize = salhub.pipeline("salhub/lexrank-news-en")
        >>> result = summarize("sample:article", budget=1)
        >>> len(result.chosen), result.chosen[0].text in salhub.load_text("sample:article")
        (1, True)
    """

    output_suffix = ".txt"
    result_class = ExtractiveSummarizationResult
    writes_by_default = False
    call_settings = (*_SETTINGS, "together")
    sample = "sample:article"
    example = """
import salhub

# a text, a pathlib.Path, or several with together=True
result = salhub.pipeline("{model}")("{sample}", budget="100w")
print(result.text)
result.save("summary.html")
"""
    hub_task = "summarization"

    def __call__(
        self, texts: Any, *, together: bool = False, **kwargs: Any
    ) -> ExtractiveSummarizationResult | list[ExtractiveSummarizationResult]:
        """Summarize one text, or several.

        Args:
            texts: A text; a `pathlib` path of a text file; "sample:article"; an open file; or a
                list or generator of these. A text in such a list may also be a list of its
                sentences.
            together: Make one summary of all texts.
            **kwargs: `budget`, the length: a number of sentences, 3 by default, or "100w", "665c"
                (characters) or "20%"; `query`, what the summary should be about; `order`,
                "position" or "score"; and settings of the model for this call alone, such as
                `threshold`, `damping` and `redundancy`.

        Returns:
            One result a text, or one for all.

        Raises:
            ValueError: A text without sentences, or a setting out of its range.
            TypeError: Something that is no text.
        """
        if together:
            is_one = isinstance(texts, str | bytes | os.PathLike | Mapping) or hasattr(
                texts, "read"
            )
            several = [texts] if is_one else list(texts)
            return super().__call__([_Together(several)], **kwargs)[0]
        return super().__call__(texts, **kwargs)

    def _sanitize_parameters(self, **settings):
        own = {name: settings.pop(name) for name in _SETTINGS if name in settings}
        self._model_with(settings)
        given = {name: value for name, value in own.items() if value is not None}
        return {}, {**given, **settings}, {}

    def choices(self) -> dict[str, list[str]]:
        """Return nothing: there is no list to choose from, for `salhub info`."""
        return {}

    def prepare(self, text: Any) -> dict[str, Any]:
        texts = text.texts if isinstance(text, _Together) else [text]
        return {"documents": [one if isinstance(one, list) else load_text(one) for one in texts]}

    def _forward(
        self,
        model_inputs,
        budget: Any = DEFAULT_BUDGET,
        query: str | None = None,
        order: str = "position",
        **settings: Any,
    ):
        model, documents = self._model_with(settings), model_inputs["documents"]
        return {"found": summarize(model, documents, budget=budget, query=query, order=order)}

    def postprocess(self, model_outputs) -> ExtractiveSummarizationResult:
        return ExtractiveSummarizationResult(model_outputs["found"], self._model_name())
