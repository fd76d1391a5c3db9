"""The table of quantized language models fills up, cell by cell, and says what is missing."""

import pytest
import torch
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from benchmarks import quantization_cells, slim_llm
from benchmarks.plain_slim_llm import quantize_block
from benchmarks.quantization_cells import (
    CLIPPED,
    FULL,
    METHODS,
    OURS,
    PUBLISHED,
    Cell,
    cells,
    interval,
)
from benchmarks.quantized_speed import PLAIN_ORDER
from benchmarks.report import RESULTS, markdown
from salhub.models.slim_llm.quantize_model import quantize_slim_llm
from salhub.quantization.decoder_blocks import (
    block_outputs,
    decoder_blocks,
    first_inputs,
    in_full_precision,
)
from salhub.results import Results
from tests import small_llama


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """The quantizers, for the time of a test."""
    for _, _, config, quantizer in quantization_cells._RECIPES.values():
        monkeypatch.setitem(AUTO_QUANTIZER_MAPPING, config.method, quantizer)


@pytest.fixture
def words(tmp_path) -> list[str]:
    """Of the command line, for a small model."""
    small_llama.save(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n\n".join(small_llama.documents(60)))
    text = str(tmp_path / "text.txt")
    return [
        *("--model", str(tmp_path / "model"), "--calibration", text, "--test", text),
        *("--group-size", "8", "--equal-group-size", "4", "--windows", "4", "--length", "24"),
        *("--test-tokens", "96", "--output", str(tmp_path / "found.json")),
    ]


def test_a_cell_is_measured_once(words, tmp_path):
    asked = []

    def measure(cell, source):
        asked.append(cell)
        return quantization_cells.measure_here(cell, source)

    for _ in range(2):
        slim_llm.main([*words, "--seeds", "1", "--bits", "2", "--only", FULL, OURS], measure)
    assert [cell.method for cell in asked] == [FULL, OURS]
    found = Results.load(tmp_path / "found.json")
    for cell in asked:
        assert found.metric(cell.metric("perplexity")).value > 1
    assert found.metric(asked[1].metric("bits")).value == 2
    assert found.machine and found.wall_seconds > 0
    assert str(tmp_path) not in (tmp_path / "found.json").read_text()


@pytest.mark.parametrize("method", [name for name in METHODS if name not in (FULL, OURS)])
def test_every_method_gives_what_a_cell_holds(words, method):
    if reason := quantization_cells.why_not(METHODS[method]):
        pytest.skip(reason)
    source = slim_llm._source(slim_llm._options(words))
    found = quantization_cells.measure_here(Cell(2, 0, method), source)
    assert found["perplexity"] > 1 and found["bits"] >= 2 and found["bits_with_scales"] > 2.5
    assert 0 < found["error"] < 1 and found["peak_memory"] > 0


def fake(cell, source):
    """Numbers as if they had been measured."""
    place = list(METHODS).index(cell.method)
    return {"perplexity": 100.0 * cell.bits + 10 * place + cell.seed, "bits": float(cell.bits)}


def test_a_run_that_was_stopped_goes_on_and_lists_what_is_missing(words, tmp_path):
    slim_llm.main([*words, "--seeds", "1", "--only", OURS, CLIPPED], fake)
    slim_llm.main([*words, "--minutes", "0"], fake)
    found = Results.load(tmp_path / "found.json")
    tables = {table.title: table for table in found.tables}
    missing = {(row[0], row[1]): row[2] for row in tables["Missing"].rows}
    assert missing[OURS, 2] == "1 2 3 4" and missing[FULL, 16] == "0"
    assert tables["Required"].rows == [] and missing["times: blocks", None] == ""
    slim_llm.main([*words, "--only", OURS, CLIPPED], fake)
    found = Results.load(tmp_path / "found.json")
    assert found.metric(f"perplexity/2/{OURS}").value == pytest.approx(222)
    assert found.metric(f"perplexity/2/{OURS}").n == 5
    required = {row[0]: row[1:] for row in found.tables[0].rows}
    assert required["perplexity at 2 bits"] == [222, "at most 420", "met"]
    assert required["perplexity at 3 bits"][2] == "MISSED"
    [ratio] = [row for name, row in required.items() if CLIPPED in name and "2 bits" in name]
    assert ratio[0] == pytest.approx(222 / 212, rel=1e-3) and ratio[2] == "MISSED"


def test_nothing_is_required_of_a_smoke_test(words, tmp_path):
    slim_llm.main([*words, "--smoke", "--only", OURS, CLIPPED], fake)
    found = Results.load(tmp_path / "found.json")
    assert "Required" not in {table.title for table in found.tables}
    assert "too small for anything to follow" in found.tables[0].note
    sizes = "--group-size 8 --equal-group-size 4"
    assert found.command.endswith(f"--smoke {sizes} --output found.json")
    with pytest.raises(SystemExit, match="choose another file with --output"):
        slim_llm.main([*words, "--minutes", "0"], fake)


def test_results_of_another_text_are_not_mixed_in(words, tmp_path):
    slim_llm.main([*words, "--seeds", "1", "--only", OURS], fake)
    with pytest.raises(SystemExit, match="choose another file with --output"):
        slim_llm.main([*words, "--windows", "5"], fake)
    words[words.index("--test") + 1] = str(tmp_path / "none.txt")
    with pytest.raises(SystemExit, match=r"There is no file .*none\.txt"):
        slim_llm.main(words, fake)


def test_what_matters_most_comes_first_and_rounding_has_no_seed():
    found = cells((2, 3), 5)
    assert found[0].method == FULL and found[1:3] == [Cell(2, 0, CLIPPED), Cell(3, 0, CLIPPED)]
    assert sum(cell.method == OURS for cell in found) == 10
    assert sum(cell.method == "RTN" for cell in found) == 2
    assert [cell.seed for cell in found] == sorted(cell.seed for cell in found)


def test_intervals_are_those_of_student():
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert (mean, high - mean) == pytest.approx((2.0, 4.3027 / 3**0.5), rel=1e-4)
    assert mean - low == pytest.approx(high - mean)


def test_the_published_order_of_work_gives_what_the_preset_does():
    windows = torch.randint(small_llama.VOCAB_SIZE, (5, 24), generator=torch.Generator())
    options = {"group_size": 4, "bits": 2, "preset": "reference"}
    made = quantize_slim_llm(small_llama.network(), None, windows, **options).model
    model = small_llama.network()
    inputs = first_inputs(model, windows, batch_size=1)
    for block in decoder_blocks(model).values():
        inputs.move_on(quantize_block(block, inputs, 2, 4))
    plain = first_inputs(made, windows)
    with torch.no_grad():
        for block in decoder_blocks(made).values():
            plain.move_on(block_outputs(in_full_precision(block), plain))
    away = (plain.hidden - inputs.hidden).norm() / plain.hidden.norm()
    # Scales that are kept in half precision may move a weight to the next code.
    assert away < 0.05


def test_speed_is_told_with_what_is_required(words, tmp_path, monkeypatch):
    monkeypatch.setattr(quantization_cells, "in_own_process", lambda function, *a: function(*a))
    words += ["--only", OURS, "--seeds", "1", "--bits", "2"]
    slim_llm.main([*words, "--speed", *slim_llm.TIMED, "--new-tokens", "8"], fake)
    found = Results.load(tmp_path / "found.json")
    tables = {table.title: table for table in found.tables}
    assert "seconds of the whole model, 1 threads" in [row[0] for row in found.tables[0].rows]
    assert [row[0] for row in tables["Seconds"].rows] == [OURS, PUBLISHED, PLAIN_ORDER]
    shares = {row[0]: row[4] for row in tables["Writing"].rows}
    assert shares["float32"] == 2 and shares["bfloat16"] == 1 and shares["packed"] < 0.7
    assert all(row[1] > 0 and row[2] > 0 for row in tables["Writing"].rows)
    slim_llm.main([*words, "--minutes", "0"], fake)
    assert Results.load(tmp_path / "found.json").tables[0].rows == found.tables[0].rows


def test_results_in_the_repository_belong_together():
    path = RESULTS / "slim_llm.json"
    results = Results.load(path)
    page = path.with_suffix(".md").read_text(encoding="utf-8")
    assert page == markdown(results, slim_llm.TITLE)
    assert results.command.startswith("python -m benchmarks.slim_llm --model SmolLM2")
    assert [results.tables[0].title, results.tables[-1].title] == ["Required", "Peers"]
    text = path.read_text(encoding="utf-8")
    assert "/home" not in text and "/root" not in text and "site-packages" not in text
