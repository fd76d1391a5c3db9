"""Attribution against Captum, against plain loops, and its own axioms."""

import pytest
import torch

from salhub.models.verbalizer.modeling_verbalizer import SaliencyVerbalizerModel
from tests.models.verbalizer.networks import bert, own_network

IDS = torch.tensor([[2, 10, 11, 12, 13, 3, 0, 0], [2, 20, 21, 3, 0, 0, 0, 0]])
MASK = (IDS != 0).long()
SPECIAL = ((IDS == 2) | (IDS == 3) | (IDS == 0)).long()
LABELS = torch.tensor([1, 2])
INPUTS = {"attention_mask": MASK, "special_tokens_mask": SPECIAL, "class_labels": LABELS}
NETWORKS = {"bert": bert, "own": own_network}


def baseline_ids() -> torch.Tensor:
    return torch.where(SPECIAL.bool(), IDS, 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_integrated_gradients_are_those_of_captum(name):
    captum = pytest.importorskip("captum.attr", reason="captum is in the extra 'dev'")
    network = NETWORKS[name]()
    model = SaliencyVerbalizerModel.from_classifier(network, n_steps=25)
    found = model(IDS, **INPUTS)

    def forward(ids, mask):
        return network(input_ids=ids, attention_mask=mask).logits

    engine = captum.LayerIntegratedGradients(forward, network.get_input_embeddings())
    expected = engine.attribute(
        IDS, baseline_ids(), target=LABELS, additional_forward_args=(MASK,), n_steps=25
    ).sum(-1)
    largest = expected.abs().max()
    assert float((found.saliency - expected).abs().max() / largest) < 1e-4
    assert (found.saliency[SPECIAL.bool()] == 0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_sum_to_the_change_of_the_logit(name):
    network = NETWORKS[name]()
    model = SaliencyVerbalizerModel.from_classifier(network, n_steps=200)
    found = model(IDS, **INPUTS)
    with torch.no_grad():
        logits = network(input_ids=IDS, attention_mask=MASK).logits
        # A hidden word is still a place of the text.
        neutral = network(
            inputs_embeds=network.get_input_embeddings()(baseline_ids()), attention_mask=MASK
        ).logits
    change = (logits - neutral)[[0, 1], LABELS]
    delta = (found.saliency.sum(1) - change).abs()
    torch.testing.assert_close(found.convergence_delta, delta, rtol=0, atol=1e-5)
    assert delta.max() < 0.03 * change.abs().max()


def test_parts_of_a_batch_give_what_the_whole_gives():
    whole = SaliencyVerbalizerModel.from_classifier(bert())(IDS, **INPUTS).saliency
    for attribution in ("integrated_gradients", "gradient_x_input", "occlusion"):
        settings = {"attribution": attribution}
        together = SaliencyVerbalizerModel.from_classifier(bert(), **settings)
        parts = SaliencyVerbalizerModel.from_classifier(bert(), **settings, internal_batch_size=3)
        expected = together(IDS, **INPUTS).saliency
        torch.testing.assert_close(parts(IDS, **INPUTS).saliency, expected, rtol=0, atol=1e-5)
    assert whole.shape == IDS.shape


def test_a_contrast_explains_the_difference_of_two_logits():
    model = SaliencyVerbalizerModel.from_classifier(bert())
    others = torch.tensor([0, 0])
    this = model(IDS, **INPUTS).saliency
    that = model(IDS, **{**INPUTS, "class_labels": others}).saliency
    found = model(IDS, **INPUTS, other_labels=others).saliency
    torch.testing.assert_close(found, this - that, rtol=0, atol=1e-5)


def test_gradient_times_input_is_a_directional_derivative():
    network = bert().double()
    model = SaliencyVerbalizerModel.from_classifier(network, attribution="gradient_x_input")
    found = model(IDS, **INPUTS).saliency.double()
    table = network.get_input_embeddings()
    vectors, neutral = table(IDS).detach(), table(baseline_ids()).detach()
    step = 1e-6
    for place in range(1, 5):
        moved = vectors.clone()
        moved[0, place] += step * (vectors[0, place] - neutral[0, place])
        with torch.no_grad():
            change = network(inputs_embeds=moved, attention_mask=MASK).logits
            change = change - network(inputs_embeds=vectors, attention_mask=MASK).logits
        assert float(found[0, place]) == pytest.approx(float(change[0, 1]) / step, rel=1e-3)


def test_occlusion_hides_one_word_after_the_other():
    network = bert()
    model = SaliencyVerbalizerModel.from_classifier(network, attribution="occlusion")
    words = torch.tensor([[-1, 0, 0, 1, 2, -1, -1, -1], [-1, 0, 1, -1, -1, -1, -1, -1]])
    found = model(IDS, **INPUTS, word_ids=words).saliency
    table = network.get_input_embeddings()
    for text in range(2):
        for word in range(int(words[text].max()) + 1):
            hidden = torch.where(words[text] == word, 0, IDS[text])
            with torch.no_grad():
                full = network(
                    inputs_embeds=table(IDS[text : text + 1]), attention_mask=MASK[[text]]
                )
                less = network(inputs_embeds=table(hidden[None]), attention_mask=MASK[[text]])
            drop = (full.logits - less.logits)[0, LABELS[text]]
            own = found[text][words[text] == word]
            torch.testing.assert_close(own.sum(), drop, rtol=0, atol=1e-5)
            assert (own == own[0]).all()
    assert (found[words < 0] == 0).all()


def test_random_scores_depend_on_the_text_and_the_seed():
    models = [
        SaliencyVerbalizerModel.from_classifier(bert(), attribution="random", seed=seed)
        for seed in (0, 0, 1)
    ]
    first, second, other = (model(IDS, **INPUTS).saliency for model in models)
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert (first[SPECIAL.bool()] == 0).all() and first.abs().max() <= 1
