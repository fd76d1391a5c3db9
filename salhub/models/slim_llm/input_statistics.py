"""What goes into the linear layers of a block: its second moments, and some of its rows."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_RETRIES = 3


@dataclass
class InputStatistics:
    """Of the inputs of one layer, or of several that read the same.

    Args:
        layers: Names of the layers.
        moments: Sum over all tokens of x xᵀ, float32 (m, m).
        num_sequences: Sequences that were seen.
        num_tokens: Tokens that were seen.
        rows: Some of the inputs, float32 (at most `most_rows`, m).
    """

    layers: list[str]
    moments: Tensor
    num_sequences: int
    num_tokens: int
    rows: Tensor

    @property
    def hessian(self) -> Tensor:
        """(2 / S) Σ XᵀX over the sequences, float32 (m, m).

        Source: Frantar et al. 2023 (arXiv 2210.17323), eq. 1, for the squared error of the layer.
        """
        return self.moments * (2 / self.num_sequences)


@contextmanager
def collected_inputs(
    layers: Mapping[str, nn.Linear],
    *,
    most_rows: int,
    num_sequences: int,
    with_moments: bool = True,
) -> Generator[list[InputStatistics]]:
    """Collect what layers are given while the context is open; layers that read the same share it.

    Args:
        layers: Name -> layer.
        most_rows: Rows kept of the inputs, the same number of every sequence.
        num_sequences: Sequences that will pass, (B, T, m) or (B, T) tokens at a time.
        with_moments: Whether second moments are wanted; they are empty otherwise.

    Yields:
        A list that is filled when the context ends.
    """
    found: list[InputStatistics] = []
    owner: dict[str, str] = {}
    sums: dict[str, InputStatistics] = {}
    kept: dict[str, list[Tensor]] = {}
    # Of the pass that is under way: inputs, which are held lest another takes the place of one, and
    # the first layer that read each.
    readers: list[tuple[Tensor, str]] = []
    seen: set[str] = set()
    each = max(1, most_rows // num_sequences)

    def look(name: str, values: Tensor) -> None:
        if name in seen:
            seen.clear()
            readers.clear()
        seen.add(name)
        first = next((reader for known, reader in readers if known is values), name)
        if first == name:
            readers.append((values, name))
        if owner.setdefault(name, first) != first:
            raise ValueError(
                f"the layer {name} shares the input of {first} in one pass but not in "
                "another; such layers cannot be quantized from their inputs."
            )
        if first != name:
            if name not in sums[first].layers:
                sums[first].layers.append(name)
            return
        batch = values.detach().float()
        flat = batch.reshape(-1, batch.shape[-1])
        if name not in sums:
            size = flat.shape[1] if with_moments else 0
            sums[name] = InputStatistics([name], flat.new_zeros(size, size), 0, 0, flat[:0])
            kept[name] = []
        entry = sums[name]
        if with_moments:
            entry.moments.addmm_(flat.T, flat)
        entry.num_sequences += len(batch)
        entry.num_tokens += len(flat)
        step = max(1, batch.shape[1] // each)
        kept[name].append(batch[:, ::step][:, :each].reshape(-1, flat.shape[1]).clone())

    def hook(name: str):
        return lambda module, inputs: look(name, inputs[0])

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield found
        for name, entry in sums.items():
            entry.rows = torch.cat(kept[name])[:most_rows]
            found.append(entry)
    finally:
        for handle in handles:
            handle.remove()


def damped(hessian: Tensor, damping: float) -> Tensor:
    """The Hessian with a share of the mean of its diagonal added to that.

    Columns of which nothing was ever seen count as if their inputs were independent, of size 1.
    """
    found = hessian.clone()
    diagonal = found.diagonal()
    diagonal[diagonal == 0] = 1
    diagonal += damping * float(diagonal.mean())
    return found


def inverse_factor(hessian: Tensor, damping: float, name: str) -> tuple[Tensor, Tensor]:
    """Upper triangular U with H⁻¹ = UᵀU, of the damped Hessian.

    Columns of which nothing was ever seen count as if their inputs were independent.

    Args:
        hessian: float32 (m, m); left as it is.
        damping: Share of the mean of the diagonal that is added to it; ten times as much where the
            matrix is no positive one, three times at most.
        name: Of the layer, for messages.

    Returns:
        U, float32 (m, m), and which columns were never seen, bool (m,).

    Raises:
        ValueError: Values are not finite, or the matrix is no positive one however damped.

    Source: Frantar et al. 2023 (arXiv 2210.17323), section 3.3, step 3.
    """
    if not torch.isfinite(hessian).all():
        raise ValueError(
            f"the inputs of {name} are not finite; check the model and the calibration text."
        )
    exact, is_dead = hessian.double(), hessian.diagonal() == 0
    for _ in range(_RETRIES + 1):
        lower, failed = torch.linalg.cholesky_ex(damped(exact, damping))
        if not failed:
            upper = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
            return upper.float(), is_dead
        damping *= 10
    raise ValueError(
        f"the inputs of {name} are so strongly correlated that their matrix cannot be "
        "inverted; give more calibration text, or a larger damping."
    )


def relative_error(weight: Tensor, written: Tensor, moments: Tensor) -> float:
    """‖X(Ŵ - W)ᵀ‖ / ‖XWᵀ‖ on the calibration inputs.

    Args:
        weight, written: float32 (n, m).
        moments: Σ x xᵀ of the inputs, (m, m).
    """

    def energy(matrix: Tensor) -> float:
        return float(((matrix @ moments) * matrix).sum().double())

    whole = energy(weight)
    return (max(energy(written - weight), 0.0) / whole) ** 0.5 if whole > 0 else 0.0
