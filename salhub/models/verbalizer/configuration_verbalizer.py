"""Configuration of the saliency verbalizer."""

from typing import Any, Literal, get_args

from salhub.config_fields import ranged
from salhub.configuration import strict
from salhub.explaining.configuration_explained_classifier import (
    ExplainedClassifierConfig,
)

Language = Literal["en", "de", "fr", "es", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
# Names in the code of the paper, which calls a multiple of the standard deviation a quantile.
METRIC_ALIASES: dict[str, Any] = {
    "mean": "top_mean",
    "standard_deviation": "std",
    "var": "variance",
}
# Windows of the search; the number of filters doubles with every further word.
MAX_FILTER_LENGTH = 12


@strict
class VerbalizerConfig(ExplainedClassifierConfig):
    """Configuration of a verbalizer, which explains a text classifier in words.

    Args:
        mode: "search" names the phrases that cover most of the evidence within a budget of words;
            "smv" is the summary of the paper; "instruct" asks a chat model and audits its answer.
        filter_length: Number of words in a window of the search, L in the paper.
        metric: What a candidate's mean score is compared with: "top_mean" (the mean of the largest
            scores), "std", "variance" or "quantile".
        metric_value: Share of scores for "top_mean" and "quantile"; factor for "std" and
            "variance".
        sign: "+" names only words that speak for the class, "-" only words against it, "any" both.
        top_k: Number of candidates per search that are listed, and that "smv" joins.
        max_phrases: Maximum number of phrases; ours.
        max_words: Maximum number of words in all phrases; ours.
        min_gain: Smallest share of the positive evidence that a phrase must add; ours.
        min_word_gain: The same for a single word in the list that fills the budget; ours.
        show_coverage: Show shares of the positive evidence.
        show_against: Name the strongest evidence against the class, if it is `min_gain` or more;
            ours.
        language: "en", "de", "fr", "es" or "zh".
        templates: Sentences to use instead of those of the language, see `templates/en.yaml`.
        attribution: "integrated_gradients", "gradient_x_input", "occlusion" or "random" (a
            control).
        n_steps: Points on the path of integrated gradients.
        internal_batch_size: Maximum number of rows per pass of the classifier; None for all on an
            accelerator, and for as many as fit in the cache of a CPU.
        baseline: What a word is compared with: the "pad" or "mask" token, or "zero" vectors.
        word_level: Join the pieces of a word; otherwise every token counts as a word.
        merge: Score of a word: the "sum" of its pieces, or the piece with the largest magnitude
            ("max_abs").
        compat: "smv" searches where the code of the paper does: never in the last window.
        llm: Chat model of "instruct", a folder or a Hub repository; None if you pass one.
        evidence: What the chat model is told: the "phrases" found, all "tokens", or "both".
        on_unfaithful: What to do with an answer that fails the audit: "fallback_template",
            "repair" or "flag".
        strict: Raise the error of a failing chat model instead of using the template.
        max_new_tokens: Maximum length of a chat model's answer, in tokens.
        mask_label: Write {placeholder} for the name of the class, for evaluations.
        seed: Seed of the control "random" and of a chat model that samples.

    Raises:
        ValueError: A value that is not among these, or out of range.

    Source: Feldhus et al., "Saliency Map Verbalization: Comparing Feature Importance
        Representations from Model-free and Instruction-based Methods", NLRSE 2023
        (arXiv 2210.07222).

    Example:
        >>> VerbalizerConfig(language="de").filter_length
        5
    """

    model_type = "salhub_verbalizer"
    loaded_fields = ExplainedClassifierConfig.loaded_fields | {"llm", "max_new_tokens", "seed"}

    mode: Literal["search", "smv", "instruct"] = "search"
    filter_length: int = ranged(
        5,
        least=1,
        most=MAX_FILTER_LENGTH,
        hint="the number of filters doubles with every further word",
    )
    metric: Literal[
        "top_mean", "std", "variance", "quantile", "mean", "standard_deviation", "var"
    ] = "top_mean"
    metric_value: float | int = ranged(0.4, least=0, most=10**6)
    sign: Literal["+", "-", "any"] = "+"
    top_k: int = ranged(5, least=1)
    max_phrases: int = ranged(3, least=1)
    max_words: int = ranged(12, least=1)
    min_gain: float | int = ranged(0.03, least=0, most=1)
    min_word_gain: float | int = ranged(0.01, least=0, most=1)
    show_coverage: bool = True
    show_against: bool = True
    language: Language = "en"
    templates: dict | None = None
    attribution: Literal["integrated_gradients", "gradient_x_input", "occlusion", "random"] = (
        "integrated_gradients"
    )
    n_steps: int = ranged(25, least=1, most=10**4)
    internal_batch_size: int | None = ranged(None, least=1)
    baseline: Literal["pad", "mask", "zero"] = "pad"
    word_level: bool = True
    merge: Literal["sum", "max_abs"] = "sum"
    compat: Literal["smv"] | None = None
    llm: str | None = None
    evidence: Literal["phrases", "tokens", "both"] = "phrases"
    on_unfaithful: Literal["fallback_template", "repair", "flag"] = "fallback_template"
    strict: bool = False
    max_new_tokens: int = ranged(80, least=1, most=2**16)
    mask_label: bool = False
    seed: int = ranged(0, least=0, most=2**63 - 1)

    def __post_init__(self, **kwargs: Any) -> None:
        """Resolve other names of the metrics."""
        self.metric = METRIC_ALIASES.get(self.metric, self.metric)
        super().__post_init__(**kwargs)

    def validate_metric_value(self) -> None:
        """A share is at most 1."""
        if self.metric in ("top_mean", "quantile") and self.metric_value > 1:
            raise ValueError(
                f"metric_value of {self.metric} must be at most 1, got {self.metric_value}."
            )
