"""Membership inference: can an attacker tell from a classifier's outputs what it was trained on."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from salhub.errors import did_you_mean, require_extra
from salhub.metrics.checks import check_indices

logger = logging.getLogger(__name__)

FEATURES = ("confidence", "correctness", "entropy", "modified_entropy", "probability")

# Song and Mittal's floor under a logarithm; the largest value it lets through is 69.
_SMALLEST = 1e-30
# Below this a share moves by more than two points when one sample changes side.
_FEW_SAMPLES = 50
# What people call the sets.
_SETS = {
    "members": "retained samples",
    "non_members": "test samples, which were never learned,",
    "targets": "samples to forget",
}
# The fast attack's samples are merged into so many runs, more if one would be so wide that the
# kernel, exp(-distance ** 2), could tell its values apart.
_RUNS = 512
_WIDEST_RUN = 0.2
# Values that the fast attack's SVC is asked about first.
_LANDMARKS = 2048

Verdicts = tuple[np.ndarray, np.ndarray, np.ndarray]  # which of the three sets look like members


@dataclass(frozen=True)
class MembershipInference:
    """How one attack went.

    Attributes:
        efficacy: MIA-efficacy, the share of the targets that the attack calls non-members, in
            [0, 1]; compare it with that of a model trained anew without them.
        attack_accuracy: Share of its own training samples that the attack sorts correctly, in
            [0, 1]; near 0.5 it sees no difference, and the efficacy says little.
    """

    efficacy: float
    attack_accuracy: float


def probabilities_from_logits(logits: Tensor) -> Tensor:
    """Softmax in float64, where a confident model's probabilities are not yet rounded to 0 or 1.

    Args:
        logits: (N, K), any floating dtype.

    Returns:
        (N, K) float64.

    Raises:
        ValueError: If `logits` is not (N, K).

    Example:
        >>> probabilities_from_logits(torch.zeros(1, 2))
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    if logits.ndim != 2:
        raise ValueError(f"logits must have shape (N, K), got {tuple(logits.shape)}.")
    return logits.detach().double().softmax(dim=1)


def membership_features(probabilities: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What an attacker reads from a classifier's outputs, in five ways.

    Args:
        probabilities: (N, K) with rows that sum to 1, such as from `probabilities_from_logits`.
        labels: (N,) true classes, integers in [0, K).

    Returns:
        float64 tensors: "confidence" (N,) probability of the true class; "correctness" (N,) 1
        where the likeliest class is the true one, else 0; "entropy" (N,) in nats;
        "modified_entropy" (N,) 0 for a certain and right answer, large for a certain and wrong
        one; "probability" (N, K) all of them. Logarithms are taken of 1e-30 or more, so that
        probabilities of 0 and 1 give finite numbers.

    Raises:
        TypeError: If one of the two is not a tensor.
        ValueError: If there is no sample, shapes do not fit, a label is out of range, or a row
            holds no probabilities.

    Example:
        >>> outputs = torch.tensor([[0.5, 0.5]])
        >>> membership_features(outputs, torch.tensor([1]))["entropy"]
        tensor([0.6931], dtype=torch.float64)

    Source:
        Song and Mittal 2021, arXiv 2003.10595, who propose the modified entropy.
    """
    probabilities = _check_probabilities(probabilities)
    check_indices(labels, len(probabilities), "labels", "row of probabilities")
    if int(labels.max()) >= probabilities.shape[1]:
        raise ValueError(
            f"labels must lie below the number of classes, {probabilities.shape[1]}, got "
            f"{int(labels.max())}."
        )
    labels = labels.long().to(probabilities.device)
    return {
        "confidence": probabilities.gather(1, labels[:, None]).squeeze(1),
        "correctness": (probabilities.argmax(dim=1) == labels).double(),
        "entropy": -(probabilities * _safe_log(probabilities)).sum(dim=1),
        "modified_entropy": _modified_entropy(probabilities, labels),
        "probability": probabilities,
    }


def membership_inference(
    members: Tensor, non_members: Tensor, targets: Tensor, attack: str = "svc"
) -> MembershipInference:
    """Train an attack on known members and non-members, and ask it about the forget set.

    Members and non-members enter in equal number: the first ones of the longer set, as many as
    the shorter has. The caller shuffles the retain samples by a seed beforehand, or their order
    decides which of them the attack sees.

    Args:
        members: (N,) or (N, K) one feature of samples the model trained on (the retain set).
        non_members: (M,) or (M, K) the same feature of samples it never saw (the test set).
        targets: (T,) or (T, K) the same feature of the samples to be forgotten.
        attack: "svc" is the published one, a support vector classifier with a Gaussian kernel.
            "threshold" is the same classifier for features of one number a sample, solved on a
            few hundred weighted values in place of all samples: within 0.01 of its efficacy on
            what classifiers answer, and more than fifty times faster at 10,000 members.

    Returns:
        `MembershipInference`.

    Raises:
        TypeError: If a set is not a tensor.
        ValueError: If a set is empty or not finite, shapes do not fit, the attack is unknown, or
            "threshold" is given more than one number a sample.
        MissingExtraError: If scikit-learn is not installed.

    Example:
        >>> seen, unseen = torch.full((60,), 0.99), torch.full((60,), 0.4)
        >>> membership_inference(seen, unseen, unseen).efficacy
        1.0

    Source:
        Fan et al. 2024 (SalUn), arXiv 2310.12508; C = 3 and gamma = 1 / K as in its published
        code.
    """
    _check_attack(attack)
    sets = {"members": members, "non_members": non_members, "targets": targets}
    arrays = [_as_rows(values, name) for name, values in sets.items()]
    widths = [array.shape[1] for array in arrays]
    if len(set(widths)) > 1:
        raise ValueError(
            f"members, non_members and targets must have the same features, got {widths[0]}, "
            f"{widths[1]} and {widths[2]} numbers per sample."
        )
    if attack == "threshold" and widths[0] > 1:
        raise ValueError(
            f"attack='threshold' needs one number per sample, got {widths[0]}; use attack='svc'."
        )
    _warn_of_few(**{name: len(array) for name, array in zip(sets, arrays, strict=True)})
    return _infer(*arrays, attack)


def membership_inference_report(
    member_outputs: tuple[Tensor, Tensor],
    non_member_outputs: tuple[Tensor, Tensor],
    target_outputs: tuple[Tensor, Tensor],
    attack: str = "svc",
    *,
    warns: bool = True,
) -> dict[str, float]:
    """MIA-efficacy by every feature; see `membership_inference` for the sets and the attacks.

    Args:
        member_outputs: (N, K) probabilities and (N,) labels of the retain set, shuffled.
        non_member_outputs: (M, K) probabilities and (M,) labels of the test set.
        target_outputs: (T, K) probabilities and (T,) labels of the forget set.
        attack: "svc", or "threshold", which leaves out "probability".
        warns: Whether sets of few samples are worth a warning; once is enough for several models.

    Returns:
        Name of each feature of `membership_features` and the share of targets called
        non-members, in [0, 1].

    Raises:
        TypeError: If an output is not a tensor.
        ValueError: If a set is refused by `membership_features`, the sets differ in their number
            of classes, or the attack is unknown.
        MissingExtraError: If scikit-learn is not installed.

    Example:
        >>> outputs = torch.full((60, 2), 0.5), torch.zeros(60, dtype=torch.long)
        >>> list(membership_inference_report(outputs, outputs, outputs, "threshold"))
        ['confidence', 'correctness', 'entropy', 'modified_entropy']
    """
    _check_attack(attack)
    outputs = (member_outputs, non_member_outputs, target_outputs)
    sets = [membership_features(*output) for output in outputs]
    classes = [features["probability"].shape[1] for features in sets]
    if len(set(classes)) > 1:
        raise ValueError(
            "the outputs of the three sets must come from the same classifier, got "
            f"{classes[0]}, {classes[1]} and {classes[2]} classes."
        )
    if warns:
        sizes = [len(labels) for _, labels in outputs]
        _warn_of_few(members=sizes[0], non_members=sizes[1], targets=sizes[2])
    names = [name for name in FEATURES if attack == "svc" or name != "probability"]
    return {
        name: _infer(*(_as_rows(features[name], name) for features in sets), attack).efficacy
        for name in names
    }


def _check_probabilities(probabilities: Tensor) -> Tensor:
    if not isinstance(probabilities, Tensor):
        raise TypeError(
            f"probabilities must be a torch tensor of shape (N, K), got {type(probabilities)}."
        )
    if probabilities.ndim != 2 or probabilities.numel() == 0:
        raise ValueError(
            "probabilities must have shape (N, K) with at least one sample, got "
            f"{tuple(probabilities.shape)}."
        )
    probabilities = probabilities.detach().double()
    if not torch.isfinite(probabilities).all() or (probabilities < 0).any():
        raise ValueError(
            "probabilities must be finite and 0 or more; give logits to "
            "probabilities_from_logits first."
        )
    worst = float((probabilities.sum(dim=1) - 1).abs().max())
    if worst > 0.01:
        raise ValueError(
            f"each row of probabilities must sum to 1, one is off by {worst:.3g}; give logits to "
            "probabilities_from_logits first."
        )
    return probabilities.clamp(max=1.0)  # a float32 softmax may round to just above 1


def _safe_log(values: Tensor) -> Tensor:
    return values.clamp(min=_SMALLEST).log()


def _modified_entropy(probabilities: Tensor, labels: Tensor) -> Tensor:
    classes = torch.arange(probabilities.shape[1], device=labels.device)
    is_true_class = classes == labels[:, None]
    others = 1 - probabilities
    # The true class counts by how much is missing from it, every other one by how much it has.
    weights = torch.where(is_true_class, others, probabilities)
    logs = torch.where(is_true_class, _safe_log(probabilities), _safe_log(others))
    return -(weights * logs).sum(dim=1)


def _check_attack(attack: str) -> None:
    if attack not in ATTACKS:
        raise ValueError(
            f"attack must be 'svc' or 'threshold', got {attack!r}.{did_you_mean(attack, ATTACKS)}"
        )


def _as_rows(values: Tensor, name: str) -> np.ndarray:
    """Return a feature as (N, K) float64, or raise one sentence saying what is wrong with it."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {type(values)}.")
    if values.ndim not in (1, 2) or values.numel() == 0:
        raise ValueError(
            f"{name} must have shape (N,) or (N, K) with at least one sample, got "
            f"{tuple(values.shape)}."
        )
    rows = values.detach().cpu().double().reshape(len(values), -1).numpy()
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} holds NaN or infinity; an attack on such a feature is undefined.")
    return rows


def _warn_of_few(**sizes: int) -> None:
    few = [f"{size} {_SETS[name]}" for name, size in sizes.items() if size < _FEW_SAMPLES]
    if few:
        logger.warning(
            "The membership attack has only %s; below %d of each, its numbers depend on single "
            "samples.",
            " and ".join(few),
            _FEW_SAMPLES,
        )


def _infer(
    members: np.ndarray, non_members: np.ndarray, targets: np.ndarray, attack: str
) -> MembershipInference:
    count = min(len(members), len(non_members))
    seen, unseen, asked = ATTACKS[attack](members[:count], non_members[:count], targets)
    return MembershipInference(
        efficacy=float((~asked).mean()),
        attack_accuracy=float((seen.mean() + (~unseen).mean()) / 2),
    )


def _new_svc() -> Any:
    require_extra("sklearn", "unlearning")
    from sklearn.svm import SVC

    return SVC(C=3, gamma="auto", kernel="rbf")


def _exact_attack(members: np.ndarray, non_members: np.ndarray, targets: np.ndarray) -> Verdicts:
    samples = np.concatenate([members, non_members])
    truth = np.repeat([1, 0], [len(members), len(non_members)])
    svc = _new_svc().fit(samples, truth)
    seen, unseen, asked = (svc.predict(rows) == 1 for rows in (members, non_members, targets))
    return seen, unseen, asked


def _threshold_attack(
    members: np.ndarray, non_members: np.ndarray, targets: np.ndarray
) -> Verdicts:
    sets = [members.ravel(), non_members.ravel(), targets.ravel()]
    is_member = _fit_compressed(sets[0], sets[1])
    values = np.unique(np.concatenate(sets))
    verdicts = _ask_sparsely(is_member, values)
    seen, unseen, asked = (verdicts[np.searchsorted(values, each)] for each in sets)
    return seen, unseen, asked


def _fit_compressed(
    members: np.ndarray, non_members: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Fit the SVC on means of runs of near values, each with the weight of its samples.

    A weight multiplies a sample's C, so equal values may be merged without changing the problem.
    A run of unequal ones changes it by their squared distance from the run's mean, as the
    decision is smooth on the scale of the kernel.
    """
    values = np.unique(np.concatenate([members, non_members]))
    starts = values[_cuts(values, _RUNS) + 1]
    seen, seen_sizes = _run_means(members, starts)
    unseen, unseen_sizes = _run_means(non_members, starts)
    svc = _new_svc().fit(
        np.concatenate([seen, unseen])[:, None],
        np.repeat([1, 0], [len(seen), len(unseen)]),
        sample_weight=np.concatenate([seen_sizes, unseen_sizes]),
    )
    supports, heights = svc.support_vectors_[:, 0], svc.dual_coef_[0]

    def is_member(asked: np.ndarray) -> np.ndarray:
        # What svc.decision_function computes, several times faster; gamma is 1. A piece at a
        # time keeps memory small.
        pieces = np.array_split(asked, 1 + len(asked) // _LANDMARKS)
        sums = [np.exp(-((piece[:, None] - supports) ** 2)) @ heights for piece in pieces]
        # At 0 svc.predict says the second class, which is the members.
        return np.concatenate(sums) + svc.intercept_[0] >= 0

    return is_member


def _cuts(values: np.ndarray, runs: int) -> np.ndarray:
    """Cut sorted, distinct values into runs, more than asked for if one would be too wide.

    Returns:
        Positions after which a new run begins.
    """
    while True:
        cuts = _even_cuts(values, runs)
        firsts = np.append(values[0], values[cuts + 1])
        lasts = np.append(values[cuts], values[-1])
        if (lasts - firsts).max() <= _WIDEST_RUN:
            return cuts
        runs *= 2


def _even_cuts(values: np.ndarray, runs: int) -> np.ndarray:
    """Cut sorted, distinct values so that the squared distances within runs are least.

    The best density of runs is the cube root of the values' density (Panter and Dite 1951).
    Where gaps are g wide the values' density is 1 / g, so a gap holds g ** (2 / 3) runs' worth.
    """
    if len(values) <= runs:
        return np.arange(len(values) - 1)
    shares = np.diff(values) ** (2 / 3)
    # One cut is all that a wide gap can use; what it has beyond that goes to the others.
    for _ in range(8):
        shares = np.minimum(shares, shares.sum() / (runs - 1))
    filled = np.cumsum(shares)
    # Cuts in the middle of equal parts, or rounding would spare a wide gap at either end.
    parts = (np.arange(runs - 1) + 0.5) / (runs - 1)
    return np.unique(np.searchsorted(filled, filled[-1] * parts))


def _run_means(values: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    runs = np.searchsorted(starts, values, side="right")
    sizes = np.bincount(runs)
    sums = np.bincount(runs, weights=values)
    return sums[sizes > 0] / sizes[sizes > 0], sizes[sizes > 0]


def _ask_sparsely(is_member: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.ndarray:
    """Answer for all sorted values by asking landmarks, and whatever lies where they disagree.

    In one dimension the members fill a few intervals, so neighbouring landmarks nearly always
    agree and the values between them need not be asked.
    """
    landmarks = np.concatenate([[0], _cuts(values, _LANDMARKS) + 1, [len(values) - 1]])
    answers = is_member(values[landmarks])
    before = np.searchsorted(landmarks, np.arange(len(values)), side="right") - 1
    after = np.minimum(before + 1, len(landmarks) - 1)
    verdicts = answers[before]
    disputed = answers[before] != answers[after]
    verdicts[disputed] = is_member(values[disputed])
    return verdicts


ATTACKS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], Verdicts]] = {
    "svc": _exact_attack,
    "threshold": _threshold_attack,
}
