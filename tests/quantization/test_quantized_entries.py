"""Models of transformers' own classes, with a quantizer of ours: found, loaded, shown, pushed."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from typer.testing import CliRunner

import salhub
from salhub import cards, entries, hub, manifest, model_facts, registration, results
from salhub.cli import app
from salhub.cli.info import describe
from salhub.entries import Method, Model, entry_of
from salhub.errors import UnknownNameError
from salhub.publishing import files_to_push
from salhub.results import Results
from tests import small_llama
from tests.quantization.rounded_weights import RoundedWeightsQuantizer, save_rounded

ENTRY = Model(
    "rounded_weights",
    "rounded_weights",
    "text-generation",
    "transformers.LlamaConfig",
    "transformers.LlamaForCausalLM",
    quantizer="tests.quantization.rounded_weights.RoundedWeightsQuantizer",
)
TOKENS = torch.tensor([[3, 1, 4, 1, 5]])


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """What `salhub.auto` and `import salhub` do for a method that ships with salhub."""
    monkeypatch.setitem(entries.METHODS, ENTRY.name, Method(ENTRY.name, "arXiv:0000.00000"))
    monkeypatch.setitem(entries.MODELS, ENTRY.name, ENTRY)
    registration._register_quantizers()


@pytest.fixture(scope="module")
def tiny() -> LlamaForCausalLM:
    return small_llama.network()


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    plain, packed = (small_llama.save(tmp_path_factory.mktemp(one)) for one in ("plain", "packed"))
    save_rounded(LlamaForCausalLM.from_pretrained(plain), packed)
    return plain, packed


def test_quantizers_are_registered_beside_models_and_only_once():
    registration._register_quantizers()
    assert AUTO_QUANTIZER_MAPPING["salhub_rounded_weights"] is RoundedWeightsQuantizer


def test_a_quantized_model_loads_through_every_door(tiny, folders):
    loaders = (AutoModelForCausalLM, salhub.AutoModelForSaliency)
    with torch.no_grad():
        expected = tiny(TOKENS).logits
        for loader in loaders:
            model = loader.from_pretrained(folders[1])
            assert type(model) is LlamaForCausalLM
            assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.int8
            error = (model(TOKENS).logits - expected).abs().max()
            assert 0 < error < 0.02 * expected.abs().max()


def test_the_quantization_says_which_method_a_model_is_of(folders):
    plain, packed = folders
    content = json.loads((packed / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(packed)
    assert entry_of(packed) is entry_of(content) is entry_of(model.config) is ENTRY
    with pytest.raises(UnknownNameError, match="is a model of type 'llama', which salhub does not"):
        entry_of(plain)


def test_it_is_pushed_with_a_card(folders):
    files = files_to_push(folders[1], "me/packed")
    assert {"config.json", "model.safetensors", "README.md"} <= files.keys()
    card = files["README.md"].decode()
    assert "rounded_weights" in card and "arxiv:0000.00000" in card
    assert 'salhub.AutoModelForSaliency.from_pretrained("me/packed")' in card
    with pytest.raises(ValueError, match="of type 'llama', which does not belong to salhub"):
        files_to_push(folders[0], "me/plain")


def test_it_is_shown_with_its_method(folders):
    shown = describe(str(folders[1]))
    assert (shown["method"], shown["task"]) == ("rounded_weights", "text-generation")


def test_it_is_run_and_measured_as_any_language_model(folders, tmp_path):
    packed = str(folders[1])
    write = salhub.pipeline(packed)
    assert write.model.model.layers[0].mlp.up_proj.weight.dtype == torch.int8
    text = write("The film", max_new_tokens=4).text
    model = AutoModelForCausalLM.from_pretrained(packed)
    assert salhub.pipeline(model, max_new_tokens=4)("The film").text == text
    words = ["run", packed, "The film", "max_new_tokens=4"]
    assert text in CliRunner().invoke(app, words).output
    (tmp_path / "book.txt").write_text("the film was good. " * 99)
    words = ["evaluate", packed, "--data", str(tmp_path / "book.txt"), "speed_tokens=2"]
    output = tmp_path / "results.json"
    result = CliRunner().invoke(app, [*words, "context=16", "-o", str(output)])
    assert result.exit_code == 0, result.output
    found = Results.load(output)
    assert found.metric("perplexity").n % 15 == 0
    assert found.metric("bytes/linears").value < found.metric("bytes/scales").value * 20


def test_what_no_pipeline_runs_is_refused_in_one_sentence(folders, monkeypatch):
    monkeypatch.setitem(entries.MODELS, ENTRY.name, dataclasses.replace(ENTRY, task="fill-mask"))
    packed = str(folders[1])
    sentence = "is made for 'fill-mask', for which salhub has no pipeline; load it"
    for model in (packed, AutoModelForCausalLM.from_pretrained(packed)):
        with pytest.raises(UnknownNameError, match=f"{packed}' {sentence}"):
            salhub.pipeline(model)
    words = (["run", packed, "hello"], ["compare", "hello", packed, packed], ["demo", packed])
    for command in words:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1 and sentence in result.stderr


@pytest.fixture
def shipped(folders, tmp_path, monkeypatch) -> Iterator[str]:
    """The plain model as one that ships with salhub: only its method says what it is."""
    folder = tmp_path / "weights" / "plain-llama"
    shutil.copytree(folders[0], folder)
    texts = dict.fromkeys(("intended_use", "not_for", "limits", "citation", "trained_on"), "None.")
    facts = {"method": ENTRY.name, "task": ENTRY.task, "source": "made", "license": "mit", **texts}
    (folder / "card.yaml").write_text(json.dumps({**facts, "example": 'load("{model}")'}))
    monkeypatch.setattr(manifest, "WEIGHTS_ROOT", folder.parent)
    for module in (cards, model_facts):
        monkeypatch.setattr(module, "fact_files", lambda model: [folder / "card.yaml"])
    for module in (cards, results):
        monkeypatch.setattr(module, "cards_folder", lambda: tmp_path)
    manifest.write_manifest()
    name = "salhub/plain-llama"
    Results(model=name, command="measure", seed=0).save(tmp_path / "plain-llama.results.json")
    yield name
    monkeypatch.undo()
    manifest.read_manifest.cache_clear()


def test_a_shipped_model_of_transformers_has_an_entry_a_card_and_is_pushed(shipped):
    assert entry_of(shipped) is ENTRY
    assert type(salhub.AutoModelForSaliency.from_pretrained(shipped)) is LlamaForCausalLM
    assert entry_of(hub.load(AutoConfig, shipped)) is ENTRY
    card = cards.build_card(shipped)
    assert "rounded-weights" in card and "| `vocab_size` | `280` |" in card
    assert "salhub run salhub/plain-llama 'The film'" in card
    cards.save_picture(shipped, cards.cards_folder() / cards.card_picture_name(shipped))
    assert files_to_push(shipped, "me/plain").keys() >= {"README.md", "model.safetensors"}
