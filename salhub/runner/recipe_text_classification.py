"""`salhub train text-classification`: a text classifier, from any checkpoint."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from salhub.data.labelled_split import LabelledSplit, noting_repetitions, stratified_places
from salhub.data.labelled_texts import LabelledTexts, Layout, read_labelled_texts
from salhub.data.tables import TEST, TRAIN, VALIDATION
from salhub.model_card import Facts
from salhub.results import Results
from salhub.runner.arguments import RunArguments, check_count
from salhub.runner.batches import Batch, generator_of
from salhub.runner.classification import classification_numbers, places_to_choose_by
from salhub.runner.fine_tuning import FineTuningArguments, FineTuningRecipe
from salhub.runner.recipe import Stage, StepLoss
from salhub.tokenizing import load_tokenizer, most_tokens, token_rows

logger = logging.getLogger(__name__)

USAGE = """
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("{model}")
tokenizer = AutoTokenizer.from_pretrained("{model}")
"""
_ROWS_TO_EVALUATE = 64
# Tell the draws of what is learned and held out apart from the others of a run.
_DRAWN, _HELD_OUT = 0, 3


@dataclass(kw_only=True)
class TextArguments(RunArguments):
    """What every recipe that reads labelled texts takes.

    Args:
        data: Labelled texts: a CSV, TSV, JSON lines, JSON or Parquet file, a folder of them or one
            saved by `save_to_disk` of `datasets`, or a name on the Hub; see `read_labelled_texts`.
        text_column: Heading of the texts, or the number of their column if there are no headings;
            None to find it.
        label_column: Heading or number of the column with the labels, in the same way.
        layout: A data set whose published files have no headings, "ag_news" or "sst2"; None to
            recognize it by the file name.
        class_names: Names of the classes, in the order of their labels; the labels themselves by
            default.
        dataset_config_name: The configuration of a data set on the Hub.
    """

    data: str
    text_column: str | None = None
    label_column: str | None = None
    layout: Layout | None = None
    class_names: list[str] = field(default_factory=list)
    dataset_config_name: str | None = None

    def read_texts(self, data: str) -> LabelledTexts:
        """Texts of a file laid out as `data` is."""
        return read_labelled_texts(
            data,
            text_column=self.text_column,
            label_column=self.label_column,
            layout=self.layout,
            class_names=self.class_names,
            dataset_config_name=self.dataset_config_name,
        )


@dataclass(kw_only=True)
class TextClassificationArguments(TextArguments, FineTuningArguments):
    """Options of `TextClassificationRecipe`.

    Args:
        tokenizer: Tokenizer for a configuration that has none: a folder or a name.
        max_length: Maximum number of tokens of a text, which is cut there; None for the limit of
            the model, at most 512.
    """

    tokenizer: str | None = None
    max_length: int | None = None
    learning_rate: float = 5e-5
    num_train_epochs: int = 3

    def validate(self) -> None:
        """Check the options of a text classifier, and those of fine-tuning."""
        super().validate()
        if self.max_length is not None:
            check_count("max_length", self.max_length)


class TextClassificationRecipe(FineTuningRecipe):
    """Fine-tunes a text classifier, or trains one from its configuration.

    What is saved loads by `AutoModelForSequenceClassification`, with its tokenizer beside it.

    Example:
        >>> arguments = TextClassificationArguments(
        ...     output_dir="out", data="reviews.csv", model="bert-base-uncased"
        ... )
        >>> TextClassificationRecipe(arguments).arguments.learning_rate
        5e-05
    """

    name = "text-classification"
    arguments_class = TextClassificationArguments
    auto_class = AutoModelForSequenceClassification

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the checkpoint, with a token to fill up short texts."""
        tokenizer = load_tokenizer(self.arguments.tokenizer or self.start.name)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
            logger.warning("Texts are padded with '%s'.", tokenizer.pad_token)
        return tokenizer

    def build_model(self) -> nn.Module:
        # Before the data, which take longer, so that a wrong name is refused at once.
        names, tokenizer = self.start.class_names, self.tokenizer
        self.texts = self.arguments.read_texts(self.arguments.data)
        if len(self.texts.class_names) == len(names):
            self.texts = self.texts.in_order_of(names)
        self.labels = torch.tensor(self.texts.labels)
        self.split = draw_text_split(self.texts, self.arguments)
        model = self.start.build(
            self.texts.class_names,
            vocab_size=None if self.arguments.model else len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
        )
        most = most_tokens(model, tokenizer, self.arguments.max_length)
        self.rows = token_rows(tokenizer, self.texts.texts, most)
        return model

    def inputs_of(self, places: Tensor) -> dict[str, Tensor]:
        """Tokens of some texts side by side, and which of them are none."""
        listed = {"input_ids": [self.rows[place] for place in places.tolist()]}
        padded = self.tokenizer.pad(listed, return_tensors="pt")
        return {name: padded[name] for name in ("input_ids", "attention_mask")}

    def stages(self, epoch: int) -> Iterable[Stage]:
        return [Stage("train", len(self.split.train), self._fetch)]

    def _fetch(self, batch: Batch) -> dict[str, Tensor]:
        places = self.split.train[batch.rows]
        return {**self.inputs_of(places), "labels": self.labels[places]}

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        self.start.hold_frozen()
        words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        logits = model(**words).logits
        samples = F.cross_entropy(logits.float(), inputs["labels"], reduction="none")
        is_right = (logits.argmax(-1) == inputs["labels"]).float()
        return StepLoss(samples, measures={"accuracy": is_right})

    @torch.no_grad()
    def predict(self, model: nn.Module, places: Tensor, accelerator: Any) -> Tensor:
        """Logits of some texts, (N, classes) on the CPU, shared among the processes.

        Args:
            model: In evaluation mode.
            places: Of the texts, int64 (N,).
            accelerator: Of the run.
        """
        with accelerator.split_between_processes(places, apply_padding=True) as own:
            parts = []
            for some in own.split(_ROWS_TO_EVALUATE):
                inputs = {k: v.to(accelerator.device) for k, v in self.inputs_of(some).items()}
                parts.append(model(**inputs).logits.float())
        return accelerator.gather(torch.cat(parts))[: len(places)].cpu()

    def can_validate(self) -> bool:
        return len(self.split.held_out) > 0

    def validate(self, model: nn.Module, accelerator: Any) -> dict[str, float]:
        places = self.split.held_out
        return classification_numbers(self.predict(model, places, accelerator), self.labels[places])

    def evaluate(self, model: nn.Module, accelerator: Any, results: Results) -> None:
        results.data = {**self.split.data, "split": self.split.digest[:16]}
        places = self.split.test if len(self.split.test) else self.split.held_out
        if not len(places):
            logger.warning("There are no test texts, so the accuracy on them is not measured.")
            return
        logits = self.predict(model, places, accelerator)
        is_right = (logits.argmax(-1) == self.labels[places]).double().numpy()
        results.add_mean("accuracy/test", is_right, unit="fraction")

    def export(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.split.save(folder)

    def card_facts(self) -> Facts:
        learned = f"{len(self.split.train)} texts of {self.texts.name}"
        return self.with_notes(
            Facts(
                summary=f"A text classifier trained on {learned}.",
                example=USAGE,
                pipeline_tag="text-classification",
            )
        )


def draw_text_split(texts: LabelledTexts, arguments: Any) -> LabelledSplit:
    """The parts of the data, or what is held out of them, drawn by the seed.

    Args:
        texts: The data.
        arguments: With `seed`, and with `train_val_split` (a share of each class that is held out
            of data without parts) or with `num_train_texts` and `num_test_texts`.

    Raises:
        ValueError: There is nothing to train on, or no two classes, or a class is only in the
            other parts; there are fewer texts than are asked for, or test texts are to be drawn
            from data that have a part of them.
    """
    texts.check_learnable()
    train, validation, test = (
        torch.tensor(texts.places_of(part), dtype=torch.long) for part in (TRAIN, VALIDATION, TEST)
    )
    if not len(test):
        validation, test = test, validation
    share = getattr(arguments, "train_val_split", 0.0)
    num_train = getattr(arguments, "num_train_texts", None)
    num_test = getattr(arguments, "num_test_texts", 0)
    if share and not len(test):
        labels = torch.tensor(texts.labels)
        test = stratified_places(labels, share, generator_of(arguments.seed, _HELD_OUT))
        train = train[~torch.isin(train, test)]
        logger.warning(
            "%s has no validation or test part, so %d of its %d texts are held out (%s, "
            "from every class), drawn with the seed.",
            texts.title, len(test), len(texts), f"{100 * len(test) / len(texts):.0f} %",
        )  # fmt: skip
    if getattr(arguments, "keep_best", False) and not len(validation):
        labels = torch.tensor(texts.labels)
        validation = places_to_choose_by(texts.title, labels, train, arguments)
        train = train[~torch.isin(train, validation)]
    if num_test and len(test):
        raise ValueError(
            f"{texts.title} already has a test part with {len(test)} texts, but "
            f"num_test_texts asks for {num_test} others; leave num_test_texts out, or give "
            "data without parts."
        )
    if num_test or num_train:
        wanted = num_train or max(len(train) - num_test, 1)
        if wanted + num_test > len(train):
            raise ValueError(
                f"{texts.title} has {len(train)} training texts, fewer than the {wanted} for "
                f"training and {num_test} for testing that you asked for; ask for fewer."
            )
        order = train[torch.randperm(len(train), generator=generator_of(arguments.seed, _DRAWN))]
        train = order[num_test : num_test + wanted].sort().values
        test = order[:num_test].sort().values if num_test else test
    split = LabelledSplit(texts.describe(), train, test, validation=validation)
    return noting_repetitions(split, [hash(" ".join(one.split())) for one in texts.texts], "texts")
