"""Long texts pass in pieces, and one that memory has no room for is refused."""

import numpy as np
import pytest
import torch
from transformers import BloomConfig, BloomForSequenceClassification

from salhub.models.verbalizer import memory
from salhub.models.verbalizer.explaining import explain_texts
from salhub.models.verbalizer.modeling_verbalizer import SaliencyVerbalizerModel
from tests.models.verbalizer.networks import own_tokenizer

LONG = "a warm film and a clumsy plot "


def bloom(**settings) -> SaliencyVerbalizerModel:
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=300, hidden_size=16, n_layer=2, n_head=2, num_labels=2)
    network = BloomForSequenceClassification(config).eval()
    return SaliencyVerbalizerModel.from_classifier(network, **settings)


def passes(model: SaliencyVerbalizerModel) -> list[tuple[int, int]]:
    """Rows and tokens of each pass, as they come."""
    seen: list[tuple[int, int]] = []

    def note(_, __, inputs):
        given = inputs.get("inputs_embeds", inputs.get("input_ids"))
        seen.append(tuple(given.shape[:2]))

    model.backbone.register_forward_pre_hook(note, with_kwargs=True)
    return seen


def tokenizer():
    own = own_tokenizer()
    own.model_max_length = 10**30
    return own


def test_passes_hold_few_rows_of_a_long_text():
    model = bloom(n_steps=3)
    seen = passes(model)
    found = explain_texts(model, tokenizer(), [LONG * 60, LONG * 60, LONG * 60])
    assert len(found) == 3 and not found[0].is_truncated
    assert max(rows * length for rows, length in seen) <= memory._TOKENS_IN_CACHE
    alone = explain_texts(bloom(n_steps=3), tokenizer(), [LONG * 60])[0]
    np.testing.assert_allclose(found[2].scores, alone.scores, atol=1e-5)


@pytest.mark.parametrize("attribution", ["integrated_gradients", "gradient_x_input"])
def test_a_text_that_does_not_fit_is_refused_with_the_length_that_does(monkeypatch, attribution):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 40 * 2**20)
    model = bloom(n_steps=2, attribution=attribution)
    with pytest.raises(
        ValueError, match=r"has 2800 tokens.*GiB are free, enough for \d+ tokens"
    ) as error:
        explain_texts(model, tokenizer(), [LONG * 400])
    fits = int(str(error.value).split("enough for ")[1].split()[0])
    assert 300 < fits < 1500
    shorter = tokenizer()
    shorter.model_max_length = fits
    found = explain_texts(model, shorter, [LONG * 400])[0]
    assert found.is_truncated and len(found.words) == fits


def test_what_is_weighed_is_what_a_pass_keeps():
    model = bloom()
    vectors = torch.rand(1, 600, 16)

    def classify(short):
        return model.backbone(inputs_embeds=short).logits

    sizes = [memory._bytes_kept(classify, vectors[:, :size], set()) for size in (150, 300, 600)]
    # Attention grows by the square of the length, and all else with it.
    first, second = sizes[1] - 2 * sizes[0], sizes[2] - 2 * sizes[1]
    assert 3 < second / first < 5
