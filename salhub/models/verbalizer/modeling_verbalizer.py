"""The saliency verbalizer: a text classifier, what it looked at, and a sentence that says so."""

import inspect
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from salhub.explaining.concurrency import exclusive_use
from salhub.explaining.modeling_explained_classifier import (
    ExplainedClassifierModel,
    check_class_range,
    refuses_unusable,
)
from salhub.modeling import attribution_scope
from salhub.models.verbalizer.attribution import (
    Explained,
    Frame,
    Target,
    gradient_x_input,
    integrated_gradients,
    occlusion,
    random_scores,
)
from salhub.models.verbalizer.configuration_verbalizer import VerbalizerConfig
from salhub.models.verbalizer.memory import is_sure_to_fit, rows_that_fit, usual_rows
from salhub.outputs import SaliencyOutput

# These keep their last layer under another name than "score".
_LAST_TOKEN_TYPES = frozenset({"ctrl", "xlnet"})
# Heads that give no logits of one text, though their layers have the same names.
# Tokens of a text by which it is found out whether a classifier needs them beside their vectors.
_COMPARED = 64
_NEEDS_TOKENS: MutableMapping[nn.Module, bool] = WeakKeyDictionary()
_OTHER_HEADS = ("ForTokenClassification", "ForMultipleChoice", "ForQuestionAnswering")


@dataclass
class TextSaliencyOutput(SaliencyOutput):
    """What the model returns.

    Args:
        saliency: Score of every token, float32 (B, T); above 0 speaks for the class. Special tokens
            and padding have 0.
        logits: (B, C).
        class_labels: The classes explained, int64 (B,).
        convergence_delta: How far the scores' sum is from what they explain, in logits, (B,);
            integrated gradients only.
    """

    class_labels: Tensor | None = None
    convergence_delta: Tensor | None = None


class SaliencyVerbalizerModel(ExplainedClassifierModel):
    """Scores the words of a text by how much they mattered to its class, and says so in words.

    Calling it gives the scores; `salhub.pipeline` gives the sentences.

    Example:
        >>> import torch
        >>> from salhub import TextClassifierConfig, TextClassifierForSequenceClassification
        >>> network = TextClassifierForSequenceClassification(TextClassifierConfig(vocab_size=50))
        >>> model = SaliencyVerbalizerModel.from_classifier(network)
        >>> model(torch.tensor([[4, 7, 9]])).saliency.shape
        torch.Size([1, 3])

    Source: Feldhus et al. 2023 (arXiv 2210.07222).
    """

    config: VerbalizerConfig
    config_class = VerbalizerConfig
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    main_input_name = "input_ids"
    input_modalities = ["text"]

    def __init__(self, config: VerbalizerConfig, backbone: nn.Module | None = None) -> None:
        super().__init__(config, backbone)
        self._refuse_unexplainable()

    def _refuse_unexplainable(self) -> None:
        own = self.config.backbone_config
        if own is None or not hasattr(self.backbone, "get_input_embeddings"):
            raise ValueError(
                f"{type(self.backbone).__name__} is not a text classifier of transformers; "
                f"give one that {self.auto_class} loads."
            )
        if not hasattr(_vectors_of(self.backbone), "weight"):
            raise ValueError(
                f"{type(self.backbone).__name__} has no word embeddings, which the "
                "explanation needs; give a classifier that has them, such as BERT."
            )
        if not _has_head(self.backbone):
            raise ValueError(
                f"{type(self.backbone).__name__} has no classification head; give a model that was "
                f"fine-tuned for classification and that {self.auto_class} loads."
            )
        if own.is_encoder_decoder:
            raise ValueError(
                f"{type(self.backbone).__name__} is an encoder-decoder model, which is not "
                "supported; give an encoder or a decoder, such as BERT."
            )
        if own.problem_type == "regression" or own.num_labels == 1:
            raise ValueError(
                "A regression model (problem_type 'regression', or one output) has no "
                "classes to explain; give a model with two or more classes."
            )

    @property
    def reads_last_token(self) -> bool:
        """Whether the class is read from the last token of a row, which must be no padding."""
        kind = self.config.backbone_config.model_type
        return hasattr(self.backbone, "score") or kind in _LAST_TOKEN_TYPES

    @property
    def is_multi_label(self) -> bool:
        """Whether a text may have several classes, each with a probability of its own."""
        return self.config.backbone_config.problem_type == "multi_label_classification"

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability of every class in float32, of the shape of the logits."""
        logits = logits.float()
        return logits.sigmoid() if self.is_multi_label else logits.softmax(dim=-1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        special_tokens_mask: Tensor | None = None,
        word_ids: Tensor | None = None,
        class_labels: Tensor | None = None,
        other_labels: Tensor | None = None,
        baseline_token: int | None = None,
        token_type_ids: Tensor | None = None,
    ) -> TextSaliencyOutput:
        """Score the tokens of texts.

        Args:
            input_ids: Tokens, int64 (B, T).
            attention_mask: 1 for tokens and 0 for padding, (B, T); by default everything counts.
            special_tokens_mask: 1 for tokens like [CLS], which are never compared with the
                baseline, (B, T); by default none.
            word_ids: Word of each token, -1 for none, int64 (B, T), for "occlusion"; by default
                each token is a word.
            class_labels: Class to explain of each text, int64 (B,); the most likely by default.
            other_labels: Class that it is compared with: why this rather than that, int64 (B,).
            baseline_token: Token that words are compared with where the classifier's configuration
                names none, such as the tokenizer's.
            token_type_ids: Which of two texts each token is of, (B, T), for classifiers of pairs.

        Raises:
            ValueError: A wrong shape, a token or class out of range, two classes that are the same,
                a classifier that lacks what the baseline asks for, or a text that memory has no
                room for.
            TypeError: Tokens that are no integers.
        """
        self._check_ids(input_ids)
        given = {
            "attention_mask": attention_mask,
            "special_tokens_mask": special_tokens_mask,
            "word_ids": word_ids,
            "token_type_ids": token_type_ids,
        }
        for name, values in given.items():
            if values is not None and values.shape != input_ids.shape:
                raise ValueError(
                    f"{name} must have the shape of input_ids, {tuple(input_ids.shape)}, got "
                    f"{tuple(values.shape)}."
                )
        with attribution_scope(self):
            ids = input_ids.clone()
            mask = torch.ones_like(ids) if attention_mask is None else attention_mask.clone().long()
            is_word = mask.bool()
            if special_tokens_mask is not None:
                is_word = is_word & ~special_tokens_mask.clone().bool()
            frame = Frame(mask, ids, None if token_type_ids is None else token_type_ids.clone())
            vectors, baseline = self._vectors(frame, is_word, baseline_token)
            largest = self._rows_at_once(vectors, frame)
            chunks = [slice(row, row + largest) for row in range(0, len(ids), largest)]
            with torch.no_grad():
                logits = torch.cat([self._logits(vectors[one], frame[one]) for one in chunks])
            target = self._target(logits, class_labels, other_labels)
            explained = Explained(self._logits, vectors, baseline, frame, target, logits, largest)
            words = _word_ids(word_ids, is_word)
            saliency, delta = self._attribute(explained, ids, is_word, words)
        return TextSaliencyOutput(
            saliency=saliency.detach().float(),
            logits=logits.detach(),
            class_labels=target.classes,
            convergence_delta=None if delta is None else delta.detach(),
        )

    def _attribute(
        self, explained: Explained, ids: Tensor, is_word: Tensor, words: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        if self.config.attribution == "integrated_gradients":
            return integrated_gradients(explained, self.config.n_steps)
        if self.config.attribution == "gradient_x_input":
            return gradient_x_input(explained), None
        if self.config.attribution == "occlusion":
            return occlusion(explained, words), None
        return random_scores(ids * is_word, self.config.seed) * is_word, None

    @refuses_unusable
    def logits_of(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """What the classifier says of texts, (B, C), as it is explained: from word vectors."""
        with attribution_scope(self), torch.no_grad():
            frame = Frame(attention_mask, input_ids, token_type_ids)
            return self._logits(self._own_vectors(frame), frame)

    def takes(self, name: str) -> bool:
        """Whether the classifier has an argument of that name, such as "token_type_ids"."""
        return name in inspect.signature(self.backbone.forward).parameters

    def _rows_at_once(self, vectors: Tensor, frame: Frame) -> int:
        rows, length = len(vectors), vectors.shape[1]
        largest = self.config.internal_batch_size or usual_rows(length, vectors.device)
        steps = self.config.n_steps if self.config.attribution == "integrated_gradients" else 1
        if is_sure_to_fit(min(largest, rows * steps), length):
            return largest
        # The length is cut where the pass is weighed; what is told of the tokens is cut with it.
        own = frame[:1]

        def classify(short: Tensor) -> Tensor:
            part = own[:, : short.shape[1]]
            return self._logits(short, replace(part, mask=torch.ones_like(part.mask)))

        return min(largest, rows_that_fit(classify, vectors, self.backbone))

    def _own_vectors(self, frame: Frame) -> Tensor:
        """Vectors of tokens; at the first call it is found out how the classifier takes them.

        Raises:
            ValueError: What it says of vectors is not what it says of their tokens.
        """
        vectors = self._looked_up(frame.ids)
        if self.backbone in _NEEDS_TOKENS:
            return vectors
        own, short = frame[:1, :_COMPARED], vectors[:1, :_COMPARED]
        expected = self._answer(own, input_ids=own.ids)
        room = (1e-4 if expected.dtype == torch.float32 else 0.03) * max(1, expected.abs().max())
        for needs_tokens in (False, True):
            with suppress(AttributeError, IndexError, RuntimeError, TypeError, ValueError):
                found = self._answer_to_vectors(short, own, needs_tokens=needs_tokens)
                if torch.allclose(found, expected, rtol=0, atol=float(room), equal_nan=True):
                    _NEEDS_TOKENS[self.backbone] = needs_tokens
                    return vectors
        raise ValueError(
            f"{type(self.backbone).__name__} gives different answers for tokens and for "
            "their word vectors, so its answers cannot be explained by words; give a "
            "classifier that takes inputs_embeds, such as BERT."
        )

    def _looked_up(self, ids: Tensor) -> Tensor:
        with torch.no_grad():
            found = self.backbone.get_input_embeddings()(ids)
        return found[0] if isinstance(found, tuple) else found

    @property
    def _num_tokens(self) -> int:
        return len(self.backbone.get_input_embeddings().weight)

    def _logits(self, vectors: Tensor, frame: Frame) -> Tensor:
        needs_tokens = _NEEDS_TOKENS[self.backbone]
        return self._answer_to_vectors(vectors, frame, needs_tokens=needs_tokens)

    def _answer_to_vectors(self, vectors: Tensor, frame: Frame, *, needs_tokens: bool) -> Tensor:
        vectors = vectors.clone()  # CTRL scales what it is given in place.
        if not needs_tokens:
            return self._answer(frame, inputs_embeds=vectors)
        # Some look at the tokens beside their vectors, such as ESM, which scales by those hidden.
        table, was_asked = self.backbone.get_input_embeddings(), []

        def instead(module: nn.Module, inputs: Any, output: Any) -> Any:
            was_asked.append(module)
            return (vectors, *output[1:]) if isinstance(output, tuple) else vectors

        with exclusive_use(self.backbone):
            handle = table.register_forward_hook(instead)
            try:
                answer = self._answer(frame, input_ids=frame.ids)
            finally:
                handle.remove()
        if not was_asked:
            raise ValueError(
                "The classifier does not use its table of word vectors, so words cannot be "
                "explained."
            )
        return answer

    def _answer(self, frame: Frame, **inputs: Any) -> Tensor:
        inputs["attention_mask"] = frame.mask
        if frame.types is not None:
            inputs["token_type_ids"] = frame.types
        if self.takes("global_attention_mask"):
            # As the classifier itself does where it is given tokens.
            inputs["global_attention_mask"] = torch.zeros_like(frame.mask)
            inputs["global_attention_mask"][:, 0] = 1
        own = self.backbone.config
        if not self.reads_last_token or own.pad_token_id is not None:
            return self.backbone(**inputs).logits
        # These take several rows only where some token is named; no row has this one.
        own.pad_token_id = -1
        try:
            return self.backbone(**inputs).logits
        finally:
            own.pad_token_id = None

    def _vectors(self, frame: Frame, is_word: Tensor, token: int | None) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            vectors = self._own_vectors(frame)
            if self.config.baseline == "zero":
                neutral = torch.zeros_like(vectors[:1, :1])
            else:
                neutral = self._looked_up(frame.ids.new_full((1, 1), self._neutral_token(token)))
            baseline = torch.where(is_word[..., None], neutral, vectors)
        return vectors, baseline

    def _neutral_token(self, token: int | None) -> int:
        name = f"{self.config.baseline}_token_id"
        named = getattr(self.config.backbone_config, name, None)
        token = token if named is None else named
        if token is None:
            raise ValueError(
                f"The classifier has no {name} to compare words with; set it in its "
                "configuration, or use baseline='zero'."
            )
        count = self._num_tokens
        if not 0 <= token < count:
            raise ValueError(
                f"{name} is {token}, but the classifier only has tokens 0 to {count - 1}; "
                "use baseline='zero'."
            )
        return int(token)

    def _target(self, logits: Tensor, class_labels: Any, other_labels: Any) -> Target:
        size = len(logits)
        labels = self._check_labels("class_labels", class_labels, size)
        others = self._check_labels("other_labels", other_labels, size)
        classes = logits.argmax(dim=-1) if labels is None else labels
        if others is not None and bool((classes == others).any()):
            raise ValueError(
                "A class cannot be compared with itself; class_labels and other_labels must differ "
                "for every text."
            )
        return Target(classes, others)

    def _check_labels(self, name: str, labels: Any, size: int) -> Tensor | None:
        if labels is None:
            return None
        labels = torch.as_tensor(labels, device=self.device)
        if labels.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"{name} must be integers, got {labels.dtype}.")
        if labels.shape != (size,):
            raise ValueError(
                f"{name} must have shape ({size},), one class per text, got {tuple(labels.shape)}."
            )
        check_class_range(labels, self.num_classes)
        return labels.long()

    def _check_ids(self, input_ids: Tensor) -> None:
        if not isinstance(input_ids, Tensor) or input_ids.is_floating_point():
            kind = getattr(input_ids, "dtype", type(input_ids).__name__)
            raise TypeError(f"input_ids must be a tensor of integers, got {kind}.")
        if input_ids.ndim != 2 or not input_ids.numel():
            raise ValueError(
                f"input_ids must have shape (B, T), none of them 0, got {tuple(input_ids.shape)}."
            )
        count = self._num_tokens
        low, high = map(int, input_ids.aminmax())
        if low < 0 or high >= count:
            raise ValueError(
                f"input_ids must be tokens 0 to {count - 1}, got {low} to {high}; use the "
                "classifier's own tokenizer."
            )


def _vectors_of(backbone: Any) -> nn.Module | None:
    try:
        return backbone.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None


def _has_head(backbone: nn.Module) -> bool:
    name = type(backbone).__name__
    if any(kind in name for kind in _OTHER_HEADS):
        return False
    return "ForSequenceClassification" in name or any(
        hasattr(backbone, name) for name in ("classifier", "score", "logits_proj")
    )


def _word_ids(word_ids: Tensor | None, is_word: Tensor) -> Tensor:
    if word_ids is not None:
        return word_ids.clone()
    return torch.where(is_word, is_word.cumsum(dim=1) - 1, -1)
