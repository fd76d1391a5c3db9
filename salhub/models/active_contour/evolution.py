"""The descent: one step of a level set, and steps until nothing moves."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from salhub.models.active_contour.configuration_active_contour import SaliencyActiveContourConfig
from salhub.models.active_contour.level_set import (
    GaussianWindow,
    central_difference,
    curvature,
    gaussian_smooth,
    laplacian,
    matlab_border,
    smooth_delta,
    smooth_step,
    window_radius,
)
from salhub.models.active_contour.region_forces import (
    LocalMeans,
    Pull,
    chan_vese_distances,
    contrast_pull,
    distance_pull,
    fitting_pull,
    global_means,
    odds_pull,
    regions_of,
    rsf_distances,
)

# Iterations over which alpha falls in "two_stage".
_FALL = 5
_STILL = 1e-6

STANDS = "no pixel changes sides"
LEVEL = "the energy no longer changes"
LIMIT = "max_iterations was reached"
FLAT = "flat image"


@dataclass
class Drive:
    """What does not change while a contour moves.

    Args:
        picture: Restored, (B, C, H, W), in 0..255.
        saliency: In 0..255, (B, H, W).
        odds: Bounded log odds of the saliency, (B, H, W).
        contrast: Of the picture between the classes of the saliency, (B,).
        zeta: Deviation of the smoothing, (B,).
        weights: alpha, beta, nu, mu and sigma in pixels, () each.
    """

    picture: Tensor
    saliency: Tensor
    odds: Tensor
    contrast: Tensor
    zeta: Tensor
    weights: dict[str, Tensor]

    def rows(self, kept: Tensor) -> "Drive":
        """Some pictures of the batch."""
        parts = (self.picture, self.saliency, self.odds, self.contrast, self.zeta)
        return Drive(*(part[kept] for part in parts), self.weights)


@dataclass
class Evolution:
    """How it went.

    Args:
        level_set: (B, P, H, W).
        energy: (B, T), the last one again after the end.
        iterations: int64 (B,).
        converged: bool (B,).
        reasons: Why each stopped.
    """

    level_set: Tensor
    energy: Tensor
    iterations: Tensor
    converged: Tensor
    reasons: list[str]


class Stepper:
    """Moves level sets by one step.

    Args:
        config: The functional.
        drive: Picture and saliency of the pictures that move.
    """

    def __init__(self, config: SaliencyActiveContourConfig, drive: Drive) -> None:
        self.config, self.drive = config, drive
        size = drive.picture.shape[-2:]
        needs_window = config.local_energy in ("lif", "rsf")
        is_local = config.saliency_scope != "global" and config.saliency_fit == "means"
        self.window = self.local = self.local_saliency = None
        if needs_window or is_local:
            self.window = GaussianWindow(drive.weights["sigma"], size)
        if needs_window:
            self.local = LocalMeans(self.window, drive.picture)
        if is_local:
            self.local_saliency = LocalMeans(self.window, drive.saliency[:, None])
        self.lambdas = drive.picture.new_tensor([config.lambda1, config.lambda2])
        if config.num_phases == 2:
            self.lambdas = drive.picture.new_ones(4)

    def rows(self, kept: Tensor) -> None:
        """Go on with some pictures of the batch."""
        self.drive = self.drive.rows(kept)
        for local in (self.local, self.local_saliency):
            if local is not None:
                local.rows(kept)

    def weights_at(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Alpha and beta of an iteration, counted from 0."""
        config, alpha, beta = self.config, *(self.drive.weights[k] for k in ("alpha", "beta"))
        if config.schedule == "decay":
            half = config.max_iterations / 2
            return alpha * (1 - 0.75 * min(1.0, max(0.0, (iteration - half) / half))), beta
        if config.schedule == "two_stage" and float(alpha.detach()) > 0:
            if iteration < config.saliency_steps:
                return torch.ones_like(alpha), torch.zeros_like(beta)
            share = min(1.0, (iteration - config.saliency_steps) / _FALL)
            return 1 + (alpha - 1) * share, beta
        return alpha, beta

    def is_settled(self, iteration: int) -> bool:
        """Whether the weights stay as they are after so many iterations."""
        if self.config.schedule == "two_stage":
            return iteration >= self.config.saliency_steps + _FALL
        return True

    def __call__(self, phi: Tensor, iteration: int, with_energy: bool) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            phi: (B, P, H, W).
            iteration: From 0.
            with_energy: Whether to work out the energy before the step, (B,).
        """
        config = self.config
        if config.regulariser == "variational" and config.border == "matlab":
            phi = matlab_border(phi)
        alpha, beta = self.weights_at(iteration)
        force, energy, regions = 0.0, phi.new_zeros(len(phi)), None
        # Odds do not ask where the contour is.
        if with_energy or float(beta.detach()) > 0 or config.saliency_fit != "likelihood":
            regions = regions_of(smooth_step(phi, config.epsilon))
        for weight, pull in ((alpha, self._saliency_pull), (beta, self._local_pull)):
            if float(weight.detach()) > 0:
                found = pull(regions, with_energy)
                force, energy = force + weight * found.force, energy + weight * found.energy
        force, extra = self._regularised(phi, force, with_energy)
        phi = phi + config.time_step * force
        if config.bound is not None:
            kept = phi.clamp(-config.bound, config.bound)
            # What is learned passes the bound, at which it would be 0 nearly everywhere.
            phi = phi + (kept - phi).detach() if phi.requires_grad else kept
        if config.regulariser == "gaussian":
            phi = gaussian_smooth(phi, self.drive.zeta[:, None, None, None])
        return phi, energy + extra

    def _saliency_pull(self, regions: Any, with_energy: bool) -> Pull:
        drive, config = self.drive, self.config
        if config.saliency_fit == "likelihood":
            return odds_pull(regions if with_energy else None, drive.odds)
        saliency = drive.saliency[:, None]
        pulls = []
        if config.saliency_scope != "local":
            pulls.append(fitting_pull(regions, saliency, global_means(regions, saliency)))
        if self.local_saliency is not None:
            means, _ = self.local_saliency(regions)
            pulls.append(fitting_pull(regions, saliency, means))
        share = 1 / len(pulls)
        return Pull(sum(share * p.force for p in pulls), sum(share * p.energy for p in pulls))

    def _local_pull(self, regions: Any, with_energy: bool) -> Pull:
        drive, config = self.drive, self.config
        if config.local_energy == "none":
            return Pull(drive.contrast.new_zeros(()), 0.0)
        if config.local_energy == "chan_vese":
            means = global_means(regions, drive.picture)
            return distance_pull(regions, chan_vese_distances(drive.picture, means, self.lambdas))
        means, sizes = self.local(regions)
        if config.force_scale == "contrast":
            return contrast_pull(regions, drive.picture, means, sizes, drive.contrast, with_energy)
        if config.local_energy == "rsf":
            return distance_pull(regions, rsf_distances(self.local, means, self.lambdas))
        return fitting_pull(regions, drive.picture, means)

    def _regularised(self, phi: Tensor, force: Tensor, with_energy: bool) -> tuple[Tensor, Tensor]:
        """The whole force, with the delta and what keeps the contour short and phi regular."""
        config, nu, mu = self.config, self.drive.weights["nu"], self.drive.weights["mu"]
        # What is learned must be in the graph, also at 0.
        bends, levels = (float(w.detach()) > 0 or w.requires_grad for w in (nu, mu))
        extra = phi.new_zeros(len(phi))
        if config.regulariser == "gaussian":
            bends = levels = False
        delta = None
        if config.bound is None or (with_energy and bends):
            delta = smooth_delta(phi, config.epsilon)
        bend = curvature(phi) if bends or levels else None
        if bends:
            force = force + nu * bend
        if config.bound is None:
            force = delta * force
        if levels:
            force = force + mu * (laplacian(phi) - bend)
        if with_energy and (bends or levels):
            down, across = central_difference(phi, -2), central_difference(phi, -1)
            slope = torch.sqrt(down * down + across * across + 1e-10)
            if bends:
                extra = extra + nu * (delta * slope).sum(1).mean((1, 2))
            if levels:
                extra = extra + mu * (0.5 * (slope - 1) ** 2).sum(1).mean((1, 2))
        return force, extra


def check_window(sigma: float, size: tuple[int, int]) -> None:
    """Raise ValueError where a picture is smaller than the window of the local energy."""
    side = 2 * window_radius(sigma) + 1
    if min(size) < side:
        raise ValueError(
            f"The window of sigma={sigma:.3g} pixels is {side} x {side}, larger than the "
            f"picture as processed, {size[0]} x {size[1]}; lower sigma, or give a larger or "
            "less narrow picture."
        )


def evolve(
    config: SaliencyActiveContourConfig,
    drive: Drive,
    phi: Tensor,
    *,
    stops_early: bool = True,
    callback: Callable[[int, Tensor], None] | None = None,
    callback_every: int = 5,
    gradient_steps: int | None = None,
) -> Evolution:
    """Move level sets until each stands still.

    Args:
        config: The functional, its schedule and when it stops.
        drive: What pulls.
        phi: First level sets, (B, P, H, W).
        stops_early: Whether pictures stop before `max_iterations`.
        callback: Called with the number of iterations and all level sets.
        callback_every: Iterations between calls.
        gradient_steps: Steps before `max_iterations` that gradients pass through; None for all.
    """
    batch = len(phi)
    stepper = Stepper(config, drive)
    records, recorded = torch.is_grad_enabled(), gradient_steps or config.max_iterations
    final, moving = phi, torch.arange(batch, device=phi.device)
    iterations = torch.full((batch,), config.max_iterations, dtype=torch.long)
    converged = torch.zeros(batch, dtype=torch.bool)
    reasons = [LIMIT] * batch
    rows, still, former = [], torch.zeros(batch, dtype=torch.long), [math.nan] * batch
    before = phi < 0
    if callback is not None:
        callback(0, final.squeeze(1))
    for iteration in range(config.max_iterations):
        done = iteration + 1
        is_check = done % config.check_every == 0 or done == config.max_iterations
        with torch.set_grad_enabled(records and done > config.max_iterations - recorded):
            phi, energy = stepper(phi, iteration, is_check)
        is_seen = callback is not None and done % callback_every == 0
        if is_seen or is_check:
            final = phi if len(moving) == batch else final.index_copy(0, moving, phi)
        if is_seen:
            callback(done, final.squeeze(1))
        if not is_check:
            continue
        inside = phi < 0
        changed = (inside != before).flatten(1).float().mean(1).tolist()
        before = inside
        energies = energy.detach().tolist()
        settled = stepper.is_settled(iteration)
        row = rows[-1].clone() if rows else torch.zeros(batch)
        kept = []
        for place, index in enumerate(moving.tolist()):
            row[index] = energies[place]
            is_still = changed[place] <= config.tolerance and settled
            still[index] = still[index] + 1 if is_still else 0
            change = abs(energies[place] - former[index])
            is_level = change < _STILL * max(abs(energies[place]), 1e-12)
            former[index] = energies[place]
            if stops_early and settled and (still[index] >= 2 or is_level):
                reasons[index] = STANDS if still[index] >= 2 else LEVEL
                converged[index], iterations[index] = True, done
            else:
                kept.append(place)
        rows.append(row)
        if not kept:
            break
        if len(kept) < len(moving):
            places = torch.tensor(kept, device=phi.device)
            moving, phi, before = moving[places], phi[places], before[places]
            stepper.rows(places)
    device = phi.device
    # As long for every batch, so that a picture's row does not depend on its company.
    while len(rows) < math.ceil(config.max_iterations / config.check_every):
        rows.append(rows[-1])
    trace = torch.stack(rows, 1)
    trace = trace.to(device)
    return Evolution(final, trace, iterations.to(device), converged.to(device), reasons)
