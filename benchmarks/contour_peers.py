"""The segmenters of scikit-image, called as its documentation does, on batches of pictures."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

OTSU, CHAN_VESE = "scikit-image Otsu", "scikit-image chan_vese"
MORPHOLOGICAL = "scikit-image morphological_chan_vese"
GEODESIC = "scikit-image morphological GAC"


def peer_segmenters() -> dict[str, Callable[[Tensor], np.ndarray]]:
    """Each takes grey pictures (B, 1, H, W) in 0..255 and gives masks, bool (B, H, W)."""
    single = {
        OTSU: otsu,
        CHAN_VESE: chan_vese,
        MORPHOLOGICAL: morphological_chan_vese,
        GEODESIC: geodesic,
    }
    return {name: one_by_one(segment) for name, segment in single.items()}


def one_by_one(segment: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensor], np.ndarray]:
    """What works on a picture, on a batch."""

    def run(pictures: Tensor) -> np.ndarray:
        return np.stack([segment(one[0].numpy().astype(np.float64) / 255) for one in pictures])

    return run


def otsu(image: np.ndarray) -> np.ndarray:
    """Brighter than Otsu's threshold."""
    from skimage.filters import threshold_otsu

    return image > threshold_otsu(image)


def chan_vese(image: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """100 iterations at mu=0.05, which is better on the suite than its default of 0.25."""
    from skimage.segmentation import chan_vese as segment

    begun = "checkerboard" if start is None else np.where(start, 1.0, -1.0)
    return segment(image, mu=0.05, max_num_iter=100, init_level_set=begun)


def morphological_chan_vese(image: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """60 iterations from a checkerboard."""
    from skimage.segmentation import morphological_chan_vese as segment

    begun = "checkerboard" if start is None else start.astype(np.int8)
    return segment(image, 60, init_level_set=begun) > 0


def geodesic(image: np.ndarray) -> np.ndarray:
    """120 iterations that shrink from a frame, on the inverted gradient."""
    from skimage.segmentation import inverse_gaussian_gradient
    from skimage.segmentation import morphological_geodesic_active_contour as segment

    start = np.zeros(image.shape, dtype=np.int8)
    start[2:-2, 2:-2] = 1
    # As many pixels can be crossed as there are iterations.
    steps = max(120, round(120 * max(image.shape) / 128))
    found = segment(inverse_gaussian_gradient(image), steps, init_level_set=start, balloon=-1)
    return found > 0
