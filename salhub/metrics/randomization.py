"""Randomisation sanity check: a map that survives random weights does not explain the network."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from salhub.metrics.checks import check_maps, check_same_shape, is_constant
from salhub.metrics.correlation import rank_correlation
from salhub.metrics.structural_similarity import structural_similarity

Mode = Literal["cascade", "independent"]


@dataclass(frozen=True)
class MapSimilarity:
    """How alike two sets of maps are, one entry a picture.

    Attributes:
        rank_correlation: (N,) Spearman's rho of the signed maps; NaN if one of them is constant.
        absolute_rank_correlation: (N,) Spearman's rho of the maps' magnitudes; NaN likewise.
        structural_similarity: (N,) SSIM after each map is scaled to [0, 1]; a constant map is 0.
        constant: (N,) bool, one of the two maps is constant.
    """

    rank_correlation: Tensor
    absolute_rank_correlation: Tensor
    structural_similarity: Tensor
    constant: Tensor


def map_similarity(original: Tensor, changed: Tensor) -> MapSimilarity:
    """Compare paired maps in the three ways of the randomisation check.

    Args:
        original: (N, H, W) maps of the trained network, sides of at least 11 pixels.
        changed: (N, H, W) maps of the randomised network.

    Returns:
        `MapSimilarity`.

    Raises:
        ValueError: If shapes differ or a map is not finite.

    Example:
        >>> maps = torch.rand(1, 16, 16)
        >>> map_similarity(maps, maps).structural_similarity
        tensor([1.], dtype=torch.float64)
    """
    original, changed = check_maps(original, "original"), check_maps(changed, "changed")
    check_same_shape(original, changed, ("original", "changed"))
    constant = is_constant(original) | is_constant(changed)
    flat = is_constant(original.abs()) | is_constant(changed.abs())
    signed = rank_correlation(original, changed).masked_fill(constant, torch.nan)
    magnitude = rank_correlation(original.abs(), changed.abs()).masked_fill(flat, torch.nan)
    similarity = structural_similarity(_unit_range(original), _unit_range(changed))
    return MapSimilarity(signed, magnitude, similarity, constant)


def layer_stages(model: nn.Module, prefix: str = "") -> list[str]:
    """Names of a network's stages with parameters, in the order they are defined (stem first).

    A stage is an entry of a `ModuleList` or `Sequential`, or a module that contains none with
    parameters: blocks are kept whole, so that a deep network has tens of stages, not hundreds.

    Args:
        model: Any module.
        prefix: Prepended to every name, for a module that sits inside another.

    Returns:
        Dotted names, usable with `randomized_models`.
    """
    names = []
    for name, child in model.named_children():
        path = f"{prefix}{name}"
        if not any(True for _ in child.parameters()):
            continue
        if isinstance(child, (nn.ModuleList, nn.Sequential)):
            names += [f"{path}.{i}" for i, block in child.named_children() if _has_weights(block)]
        elif any(isinstance(inner, nn.ModuleList) for inner in child.modules()):
            names += layer_stages(child, f"{path}.")
        else:
            names.append(path)
    return names


def randomized_models(
    model: nn.Module,
    layers: Sequence[str],
    *,
    mode: Mode = "cascade",
    stops: Sequence[str] | None = None,
    seed: int = 0,
) -> Iterator[tuple[str, nn.Module]]:
    """Deep copies of a model with layers re-initialised; the model itself is never touched.

    Modules start again as `reset_parameters()` leaves them; parameters held by a module without
    that method are drawn from a normal distribution with their own mean and standard deviation.

    Args:
        model: The model to copy. Anything it has cached is copied with it: clear caches that
            depend on the weights first.
        layers: Names of sub-modules, head first.
        mode: "cascade" re-initialises all layers up to and including the named one,
            "independent" the named one alone.
        stops: The layers of `layers` at which a copy is given; None gives one at each.
        seed: Seed of the new weights; the global random state is left as it was.

    Yields:
        (layer name, copy), one for each stop, in the order of `layers`.

    Raises:
        ValueError: If the mode is unknown or a layer does not exist or has no parameters.

    Source:
        Adebayo et al. 2018 (Sanity Checks for Saliency Maps), section 3.
    """
    if mode not in ("cascade", "independent"):
        raise ValueError(f"mode must be 'cascade' or 'independent', got {mode!r}.")
    modules = dict(model.named_modules())
    for name in layers:
        if name not in modules or not _has_weights(modules[name]):
            raise ValueError(f"model has no layer {name!r} with parameters; see layer_stages().")
    for stop in stops or ():
        if stop not in layers:
            raise ValueError(f"stop {stop!r} is not one of the layers {', '.join(layers)}.")
    for position, name in enumerate(layers):
        if stops is not None and name not in stops:
            continue
        changed = copy.deepcopy(model)
        start = 0 if mode == "cascade" else position
        for index in range(start, position + 1):
            _reinitialise(changed.get_submodule(layers[index]), seed + index)
        yield name, changed


def cascade_randomization(
    model: nn.Module,
    explain: Callable[[nn.Module], Tensor],
    layers: Sequence[str],
    *,
    mode: Mode = "cascade",
    seed: int = 0,
) -> list[tuple[str, MapSimilarity]]:
    """Compare the maps of a trained network with those of ever more random ones.

    Args:
        model: The trained network or explainer; it is copied, never changed.
        explain: Gives the maps (N, H, W) of a model it is handed.
        layers: Names of sub-modules, head first, e.g. `layer_stages(model)[::-1]`.
        mode: "cascade" from the head down, or "independent", one layer at a time.
        seed: Seed of the random weights.

    Returns:
        (layer, `MapSimilarity`) for each layer. A sound explanation falls towards 0.

    Raises:
        ValueError: As `randomized_models` and `map_similarity`.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1))
        >>> picture = torch.rand(1, 1, 16, 16)
        >>> steps = cascade_randomization(net, lambda m: m(picture)[0].detach(), ["1", "0"])
        >>> [name for name, similarity in steps]
        ['1', '0']

    Source:
        Adebayo et al. 2018 (Sanity Checks for Saliency Maps), section 3.
    """
    original = explain(model)
    return [
        (name, map_similarity(original, explain(changed)))
        for name, changed in randomized_models(model, layers, mode=mode, seed=seed)
    ]


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _unit_range(maps: Tensor) -> Tensor:
    low = maps.amin(dim=(1, 2), keepdim=True)
    span = maps.amax(dim=(1, 2), keepdim=True) - low
    flat = is_constant(maps)[:, None, None]
    return ((maps - low) / span.masked_fill(flat, 1.0)).masked_fill(flat, 0.0)


@torch.no_grad()
def _reinitialise(layer: nn.Module, seed: int) -> None:
    """Give every parameter below `layer` a fresh random start."""
    devices = sorted({p.device.index for p in layer.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for module in layer.modules():
            own = list(module.parameters(recurse=False))
            if own and callable(getattr(module, "reset_parameters", None)):
                module.reset_parameters()
            else:
                for parameter in own:
                    spread = parameter.std(correction=0)
                    parameter.copy_(parameter.mean() + spread * torch.randn_like(parameter))
