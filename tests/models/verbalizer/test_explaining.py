"""Texts to words and scores: truncation, slow tokenizers, batches, and what is refused."""

import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertForMultipleChoice,
    BertForTokenClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    LongformerConfig,
    LongformerForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

import salhub
from salhub.models.verbalizer.explaining import explain_texts
from salhub.models.verbalizer.modeling_verbalizer import SaliencyVerbalizerModel
from salhub.models.verbalizer.verbalizer import Verbalizer
from tests.models.verbalizer.networks import (
    TEXTS,
    bert,
    bert_tokenizer,
    own_network,
    own_tokenizer,
)


def own():
    return SaliencyVerbalizerModel.from_classifier(own_network()), own_tokenizer()


def test_the_scores_of_words_are_sums_over_their_pieces():
    model = SaliencyVerbalizerModel.from_classifier(bert())
    tokenizer = bert_tokenizer()
    found = explain_texts(model, tokenizer, ["good plot."])[0]
    ids = tokenizer("good plot.", return_tensors="pt")["input_ids"]
    special = torch.tensor([[1, *[0] * (ids.shape[1] - 2), 1]])
    scores = model(ids, special_tokens_mask=special).saliency[0].double().numpy()
    expected = [scores[1:5].sum(), scores[5:9].sum(), scores[9]]
    np.testing.assert_allclose(found.scores, expected, atol=1e-6)
    assert found.words.strings == ["good", "plot", "."]
    assert found.probability == pytest.approx(
        float(model(ids).logits.softmax(-1)[0, found.class_label])
    )


def test_texts_together_give_what_they_give_alone_in_their_order():
    model, tokenizer = own()
    together = explain_texts(model, tokenizer, TEXTS, batch_size=4)
    for text, found in zip(TEXTS, together, strict=True):
        alone = explain_texts(model, tokenizer, [text])[0]
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
        assert found.words.text == text and found.class_label == alone.class_label


def test_classes_and_contrasts_may_differ_from_text_to_text():
    model, tokenizer = own()
    labels, others = [None, 2, 1], [1, None, 0]
    likely = explain_texts(model, tokenizer, TEXTS[:1])[0].class_label
    others[0] = (likely + 1) % 3
    found = explain_texts(model, tokenizer, TEXTS[:3], class_labels=labels, other_labels=others)
    assert [one.class_label for one in found] == [likely, 2, 1]
    assert [one.other_label for one in found] == others
    alone = explain_texts(model, tokenizer, TEXTS[2:3], class_labels=[1], other_labels=[0])[0]
    np.testing.assert_allclose(found[2].scores, alone.scores, atol=1e-5)


def test_a_text_that_is_too_long_loses_its_end_with_a_warning(caplog):
    model = SaliencyVerbalizerModel.from_classifier(bert())
    found = explain_texts(model, bert_tokenizer(), ["good plot and a bad end of it all"])[0]
    assert found.is_truncated and len(found.words) < 9
    assert "longer than 24 tokens" in caplog.text
    assert not explain_texts(model, bert_tokenizer(), ["good"])[0].is_truncated


class SlowTokenizer:
    """A tokenizer that does not say where its tokens are."""

    is_fast = False
    model_max_length = 10**9
    pad_token_id = 0

    def __init__(self):
        self.fast = own_tokenizer()

    def __call__(self, text, truncation=False, max_length=None, verbose=True, **wanted):
        wanted.pop("return_offsets_mapping", None)
        return dict(self.fast(text, **wanted))

    def convert_ids_to_tokens(self, ids):
        return self.fast.convert_ids_to_tokens(ids)


def test_without_places_tokens_are_explained_with_a_warning(caplog):
    model, tokenizer = own()
    found = explain_texts(model, SlowTokenizer(), ["a warm film"])[0]
    assert found.words.strings == tokenizer.tokenize("a warm film")
    assert "use a fast tokenizer" in caplog.text


def test_too_few_steps_are_told(caplog):
    model = SaliencyVerbalizerModel.from_classifier(bert(), n_steps=1)
    explain_texts(model, bert_tokenizer(), ["good plot."])
    assert "raise n_steps" in caplog.text


@pytest.mark.parametrize(
    ("texts", "exception", "pattern"),
    [
        ([""], ValueError, "The text is empty"),
        ([" \n "], ValueError, "The text is empty"),
        ([b"bytes"], TypeError, "The input must be a text, got bytes"),
    ],
)
def test_what_is_no_text_is_refused(texts, exception, pattern):
    model, tokenizer = own()
    with pytest.raises(exception, match=pattern):
        explain_texts(model, tokenizer, texts)
    with pytest.raises(ValueError, match="class 7 is out of range"):
        explain_texts(model, tokenizer, ["good"], class_labels=[7])


def decoder(kind, pad):
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "num_labels": 3, "pad_token_id": pad, "bos_token_id": 2}
    if kind == "gpt2":
        network = GPT2ForSequenceClassification(
            GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, eos_token_id=3, **sizes)
        )
    else:
        network = LlamaForSequenceClassification(
            LlamaConfig(
                hidden_size=16, num_hidden_layers=2, num_attention_heads=2, eos_token_id=3,
                intermediate_size=24, max_position_embeddings=64, **sizes,
            )
        )  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network.eval()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("pad", [0, None])
@pytest.mark.parametrize("attribution", ["integrated_gradients", "occlusion"])
def test_what_reads_the_last_token_gives_in_a_batch_what_it_gives_alone(kind, pad, attribution):
    network, tokenizer = decoder(kind, pad), own_tokenizer()
    model = SaliencyVerbalizerModel.from_classifier(network, attribution=attribution)
    texts = [*TEXTS, "Dull.", "Warm."]
    labels = [None, 1, *[None] * (len(texts) - 2)]
    together = explain_texts(model, tokenizer, texts, class_labels=labels)
    for text, label, found in zip(texts, labels, together, strict=True):
        alone = explain_texts(model, tokenizer, [text], class_labels=[label])[0]
        assert found.class_label == alone.class_label
        assert found.probability == pytest.approx(alone.probability, abs=1e-5)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        likely = network(ids).logits.softmax(-1)[0, found.class_label]
        assert found.probability == pytest.approx(float(likely.detach()), abs=1e-5)
    assert network.config.pad_token_id == pad


def test_a_limit_below_0_is_none():
    network = XLNetForSequenceClassification(
        XLNetConfig(vocab_size=300, d_model=16, n_layer=1, n_head=2, d_inner=24, num_labels=3)
    ).eval()
    model, tokenizer = SaliencyVerbalizerModel.from_classifier(network), own_tokenizer()
    together = explain_texts(model, tokenizer, TEXTS[:3])
    for text, found in zip(TEXTS, together, strict=False):
        alone = explain_texts(model, tokenizer, [text])[0]
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)


def test_heads_that_cannot_be_explained_get_a_sentence():
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 16, "vocab_size": 60}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    bart = BartForSequenceClassification(BartConfig(**sizes, **heads))
    with pytest.raises(ValueError, match="is an encoder-decoder model"):
        SaliencyVerbalizerModel.from_classifier(bart)
    for kind in (BertForTokenClassification, BertForMultipleChoice):
        with pytest.raises(ValueError, match=f"{kind.__name__} has no classification head"):
            SaliencyVerbalizerModel.from_classifier(kind(bert().config))


def test_the_tokenizer_knows_the_mask():
    model, tokenizer = (
        SaliencyVerbalizerModel.from_classifier(bert(), baseline="mask"),
        bert_tokenizer(),
    )
    tokenizer.mask_token = "[UNK]"
    found = explain_texts(model, tokenizer, ["good plot."])[0]
    model.config.backbone_config.mask_token_id = 1
    same = explain_texts(model, bert_tokenizer(), ["good plot."])[0]
    np.testing.assert_allclose(found.scores, same.scores)
    model.config.backbone_config.mask_token_id = 10_000
    with pytest.raises(
        ValueError, match="mask_token_id is 10000, but the classifier only has tokens 0"
    ):
        explain_texts(model, tokenizer, ["good plot."])


def test_a_contrast_that_a_text_has_itself_is_named():
    model, tokenizer = own()
    first = explain_texts(model, tokenizer, TEXTS)
    rival = first[1].class_label
    name = model.id2label[rival]
    pattern = f"The text '.*' is explained for the class '{name}', which cannot be compared with"
    with pytest.raises(ValueError, match=pattern):
        explain_texts(model, tokenizer, TEXTS[1:2], other_labels=[rival])
    free = [text for text, one in zip(TEXTS, first, strict=True) if one.class_label != rival]
    found = explain_texts(model, tokenizer, free, other_labels=[rival] * len(free))
    assert all(one.other_label == rival for one in found)


def pairs_tokenizer():
    own = bert_tokenizer()
    own.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    own.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return own


def test_a_pair_of_texts_is_explained_as_the_classifier_reads_it():
    network, tokenizer = bert(), pairs_tokenizer()
    model = SaliencyVerbalizerModel.from_classifier(network)
    first, second = "it is", "a dry bad."
    found = explain_texts(model, tokenizer, [(first, second), "it is", (second, first)])
    inputs = tokenizer(first, second, return_tensors="pt")
    assert 1 in inputs["token_type_ids"]
    likely = network(**inputs).logits.softmax(-1)[0]
    assert found[0].probability == pytest.approx(float(likely.detach().max()), abs=1e-5)
    assert found[0].words.text == "it is\na dry bad."
    assert found[0].words.strings == ["it", "is", "a", "dry", "bad", "."]
    assert found[0].words.second == 2 and found[1].words.second == 0
    alone = explain_texts(model, tokenizer, [(first, second)])[0]
    np.testing.assert_allclose(found[0].scores, alone.scores, atol=1e-5)
    # What is named is of one of the two.
    for scores in ([0, 1.0, 1, 0.9, 0.2, 0], [1.0, 1, 1, 1, 1, 1]):
        told = Verbalizer().verbalize(found[0].words, scores)
        assert not any("\n" in phrase.text for phrase in told.phrases) and told.coverage > 0.5


def test_texts_by_name_are_taken_as_in_transformers():
    explain = salhub.pipeline("verbalizer", classifier=bert(), tokenizer=pairs_tokenizer())
    assert explain({"text": "a plot"}).tokens == ["a", "plot"]
    both = explain([{"text": "a", "text_pair": "plot"}, "a"])
    assert [one.tokens for one in both] == [["a", "plot"], ["a"]]
    assert explain({"text": "a", "text_pair": None}).tokens == ["a"]
    for wrong in ({"texts": "a"}, {"text": "a", "label": 1}, {}):
        with pytest.raises(ValueError, match="A text given as a dictionary"):
            explain(wrong)
    with pytest.raises(ValueError, match="The text is empty"):
        explain({"text": "a", "text_pair": " "})


def test_networks_that_want_more_than_a_mask_get_it():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LongformerConfig(
        vocab_size=60,
        intermediate_size=16,
        attention_window=[8],
        max_position_embeddings=34,
        **sizes,
    )
    network = LongformerForSequenceClassification(config).eval()
    model = SaliencyVerbalizerModel.from_classifier(network)
    found = explain_texts(model, bert_tokenizer(), ["good plot."])[0]
    likely = network(**bert_tokenizer()("good plot.", return_tensors="pt")).logits.softmax(-1)
    assert found.probability == pytest.approx(float(likely.detach().max()), abs=1e-5)
