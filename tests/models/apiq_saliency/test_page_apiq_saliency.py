"""The page of a model that was compressed, and what it says of its blocks."""

import contextlib
import io
from html import escape
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from salhub.entries import entry_of
from salhub.evaluation import text_generation
from salhub.evaluation.language_model import model_bytes
from salhub.models.apiq_saliency.block_report import CompressionReport
from salhub.models.apiq_saliency.evaluation_apiq_saliency import evaluate
from salhub.models.apiq_saliency.page_apiq_saliency import Page
from salhub.models.apiq_saliency.quantize_model import quantize_apiq_saliency
from salhub.models.apiq_saliency.recipe_apiq_saliency import (
    ApiQSaliencyArguments,
    ApiQSaliencyRecipe,
)
from salhub.pipelines import pipeline
from salhub.results import Results
from salhub.runner.run import run
from salhub.ui.gallery import page_class
from salhub.ui.text_generation import TextGenerationPage
from tests import small_llama

SETTINGS = {
    "num_calibration_windows": 6, "context_length": 24, "group_size": 8, "joint_epochs": 3,
    "lora_r": 2, "batch_size": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("apiq")
    (folder / "text.txt").write_text("\n\n".join(small_llama.documents(60)))
    model = small_llama.save(folder / "model")
    return {"model": str(model), "calibration": str(folder / "text.txt")}


def compressed(folder: Path, sources: dict[str, str], **options) -> Path:
    settings = {**sources, **SETTINGS, "cpu": True, **options}
    run(ApiQSaliencyRecipe(ApiQSaliencyArguments(output_dir=str(folder), **settings)))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sources) -> Path:
    test = {"test_data": sources["calibration"], "test_context_length": 24}
    return compressed(tmp_path_factory.mktemp("run") / "small", sources, **test)


def built(folder: Path) -> Page:
    found = Page(str(folder), entry_of(str(folder)))
    found.build()
    return found


@pytest.fixture(scope="module")
def page(folder) -> Page:
    return built(folder)


def state(page, tab: str, **changes):
    values = {name: one.value for name, one in page.inputs.items()}
    return values | {"tab": tab} | changes


def test_the_report_is_what_the_training_was_like(folder, sources):
    model, tokenizer = pipeline(sources["model"]).model, pipeline(sources["model"]).tokenizer
    done = quantize_apiq_saliency(model, tokenizer, sources["calibration"], **SETTINGS)
    report = CompressionReport.load(folder)
    assert (report.base_model, report.bits) == (None, 2)
    for name, block in report.blocks.items():
        assert block.error == pytest.approx(done.errors[name], rel=1e-3)
        [training] = block.trainings
        assert len(training.losses) == 3
        assert training.losses == pytest.approx(done.losses[name][0], rel=1e-3)
        assert training.regularizers == pytest.approx(done.regularizers[name][0], rel=1e-3)


def test_models_without_a_report_get_the_page_of_every_language_model(page, folder, sources):
    assert page_class(str(folder), page.entry) is Page
    assert page_class(sources["model"], page.entry) is TextGenerationPage
    assert page.display_title == "ApiQ with saliency"


def test_a_report_that_is_none_is_refused(tmp_path):
    (tmp_path / "blocks.json").write_text('{"blocks": {"a": {}}}')
    with pytest.raises(ValueError, match=r"blocks\.json cannot be read .*; download it again"):
        CompressionReport.load(tmp_path)


def test_both_models_write_where_the_full_one_is_here(page, sources, monkeypatch):
    alone = page.components["written"].value
    assert alone.count("<strong>The film</strong>") == 1 and "2 bits and adapters" in alone
    assert "The original model is not available here, so only the" in page.components["notes"].value
    monkeypatch.setattr(page, "full", pipeline(sources["model"]))
    query = state(page, "Text", max_new_tokens=8.0, temperature=0)
    written = page.views["Text"].contents(query)["written"]["value"]
    assert written.count("<strong>The film</strong>") == 2 and "16 bits, the full" in written
    text, _ = page.continue_text("The film", 8, 0)
    assert escape(text.removeprefix("The film")) in written


def test_every_block_can_be_looked_at(page):
    tab = page.views["Blocks"]
    assert list(page.report.blocks) == ["model.layers.0", "model.layers.1"]
    pictures = set()
    for name, block in page.report.blocks.items():
        shown = tab.contents(state(page, "Blocks", block=name))
        numbers = shown["block_numbers"]["value"]
        assert f"{100 * block.error:.1f} %" in numbers
        for loss in (block.trainings[0].losses[0], block.trainings[0].losses[-1]):
            assert f"{loss:.4g}" in numbers
        assert f'alt="Training of {name}, epoch by epoch"' in shown["losses"]["value"]
        assert all("data:image/webp" in shown[one]["value"] for one in ("losses", "errors"))
        pictures.add(shown["losses"]["value"])
    assert len(pictures) == 2
    with pytest.raises(ValueError, match="There is no block 'nowhere'; choose one"):
        tab.contents(state(page, "Blocks", block="nowhere"))


def test_layers_in_turn_count_together_and_blocks_may_be_untrained(tmp_path, sources):
    in_turn = built(compressed(tmp_path / "layers", sources, mode="layer", joint_epochs=2))
    name = "model.layers.1"
    trainings = in_turn.report.blocks[name].trainings
    assert len(trainings) == 4  # q, k and v; o; gate and up; down
    shown = in_turn.views["Blocks"].contents(state(in_turn, "Blocks", block=name))
    last = sum(one.losses[-1] for one in trainings)
    assert f"{last:.4g}" in shown["block_numbers"]["value"]
    shown = in_turn.views["Size and perplexity"].contents(state(in_turn, "Size and perplexity"))
    assert (
        "Its perplexity has not been measured yet; run salhub evaluate" in shown["tables"]["value"]
    )
    untrained = built(compressed(tmp_path / "rounded", sources, joint_epochs=0))
    shown = untrained.views["Blocks"].contents(state(untrained, "Blocks"))
    assert "This block was not trained." in shown["losses"]["value"]


def test_the_programs_print_what_is_in_sight(page):
    name = "model.layers.1"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(page.views["Blocks"].code(state(page, "Blocks", block=name)), {})
    [training] = page.report.blocks[name].trainings
    wanted = [f"{page.report.blocks[name].error}", f"{training.losses} {training.regularizers}"]
    assert said.getvalue().splitlines() == wanted


def test_numbers_are_those_of_the_file_and_of_the_run(page, folder):
    shown = page.views["Size and perplexity"].contents(state(page, "Size and perplexity"))
    results = Results.load(folder / "results.json")
    numbers, tables = shown["numbers"]["value"], shown["tables"]["value"]
    for name in ("perplexity/after", "perplexity/before"):
        assert f"{results.metric(name).value:.4g}" in numbers
    assert f"{results.metric('bits_with_adapters').value:.3f}" in numbers
    assert "scales, adapters and all" in numbers and "packed weights and adapters" in tables
    assert f"{model_bytes(folder)['linears']:,} bytes" in tables


def test_an_evaluation_measures_the_base_beside_it(folder, sources, monkeypatch):
    base, model = (
        AutoModelForCausalLM.from_pretrained(one).eval() for one in (sources["model"], folder)
    )
    monkeypatch.setattr(text_generation, "_bundled", lambda name: base)
    measured = small_llama.tokenizer(), sources["calibration"]
    settings = {"context": 16, "speed_tokens": 0}
    found = evaluate(model, *measured, **settings).metric("perplexity/before").value
    plain = text_generation.evaluate(base, *measured, **settings)
    assert found == plain.metric("perplexity").value
