"""`salhub train lexrank`: learn from a collection of texts how rare words are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from salhub.data.text_collection import fingerprint, read_texts
from salhub.model_card import Facts
from salhub.models.lexrank.configuration_lexrank import LexRankConfig
from salhub.models.lexrank.modeling_lexrank import LexRankModel
from salhub.results import Results
from salhub.runner.arguments import RunArguments
from salhub.runner.recipe import FitRecipe


@dataclass(kw_only=True)
class LexRankArguments(RunArguments):
    """Options of `LexRankRecipe`.

    Args:
        data: Collection of texts, see `read_texts`.
        text_column: Heading of the column with the texts, if the file has columns.
        min_documents: Forget words that occur in fewer texts, see `fit_idf`.
        max_words: Number of most frequent words to keep; None for all.
        language: Code of the language, such as "en".
        lowercase: Whether "The" and "the" are the same word.
        stopwords: Language of a list of words to leave out; None to keep all.
        stemmer: Language of a Snowball stemmer; None to keep words as they are.
    """

    data: str
    text_column: str | None = None
    min_documents: int = 2
    max_words: int | None = None
    language: str = "en"
    lowercase: bool = True
    stopwords: str | None = None
    stemmer: str | None = None


class LexRankRecipe(FitRecipe):
    """Counts in how many texts of a collection each word occurs, to weight rare words more.

    Example:
        >>> arguments = LexRankArguments(output_dir="out", data="news.csv")
        >>> LexRankRecipe(arguments).arguments.min_documents
        2

    Source: Erkan and Radev 2004 (JAIR 22), section 2.
    """

    name = "lexrank"
    arguments_class = LexRankArguments

    def learned_options(self) -> dict[str, Any]:
        # The place of the collection does not matter, and what is in it stands in the results.
        return {**super().learned_options(), "data": Path(self.arguments.data).name}

    def build_model(self) -> nn.Module:
        options = self.arguments
        self.texts = read_texts(options.data, options.text_column)
        fields = {name: getattr(options, name) for name in ("language", "lowercase", "stopwords")}
        return LexRankModel(LexRankConfig(**fields, stemmer=options.stemmer))

    def fit(self, model: nn.Module, accelerator: Any) -> None:
        options = self.arguments
        model.fit_idf(
            self.texts,
            min_documents=options.min_documents,
            max_words=options.max_words,
            progress=accelerator.is_local_main_process,
        )

    def evaluate(self, model: nn.Module, accelerator: Any, results: Results) -> None:
        path = Path(self.arguments.data)
        results.data = {"name": path.name, "fingerprint": fingerprint(path)}
        results.add_metric("texts", model.config.num_documents)
        results.add_metric("words", model.config.vocab_size)

    def export(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder)

    def card_facts(self) -> Facts:
        name = Path(self.arguments.data).name
        return Facts(
            summary=f"LexRank with word rarity fitted on {name}.",
            example='summarize = salhub.pipeline("{model}")\nprint(summarize("A text.").text)',
            pipeline_tag="summarization",
        )
