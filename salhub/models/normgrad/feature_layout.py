"""Where the positions of a layer's output are: feature maps, channels-last maps, or tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

# Class, distillation and register tokens stand before the patches; no known network has more.
MAX_PREFIX_TOKENS = 16
# Nearly every number is a square plus some tokens: more than these need a stride that divides.
MAX_UNCONFIRMED_PREFIX = 2


class NoPositionsError(ValueError):
    """A layer's output has no positions for a picture of this size."""


class TransformError(ValueError):
    """The user's `reshape_transform` does not work for a layer."""


@dataclass(frozen=True)
class Layout:
    """How to read a layer's output as a grid.

    Args:
        kind: "channels_first" (B, K, H, W), "channels_last" (B, H, W, K), "tokens" (B, N, K) or
            "custom" (through a function).
        grid: (H, W).
        prefix_tokens: Tokens before the patches, which have no position.
        transform: For "custom": output (B, ...) to (B, K, H, W).
        output_axes: For "custom": number of axes of the output, batch included.
        name: For "custom": the layer, for errors.
    """

    kind: str
    grid: tuple[int, int]
    prefix_tokens: int = 0
    transform: Callable[[Tensor], Tensor] | None = None
    output_axes: int = 4
    name: str = ""

    def fold(self, values: Tensor) -> Tensor:
        """Returns (..., K, H, W) of a layer's output, or of a gradient with a leading axis."""
        if self.kind == "custom":
            return self._fold_custom(values)
        if self.kind == "channels_last":
            return values.movedim(-1, -3)
        if self.kind == "tokens":
            patches = values[..., self.prefix_tokens :, :]
            return patches.movedim(-1, -2).unflatten(-1, self.grid)
        return values

    def _fold_custom(self, values: Tensor) -> Tensor:
        if values.ndim == self.output_axes + 1:
            return self._fold_custom(values.flatten(0, 1)).unflatten(0, values.shape[:2])
        try:
            folded = self.transform(values)
        except Exception as error:  # whatever the user's function may raise
            raise TransformError(
                f"model.reshape_transform failed at layer '{self.name}' for an output of shape "
                f"{tuple(values.shape)} ({type(error).__name__}: {error}); it must return "
                "(B, channels, height, width)."
            ) from error
        if not isinstance(folded, Tensor) or folded.ndim != 4 or len(folded) != len(values):
            found = tuple(folded.shape) if isinstance(folded, Tensor) else type(folded).__name__
            raise TransformError(
                f"model.reshape_transform must return (B, channels, height, width), got {found} "
                f"at layer '{self.name}' for an output of shape {tuple(values.shape)}."
            )
        return folded


def infer_layout(
    name: str,
    shape: tuple[int, ...],
    image_size: tuple[int, int],
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
) -> Layout:
    """Reads the layout of a layer's output from its shape and the picture's.

    A network with a patch or stride of p has a grid of about (H/p, W/p) positions; the grid is the
    one that fits, with as few tokens before the patches as possible.

    Args:
        name: The layer, for the error.
        shape: Shape of its output, batch first.
        image_size: (height, width) of the picture in pixels.
        reshape_transform: Overrides the inference: output (B, ...) to (B, K, H, W).

    Raises:
        NoPositionsError: The output has no positions.

    Example:
        >>> infer_layout("vit.layers.10", (1, 197, 768), (224, 224)).grid
        (14, 14)
    """
    if reshape_transform is not None:
        return Layout("custom", (0, 0), 0, reshape_transform, len(shape), name)
    if len(shape) == 4:
        return _map_layout(shape, image_size)
    if len(shape) == 3:
        for prefix in range(min(MAX_PREFIX_TOKENS, shape[1] - 1) + 1):
            grids = _grids(*image_size, divides=prefix > MAX_UNCONFIRMED_PREFIX)
            if shape[1] - prefix in grids:
                return Layout("tokens", grids[shape[1] - prefix], prefix)
    raise NoPositionsError(
        f"layer '{name}' returns shape {tuple(shape)}, which has no positions; choose a "
        "layer with (batch, channels, height, width) or patch tokens, or set "
        "model.reshape_transform to a function that reshapes it to (batch, channels, "
        "height, width)."
    )


def _map_layout(shape: tuple[int, ...], image_size: tuple[int, int]) -> Layout:
    grids = set(_grids(*image_size).values())
    first, last = tuple(shape[2:]), tuple(shape[1:3])
    if first not in grids and last in grids:
        return Layout("channels_last", last)
    return Layout("channels_first", first)


@lru_cache(maxsize=64)
def _grids(height: int, width: int, divides: bool = False) -> dict[int, tuple[int, int]]:
    """Number of positions -> grid, for every stride; strides that divide the picture first."""
    strides = range(1, min(height, width) + 1)
    exact = [(height // p, width // p) for p in strides if height % p == 0 and width % p == 0]
    floor = [(height // p, width // p) for p in strides]
    ceiling = [(-(-height // p), -(-width // p)) for p in strides]
    grids: dict[int, tuple[int, int]] = {}
    for rows, columns in exact if divides else (*exact, *floor, *ceiling):
        grids.setdefault(rows * columns, (rows, columns))
    return grids
