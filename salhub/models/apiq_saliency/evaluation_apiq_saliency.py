"""What a model of ApiQ costs with its adapters, and how well it predicts."""

from functools import wraps
from typing import Any

from salhub.evaluation import text_generation
from salhub.quantization.adapted_linear import mean_adapter_bits
from salhub.results import Results, Table
from salhub.runner.language_model_compression import mean_bits


@wraps(text_generation.evaluate)
def evaluate(model: Any, tokenizer: Any, data_path: Any, **settings: Any) -> Results:
    """Measure a model as any language model, and add what is known of its bits.

    Returns:
        The results of `salhub.evaluation.text_generation.evaluate` with "bits", "bits_with_scales"
        and "bits_with_adapters", each of a packed weight on average.
    """
    results = text_generation.evaluate(model, tokenizer, data_path, **settings)
    with_scales = mean_bits(model, with_scales=True)
    found = {
        "alone": ("bits", mean_bits(model, with_scales=False)),
        "with scales and zeros": ("bits_with_scales", with_scales),
        "with adapters too": ("bits_with_adapters", with_scales + mean_adapter_bits(model)),
    }
    for name, value in found.values():
        results.add_metric(name, value, unit="bits")
    rows: list[list[Any]] = [[words, f"{value:.3f}"] for words, (_, value) in found.items()]
    note = "Of the packed layers; embedding, norms and head are not packed."
    results.tables.insert(1, Table("Bits a weight", note, ["what", "value"], rows))
    return results
