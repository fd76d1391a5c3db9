"""Sets of options that have a name: SliM-LLM's own, and what it is compared with."""

from typing import Any, Literal

Allocation = Literal["salience", "uniform", "random", "inverted"]
Objective = Literal["divergence", "error"]
Preset = Literal["recommended", "reference", "plus", "rtn", "gptq", "gptq-clip"]
# All groups get the same bits.
BASELINES = frozenset({"rtn", "gptq", "gptq-clip"})

_RELEASED = {
    "allocation": "salience",
    "allow_uniform": False,
    "backbone": "gptq",
    "search_weights": "mask",
    "error_norm": 2.4,
    "search_range": 0.1,
    "search_stretch": 0.1,
    "search_steps": 50,
    "objective": "divergence",
    "match_outputs": False,
    "refinements": 0,
    "binary_scale": "abs",
    "clip_epochs": 0,
}
# What we found best, see benchmarks/slim_llm.py; salience aside, any method that writes weights
# column by column may do the same.
_IMPROVED = {
    **_RELEASED,
    "allow_uniform": True,
    "binary_scale": "centered",
    "error_norm": 2.0,
    "search_range": 0.5,
    "search_stretch": 0.0,
    "search_steps": 25,
    "match_outputs": True,
    "refinements": 1,
}
_RECOMMENDED = {**_IMPROVED, "objective": "error", "search_weights": "salience"}
_CLIPPED = {**_IMPROVED, "allocation": "uniform", "search_weights": "none"}
_UNIFORM = {**_RELEASED, "allocation": "uniform", "allow_uniform": True, "search_weights": "none"}
_NO_SEARCH = {**_UNIFORM, "search_range": 0.0, "search_stretch": 0.0}
_ROUNDED = {
    "backbone": "rtn",
    "search_weights": "none",
    "search_range": 0.0,
    "search_stretch": 0.0,
}
# Bits are allocated as released; 10 epochs are what its code has where nothing is said.
_PLUS = {**_RELEASED, "binary_scale": "centered", "clip_epochs": 10, **_ROUNDED}


def preset_values(preset: Preset, bits: float) -> dict[str, Any]:
    """The options that a preset decides.

    Args:
        preset: See `SlimLLMArguments`.
        bits: On average.

    Source: "reference" is the released code of Huang et al. 2024 (arXiv 2405.14917), without what
        are slips in it; "recommended" is ours; "plus" is SliM-LLM+ of the same
        paper; "gptq" is Frantar et al. 2023 (arXiv 2210.17323).

    Example:
        >>> preset_values("gptq", 2)["search_range"], preset_values("gptq-clip", 2)["search_range"]
        (0.0, 0.5)
    """
    if preset == "reference":
        return _RELEASED
    if preset == "recommended":
        return _RECOMMENDED
    if preset == "plus":
        return _PLUS
    if preset == "gptq-clip":
        return _CLIPPED
    return {**_NO_SEARCH, "backbone": "rtn" if preset == "rtn" else "gptq"}
