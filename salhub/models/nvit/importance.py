"""How much each unit of a vision transformer matters, all units in one backward pass."""

import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from salhub.errors import check_choice
from salhub.files import require_file
from salhub.modeling import attribution_scope
from salhub.models.nvit.gates import GateSites
from salhub.models.nvit.modeling_nvit import NViTForImageClassification, at_least_float32
from salhub.models.nvit.shapes import STRUCTURES, UnitLayout
from salhub.models.nvit.unit_weights import unit_sums
from salhub.ops.tensor_files import write_tensors

logger = logging.getLogger(__name__)

Score = Literal["batch", "per_sample", "taylor_abs", "magnitude", "random", "hvp"]
SCORES: tuple[Score, ...] = ("batch", "per_sample", "taylor_abs", "magnitude", "random", "hvp")
# Takes what the model returns and the batch; gives the loss of every picture, (B,).
SampleLoss = Callable[[Any, Mapping[str, Tensor]], Tensor]
_SCORES = "scores"
Batches = Iterable[Mapping[str, Tensor] | tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class NViTScores:
    """What every unit is worth, the larger the more.

    Args:
        layout: Where the units stand.
        values: float32 or float64 (units,), 0 for units that are masked.
        score: How they were found.
        num_batches: Batches behind them.
    """

    layout: UnitLayout
    values: Tensor
    score: str
    num_batches: int

    def __getitem__(self, structure: str) -> Tensor | list[Tensor]:
        """Scores of a structure: (E,) of "embedding", (L, units) of others, or a list of (units,).

        A list where the blocks differ in width.
        """
        check_choice("structure", structure, STRUCTURES)
        parts = [self.values[place] for name, _, place in self.layout if name == structure]
        if structure == "embedding":
            return parts[0]
        is_even = len({len(part) for part in parts}) == 1
        return torch.stack(parts) if is_even else parts

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write them as a safetensors file, float32."""
        about = {"score": self.score, "num_batches": str(self.num_batches)}
        return write_tensors({_SCORES: self.values.float().cpu().contiguous()}, Path(path), about)

    @classmethod
    def load(cls, path: str | os.PathLike[str], layout: UnitLayout) -> Self:
        """Read what `save` has written.

        Args:
            path: The file.
            layout: Of the network that they are of.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no such file, or of a network of another shape.
        """
        require_file(Path(path), "file of scores")
        try:
            with safe_open(path, "pt") as file:
                values, about = file.get_tensor(_SCORES), file.metadata()
            score, num_batches = about["score"], int(about["num_batches"])
        except (KeyError, TypeError, ValueError, SafetensorError):
            raise ValueError(
                f"{path} contains no scores; make them with score_units(...).save(path)."
            ) from None
        if values.shape != (layout.size,):
            raise ValueError(
                f"{path} contains scores of {len(values)} units, but the network has "
                f"{layout.size}; give scores of this network."
            )
        return cls(layout, values, score, num_batches)


def reference_constants(num_blocks: int) -> dict[str, float]:
    """What the published code divides the sum of a unit by before it is squared.

    Args:
        num_blocks: L, which is 12 there.

    Example:
        >>> reference_constants(12)
        {'embedding': 12.0, 'head': 6.0, 'qk': 2.0, 'v': 2.0, 'mlp': 1.0}
    """
    return {"embedding": float(num_blocks), "head": 6.0, "qk": 2.0, "v": 2.0, "mlp": 1.0}


def divisors(
    layout: UnitLayout, constants: Mapping[str, float] | None, device: Any = None
) -> Tensor:
    """The constant of every unit, float32 (units,).

    Args:
        layout: Of the units.
        constants: By structure, 1 where one is missing; None for `reference_constants`.

    Raises:
        ValueError: No such structure, or a constant that is not above 0.
    """
    given = reference_constants(layout.shape.num_blocks) if constants is None else constants
    for name, value in given.items():
        check_choice("score_constants", name, STRUCTURES)
        if not value > 0:
            raise ValueError(f"score_constants of '{name}' must be above 0, got {value}.")
    found = torch.ones(layout.size, device=device)
    for name, _, place in layout:
        found[place] = given.get(name, 1.0)
    return found


def cross_entropy(outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """The loss of every picture where none is given: of the class token's and other logits' mean.

    Raises:
        ValueError: A batch without labels.
    """
    if "labels" not in batch:
        raise ValueError(
            "The loss needs 'labels', but the batches have none; give pairs of pictures and labels."
        )
    return F.cross_entropy(at_least_float32(outputs.logits), batch["labels"], reduction="none")


def score_units(
    model: NViTForImageClassification,
    batches: Batches,
    *,
    score: Score = "batch",
    gate_sites: GateSites = "weights",
    score_constants: Mapping[str, float] | None = None,
    mask: Tensor | None = None,
    loss: SampleLoss = cross_entropy,
    seed: int = 0,
    num_probes: int = 4,
) -> NViTScores:
    """Score all units of a network.

    "batch" puts a gate of 1 on every unit and squares the derivative of the loss of a batch by it,
    I = (dL/dg)^2, which is averaged over the batches [P]. The paper comes there from the squared
    norm of the Hessian of the loss by the gates, but its last step is no identity: what is computed
    is first-order, the diagonal of the empirical Fisher matrix of the gates, which usually stands
    in for that of the Hessian. It differs from sums of |w dL/dw| over the weights, and from those
    of w^2 d2L/dw2.

    Args:
        model: Is held in evaluation mode, its weights as they are.
        batches: Mappings with "pixel_values" and "labels", or pairs of them.
        score: "batch"; "per_sample", the mean over pictures of the square for each of them;
            "taylor_abs", the sum of |w dL/dw| over the weights removed with a unit; "magnitude",
            that of w^2; "random", drawn by the seed; "hvp", the size of the second derivative by
            each gate, estimated with random signs (Hutchinson) by differentiating twice.
        gate_sites: Of "batch", "per_sample" and "hvp"; see `gate_factors`.
        score_constants: What derivatives are divided by before they are squared, by structure;
            None for those of the published code with "weights", and for 1 with "activations".
        mask: bool (units,), False for units that are removed already.
        loss: Loss of every picture.
        seed: Of "random" and "hvp".
        num_probes: Draws of signs a batch, for "hvp".

    Raises:
        ValueError: No batches, or derivatives of which none is a finite number.

    Example:
        >>> from salhub.models.nvit.configuration_nvit import NViTConfig
        >>> config = NViTConfig(hidden_size=8, num_hidden_layers=1, qk_head_dim=4, v_head_dim=4,
        ...                     intermediate_size=16, image_size=8, patch_size=4)
        >>> model = NViTForImageClassification(config)
        >>> batches = [(torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))]
        >>> score_units(model, batches)["mlp"].shape
        torch.Size([1, 16])

    Source: Yang et al. 2023 (arXiv 2110.04869), section 3.2; the weights that count and the
    constants from the published code.
    """
    check_choice("score", score, SCORES)
    check_choice("gate_sites", gate_sites, ("weights", "activations"))
    layout = model.layout
    if score_constants is None and (gate_sites == "activations" or score == "hvp"):
        score_constants = {}
    constants = divisors(layout, score_constants, model.device)
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    live = torch.ones(layout.size, dtype=dtype, device=model.device)
    if mask is not None:
        live = mask.to(live)
    if score in ("magnitude", "random"):
        values, count = _without_data(model, layout, score, seed), 0
    else:
        runner = _Scoring(model, live, gate_sites, loss, constants, seed, num_probes)
        total, rows, count = torch.zeros_like(live), 0, 0
        for batch in _as_mappings(batches, model):
            found, weight = runner.scores_of(score, batch)
            total, rows, count = total + found, rows + weight, count + 1
        if not count:
            raise ValueError("There are no batches for scoring; give at least one.")
        values = finite(total / rows)
        if score == "hvp":
            values = values.abs()
    return NViTScores(layout, values * live, score, count)


def finite(values: Tensor) -> Tensor:
    """Scores with 0 in place of what is no finite number, which is said.

    Raises:
        ValueError: None of them is a finite number.
    """
    is_finite = values.isfinite()
    if bool(is_finite.all()):
        return values
    if not bool(is_finite.any()):
        raise ValueError(
            "No derivative of the loss is finite, so units cannot be ranked; check the "
            "weights and the pictures, or score in float32."
        )
    logger.warning(
        "%d of %d scores are not finite and count as 0.",
        int((~is_finite).sum()), len(values),
    )  # fmt: skip
    return values.where(is_finite, torch.zeros_like(values))


class _Scoring:
    """Scores of one batch after another."""

    def __init__(
        self,
        model: NViTForImageClassification,
        live: Tensor,
        sites: GateSites,
        loss: SampleLoss,
        constants: Tensor,
        seed: int,
        probes: int,
    ) -> None:
        self.model, self.live, self.sites, self.loss = model, live, sites, loss
        self.is_masked = bool((live == 0).any())
        self.constants, self.probes = constants.to(live.dtype), probes
        self.generator = torch.Generator().manual_seed(seed)

    def scores_of(self, score: Score, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """The sum of a score over what it is averaged over, and how many that are."""
        with attribution_scope(self.model):
            batch = {n: one.clone() if one.is_inference() else one for n, one in batch.items()}
            if score == "taylor_abs":
                return self._taylor(batch), 1
            with _frozen(self.model):
                if score == "hvp":
                    return self._curvature(batch), self.probes
                return self._squares(batch, is_of_samples=score == "per_sample")

    def _losses(self, batch: Mapping[str, Tensor], gates: Tensor | None) -> Tensor:
        mask = self.live if self.is_masked else None
        outputs = self.model(batch["pixel_values"], mask=mask, gates=gates, gate_sites=self.sites)
        return self.loss(outputs, batch)

    def _squares(self, batch: Mapping[str, Tensor], is_of_samples: bool) -> tuple[Tensor, int]:
        rows = len(batch["pixel_values"]) if is_of_samples else 1
        gates = torch.ones(rows, len(self.live)).to(self.live).requires_grad_()
        losses = self._losses(batch, gates)
        # The pictures do not see each other, so the sum has the derivative of each.
        total = losses.sum() if is_of_samples else losses.mean()
        [found] = torch.autograd.grad(total, gates)
        return (found / self.constants).square().sum(0), rows

    def _curvature(self, batch: Mapping[str, Tensor]) -> Tensor:
        gates = torch.ones_like(self.live)[None].requires_grad_()
        total = torch.zeros_like(self.live)
        # The fused kernels cannot be differentiated twice.
        with sdpa_kernel(SDPBackend.MATH):
            loss = self._losses(batch, gates).mean()
            [slope] = torch.autograd.grad(loss, gates, create_graph=True)
            for probe in range(self.probes):
                signs = torch.randint(2, slope.shape, generator=self.generator) * 2 - 1
                signs = signs.to(slope)
                is_last = probe == self.probes - 1
                [found] = torch.autograd.grad(
                    (slope * signs).sum(), gates, retain_graph=not is_last
                )
                total = total + (signs * found)[0] / self.constants.square()
        return total

    def _taylor(self, batch: Mapping[str, Tensor]) -> Tensor:
        named = dict(self.model.named_parameters())
        with _frozen(self.model, is_open=True):
            loss = self._losses(batch, None).mean()
            slopes = torch.autograd.grad(loss, list(named.values()))
        products = {
            name: (weight.detach() * slope).abs().to(self.live.dtype)
            for (name, weight), slope in zip(named.items(), slopes, strict=True)
        }
        return unit_sums(self.model.layout, products) / self.constants


@contextmanager
def _frozen(model: nn.Module, is_open: bool = False) -> Generator[None]:
    """Gradients of no weight, or of all, and as it was afterwards."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(is_open)
        yield
    finally:
        for parameter, was_open in before:
            parameter.requires_grad_(was_open)


def _as_mappings(batches: Batches, model: nn.Module) -> Iterator[Mapping[str, Tensor]]:
    device: Any = next(model.parameters()).device
    for batch in batches:
        if not isinstance(batch, Mapping):
            batch = dict(zip(("pixel_values", "labels"), batch, strict=False))
        yield {name: one.to(device) for name, one in batch.items() if isinstance(one, Tensor)}


@torch.no_grad()
def _without_data(
    model: NViTForImageClassification, layout: UnitLayout, score: Score, seed: int
) -> Tensor:
    if score == "random":
        return torch.rand(layout.size, generator=torch.Generator().manual_seed(seed)).to(
            model.device
        )
    return unit_sums(layout, {n: p.float().square() for n, p in model.named_parameters()})
