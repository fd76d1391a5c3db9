"""Which weights may move: masks made from scores, combined, and kept in a file of one bit each."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from salhub.errors import did_you_mean

SCOPES = ("global", "per_tensor", "per_block")
FILE_NAME = "mask.safetensors"
_FORMAT = "salhub-weight-mask-1"
# What wrappers put before the names of the network inside them.
_PREFIXES = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")


class WeightMask:
    """One bit a weight: True where it may move.

    Args:
        tensors: Parameter name -> bool tensor of the parameter's shape.
        saliency: What the scores were, such as "batch_mean_grad"; for the file and the card.

    Raises:
        TypeError: A tensor that is not boolean.
        ValueError: No tensors.

    Example:
        >>> mask = WeightMask({"weight": torch.tensor([True, False])})
        >>> mask.density(), (~mask).tensors["weight"].tolist()
        (0.5, [False, True])
    """

    def __init__(self, tensors: Mapping[str, Tensor], saliency: str = "unknown") -> None:
        if not tensors:
            raise ValueError("a mask needs the tensors of at least one parameter, got none.")
        for name, tensor in tensors.items():
            if tensor.dtype != torch.bool:
                raise TypeError(f"the mask of '{name}' must be boolean, got {tensor.dtype}.")
        self.tensors = dict(tensors)
        self.saliency = saliency

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
        share their memory need a mask for the first of their names only.

        Args:
            model: The model whose weights it is for.

        Raises:
            KeyError: The model has other parameters.
            ValueError: A parameter has another shape.
        """
        parameters = dict(model.named_parameters())
        mask = self.for_names({name: p.shape for name, p in parameters.items()})
        tensors = {name: mask.tensors[name].to(p.device) for name, p in parameters.items()}
        return WeightMask(tensors, self.saliency)

    def for_names(self, shapes: Mapping[str, torch.Size]) -> "WeightMask":
        """The mask under other names for the same parameters, in their order.

        Args:
            shapes: Parameter name -> shape.

        Raises:
            KeyError: Other parameters.
            ValueError: A parameter of another shape.
        """
        own = {_bare(name): tensor for name, tensor in self.tensors.items()}
        wanted = {_bare(name): name for name in shapes}
        missing, unexpected = sorted(wanted.keys() - own), sorted(own.keys() - wanted)
        if missing or unexpected:
            raise KeyError(
                f"the mask is of another model: it lacks {_some(missing)} and has "
                f"{_some(unexpected)} too many; make a mask of this model."
            )
        for bare, name in wanted.items():
            if own[bare].shape != shapes[name]:
                raise ValueError(
                    f"the mask of '{name}' has shape {tuple(own[bare].shape)}, and the parameter "
                    f"{tuple(shapes[name])}; make a mask of this model."
                )
        return WeightMask({name: own[bare] for bare, name in wanted.items()}, self.saliency)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `mask.safetensors`, one bit a weight; a reader sees it whole or not at all.

        Args:
            folder: Where to; made when it does not exist.

        Returns:
            The file.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        packed = {
            name: torch.from_numpy(np.packbits(tensor.cpu().numpy().reshape(-1)))
            for name, tensor in self.tensors.items()
        }
        shapes = {name: list(tensor.shape) for name, tensor in self.tensors.items()}
        metadata = {"format": _FORMAT, "saliency": self.saliency, "shapes": json.dumps(shapes)}
        target = folder / FILE_NAME
        draft = folder / f".{FILE_NAME}.draft"
        save_file(packed, draft, metadata=metadata)
        draft.replace(target)
        return target

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "WeightMask":
        """Read a mask from a folder or a file.

        Raises:
            FileNotFoundError: There is none.
            ValueError: The file is damaged, or no mask.
        """
        path = Path(path)
        path = path / FILE_NAME if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"There is no mask at {path}.")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or no safetensors file: {error}.") from None
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"{path} is a safetensors file, but no mask that salhub has written.")
        shapes = json.loads(metadata["shapes"])
        # The file is sorted by name; the order of the parameters stands in the metadata.
        tensors = {name: _unpacked(packed[name], shape) for name, shape in shapes.items()}
        return cls(tensors, metadata["saliency"])


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
    _check_ratio(ratio)
    if scope not in SCOPES:
        raise ValueError(
            f"scope must be one of {', '.join(SCOPES)}, got {scope!r}.{did_you_mean(scope, SCOPES)}"
        )
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
    mask = WeightMask(tensors, saliency)
    if mask.num_open == 0:
        weights = sum(values.numel() for values in ranked.values())
        raise ValueError(
            f"ratio={ratio} of {weights} weights, ranked {scope}, opens none of them; give a "
            "larger ratio."
        )
    return mask


def _open_largest(scores: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """True at exactly floor(ratio d) places with the largest scores, the first of equal ones."""
    values = {name: one.detach().float().cpu() for name, one in scores.items()}
    ranked = torch.cat([one.reshape(-1) for one in values.values()]).numpy()
    count = math.floor(ratio * len(ranked))
    if count == 0:
        return {name: torch.zeros(one.shape, dtype=torch.bool) for name, one in values.items()}
    # A partition takes linear time, where a sort would find ranks that nobody needs.
    ranked.partition(len(ranked) - count)
    threshold = float(ranked[len(ranked) - count])
    opened = {name: one > threshold for name, one in values.items()}
    missing = count - sum(map(_count, opened.values()))
    for name, one in values.items():
        ties = np.flatnonzero((one == threshold).numpy())[:missing]
        opened[name].view(-1)[ties] = True
        missing -= len(ties)
    return opened


def _count(tensor: Tensor) -> int:
    return int(torch.count_nonzero(tensor))


def _groups(scores: Mapping[str, Tensor], scope: str) -> Iterator[list[str]]:
    if scope == "global":
        yield list(scores)
        return
    groups: dict[str, list[str]] = {}
    for name in scores:
        groups.setdefault(name if scope == "per_tensor" else _block(name), []).append(name)
    yield from groups.values()


def _block(name: str) -> str:
    """The name up to the first number, "encoder.layer.3" of "encoder.layer.3.output.weight"."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdecimal()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else parts[0]


def _without_excluded(scores: Mapping[str, Tensor], exclude: Iterable[str]) -> dict[str, Tensor]:
    patterns = [exclude] if isinstance(exclude, str) else list(exclude)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in scores):
            raise ValueError(
                f"exclude has '{pattern}', which fits no parameter; names are such as "
                f"{_some(list(scores))}."
            )
    ranked = {
        name: values
        for name, values in scores.items()
        if not any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    if not ranked:
        raise ValueError("there are no scores to rank; exclude fewer parameters.")
    return ranked


def _check_ratio(ratio: float) -> None:
    if isinstance(ratio, bool) or not isinstance(ratio, int | float):
        raise TypeError(f"ratio must be a number above 0 and at most 1, got {ratio!r}.")
    if 1 < ratio <= 100:
        raise ValueError(
            f"ratio is a share above 0 and at most 1, got {ratio}; for {ratio} % give "
            f"{ratio / 100:g}."
        )
    if not 0 < ratio <= 1:  # NaN too
        raise ValueError(f"ratio must be above 0 and at most 1, got {ratio}.")


def _bare(name: str) -> str:
    """A name without what wrappers put before it."""
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return _bare(name.removeprefix(prefix))
    return name


def _some(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3]) or "none"
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _unpacked(packed: Tensor, shape: list[int]) -> Tensor:
    bits = np.unpackbits(packed.numpy(), count=math.prod(shape))
    return torch.from_numpy(bits.astype(bool)).view(shape)
