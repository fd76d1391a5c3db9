"""The pipeline of the models that say in words why a text classifier decided as it did."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from salhub.data.text_sources import load_text_or_pair
from salhub.entries import Model
from salhub.hub import hub_keywords
from salhub.models.verbalizer.explaining import TextMap, check_text, explain_texts
from salhub.models.verbalizer.instruction import instruct
from salhub.models.verbalizer.realization import probability_words, templates_of
from salhub.models.verbalizer.result_verbalizer import (
    SaliencyVerbalizationResult,
)
from salhub.models.verbalizer.verbalizer import Verbalizer
from salhub.pipelines.base import TextPipeline, load_model, whole_number
from salhub.pipelines.chat import as_chat
from salhub.pipelines.doubts import PRESENT_FROM, doubts_of_scores
from salhub.tokenizing import load_tokenizer, refuse_empty

logger = logging.getLogger(__name__)

_TEXTS_TOGETHER = 32
# Closer shares than of pictures: a third of all film reviews lie between 38 and 62 %, and most of
# these answers are right. Of ordinary texts this doubts one or two in a hundred.
_NEAR_TIE = 0.98


class SaliencyVerbalizationPipeline(TextPipeline):
    """Say which words of a text made a classifier decide as it did.

    Example:
        >>> import salhub
        >>> explain = salhub.pipeline("salhub/verbalizer-movie-reviews")
        >>> result = explain("A wonderful film.")
        >>> result.label, result.phrases[0].text
        ('positive', 'wonderful')
    """

    result_class = SaliencyVerbalizationResult
    call_settings = ("class_labels", "contrast")
    sample = "sample:review"
    example = """
import salhub

result = salhub.pipeline("{model}")("{sample}")
print(result.text)
print(result.coverage, result.audit["is_faithful"])
result.save("explained.html")
"""
    hub_task = "text-classification"
    required_files = ("tokenizer_config.json",)

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat: Any = None,
        **kwargs,
    ) -> None:
        config = model.config
        chosen = chat if chat is not None else config.llm
        self.chat = None if chosen is None else as_chat(chosen, config.max_new_tokens, config.seed)
        super().__init__(model, **kwargs)
        self.tokenizer = tokenizer or _load_tokenizer(config.name_or_path, {})
        refuse_empty(self.tokenizer, type(self.tokenizer).__name__)

    @classmethod
    def from_name(
        cls,
        name: str | None,
        method: Model,
        /,
        *,
        classifier: Any = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat: Any = None,
        device: str | int | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> Self:
        """Load a model by name; see `TaskPipeline.from_name`.

        Args:
            name: The model; None to explain `classifier`.
            method: Its method.
            classifier: A text classifier of your own: a folder, a Hub name, or a loaded model.
            tokenizer: Its tokenizer; the one saved with the model by default.
            chat: Chat model of the mode "instruct": a name, a function from messages to an answer,
                or an object with `generate(conversations)`.
            device: Where to run; an accelerator where there is one, else the CPU.
            dtype: Precision of the weights.
            batch_size: Texts that pass together, 32 by default.
            **settings: Keywords of every call, fields of the configuration, and keywords of the
                Hub.

        Raises:
            ValueError: A loaded classifier without a tokenizer, or "instruct" without a chat model.
        """
        calling = cls._take_calling(settings)
        if classifier is None:
            model = load_model(name, method, dtype, settings)
        else:
            precision = {} if dtype is None else {"dtype": dtype}
            model = method.model_class.from_classifier(classifier, **precision, **settings)
            name = classifier if isinstance(classifier, str | os.PathLike) else None
        tokenizer = tokenizer or _load_tokenizer(name, settings)
        parts = {"device": device, "batch_size": batch_size, "chat": chat}
        return cls(model, tokenizer, **parts, **calling)

    @classmethod
    def from_model(
        cls,
        model: PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat: Any = None,
        device: str | int | torch.device | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> Self:
        """Make a pipeline of a model that is already loaded; see `TaskPipeline.from_model`.

        Args:
            model: The model.
            tokenizer: Its tokenizer; needed where the model was not loaded from anywhere.
            chat: As of `from_name`.
            device: Where to run; an accelerator where there is one, else the CPU.
            batch_size: Texts that pass together, 32 by default.
            **settings: Keywords of every call.
        """
        cls._refuse_loading_settings(settings)
        parts = {"device": device, "batch_size": batch_size, "chat": chat}
        return cls(model, tokenizer, **parts, **settings)

    @property
    def class_names(self) -> Mapping[int, str]:
        """Names of the classifier's classes by index."""
        return self.model.id2label

    def __call__(
        self, texts: Any, *, batch_size: int | None = None, **kwargs: Any
    ) -> SaliencyVerbalizationResult | list[SaliencyVerbalizationResult]:
        """Explain the class of one text, or of several.

        Args:
            texts: A text; a `pathlib` path of a text file; "sample:review"; an open file;
                {"text": …, "text_pair": …}, as in transformers, for classifiers of two texts; or a
                list or generator of these.
            batch_size: Texts that pass together, 32 by default.
            **kwargs: `class_labels`, the class to explain, by index or name, the most likely by
                default; `contrast`, a class that it is compared with: why this and not that; and
                settings of the model for this call alone, such as `max_words` and `language`.

        Returns:
            One result a text.

        Raises:
            ValueError: A text without a word, no such class, or two classes that are the same.
            TypeError: Something that is no text.
        """
        _, asked, settings = self._sanitize_parameters(**{**self._forward_params, **kwargs})
        if batch_size is None:
            batch_size = self._batch_size or _TEXTS_TOGETHER
        asked["together"] = whole_number("batch_size", batch_size)
        is_several = isinstance(texts, Iterable) and not isinstance(texts, str | bytes | Mapping)
        is_several = is_several and not hasattr(texts, "read")
        inputs = [self.preprocess(text) for text in (texts if is_several else [texts])]
        joined = {"texts": [text for one in inputs for text in one["texts"]]}
        results = self.postprocess(self._forward(joined, **asked), **settings)
        return results if is_several else results[0]

    def _sanitize_parameters(self, class_labels=None, contrast=None, together=None, **settings):
        if self._model_with(settings).config.mode == "instruct" and self.chat is None:
            raise ValueError(
                "mode='instruct' needs a chat model; give chat=... (a name, a function, or an "
                "object with generate(conversations)), or llm=... with its name."
            )
        given = {"class_labels": class_labels, "contrast": contrast}
        found = {name: self.class_index(one) for name, one in given.items() if one is not None}
        return {}, {**found, **settings}, settings

    def choices(self) -> dict[str, list[str]]:
        """Return the classes that can be asked for, for `salhub info`."""
        names = [f"{index} {name}" for index, name in self.class_names.items()]
        return {"class_labels": names, "contrast": names}

    def prepare(self, text: Any) -> dict[str, Any]:
        content = load_text_or_pair(text)
        check_text(content)
        return {"texts": [content]}

    def _forward(
        self,
        model_inputs,
        class_labels: int | None = None,
        contrast: int | None = None,
        together: int = _TEXTS_TOGETHER,
        **settings: Any,
    ):
        texts = model_inputs["texts"]
        return {
            "maps": explain_texts(
                self._model_with(settings),
                self.tokenizer,
                texts,
                class_labels=[class_labels] * len(texts),
                other_labels=[contrast] * len(texts),
                batch_size=together,
            )
        }

    def postprocess(self, model_outputs, **settings) -> list[SaliencyVerbalizationResult]:
        maps: Sequence[TextMap] = model_outputs["maps"]
        labels = [self.class_name(one.class_label) for one in maps]
        others = [
            None if one.other_label is None else self.class_name(one.other_label) for one in maps
        ]
        config = self._model_with(settings).config
        asked = [not self._is_own_answer(one) for one in maps]
        told = Verbalizer(config).verbalize_batch(
            [one.words for one in maps], [one.scores for one in maps], labels, others, asked
        )
        if config.mode == "instruct":
            told = instruct(told, self.chat, config, class_names=[*self.class_names.values()])
        templates, results = templates_of(config), []
        for one, found in zip(told, maps, strict=True):
            doubt = None if found.doubt is None else templates[f"doubt_{found.doubt}"]
            if doubt is not None:
                logger.warning("%s", doubt)
            notes = [] if doubt is None else [doubt]
            if not config.mask_label:  # they name classes
                notes += self._notes_of_scores(found, templates)
            cut = templates["truncated"] if found.is_truncated else None
            name, predictions = self._model_name(), self._predictions(found)
            results.append(
                SaliencyVerbalizationResult(one, found, name, doubt, cut, notes, predictions)
            )
        return results

    def _predictions(self, found: TextMap) -> list[tuple[str, int, float]]:
        return [(self.class_name(index), index, share) for index, share in found.predictions]

    def _is_own_answer(self, found: TextMap) -> bool:
        """Whether the class explained is one that the classifier gave."""
        is_present = self.model.is_multi_label and found.probability >= PRESENT_FROM
        return is_present or found.class_label == found.predicted

    def _notes_of_scores(self, found: TextMap, templates: Mapping[str, Any]) -> list[str]:
        """Sentences on how sure the answer is, and that another one was asked for."""
        function = "sigmoid" if self.model.is_multi_label else "softmax"
        predictions = self._predictions(found)

        def words(probability: float) -> str:
            return probability_words(probability, templates)

        notes = doubts_of_scores(predictions, function, templates, words, _NEAR_TIE)
        if not self._is_own_answer(found):
            (name, _, best), *_ = predictions
            notes.append(templates["own_answer"].format(name=name, percent=words(best)))
        return notes


def _load_tokenizer(
    name: str | os.PathLike | None, settings: Mapping[str, Any]
) -> PreTrainedTokenizerBase:
    if not name:
        raise ValueError(
            "The classifier was not loaded by name, so its tokenizer is unknown; give tokenizer=..."
        )
    return load_tokenizer(name, **hub_keywords(settings))
