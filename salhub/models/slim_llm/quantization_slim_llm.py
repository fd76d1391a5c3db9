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
    """Replaces linear layers by packed layers of the widths given in the configuration."""

    config_class = SlimLLMQuantizationConfig
