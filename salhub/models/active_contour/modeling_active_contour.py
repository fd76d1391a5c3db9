"""A contour that closes in on what is salient, for one object or several alike; no training."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils import ModelOutput

from salhub.modeling import LearnedSettingsModel
from salhub.models.active_contour.configuration_active_contour import (
    LEARNED,
    SALIENCY_KINDS,
    SaliencyActiveContourConfig,
)
from salhub.models.active_contour.contour_lines import contour_lines
from salhub.models.active_contour.evolution import FLAT, LIMIT, Drive, check_window, evolve
from salhub.models.active_contour.initial_contours import initial_level_set, level_set_of
from salhub.models.active_contour.preparation import Prepared, prepare
from salhub.models.active_contour.saliency_maps import two_classes
from salhub.pipelines.saliency_network import SaliencyNetwork

# Soft Dice is taken of a step of this width, so that pixels near the contour learn.
_LOSS_EPSILON = 0.5
# The same of a phi that is kept in bounds, as a share of the bound.
_LOSS_SHARE = 0.2
_NO_OBJECT = 2**-7
# How many times more a map weighs that was given or is a network's.
_HANDED_OVER = 2.0


@dataclass
class ActiveContourOutput(ModelOutput):
    """Where the object is, and how it was found.

    Args:
        loss: Soft Dice loss, (), when labels were given.
        masks: True for the foreground, bool (B, H, W).
        level_set: Negative inside the foreground, (B, H, W), float32, or float64 for such pictures
            where restoration is off; of two level sets, -1 in all regions but the least salient
            and 1 there.
        saliency: The map that drove the contour, float32 (B, H, W) in [0, 1].
        energy: Before the last step of each check, (B, T); after the end of a picture its last one.
            It falls in "rsf", "chan_vese" and "lif_paper". In "tuned" it may rise: the force of the
            edges is divided by the contrast of each window, and is the slope of no energy.
        iterations: Steps of each picture, int64 (B,).
        converged: False where it ended at `max_iterations` or the picture is flat, bool (B,).
        reasons: Why each stopped, a tuple of B texts.
        contours: A list a picture of polylines (N, 2) of row and column, see `contour_lines`.
        labels_map: Regions 0 to 3 by rising saliency, int64 (B, H, W), for num_phases=2.
        notes: What was guessed, changed or is unsure, a tuple of texts a picture.
    """

    loss: Tensor | None = None
    masks: Tensor | None = None
    level_set: Tensor | None = None
    saliency: Tensor | None = None
    energy: Tensor | None = None
    iterations: Tensor | None = None
    converged: Tensor | None = None
    reasons: tuple | None = None
    contours: tuple | None = None
    labels_map: Tensor | None = None
    notes: tuple | None = None


class SaliencyActiveContourForSegmentation(LearnedSettingsModel):
    """Segments the salient objects of pictures with a level set.

    The weights of the energy are its parameters, so that they can be learned: in training mode, and
    where there are `labels`, which give a soft Dice loss, gradients pass through the descent, or
    its last `gradient_steps`: through many steps of "plain" and "lif" they explode. They pass the
    bound of phi as if it were not there. Otherwise nothing is recorded, as it would be much.

    Example:
        >>> import torch
        >>> picture = torch.full((1, 1, 64, 64), 60.0)
        >>> picture[..., 20:40, 20:40] = 180
        >>> model = SaliencyActiveContourForSegmentation(SaliencyActiveContourConfig()).eval()
        >>> int(model(picture).masks.sum())
        400

    Source: "Saliency-Driven Active Contour Model for Image Segmentation" (arXiv 2205.11063).
    """

    config: SaliencyActiveContourConfig
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    learned_settings = LEARNED

    def __init__(self, config: SaliencyActiveContourConfig) -> None:
        super().__init__(config)
        self._network: SaliencyNetwork | None = None
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        saliency: Tensor | None = None,
        init_level_set: Tensor | None = None,
        labels: Tensor | None = None,
        iter_callback: Callable[[int, Tensor], None] | None = None,
        callback_every: int = 5,
        gradient_steps: int | None = None,
    ) -> ActiveContourOutput:
        """Segment pictures.

        Args:
            pixel_values: (B, C, H, W) in 0..255, C 1 or 3, floating point.
            saliency: (B, H, W) in [0, 1], in place of the map that the configuration names.
            init_level_set: First contour: a mask (B, H, W), True inside, or a level set, negative
                inside; with num_phases=2, (B, 2, H, W), or the first of the two alone. By default
                what the configuration names.
            labels: Masks (B, H, W), bool, for the loss.
            iter_callback: Called with the number of iterations and the level sets (B, H, W), which
                are not yet turned so that the foreground is negative; (B, 2, H, W) of two.
            callback_every: Iterations between calls.
            gradient_steps: Steps at the end that gradients pass through; None for all of them.

        Returns:
            `ActiveContourOutput`.

        Raises:
            TypeError: Pictures that are no floating-point numbers.
            ValueError: Another shape or range, a picture smaller than the window, or a first
                contour without inside or outside.
        """
        config = self.config
        pixel_values = _checked_pictures(pixel_values)
        batch, _, height, width = pixel_values.shape
        saliency = self._checked_saliency(saliency, pixel_values)
        _check_labels(labels, pixel_values)
        start = self._checked_start(init_level_set, pixel_values)
        is_given = saliency is not None
        records = torch.is_grad_enabled() and (self.training or labels is not None)
        # Nothing of the picture is learned from, so that it is prepared once and for all.
        with torch.no_grad():
            flat = pixel_values.flatten(1)
            is_flat = flat.max(1).values - flat.min(1).values < _NO_OBJECT
            prepared = self._prepared(pixel_values.float(), saliency)
            saliency, picture = prepared.saliency, prepared.picture
            if start is None:
                start = self._start(prepared.salient)
            if prepared.restoration is None:
                picture = pixel_values
        with torch.set_grad_enabled(records):
            weights = {name: getattr(self, name).to(picture.dtype) for name in LEARNED}
            if config.sigma_unit == "relative":
                weights["sigma"] = weights["sigma"] * (max(height, width) / 128)
            if config.local_energy in ("lif", "rsf") or config.saliency_scope != "global":
                check_window(float(weights["sigma"].detach()), (height, width))
            if prepared.is_handed_over and config.schedule == "two_stage":
                # Such a map says what is wanted, and not only where to begin.
                weights["alpha"] = _HANDED_OVER * weights["alpha"]
            if config.force_scale == "contrast":
                # Only differences count, and small numbers lose fewer digits.
                picture = picture - picture.mean((2, 3), keepdim=True)
            parts = (255 * saliency, prepared.odds, prepared.contrast, prepared.zeta)
            drive = Drive(picture, *(part.to(picture.dtype) for part in parts), weights)
            went = evolve(
                config,
                drive,
                config.initial_height * start.to(picture.dtype),
                stops_early=not self.training,
                callback=iter_callback,
                callback_every=callback_every,
                gradient_steps=gradient_steps,
            )
            phi, labels_map = self._oriented(went.level_set, saliency)
            loss = None if labels is None else _soft_dice(phi, labels, config.bound)
        notes, unused = [], self._unused(pixel_values.shape[1] > 1, is_given)
        for index in range(batch):
            said = prepared.restoration.notes(index) if prepared.restoration else []
            said += unused
            if bool(is_flat[index]):
                went.reasons[index] = FLAT
                said = ["The picture has only one tone, so there is nothing to find."]
            elif bool(prepared.is_unsure[index]):
                said.append(
                    "Bright and dark objects are equally likely here; set polarity='bright' or "
                    "'dark'."
                )
            elif float(prepared.left_out[index]):
                other = "brighter" if prepared.left_out[index] > 0 else "darker"
                said.append(
                    f"Objects {other} than the background were left out; set polarity='both' "
                    "to include them."
                )
            notes.append(said)
        phi = torch.where(is_flat[:, None, None], phi.detach().abs() + 1, phi)
        masks = phi < 0
        inside = masks.flatten(1).float().mean(1)
        for index in range(batch):
            if not bool(is_flat[index]):
                notes[index] += self._doubts(went, index, float(inside[index]))
        return ActiveContourOutput(
            loss=loss,
            masks=masks,
            level_set=phi,
            saliency=saliency,
            energy=went.energy,
            iterations=torch.where(is_flat, 0, went.iterations),
            converged=went.converged & ~is_flat,
            reasons=tuple(went.reasons),
            contours=tuple(contour_lines(one) for one in phi.detach().cpu().numpy()),
            labels_map=labels_map,
            notes=tuple(map(tuple, notes)),
        )

    # --- what drives it ---------------------------------------------------------------------------

    @torch.no_grad()
    def salient(self, pixel_values: Tensor, rule: str | None = None) -> Tensor:
        """Where the map alone says the object is, with no evolution; bool (B, H, W).

        Args:
            pixel_values: As in `forward`.
            rule: "minimum_error" or "otsu"; by default that which the contour starts from.
        """
        prepared = self._prepared(_checked_pictures(pixel_values).float(), None)
        if rule is None:
            return prepared.salient
        threshold = two_classes(prepared.saliency, rule).threshold
        return prepared.saliency > threshold[:, None, None]

    def _prepared(self, pictures: Tensor, given: Tensor | None) -> Prepared:
        kind = self.config.saliency
        if given is None and kind not in SALIENCY_KINDS:
            if self._network is None or self._network.name != kind:
                self._network = SaliencyNetwork(kind, pictures.device)
            given = self._network(pictures).float()
        return prepare(self.config, pictures, given)

    def _start(self, salient: Tensor) -> Tensor:
        """The first level sets that the configuration names, (B, P, H, W)."""
        kind, (height, width) = self.config.init, salient.shape[-2:]
        if kind != "saliency":
            first = initial_level_set(kind, (height, width)).to(salient.device)
            first = first.expand(len(salient), height, width)
        else:
            first = 1 - 2 * salient.float()
        return self._all_phases(first)

    def _all_phases(self, first: Tensor) -> Tensor:
        """Level sets (B, P, H, W) of the first ones, (B, H, W)."""
        if self.config.num_phases == 1:
            return first[:, None]
        height, width = first.shape[-2:]
        second = initial_level_set("checkerboard", (height, width)).to(first)
        # Two alike would stay alike.
        shifted = second.roll((height // 16, width // 16), (0, 1))
        is_same = (first == second).flatten(1).all(1)[:, None, None]
        return torch.stack([first, torch.where(is_same, shifted, second)], 1)

    # --- what came of it --------------------------------------------------------------------------

    def _oriented(self, phi: Tensor, saliency: Tensor) -> tuple[Tensor, Tensor | None]:
        """Turn level sets so that the more salient side is negative; (B, H, W)."""
        if phi.shape[1] == 1:
            phi = phi[:, 0]
            inside = (phi < 0).float()
            outside = 1 - inside
            salient = [
                (saliency * side).sum((1, 2)) / side.sum((1, 2)).clamp(min=1)
                for side in (inside, outside)
            ]
            is_turned = (salient[0] < salient[1]) & (inside.sum((1, 2)) > 0)
            is_turned = is_turned & (outside.sum((1, 2)) > 0)
            if self.config.invert:
                is_turned = ~is_turned
            return torch.where(is_turned[:, None, None], -phi, phi), None
        region = 2 * (phi[:, 0] < 0).long() + (phi[:, 1] < 0).long()
        means = []
        for number in range(4):
            side = (region == number).float()
            mean = (saliency * side).sum((1, 2)) / side.sum((1, 2)).clamp(min=1)
            means.append(torch.where(side.sum((1, 2)) > 0, mean, torch.inf))
        rank = torch.stack(means, 1).argsort(1).argsort(1)
        labels_map = rank.gather(1, region.flatten(1)).reshape(region.shape)
        is_inside = labels_map > 0
        if self.config.invert:
            is_inside = ~is_inside
        return 1 - 2 * is_inside.float(), labels_map

    def _unused(self, is_colored: bool, is_given: bool) -> list[str]:
        """What was set and had no part."""
        config, said = self.config, []
        if is_given and config.saliency not in (SaliencyActiveContourConfig.saliency, "tensor"):
            said.append(f"saliency='{config.saliency}' was not used, because you gave a map.")
        if config.polarity != "auto" and (is_given or is_colored or config.saliency != "border"):
            said.append(
                f"polarity='{config.polarity}' was not used: it only applies to grey "
                "pictures without a map, with saliency='border'."
            )
        return said

    def _doubts(self, went: Any, index: int, share: float) -> list[str]:
        said = []
        config = self.config
        both = config.schedule == "two_stage" and config.alpha > 0 and config.beta > 0
        if both and int(went.iterations[index]) <= config.saliency_steps:
            said.append(
                f"The edges were not used, because saliency_steps={config.saliency_steps} "
                f"come first and max_iterations is {config.max_iterations}."
            )
        if went.reasons[index] == LIMIT:
            said.append(
                f"The contour was still moving after {self.config.max_iterations} "
                "iterations; raise max_iterations."
            )
        if share in (0.0, 1.0):
            what = "Nothing" if share == 0 else "Everything"
            said.append(f"{what} is foreground, so there is no contour.")
        elif share > 0.5:
            said.append("More than half of the picture is foreground; invert=True swaps the sides.")
        return said

    # --- checks -----------------------------------------------------------------------------------

    def _checked_saliency(self, saliency: Any, pictures: Tensor) -> Tensor | None:
        kind = self.config.saliency
        if saliency is None:
            if kind == "tensor":
                raise ValueError("saliency='tensor' needs a map: give saliency=... with the call.")
            return None
        saliency = torch.as_tensor(np.asarray(saliency) if isinstance(saliency, list) else saliency)
        saliency = saliency.to(pictures.device).float()
        if saliency.ndim == 2 and len(pictures) == 1:
            saliency = saliency[None]
        expected = (len(pictures), *pictures.shape[-2:])
        if saliency.shape != expected:
            raise ValueError(
                f"saliency must have the pictures' shape {expected}, got {tuple(saliency.shape)}; "
                "resize it first."
            )
        low, high = float(saliency.min()), float(saliency.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"saliency must be in [0, 1], got {low:.3g} to {high:.3g}; scale it first."
            )
        return saliency

    def _checked_start(self, start: Any, pictures: Tensor) -> Tensor | None:
        if start is None:
            return None
        start = torch.as_tensor(start).to(pictures.device)
        size, phases = tuple(pictures.shape[-2:]), self.config.num_phases
        if start.ndim == 2:
            start = start.expand(len(pictures), *start.shape)
        expected = (len(pictures), *size)
        is_whole = phases > 1 and start.shape == (len(pictures), phases, *size)
        if start.shape != expected and not is_whole:
            raise ValueError(f"init_level_set must be {expected}, got {tuple(start.shape)}.")
        if start.is_floating_point():
            level_set_of(start < 0)
            if not bool(start.isfinite().all()):
                raise ValueError("init_level_set has NaN or infinite values; give finite ones.")
            start = start.float()
        else:
            start = level_set_of(start > 0)
        return start if is_whole else self._all_phases(start)


def _soft_dice(phi: Tensor, labels: Tensor, bound: float | None) -> Tensor:
    """1 - 2 |A B| / (|A| + |B|) of soft masks, meaned over the batch."""
    width = _LOSS_EPSILON if bound is None else _LOSS_SHARE * bound
    soft, truth = torch.sigmoid(-phi / width), labels.to(phi.device).float()
    both = (soft * truth).sum((1, 2))
    return (1 - 2 * both / (soft + truth).sum((1, 2)).clamp(min=1e-6)).mean()


def _checked_pictures(pictures: Any) -> Tensor:
    if not isinstance(pictures, Tensor) or not pictures.is_floating_point():
        kind = getattr(pictures, "dtype", type(pictures).__name__)
        raise TypeError(
            f"pixel_values must be a floating-point tensor in 0..255, got {kind}; use the image "
            "processor, or .float()."
        )
    shape = tuple(pictures.shape)
    if pictures.ndim != 4 or shape[1] not in (1, 3):
        is_last = pictures.ndim == 4 and shape[3] in (1, 3)
        hint = "; the channels come first" if is_last else ""
        raise ValueError(
            f"pixel_values must be (B, C, H, W) with 1 or 3 channels, got {shape}{hint}."
        )
    if 0 in shape:
        raise ValueError(f"pixel_values is empty: its shape is {shape}; give at least one picture.")
    if min(shape[2:]) < 8:
        raise ValueError(f"Pictures must be 8 x 8 pixels or more, got {shape[2]} x {shape[3]}.")
    # Half precision is too coarse for the sums of a level set; double is kept.
    pictures = pictures.detach().to(torch.promote_types(pictures.dtype, torch.float32))
    low, high = float(pictures.min()), float(pictures.max())
    if not (low == low and abs(low) < 1e30 and high == high and abs(high) < 1e30):
        raise ValueError("pixel_values has NaN or infinite values; give finite ones in 0..255.")
    flat = pictures.flatten(1)
    highest = flat.max(1).values
    is_share = (highest <= 1) & (flat.min(1).values < highest)
    if low < 0 or high > 256 or bool(is_share.any()):
        raise ValueError(
            f"pixel_values must be in 0..255, got {low:.3g} to {high:.3g}, which would give "
            "wrong forces; use the image processor, which rescales."
        )
    return pictures


def _check_labels(labels: Any, pictures: Tensor) -> None:
    expected = (len(pictures), *pictures.shape[-2:])
    if labels is not None and tuple(labels.shape) != expected:
        raise ValueError(f"labels must be masks of shape {expected}, got {tuple(labels.shape)}.")
