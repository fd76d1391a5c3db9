"""What an earlier version saved loads, and gives what it gave there; see `former/make.py`."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import salhub
from salhub.hub import resolve
from salhub.models.salun.weight_mask import WeightMask
from salhub.publishing import files_to_push
from salhub.results import Results

FORMER = Path(__file__).parent / "former"
TENSORS = load_file(FORMER / "outputs.safetensors")
FACTS = json.loads((FORMER / "outputs.json").read_text(encoding="utf-8"))
EXPLAINERS = {
    "normgrad": "NormGradForImageSaliency",
    "salient-relevance": "SalientRelevanceForImageSaliency",
    "grad-cam-by-pipeline": "NormGradForImageSaliency",
    "grad-cam-by-name": "NormGradForImageSaliency",
}
OTHERS = {
    "lexrank": "LexRankModel",
    "lexrank-by-encoder": "LexRankModel",
    "verbalizer": "SaliencyVerbalizerModel",
    "original": "SalUnForImageClassification",
    "unlearned": "SalUnForImageClassification",
    "diffusion": "SalUnForConditionalDiffusion",
    "unlearned-diffusion": "SalUnForConditionalDiffusion",
}
SENTENCES = [sentence["text"] for sentence in FACTS["lexrank"]["sentences"]]


@pytest.fixture(autouse=True)
def _beside_the_folders(monkeypatch):
    # One of them names another by a relative path.
    monkeypatch.chdir(FORMER)


def assert_same(found, name: str) -> None:
    expected = TENSORS[name]
    found = torch.as_tensor(found)
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * scale)


def assert_same_facts(found, expected) -> None:
    """Equal as far as the former version told; more may have been added."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_same_facts(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, value in zip(found, expected, strict=True):
            assert_same_facts(one, value)
    else:
        assert found == (pytest.approx(expected) if isinstance(expected, float) else expected)


@pytest.mark.parametrize(("name", "kind"), [*EXPLAINERS.items(), *OTHERS.items()])
def test_the_class_and_the_auto_classes_load_it_whole(name, kind):
    own = getattr(salhub, kind)
    loaded, info = own.from_pretrained(name, output_loading_info=True)
    assert not any(info.values())
    for auto in (salhub.AutoModelForSaliency, transformers.AutoModel):
        other = auto.from_pretrained(name)
        assert type(other) is own
        configs = (other.config.to_dict(), loaded.config.to_dict())
        assert configs[0] | {"_name_or_path": ""} == configs[1] | {"_name_or_path": ""}
        state = other.state_dict()
        assert all(torch.equal(state[key], value) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("name", EXPLAINERS)
def test_explainers_show_the_same(name):
    # A picture is seen whole by now; cut, it gives what it gave.
    result = salhub.pipeline(f"./{name}")("picture.png", class_labels=1, fit="crop")
    assert_same(result.saliency, f"{name}/saliency")
    assert result.label == FACTS[name]["label"]
    assert result.probability == pytest.approx(FACTS[name]["probability"], rel=1e-4)


@pytest.mark.parametrize("name", ["normgrad", "grad-cam-by-pipeline"])
def test_the_pipeline_of_transformers_shows_the_same(name):
    explain = transformers.pipeline("image-saliency", model=name)
    found = explain("picture.png", class_labels=1, fit="crop")
    assert_same(found.saliency, f"{name}/saliency")


@pytest.mark.parametrize("name", ["lexrank", "lexrank-by-encoder"])
def test_sentences_are_ranked_the_same(name):
    model = salhub.LexRankModel.from_pretrained(name)
    assert_same(model.rank(SENTENCES).scores, f"{name}/scores")
    text = " ".join(SENTENCES)
    pipelines = (
        salhub.pipeline(f"./{name}"),
        transformers.pipeline("extractive-summarization", model=name),
    )
    # Room that is left is filled since then, so there is as much as the former summary took.
    num_words = len(FACTS[name]["summary"].split())
    for summarize in pipelines:
        found = summarize(text, budget=f"{num_words}w").to_dict()
        assert_same_facts({**found, "model": name}, FACTS[name])


def test_words_are_weighed_the_same():
    expected = FACTS["verbalizer"]
    for explain in (
        salhub.pipeline("./verbalizer"),
        transformers.pipeline("saliency-verbalization", model="verbalizer"),
    ):
        result = explain("A dull plot, but grand and moving pictures.")
        assert_same(result.scores, "verbalizer/scores")
        assert (result.label, list(result.tokens)) == (expected["label"], expected["tokens"])
        assert result.probability == pytest.approx(expected["probability"])


@pytest.mark.parametrize("name", ["cifar-resnet", "original", "unlearned"])
def test_classifiers_say_the_same(name):
    model = transformers.AutoModelForImageClassification.from_pretrained(name).eval()
    with torch.no_grad():
        assert_same(model(TENSORS["pixels"]).logits, f"{name}/logits")


def test_a_pipeline_classifies_the_same():
    found = salhub.pipeline("./unlearned")("picture.png").to_dict()
    # That the network wavers is said before what it said then, and how few classes it has behind.
    said = found["summary"].removeprefix(" ".join([*found["notes"], ""]))
    found["summary"] = said.removesuffix(" The network always chooses one of its 3 classes.")
    assert_same_facts({**found, "model": "unlearned"}, FACTS["unlearned"])
    plain = transformers.pipeline("image-classification", model="unlearned")("picture.png")
    assert [one["label"] for one in plain] == ["three", "one", "two"]


@pytest.mark.parametrize("name", ["diffusion", "unlearned-diffusion"])
def test_diffusion_models_draw_the_same(name):
    content = json.loads(Path(name, "config.json").read_text(encoding="utf-8"))
    assert content["model_type"] == "salhub_salun_diffusion"
    for draw in (salhub.pipeline(f"./{name}"), transformers.pipeline("image-generation", name)):
        result = draw("one", num_images=2, num_steps=2, seed=7)
        assert_same(np.ascontiguousarray(result.pixels), f"{name}/pixels")


@pytest.mark.parametrize("name", FACTS["pushed"])
def test_the_same_files_would_be_pushed(name):
    assert sorted(files_to_push(name, "me/mine")) == FACTS["pushed"][name]


def test_results_of_runs_are_read():
    for name in ("cifar-resnet", "original", "unlearned", "diffusion", "unlearned-diffusion"):
        results = Results.load(Path(name, "results.json"))
        assert name in results.command and results.metric("seconds/steps").value > 0


def test_the_mask_of_a_run_is_read():
    mask = WeightMask.from_pretrained("unlearned")
    config = json.loads(Path("unlearned", "config.json").read_text(encoding="utf-8"))
    assert mask.num_open / mask.num_weights == pytest.approx(config["mask_ratio"], abs=1e-3)


def test_a_seeded_cache_serves(monkeypatch):
    monkeypatch.setenv("SALHUB_PREFER_HUB", "1")
    name, cache = "salhub/lexrank-minilm", os.fspath(FORMER / "cache")
    assert resolve(name, cache_dir=cache).source == "hub"
    for auto in (salhub.AutoModelForSaliency, transformers.AutoModel):
        model = auto.from_pretrained(name, cache_dir=cache, encoder="encoder")
        assert_same(model.rank(SENTENCES).scores, "cache/scores")
