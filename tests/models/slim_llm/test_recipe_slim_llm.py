"""Compression by SliM-LLM: from a LLaMA and a text to a folder that transformers loads."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma3nForCausalLM,
    Gemma3nTextConfig,
    GgufConfig,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.quantizers.quantizer_gguf import GgufHfQuantizer

from salhub.models.slim_llm.layer_report import CompressionReport
from salhub.models.slim_llm.quantize_model import quantize_slim_llm
from salhub.quantization.packed_embedding import PackedEmbedding
from salhub.quantization.packed_linear import PackedLinear
from salhub.quantization.quantizer import packed_layers
from salhub.runner import language_model_compression
from salhub.runner.language_model_compression import CompressionRecipe
from salhub.runner.run import run
from salhub.runner.summary import summary
from tests import small_llama
from tests.models.slim_llm.compressing import LENGTH, NUM_WINDOWS, recipe
from tests.testers.recipe import RecipeTester


class TestSlimLLM(RecipeTester):
    @pytest.fixture
    def make(self, sources):
        return lambda folder, **options: recipe(folder, sources, **options)


def widths(folder: Path) -> dict[str, str]:
    return json.loads((folder / "config.json").read_text())["quantization_config"]["group_bits"]


def test_a_compressed_model_loads_and_predicts_what_it_did(tmp_path, sources):
    made = recipe(
        tmp_path / "out", sources, bits=3, test_data=sources["calibration"], test_context_length=24
    )
    results = run(made)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("the old king said", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(sources["model"])(ids).logits
    # Three bits change the answers of a model of random weights by little.
    assert 0 < float((logits - plain).norm() / plain.norm()) < 0.3
    assert all(layer.widths for layer in packed_layers(model).values())
    for name, digits in widths(tmp_path / "out").items():
        assert sum(map(int, digits)) == 3 * len(digits), name
    assert results.metric("bits").value == 3
    assert results.metric("perplexity/before").value == pytest.approx(
        results.metric("perplexity/after").value, rel=0.05
    )


def test_maps_to_compare_with_keep_the_counts(tmp_path, sources):
    found = {}
    for allocation in ("salience", "random", "inverted", "uniform"):
        run(recipe(tmp_path / allocation, sources, allocation=allocation))
        found[allocation] = widths(tmp_path / allocation)
    first = "model.layers.0.mlp.down_proj"
    assert found["inverted"][first].translate(str.maketrans("13", "31")) == found["salience"][first]
    assert set(found["uniform"][first]) == {"2"}
    assert found["random"] != found["salience"]
    for name, digits in found["salience"].items():
        # Later blocks see what the earlier ones give, so only those of the first are the same.
        if ".0.self_attn.q" in name:
            assert sorted(digits) == sorted(found["random"][name])


# --- what a run leaves --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory, sources) -> Path:
    folder = tmp_path_factory.mktemp("run") / "small"
    run(recipe(folder, sources, bits=3, test_data=sources["calibration"], group_size=2,
               test_context_length=24))  # fmt: skip
    return folder


def test_the_report_holds_every_layer(finished):
    report = CompressionReport.load(finished)
    assert (report.bits, report.group_size, report.base_model) == (3, 2, None)
    stored = widths(finished)
    assert report.layers.keys() == stored.keys()
    for name, layer in report.layers.items():
        assert "".join(map(str, layer.group_bits)) == stored[name]
        assert len(layer.salience) == len(layer.group_bits)
        # 8 or 12 groups; three bits may stay all alike.
        assert [p for p, _ in layer.curve] == list(range(len(layer.group_bits) // 2 + 1))
        best = min(layer.curve, key=lambda one: one[1])
        assert layer.num_swapped == best[0] == layer.group_bits.count(2)
        assert 0 < layer.error < 1


def test_the_card_says_what_it_cost_and_shows_it(finished, sources):
    card = (finished / "README.md").read_text()
    assert "| packed weights | 0 |" not in card
    head = card.split("\n---\n", 1)[1]
    assert "Import salhub before you load the model: it registers the" in head[:400]
    assert "import salhub" in card.partition("```python")[2].partition("```")[0]
    for name in ("bits.png", "divergences.png"):
        assert f"]({name})" in card
        with Image.open(finished / name) as picture:
            assert picture.width == 780 and picture.height > 100
            assert len(picture.convert("RGB").getcolors(2**24)) > 20
    size = (finished / "model.safetensors").stat().st_size
    assert f"| all | {size} | 100.0 % |" in card
    plain = sum(one.numel() for one in small_llama.network().parameters())
    assert f"| all weights in 16 bits each | {2 * plain} |" in card
    for row in ("model.layers.0", "seconds/bits", "peak_memory", "bits_with_scales"):
        assert f"| {row} |" in card
    assert str(finished.parent) not in card and sources["model"] not in card


def test_times_of_a_run_that_was_stopped_are_those_of_both_lives(tmp_path, sources):
    made = recipe(tmp_path / "out", sources)
    compress, done = made.compress_block, []

    def once(*arguments):
        if done:
            raise KeyboardInterrupt
        done.append(compress(*arguments))
        return done[0]

    made.compress_block = once
    with pytest.raises(KeyboardInterrupt):
        run(made)
    spent = float(done[0].tensors["seconds/bits"])
    results = run(recipe(tmp_path / "out", sources, resume_from_checkpoint="latest"))
    assert results.metric("seconds/bits").value > spent > 0
    for stage in ("inputs", "weights", "outputs"):
        assert results.metric(f"seconds/{stage}").value > 0


def test_the_embedding_may_be_packed_too(tmp_path, sources):
    plain = run(recipe(tmp_path / "plain", sources))
    results = run(recipe(tmp_path / "out", sources, quantize_embeddings="int8"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert isinstance(model.model.embed_tokens, PackedEmbedding)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    lines = summary(CompressionRecipe, plain, "out"), summary(CompressionRecipe, results, "out")
    unpacked = ["Embedding and head are not packed" in " ".join(said) for said in lines]
    assert unpacked == [True, False]
    assert 0 < plain.metric("share_of_embeddings").value < 1
    saved = plain.metric("bytes").value - results.metric("bytes").value
    # 280 rows of 16 numbers of 4 bytes, or of one with a scale; headers differ by little.
    assert saved == pytest.approx(280 * (16 * 3 - 2), abs=200)


# --- in memory ----------------------------------------------------------------------------------


def test_a_model_in_memory_gets_the_weights_of_a_run(tmp_path, sources):
    run(recipe(tmp_path / "out", sources))
    base, state = small_llama.network(), torch.random.get_rng_state()
    done = quantize_slim_llm(
        base,
        small_llama.tokenizer(),
        sources["calibration"],
        num_calibration_windows=NUM_WINDOWS,
        context_length=LENGTH,
        group_size=4,
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    done.model.save_pretrained(tmp_path / "memory")
    first, second = (load_file(tmp_path / one / "model.safetensors") for one in ("out", "memory"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert CompressionReport.load(tmp_path / "out").layers.keys() == done.layers.keys()
    assert done.mean_bits == 2 < done.bits_per_weight
    packed = [values for name, values in first.items() if "_proj." in name]
    assert done.packed_bytes == sum(one.numel() * one.element_size() for one in packed)
    assert set(done.seconds) == {"inputs", "bits", "weights", "outputs"}


def test_a_model_that_was_read_from_gguf_is_compressed_and_saved(tmp_path):
    tokens = torch.arange(96).view(4, 24)
    base = small_llama.network()
    base.config.quantization_config = GgufConfig()
    base.hf_quantizer = GgufHfQuantizer(base.config.quantization_config)
    done = quantize_slim_llm(base, None, tokens, group_size=4)
    done.model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, done.model(tokens).logits)
    other = quantize_slim_llm(small_llama.network(), None, tokens, group_size=4)
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, other.model(tokens).logits)


def test_a_gguf_file_is_compressed_by_its_path(tmp_path, sources):
    run(recipe(tmp_path / "plain", sources))
    folder = tmp_path / "gguf"
    folder.mkdir()
    file = small_llama.save_gguf(folder / "small.gguf")
    for name, place in (
        ("path", {"model": str(file)}),
        ("named", {"model": str(folder), "gguf_file": file.name}),
    ):
        run(recipe(tmp_path / name, {**sources, **place}))
    path, named = (load_file(tmp_path / one / "model.safetensors") for one in ("path", "named"))
    assert all(torch.equal(one, named[name]) for name, one in path.items())
    assert path["model.embed_tokens.weight"].dtype == torch.float16
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        ours, plain = (
            AutoModelForCausalLM.from_pretrained(tmp_path / one, dtype="float32")(tokens).logits
            for one in ("path", "plain")
        )
    torch.testing.assert_close(ours, plain, rtol=0, atol=0.02)
    assert "small.gguf at 2 bits" in (tmp_path / "path" / "README.md").read_text()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ({"model": "gguf"}, r"no config.json, but GGUF files; give one of them, such as .*a.gguf"),
        ({"model": "gguf", "gguf_file": "b.gguf"}, r"has no file b.gguf; it has a.gguf"),
        ({"model": "none", "gguf_file": "b.gguf"}, r"it has no GGUF files"),
        ({"model": "gguf", "gguf_file": "b.bin"}, r"gguf_file must end in .gguf, got b.bin"),
        ({"model": "gguf/a.gguf", "gguf_file": "b.gguf"}, r"gguf/a.gguf is a file itself"),
        ({"model": "gguf/a.gguf"}, r"a.gguf of gguf/a.gguf cannot be read as a GGUF file with"),
        ({"model": "salhub/tiny-llama-en", "gguf_file": "b.gguf"}, "comes with salhub, without a"),
    ],
)
def test_gguf_files_that_are_not_there_are_refused(tmp_path, monkeypatch, place, words):
    monkeypatch.chdir(tmp_path)
    for folder in ("gguf", "none"):
        (tmp_path / folder).mkdir()
    (tmp_path / "gguf" / "a.gguf").write_bytes(b"GGUF")
    (tmp_path / "text.txt").write_text("a film")
    with pytest.raises(ValueError, match=words):
        recipe(tmp_path / "out", {**place, "calibration": "text.txt"}).build_model()


@pytest.mark.parametrize(
    ("tokens", "options", "words"),
    [
        (torch.zeros(8, dtype=torch.long), {}, r"tokens of shape \(windows, length\)"),
        (torch.zeros(2, 8), {}, "whole numbers, got torch.float32"),
        (torch.zeros(2, 8, dtype=torch.bool), {}, "whole numbers, got torch.bool"),
        (
            torch.zeros(2, 65, dtype=torch.long),
            {},
            "the length of the windows is 65, but the model accepts 64 tokens",
        ),
        (
            torch.zeros(2, 8, dtype=torch.long),
            {"dry_run": True},
            "has no option 'dry_run', because it saves and measures nothing",
        ),
        (torch.zeros(0, 8, dtype=torch.long), {}, "give one window or more"),
        (
            torch.full((2, 8), 999),
            {},
            "has tokens from 999 to 999, but the model only knows 0 to",
        ),
        ("text.txt", {}, "needs the model's tokenizer"),
        (torch.zeros(2, 8, dtype=torch.long), {"bit": 3}, "has no option 'bit'. Did you mean"),
    ],
)
def test_bad_calls_are_refused(tokens, options, words):
    with pytest.raises(ValueError, match=words):
        quantize_slim_llm(small_llama.network(), None, tokens, group_size=4, **options)


# --- what is refused, and what is warned of -----------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 5}, "bits must be 2, 3 or 4, got 5"),
        ({"group_size": 64}, "group_size is 64, and model.layers.0.self_attn.q_proj has only 16"),
        ({"num_test_tokens": -5}, "num_test_tokens must be an integer, 1 or more, got -5"),
        ({"preset": "plus", "match_outputs": True}, "match_outputs applies to weights quantized"),
        ({"refinements": 0.5}, "refinements must be an integer, 0 or more, got 0.5"),
        ({"objective": "errors"}, "objective must be one of divergence, error"),
        ({"search_range": 1.0}, "search_range must be 0 or more and below 1, got 1.0"),
        ({"context_length": 65}, "context_length is 65, but the model accepts 64 tokens"),
        ({"clip_learning_rate": 0.1}, "clip_learning_rate has no effect without clip_epochs or"),
        ({"num_search_rows": 8}, "num_search_rows has no effect without objective=divergence"),
        ({"preset": "rtn", "damping": 0.1}, "damping has no effect without the interplay of"),
        (
            {"bits_granularity": "module", "bits": 2.5, "objective": "divergence"},
            "objective applies to groups, but bits_granularity is module",
        ),
        (
            {"preset": "best"},
            "preset must be one of recommended, reference, plus, rtn, gptq, gptq-clip",
        ),
        ({"quantize_embeddings": "int4"}, "quantize_embeddings must be one of int8 or None"),
        ({"text_column": "story"}, "text_column is story, but .* is a text, which has none"),
        ({"test_text_column": "story"}, "test_text_column has no effect without test_data"),
    ],
)
def test_bad_options_are_refused_before_any_work(tmp_path, sources, options, words):
    with pytest.raises(ValueError, match=words):
        run(recipe(tmp_path / "out", sources, **options))
    assert not (tmp_path / "out").exists()


def test_models_that_cannot_be_compressed_are_refused(tmp_path, sources):
    run(recipe(tmp_path / "once", sources))
    with pytest.raises(
        ValueError, match="is already quantized with salhub_slim_llm; give the original model"
    ):
        run(recipe(tmp_path / "twice", {**sources, "model": str(tmp_path / "once")}))
    broken = small_llama.network()
    with torch.no_grad():
        broken.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    broken.save_pretrained(tmp_path / "broken")
    small_llama.tokenizer().save_pretrained(tmp_path / "broken")
    with pytest.raises(ValueError, match=r"weight of model\.layers\.1\.mlp\.up_proj is not finite"):
        run(recipe(tmp_path / "out", {**sources, "model": str(tmp_path / "broken")}))


def networks_of_other_kinds() -> dict:
    tiny = {"vocab_size": 280, "num_hidden_layers": 1}
    gpt = GPT2Config(vocab_size=280, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    bert = BertConfig(hidden_size=16, intermediate_size=24, num_attention_heads=2, **tiny)
    t5 = T5Config(d_model=16, d_ff=24, num_layers=1, num_heads=2, vocab_size=280, d_kv=8)
    falcon = FalconConfig(hidden_size=16, num_attention_heads=2, **tiny)
    gemma = Gemma3nTextConfig(
        hidden_size=16, intermediate_size=16, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, vocab_size_per_layer_input=280, hidden_size_per_layer_input=8, laurel_rank=8,
        num_kv_shared_layers=0, activation_sparsity_pattern=[0.0], pad_token_id=0, **tiny,
    )  # fmt: skip
    return {
        "is a Conv1D, as in GPT-2": GPT2LMHeadModel(gpt),
        "of type FalconLinear": FalconForCausalLM(falcon),
        "Gemma3nForCausalLM passes its blocks more than": Gemma3nForCausalLM(gemma),
        "BertLMHeadModel is not a decoder with a": BertForMaskedLM(bert),
        "is a model of type 't5', which is not a decoder": T5ForConditionalGeneration(t5),
    }


def test_networks_of_other_kinds_are_refused_in_one_sentence(tmp_path, sources):
    for place, (sentence, network) in enumerate(networks_of_other_kinds().items()):
        folder = tmp_path / str(place)
        network.save_pretrained(folder)
        small_llama.tokenizer().save_pretrained(folder)
        with pytest.raises(TypeError, match=sentence) as caught:
            run(recipe(tmp_path / "out", {**sources, "model": str(folder)}))
        assert "LlamaForCausalLM" in str(caught.value) and "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


def test_texts_that_cannot_be_calibrated_on_are_refused(tmp_path, sources):
    (tmp_path / "empty.txt").write_text(" \n\n ")
    (tmp_path / "short.txt").write_text("the old king")
    save_file({"input_ids": torch.full((6, LENGTH), 999)}, tmp_path / "wrong.safetensors")
    wrong = {
        "empty.txt contains no text": "empty.txt",
        rf"short.txt has \d+ tokens, fewer than one window of {LENGTH}": "short.txt",
        "has tokens from 999 to 999, but the model only knows 0 to": "wrong.safetensors",
    }
    wrong["The text file .*nowhere.txt does not exist"] = "nowhere.txt"
    for sentence, name in wrong.items():
        with pytest.raises((ValueError, FileNotFoundError), match=sentence):
            run(recipe(tmp_path / "out", {**sources, "calibration": str(tmp_path / name)}))
        assert not (tmp_path / "out").exists()


def test_each_text_has_a_column_of_its_own(tmp_path, sources):
    text = Path(sources["calibration"]).read_text()
    for name, column in (("a", "story"), ("b", "verse"), ("c", "story")):
        rows = [json.dumps({column: part, "title": "x"}) for part in text.split("\n\n")]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    (tmp_path / "plain.txt").write_text(text)

    def tokens(test_data, **more):
        given = {"calibration": str(tmp_path / "a.jsonl"), "text_column": "story"}
        given |= {"test_data": str(tmp_path / test_data), "test_context_length": 24, **more}
        made = recipe(tmp_path / "out", {**sources, **given})
        made.build_model()
        return made.test_tokens

    whole = tokens("b.jsonl", test_text_column="verse")
    assert torch.equal(tokens("c.jsonl"), whole)
    assert torch.equal(tokens("plain.txt")[:9], whole[:9])
    np.save(tmp_path / "d.npy", whole.numpy())
    assert torch.equal(tokens("d.npy", num_test_tokens=30), whole[:30])
    for given, sentence in {
        "story": r"b\.jsonl has no column 'story'; test_text_column must be one of verse, title",
        None: r"b\.jsonl has no column 'story'; text_column must be one of verse, title",
    }.items():
        with pytest.raises(ValueError, match=f"^{sentence}"):
            tokens("b.jsonl", test_text_column=given)


@pytest.mark.parametrize("preset", ["recommended", "reference"])
def test_a_block_is_passed_again_only_where_its_weights_changed(monkeypatch, preset):
    """Matching outputs ends with those of the block, which need not be computed anew."""
    passed, tokens = [], torch.arange(96).view(4, 24)
    again, dense = language_model_compression.block_outputs, PackedLinear.to_linear

    def look(block, inputs):
        passed.append(inputs.place)
        return again(block, inputs)

    def changed(layer):
        found = dense(layer)
        found.weight.data[0, 0] += 0.01
        return found

    monkeypatch.setattr(language_model_compression, "block_outputs", look)
    given = {"group_size": 4, "preset": preset}
    quantize_slim_llm(small_llama.network(), None, tokens, **given)
    assert passed == ([] if preset == "recommended" else [0, 1])
    passed.clear()
    monkeypatch.setattr(PackedLinear, "to_linear", changed)
    quantize_slim_llm(small_llama.network(), None, tokens, **given)
    assert passed == [0, 1]


def test_what_is_no_number_or_too_large_names_the_layer():
    tokens = torch.arange(96).view(4, 24)
    broken = small_llama.network()
    with torch.no_grad():
        broken.model.layers[1].input_layernorm.weight.fill_(1e38)
    with pytest.raises(ValueError, match=r"inputs of model\.layers\.1\.self_attn\.q_proj are not"):
        quantize_slim_llm(broken, None, tokens, group_size=4)
    large = small_llama.network()
    with torch.no_grad():
        large.model.layers[1].mlp.up_proj.weight[3, 5] = 1e6
    with pytest.raises(
        ValueError,
        match=r"the weight of model\.layers\.1\.mlp\.up_proj reaches 1e\+06, but scales are stored",
    ):
        quantize_slim_llm(large, None, tokens, group_size=4)


def test_few_tokens_and_narrow_groups_are_told_once(caplog):
    tokens = torch.arange(20).view(1, 20)
    with caplog.at_level(logging.WARNING):
        done = quantize_slim_llm(small_llama.network(), None, tokens, group_size=16)
    few, narrow = [one.message for one in caplog.records]
    few, narrow = sorted((few, narrow), key=lambda one: "tokens" not in one)
    assert few.startswith("The calibration windows have 20 tokens that are not repeated")
    assert "does not divide the 24 columns of model.layers.0.mlp.down_proj" in narrow
    assert "affects 2 of 14 layers" in narrow
    assert done.mean_bits == 2
    caplog.clear()
    quantize_slim_llm(small_llama.network(), None, torch.arange(96).view(4, 24), group_size=4)
    assert not caplog.records


def test_what_half_precision_holds_is_kept_in_it(tmp_path, sources):
    """A base whose file is in half precision, and whose configuration says float32."""
    base = small_llama.network().half().float()
    with torch.no_grad():
        base.model.norm.weight[0] = 1.0001
    base.save_pretrained(tmp_path / "base")
    small_llama.tokenizer().save_pretrained(tmp_path / "base")
    run(recipe(tmp_path / "out", {**sources, "model": str(tmp_path / "base")}))
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors["model.embed_tokens.weight"].dtype == torch.float16
    assert tensors["model.norm.weight"].dtype == torch.float32
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    assert torch.equal(model.model.embed_tokens.weight, base.model.embed_tokens.weight)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_model_in_half_precision_is_worked_on_in_full(tmp_path, sources):
    small_llama.network().half().save_pretrained(tmp_path / "half")
    small_llama.tokenizer().save_pretrained(tmp_path / "half")
    run(recipe(tmp_path / "out", {**sources, "model": str(tmp_path / "half")}))
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors["model.embed_tokens.weight"].dtype == torch.float16
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()
