"""Perplexity against a slow restatement, the speed and the bytes of a language model."""

import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from salhub.data.documents import encode_documents, encode_text, read_documents
from salhub.errors import MissingExtraError
from salhub.evaluation.language_model import (
    decode_speed,
    harness_scores,
    model_bytes,
    perplexity,
)
from salhub.evaluation.text_generation import evaluate
from tests import small_llama
from tests.evaluation.sharing import check_shared


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    found = small_llama.network()
    for weight in found.parameters():  # so that its answers differ
        weight.data += 0.3 * torch.randn_like(weight)
    return found


@pytest.fixture(scope="module")
def ids():
    return torch.randint(small_llama.VOCAB_SIZE, (53,), generator=torch.Generator().manual_seed(1))


def slow_loss(model, before: list[int], token: int) -> float:
    """Of one token by itself, in float64."""
    with torch.no_grad():
        logits = model(torch.tensor([before])).logits[0, -1].double().numpy()
    return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[token])


def test_windows_that_follow_each_other_predict_all_but_their_first_token(model, ids):
    tokens = ids.tolist()
    expected = [
        [slow_loss(model, tokens[start : start + place], tokens[start + place])
         for place in range(1, 16)]
        for start in range(0, 48, 16)
    ]  # fmt: skip
    found = perplexity(model, ids, context=16)
    assert found.value == pytest.approx(math.exp(np.mean(expected)), rel=1e-6)
    assert found.losses.tolist() == pytest.approx(np.sum(expected, axis=1).tolist(), rel=1e-6)
    assert (found.num_predicted, found.num_dropped) == (45, 5)
    error = np.std(np.mean(expected, axis=1), ddof=1) / math.sqrt(3)
    assert found.standard_error == pytest.approx(error, rel=1e-6)
    low, high = found.interval
    assert math.log(high / low) == pytest.approx(2 * 1.96 * error, rel=1e-6)
    assert found.note == (
        "45 tokens predicted in 3 windows of 16 tokens, that follow each other. The last 5 tokens "
        "do not fill a window and are left out."
    )
    cut = perplexity(model, ids[:48].view(3, 16))
    assert torch.equal(cut.losses, found.losses) and cut.context == 16


@pytest.mark.parametrize(("stride", "number"), [(1, 30), (7, 53), (8, 48), (15, 17), (8, 16)])
def test_with_a_stride_every_token_is_predicted_once_and_from_more(model, ids, stride, number):
    tokens, expected, end, start = ids[:number].tolist(), [], 1, 0
    while end < number:
        start = min(start, number - 16)
        for place in range(end, start + 16):
            expected.append(slow_loss(model, tokens[start:place], tokens[place]))
        end, start = start + 16, start + stride
    found = perplexity(model, ids[:number], context=16, stride=stride)
    assert found.num_predicted == len(expected) == number - 1
    assert found.value == pytest.approx(math.exp(np.mean(expected)), rel=1e-6)
    assert found.num_dropped == 0 and "windows of 16 tokens, every" in found.note


def test_the_answer_depends_neither_on_the_batch_nor_on_what_the_model_was_doing(model, ids):
    expected = perplexity(model, ids, 16, batch_size=1)
    model.train()
    found = perplexity(model, ids, 16, batch_size=4)
    assert model.training
    model.eval()
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-6, atol=0)
    assert not found.losses.requires_grad and found.losses.dtype == torch.float64
    half = perplexity(small_llama.network().bfloat16(), ids, 16)
    assert half.value == pytest.approx(perplexity(small_llama.network(), ids, 16).value, rel=0.02)


def test_one_window_has_no_interval_and_a_hopeless_model_an_infinite_perplexity(ids):
    found = perplexity(small_llama.network(), ids[:16], 16)
    assert math.isnan(found.standard_error) and found.interval is None
    hopeless = small_llama.network()
    hopeless.model.norm.weight.data *= 1e5
    assert perplexity(hopeless, ids, 16).value == math.inf


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"context": 54}, "has 53 tokens, fewer than one window of 54"),
        ({"context": 1}, "context must be at least 2, got 1"),
        ({"context": 16, "stride": 16}, "stride must be from 1 to 15, below context, got 16"),
        ({"context": 16, "stride": 0}, "stride must be from 1 to 15"),
    ],
)
def test_windows_that_do_not_fit_are_refused(model, ids, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        perplexity(model, ids, **settings)


def test_what_the_model_cannot_take_is_refused(model, ids):
    with pytest.raises(ValueError, match="context is 65, but the model accepts 64 tokens"):
        perplexity(model, ids.repeat(2), 65)
    with pytest.raises(ValueError, match=r"but the model only knows 0 to"):
        perplexity(model, ids + 150, 16)
    with pytest.raises(ValueError, match="stride needs one continuous text, but these tokens are"):
        perplexity(model, ids[:48].view(3, 16), stride=4)
    broken = small_llama.network()
    broken.get_parameter("model.layers.1.mlp.up_proj.weight").data[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"NaN or infinite values.*layers\.1\.mlp\.up_proj"):
        perplexity(broken, ids, 16)


# --- cost -----------------------------------------------------------------------------------------


def test_the_speed_is_that_of_greedy_generation_whatever_the_model_would_do(monkeypatch):
    model, calls = small_llama.network(), []
    model.generation_config.update(do_sample=True, temperature=0.7, max_length=20)
    forward = model.forward

    def counted(*arguments, **keywords):
        calls.append(keywords["input_ids"].shape[1])
        return forward(*arguments, **keywords)

    monkeypatch.setattr(model, "forward", counted)
    state = torch.get_rng_state()
    found = decode_speed(model, prompt_tokens=5, new_tokens=3, repeats=2)
    # The last token is written, and not read again.
    assert calls == [5, 1, 1, 1] * 3
    assert torch.equal(torch.get_rng_state(), state)
    assert found.prefill > 0 and found.decode > 0
    assert (found.prompt_tokens, found.new_tokens, found.repeats) == (5, 3, 2)
    with pytest.raises(ValueError, match="new_tokens must be at least 1"):
        decode_speed(model, new_tokens=0)
    with pytest.raises(ValueError, match="context is 65, but the model accepts 64 tokens"):
        decode_speed(model, prompt_tokens=32, new_tokens=32)


def test_bytes_are_those_of_the_file_by_what_they_are(tmp_path):
    model = small_llama.network()
    model.save_pretrained(tmp_path)
    found = model_bytes(tmp_path)
    linears = sum(p.numel() for p in model.model.layers.parameters() if p.ndim > 1)
    assert (found["linears"], found["embeddings"]) == (4 * linears, 4 * 16 * small_llama.VOCAB_SIZE)
    assert found["total"] == (tmp_path / "model.safetensors").stat().st_size
    packed = {
        "model.layers.0.mlp.up_proj.qweight": torch.zeros(10, dtype=torch.uint8),
        "model.layers.0.mlp.up_proj.scales": torch.zeros(4, 2, dtype=torch.float16),
        "model.layers.0.mlp.up_proj.zeros": torch.zeros(4, dtype=torch.uint8),
        "model.layers.0.mlp.up_proj.group_bits": torch.zeros(2, dtype=torch.uint8),
        "model.layers.0.mlp.gate_proj.weight_packed": torch.zeros(6, dtype=torch.uint8),
        "model.layers.0.mlp.gate_proj.weight_scale": torch.zeros(3, dtype=torch.float16),
        "model.layers.0.mlp.down_proj.weight": torch.zeros(7, dtype=torch.uint8),
        "model.layers.0.input_layernorm.weight": torch.zeros(8),
        "model.embed_tokens.weight": torch.zeros(5, 2),
        "lm_head.scales": torch.zeros(5, dtype=torch.float16),
    }
    save_file(packed, tmp_path / "packed.safetensors", metadata={"format": "pt"})
    found = model_bytes(tmp_path / "packed.safetensors")
    assert (found["linears"], found["scales"], found["embeddings"]) == (23, 28, 50)
    assert found["total"] == (tmp_path / "packed.safetensors").stat().st_size
    with pytest.raises(FileNotFoundError, match="There are no weights at"):
        model_bytes(tmp_path / "nowhere")


def test_the_harness_is_asked_through_its_own_package(monkeypatch):
    model, tokenizer = small_llama.network(), small_llama.tokenizer()
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'lm_eval'.*salhub\[harness\]"):
        harness_scores(model, tokenizer, ["piqa"])
    asked = {}

    def simple_evaluate(**given):
        asked.update(given)
        return {"results": {"piqa": {"acc": 0.5}}, "config": {}}

    contents = {
        "lm_eval": {"simple_evaluate": simple_evaluate},
        "lm_eval.models": {},
        "lm_eval.models.huggingface": {"HFLM": dict},
    }
    for name, content in contents.items():
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        vars(sys.modules[name]).update(content)
    assert harness_scores(model, tokenizer, ["piqa"], limit=4) == {"piqa": {"acc": 0.5}}
    assert asked["model"]["pretrained"] is model and asked["limit"] == 4


# --- results --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("books") / "book.txt"
    path.write_text("\n\n".join(small_llama.documents(8)))
    return path


def test_the_results_say_what_was_measured_and_how(model, book):
    tokenizer = small_llama.tokenizer()
    tokens = encode_text(book.read_text(), tokenizer)
    results = evaluate(model, tokenizer, book, context=16, max_tokens=100, speed_tokens=3)
    expected = perplexity(model, tokens[:100], 16)
    assert results.metric("perplexity").value == expected.value
    assert results.metric("perplexity").interval == expected.interval
    bits = expected.loss / math.log(2) * len(tokens) / book.stat().st_size
    assert results.metric("bits_per_byte").value == pytest.approx(bits)
    assert results.data == {
        "name": "book.txt", "num_bytes": book.stat().st_size, "num_tokens": len(tokens),
        "max_tokens": 100, "num_predicted": 90, "context": 16, "stride": 16,
    }  # fmt: skip
    assert "90 tokens predicted in 6 windows of 16 tokens" in results.tables[0].note
    assert results.machine["peak_memory_mib"] > 0
    # It was loaded from no file.
    assert not [one for one in results.metrics if one.name.startswith("bytes/")]
    assert results.metric("speed/decode").n == 3
    whole = evaluate(model, tokenizer, book, speed_tokens=0)
    assert whole.data["context"] == 64 and len(whole.tables) == 1


def test_documents_have_their_ends_and_tokens_are_taken_as_they_are(model, book, tmp_path):
    tokenizer = small_llama.tokenizer()
    tokens = encode_documents(read_documents(book), tokenizer)
    results = evaluate(
        model, tokenizer, book, context=16, as_documents=True, stride=8, speed_tokens=0
    )
    expected = perplexity(model, tokens, 16, stride=8).value
    assert results.metric("perplexity").value == expected
    assert (results.data["num_documents"], results.data["stride"]) == (8, 8)
    np.save(tmp_path / "tokens.npy", tokens.numpy())
    given = evaluate(
        model, tokenizer, tmp_path / "tokens.npy", context=16, stride=8, speed_tokens=0
    )
    assert given.metric("perplexity").value == expected
    assert "bits_per_byte" not in [one.name for one in given.metrics]
    with pytest.raises(ValueError, match="max_tokens must be at least 1, got 0"):
        evaluate(model, tokenizer, book, max_tokens=0)


def test_three_jobs_measure_what_one_measures(model, book, tmp_path):
    tokenizer = small_llama.tokenizer()
    settings = {"context": 16, "stride": 5, "batch_size": 2, "speed_tokens": 2}
    jobs = check_shared(
        lambda: evaluate(model, tokenizer, book, **settings), tmp_path / "rows", count=3
    )
    assert jobs == 3
