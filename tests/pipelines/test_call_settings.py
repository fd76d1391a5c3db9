"""Settings of a model that a call changes for itself: the shared model stays as it is."""

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from PIL import Image

import salhub
from salhub import (
    LexRankConfig,
    LexRankModel,
    NormGradForImageSaliency,
    SalientRelevanceForImageSaliency,
)
from salhub.data.samples import sample_path

TEXT = "sample:article"


@pytest.fixture(scope="module")
def summarise():
    return salhub.pipeline("lexrank-news-en")


@pytest.fixture(scope="module")
def explain():
    return salhub.pipeline("normgrad-efficientnet-lite0")


@pytest.fixture(scope="module")
def photo():
    return Image.open(sample_path("cat")).resize((224, 224))


def same_map(one, other):
    return one.label == other.label and np.array_equal(one.saliency, other.saliency)


@pytest.mark.parametrize(
    "settings",
    [{"threshold": 0.1}, {"damping": 0.3, "redundancy": None}, {"centrality": "degree"}],
)
def test_a_summary_with_settings_of_its_own_is_that_of_a_model_loaded_with_them(
    summarise, settings
):
    before = summarise(TEXT).to_dict()
    found = summarise(TEXT, **settings).to_dict()
    assert found == salhub.pipeline("lexrank-news-en", **settings)(TEXT).to_dict() != before
    assert summarise(TEXT).to_dict() == before


@pytest.mark.parametrize(
    "settings", [{"method": "grad_cam"}, {"layers": "blocks.4"}, {"normalize": "minmax"}]
)
def test_a_map_with_settings_of_its_own_is_that_of_a_model_loaded_with_them(
    explain, photo, settings
):
    # Another method forgets the layers that the model ships with, in a call too.
    before = explain(photo)
    loaded = salhub.pipeline("normgrad-efficientnet-lite0", **settings)
    found = explain(photo, class_labels=282, **settings)
    assert same_map(found, loaded(photo, class_labels=282)) and not same_map(found, before)
    assert same_map(explain(photo), before)


def test_salient_relevance_with_other_rules():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(784, 3)
    )
    make = SalientRelevanceForImageSaliency.from_classifier
    model, other = (make(network, preset=preset) for preset in ("epsilon_plus", "sr_reference"))
    pixels = torch.rand(1, 3, 16, 16)
    before, wanted = model.relevance(pixels).relevance, other.relevance(pixels).relevance
    found = model.with_settings(preset="sr_reference").relevance(pixels).relevance
    assert torch.equal(found, wanted) and not torch.equal(found, before)
    assert torch.equal(model.relevance(pixels).relevance, before)


def test_a_verbalization_with_settings_of_its_own():
    explain = salhub.pipeline("verbalizer-movie-reviews")
    german = salhub.pipeline("verbalizer-movie-reviews", language="de", max_words=2)
    text = "A wonderful film, and a wonderful cast, if half an hour too long."
    before = explain(text).text
    found = explain(text, language="de", max_words=2)
    assert found.text == german(text).text != before == explain(text).text
    with pytest.raises(ValueError, match="needs a chat model"):
        explain(text, mode="instruct")
    with pytest.raises(ValueError, match="'llm' can only be set when the model is loaded"):
        explain(text, llm="me/chat")


def test_a_class_given_to_the_verbalizer_when_it_is_made():
    explain = salhub.pipeline("verbalizer-movie-reviews", class_labels="negative")
    assert explain("A wonderful film.").label == "negative"


def test_calls_with_different_settings_at_the_same_time(summarise):
    damping = [0.1, 0.3, 0.5, 0.7, 0.9] * 4
    wanted = [summarise(TEXT, damping=value).to_dict() for value in damping[:5]] * 4
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda value: summarise(TEXT, damping=value).to_dict(), damping))
    assert found == wanted


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"treshold": 0.1}, "has no setting 'treshold'; it has budget.* mean 'threshold'"),
        ({"budgets": 2}, "has no setting 'budgets'.* mean 'budget'"),
        # What no call can set is not proposed either.
        ({"vocab_sizes": 2}, r"has no setting 'vocab_sizes'(?!.*'vocab_size')"),
        ({"threshold": 2}, "threshold must be"),
        ({"vocab_size": 3}, r"loaded: salhub\.pipeline\(\.\.\., vocab_size=\.\.\.\)\.$"),
    ],
)
def test_what_no_call_can_set_is_refused_before_a_text_is_read(summarise, settings, message):
    with pytest.raises(ValueError, match=message):
        summarise("there is no such sample:file", **settings)


def test_what_was_put_in_place_of_forward_does_not_answer_for_the_copy():
    """A dispatched or compiled model has a `forward` that is bound to the model itself."""
    similarity = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 1.0]])
    config = LexRankConfig(idf="uniform")
    wanted = LexRankModel(LexRankConfig(idf="uniform", damping=0.3))(similarity).scores
    model = dispatch_model(LexRankModel(config), {"": "cpu"}, force_hooks=True)
    assert torch.equal(model.with_settings(damping=0.3)(similarity).scores, wanted)
    compiled = LexRankModel(config)
    compiled.forward = functools.partial(LexRankModel.forward, compiled)
    assert torch.equal(compiled.with_settings(damping=0.3)(similarity).scores, wanted)
    assert not torch.equal(compiled(similarity).scores, wanted)


def test_weights_are_shared(explain):
    twin = explain.model.with_settings(method="grad_cam")
    assert twin.backbone is explain.model.backbone
    assert twin.config.name_or_path == explain.model.config.name_or_path
    assert twin.config.backbone_config is explain.model.config.backbone_config


def test_what_the_copy_is_given_is_not_the_models(tmp_path):
    texts = ["The old bridge is shut.", "The new bridge is open.", "Cats sleep.", "Dogs bark."]
    model = LexRankModel(LexRankConfig()).fit_idf(texts, min_documents=1)
    twin = model.with_settings(stopwords="en").fit_idf(texts * 2, min_documents=3)
    assert twin.vocabulary.keys() < model.vocabulary.keys()
    twin.half().register_forward_hook(lambda *_: pytest.fail("the hook is of the copy"))
    assert (twin.idf.dtype, twin.dtype) == (torch.float16, torch.float16)
    assert (model.idf.dtype, model.dtype) == (torch.float32, torch.float32)
    model.save_pretrained(tmp_path)
    wanted = LexRankModel.from_pretrained(tmp_path).rank(texts).scores
    assert torch.equal(model.rank(texts).scores, wanted)


def test_the_copy_reads_layers_in_its_own_way():
    def positions(output):
        """Leaves the deeper layers, of eight channels, without positions."""
        return output.mean((-2, -1), keepdim=True) if output.shape[1] == 8 else output

    torch.manual_seed(0)
    deep = torch.nn.Conv2d(4, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), *deep)
    pixels = torch.rand(1, 3, 12, 12)
    of_class = NormGradForImageSaliency.from_classifier
    wanted, plain = of_class(network, method="grad_cam"), of_class(network, method="grad_cam")
    wanted.reshape_transform = positions
    expected = wanted(pixels).native_saliency, plain(pixels).native_saliency
    assert expected[0].shape != expected[1].shape
    model = of_class(network)
    model(pixels)
    twin = model.with_settings(method="grad_cam")
    twin.reshape_transform = positions
    other = twin.with_settings(normalize="minmax")
    twin.reshape_transform = None
    other = other.with_settings(normalize=wanted.config.normalize)
    assert torch.equal(other(pixels).native_saliency, expected[0])
    assert torch.equal(twin(pixels).native_saliency, expected[1])


def test_a_network_that_cannot_be_saved_takes_settings_too():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    model = NormGradForImageSaliency.from_classifier(network)
    pixels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    wanted = NormGradForImageSaliency.from_classifier(network, normalize="minmax")(pixels)
    assert torch.equal(model.with_settings(normalize="minmax")(pixels).saliency, wanted.saliency)
