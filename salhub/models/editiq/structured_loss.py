"""How much an edit by a person costs beyond the best one, as a function of the term weights."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from salhub.models.editiq.configuration_editiq import LEARNED
from salhub.models.editiq.energy import Energy, Scene
from salhub.models.editiq.shots import Shot

# Term -> the weight that it is multiplied by.
_WEIGHT_OF = {
    "misframing": "misframing_weight",
    "transition": "transition_weight",
    "overlap": "overlap_weight",
    "rhythm: cut": "cut_weight",
    "rhythm: stay": "stay_weight",
}


def structured_hinge(
    energy: Energy,
    accepted: np.ndarray,
    composed: np.ndarray,
    shown: np.ndarray,
    weights: Mapping[str, Tensor],
    margin: float,
) -> tuple[Tensor, np.ndarray]:
    """The hinge loss of a structured support vector machine, per second of film.

    The best edit among those that a person would accept is compared with the one that is cheapest
    after each second with a wrong shot has been made cheaper by the margin. Gradients pass through
    the costs of the two edits, which the programme finds without any.

    Args:
        energy: Of the scene, with the weights as they are.
        accepted: (R, T) bool: shots that are right.
        composed: (R, T) dialogue potential by importance.
        shown: (R, T) by the shots that were named.
        weights: Name -> (), of all of `LEARNED`.
        margin: Cost by which a wrong second must be dearer.

    Returns:
        The loss, (), and the edit that it was measured on, (T,).

    Raises:
        ValueError: Costs that are multiples of the largest unary one, which depends on the weights.

    Source: Tsochantaridis et al. 2005 (JMLR), with margin rescaling; Yu and Joachims 2009 (ICML)
    for the choice among accepted edits.
    """
    config = energy.config
    if config.cost_unit != "absolute" or config.unary != "logarithmic":
        raise ValueError(
            "Learning weights needs cost_unit='absolute' and unary='logarithmic'; set both."
        )
    is_free = ~accepted.any(0)
    wrong = np.where(accepted | is_free, 0.0, margin / energy.scene.rate)
    # Where no accepted shot is offered, any may stand.
    can = accepted & np.isfinite(energy.unary)
    blocked = np.where(can | ~can.any(0), 0.0, np.inf)
    right = energy.solve("exact", energy.unary + blocked).shots
    tempting = energy.solve("exact", energy.unary - wrong).shots
    frames = np.arange(len(right))
    gain = float(wrong[tempting, frames].sum() - wrong[right, frames].sum())
    unit = Energy(energy.scene, config, dict.fromkeys(LEARNED, 1.0))
    costs = [_cost(unit, path, composed, shown, weights) for path in (right, tempting)]
    seconds = len(right) / energy.scene.rate
    return (costs[0] - costs[1] + gain).clamp(min=0) / seconds, tempting


def _cost(
    unit: Energy,
    path: np.ndarray,
    composed: np.ndarray,
    shown: np.ndarray,
    weights: Mapping[str, Tensor],
) -> Tensor:
    """What an edit costs, with gradients; rules are left out, as no weight is theirs."""
    scene, config = unit.scene, unit.config
    frames = np.arange(len(path))
    like = weights["dialogue_weight"]
    of_path = [
        torch.as_tensor(one[path, frames], dtype=like.dtype, device=like.device)
        for one in (composed, shown, scene.saliency)
    ]
    share = weights["show_weight"]
    dialogue = (1 - share) * of_path[0] + share * of_path[1]
    quiet = torch.as_tensor(scene.quiet, device=like.device)
    spoken = torch.where(quiet, config.quiet_dialogue_weight, weights["dialogue_weight"])
    seen = torch.where(quiet, config.quiet_saliency_weight, weights["saliency_weight"])
    potential = -torch.log(config.epsilon + spoken * dialogue + seen * of_path[2])
    total = unit.per_frame * potential.sum()
    counts = unit.terms(path)
    for term, name in _WEIGHT_OF.items():
        is_prior = config.rhythm == "lognormal" and term == "rhythm: stay"
        total = total + weights["cut_weight" if is_prior else name] * float(counts[term].sum())
    return total


def accepted_of(
    scene: Scene, spans: list[tuple[float, float, tuple[str, ...]]], either: float
) -> np.ndarray:
    """Which shots a person's edit accepts, (R, T) bool.

    Args:
        scene: The scene.
        spans: (from, until, names of shots that are right) in seconds; frames without any are free.
        either: Seconds around a cut in which the shots of both sides are right.
    """
    places: dict[tuple[str, frozenset[str]], int] = {
        (shot.size, frozenset(shot.actors)): row for row, shot in enumerate(scene.shots)
    }
    found = np.zeros((len(scene.shots), scene.num_frames), bool)
    times = np.arange(scene.num_frames) / scene.rate
    for start, end, names in spans:
        near = (times >= start - either) & (times < end + either)
        for name in names:
            shot = Shot.parse(name)
            row = places.get((shot.size, frozenset(shot.actors)))
            if row is not None:
                found[row] |= near
    return found
