"""A small text classifier: word vectors, one layer of convolutions, pooling, a linear layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput

from salhub.backbones.text_classifier.configuration_text_classifier import TextClassifierConfig
from salhub.modeling import SaliencyPreTrainedModel

# Standard deviation of fresh word vectors, as that of the vectors made from counts.
VECTOR_SCALE = 0.1


class TextClassifierForSequenceClassification(SaliencyPreTrainedModel):
    """A classifier of short texts, small enough to be shipped with what explains it.

    Example:
        >>> model = TextClassifierForSequenceClassification(TextClassifierConfig(vocab_size=50))
        >>> model(torch.tensor([[4, 7, 9]])).logits.shape
        torch.Size([1, 2])
    """

    config: TextClassifierConfig
    base_model_prefix = "text_classifier"
    main_input_name = "input_ids"
    input_modalities = ["text"]

    def __init__(self, config: TextClassifierConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(
            config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id
        )
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.embedding_size, config.num_filters, size, padding=size // 2)
            for size in config.kernel_sizes
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.num_features, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, 0.0, VECTOR_SCALE)
            init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.Conv1d | nn.Linear):
            # torch's own; transformers' default of 0.02 would start almost at zero.
            limit = module.weight[0].numel() ** -0.5
            init.uniform_(module.weight, -limit, limit)
            init.uniform_(module.bias, -limit, limit)
        else:
            PreTrainedModel._init_weights(self, module)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Classify texts.

        Args:
            input_ids: Tokens, int64 (B, T).
            attention_mask: 1 for tokens and 0 for padding, (B, T). By default everything but
                `pad_token_id` counts, and with `inputs_embeds` everything.
            inputs_embeds: Vectors instead of tokens, (B, T, embedding_size).
            labels: True classes in [0, num_labels), int64 (B,); with them the mean cross-entropy is
                returned too.

        Returns:
            `logits` (B, num_labels) and, with labels, `loss` ().

        Raises:
            ValueError: Not exactly one of `input_ids` and `inputs_embeds`, a wrong shape, or a
                token that is not in the vocabulary.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            self._check_ids(input_ids)
            inputs_embeds = self.embeddings(input_ids)
            if attention_mask is None:
                attention_mask = (input_ids - int(self.config.pad_token_id or 0)).bool()
        self._check_vectors(inputs_embeds, attention_mask)
        if attention_mask is None:
            attention_mask = inputs_embeds.new_ones(inputs_embeds.shape[:2])
        logits = self.classifier(self.dropout(self._features(inputs_embeds, attention_mask)))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _features(self, vectors: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.to(vectors.dtype)[..., None]
        # Longer texts say more, though not in proportion: a mean would hide it.
        size = mask.sum(dim=1).clamp(min=1).sqrt()
        vectors = self._with_dropout(vectors * mask)
        features = [vectors.sum(dim=1) / size]
        for convolution in self.convolutions:
            hidden = convolution(vectors.transpose(1, 2)).relu().transpose(1, 2)
            # A filter of even width gives one place more than there are tokens.
            hidden = hidden[:, : vectors.shape[1]] * mask
            features += [hidden.amax(dim=1), hidden.sum(dim=1) / size]
        return torch.cat(features, dim=-1)

    def _with_dropout(self, vectors: Tensor) -> Tensor:
        if not self.training:
            return vectors
        kept = torch.rand(vectors.shape[:2], device=vectors.device) >= self.config.word_dropout
        return F.dropout(vectors * kept[..., None], self.config.dropout / 2)

    def _check_ids(self, input_ids: Tensor) -> None:
        if input_ids.ndim != 2 or not input_ids.numel():
            raise ValueError(
                f"input_ids must have shape (B, T), none of them 0, got {tuple(input_ids.shape)}."
            )
        if torch.compiler.is_compiling():
            return
        low, high = map(int, input_ids.aminmax())
        if low < 0 or high >= self.config.vocab_size:
            raise ValueError(
                f"input_ids must be tokens 0 to {self.config.vocab_size - 1}, got {low} to {high}; "
                "use the tokenizer that was saved with the model."
            )

    def _check_vectors(self, vectors: Tensor, attention_mask: Tensor | None) -> None:
        size = self.config.embedding_size
        if vectors.ndim != 3 or vectors.shape[-1] != size:
            raise ValueError(
                f"inputs_embeds must have shape (B, T, {size}), got {tuple(vectors.shape)}."
            )
        if attention_mask is not None and attention_mask.shape != vectors.shape[:2]:
            raise ValueError(
                f"attention_mask must have shape {tuple(vectors.shape[:2])}, one per token, "
                f"got {tuple(attention_mask.shape)}."
            )
