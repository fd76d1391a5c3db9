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
    "binary_scale": "abs",
    "clip_epochs": 0,
}
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
# With two bits on average, leave to keep all groups alike does harm.
_NOT_UNIFORM_BELOW = 3


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
        (0.0, 0.1)
    """
    if preset == "reference":
        return _RELEASED
    if preset == "recommended":
        if bits < _NOT_UNIFORM_BELOW:
            searched = {"search_weights": "salience", "error_norm": 2.0}
        else:
            searched = {"allow_uniform": True}
        return {**_RELEASED, "binary_scale": "centered", **searched}
    if preset == "plus":
        return _PLUS
    if preset == "gptq-clip":
        return _UNIFORM
    return {**_NO_SEARCH, "backbone": "rtn" if preset == "rtn" else "gptq"}
