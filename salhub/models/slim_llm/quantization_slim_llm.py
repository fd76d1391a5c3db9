"""How transformers loads models of SliM-LLM."""

from salhub.quantization.quantizer import PackedWeightsConfig, PackedWeightsQuantizer


class SlimLLMQuantizationConfig(PackedWeightsConfig):
    """Settings of a model in two or three bits on average; see `PackedWeightsConfig`.

    Example:
        >>> SlimLLMQuantizationConfig(bits=2, group_size=64).quant_method
        'salhub_slim_llm'
    """

    method = "salhub_slim_llm"


class SlimLLMQuantizer(PackedWeightsQuantizer):
    """Puts packed layers of several widths where the configuration has them."""

    config_class = SlimLLMQuantizationConfig
