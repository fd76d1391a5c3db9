"""Options of SliM-LLM."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from salhub.models.slim_llm.bit_allocation import Salience
from salhub.models.slim_llm.column_updates import Backbone, SearchWeights
from salhub.models.slim_llm.group_scales import BinaryScale
from salhub.models.slim_llm.presets import BASELINES, Allocation, Objective, Preset, preset_values
from salhub.runner.arguments import check_count, check_positive, check_share
from salhub.runner.compression_arguments import CompressionArguments

Granularity = Literal["group", "module"]


@dataclass(kw_only=True)
class SlimLLMArguments(CompressionArguments):
    """Options of `SlimLLMRecipe`; those that are None are as the preset has them.

    Args:
        bits: Mean bits per weight; 2, 3 or 4, or with bits_granularity="module" any number from 2
            to 4, such as 2.25 or 3.5. With "module", exactly 2 or 4 leaves no choice: all layers
            have that width.
        bits_granularity: "group" chooses widths for groups of columns, as published; "module"
            chooses one of 2, 3 and 4 for each layer, the same for layers that read the same
            inputs, as other programs require; see `measured_widths`. The mean is then at most
            `bits`, as close as the sizes of the layers allow.
        symmetric: Whether to fix zeros at 2^(width - 1), as other programs require; only for
            layers with one width, see `group_scales`.
        preset: Decides all options that you leave out. "recommended" is SliM-LLM with the settings
            that worked best for us: bits go where they reduce the expected error most, the search
            shrinks ranges further and weights errors by salience, layers correct the errors of
            earlier ones, and codes and scales are refined. "reference" is SliM-LLM as published.
            "plus" is SliM-LLM+: the same bits, with ranges trained block by block. Three more are
            for comparison and give all groups the same bits: "rtn" rounds each weight, "gptq" lets
            later columns correct earlier ones, and "gptq-clip" does everything that "recommended"
            does, but without salience.
        allocation: Which groups get one bit less or more: by "salience" as published, or for
            comparison none ("uniform"), the same number at "random", or the opposite ("inverted").
        salience: Divisor in the salience: "cholesky" as released, or "hinv" as published; see
            `weight_salience`.
        objective: What the bits of groups minimize: the "divergence" of the outputs of a layer, as
            published, or the sum of the expected "error" of the groups; see `allocate_bits` and
            `allocate_by_error`.
        match_outputs: Whether layers are quantized one after another, each one matching its
            full-precision output from the outputs of the quantized layers before it; see
            `matched_weight`.
        allow_uniform: Whether a layer may give all its groups the same bits if that is best.
        search_weights: Weight of an error in the search of a range: "mask" counts salient weights
            `salience_weight` times, "salience" weights all by their salience, and "none" counts
            all equally.
        salience_weight: Weight of salient weights in the search, with search_weights="mask".
        error_norm: Power of an error in the search.
        search_range: How far the search shrinks a range, as a share of it; 0 for not at all.
        search_stretch: How far the search stretches a range.
        search_steps: Number of steps in each direction.
        binary_scale: Scale of groups of one bit: "centered" around their mean, or "abs" as
            released; see `group_scales`.
        backbone: "gptq", or "rtn" to only round the columns.
        refinements: Number of refinements after the columns are quantized: each sets every code to
            the best value given the others, and fits the scales to the codes; see `refined`.
        clip_epochs: Epochs over the calibration windows for training the ranges of a block; 0 to
            search them instead.
        initial_ranges: Ranges at the start of their training: "wide", slightly inside those of the
            weights, as published, or those that a "search" finds, which is better if there are
            few steps.
        clip_learning_rate: Learning rate of AdamW for the ranges, without weight decay.
        aug_loss: Whether to also match the outputs of the full weights on the inputs of the
            compressed blocks.
        damping: Share of the mean added to the diagonal of the Hessian.
        num_search_rows: Maximum number of input rows for allocating bits.

    Raises:
        ValueError: An option contradicts what a preset to compare with is.

    Example:
        >>> options = SlimLLMArguments(output_dir="out", model="m", calibration="t.txt", bits=3)
        >>> options.allow_uniform, options.resolved().allow_uniform
        (None, True)
    """

    bits: float = 2
    bits_granularity: Granularity = "group"
    symmetric: bool = False
    preset: Preset = "recommended"
    allocation: Allocation | None = None
    salience: Salience = "cholesky"
    objective: Objective | None = None
    match_outputs: bool | None = None
    allow_uniform: bool | None = None
    search_weights: SearchWeights | None = None
    salience_weight: float = 1.0
    error_norm: float | None = None
    search_range: float | None = None
    search_stretch: float | None = None
    search_steps: int | None = None
    binary_scale: BinaryScale | None = None
    backbone: Backbone | None = None
    refinements: int | None = None
    clip_epochs: int | None = None
    initial_ranges: Literal["wide", "search"] = "wide"
    clip_learning_rate: float = 1e-2
    aug_loss: bool = False
    damping: float = 0.01
    num_search_rows: int = 4096

    def __post_init__(self) -> None:
        if isinstance(self.bits, float) and self.bits.is_integer():
            self.bits = int(self.bits)
        super().__post_init__()

    def resolved(self) -> "SlimLLMArguments":
        """The same with what the preset has in the place of None."""
        return replace(self, **self.resolved_values())

    def resolved_values(self) -> dict[str, Any]:
        """The options that presets decide, as given or as the preset has them."""
        values = preset_values(self.preset, self.bits)
        given = {name: getattr(self, name) for name in values}
        return {name: values[name] if one is None else one for name, one in given.items()}

    def changed(self) -> dict[str, tuple[Any, Any]]:
        """Options that were given and are not as in the preset -> both values, the given first."""
        given = {
            name: (getattr(self, name), value)
            for name, value in preset_values(self.preset, self.bits).items()
        }
        return {name: both for name, both in given.items() if both[0] not in (None, both[1])}

    def validate(self) -> None:
        """Check the options of SliM-LLM, and those of every compression."""
        super().validate()
        check_count("num_search_rows", self.num_search_rows)
        if self.search_steps is not None:
            check_count("search_steps", self.search_steps)
        for name in ("salience_weight", "damping", "clip_learning_rate"):
            check_positive(name, getattr(self, name))
        if self.error_norm is not None:
            check_positive("error_norm", self.error_norm)
        for name in ("search_range", "search_stretch"):
            if getattr(self, name) is not None:
                check_share(name, getattr(self, name))
        for name in ("clip_epochs", "refinements"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), least=0)
        self._check_training()
        self._check_effects()
        if self.preset in BASELINES:
            for name, (given, value) in self.changed().items():
                raise ValueError(
                    f"preset={self.preset} sets {name}={_word(value)}, but you gave "
                    f"{name}={_word(given)}; leave one of them out."
                )
        values = self.resolved_values()
        allocation = values["allocation"]
        if self.salience != "cholesky" and values["objective"] != "divergence":
            raise ValueError(
                f"salience={self.salience} needs objective=divergence, but objective is "
                f"{values['objective']}; set objective=divergence too, or leave salience out."
            )
        if self.salience_weight != 1 and values["search_weights"] != "mask":
            raise ValueError(
                f"salience_weight={self.salience_weight:g} needs search_weights=mask, but "
                f"search_weights is {values['search_weights']}; set search_weights=mask too, "
                "or leave salience_weight out."
            )
        if self.bits_granularity == "module" and self.preset in BASELINES:
            raise ValueError(
                f"preset={self.preset} gives all layers the same bits, but "
                "bits_granularity=module chooses bits for each layer; leave "
                "bits_granularity out and give bits of 2, 3 or 4, or leave the preset out."
            )
        if self.bits_granularity == "module" and allocation != "salience":
            raise ValueError(
                f"allocation={allocation} applies to groups, but bits_granularity is module; "
                "leave out one of them."
            )
        if self.symmetric and self.bits_granularity != "module" and allocation != "uniform":
            raise ValueError(
                "symmetric needs one width per layer; set bits_granularity=module, or "
                "allocation=uniform."
            )

    def _check_training(self) -> None:
        """Refuse options that would do nothing where ranges are trained."""
        given = self.resolved_values()
        if given["clip_epochs"] and (given["search_range"] or given["backbone"] == "gptq"):
            raise ValueError(
                "clip_epochs trains the ranges of individually rounded weights instead of "
                "searching them; use preset=plus, without search_range and backbone."
            )
        by_columns = [name for name in ("match_outputs", "refinements") if given[name]]
        if given["clip_epochs"] and by_columns:
            raise ValueError(
                f"{by_columns[0]} applies to weights quantized column by column, but "
                f"clip_epochs is {given['clip_epochs']}; leave out one of them, or the "
                "preset that sets it."
            )
        if self.aug_loss and not given["clip_epochs"]:
            raise ValueError("aug_loss applies to trained ranges; use it with preset=plus.")

    def _check_effects(self) -> None:
        """Refuse numbers that would do nothing."""
        defaults = {field.name: field.default for field in fields(self)}
        given = self.resolved_values()
        needed = {
            "initial_ranges": (given["clip_epochs"], "clip_epochs or preset=plus"),
            "clip_learning_rate": (given["clip_epochs"], "clip_epochs or preset=plus"),
            "num_search_rows": (
                self.bits_granularity == "module"
                or (given["objective"] == "divergence" and given["allocation"] != "uniform"),
                "objective=divergence",
            ),
            "damping": (self.preset != "rtn", "the interplay of columns, which preset=rtn ignores"),
        }
        for name, (is_used, what) in needed.items():
            if getattr(self, name) != defaults[name] and not is_used:
                raise ValueError(f"{name} has no effect without {what}; leave it out.")
        if self.bits_granularity == "module":
            for name in ("objective", "allow_uniform"):
                if name in self.changed():
                    raise ValueError(
                        f"{name} applies to groups, but bits_granularity is module; leave out one "
                        "of them."
                    )

    def check_bits(self) -> None:
        """Refuse a mean of bits that cannot be kept."""
        if self.bits_granularity == "module":
            if not 2 <= self.bits <= 4:
                raise ValueError(f"bits must be from 2 to 4, got {self.bits}.")
        elif isinstance(self.bits, float) and 2 < self.bits < 4:
            between = "set bits_granularity=module for a mean between them"
            if self.preset in BASELINES:
                between = f"preset={self.preset} gives all layers the same bits"
            raise ValueError(f"bits must be 2, 3 or 4, got {self.bits}; {between}.")
        else:
            super().check_bits()


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
