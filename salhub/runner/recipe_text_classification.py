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

from salhub.data.labelled_split import LabelledSplit, stratified_places
from salhub.data.labelled_texts import LabelledTexts, Layout, read_labelled_texts
from salhub.data.tables import TEST, TRAIN, VALIDATION
from salhub.model_card import Facts
from salhub.results import Results
from salhub.runner.arguments import RunArguments, check_count
from salhub.runner.batches import Batch, generator_of
from salhub.runner.classification import classification_numbers
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
# Tells the draw of what is held out apart from the others of a run.
_HELD_OUT = 3


@dataclass(kw_only=True)
class TextArguments(RunArguments):
    """What every recipe that reads labelled texts takes.

    Args:
        data: Labelled texts: a CSV, TSV, JSON lines, JSON or Parquet file, a folder of them or one
            that `save_to_disk` of `datasets` wrote, or a name on the Hub; see
            `read_labelled_texts`.
        text_column: Heading of the texts, or the number of their column where there are no
            headings; None to find it.
        label_column: The same of the labels.
        layout: A data set whose published files have no headings, "ag_news" or "sst2"; None for
            that which the file is called after.
        class_names: What the classes are called, in the order of their labels; the labels
            themselves where none are given.
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
        tokenizer: Of a configuration that has none beside it: a folder or a name.
        max_length: Most tokens of a text, what is beyond is cut off; None for as many as the model
            takes, at most 512.
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
            logger.warning("Texts are filled up with '%s'.", tokenizer.pad_token)
        return tokenizer

    def build_model(self) -> nn.Module:
        self.texts = self.arguments.read_texts(self.arguments.data)
        if set(self.texts.class_names) == set(self.start.class_names):
            self.texts = self.texts.in_order_of(self.start.class_names)
        self.labels = torch.tensor(self.texts.labels)
        self.split = draw_text_split(self.texts, self.arguments)
        model = self.start.build(
            self.texts.class_names,
            vocab_size=None if self.arguments.model else len(self.tokenizer),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        most = most_tokens(model, self.tokenizer, self.arguments.max_length)
        self.rows = token_rows(self.tokenizer, self.texts.texts, most)
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
            logger.warning("There are no test texts, so accuracy/test is left out.")
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
    """The parts of the data, or a share of each class that is held out, drawn by the seed.

    Args:
        texts: The data.
        arguments: With `seed` and `train_val_split`.

    Raises:
        ValueError: There is nothing to train on, or no two classes, or a class is only in the
            other parts.
    """
    texts.check_learnable()
    train, validation, test = (
        torch.tensor(texts.places_of(part), dtype=torch.long) for part in (TRAIN, VALIDATION, TEST)
    )
    share = arguments.train_val_split
    if share and not (len(validation) or len(test)):
        labels = torch.tensor(texts.labels)
        test = stratified_places(labels, share, generator_of(arguments.seed, _HELD_OUT))
        train = train[~torch.isin(train, test)]
        logger.warning(
            "%s has no part for validation or test, so %d of its %d texts are held out, %s of "
            "them and a share of each class, drawn by the seed.",
            texts.name, len(test), len(texts), f"{len(test) / len(texts):.0%}",
        )  # fmt: skip
    if not len(test):
        validation, test = test, validation
    return LabelledSplit(texts.describe(), train, test, validation=validation)
