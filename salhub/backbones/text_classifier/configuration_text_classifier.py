"""Configuration of the small text classifier."""

from salhub.config_fields import MOST_CHANNELS, ranged
from salhub.configuration import CLASS_FIELDS, SaliencyConfig, strict


@strict
class TextClassifierConfig(SaliencyConfig):
    """Configuration of a classifier of short texts: word vectors and one layer of convolutions.

    Args:
        vocab_size: Number of tokens.
        embedding_size: Size of a token's vector, k in the paper.
        num_filters: Number of filters of each width, m in the paper.
        kernel_sizes: Widths of the filters in tokens, h in the paper; empty for a classifier of
            the mean vector.
        dropout: Share of the features dropped during training.
        word_dropout: Share of the tokens dropped during training; ours.
        pad_token_id: Token that pads shorter texts; it is ignored.

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

    vocab_size: int = ranged(11000, least=1, most=2**22)
    embedding_size: int = ranged(128, least=1, most=MOST_CHANNELS)
    num_filters: int = ranged(128, least=1, most=MOST_CHANNELS)
    kernel_sizes: list[int] | tuple[int, ...] = ranged([3], least=1, most=128)
    dropout: float | int = ranged(0.5, least=0, below=1)
    word_dropout: float | int = ranged(0.3, least=0, below=1)
    pad_token_id: int | None = 0

    def validate_padding(self) -> None:
        """The padding is a token."""
        if self.pad_token_id is None or not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id must be a token, 0 to {self.vocab_size - 1}, got "
                f"{self.pad_token_id}."
            )

    @property
    def num_features(self) -> int:
        """What the last layer sees: mean vector, and maximum and mean of every filter."""
        return self.embedding_size + 2 * self.num_filters * len(self.kernel_sizes)
