"""Configuration of the saliency verbalizer."""

from typing import Any, Literal, get_args

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
            "smv" is the summary of the paper; "instruct" asks a chat model, and audits it.
        filter_length: Words of a window of the search, L of the paper.
        metric: What a candidate's mean score is compared with: "top_mean" (the mean of the largest
            scores), "std", "variance" or "quantile".
        metric_value: The share of scores of "top_mean" and "quantile"; the factor of "std" and
            "variance".
        sign: "+" names only words that speak for the class, "-" only words against it, "any" both.
        top_k: Candidates of each search that are listed, and that "smv" joins.
        max_phrases: Most phrases that are named; ours.
        max_words: Most words that are named, over all phrases; ours.
        min_gain: Smallest share of the positive evidence that a phrase must add; ours.
        min_word_gain: The same of a single word in the list that uses up the budget; ours.
        show_coverage: Print shares of the positive evidence.
        show_against: Name what speaks most against the class, where it is `min_gain` or more; ours.
        language: "en", "de", "fr", "es" or "zh".
        templates: Sentences to use instead of those of the language, see `templates/en.yaml`.
        attribution: "integrated_gradients", "gradient_x_input", "occlusion" or "random" (a
            control).
        n_steps: Points on the path of integrated gradients.
        internal_batch_size: Most rows that pass the classifier at once; None for all on an
            accelerator, and for as many as stay in the cache of a processor.
        baseline: What a word is compared with: the "pad" or "mask" token, or "zero" vectors.
        word_level: Join the pieces of a word; otherwise every token is a word.
        merge: The score of a word is the "sum" of its pieces, or the one of largest size
            ("max_abs").
        compat: "smv" searches where the code of the paper does: never in the last window.
        llm: Chat model of "instruct", a folder or a Hub repository; None where one is given.
        evidence: What the chat model is told: the found "phrases", all "tokens", or "both".
        on_unfaithful: What becomes of an answer that the audit refuses: "fallback_template",
            "repair" or "flag".
        strict: Let a failing chat model fail, instead of giving the template.
        max_new_tokens: Longest answer of a chat model, in tokens.
        mask_label: Write {placeholder} for the name of the class, for evaluations.
        seed: Of the control "random" and of a chat model that samples.

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
    filter_length: int = 5
    metric: Literal[
        "top_mean", "std", "variance", "quantile", "mean", "standard_deviation", "var"
    ] = "top_mean"
    metric_value: float | int = 0.4
    sign: Literal["+", "-", "any"] = "+"
    top_k: int = 5
    max_phrases: int = 3
    max_words: int = 12
    min_gain: float | int = 0.03
    min_word_gain: float | int = 0.01
    show_coverage: bool = True
    show_against: bool = True
    language: Language = "en"
    templates: dict | None = None
    attribution: Literal["integrated_gradients", "gradient_x_input", "occlusion", "random"] = (
        "integrated_gradients"
    )
    n_steps: int = 25
    internal_batch_size: int | None = None
    baseline: Literal["pad", "mask", "zero"] = "pad"
    word_level: bool = True
    merge: Literal["sum", "max_abs"] = "sum"
    compat: Literal["smv"] | None = None
    llm: str | None = None
    evidence: Literal["phrases", "tokens", "both"] = "phrases"
    on_unfaithful: Literal["fallback_template", "repair", "flag"] = "fallback_template"
    strict: bool = False
    max_new_tokens: int = 80
    mask_label: bool = False
    seed: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        """Resolve other names of the metrics."""
        self.metric = METRIC_ALIASES.get(self.metric, self.metric)
        super().__post_init__(**kwargs)

    def validate_numbers(self) -> None:
        """Numbers are in their ranges."""
        if not 1 <= self.filter_length <= MAX_FILTER_LENGTH:
            raise ValueError(
                f"filter_length must be 1 to {MAX_FILTER_LENGTH}, got {self.filter_length}; the "
                "number of filters doubles with every further word."
            )
        for name in ("top_k", "max_phrases", "max_words", "n_steps", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.internal_batch_size is not None and self.internal_batch_size < 1:
            raise ValueError(
                f"internal_batch_size must be at least 1, got {self.internal_batch_size}."
            )
        for name in ("min_gain", "min_word_gain"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}.")
        share = self.metric in ("top_mean", "quantile")
        if self.metric_value < 0 or (share and self.metric_value > 1):
            limit = "in [0, 1]" if share else "0 or more"
            raise ValueError(
                f"metric_value of {self.metric} must be {limit}, got {self.metric_value}."
            )
