"""Unlearning of any PyTorch classifier, in Python, from batches of one's own."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from salhub.errors import check_choice
from salhub.modeling import attribution_scope
from salhub.models.salun.masked_optimizer import MaskedOptimizer, closed_weights_digest
from salhub.models.salun.recipe_salun import (
    FineTuneArguments,
    GradientAscentArguments,
    L1SparseArguments,
    RandomLabelArguments,
    SalUnArguments,
)
from salhub.models.salun.weight_mask import WeightMask, make_mask
from salhub.models.salun.weight_saliency import (
    classification_loss,
    compute_saliency,
    count_classes,
    gives_numbers,
    labels_of,
    on_device,
)
from salhub.ops.normalization import single_values_normalized
from salhub.runner.run import DivergedError

# What `salhub unlearn METHOD` takes, which is where the defaults stand.
_ARGUMENTS: dict[str, Any] = {
    "salun": SalUnArguments,
    "rl": RandomLabelArguments,
    "ft": FineTuneArguments,
    "ga": GradientAscentArguments,
    "l1-sparse": L1SparseArguments,
}
METHODS = tuple(_ARGUMENTS)
_TEACH_WRONG_LABELS = ("salun", "rl")
_NEED_RETAINED = ("ft", "l1-sparse")


@dataclass(frozen=True)
class UnlearnedModule:
    """What `unlearn` has done.

    Args:
        model: The module, changed in place.
        mask: Which weights could move; None for all.
        closed_weights_sha256: Digest of the bits of all others, before and after; None without a
            mask.
        losses: Mean loss of every epoch.
    """

    model: nn.Module
    mask: WeightMask | None
    closed_weights_sha256: str | None
    losses: list[float]


def unlearn(
    model: nn.Module,
    forget: Iterable[Any],
    retain: Iterable[Any] = (),
    *,
    method: str = "salun",
    mask: WeightMask | None = None,
    mask_ratio: float | None = None,
    saliency: str | None = None,
    num_train_epochs: int | None = None,
    learning_rate: float | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    alpha: float | None = None,
    l1_weight: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> UnlearnedModule:
    """Make a classifier forget what is in some batches; any module with logits will do.

    `salhub unlearn` does more: it measures, resumes, and knows what a model was trained on. What
    is None here has the default that the method has there.

    Args:
        model: Gives logits (B, C), or an output that has them; changed in place, on its device.
        forget: What to forget, for example a DataLoader: pairs (inputs, labels), or dictionaries
            that are the keywords of the model and have "labels". Passed over once an epoch.
        retain: The same of what to retain.
        method: "salun" and "rl" teach labels drawn among the wrong classes, within a mask and
            without one; "ft" and "l1-sparse" go on training on what is retained; "ga" climbs the
            loss of what is to go, and uses nothing that is retained.
        mask: Which weights may move.
        mask_ratio: Share of the weights that may, chosen by `saliency`; by default half for
            "salun", and all for the others.
        saliency: As `kind` of `compute_saliency`.
        num_train_epochs: Passes over both sets.
        learning_rate, momentum, weight_decay: Of SGD.
        alpha: Weight of the loss on what is retained.
        l1_weight: Of the sum of absolute weights in "l1-sparse", falling linearly to 0.
        seed: Of the labels that are drawn.
        progress: Whether to show a bar over the epochs.

    Raises:
        DivergedError: The model gives no numbers any more, and is of no use.
        ValueError: An unknown method, an option that it does not take or that is out of range,
            nothing to forget or to retain, a single class, or two masks.
        TypeError: Batches that can be passed over only once.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> batches = [(torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))]
        >>> unlearn(model, batches, batches, num_train_epochs=1).mask.density()
        0.5

    Source: Fan et al. 2024 (arXiv 2310.12508), equations 3 to 5 and section 5.1.
    """
    _check(method, forget, retain, mask, mask_ratio)
    options = _options(
        method,
        mask=mask and "a mask",
        mask_ratio=mask_ratio,
        saliency=saliency,
        num_train_epochs=num_train_epochs,
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        alpha=alpha,
        l1_weight=l1_weight,
    )
    if options.mask_ratio is not None:
        kind = options.saliency
        scores = compute_saliency(model, forget, kind=kind, seed=seed)
        mask = make_mask(scores, options.mask_ratio, saliency=kind)
    mask = mask and mask.for_model(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer: Any = torch.optim.SGD(
        parameters,
        lr=options.learning_rate,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
    )
    digest = None
    if mask is not None:
        digest = closed_weights_digest(model, mask)
        optimizer = MaskedOptimizer(optimizer, model, mask)
    draw = _WrongLabels(model, forget, seed) if method in _TEACH_WRONG_LABELS else None
    retain_weight, penalty = getattr(options, "alpha", 1.0), getattr(options, "l1_weight", 0.0)
    epochs = options.num_train_epochs
    is_training, losses = model.training, []
    model.train()
    with single_values_normalized(model):
        for epoch in tqdm(range(epochs), desc=method, unit="epoch", disable=not progress):
            left = penalty * (1 - epoch / epochs)
            found = []
            for batch, weight in _steps(model, method, forget, retain, retain_weight, draw):
                loss = weight * classification_loss(model, batch).mean()
                if left:
                    loss = loss + left * sum(p.abs().sum() for p in parameters)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                found.append(float(loss.detach()))
            losses.append(sum(found) / len(found))
    model.train(is_training)
    if mask is not None:
        optimizer.release()
    if not gives_numbers(model, islice(iter(forget), 1)):
        raise DivergedError(
            f"the model no longer gives finite numbers after '{method}', its losses were "
            f"{losses}; load it again and use a smaller learning_rate."
        )
    return UnlearnedModule(model, mask, digest, losses)


def _options(method: str, **given: Any) -> Any:
    """The options of the command's method, checked as there."""
    kind = _ARGUMENTS[method]
    options = {name: value for name, value in given.items() if value is not None}
    for name in options.keys() - {field.name for field in dataclasses.fields(kind)}:
        raise ValueError(f"the method '{method}' has no option '{name}'; leave it out.")
    return kind(output_dir="", model="", data="", forget="", **options)


class _WrongLabels:
    """Draws a class for every sample, uniformly among the wrong ones."""

    def __init__(self, model: nn.Module, batches: Iterable[Any], seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        device = next(model.parameters()).device
        with attribution_scope(model):  # running statistics stay as they are
            self.classes = count_classes(model, next(on_device(batches, device)))
        if self.classes < 2:
            raise ValueError("the model has only one class, so there is no wrong class to teach.")

    def __call__(self, batch: Any) -> Any:
        labels = labels_of(batch)
        steps = torch.randint(1, self.classes, labels.shape, generator=self.generator)
        wrong = (labels + steps.to(labels.device)) % self.classes
        return {**batch, "labels": wrong} if isinstance(batch, Mapping) else (batch[0], wrong)


def _steps(
    model: nn.Module,
    method: str,
    forget: Iterable[Any],
    retain: Iterable[Any],
    alpha: float,
    draw: Callable[[Any], Any] | None,
) -> Iterator[tuple[Any, float]]:
    """Batches of an epoch, with the weight of their loss."""
    device = next(model.parameters()).device
    if method == "ga":
        yield from ((batch, -1.0) for batch in on_device(forget, device))
        return
    if draw is not None:
        yield from ((draw(batch), 1.0) for batch in on_device(forget, device))
    yield from ((batch, alpha) for batch in on_device(retain, device))


def _check(
    method: str,
    forget: Iterable[Any],
    retain: Iterable[Any],
    mask: WeightMask | None,
    mask_ratio: float | None,
) -> None:
    check_choice("method", method, METHODS)
    if mask is not None and mask_ratio is not None:
        raise ValueError("mask and mask_ratio contradict each other; give one of them.")
    for name, batches in (("forget", forget), ("retain", retain)):
        if isinstance(batches, Iterator | Mapping):
            raise TypeError(
                f"{name} is read once per epoch, so it must be a list or a DataLoader of "
                f"batches, got {type(batches).__name__}."
            )
    if next(iter(forget), None) is None:
        raise ValueError("there is nothing to forget; give at least one batch.")
    if method in _NEED_RETAINED and next(iter(retain), None) is None:
        raise ValueError(
            f"'{method}' trains on the retained data, but there are none; give retain."
        )
