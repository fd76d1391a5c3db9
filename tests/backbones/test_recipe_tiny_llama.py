"""The small LLaMA: its tokenizer, what it learns and what it only measures."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import salhub
from salhub.backbones.tiny_llama.recipe_tiny_llama import TinyLlamaArguments, TinyLlamaRecipe
from salhub.backbones.tiny_llama.tokenizer_tiny_llama import train_tokenizer
from salhub.data.documents import encode_documents, read_documents
from salhub.results import Results
from salhub.runner.run import run
from tests import small_llama
from tests.testers.recipe import TrainingRecipeTester

SMALL = {
    "vocab_size": 270,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "context_length": 32,
    "held_out_every": 5,
    "batch_size": 8,
    "lr_warmup_steps": 2,
}


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("books") / "book.txt"
    path.write_text("\n\n".join(small_llama.documents(30)))
    return path


def recipe_of(book, folder, **options):
    settings = {"cpu": True, "num_train_epochs": 2, **SMALL, **options}
    return TinyLlamaRecipe(TinyLlamaArguments(output_dir=str(folder), data=str(book), **settings))


@pytest.fixture(scope="module")
def trained(book, tmp_path_factory):
    """A finished run, and what it found."""
    folder = tmp_path_factory.mktemp("runs") / "llama"
    run(recipe_of(book, folder, num_train_epochs=6, learning_rate=0.02))
    return folder, Results.load(folder / "results.json")


class TestTinyLlama(TrainingRecipeTester):
    @pytest.fixture
    def make(self, book):
        settings = {"num_train_epochs": 1, "batch_size": 6, "validation_steps": 3}
        return lambda folder, **options: recipe_of(book, folder, **{**settings, **options})


# --- the tokenizer --------------------------------------------------------------------------------


def test_every_text_is_given_back_as_it_was(tmp_path):
    tokenizer = train_tokenizer(small_llama.documents(5), 300, model_max_length=64)
    text = "The naïve\t film:  电影好看 🎬\r\n\n  don't stop \x00 'quoted' ."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.decode(tokenizer(" once there")["input_ids"]) == " once there"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 0)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert loaded.model_max_length == 64 and len(loaded) == len(tokenizer) <= 300


def test_words_that_come_often_are_one_token_and_all_bytes_are_known():
    tokenizer = train_tokenizer(["the film"] * 9, 300, model_max_length=64)
    assert len(tokenizer("the film")["input_ids"]) == 2
    assert len(tokenizer("电")["input_ids"]) == 3
    with pytest.raises(ValueError, match="vocab_size must be at least 257, got 256"):
        train_tokenizer(["the film"], 256, model_max_length=64)


# --- what is learned ------------------------------------------------------------------------------


def test_every_fifth_document_is_held_out(book, tmp_path):
    documents = read_documents(book)
    recipe = recipe_of(book, tmp_path)
    recipe.build_model()
    kept = documents[4::5]
    learned = [document for place, document in enumerate(documents) if place % 5 != 4]
    assert torch.equal(recipe.held_out_tokens, encode_documents(kept, recipe.tokenizer))
    assert torch.equal(recipe.tokens, encode_documents(learned, recipe.tokenizer))
    assert recipe.num_documents == (24, 6)


def test_nothing_depends_on_what_the_held_out_documents_say(book, trained, tmp_path):
    documents = read_documents(book)
    documents[4::5] = ["zebra quartz " * 9] * 6
    (tmp_path / "book.txt").write_text("\n\n".join(documents))
    run(recipe_of(tmp_path / "book.txt", tmp_path / "a", num_train_epochs=1))
    run(recipe_of(book, tmp_path / "b", num_train_epochs=1))
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    values = [
        Results.load(tmp_path / name / "results.json").metric("perplexity/held-out").value
        for name in "ab"
    ]
    assert values[0] > 1.2 * values[1]


def test_windows_of_an_epoch_are_cut_anew_and_each_token_is_learned_once(book, tmp_path):
    recipe = recipe_of(book, tmp_path)
    recipe.build_model()
    firsts = []
    for epoch in (0, 1, 0):
        [stage] = recipe.stages(epoch)
        rows = SimpleNamespace(rows=torch.arange(stage.size))
        first = stage.fetch(rows)["input_ids"].flatten()
        place = next(p for p in range(32) if torch.equal(recipe.tokens[p : p + len(first)], first))
        assert len(recipe.tokens) - place - len(first) < 32
        firsts.append(place)
    assert firsts[0] == firsts[2] != firsts[1]


# --- what is measured -----------------------------------------------------------------------------


def test_the_perplexity_is_that_of_the_saved_model_on_the_held_out_documents(book, trained):
    folder, results = trained
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(model) is LlamaForCausalLM and model.dtype == torch.float32
    tokenizer = AutoTokenizer.from_pretrained(folder)
    held_out = read_documents(book)[4::5]
    tokens = [t for one in held_out for t in (*tokenizer(one)["input_ids"], 0)]
    total, count = 0.0, 0
    for start in range(0, len(tokens), 32):
        window = tokens[start : start + 32]
        with torch.no_grad():
            scores = model(torch.tensor([window])).logits[0].double().log_softmax(-1)
        total -= sum(float(scores[p - 1, window[p]]) for p in range(1, len(window)))
        count += len(window) - 1
    found = results.metric("perplexity/held-out")
    assert (found.value, found.n) == (pytest.approx(math.exp(total / count), rel=1e-5), count)
    size = sum(len(one.encode()) + 1 for one in held_out)
    bits = total / count * len(tokens) / math.log(2) / size
    assert results.metric("bits_per_byte/held-out").value == pytest.approx(bits, rel=1e-5)
    # Any of the 270 tokens would be as likely as another.
    assert found.value < 40


def test_a_run_gives_a_model_that_is_run_and_measured_by_name(trained, book):
    folder, results = trained
    assert salhub.pipeline(folder)("the film", max_new_tokens=3).text.startswith("the film")
    weights = sum(p.numel() for p in LlamaForCausalLM.from_pretrained(folder).parameters())
    # Halves of 4 bytes each, and a header.
    assert (folder / "model.safetensors").stat().st_size < 2 * weights + 4000
    card = (folder / "README.md").read_text()
    assert "million weights, trained from scratch on" in card
    assert "pipeline_tag: text-generation" in card
    settings = json.loads((folder / "config.json").read_text())
    assert settings["max_position_embeddings"] == 64 and settings["tie_word_embeddings"]
    assert results.data["num_held_out"] == 6


def test_a_text_may_be_learned_as_a_whole(tmp_path):
    (tmp_path / "book.txt").write_text("\n\n".join(small_llama.documents(4)))
    folder = tmp_path / "out"
    run(recipe_of(tmp_path / "book.txt", folder, held_out_every=9, num_train_epochs=1))
    names = [metric.name for metric in Results.load(folder / "results.json").metrics]
    assert names and not [name for name in names if "held-out" in name]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"context_length": 1}, "context_length must be 2 or more, got 1"),
        ({"held_out_every": 1}, "held_out_every must be 2 or more, got 1"),
        ({"hidden_size": 17}, "hidden_size must be a multiple of num_attention_heads, got 17 and"),
        ({"num_key_value_heads": 3}, "num_attention_heads must be a multiple of num_key_value_h"),
        ({"adam_beta2": 1.0}, r"adam_beta2 must be 0 or more and below 1, got 1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more, got -1.0"),
        ({"vocab_size": 200}, "vocab_size must be at least 257, got 200"),
        ({"context_length": 4000}, r"training tokens, fewer than two windows of"),
        ({"text_column": "x", "data": "nowhere.csv"}, "csv do not exist; give a file or folder"),
    ],
)
def test_bad_options_are_refused(book, tmp_path, options, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        run(recipe_of(options.pop("data", book), tmp_path / "out", **options))
    assert not (tmp_path / "out" / "model.safetensors").exists()
