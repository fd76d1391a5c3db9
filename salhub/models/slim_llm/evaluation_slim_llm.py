"""What a model of SliM-LLM costs and how well it predicts, beside the one that it was made of."""

from functools import wraps
from typing import Any

from salhub.evaluation import text_generation
from salhub.hub import bundled_model, load, resolve
from salhub.models.slim_llm.layer_report import REPORT_FILE, CompressionReport
from salhub.results import Results, Table
from salhub.runner.compression_report import error_table
from salhub.runner.language_model_compression import mean_bits


@wraps(text_generation.evaluate)
def evaluate(model: Any, tokenizer: Any, data_path: Any, **settings: Any) -> Results:
    """Measure a model as any language model, and add what is known of its bits.

    Returns:
        The results of `salhub.evaluation.text_generation.evaluate` with "bits", "bits_with_scales";
        with "error/BLOCK.LAYER" and their table where the model came with layers.json; and with
        "perplexity/before", of the model that it was made of, where that is here.
    """
    results = text_generation.evaluate(model, tokenizer, data_path, **settings)
    for name, with_scales in (("bits", False), ("bits_with_scales", True)):
        results.add_metric(name, mean_bits(model, with_scales=with_scales), unit="bits")
    rows: list[list[Any]] = [
        [words, f"{results.metric(name).value:.3f}"]
        for words, name in (("alone", "bits"), ("with scales, zeros and means", "bits_with_scales"))
    ]
    note = "Of the packed layers; embedding, norms and head are not packed."
    report = _report_of(model)
    base = None if report is None else _base_of(report)
    if base is not None:
        measured = {**settings, "speed_tokens": 0, "progress": False}
        before = text_generation.evaluate(base, tokenizer, data_path, **measured)
        found = before.metric("perplexity")
        results.add_metric("perplexity/before", found.value, interval=found.interval, n=found.n)
        low, high = found.interval or (found.value, found.value)
        results.tables[0].rows.insert(
            1,
            [f"that of {report.base_model}", f"{found.value:.2f} [{low:.2f}, {high:.2f}]"],
        )
    results.tables.insert(1, Table("Bits a weight", note, ["what", "value"], rows))
    if report is not None:
        results.tables.append(_errors(report))
    return results


def _report_of(model: Any) -> CompressionReport | None:
    name = model.config.name_or_path
    folder = resolve(name).snapshot() if name else None
    if folder is None or not (folder / REPORT_FILE).is_file():
        return None
    return CompressionReport.load(folder)


def _base_of(report: CompressionReport) -> Any:
    """What the model was made of, where it comes with salhub; what is not here is not fetched."""
    from transformers import AutoModelForCausalLM

    name = report.base_model
    if name is None or bundled_model(name) is None:
        return None
    return load(AutoModelForCausalLM, name).eval()


def _errors(report: CompressionReport) -> Table:
    measures: dict[str, dict[str, float]] = {}
    for name, layer in report.layers.items():
        block, own = _split(name)
        measures.setdefault(block, {})[f"error/{own}"] = layer.error
    return error_table(measures)


def _split(name: str) -> tuple[str, str]:
    """The name of a block, which ends with its number, and that of a layer in it."""
    parts = name.split(".")
    place = next(place for place, part in enumerate(parts) if part.isdigit()) + 1
    return ".".join(parts[:place]), ".".join(parts[place:])
