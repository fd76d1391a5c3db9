"""Fine-tuning of text classifiers: columns of one's own, lengths, heads, and what is saved."""

import csv
import dataclasses
import json
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from salhub import SaliencyVerbalizerModel
from salhub.data.labelled_split import LabelledSplit
from salhub.data.labelled_texts import LabelledTexts
from salhub.entries import recipe_named
from salhub.errors import ModelNotFoundError
from salhub.runner.recipe_text_classification import draw_text_split
from salhub.runner.run import run
from salhub.runner.settings_file import settings_text
from tests.testers.recipe import TrainingRecipeTester

WORDS = ("late", "slow", "broken", "torn", "quick", "early", "sturdy", "sound")
NOUNS = ("parcel", "courier", "box", "order", "van")


@pytest.fixture(scope="module")
def tickets(tmp_path_factory) -> str:
    """A table with headings of its own: whether a word of the first half or the second is there."""
    rows = [
        (number, f"the {noun} was {word}, really", "10" if place < 4 else "9")
        for number, (noun, place, word) in enumerate(
            (noun, place, word) for noun in NOUNS * 2 for place, word in enumerate(WORDS)
        )
    ]
    path = tmp_path_factory.mktemp("tickets") / "tickets.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("number", "what they wrote", "stars"), *rows])
    return str(path)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    words = ["[PAD]", "[UNK]", "the", "was", "really", ",", *WORDS, *NOUNS]
    tokens = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="[PAD]", unk_token="[UNK]"
    )
    sizes = {
        "vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 32,
    }  # fmt: skip
    torch.manual_seed(0)
    networks = {
        "bert": BertForSequenceClassification(BertConfig(num_labels=3, **sizes)),
        # Positions begin behind the number of the padding token.
        "roberta": RobertaForSequenceClassification(
            RobertaConfig(num_labels=2, max_position_embeddings=6, pad_token_id=0, **sizes)
        ),
    }
    for name, network in networks.items():
        network.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {name: str(folder / name) for name in networks}


def recipe_of(folder, data, **options):
    kind = recipe_named("text-classification", "train").recipe_class
    settings = {
        "text_column": "what they wrote", "label_column": "stars", "batch_size": 16, "cpu": True,
        "learning_rate": 0.02, "data": data, "output_dir": str(folder), **options,
    }  # fmt: skip
    return kind(kind.arguments_class(**settings))


class TestTextClassification(TrainingRecipeTester):
    @pytest.fixture
    def make(self, tickets, checkpoints):
        settings = {"model": checkpoints["bert"], "num_train_epochs": 1, "batch_size": 12}
        return lambda folder, **more: recipe_of(folder, tickets, **{**settings, **more})


def test_it_learns_a_table_with_headings_of_its_own(tmp_path, tickets, checkpoints):
    options = {"num_train_epochs": 10, "learning_rate": 0.005}
    results = run(recipe_of(tmp_path, tickets, model=checkpoints["bert"], **options))
    assert results.metric("accuracy/test").value > 0.9
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    # A label is a name, and no place in a list.
    assert model.config.id2label == {0: "9", 1: "10"}
    logits = model(**tokenizer(["the box was torn"], return_tensors="pt")).logits
    assert model.config.id2label[int(logits.argmax())] == "10"
    split = LabelledSplit.load(tmp_path)
    assert (len(split.train), len(split.test)) == (68, 12)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    assert sum("validation/accuracy" in line for line in lines) == 10
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert re.search(r"trained on 68 texts of tickets\..* Held-out accuracy .* of 12\)\.", card)
    assert card.index("| accuracy/test |") < card.index("| seconds/")


def test_texts_are_cut_at_what_the_positions_allow(tmp_path, tickets, checkpoints, caplog):
    recipe = recipe_of(tmp_path, tickets, model=checkpoints["roberta"], num_train_epochs=1)
    run(recipe)
    assert "80 of 80 texts have more than 5 tokens and were cut." in caplog.text
    assert max(map(len, recipe.rows)) == 5
    with pytest.raises(ValueError, match=r"max_length is 6, but the network accepts 5"):
        run(recipe_of(tmp_path / "out", tickets, model=checkpoints["roberta"], max_length=6))


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (
            {"text_column": None},
            "it is not clear which column of tickets.csv is text_column: it has",
        ),
        ({"label_column": "star"}, "no column 'star'.* Did you mean 'stars'"),
        ({"max_length": 0}, "max_length must be an integer, 1 or more"),
        ({"class_names": ["good"]}, "has 2 classes, 9, 10, but class_names has 1; give"),
        (
            {"keep_best": True, "train_val_split": 0},
            "has none and train_val_split=0 holds nothing out; set",
        ),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    tmp_path, tickets, checkpoints, options, pattern
):
    with pytest.raises(ValueError, match=pattern):
        run(recipe_of(tmp_path / "out", tickets, model=checkpoints["bert"], **options))
    assert not (tmp_path / "out" / "options.json").exists()


@pytest.mark.parametrize(
    ("verb", "recipe", "option", "more"),
    [
        ("train", "text-classification", "model", {}),
        ("train", "image-classification", "model", {}),
        ("train", "text-classifier", "teachers", {"unlabelled_data": ["none.txt"]}),
        ("train", "disa", "base", {}),
        ("train", "deit-nano", "teacher", {}),
        ("unlearn", "salun", "model", {"forget": "class:1"}),
        ("unlearn", "salun", "reference", {"forget": "class:1", "model": "salun-resnet8-cifar10"}),
        ("compress", "nvit", "model", {}),
        ("compress", "slim-llm", "model", {"calibration": "none.txt"}),
        (
            "compress",
            "apiq-saliency",
            "quantized_base",
            {"model": "tiny-llama-en", "reg_lambda": 0},
        ),
    ],
)
def test_a_model_that_is_nowhere_is_said_before_the_data_are_read(
    tmp_path, monkeypatch, verb, recipe, option, more
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    kind = recipe_named(recipe, verb).recipe_class
    names = {field.name for field in dataclasses.fields(kind.arguments_class)}
    data = {name: "none.csv" for name in ("data", "calibration") if name in names}
    value = ["nothere"] if option == "teachers" else "nothere"
    options = {"output_dir": str(tmp_path / "out"), "cpu": True, **data, option: value, **more}
    with pytest.raises(ModelNotFoundError, match="'nothere' was not found"):
        run(kind(kind.arguments_class(**options)))
    assert not (tmp_path / "out").exists()


def test_the_small_text_classifier_is_gone_on_from_and_takes_the_same_words(tmp_path, tickets):
    kind = recipe_named("text-classifier", "train").recipe_class
    options = {
        "output_dir": str(tmp_path / "first"), "data": tickets, "text_column": "what they wrote",
        "label_column": "stars", "vocab_size": 60, "embedding_size": 8, "num_filters": 4,
        "num_train_epochs": 2, "cpu": True,
    }  # fmt: skip
    run(kind(kind.arguments_class(**options)))
    results = run(recipe_of(tmp_path / "more", tickets, model=str(tmp_path / "first")))
    assert results.metric("accuracy/test").value > 0.9


def test_of_an_explainer_the_classifier_inside_goes_on(tmp_path, tickets, caplog):
    options = {"learning_rate": 1e-9, "max_train_steps": 1}
    recipe = recipe_of(tmp_path, tickets, model="salhub/verbalizer-movie-reviews", **options)
    run(recipe)
    assert "verbalizer-movie-reviews is an explainer; the classifier inside it is" in caplog.text
    assert "is new: salhub/verbalizer-movie-reviews has 2 classes with other names" in caplog.text
    own = SaliencyVerbalizerModel.from_pretrained("salhub/verbalizer-movie-reviews").backbone
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert saved.config.id2label == {0: "9", 1: "10"}
    embedding = own.get_input_embeddings().weight.float()
    torch.testing.assert_close(saved.get_input_embeddings().weight, embedding)


def test_a_tokenizer_is_a_source(tmp_path, tickets, checkpoints):
    folder = tmp_path / "tokens"
    shutil.copytree(checkpoints["bert"], folder)
    recipe = recipe_of(tmp_path / "out", tickets, config=checkpoints["bert"], tokenizer=str(folder))
    before = recipe.recorded_options()["tokenizer sha256"]
    assert "tokenizer: ../tokens\n" in settings_text(recipe)
    (folder / "tokenizer.json").write_text("{}")
    assert recipe.recorded_options()["tokenizer sha256"] != before


def test_the_share_that_is_said_is_the_one_that_is_held_out(caplog):
    texts = LabelledTexts("few", ["x", " x", "y", "z"], [0, 0, 1, 1], ["a", "b"])
    split = draw_text_split(texts, SimpleNamespace(seed=0, train_val_split=0.15))
    assert len(split.test) == 2
    assert "2 of its 4 texts are held out (50 %, from every class)" in caplog.text
    # A text that is there twice, on both sides, is no test of what was learned.
    assert "1 of the 2 held-out texts of few also occur in the training" in caplog.text
    assert split.data["num_held_out_that_are_learned"] == 1
    apart = LabelledTexts("few", ["w", "x", "y", "z"], [0, 0, 1, 1], ["a", "b"])
    split = draw_text_split(apart, SimpleNamespace(seed=0, num_test_texts=2))
    assert "num_held_out_that_are_learned" not in split.data


def test_the_best_is_chosen_by_texts_that_are_not_measured_on(caplog):
    parts = ["train"] * 20 + ["test"] * 4
    texts = LabelledTexts("few", ["x"] * 24, [0, 1] * 12, ["a", "b"], parts)
    arguments = SimpleNamespace(seed=0, train_val_split=0.2, keep_best=True)
    split = draw_text_split(texts, arguments)
    assert [len(one) for one in (split.train, split.validation, split.test)] == [16, 4, 4]
    assert len(torch.cat([split.train, split.validation, split.test]).unique()) == 24
    assert "keep_best uses 4 of the 20 training rows for" in caplog.text
