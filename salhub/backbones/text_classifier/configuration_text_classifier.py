"""Configuration of the small text classifier."""

from dataclasses import field

from salhub.configuration import CLASS_FIELDS, SaliencyConfig, strict


@strict
class TextClassifierConfig(SaliencyConfig):
    """Configuration of a classifier of short texts: word vectors and one layer of convolutions.

    Args:
        vocab_size: Number of tokens.
        embedding_size: Numbers of a token's vector, k of the paper.
        num_filters: Filters of each width, m of the paper.
        kernel_sizes: Widths of the filters in tokens, h of the paper; none for a classifier of the
            mean vector alone.
        dropout: Share of the features left out in training.
        word_dropout: Share of the tokens left out in training; ours.
        pad_token_id: Token that fills up shorter texts; it counts for nothing.

    Raises:
        ValueError: A number out of range.

    Source: Kim, "Convolutional Neural Networks for Sentence Classification", EMNLP 2014
        (arXiv 1408.5882), section 2, for filters and max pooling. That means are taken beside the
        maxima, of the features and of the vectors themselves, is ours.

    Example:
        >>> TextClassifierConfig(vocab_size=100, num_labels=4).num_features
        384
    """

    model_type = "salhub_text_classifier"
    inherited_fields = CLASS_FIELDS

    vocab_size: int = 11000
    embedding_size: int = 128
    num_filters: int = 128
    kernel_sizes: list[int] | tuple[int, ...] = field(default_factory=lambda: [3])
    dropout: float | int = 0.5
    word_dropout: float | int = 0.3
    pad_token_id: int | None = 0

    def validate_ranges(self) -> None:
        """Sizes are positive, shares below 1, and the padding is a token."""
        for name in ("vocab_size", "embedding_size", "num_filters"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        if any(size < 1 for size in self.kernel_sizes):
            raise ValueError(f"kernel_sizes must be positive, got {list(self.kernel_sizes)}.")
        for name in ("dropout", "word_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}.")
        if self.pad_token_id is None or not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id must be a token, 0 to {self.vocab_size - 1}, got "
                f"{self.pad_token_id}."
            )

    @property
    def num_features(self) -> int:
        """What the last layer sees: mean vector, and maximum and mean of every filter."""
        return self.embedding_size + 2 * self.num_filters * len(self.kernel_sizes)
