"""Continuing texts: from a folder and a prompt to a result, and what a person gets."""

import json

import pytest
import torch
import transformers
from PIL import Image

import salhub
from salhub.entries import MODELS, find_entry, network_entry
from salhub.errors import UnknownNameError
from salhub.pipelines.text_generation import TextGenerationPipeline
from salhub.pipelines.text_generation_result import TextGenerationResult
from tests import small_llama

PROMPTS = ["The film", "a king who said", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_llama.save(tmp_path_factory.mktemp("models") / "small-llama")


@pytest.fixture(scope="module")
def write(folder):
    return salhub.pipeline(folder)


def greedy(model, ids: list[int], number: int) -> list[int]:
    for _ in range(number):
        with torch.no_grad():
            ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
    return ids


# --- from a name to a result ----------------------------------------------------------------------


def test_the_likeliest_token_is_taken_each_time(write, folder):
    assert type(write) is TextGenerationPipeline
    tokenizer = small_llama.tokenizer()
    ids = tokenizer("The film")["input_ids"]
    expected = greedy(small_llama.network(), ids, 6)
    found = write("The film", max_new_tokens=6)
    assert found.token_ids == expected[len(ids) :]
    assert found.text == tokenizer.decode(expected)
    assert found.text == found.prompt + found.completion == "".join([found.prompt, *found.tokens])
    assert found.model_name == str(folder)
    assert found.notes == ["The text stopped after 6 tokens; raise max_new_tokens for more."]


def test_a_seed_draws_the_same_again_and_no_other_draw_is_touched(write):
    state = torch.get_rng_state()
    first, again, other = (
        write("The film", temperature=1.5, seed=seed, max_new_tokens=8) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert first.token_ids == again.token_ids != other.token_ids
    assert first.notes[0] == "Sampled with temperature 1.5 and seed 1."
    # Of the likeliest tokens that have almost no probability together there is one.
    narrow = write("The film", temperature=1.5, top_p=1e-6, max_new_tokens=8)
    assert narrow.token_ids == write("The film", max_new_tokens=8).token_ids


def test_what_the_model_was_saved_to_do_does_not_change_what_was_asked_for(folder):
    model = small_llama.network()
    model.generation_config.update(do_sample=True, temperature=3.0, top_k=2, max_length=5)
    own = salhub.pipeline(model, tokenizer=small_llama.tokenizer())
    expected = salhub.pipeline(folder)
    for settings in ({}, {"temperature": 1.5, "seed": 4}):
        found = own("The film", max_new_tokens=9, **settings)
        assert found.token_ids == expected("The film", max_new_tokens=9, **settings).token_ids
    assert own.model.generation_config.temperature == 3.0


def test_a_list_gives_what_its_texts_give_alone(write):
    settings = {"temperature": 1.0, "max_new_tokens": 5}
    together = write(PROMPTS, batch_size=2, **settings)
    for prompt, found in zip(PROMPTS, together, strict=True):
        assert found.to_dict() == write(prompt, **settings).to_dict()
    assert write([]) == []


def test_a_text_ends_where_the_model_ends_it(write, monkeypatch):
    monkeypatch.setattr(
        write.model.generation_config, "eos_token_id", write("The film").token_ids[2:3]
    )
    found = write("The film")
    assert len(found.token_ids) <= 3 and found.notes == []


def test_a_prompt_that_is_too_long_is_cut_and_that_is_said(write):
    prompt = "the film " * 60
    number = len(small_llama.tokenizer()(prompt)["input_ids"])
    found = write(prompt, max_new_tokens=4)
    assert found.notes[0] == (
        f"Only the last 60 of the {number} tokens of the text were read, because the "
        "model accepts 64 including the 4 new ones."
    )
    ids = small_llama.tokenizer()(prompt)["input_ids"][-60:]
    assert found.token_ids == greedy(small_llama.network(), ids, 4)[60:]
    assert found.text.startswith(prompt)
    # Half of the 64 are kept for the text where nobody says how many are written.
    assert len(write("the").token_ids) == 32


def test_a_text_may_be_empty_where_there_is_a_token_for_the_beginning(write):
    found = write("", max_new_tokens=3)
    assert found.token_ids == greedy(small_llama.network(), [0], 1)[1:] == [0]
    assert (found.text, found.tokens, found.notes) == ("", ["<|endoftext|>"], [])
    pieces = small_llama.tokenizer().backend_tokenizer
    endless = transformers.PreTrainedTokenizerFast(tokenizer_object=pieces)
    with pytest.raises(
        ValueError, match="The text is empty, and the model has no start token; write"
    ):
        salhub.pipeline(write.model, tokenizer=endless)("")


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens must be at least 1, got 0"),
        ({"max_new_tokens": 64}, ValueError, "but the model accepts"),
        ({"max_new_tokens": 2.5}, TypeError, "max_new_tokens must be a whole number, got 2.5"),
        ({"temperature": -1}, ValueError, "temperature must be 0 or more, got -1"),
        ({"temperature": "hot"}, TypeError, "temperature must be a number, got 'hot'"),
        ({"top_p": 0}, ValueError, "top_p must be above 0 and at most 1, got 0"),
        ({"repetition_penalty": 0}, ValueError, "repetition_penalty must be above 0, got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"temperatur": 1}, ValueError, "has no setting 'temperatur'.*Did you mean 'temperature'"),
    ],
)
def test_bad_settings_are_refused(write, settings, error, sentence):
    with pytest.raises(error, match=sentence):
        write("The film", **settings)


def test_broken_models_are_refused(tmp_path):
    model, tokenizer = small_llama.network(), small_llama.tokenizer()
    with pytest.raises(ValueError, match="The model was not loaded by name, so its tokenizer is"):
        salhub.pipeline(model)
    model.resize_token_embeddings(270)
    with pytest.raises(
        ValueError, match="but the model only knows 0 to 269; encode the text with the"
    ):
        salhub.pipeline(model, tokenizer=tokenizer)("the film was good and said")
    model = small_llama.network()
    model.model.norm.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"NaN or infinite values.*'model\.norm\.weight'"):
        salhub.pipeline(model, tokenizer=tokenizer)("The film")
    folder = small_llama.save(tmp_path / "headless")
    small_llama.network().model.save_pretrained(folder)
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    (folder / "tokenizer_config.json").unlink()
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**settings, "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 3})
    )
    with pytest.raises(ValueError, match="has no tokenizer"):
        salhub.pipeline(folder)
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"not a trained language model.*lacks model\.layers\.2"):
        salhub.pipeline(folder)
    with pytest.raises(ValueError, match="whole' does not explain classifiers"):
        salhub.pipeline(small_llama.save(tmp_path / "whole"), classifier="x")
    with pytest.raises(ValueError, match=r"whole is .* 'llama', not a classifier of images; give"):
        salhub.pipeline("normgrad", classifier=tmp_path / "whole")
    with pytest.raises(ValueError, match=r"whole' is not a trained text classifier.*lacks score"):
        salhub.pipeline("verbalizer", classifier=tmp_path / "whole")


# --- which model it is ----------------------------------------------------------------------------


def test_the_class_that_was_saved_says_what_a_network_does(folder, tmp_path):
    assert network_entry(folder).task == find_entry(folder)[1].task == "text-generation"
    config = small_llama.network().config
    classifier = transformers.LlamaForSequenceClassification(config)
    classifier.save_pretrained(tmp_path)
    assert network_entry(tmp_path).task == "text-classification"
    with pytest.raises(UnknownNameError, match="is a model of type 'llama', which salhub does not"):
        find_entry(tmp_path)
    with pytest.raises(UnknownNameError, match="together with its image processor or tokenizer"):
        salhub.pipeline(classifier)


def test_networks_that_methods_explain_are_not_run():
    assert MODELS["tiny_llama"].is_run and MODELS["tiny_llama"].model_type == "llama"
    assert not MODELS["efficientnet_lite"].is_run
    assert MODELS["efficientnet_lite"].pipeline_class is None


def test_transformers_keeps_its_own_pipeline_and_it_works_with_our_models(write, folder):
    theirs = transformers.pipeline("text-generation", model=str(folder))
    assert type(theirs) is transformers.TextGenerationPipeline
    [answer] = theirs("The film", max_new_tokens=5, do_sample=False)
    assert answer["generated_text"] == write("The film", max_new_tokens=5).text


# --- what a person gets ---------------------------------------------------------------------------


@pytest.fixture
def result():
    return TextGenerationResult(
        "The <film>", " is\ngood.", [" is", "\n", "good."], [7, 8, 9], "salhub/x", ["Cut."]
    )


def test_a_result_is_told_written_and_drawn(result, tmp_path):
    assert result.summary() == "The <film> is\ngood.\n(Cut.)"
    assert result.to_dict() == {
        "model": "salhub/x", "prompt": "The <film>", "completion": " is\ngood.",
        "text": "The <film> is\ngood.", "tokens": [" is", "\n", "good."], "token_ids": [7, 8, 9],
        "notes": ["Cut."],
    }  # fmt: skip
    assert "<strong>The &lt;film&gt;</strong> is\ngood." in result.html()
    result.save(tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"result.txt", "result.html", "result.json", "plot.png"}
    assert (tmp_path / "out" / "result.txt").read_text() == "The <film> is\ngood.\n"
    assert Image.open(tmp_path / "out" / "plot.png").size == result.plot().size
    both = TextGenerationPipeline.compare({"a": result, "b": result})
    assert both.height > TextGenerationPipeline.compare({"a": result}).height
    assert repr(result) == (
        "TextGenerationResult('The <film>' + ' is\\ngood.', 3 tokens, model 'salhub/x')"
    )
