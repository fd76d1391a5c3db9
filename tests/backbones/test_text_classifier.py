"""The small text classifier: its arithmetic, its tokenizer, its word vectors and its training."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from salhub.backbones.text_classifier.configuration_text_classifier import TextClassifierConfig
from salhub.backbones.text_classifier.modeling_text_classifier import (
    TextClassifierForSequenceClassification,
)
from salhub.backbones.text_classifier.recipe_text_classifier import (
    TextClassifierArguments,
    TextClassifierRecipe,
    teach,
)
from salhub.backbones.text_classifier.tokenizer_text_classifier import train_tokenizer
from salhub.backbones.text_classifier.word_vectors import word_vectors
from salhub.data.labelled_split import LabelledSplit
from salhub.results import Results
from salhub.runner.run import run
from tests.testers.recipe import TrainingRecipeTester

TEXTS = ["It isn't a good film.", "Nicht gut, aber schön!", "एक अच्छी फ़िल्म 电影好看 🎬"]


def network(kernel_sizes=(2, 3), seed: int = 0) -> TextClassifierForSequenceClassification:
    torch.manual_seed(seed)
    config = TextClassifierConfig(
        vocab_size=20,
        embedding_size=6,
        num_filters=5,
        kernel_sizes=list(kernel_sizes),
        num_labels=3,
    )
    return TextClassifierForSequenceClassification(config).eval()


def slow_logits(model, ids: list[int]) -> np.ndarray:
    """One text, token by token."""
    table = model.embeddings.weight.detach().double().numpy()
    vectors = [table[token] for token in ids]
    root = len(ids) ** 0.5
    features = list(sum(vectors) / root)
    for convolution in model.convolutions:
        weight = convolution.weight.detach().double().numpy()  # (filters, vector, width)
        bias = convolution.bias.detach().double().numpy()
        width = weight.shape[2]
        values = []
        for place in range(len(ids)):
            total = bias.copy()
            for offset in range(width):
                neighbour = place + offset - width // 2
                if 0 <= neighbour < len(ids):
                    total += weight[:, :, offset] @ vectors[neighbour]
            values.append(np.maximum(total, 0))
        features += [*np.max(values, axis=0), *(np.sum(values, axis=0) / root)]
    head = model.classifier
    return head.weight.detach().double().numpy() @ features + head.bias.detach().double().numpy()


@pytest.mark.parametrize("kernel_sizes", [(), (1,), (3,), (2, 3, 4)])
def test_a_text_is_classified_as_by_plain_arithmetic_whatever_stands_beside_it(kernel_sizes):
    model = network(kernel_sizes)
    rows = [[3, 4, 5, 6, 7], [8, 9], [10]]
    ids = torch.tensor([row + [0] * (5 - len(row)) for row in rows])
    with torch.no_grad():
        logits = model(ids).logits
    for row, found in zip(rows, logits, strict=True):
        np.testing.assert_allclose(found.numpy(), slow_logits(model, row), atol=1e-5)


def test_vectors_instead_of_tokens_give_the_same(tmp_path):
    model = network()
    ids = torch.tensor([[3, 4, 5], [6, 7, 0]])
    mask = (ids != 0).long()
    vectors = model.get_input_embeddings()(ids)
    expected = model(ids).logits
    assert torch.equal(model(inputs_embeds=vectors, attention_mask=mask).logits, expected)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert type(loaded) is type(model) and not any(info.values())
    assert torch.equal(loaded(ids).logits, expected)


def test_the_loss_is_the_cross_entropy():
    model, labels = network(), torch.tensor([2, 0])
    output = model(torch.tensor([[3, 4], [5, 6]]), labels=labels)
    expected = -output.logits.log_softmax(-1)[[0, 1], labels].mean()
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize(
    ("keywords", "pattern"),
    [
        ({}, "exactly one of input_ids and inputs_embeds"),
        ({"input_ids": torch.zeros(3, dtype=torch.long)}, r"\(B, T\), none of them 0, got \(3,\)"),
        ({"input_ids": torch.tensor([[3, 20]])}, "tokens 0 to 19, got 3 to 20"),
        ({"inputs_embeds": torch.zeros(1, 2, 5)}, r"\(B, T, 6\), got \(1, 2, 5\)"),
        (
            {"input_ids": torch.ones(1, 3, dtype=torch.long), "attention_mask": torch.ones(1, 2)},
            r"attention_mask must have shape \(1, 3\)",
        ),
    ],
)
def test_bad_input_is_refused(keywords, pattern):
    with pytest.raises(ValueError, match=pattern):
        network()(**keywords)


@pytest.mark.parametrize(
    ("field", "value", "pattern"),
    [
        ("vocab_size", 0, "vocab_size must be at least 1"),
        ("kernel_sizes", [0], "kernel_sizes must all be at least 1"),
        ("dropout", 1.0, "dropout must be at least 0 and below 1"),
        ("pad_token_id", 20, "pad_token_id must be a token, 0 to 19"),
    ],
)
def test_bad_configurations_are_refused(field, value, pattern):
    with pytest.raises(ValueError, match=pattern):
        TextClassifierConfig(**{"vocab_size": 20, field: value})


def test_every_token_knows_its_place_in_the_text():
    tokenizer = train_tokenizer(TEXTS, 200)
    found = tokenizer(TEXTS[0], return_offsets_mapping=True)
    pieces = [TEXTS[0][start:end] for start, end in found["offset_mapping"]]
    assert pieces == ["It", "is", "n't", "a", "good", "film", "."]
    assert tokenizer.decode(tokenizer("ÉCOLE")["input_ids"]) == tokenizer.decode(
        tokenizer("ecole")["input_ids"]
    )


def test_chinese_characters_are_words_and_nothing_unknown_is_lost():
    tokenizer = train_tokenizer(["only letters"], 60)
    text = "电影 好看! फ़िल्म 🎬 فيلم"
    encoding = tokenizer(text, return_offsets_mapping=True)
    pieces = [text[start:end] for start, end in encoding["offset_mapping"]]
    assert pieces == ["电", "影", "好", "看", "!", "फ़िल्म", "🎬", "فيلم"]


def test_a_saved_tokenizer_loads_through_the_auto_class(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 200)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    assert loaded.pad_token_id == 0 and loaded.unk_token_id == 1
    with pytest.raises(ValueError, match="at least 3, got 2"):
        train_tokenizer(TEXTS, 2)


def test_word_vectors_factorise_the_information_of_neighbours():
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(0, 12, (30,), generator=generator).tolist() for _ in range(9)]
    counts = np.zeros((12, 12))
    for document in documents:
        for place, token in enumerate(document):
            for other in range(max(0, place - 5), min(len(document), place + 6)):
                if other != place:
                    counts[token, document[other]] += 1 / abs(place - other)
    context = counts.sum(0) ** 0.75 / (counts.sum(0) ** 0.75).sum()
    information = np.log(counts / (counts.sum(1)[:, None] * context)).clip(min=0)
    left, values, _ = np.linalg.svd(information)
    expected = left[:, :6] * np.sqrt(values[:6])
    vectors = word_vectors(documents, 12, 6, generator=generator).double().numpy()
    scaled = vectors * np.sqrt(np.mean(expected**2))
    np.testing.assert_allclose(np.abs(scaled), np.abs(expected), atol=1e-4)


def test_word_vectors_refuse_what_cannot_be_learned():
    with pytest.raises(ValueError, match="need 8 tokens, got 7"):
        word_vectors([[0, 1]], 7, 4, generator=torch.Generator())
    with pytest.raises(
        ValueError, match="The texts have no two neighbouring tokens, so nothing can"
    ):
        word_vectors([[0], [1]], 9, 4, generator=torch.Generator())


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """Made-up reviews of two classes that their adjectives tell apart."""
    folder = tmp_path_factory.mktemp("reviews")
    good, bad = ("warm", "witty", "grand", "moving"), ("dull", "flat", "clumsy", "loud")
    nouns = ("plot", "cast", "score", "ending", "camera")
    rows = [
        (f"the {noun} is {word} and {other}", label)
        for label, words in ((1, good), (0, bad))
        for noun in nouns
        for word in words
        for other in words
    ]
    lines = "".join(f"{text}\t{label}\n" for text, label in rows)
    (folder / "reviews.tsv").write_text(lines, encoding="utf-8")
    (folder / "notes.txt").write_text("a warm and witty film\n" * 3, encoding="utf-8")
    return folder


def recipe_of(reviews, output_dir, **options) -> TextClassifierRecipe:
    settings = {
        "data": str(reviews / "reviews.tsv"), "num_test_texts": 40, "vocab_size": 60,
        "embedding_size": 8, "num_filters": 4, "batch_size": 20, "num_train_epochs": 6,
        "learning_rate": 0.02, "cpu": True, "logging_steps": 1,
    }  # fmt: skip
    arguments = TextClassifierArguments(output_dir=str(output_dir), **{**settings, **options})
    return TextClassifierRecipe(arguments)


def train(reviews, output_dir, **options):
    recipe = recipe_of(reviews, output_dir, **options)
    return recipe, run(recipe, command="test")


class TestTextClassifier(TrainingRecipeTester):
    @pytest.fixture
    def make(self, reviews):
        settings = {"num_train_epochs": 2, "label_smoothing": 0.1, "weight_decay": 0.01}
        settings |= {"keep_best": True, "validation_steps": 3}
        return lambda folder, **options: recipe_of(reviews, folder, **{**settings, **options})


def test_it_learns_and_loads_by_the_auto_classes(reviews, tmp_path):
    _, results = train(reviews, tmp_path, unlabelled_data=str(reviews / "notes.txt"))
    assert results.metric("accuracy/test").value > 0.95
    assert Results.load(tmp_path / "results.json").metric("accuracy/test").n == 40
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert model.dtype == torch.float32
    logits = model(**tokenizer(["the plot is warm"], return_tensors="pt")).logits
    assert model.config.id2label[int(logits.argmax())] == "1"
    split = LabelledSplit.load(tmp_path)
    assert len(split.train) == 120 and len(split.test) == 40
    assert not set(split.train.tolist()) & set(split.test.tolist())
    options = json.loads((tmp_path / "options.json").read_text())
    assert options["data"] == "reviews.tsv" and options["unlabelled_data"] == ["notes.txt"]


def test_what_is_held_out_is_measured_of_the_average_and_left_out_where_there_is_none(
    reviews, tmp_path, caplog
):
    _, results = train(reviews, tmp_path / "one", num_train_epochs=1)
    lines = [json.loads(line) for line in (tmp_path / "one" / "log.jsonl").open()]
    [held_out] = [line for line in lines if "validation/accuracy" in line]
    # The finished model is that average, rounded.
    assert held_out["validation/accuracy"] == pytest.approx(
        results.metric("accuracy/test").value, abs=1 / 40
    )
    _, results = train(reviews, tmp_path / "none", num_train_epochs=1, num_test_texts=0)
    assert "There are no test texts, so the accuracy on them is not measured" in caplog.text
    assert [m.name for m in results.metrics if "accuracy" in m.name] == ["accuracy/train"]
    assert "validation/" not in (tmp_path / "none" / "log.jsonl").read_text()


def test_the_parts_of_the_data_are_kept_apart(reviews, tmp_path):
    rows = (reviews / "reviews.tsv").read_text(encoding="utf-8").splitlines()
    # Called alike, in several folders.
    folder, *others = (tmp_path / name / "parts" for name in ("one", "two", "three"))
    folder.mkdir(parents=True)
    for part, places in {"train": rows[::2], "val": rows[1::4], "test": rows[3::4]}.items():
        lines = [f"{text},{label}" for text, label in (row.split("\t") for row in places)]
        (folder / f"{part}.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    for other in others:
        shutil.copytree(folder, other)
    options = {"data": str(folder), "test_data": list(map(str, others)), "num_train_epochs": 1}
    with pytest.raises(
        ValueError, match="already has a test part with 40 texts, but num_test_texts"
    ):
        recipe_of(reviews, tmp_path / "both", **options).build_model()
    recipe, results = train(reviews, tmp_path / "run", num_test_texts=0, **options)
    assert results.metric("accuracy/train").n == 80 and results.metric("accuracy/test").n == 40
    assert results.metric("accuracy/parts").n == results.metric("accuracy/parts-2").n == 40
    split = LabelledSplit.load(tmp_path / "run")
    places = [split.train, split.validation, split.test]
    assert [len(one) for one in places] == [80, 40, 40] and len(torch.cat(places).unique()) == 160
    assert [len(part) for part in recipe.validation] == [40]
    assert recipe.validation[0].texts == [row.split("\t")[0] for row in rows[1::4]]


def test_a_student_learns_what_its_teachers_think_of_texts_without_labels(reviews, tmp_path):
    for seed in (1, 2):
        train(reviews, tmp_path / str(seed), seed=seed, num_train_texts=100)
    teachers = [str(tmp_path / "1"), str(tmp_path / "2")]
    prose = tmp_path / "prose.txt"
    prose.write_text("the plot is warm and the cast is witty\ntoo short\n" * 9, encoding="utf-8")
    options = {"teachers": teachers, "unlabelled_data": str(prose), "label_smoothing": 0.2}
    options |= {"num_train_texts": 10, "num_train_epochs": 20}
    recipe, results = train(reviews, tmp_path / "student", **options)
    assert len(recipe.train_rows) == 2 * 10 + 9
    assert recipe.train_targets[:20].amax(dim=1).tolist() == pytest.approx([0.9] * 20)
    thoughts = []
    for teacher in teachers:
        model = AutoModelForSequenceClassification.from_pretrained(teacher)
        tokens = AutoTokenizer.from_pretrained(teacher)(
            ["the plot is warm and the cast is witty"], return_tensors="pt"
        )
        thoughts.append(model(**tokens).logits.softmax(-1))
    torch.testing.assert_close(recipe.train_targets[20:21], sum(thoughts) / 2)
    assert results.metric("accuracy/test").value > 0.8


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (
            {"num_train_texts": 200},
            "has 160 training texts, fewer than the 200 for training and 40 for testing that you",
        ),
        ({"ema_decay": 1.0}, "ema_decay must be 0 or more and below 1"),
        ({"num_test_texts": -1}, "num_test_texts must be 0 or more"),
        ({"num_train_texts": 0}, "num_train_texts must be an integer, 1 or more"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more"),
        ({"label_smoothing": 1.0}, "label_smoothing must be 0 or more and below 1"),
        ({"teachers": "somewhere"}, "teachers need unlabelled_data to label; give some, or leave"),
    ],
)
def test_bad_options_are_refused(reviews, tmp_path, options, pattern):
    with pytest.raises(ValueError, match=pattern):
        train(reviews, tmp_path, **options)


def test_test_data_of_other_classes_are_refused(reviews, tmp_path):
    (tmp_path / "ag_news.csv").write_text('"1","a","b"\n', encoding="utf-8")
    with pytest.raises(ValueError, match="ag_news has the classes World"):
        train(reviews, tmp_path / "out", test_data=[str(tmp_path / "ag_news.csv")])


def test_a_teacher_without_a_tokenizer_is_refused(reviews, tmp_path):
    train(reviews, tmp_path / "teacher", num_train_texts=20, max_train_steps=1)
    for path in (tmp_path / "teacher").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match="has no tokenizer"):
        teach([str(tmp_path / "teacher")], ["a warm plot"], ["0", "1"])
