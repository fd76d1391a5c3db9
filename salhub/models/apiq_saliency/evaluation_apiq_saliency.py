"""What a model of ApiQ costs with its adapters, and how well it predicts beside its base."""

from functools import wraps
from typing import Any

from salhub.evaluation import text_generation
from salhub.models.apiq_saliency.block_report import REPORT_FILE, CompressionReport
from salhub.quantization.adapted_linear import mean_adapter_bits
from salhub.results import Results, Table
from salhub.runner.language_model_compression import mean_bits


@wraps(text_generation.evaluate)
def evaluate(model: Any, tokenizer: Any, data_path: Any, **settings: Any) -> Results:
    """Measure a model as any language model, and add what is known of its bits.

    Returns:
        The results of `salhub.evaluation.text_generation.evaluate` with "bits", "bits_with_scales"
        and "bits_with_adapters", each of a packed weight on average; and with "perplexity/before",
        of the model that it was made of, where that is here and blocks.json names it.
    """
    results = text_generation.evaluate(model, tokenizer, data_path, **settings)
    with_scales = mean_bits(model, with_scales=True)
    found = {
        "alone": ("bits", mean_bits(model, with_scales=False)),
        "with scales and zeros": ("bits_with_scales", with_scales),
        "with adapters included": ("bits_with_adapters", with_scales + mean_adapter_bits(model)),
    }
    for name, value in found.values():
        results.add_metric(name, value, unit="bits")
    rows: list[list[Any]] = [[words, f"{value:.3f}"] for words, (_, value) in found.items()]
    folder = text_generation.folder_of(model)
    if folder is not None and (folder / REPORT_FILE).is_file():
        base_model = CompressionReport.load(folder).base_model
        text_generation.add_base(results, base_model, tokenizer, data_path, **settings)
    note = "Packed layers in the blocks only; embedding, norms and head are not counted."
    results.tables.insert(1, Table("Bits per weight", note, ["what", "value"], rows))
    return results
