"""The evaluation on made-up texts: its parts against plain arithmetic, and as a whole."""

import numpy as np
import pytest
import torch

from benchmarks.verbalizer_student import main as ask_student
from benchmarks.verbalizer_student import student_accuracy
from salhub.data.labelled_split import LabelledSplit
from salhub.data.labelled_texts import read_labelled_texts
from salhub.models.verbalizer import evaluation_verbalizer
from salhub.models.verbalizer.evaluation_removal import random_groups, removal_drops
from salhub.models.verbalizer.evaluation_verbalizer import evaluate
from salhub.models.verbalizer.explaining import explain_texts
from salhub.models.verbalizer.modeling_verbalizer import SaliencyVerbalizerModel
from salhub.pipelines.chat import CallableChat
from salhub.results import Results
from tests.models.verbalizer.networks import LABELS, own_network, own_tokenizer

WORDS = ["warm", "witty", "dull", "clumsy", "plot", "story", "film", "friends", "bad", "moving"]


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """A verbalizer in a folder, its tokenizer, and a file of texts of its classes."""
    folder = tmp_path_factory.mktemp("model")
    SaliencyVerbalizerModel.from_classifier(own_network(), n_steps=8).save_pretrained(folder)
    generator = np.random.default_rng(0)
    rows = [
        (" ".join(generator.choice(WORDS, generator.integers(3, 15))), LABELS[place % 3])
        for place in range(60)
    ]
    path = tmp_path_factory.mktemp("data") / "texts.tsv"
    path.write_text("".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")
    names = sorted(LABELS.values())
    model = SaliencyVerbalizerModel.from_pretrained(folder)
    model.config.backbone_config.id2label = dict(enumerate(names))
    return model, own_tokenizer(), path


def test_words_are_removed_one_text_at_a_time(explained):
    model, tokenizer, _ = explained
    texts = ["a warm film, witty", "dull"]
    maps = explain_texts(model, tokenizer, texts)
    found = removal_drops(model, tokenizer, maps, [[1, 4], [0]])

    def probability(text: str, label: int) -> float:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        if not ids.numel():
            ids = torch.tensor([[0]])
            mask = torch.ones_like(ids)
        else:
            mask = torch.ones_like(ids)
        logits = model.backbone(input_ids=ids.long(), attention_mask=mask).logits
        return float(logits.detach().softmax(-1)[0, label])

    labels = [one.class_label for one in maps]
    full = [probability(text, label) for text, label in zip(texts, labels, strict=True)]
    without = [probability("a film,", labels[0]), probability("", labels[1])]
    alone = [probability("warm witty", labels[0]), probability("dull", labels[1])]
    expected = np.array(full) - without, np.array(full) - alone
    np.testing.assert_allclose(found.comprehensiveness, expected[0], atol=1e-6)
    np.testing.assert_allclose(found.sufficiency, expected[1], atol=1e-6)


def test_random_phrases_are_as_long_and_share_no_word():
    generator = np.random.default_rng(0)
    groups = [(4, 5, 7), (10,), (0, 1)]
    for _ in range(50):
        drawn = random_groups(groups, 20, generator)
        shapes = {tuple(word - one[0] for word in one) for one in drawn}
        assert shapes == {(0, 1, 3), (0,), (0, 1)}
        words = [word for one in drawn for word in one]
        assert len(set(words)) == 6 and min(words) >= 0 and max(words) < 20
    assert random_groups([(0, 1)], 2, generator) == [(0, 1)]


def test_a_student_guesses_what_words_tell_and_nothing_else():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 120).tolist()
    telling = [f"some {WORDS[label]} words" for label in labels]
    value, (low, high) = student_accuracy(telling, labels, 3)
    assert value == low == high == 1.0
    empty = student_accuracy(["same words"] * 120, labels, 3)[0]
    assert abs(empty - max(np.bincount(labels)) / 120) < 0.15
    with pytest.raises(ValueError, match="needs 2 texts or more, got 1"):
        student_accuracy(["x"], [0], 2)


def test_everything_is_measured(explained):
    model, tokenizer, path = explained
    results = evaluate(model, tokenizer, path, num_texts=20)
    names = {metric.name for metric in results.metrics}
    for kind in ("citation", "sign", "number"):
        for text in ("template", "template_zh", "smv"):
            assert results.metric(f"audit/{text}/{kind}").value == 1.0
    greedy, best = (
        results.metric(f"coverage/{one}").value for one in ("greedy", "best_single_words")
    )
    assert 0.5 < greedy <= best + 1e-9 <= 1 + 1e-9
    assert results.metric("coverage/smv").value <= best
    for name in ("comprehensiveness", "sufficiency", "accuracy"):
        assert name in names
    assert results.metric("convergence_delta/share").value < 0.05
    assert [table.title for table in results.tables][:2] == [
        "The classifier and its scores",
        "Coverage at the same number of words",
    ]
    assert "chat_phrases/before" not in " ".join(names)
    again = evaluate(model, tokenizer, path, num_texts=20)
    assert again.metric("coverage/greedy").value == greedy


def test_a_chat_model_is_measured_around_slots_and_in_free_prose(explained, monkeypatch):
    model, tokenizer, path = explained

    def answer(messages):
        if "double quotes" in messages[-1]["content"]:
            return "Because of “warm” and “superb”, 99 %."
        return "[1] carries the verdict. It is “superb”."

    monkeypatch.setattr(evaluation_verbalizer, "as_chat", lambda *_: CallableChat(answer))
    results = evaluate(
        model, tokenizer, path, num_texts=10, chat_model="some/chat", num_chat_texts=6
    )
    assert results.metric("audit/chat_phrases/before/faithful").value == 0.0
    assert results.metric("audit/chat_phrases/after/faithful").value == 1.0
    assert results.metric("chat_phrases/answers_kept").value == 1.0
    assert results.metric("audit/chat_free/citation").value <= 0.5
    assert results.metric("audit/chat_free/faithful").value == 0.0
    assert results.tables[-1].title == "A chat model, audited" and len(results.tables[-1].rows) == 3


def test_what_the_student_guesses_goes_into_the_results_file(explained, tmp_path):
    model, tokenizer, path = explained
    model.save_pretrained(tmp_path / "own")
    tokenizer.save_pretrained(tmp_path / "own")
    results = evaluate(model, tokenizer, path, num_texts=5)
    file = results.save(tmp_path / "results.json") or tmp_path / "results.json"
    ask_student(
        [str(tmp_path / "own"), "--data", str(path), "--texts", "40", "--results", str(file)]
    )
    found = Results.load(tmp_path / "results.json")
    assert 0 <= found.metric("simulatability/explanation").value <= 1
    assert found.tables[-1].title == "Guessing the decision"
    assert found.metric("accuracy").value == results.metric("accuracy").value


def test_texts_that_were_learned_are_left_out(explained, tmp_path):
    model, tokenizer, path = explained
    texts = read_labelled_texts(path)
    model.save_pretrained(tmp_path)
    split = LabelledSplit(texts.describe(), torch.arange(30), torch.arange(30, 60))
    split.save(tmp_path)
    loaded = SaliencyVerbalizerModel.from_pretrained(tmp_path)
    results = evaluate(loaded, tokenizer, path, num_texts=5)
    assert results.data["num_texts"] == 30
    LabelledSplit(texts.describe(), torch.arange(60), torch.arange(0)).save(tmp_path)
    with pytest.raises(ValueError, match="was trained on all texts of texts"):
        evaluate(loaded, tokenizer, path)


def test_data_of_other_classes_are_refused(explained, tmp_path):
    model, tokenizer, _ = explained
    other = tmp_path / "other.tsv"
    other.write_text("fine\t1\nbad\t0\n", encoding="utf-8")
    with pytest.raises(ValueError, match="other has the classes 0, 1, but the model has"):
        evaluate(model, tokenizer, other)
