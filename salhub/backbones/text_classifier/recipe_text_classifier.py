"""`salhub train text-classifier`: a small text classifier with its own tokenizer, from scratch."""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any
from unicodedata import normalize

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from transformers import PreTrainedModel

from salhub.backbones.text_classifier.configuration_text_classifier import TextClassifierConfig
from salhub.backbones.text_classifier.modeling_text_classifier import (
    VECTOR_SCALE,
    TextClassifierForSequenceClassification,
)
from salhub.backbones.text_classifier.tokenizer_text_classifier import train_tokenizer
from salhub.backbones.text_classifier.word_vectors import word_vectors
from salhub.data.labelled_texts import LabelledTexts, read_unlabelled_texts
from salhub.hub import load
from salhub.model_card import Facts
from salhub.results import Results
from salhub.runner.arguments import (
    Scheduler,
    TrainingArguments,
    check_count,
    check_not_negative,
    check_share,
)
from salhub.runner.batches import Batch, generator_of
from salhub.runner.classification import classification_numbers
from salhub.runner.loop import evaluation_mode
from salhub.runner.recipe import Stage, StepLoss, TrainingRecipe
from salhub.runner.recipe_text_classification import USAGE, TextArguments, draw_text_split
from salhub.runner.sources import ALL, MODEL
from salhub.tokenizing import load_tokenizer

logger = logging.getLogger(__name__)

_ROWS_TO_EVALUATE = 256
_SENTENCE_ENDS = re.compile(r"(?<= [.!?]) |(?<=\w[.!?])\s|\n")
# Draws of a run are told apart by these, and 0 is that of its texts.
_VECTORS, _PSEUDO = 1, 2
# Texts that cannot be cut in three are still a text for the filters.
_MIN_LENGTH = 3


@dataclass(kw_only=True)
class TextClassifierArguments(TextArguments, TrainingArguments):
    """Options of `TextClassifierRecipe`.

    Args:
        test_data: Files of further labelled texts, used only for measuring.
        num_train_texts: Number of training texts drawn from `data` with the seed; None for all
            texts that are not test texts.
        num_test_texts: Number of test texts drawn from `data` and held out of training. If the
            data have a test or validation part, that part is used instead and this must be 0.
        unlabelled_data: Files of texts for learning word vectors, in addition to the training
            texts; any labels are ignored.
        teachers: Folders of classifiers of the same classes; the mean of their probabilities
            labels sentences of `unlabelled_data`, which are added to the training texts.
        num_pseudo_texts: Maximum number of these sentences.
        labelled_repeats: How often each training text is used per epoch, with teachers.
        label_smoothing: Share of each label's probability that is spread over all classes.
        vocab_size: Maximum number of tokens.
        embedding_size: Size of a token's vector.
        num_filters: Number of filters of each width.
        kernel_sizes: Widths of the filters in tokens.
        dropout: Share of the features dropped during training.
        word_dropout: Share of the tokens dropped during training.
        ema_decay: Decay of the running average of the weights, which becomes the model.
        weight_decay: Weight decay of all weights except the word vectors.
    """

    test_data: list[str] = field(default_factory=list)
    num_train_texts: int | None = None
    num_test_texts: int = 0
    unlabelled_data: list[str] = field(default_factory=list)
    teachers: list[str] = field(default_factory=list)
    num_pseudo_texts: int = 20000
    labelled_repeats: int = 2
    label_smoothing: float = 0.0
    vocab_size: int = 11000
    embedding_size: int = 128
    num_filters: int = 128
    kernel_sizes: list[int] = field(default_factory=lambda: [3])
    dropout: float = 0.5
    word_dropout: float = 0.3
    ema_decay: float = 0.998
    weight_decay: float = 0.0
    batch_size: int = 64
    num_train_epochs: int = 4
    lr_scheduler: Scheduler = "linear"

    def validate(self) -> None:
        """Check the options of a text classifier, and those of every run."""
        super().validate()
        for name in ("ema_decay", "label_smoothing"):
            check_share(name, getattr(self, name))
        for name in ("weight_decay", "num_test_texts"):
            check_not_negative(name, getattr(self, name))
        for name in ("num_pseudo_texts", "labelled_repeats", "num_train_texts"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.teachers and not self.unlabelled_data:
            raise ValueError(
                "teachers need unlabelled_data to label; give some, or leave teachers out."
            )


class TextClassifierRecipe(TrainingRecipe):
    """Trains a classifier of short texts, and the tokenizer that goes with it.

    Word vectors start from the company that words keep (`word_vectors`), which takes no labels; the
    finished model is a running average of the weights, rounded to the half precision it is kept in.

    Example:
        >>> arguments = TextClassifierArguments(output_dir="out", data="sst2_train.tsv")
        >>> TextClassifierRecipe(arguments).arguments.embedding_size
        128

    Source: Kim 2014 (arXiv 1408.5882), section 2, for the network; see `word_vectors` for the
    vectors.
    """

    name = "text-classifier"
    arguments_class = TextClassifierArguments
    larger_is_better = True
    sources = {
        **TrainingRecipe.sources,
        **dict.fromkeys(("test_data", "unlabelled_data"), ALL),
        "teachers": MODEL,
    }

    def learned_options(self) -> dict[str, Any]:
        # The places of the files do not matter, and what is in them does, see `sources`.
        options = super().learned_options()
        options["data"] = Path(self.arguments.data).name
        for name in ("test_data", "unlabelled_data", "teachers"):
            options[name] = [Path(path).name for path in getattr(self.arguments, name)]
        return options

    def build_model(self) -> nn.Module:
        options = self.arguments
        self.texts = options.read_texts(options.data)
        self.split = draw_text_split(self.texts, options)
        self.train = self.texts.part(self.split.train.tolist())
        names = self.texts.class_names
        others = [
            _to_measure(options.read_texts(path)).in_order_of(names) for path in options.test_data
        ]
        self._check_classes(others)
        self.tests = {}
        if len(self.split.test):
            self.tests["test"] = self.texts.part(self.split.test.tolist())
        for part in others:
            self.tests[_new_name(part.name, {"train", *self.tests})] = part
        chosen_by = self.texts.part(self.split.validation.tolist())
        self.validation = [chosen_by] if len(chosen_by) else [*self.tests.values()]
        unlabelled = [
            text for path in options.unlabelled_data for text in read_unlabelled_texts(path)
        ]
        self.tokenizer = train_tokenizer(
            self.train.texts, options.vocab_size, more_texts=unlabelled
        )
        self._collect_rows(unlabelled)
        names = self.texts.class_names
        config = TextClassifierConfig(
            vocab_size=len(self.tokenizer),
            embedding_size=options.embedding_size,
            num_filters=options.num_filters,
            kernel_sizes=options.kernel_sizes,
            dropout=options.dropout,
            word_dropout=options.word_dropout,
            id2label=dict(enumerate(names)),
            label2id={name: index for index, name in enumerate(names)},
        )
        model = TextClassifierForSequenceClassification(config)
        self._start_vectors(model, self._tokens(self.train.texts) + self._tokens(unlabelled))
        return model

    def _collect_rows(self, unlabelled: list[str]) -> None:
        """Tokens and class probabilities of everything that is learned."""
        options, classes = self.arguments, len(self.texts.class_names)
        exact = F.one_hot(torch.tensor(self.train.labels), classes).float()
        smoothed = exact * (1 - options.label_smoothing) + options.label_smoothing / classes
        repeats = options.labelled_repeats if options.teachers else 1
        self.train_rows = self._tokens(self.train.texts) * repeats
        self.train_targets = smoothed.repeat(repeats, 1)
        if options.teachers:
            sentences = drawn_sentences(
                unlabelled, options.num_pseudo_texts, generator_of(options.seed, _PSEUDO)
            )
            taught = teach(options.teachers, sentences, self.texts.class_names)
            self.train_rows += self._tokens(sentences)
            self.train_targets = torch.cat([self.train_targets, taught])

    def _check_classes(self, others: Iterable[LabelledTexts]) -> None:
        for part in others:
            if part.class_names != self.texts.class_names:
                raise ValueError(
                    f"{part.name} has the classes {', '.join(part.class_names)}, but "
                    f"{self.texts.name} has {', '.join(self.texts.class_names)}; give test "
                    "data with the same classes."
                )

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        unknown = self.tokenizer.unk_token_id
        return [ids or [unknown] for ids in self.tokenizer(texts, truncation=True)["input_ids"]]

    def _start_vectors(self, model: PreTrainedModel, documents: list[list[int]]) -> None:
        config = model.config
        # The padding and unknown tokens keep no company.
        known = [[token for token in document if token > 1] for document in documents]
        vectors = word_vectors(
            known,
            config.vocab_size,
            config.embedding_size,
            generator=generator_of(self.arguments.seed, _VECTORS),
        )
        vectors[config.pad_token_id] = 0
        model.embeddings.weight.data.copy_(vectors * VECTOR_SCALE)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        self._average = AveragedModel(model, multi_avg_fn=_running_average(self.arguments))
        vectors = [p for name, p in model.named_parameters() if "embeddings" in name]
        others = [p for name, p in model.named_parameters() if "embeddings" not in name]
        groups = [
            {"params": vectors, "weight_decay": 0.0},
            {"params": others, "weight_decay": self.arguments.weight_decay},
        ]
        return torch.optim.AdamW(groups, lr=self.arguments.learning_rate)

    def checkpointed(self) -> Iterable[Any]:
        return [self._average]

    def stages(self, epoch: int) -> Iterable[Stage]:
        return [Stage("train", len(self.train_rows), self._fetch)]

    def _fetch(self, batch: Batch) -> dict[str, Tensor]:
        rows = [self.train_rows[place] for place in batch.rows.tolist()]
        return {"input_ids": padded(rows), "targets": self.train_targets[batch.rows]}

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        logits = model(inputs["input_ids"]).logits
        samples = F.cross_entropy(logits, inputs["targets"], reduction="none")
        is_right = (logits.argmax(-1) == inputs["targets"].argmax(-1)).float()
        return StepLoss(samples, measures={"accuracy": is_right})

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        self._average.update_parameters(model)

    def can_validate(self) -> bool:
        return bool(self.validation)

    def validate(self, model: nn.Module, accelerator: Any) -> dict[str, float]:
        # The average is what the run ends with.
        average = self._average.module
        rows = self._tokens([text for part in self.validation for text in part.texts])
        labels = torch.tensor([label for part in self.validation for label in part.labels])
        with evaluation_mode(average):
            return classification_numbers(predict(average, rows, accelerator.device), labels)

    def finish(self, model: nn.Module) -> nn.Module:
        # Measured as it is kept.
        return self._average.module.half().float()

    @torch.no_grad()
    def evaluate(self, model: nn.Module, accelerator: Any, results: Results) -> None:
        results.data = {
            **self.split.data,
            "num_train_texts": len(self.train),
            "split": self.split.digest[:16],
        }
        if not self.tests:
            logger.warning(
                "There are no test texts, so the accuracy on them is not measured; give "
                "num_test_texts or test_data."
            )
        for name, part in {"train": self.train, **self.tests}.items():
            logits = predict(model, self._tokens(part.texts), accelerator.device)
            is_right = (logits.argmax(-1) == torch.tensor(part.labels)).double().numpy()
            results.add_mean(f"accuracy/{name}", is_right, unit="fraction")

    def export(self, model: Any, folder: Path) -> None:
        save_in_half_precision(model, folder)
        self.tokenizer.save_pretrained(folder)
        self.split.save(folder)

    def card_facts(self) -> Facts:
        learned = f"{len(self.train)} texts of {self.texts.name}"
        return Facts(
            summary=f"A text classifier trained on {learned}.",
            example=USAGE,
            pipeline_tag="text-classification",
        )


def _new_name(name: str, taken: set[str]) -> str:
    """A name, with a number behind it where files of several folders are called the same."""
    numbered = (f"{name}-{number}" for number in count(2))
    return next(one for one in chain([name], numbered) if one not in taken)


def _to_measure(texts: LabelledTexts) -> LabelledTexts:
    """The part of some data that is for measuring, or all where they have no parts."""
    places = texts.test_places.tolist()
    if not places:
        return texts
    logger.warning(
        "Of %s, only the %d texts of the test part are measured.", texts.name, len(places)
    )
    return texts.part(places)


def drawn_sentences(texts: list[str], count: int, generator: torch.Generator) -> list[str]:
    """Draw sentences of 6 to 40 words out of longer texts.

    Args:
        texts: Cut at the ends of sentences and lines.
        count: Most of them.
        generator: For the draw.
    """
    pieces = (piece.strip() for text in texts for piece in _SENTENCE_ENDS.split(text))
    sentences = [piece for piece in pieces if 6 <= len(piece.split()) <= 40]
    order = torch.randperm(len(sentences), generator=generator)[:count]
    return [sentences[place] for place in order.tolist()]


def teach(teachers: list[str], texts: list[str], class_names: list[str]) -> Tensor:
    """The mean of what some classifiers think of texts.

    Args:
        teachers: Their folders.
        texts: The texts.
        class_names: The classes that they must have.

    Returns:
        Probabilities, float32 (n, classes).

    Raises:
        ValueError: A teacher has other classes.

    Source: Hinton et al. 2015 (arXiv 1503.02531), section 2, at temperature 1, the teacher being
        the mean of several networks; on texts without labels as in Xie et al. 2020
        (arXiv 1911.04252), algorithm 1.
    """
    from transformers import AutoModelForSequenceClassification

    total = torch.zeros(len(texts), len(class_names))
    for teacher in teachers:
        model = load(AutoModelForSequenceClassification, teacher).eval()
        known = [normalize("NFC", name) for name in model.config.id2label.values()]
        if known != [normalize("NFC", name) for name in class_names]:
            raise ValueError(
                f"The teacher {Path(teacher).name} has the classes "
                f"{', '.join(model.config.id2label.values())}, the data "
                f"{', '.join(class_names)}."
            )
        tokenizer = load_tokenizer(teacher)
        rows = tokenizer(texts, truncation=True)["input_ids"]
        rows = [row or [tokenizer.unk_token_id] for row in rows]
        total += predict(model, rows, torch.device("cpu")).softmax(dim=-1)
    return total / len(teachers)


@torch.no_grad()
def predict(model: nn.Module, rows: list[list[int]], device: torch.device) -> Tensor:
    """Logits of tokens, float32 (n, classes) on the CPU.

    Args:
        model: In evaluation mode.
        rows: Tokens of each text.
        device: Of the model.
    """
    parts = [
        model(padded(rows[begin : begin + _ROWS_TO_EVALUATE]).to(device)).logits.float().cpu()
        for begin in range(0, len(rows), _ROWS_TO_EVALUATE)
    ]
    return torch.cat(parts)


def padded(rows: list[list[int]], pad_token_id: int = 0) -> Tensor:
    """Tokens of several texts side by side, int64 (B, T).

    Args:
        rows: Tokens of each text.
        pad_token_id: Fills up the shorter ones.

    Example:
        >>> padded([[5], [6, 7, 8]]).tolist()
        [[5, 0, 0], [6, 7, 8]]
    """
    length = max(_MIN_LENGTH, *map(len, rows))
    return torch.tensor([row + [pad_token_id] * (length - len(row)) for row in rows])


def save_in_half_precision(model: PreTrainedModel, folder: Path) -> None:
    """Save a model whose weights take half the room, and load as the float32 that they are now.

    Args:
        model: In float32.
        folder: To be written.
    """
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = {name: tensor.half() for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _running_average(arguments: TextClassifierArguments) -> Any:
    """Young averages follow faster, so that the first weights are soon forgotten."""

    @torch.no_grad()
    def update(average: list[Tensor], current: list[Tensor], num_averaged: Tensor | int) -> None:
        count = float(num_averaged)
        decay = min(arguments.ema_decay, (1 + count) / (10 + count))
        torch._foreach_lerp_(average, current, 1 - decay)

    return update
