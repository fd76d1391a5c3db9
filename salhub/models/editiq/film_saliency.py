"""Where a film draws the eye, as shares of its people; one picture is in memory at a time."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter

from salhub.models.editiq.configuration_editiq import OWN_SALIENCY, EditIQConfig
from salhub.models.editiq.dialogue_potential import compose
from salhub.models.editiq.frame_source import FrameSource
from salhub.ops.spectral_residual import spectral_residual
from salhub.pipelines.saliency_network import SaliencyNetwork

# Takes a picture (h, w, 3) RGB, uint8, and the one before, and gives a map (h, w).
PictureSaliency = Callable[[np.ndarray], np.ndarray]
_MOTION, _CONTRAST, _PERSON = 0.65, 0.15, 0.2
_RESIDUAL_SIZE = 64
# Deviations of the noise that are no motion.
_NOISES = 3.0
# The decay of maps counts for so many of them a second.
_DECAY_RATE = 5.0


class ActorSaliency(NamedTuple):
    """What share of the eye each person draws.

    Args:
        shares: (A, S) in [0, 1]; they sum to 1 where anybody is there.
        kept: (A, S) share of the whole map's mass in each box.
        times: (S,) in seconds.
    """

    shares: np.ndarray
    kept: np.ndarray
    times: np.ndarray


class MotionContrast:
    """Motion at three scales and contrast beyond what is usual; no weights.

    Args:
        decay: Share of the map before that is kept.

    Source: the spectral residual is that of Hou and Zhang 2007 (CVPR); the rest is our choice.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._before: np.ndarray | None = None
        self._map: np.ndarray | None = None

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """The map of the next picture (h, w, 3), (h, w) of sum 1."""
        grey = picture.astype(np.float32).mean(2)
        now = _CONTRAST * _to_one(self._contrast(grey))
        if self._before is not None:
            now = now + _MOTION * _to_one(self._motion(grey - self._before))
        self._before = grey
        fresh = _to_one(now)
        old = fresh if self._map is None else self._map
        self._map = self.decay * old + (1 - self.decay) * fresh
        return self._map

    def _motion(self, change: np.ndarray) -> np.ndarray:
        # Light that changes everywhere is no motion.
        change = change - np.median(change)
        found = np.zeros_like(change)
        for scale in (0, 1, 2):
            smooth = uniform_filter(change, 2**scale + 1) if scale else change
            noise = 1.4826 * float(np.median(np.abs(smooth)))
            found += np.maximum(np.abs(smooth) - _NOISES * max(noise, 0.25), 0)
        return found

    def _contrast(self, grey: np.ndarray) -> np.ndarray:
        small = Image.fromarray(grey).resize((_RESIDUAL_SIZE,) * 2, Image.Resampling.BILINEAR)
        energy = spectral_residual(torch.from_numpy(np.asarray(small).copy())[None])[0].numpy()
        smooth = Image.fromarray(gaussian_filter(energy, 2.5))
        shape = grey.shape[::-1]
        return np.maximum(np.asarray(smooth.resize(shape, Image.Resampling.BILINEAR)), 0)


class NetworkSaliency:
    """An image saliency model of the hub, by name.

    Args:
        name: As of `SaliencyNetwork`.
        decay: Share of the map before that is kept.
        device: Where it runs.
    """

    def __init__(self, name: str, decay: float, device: object = "cpu") -> None:
        self.network, self.decay = SaliencyNetwork(name, device), decay
        self._map: np.ndarray | None = None

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """The map of the next picture (h, w, 3), (h, w) of sum 1."""
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float()
        fresh = _to_one(self.network(pixels)[0].cpu().numpy())
        old = fresh if self._map is None else self._map
        self._map = self.decay * old + (1 - self.decay) * fresh
        return self._map


def saliency_of_film(
    film: FrameSource,
    boxes: np.ndarray,
    config: EditIQConfig,
    saliency: str | PictureSaliency | np.ndarray,
    *,
    device: object = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> ActorSaliency:
    """Pass over a film once and measure what its people draw of the eye.

    Args:
        film: The film.
        boxes: (A, T, 4) of people, NaN where they are away.
        config: Rate and size of the maps.
        saliency: "motion+contrast", "none", the name of a model, a function from a picture to its
            map, or maps (S, h, w) that are spread evenly over the film.
        device: Where a model runs.
        progress: Called with pictures done, and all of them.

    Raises:
        ValueError: Maps of another shape, negative ones, or ones that are no numbers.
    """
    rate = float(film.frame_rate)
    if isinstance(saliency, np.ndarray):
        return _of_maps(saliency, film, boxes, progress)
    if isinstance(saliency, str) and saliency == "none":
        there = np.isfinite(boxes).all(2)[:, :1]
        return ActorSaliency(there / max(1, there.sum()), 0.0 * there, np.zeros(1))
    step = max(1, round(rate / config.saliency_rate))
    decay = float(config.saliency_decay) ** (_DECAY_RATE * step / rate)
    function = _function(saliency, decay, device)
    has_prior = isinstance(function, MotionContrast)
    total = len(range(0, film.num_frames, step))
    columns, times = [], []
    for frame, picture in film.frames(config.saliency_width, step=step):
        found = _checked(function(picture), picture.shape[:2])
        columns.append(_masses(found, boxes[:, frame], film.size, has_prior))
        times.append(frame / rate)
        if progress is not None:
            progress(len(times), total)
    return _shares(columns, np.array(times))


def potentials_of(
    measured: ActorSaliency,
    shots: tuple,
    names: tuple[str, ...],
    composition: str,
    rate: float,
    num_frames: int,
    sharpness: float = 1.0,
) -> np.ndarray:
    """The worth of every shot by the shares of its actors, (R, T); the wide one by their evenness.

    Args:
        measured: What people draw of the eye.
        shots: R shots.
        names: Of the actors.
        composition: As of `dialogue_potential.compose`.
        rate: Frames a second.
        num_frames: T.
        sharpness: Power that the shares are raised to first.
    """
    clock = np.arange(num_frames) / rate
    shares = np.stack([np.interp(clock, measured.times, row) for row in measured.shares])
    shares = shares**sharpness / np.maximum((shares**sharpness).sum(0), 1e-12)
    safe = np.maximum(shares, 1e-12)
    evenness = -(safe * np.log(safe)).sum(0) / np.log(max(2, len(names)))
    return compose(shares, np.clip(evenness, 0, 1), shots, names, composition)


def check_saliency(name: str) -> None:
    """Refuse a model that is not there, before a film is read.

    Raises:
        ModelNotFoundError, ValueError: As of `SaliencyNetwork`.
    """
    if name not in OWN_SALIENCY:
        SaliencyNetwork(name)


def check_maps(maps: np.ndarray) -> None:
    """Refuse what cannot be maps of a film.

    Raises:
        ValueError: Another shape, negative values, or ones that are no numbers.
    """
    if maps.ndim != 3 or not maps.size:
        raise ValueError(
            f"Saliency maps have the shape {maps.shape}; expected (maps, height, width), spread "
            "evenly over the film."
        )
    for one in maps:
        _checked(one, maps.shape[1:])


def _function(saliency: str | PictureSaliency, decay: float, device: object) -> PictureSaliency:
    if not isinstance(saliency, str):
        return saliency
    if saliency == "motion+contrast":
        return MotionContrast(decay)
    return NetworkSaliency(saliency, decay, device)


def _checked(found: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    found = np.asarray(found, dtype=np.float64)
    if found.ndim != 2 or not np.isfinite(found).all() or (found < 0).any():
        raise ValueError(
            f"A saliency map has the shape {found.shape} or has negative or invalid values; "
            f"expected {shape[0]} x {shape[1]} numbers of 0 or more."
        )
    return found


def _masses(
    found: np.ndarray, boxes: np.ndarray, size: tuple[int, int], has_prior: bool
) -> np.ndarray:
    """Share of a map's mass in each box, (A,), with a prior that is the same for all people."""
    height, width = found.shape
    scale = np.array([width / size[0], height / size[1]] * 2)
    total = max(float(found.sum()), 1e-12)
    masses = np.zeros(len(boxes))
    for actor, box in enumerate(boxes):
        if np.isfinite(box).all():
            x1, y1, x2, y2 = box * scale
            rows = slice(int(y1), max(int(y1) + 1, int(np.ceil(y2))))
            columns = slice(int(x1), max(int(x1) + 1, int(np.ceil(x2))))
            masses[actor] = float(found[rows, columns].sum()) / total
    if has_prior:
        there = np.isfinite(boxes).all(1)
        masses = masses + there * _PERSON / max(1, there.sum())
        masses /= 1 + _PERSON
    return masses


def _shares(columns: list[np.ndarray], times: np.ndarray) -> ActorSaliency:
    kept = np.stack(columns, axis=1)
    total = kept.sum(0)
    shares = np.where(total > 1e-9, kept / np.maximum(total, 1e-9), 1 / len(kept))
    return ActorSaliency(shares, kept, times)


def _of_maps(maps: np.ndarray, film: FrameSource, boxes: np.ndarray, progress) -> ActorSaliency:
    check_maps(maps)
    frames = np.linspace(0, film.num_frames - 1, len(maps)).round().astype(int)
    columns = []
    for number, (frame, one) in enumerate(zip(frames, maps, strict=True), 1):
        columns.append(
            _masses(_checked(one, maps.shape[1:]), boxes[:, frame], film.size, has_prior=False)
        )
        if progress is not None:
            progress(number, len(maps))
    return _shares(columns, frames / float(film.frame_rate))


def _to_one(values: np.ndarray) -> np.ndarray:
    total = float(values.sum())
    return values / total if total > 1e-9 else np.full_like(values, 1 / values.size)
