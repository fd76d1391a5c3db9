"""What a model of SliM-LLM costs and how well it predicts, beside the one that it was made of."""

from functools import wraps
from typing import Any

from salhub.evaluation import text_generation
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
    note = "Packed layers in the blocks only; embedding, norms and head are not counted."
    report = _report_of(model)
    if report is not None:
        text_generation.add_base(results, report.base_model, tokenizer, data_path, **settings)
    results.tables.insert(1, Table("Bits per weight", note, ["what", "value"], rows))
    if report is not None:
        results.tables.append(_errors(report))
    return results


def _report_of(model: Any) -> CompressionReport | None:
    folder = text_generation.folder_of(model)
    has_report = folder is not None and (folder / REPORT_FILE).is_file()
    return CompressionReport.load(folder) if folder and has_report else None


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
