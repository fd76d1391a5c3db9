"""The model: scores, saving, and what it refuses."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, BertModel

from salhub.models.verbalizer.configuration_verbalizer import VerbalizerConfig
from salhub.models.verbalizer.modeling_verbalizer import SaliencyVerbalizerModel
from tests.models.verbalizer.networks import bert, own_network
from tests.testers import AttributionTester, BatchTester, SavingTester

NETWORK = {
    "model_type": "salhub_text_classifier",
    "vocab_size": 40,
    "embedding_size": 8,
    "num_filters": 6,
    "num_labels": 3,
}


class TestVerbalizer(SavingTester, BatchTester, AttributionTester):
    model_class = SaliencyVerbalizerModel
    shipped = ("salhub/verbalizer-movie-reviews", "salhub/verbalizer-news-topics")

    def config(self):
        return VerbalizerConfig(backbone_config=dict(NETWORK), n_steps=9)

    def inputs(self):
        ids = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 0, 0], [13, 0, 0, 0, 0]])
        return {
            "input_ids": ids,
            "attention_mask": (ids != 0).long(),
            "special_tokens_mask": (ids == 5).long(),
            "class_labels": torch.tensor([0, 1, 2]),
        }

    def bad_inputs(self):
        ids = self.inputs()["input_ids"]
        return [
            ({"input_ids": ids[0]}, ValueError, r"\(B, T\), none of them 0, got \(5,\)"),
            ({"input_ids": ids.float()}, TypeError, "tensor of integers, got torch.float32"),
            ({"input_ids": ids + 30}, ValueError, "tokens 0 to 39, got 30 to 43"),
            ({"attention_mask": ids[:2]}, ValueError, "attention_mask must have the shape"),
            ({"class_labels": torch.tensor([0, 1, 3])}, ValueError, "class 3 is out of range"),
            ({"class_labels": torch.tensor([0.0, 1, 2])}, TypeError, "class_labels must be int"),
            ({"class_labels": torch.tensor([0])}, ValueError, r"shape \(3,\), one class per text"),
            ({"other_labels": torch.tensor([1, 1, 1])}, ValueError, "compared with itself"),
        ]


class TestOcclusion(TestVerbalizer):
    def config(self):
        return VerbalizerConfig(backbone_config=dict(NETWORK), attribution="occlusion")


class TestGradientTimesInput(TestVerbalizer):
    def config(self):
        return VerbalizerConfig(backbone_config=dict(NETWORK), attribution="gradient_x_input")


class TestRandom(TestVerbalizer):
    def config(self):
        return VerbalizerConfig(backbone_config=dict(NETWORK), attribution="random")


def test_a_classifier_of_transformers_is_saved_inside(tmp_path):
    network = bert()
    model = SaliencyVerbalizerModel.from_classifier(network, n_steps=5)
    assert model.backbone is network and model.id2label[2] == "mixed"
    ids = torch.tensor([[2, 4, 5, 3]])
    expected = model(ids).saliency
    model.save_pretrained(tmp_path)
    loaded, info = SaliencyVerbalizerModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()) and loaded.config.n_steps == 5
    torch.testing.assert_close(loaded(ids).saliency, expected)


def test_a_classifier_may_be_named_only(tmp_path):
    bert().save_pretrained(tmp_path / "classifier")
    model = SaliencyVerbalizerModel.from_classifier(str(tmp_path / "classifier"))
    model.config.backbone = str(tmp_path / "classifier")
    model.save_pretrained(tmp_path / "named", save_backbone=False)
    assert not list((tmp_path / "named").glob("*.safetensors"))
    loaded = SaliencyVerbalizerModel.from_pretrained(tmp_path / "named")
    ids = torch.tensor([[2, 4, 5, 3]])
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_what_has_no_trained_head_is_refused(tmp_path):
    network = BertModel(bert().config)
    with pytest.raises(ValueError, match=r"BertModel has no classification head.*AutoModelForSeq"):
        SaliencyVerbalizerModel.from_classifier(network)
    network.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks classifier.*\(AutoModelForSequenceClassificat"):
        SaliencyVerbalizerModel.from_classifier(str(tmp_path))
    with pytest.raises(ValueError, match="not a text classifier of transformers"):
        SaliencyVerbalizerModel.from_classifier(torch.nn.Linear(2, 2))
    two = {0: "warmth", 1: "length"}
    for fields in ({"problem_type": "regression", "id2label": two}, {"id2label": {0: "warmth"}}):
        with pytest.raises(ValueError, match=r"A regression model .* has no classes to explain"):
            SaliencyVerbalizerModel.from_classifier(bert(**fields))
    with pytest.raises(ValueError, match="does not name a classifier to explain"):
        SaliencyVerbalizerModel(VerbalizerConfig())


def test_several_classes_at_once_have_probabilities_of_their_own():
    network = own_network(problem_type="multi_label_classification")
    model = SaliencyVerbalizerModel.from_classifier(network)
    logits = torch.tensor([[0.0, 2.0, -2.0]])
    torch.testing.assert_close(model.probabilities(logits), logits.sigmoid())
    single = SaliencyVerbalizerModel.from_classifier(own_network())
    torch.testing.assert_close(single.probabilities(logits), logits.softmax(-1))


@pytest.mark.parametrize("name", ["pad", "mask"])
def test_a_baseline_that_the_classifier_lacks_is_refused(name):
    network = bert(pad_token_id=None)
    model = SaliencyVerbalizerModel.from_classifier(network, baseline=name)
    with pytest.raises(ValueError, match=f"has no {name}_token_id.*use baseline='zero'"):
        model(torch.tensor([[4, 5]]))
    model.config.baseline = "zero"
    assert model(torch.tensor([[4, 5]])).saliency.isfinite().all()


SMALL = {"vocab_size": 60, "num_labels": 3, "hidden_size": 16, "num_hidden_layers": 1,
         "num_attention_heads": 2, "intermediate_size": 24, "pad_token_id": 0}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("esm", {"token_dropout": True, "mask_token_id": 5, "position_embedding_type": "rotary"}),
        ("ibert", {}),
        ("ctrl", {"n_embd": 16, "n_layer": 1, "n_head": 2, "dff": 24}),
    ],
)
def test_what_is_explained_is_the_classifiers_own_answer(name, fields):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **SMALL, **fields)
    network = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model = SaliencyVerbalizerModel.from_classifier(network, n_steps=9, baseline="zero")
    ids = torch.tensor([[6, 7, 8, 9], [9, 8, 6, 7]])
    output = model(ids)
    torch.testing.assert_close(output.logits, network(ids).logits.detach(), rtol=0, atol=1e-5)
    assert output.saliency.isfinite().all() and not any(
        module._forward_hooks for module in network.modules()
    )
    assert model.logits_of(ids, torch.ones_like(ids)).argmax(-1).equal(output.class_labels)


def test_a_classifier_that_answers_otherwise_to_vectors_is_refused(monkeypatch):
    network = bert()
    other = torch.nn.Embedding(60, 16)
    monkeypatch.setattr(network, "get_input_embeddings", lambda: other)
    with pytest.raises(ValueError, match="gives different answers for tokens and for their word"):
        SaliencyVerbalizerModel.from_classifier(network)(torch.tensor([[4, 5, 6]]))
    monkeypatch.setattr(network, "get_input_embeddings", lambda: None)
    with pytest.raises(ValueError, match="has no word embeddings"):
        SaliencyVerbalizerModel.from_classifier(network)


def test_the_text_classifier_inside_still_loads_by_its_auto_class(tmp_path):
    model = SaliencyVerbalizerModel.from_classifier(own_network())
    model.backbone.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    ids = torch.tensor([[4, 5, 6]])
    assert torch.equal(loaded(ids).logits, model(ids).logits)
