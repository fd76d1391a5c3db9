"""A map painted alone or laid over its photo."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from salhub.viz.colormaps import DIVERGING, SEQUENTIAL, colorize

# Values beyond this percentile share the top colour, so that a few spikes do not hide the rest.
TOP_PERCENTILE = 99.5

_UNSEEN_GREY = 226.0
_WHITE = 255.0
# How much of the photo is left where the network did not look.
_UNSEEN_SHARE = 0.3
# Black of the photo under the colours: dark colours must still show on it.
_LIFTED_BLACK = 45.0
# Below 1, so that middle values are seen next to the top ones.
_OPACITY_POWER = 0.7
# Weak values of a signed map tint the photo with this colour: the neutral one would bleach it.
_WEAKEST_TINT = 0.4


def to_unit_range(saliency: np.ndarray, percentile: float = TOP_PERCENTILE) -> np.ndarray:
    """Scale a map to [0, 1] for a colour map.

    A map without negative values is divided by its top value; a signed one goes from -top to top,
    with 0 at 0.5. A map of zeros becomes 0.

    Args:
        saliency: Finite numbers, any shape.
        percentile: The top value is this percentile of the sizes that are not 0, in (0, 100].

    Returns:
        float32 of the same shape.

    Raises:
        ValueError: NaN or infinite values, or a percentile out of range.

    Example:
        >>> to_unit_range(np.array([-2.0, 0.0, 2.0]), percentile=100).tolist()
        [0.0, 0.5, 1.0]
    """
    saliency = np.asarray(saliency, dtype=np.float64)
    if not np.isfinite(saliency).all():
        raise ValueError("The map contains NaN or infinite values and cannot be drawn.")
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be in (0, 100], got {percentile}.")
    sizes = np.abs(saliency[saliency != 0])
    top = np.percentile(sizes, percentile) if sizes.size else 1.0
    scaled = np.clip(saliency / top, -1, 1)
    return (scaled if not is_signed(saliency) else (scaled + 1) / 2).astype(np.float32)


def is_signed(saliency: np.ndarray) -> bool:
    """Whether a map has evidence against, too."""
    return bool(np.min(saliency, initial=0) < 0)


def paint(
    saliency: np.ndarray,
    colormap: str | None = None,
    viewed_box: Sequence[float] | None = None,
) -> Image.Image:
    """Draw a map in colours.

    Args:
        saliency: Shape (H, W).
        colormap: One of `COLORMAPS`; by default sequential, or diverging for a signed map.
        viewed_box: left, top, right, bottom of what the network saw; the rest is drawn grey.

    Returns:
        RGB picture of W x H pixels.

    Raises:
        ValueError: Another shape, or values that cannot be drawn.
    """
    saliency = _checked_map(saliency)
    colors = colorize(to_unit_range(saliency), colormap or _default_colormap(saliency))
    seen = _seen(saliency.shape, viewed_box)
    return _to_image(np.where(seen[..., None], colors, _UNSEEN_GREY))


def overlay(
    image: Image.Image,
    saliency: np.ndarray,
    alpha: float = 0.8,
    colormap: str | None = None,
    viewed_box: Sequence[float] | None = None,
) -> Image.Image:
    """Lay a map over its photo; what matters is coloured, the rest stays grey.

    The photo is drawn without its own colours, and colours are the more opaque the more a pixel
    matters, so that every colour in the picture comes from the map.

    Args:
        image: The photo.
        saliency: Shape (H, W), the size of the photo.
        alpha: Opacity of the strongest colour, in [0, 1].
        colormap: One of `COLORMAPS`; by default sequential, or diverging for a signed map.
        viewed_box: left, top, right, bottom of what the network saw; the rest is faded.

    Returns:
        RGB picture of W x H pixels.

    Raises:
        ValueError: The map is not the size of the photo, or alpha is out of range.

    Example:
        >>> photo = Image.new("RGB", (4, 3))
        >>> overlay(photo, np.ones((3, 4))).size
        (4, 3)
    """
    saliency = _checked_map(saliency)
    if saliency.shape != (image.height, image.width):
        raise ValueError(
            f"The map has shape {saliency.shape} but the photo is {image.height} pixels high and "
            f"{image.width} wide; resize the map with salhub.processing.map_to_picture."
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}.")
    values = to_unit_range(saliency)
    strength = values
    if is_signed(saliency):
        strength = np.abs(2 * values - 1)
        tint = np.copysign(np.maximum(strength, _WEAKEST_TINT), saliency)
        values = (tint + 1) / 2
    colors = colorize(values, colormap or _default_colormap(saliency))
    opacity = alpha * strength[..., None].astype(np.float64) ** _OPACITY_POWER
    grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None]
    lifted = _LIFTED_BLACK + grey * (1 - _LIFTED_BLACK / _WHITE)
    blended = (1 - opacity) * lifted + opacity * colors
    faded = _UNSEEN_SHARE * grey + (1 - _UNSEEN_SHARE) * _WHITE
    seen = _seen(saliency.shape, viewed_box)
    return _to_image(np.where(seen[..., None], blended, faded))


def _checked_map(saliency: np.ndarray) -> np.ndarray:
    saliency = np.asarray(saliency)
    if saliency.ndim != 2 or saliency.size == 0:
        raise ValueError(f"A map must have shape (height, width), got {saliency.shape}.")
    return saliency


def _default_colormap(saliency: np.ndarray) -> str:
    return DIVERGING if is_signed(saliency) else SEQUENTIAL


def _seen(shape: tuple[int, int], viewed_box: Sequence[float] | None) -> np.ndarray:
    """True for the pixels whose centre lies in the box."""
    if viewed_box is None:
        return np.ones(shape, dtype=bool)
    left, top, right, bottom = viewed_box
    rows, columns = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    vertical = (rows >= top) & (rows < bottom)
    return vertical[:, None] & ((columns >= left) & (columns < right))


def _to_image(colors: np.ndarray) -> Image.Image:
    colors = np.broadcast_to(colors, (*colors.shape[:2], 3))
    return Image.fromarray(np.rint(np.clip(colors, 0, 255)).astype(np.uint8))
