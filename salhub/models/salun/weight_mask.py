"""Which weights may move: masks made from scores, combined, and kept in a file of one bit each."""

import hashlib
import json
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from salhub.errors import check_choice
from salhub.files import require_file
from salhub.ops.tensor_files import write_tensors

Scope = Literal["global", "per_tensor", "per_block"]
FILE_NAME = "mask.safetensors"
_FORMAT = "salhub-weight-mask-1"
# What wrappers put before the names of the network inside them.
_PREFIXES = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")


class WeightMask:
    """One bit a weight: True where it may move.

    Args:
        tensors: Parameter name -> bool tensor of the parameter's shape.
        saliency: What the scores were, such as "batch_mean_grad"; for the file and the card.
        ratio: Share of the ranked weights that was to be opened, None for a combined mask.

    Raises:
        TypeError: A tensor that is not boolean.
        ValueError: No tensors.

    Example:
        >>> mask = WeightMask({"weight": torch.tensor([True, False])})
        >>> mask.density(), (~mask).tensors["weight"].tolist()
        (0.5, [False, True])
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        saliency: str = "unknown",
        ratio: float | None = None,
    ) -> None:
        if not tensors:
            raise ValueError("a mask needs at least one parameter, got none.")
        for name, tensor in tensors.items():
            if tensor.dtype != torch.bool:
                raise TypeError(f"the mask of '{name}' must be boolean, got {tensor.dtype}.")
        self.tensors = dict(tensors)
        self.saliency = saliency
        self.ratio = ratio

    def __repr__(self) -> str:
        return (
            f"WeightMask({len(self.tensors)} tensors, {self.num_open} of {self.num_weights} "
            f"weights open, saliency={self.saliency!r})"
        )

    @property
    def num_weights(self) -> int:
        """Number of weights covered."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    @property
    def num_open(self) -> int:
        """Number of weights that may move."""
        return sum(_count(tensor) for tensor in self.tensors.values())

    def density(self) -> float:
        """Share of the weights that may move, 0 to 1."""
        return self.num_open / self.num_weights

    def per_tensor(self) -> dict[str, float]:
        """Share of each parameter that may move, by name."""
        return {
            name: _count(tensor) / max(1, tensor.numel()) for name, tensor in self.tensors.items()
        }

    def __and__(self, other: "WeightMask") -> "WeightMask":
        return self._combined(other, torch.logical_and, "and")

    def __or__(self, other: "WeightMask") -> "WeightMask":
        return self._combined(other, torch.logical_or, "or")

    def __invert__(self) -> "WeightMask":
        inverted = {name: ~tensor for name, tensor in self.tensors.items()}
        return WeightMask(inverted, f"not {self.saliency}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WeightMask):
            return NotImplemented
        return self.tensors.keys() == other.tensors.keys() and all(
            torch.equal(tensor, other.tensors[name]) for name, tensor in self.tensors.items()
        )

    __hash__ = None  # a mask is compared by its bits, which may be on any device

    def iou(self, other: "WeightMask") -> float:
        """Weights open in both, as a share of those open in either; 1 when none is open.

        Raises:
            KeyError: Masks of other parameters.
        """
        either = (self | other).num_open
        return (self & other).num_open / either if either else 1.0

    def _combined(self, other: "WeightMask", operation, word: str) -> "WeightMask":
        if not isinstance(other, WeightMask):
            return NotImplemented
        other = other.for_names({name: tensor.shape for name, tensor in self.tensors.items()})
        tensors = {
            name: operation(tensor, other.tensors[name].to(tensor.device))
            for name, tensor in self.tensors.items()
        }
        return WeightMask(tensors, f"{self.saliency} {word} {other.saliency}")

    def for_model(self, model: nn.Module) -> "WeightMask":
        """The mask under the names of a model, on its devices.

        Names may differ by what wrappers such as DataParallel put before them. Parameters that
        share their memory need a mask for the first of their names only. Frozen parameters, which
        get no scores, need none: they are closed.

        Args:
            model: The model whose weights it is for.

        Raises:
            KeyError: The model has other parameters.
            ValueError: A parameter has another shape.
        """
        parameters = dict(model.named_parameters())
        frozen = [name for name, p in parameters.items() if not p.requires_grad]
        mask = self.for_names({name: p.shape for name, p in parameters.items()}, frozen)
        tensors = {name: mask.tensors[name].to(p.device) for name, p in parameters.items()}
        return WeightMask(tensors, self.saliency, self.ratio)

    def for_names(
        self, shapes: Mapping[str, torch.Size], frozen: Iterable[str] = ()
    ) -> "WeightMask":
        """The mask under other names for the same parameters, in their order.

        Args:
            shapes: Parameter name -> shape.
            frozen: Those of the names that are closed if the mask does not have them.

        Raises:
            KeyError: Other parameters.
            ValueError: A parameter of another shape.
        """
        own, wanted = dict(self.tensors), {name: name for name in shapes}
        if not own.keys() <= wanted.keys():
            own = dict(zip(bare_names(own), own.values(), strict=True))
            wanted = dict(zip(bare_names(shapes), shapes, strict=True))
        closed = set(frozen)
        for bare, name in wanted.items():
            if name in closed and bare not in own:
                own[bare] = torch.zeros(shapes[name], dtype=torch.bool)
        missing, unexpected = sorted(wanted.keys() - own), sorted(own.keys() - wanted)
        if missing or unexpected:
            raise KeyError(
                f"the mask belongs to another model (missing: {_some(missing)}; extra: "
                f"{_some(unexpected)}); make a mask for this model."
            )
        for bare, name in wanted.items():
            if own[bare].shape != shapes[name]:
                raise ValueError(
                    f"the mask of '{name}' has shape {tuple(own[bare].shape)}, but the "
                    f"parameter has {tuple(shapes[name])}; make a mask for this model."
                )
        tensors = {name: own[bare] for bare, name in wanted.items()}
        return WeightMask(tensors, self.saliency, self.ratio)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `mask.safetensors`, one bit a weight; a reader sees it whole or not at all.

        Args:
            folder: Where to; made when it does not exist.

        Returns:
            The file.
        """
        packed = {
            name: torch.from_numpy(np.packbits(tensor.cpu().numpy().reshape(-1)))
            for name, tensor in self.tensors.items()
        }
        shapes = {name: list(tensor.shape) for name, tensor in self.tensors.items()}
        metadata = {
            "format": _FORMAT,
            "saliency": self.saliency,
            "ratio": json.dumps(self.ratio),
            "shapes": json.dumps(shapes),
            "sha256": _packed_digest(packed, shapes),
        }
        return write_tensors(packed, Path(folder) / FILE_NAME, metadata)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "WeightMask":
        """Read a mask from a folder or a file.

        Raises:
            FileNotFoundError: There is none.
            ValueError: The file is damaged, or no mask.
        """
        path = Path(path)
        path = path / FILE_NAME if path.is_dir() else path
        packed, metadata = read_known(path, _FORMAT, "mask")
        try:
            shapes, ratio = json.loads(metadata["shapes"]), json.loads(metadata["ratio"])
            intact = metadata["sha256"] == _packed_digest(packed, shapes)
        except (KeyError, ValueError):
            intact = False
        if not intact:
            raise ValueError(
                f"{path} is damaged: the mask differs from what was saved; save it again."
            )
        # The file is sorted by name; the order of the parameters stands in the metadata.
        tensors = {name: _unpacked(packed[name], shape) for name, shape in shapes.items()}
        return cls(tensors, metadata["saliency"], ratio)


def make_mask(
    scores: Mapping[str, Tensor],
    ratio: float = 0.5,
    *,
    scope: str = "global",
    exclude: Iterable[str] = (),
    saliency: str = "unknown",
) -> WeightMask:
    """Open the weights with the largest scores.

    Exactly floor(ratio d) of d weights are opened, whatever ties there are: of equal scores those
    that come first are taken. So masks of smaller ratios lie inside those of larger ones.

    Args:
        scores: Parameter name -> scores of the parameter's shape, as of `compute_saliency`.
        ratio: Share of the weights to open, above 0 and at most 1.
        scope: Ranked together are "global" all weights, "per_tensor" those of a parameter,
            "per_block" those of a block (all parameters whose names agree up to the first number).
        exclude: Patterns of names, such as "*norm*", of parameters that stay closed and are not
            counted.
        saliency: What the scores are, see `WeightMask`.

    Raises:
        ValueError: A ratio out of range, or so small that nothing is opened; an unknown scope; a
            pattern that fits no name; scores that are not finite.
        TypeError: A ratio that is no number.

    Example:
        >>> scores = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 2.0])}
        >>> make_mask(scores, 0.5).tensors["b"].tolist()
        [True, False]

    Source: Fan et al. 2024 (arXiv 2310.12508), section 4: m = 1(|gradient| >= gamma), gamma being
    the quantile that opens the wanted share. Exact counts and the order of ties are ours.
    """
    check_ratio(ratio)
    check_choice("scope", scope, get_args(Scope))
    ranked = _without_excluded(scores, exclude)
    for name, values in ranked.items():
        if values.numel() and not bool(torch.stack(values.aminmax()).isfinite().all()):
            raise ValueError(
                f"the scores of '{name}' have NaN or infinite values; check the loss and the data."
            )
    opened: dict[str, Tensor] = {}
    for names in _groups(ranked, scope):
        opened |= _open_largest({name: ranked[name] for name in names}, ratio)
    tensors = {
        name: opened[name] if name in opened else torch.zeros(values.shape, dtype=torch.bool)
        for name, values in scores.items()
    }
    mask = WeightMask(tensors, saliency, float(ratio))
    if mask.num_open == 0:
        weights = sum(values.numel() for values in ranked.values())
        raise ValueError(
            f"ratio={ratio} of {weights} weights, ranked {scope}, selects none of them; give "
            "a larger ratio."
        )
    return mask


def _open_largest(scores: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """True at exactly floor(ratio d) places with the largest scores, the first of equal ones."""
    values = {name: _comparable(one) for name, one in scores.items()}
    ranked = np.concatenate([one.reshape(-1) for one in values.values()])
    count = math.floor(ratio * len(ranked))
    if count == 0:
        return {name: torch.zeros(one.shape, dtype=torch.bool) for name, one in values.items()}
    threshold = _largest(ranked, count)
    missing = count - int(np.count_nonzero(ranked > threshold))
    opened = {  # an output of its own, as a comparison of a scalar would give no array
        name: np.greater(one, threshold, out=np.empty(one.shape, dtype=bool))
        for name, one in values.items()
    }
    for name, one in values.items():
        ties = (one == threshold).reshape(-1)
        end = _end_of_first(ties, missing)
        opened[name].reshape(-1)[:end] |= ties[:end]
        missing -= int(np.count_nonzero(ties[:end]))
        if not missing:
            break
    return {name: torch.from_numpy(one) for name, one in opened.items()}


def _comparable(scores: Tensor) -> np.ndarray:
    """Scores in an array that holds them exactly; numpy has no bfloat16."""
    precision = torch.float64 if scores.dtype == torch.float64 else torch.float32
    return scores.detach().to("cpu", precision).contiguous().numpy()


def _largest(scores: np.ndarray, count: int) -> np.floating:
    """The score of rank `count`, the largest having rank 1; reorders the scores."""
    lowest = scores.min()
    above = scores > lowest
    num_above = int(np.count_nonzero(above))
    if num_above < count:
        return lowest
    # Dead units score 0, and a partition among so many equal scores takes five times longer.
    ranked = scores[above] if num_above < 0.9 * len(scores) else scores
    # A partition takes linear time, where a sort would find ranks that nobody needs.
    ranked.partition(len(ranked) - count)
    return ranked[len(ranked) - count]


def _end_of_first(flags: np.ndarray, count: int) -> int:
    """Length of the shortest start of `flags` with `count` of them set; all if it has fewer."""
    start, end = 0, len(flags)
    if np.count_nonzero(flags) <= count:
        return end
    # Halving counts every place twice at most; listing millions of places takes four times longer.
    while end - start > 1:
        middle = (start + end) // 2
        inside = int(np.count_nonzero(flags[start:middle]))
        if inside < count:
            start, count = middle, count - inside
        else:
            end = middle
    return end


def _count(tensor: Tensor) -> int:
    return int(np.count_nonzero(tensor.cpu().numpy()))


def _groups(scores: Mapping[str, Tensor], scope: str) -> Iterator[list[str]]:
    if scope == "global":
        yield list(scores)
        return
    groups: dict[str, list[str]] = {}
    for name in scores:
        groups.setdefault(name if scope == "per_tensor" else block_of(name), []).append(name)
    yield from groups.values()


def block_of(name: str) -> str:
    """The name up to the first number, "encoder.layer.3" of "encoder.layer.3.output.weight"."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdecimal()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else parts[0]


def _without_excluded(scores: Mapping[str, Tensor], exclude: Iterable[str]) -> dict[str, Tensor]:
    patterns = [exclude] if isinstance(exclude, str) else list(exclude)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in scores):
            raise ValueError(
                f"the pattern '{pattern}' in exclude matches no parameter; parameter names "
                f"look like {_some(list(scores))}."
            )
    ranked = {
        name: values
        for name, values in scores.items()
        if not any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    if not ranked:
        raise ValueError("there are no scores to rank; exclude fewer parameters.")
    return ranked


def check_ratio(ratio: float, name: str = "ratio") -> None:
    """Raises TypeError or ValueError unless a share of weights is above 0 and at most 1."""
    if not isinstance(ratio, numbers.Real):
        raise TypeError(f"{name} must be a number above 0 and at most 1, got {ratio!r}.")
    if isinstance(ratio, bool) or not 0 < ratio <= 1:  # NaN too
        raise ValueError(f"{name} must be a share above 0 and at most 1, such as 0.5, got {ratio}.")


def bare_names(names: Iterable[str]) -> list[str]:
    """Names without what wrappers put before all of them.

    Example:
        >>> bare_names(["module.weight", "module.bias"]), bare_names(["module.weight", "bias"])
        (['weight', 'bias'], ['module.weight', 'bias'])
    """
    bare = list(names)
    for prefix in _PREFIXES * 2:  # compiled and then distributed, or the other way round
        # A network may itself have a part called "module": it is a wrapper's if all names have it.
        if all(name.startswith(prefix) for name in bare):
            bare = [name.removeprefix(prefix) for name in bare]
    return bare


def _some(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3]) or "none"
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _packed_digest(packed: Mapping[str, Tensor], shapes: Mapping[str, list[int]]) -> str:
    """SHA-256 over names, shapes and bits."""
    digest = hashlib.sha256(json.dumps(shapes).encode())
    for name in shapes:
        digest.update(packed[name].numpy())
    return digest.hexdigest()


def read_known(path: Path, file_format: str, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file of ours: tensors and metadata.

    Raises:
        FileNotFoundError: There is no file.
        ValueError: It is damaged, or not of the format.
    """
    require_file(path, what)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}.") from None
    if metadata.get("format") != file_format:
        raise ValueError(f"{path} is a safetensors file, but not a {what} written by salhub.")
    return tensors, metadata


def _unpacked(packed: Tensor, shape: list[int]) -> Tensor:
    bits = np.unpackbits(packed.numpy(), count=math.prod(shape))
    return torch.from_numpy(bits.astype(bool)).view(shape)
