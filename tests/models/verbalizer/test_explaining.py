"""Texts to words and scores: truncation, slow tokenizers, batches, and what is refused."""

import numpy as np
import pytest
import torch

from salhub.models.verbalizer.explaining import explain_texts
from salhub.models.verbalizer.modeling_verbalizer import SaliencyVerbalizerModel
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
        ([b"bytes"], TypeError, "A text is wanted, got bytes"),
    ],
)
def test_what_is_no_text_is_refused(texts, exception, pattern):
    model, tokenizer = own()
    with pytest.raises(exception, match=pattern):
        explain_texts(model, tokenizer, texts)
    with pytest.raises(ValueError, match="class 7 is out of range"):
        explain_texts(model, tokenizer, ["good"], class_labels=[7])
