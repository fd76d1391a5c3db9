"""Where relevance goes, layer by layer: the conservation audit."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from salhub.results import Table


@dataclass(frozen=True)
class AuditRow:
    """The books of one layer for one map.

    Args:
        name: path of the module; sums and poolings carry that of the module they happen in.
        layer_type: "linear", "convolution", "normalisation", "affine", "sum", "pooling", "product"
            (of two signals, as in attention), "softmax", or "constant" (joined to a signal, such as
            a class token).
        rule: the rule that was used.
        relevance_out: relevance that arrived at its outputs.
        relevance_in: relevance handed down to its inputs.
        bias_share: relevance that its bias absorbed, or another constant.
        stabiliser_share: relevance that the epsilon of the denominators took, and what outputs
            without any contribution of the demanded sign could not hand down.
    """

    name: str
    layer_type: str
    rule: str
    relevance_out: float
    relevance_in: float
    bias_share: float
    stabiliser_share: float

    @property
    def accounted_error(self) -> float:
        """|out - in - bias - stabiliser|, of the largest of them: what no book explains."""
        rest = self.relevance_out - self.relevance_in - self.bias_share - self.stabiliser_share
        columns = (self.relevance_out, self.relevance_in, self.bias_share, self.stabiliser_share)
        return abs(rest) / max(1e-30, *(abs(column) for column in columns))

    @property
    def conservation_error(self) -> float:
        """|out - in| relative to |out|: what the pixels never see of it."""
        return abs(self.relevance_out - self.relevance_in) / max(abs(self.relevance_out), 1e-30)


class Ledger:
    """Collects the sums of every step of a pass, over the whole batch, in float64.

    Whole tensors are summed, because their first axis need not be the batch: it may count stacked
    branches, windows or tokens. The books of one picture need a pass of that picture alone.
    """

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, str, list[Tensor]]] = []

    def enter(
        self,
        name: str,
        layer_type: str,
        rule: str,
        relevance_out: Tensor,
        relevance_in: Tensor | Sequence[Tensor],
        bias_share: Tensor | None,
        stabiliser_share: Tensor | None,
    ) -> None:
        """Book one step; what it hands to several inputs is one tensor each."""
        handed = (relevance_in,) if isinstance(relevance_in, Tensor) else relevance_in
        nothing = relevance_out.new_zeros((), dtype=torch.float64)
        sums = [
            sum((part.sum(dtype=torch.float64) for part in parts if part is not None), nothing)
            for parts in ((relevance_out,), handed, (bias_share,), (stabiliser_share,))
        ]
        self.entries.append((name, layer_type, rule, sums))

    def rows(self) -> tuple[AuditRow, ...]:
        """The books, from the logits to the pixels."""
        return tuple(
            AuditRow(name, layer_type, rule, *(float(part) for part in sums))
            for name, layer_type, rule, sums in self.entries
        )

    def first_not_finite(self) -> str | None:
        """Path of the first layer, from the logits down, that hands down NaN or infinity."""
        for name, _, _, sums in self.entries:
            if not all(bool(part.isfinite()) for part in sums):
                return name
        return None


@dataclass(frozen=True)
class ConservationAudit:
    """The books of one relevance map.

    Args:
        class_label: The explained class.
        start: Relevance at the logits.
        reached: Relevance that reached the pixels.
        rows: One row a layer, from the logits to the pixels.
    """

    class_label: int
    start: float
    reached: float
    rows: tuple[AuditRow, ...]

    @property
    def conservation_error(self) -> float:
        """|start - reached| / |start|."""
        return abs(self.start - self.reached) / max(abs(self.start), 1e-30)

    @property
    def largest_accounted_error(self) -> float:
        """The largest share of a layer's relevance that no column of its row explains."""
        return max((row.accounted_error for row in self.rows), default=0.0)

    @property
    def accounted_error(self) -> float:
        """|start - reached - biases - stabilisers| relative to the largest sum of a layer.

        It closes the books of the whole way: a step that loses relevance without a row shows here.
        """
        taken = sum(row.bias_share + row.stabiliser_share for row in self.rows)
        largest = max((abs(row.relevance_out) for row in self.rows), default=0.0)
        return abs(self.start - self.reached - taken) / max(abs(self.start), largest, 1e-30)

    @property
    def bias_share(self) -> float:
        """Relevance that biases absorbed on the way, as a share of the start."""
        return sum(row.bias_share for row in self.rows) / (self.start or 1e-30)

    def table(self) -> Table:
        """The books as a table for results files and cards."""
        columns = ["layer", "type", "rule", "relevance out", "relevance in", "bias", "stabiliser"]
        rows = [
            [
                row.name,
                row.layer_type,
                row.rule,
                row.relevance_out,
                row.relevance_in,
                row.bias_share,
                row.stabiliser_share,
                row.accounted_error,
            ]
            for row in self.rows
        ]
        note = (
            f"Class {self.class_label}: of {self.start:.4g} at the logits, "
            f"{self.reached:.4g} reached the pixels. Out minus in is what the biases and the "
            "stabilizer absorbed; the last column is the unexplained rest, relative to the "
            "largest of them."
        )
        return Table("Where relevance goes", note, [*columns, "unexplained"], rows)
