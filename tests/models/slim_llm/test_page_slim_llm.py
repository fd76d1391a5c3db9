"""The page of a model that was compressed, and what an evaluation says of it."""

import contextlib
import io
from html import escape
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from salhub.cli import app
from salhub.entries import entry_of
from salhub.evaluation import text_generation
from salhub.evaluation.language_model import model_bytes
from salhub.models.slim_llm.page_slim_llm import Page
from salhub.pipelines import pipeline
from salhub.results import Results
from salhub.runner.run import run
from salhub.ui.gallery import page_class
from salhub.ui.text_generation import TextGenerationPage
from tests.models.slim_llm.compressing import recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sources) -> Path:
    path = tmp_path_factory.mktemp("run") / "small"
    test = {"test_data": sources["calibration"], "test_context_length": 24}
    run(recipe(path, sources, group_size=2, **test))
    return path


@pytest.fixture(scope="module")
def page(folder):
    found = Page(str(folder), entry_of(str(folder)))
    found.build()
    return found


def state(page, tab: str, **changes):
    values = {name: one.value for name, one in page.inputs.items()}
    return values | {"tab": tab} | changes


def test_models_without_a_report_get_the_page_of_every_language_model(page, folder, sources):
    assert page_class(str(folder), page.entry) is Page
    assert page_class(sources["model"], page.entry) is TextGenerationPage
    assert page.display_title == "SliM-LLM"


def test_the_page_opens_with_a_text_and_says_what_is_not_there(page):
    written = page.components["written"].value
    assert "<strong>The film</strong>" in written and "2 bits on average" in written
    assert "The original model is not available here, so only the" in page.components["notes"].value


def test_both_models_write_where_the_full_one_is_here(page, sources, monkeypatch):
    monkeypatch.setattr(page, "full", pipeline(sources["model"]))
    query = state(page, "Text", max_new_tokens=8.0, temperature=0)
    written = page.views["Text"].contents(query)["written"]["value"]
    assert written.count("<strong>The film</strong>") == 2 and "16 bits, the full" in written
    text, _ = page.continue_text("The film", 8, 0)
    assert escape(text.removeprefix("The film")) in written


def test_every_layer_can_be_looked_at(page):
    bits = page.views["Bits"]
    for name, layer in page.report.layers.items():
        shown = bits.contents(state(page, "Bits", layer=name))
        words = ", ".join(map(str, layer.group_bits))
        assert f'aria-label="Bits of the groups: {words}"' in shown["groups"]["value"]
        assert f'at p = {layer.num_swapped}" style' in shown["curve"]["value"]
        assert all("data:image/webp" in shown[one]["value"] for one in ("curve", "map"))
    with pytest.raises(ValueError, match="There is no layer 'nowhere'; choose one"):
        bits.contents(state(page, "Bits", layer="nowhere"))


def test_the_programs_print_what_is_in_sight(page):
    name = "model.layers.1.mlp.down_proj"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(page.views["Bits"].code(state(page, "Bits", layer=name)), {})
    assert said.getvalue().strip() == "".join(map(str, page.report.layers[name].group_bits))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(page.views["Size and perplexity"].code(state(page, "Size and perplexity")), {})
    assert str(page.sizes["total"]) in said.getvalue()


def test_numbers_are_those_of_the_file_and_of_the_run(page, folder):
    shown = page.views["Size and perplexity"].contents(state(page, "Size and perplexity"))
    results = Results.load(folder / "results.json")
    numbers = shown["numbers"]["value"]
    for name in ("perplexity/after", "perplexity/before"):
        assert f"{results.metric(name).value:.4g}" in numbers
    assert f"{results.metric('bits_with_scales').value:.3f}" in numbers
    assert f"{model_bytes(folder)['linears']:,} bytes" in shown["tables"]["value"]
    assert "windows of 24 tokens" in shown["tables"]["value"]


def test_an_evaluation_adds_bits_and_errors(folder, tmp_path, sources):
    output = tmp_path / "found.json"
    words = ["evaluate", str(folder), "--data", sources["calibration"], "context=16"]
    result = CliRunner().invoke(app, [*words, "speed_tokens=0", "-o", str(output)])
    assert result.exit_code == 0, result.output
    found, of_run = Results.load(output), Results.load(folder / "results.json")
    for name in ("bits", "bits_with_scales"):
        assert found.metric(name).value == pytest.approx(of_run.metric(name).value)
    errors = {table.title: table for table in found.tables}["Error of each layer"]
    assert [row[0] for row in errors.rows] == ["model.layers.0", "model.layers.1"]
    assert len(errors.columns) == 8 and all(row[1] > 0 for row in errors.rows)


def test_a_base_that_comes_with_salhub_is_measured_beside_it(
    folder, tmp_path, sources, monkeypatch
):
    base = AutoModelForCausalLM.from_pretrained(sources["model"]).eval()
    monkeypatch.setattr(text_generation, "_bundled", lambda name: base)
    output = tmp_path / "found.json"
    words = ["evaluate", str(folder), "--data", sources["calibration"], "context=16"]
    CliRunner().invoke(app, [*words, "speed_tokens=0", "-o", str(output)])
    plain = tmp_path / "plain.json"
    words[1] = sources["model"]
    CliRunner().invoke(app, [*words, "speed_tokens=0", "-o", str(plain)])
    found = Results.load(output).metric("perplexity/before")
    assert found.value == pytest.approx(Results.load(plain).metric("perplexity").value)
