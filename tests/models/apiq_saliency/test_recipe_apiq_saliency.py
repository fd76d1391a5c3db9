"""Compression by ApiQ: from a LLaMA and a text to few bits and adapters that transformers loads."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from salhub.data.documents import encode_text
from salhub.evaluation.language_model import perplexity
from salhub.models.apiq_saliency.arguments_apiq_saliency import ApiQSaliencyArguments
from salhub.models.apiq_saliency.quantize_model import quantize_apiq_saliency
from salhub.models.apiq_saliency.recipe_apiq_saliency import ApiQSaliencyRecipe
from salhub.models.apiq_saliency.saliency import estimate_saliency, save_saliency
from salhub.quantization.adapted_linear import adapted_layers
from salhub.quantization.export import export_model
from salhub.quantization.quantizer import packed_layers
from salhub.results import Results
from salhub.runner.run import run
from tests import small_llama
from tests.testers.recipe import RecipeTester


def taught_network():
    """A small LLaMA that has seen the words of the documents."""
    network, tokenizer = small_llama.network(), small_llama.tokenizer()
    text = encode_text("\n\n".join(small_llama.documents(60)), tokenizer)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-2)
    draw = torch.Generator().manual_seed(0)
    for _ in range(50):
        starts = torch.randint(len(text) - 32, (8,), generator=draw)
        batch = torch.stack([text[start : start + 32] for start in starts])
        optimizer.zero_grad()
        network(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    """A model and a text."""
    folder = tmp_path_factory.mktemp("apiq")
    (folder / "text.txt").write_text("\n\n".join(small_llama.documents(60)))
    taught_network().half().save_pretrained(folder / "model")
    small_llama.tokenizer().save_pretrained(folder / "model")
    return {"model": str(folder / "model"), "calibration": str(folder / "text.txt")}


def recipe(folder: Path, sources: dict[str, str], **options) -> ApiQSaliencyRecipe:
    settings = {"num_calibration_windows": 6, "context_length": 24, "group_size": 8, "cpu": True}
    settings |= {"joint_epochs": 2, "lora_r": 2, "batch_size": 2}
    return ApiQSaliencyRecipe(
        ApiQSaliencyArguments(output_dir=str(folder), **{**sources, **settings, **options})
    )


class TestApiQSaliency(RecipeTester):
    @pytest.fixture
    def make(self, sources):
        return lambda folder, **options: recipe(folder, sources, **options)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("mode", ["block", "layer"])
def test_a_text_it_has_not_seen_is_predicted_better_than_by_rounding(tmp_path, sources, mode):
    tokenizer = AutoTokenizer.from_pretrained(sources["model"])
    unseen = encode_text("\n\n".join(small_llama.documents(40, seed=9)), tokenizer)
    options = {"mode": mode, "group_size": 16, "num_calibration_windows": 32, "batch_size": 4}
    options |= {"context_length": 32, "lora_learning_rate": 2e-3, "clip_learning_rate": 0.02}
    found, values = {}, {}
    for name, others in (
        ("rounded", {"joint_epochs": 0, "initial_ranges": "wide"}),
        ("trained", {}),
    ):
        found[name] = run(
            recipe(tmp_path / name, sources, **options, **{"joint_epochs": 4, **others})
        )
    for name, folder in (("full", sources["model"]), *((name, tmp_path / name) for name in found)):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
        values[name] = perplexity(model, unseen, 32).value
    full, rounded, trained = (values[name] for name in ("full", "rounded", "trained"))
    assert trained - full < 0.5 * (rounded - full), (full, rounded, trained)
    assert found["trained"].metric("error").value < found["rounded"].metric("error").value
    log = [json.loads(line) for line in (tmp_path / "trained" / "log.jsonl").open()]
    assert all(line["loss/last"] < line["loss/first"] for line in log)


def test_it_loads_and_says_what_it_takes(tmp_path, sources, caplog):
    results = run(recipe(tmp_path / "out", sources, joint_epochs=1))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    layers = adapted_layers(model)
    assert len(layers) == 14 and all(layer.lora_r == 2 for layer in layers.values())
    # 16 bits of 2 * (rows + columns) values: 2 of 16 x 16, 2 of 8 x 16 and 3 of 24 x 16.
    added = 16 * 2 * (2 * 32 + 2 * 24 + 3 * 40) / (2 * 256 + 2 * 128 + 3 * 384)
    # Groups of 8 have a scale of 16 bits and a zero of 2.
    assert results.metric("bits_with_scales").value == pytest.approx(2 + 18 / 8)
    assert results.metric("bits_with_adapters").value == pytest.approx(2 + 18 / 8 + added)
    assert f"Adapters of rank 2 take {added:.2f} bits per weight" in caplog.text
    stored = weights(tmp_path / "out")
    assert stored["model.layers.0.mlp.up_proj.lora_A"].dtype == torch.float16


def test_without_a_factor_it_is_plain_apiq_to_the_bit(tmp_path, sources, caplog):
    run(recipe(tmp_path / "none", sources, reg_lambda=0.0, saliency="none"))
    run(recipe(tmp_path / "zero", sources, reg_lambda=0.0))
    run(recipe(tmp_path / "last", sources, joint_epochs=0, output_epochs=2))
    assert "epochs are 0" not in caplog.text
    run(recipe(tmp_path / "some", sources, reg_lambda=1.0))
    plain = weights(tmp_path / "none")
    for name, is_same in (("zero", True), ("last", True), ("some", False)):
        other = weights(tmp_path / name)
        assert all(torch.equal(other[key], one) for key, one in plain.items()) == is_same, name


@pytest.mark.parametrize("mode", ["block", "layer"])
def test_training_in_short_products_is_nearly_as_good(tmp_path, sources, mode):
    errors = [
        run(recipe(tmp_path / one, sources, mode=mode, mixed_precision=one)).metric("error").value
        for one in ("no", "bf16")
    ]
    assert errors[0] != errors[1] and errors[1] == pytest.approx(errors[0], rel=0.1)


def test_adapters_that_are_not_trained_are_said(tmp_path, sources, caplog):
    recipe(tmp_path / "none", sources, joint_epochs=0).build_model()
    assert "output_epochs are 0, so nothing is trained: the weights are only" in caplog.text
    recipe(tmp_path / "weights", sources, joint_epochs=0, weight_epochs=1).build_model()
    assert "so the adapters are not trained" in caplog.text


def test_saliency_may_come_from_a_file(tmp_path, sources):
    own = recipe(tmp_path / "own", sources)
    run(own)
    model = AutoModelForCausalLM.from_pretrained(sources["model"]).eval()
    path = save_saliency(estimate_saliency(model, own.windows), tmp_path / "s.safetensors")
    run(recipe(tmp_path / "file", sources, saliency_file=str(path)))
    one, other = weights(tmp_path / "own"), weights(tmp_path / "file")
    assert all(torch.equal(one[key], other[key]) for key in one)
    save_saliency({"model.layers.0.mlp.up_proj": torch.ones(24, 16)}, path)
    with pytest.raises(ValueError, match="lacks 13 of 14 layers; estimate it on this model"):
        run(recipe(tmp_path / "wrong", sources, saliency_file=str(path)))
    assert not (tmp_path / "wrong").exists()


def test_adapters_are_trained_for_weights_that_are_in_few_bits_already(tmp_path, sources):
    run(recipe(tmp_path / "first", sources, target_modules="q_proj", reg_lambda=0.0))
    export_model(tmp_path / "first", tmp_path / "apart", "peft")
    options = {"quantized_base": str(tmp_path / "apart"), "reg_lambda": 0.0}
    run(recipe(tmp_path / "second", sources, **options))
    before, after = weights(tmp_path / "apart"), weights(tmp_path / "second")
    kept = [key for key in before if key.endswith((".weight", ".scales", ".zeros"))]
    assert kept and all(torch.equal(before[key], after[key]) for key in kept)
    assert len([key for key in after if key.endswith("lora_B")]) == 14
    assert float(after["model.layers.1.mlp.down_proj.lora_B"].abs().max()) > 0
    for options, words in (
        ({"reg_lambda": 1.0}, "the weights of quantized_base do not change, so"),
        (
            {"reg_lambda": 0.0, "group_size": 4},
            "quantized_base has groups of 8, but group_size is 4; give group_size=8",
        ),
        ({"reg_lambda": 0.0, "quantized_base": str(tmp_path / "first")}, "already has adapters"),
        ({"reg_lambda": 0.0, "bits": 3}, "has 2 bits per weight, but bits is 3; give bits=2"),
        ({"reg_lambda": 0.0, "symmetric": True}, "symmetric is decided by quantized_base"),
        (
            {"reg_lambda": 0.0, "quantized_base": sources["model"]},
            "has no matching model.layers.0.self_attn.q_proj; give a model with the same layers",
        ),
    ):
        given = {"quantized_base": str(tmp_path / "apart"), **options}
        with pytest.raises(ValueError, match=words):
            run(recipe(tmp_path / "third", sources, **given))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 5}, "bits must be 2, 3 or 4, got 5"),
        ({"bits": 1}, "bits must be 2, 3 or 4, got 1"),
        ({"group_size": 64}, "group_size is 64, and model.layers.0.self_attn.q_proj has only 16"),
        ({"reg_lambda": -0.1}, "reg_lambda must be 0 or more, got -0.1"),
        ({"lora_r": 0}, "lora_r must be an integer, 1 or more, got 0"),
        ({"lora_r": 8}, r"lora_r is 8, but .*k_proj has a weight of shape \(8, 16\)"),
        ({"adapter_bits": 1.0}, "lora_r and adapter_bits set the same thing; give one of them"),
        ({"lora_r": None, "adapter_bits": 0.1}, "adapters of rank 1 take 1.93 bits per weight"),
        ({"target_modules": "q"}, "target_modules names q, but there is no such layer"),
        ({"weight_epochs": 1, "reg_lambda": 0.0}, "give a reg_lambda above 0, or weight_epochs=0"),
        (
            {"saliency": "none", "saliency_file": "x"},
            "saliency_file contradicts saliency=none; leave one of them out",
        ),
        ({"saliency": "fischer"}, "saliency must be one of fisher, none"),
        ({"joint_epochs": -1}, "joint_epochs must be an integer, 0 or more, got -1"),
        ({"context_length": 100_000}, "context_length is 100000, but the model accepts 64 tokens"),
        ({"context_length": 1}, "context_length must be an integer, 2 or more, got 1"),
        ({"target_modules": []}, "target_modules must name a layer or more, or be all"),
        (
            {"reg_lambda": 0.0, "saliency_file": "x"},
            "saliency_file has no effect without the regularizer",
        ),
        (
            {"joint_epochs": 0, "output_epochs": 1, "reg_target": "after_lora"},
            "reg_target has no effect without the regularizer",
        ),
        ({"mode": "blocks"}, "mode must be one of block, layer"),
        ({"preset": "best"}, "preset must be one of recommended, published"),
    ],
)
def test_bad_options_are_refused_before_any_work(tmp_path, sources, options, words):
    with pytest.raises(ValueError, match=words):
        run(recipe(tmp_path / "out", sources, **options))
    assert not (tmp_path / "out").exists()


def test_models_that_cannot_be_compressed_are_refused(tmp_path, sources):
    from peft import LoraConfig, get_peft_model

    run(recipe(tmp_path / "once", sources, joint_epochs=1))
    with pytest.raises(
        ValueError, match="is already quantized with salhub_apiq_saliency; give the original model"
    ):
        run(recipe(tmp_path / "twice", {**sources, "model": str(tmp_path / "once")}))
    wrapped = get_peft_model(small_llama.network(), LoraConfig(r=2, target_modules=["q_proj"]))
    made = recipe(tmp_path / "never", sources)
    with pytest.raises(TypeError, match="q_proj has an adapter of peft; call merge_and_unload"):
        made.take_model(wrapped.base_model.model, small_llama.tokenizer())


def test_a_loss_that_is_no_number_ends_the_run_with_its_place(tmp_path, sources):
    made = recipe(tmp_path, sources, lora_learning_rate=1e30)
    with pytest.raises(ValueError, match=r"block model\.layers\.0 is .* in epoch 1, step"):
        run(made)
    assert "lower the learning rates" in (tmp_path / "failure.json").read_text()


def test_presets_and_budgets_fill_in_what_is_not_given(sources, tmp_path):
    published = recipe(tmp_path, sources, preset="published").arguments
    assert (published.lora_learning_rate, published.initial_ranges) == (5e-4, "wide")
    mine = recipe(tmp_path, sources, preset="published", clip_learning_rate=0.1).arguments
    assert mine.clip_learning_rate == 0.1
    made = recipe(tmp_path, sources, lora_r=None, adapter_bits=4.0, target_modules="qkv-up-down")
    made.build_model()
    # 16 bits of the rows and columns of five layers, 160, for 1920 weights: 1.33 bits a rank.
    assert made.lora_r == 3 and made.quantization_config().lora_r == 3
    assert "o_proj" not in made.quantization_config().target_modules


def test_a_model_in_memory_is_compressed_as_a_run_does_it(tmp_path, sources):
    made = recipe(tmp_path / "run", sources)
    run(made)
    options = made.arguments
    done = quantize_apiq_saliency(
        AutoModelForCausalLM.from_pretrained(sources["model"]),
        None,
        made.windows,
        **{
            name: getattr(options, name)
            for name in ("group_size", "lora_r", "batch_size", "joint_epochs")
        },
    )
    stored = weights(tmp_path / "run")
    for name, layer in packed_layers(done.model).items():
        for key in ("weight", "scales", "lora_A", "lora_B"):
            assert torch.equal(layer.state_dict()[key], stored[f"{name}.{key}"]), (name, key)
    results = Results.load(tmp_path / "run" / "results.json")
    assert done.bits_with_adapters == results.metric("bits_with_adapters").value
    assert [len(epochs) for [epochs] in done.losses.values()] == [2, 2]
    assert done.errors.keys() == done.losses.keys() and "training" in done.seconds
    with pytest.raises(
        ValueError, match="A calibration text needs the model's tokenizer; give the"
    ):
        quantize_apiq_saliency(small_llama.network(), None, sources["calibration"])
    with pytest.raises(ValueError, match=r"quantize_apiq_saliency has no option 'lora_rank'"):
        quantize_apiq_saliency(small_llama.network(), None, made.windows, lora_rank=2)
