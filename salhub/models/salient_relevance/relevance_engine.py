"""Layer-wise relevance propagation of class scores to pixels."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from salhub.explaining.concurrency import exclusive_use
from salhub.explaining.modeling_explained_classifier import check_class_range
from salhub.models.salient_relevance.conservation_audit import Ledger
from salhub.models.salient_relevance.network_state import NetworkState
from salhub.models.salient_relevance.private_network import (
    MAX_LOGIT_DIFFERENCE,
    PrivateNetwork,
    relative_difference,
)
from salhub.models.salient_relevance.relevance_functions import PassState
from salhub.models.salient_relevance.relevance_mode import RelevanceMode
from salhub.models.salient_relevance.rules import RuleSet

# A sum of terms this many times larger keeps one digit of seven.
_LARGEST_GROWTH = 1e6


class Relevance(NamedTuple):
    """What a relevance pass gives.

    relevance: (B, T, C, H, W) of each explained class at each pixel and channel.
    others: The same of the mean of all other classes, or None when it was not asked for.
    start: (B, T) relevance the pass started with, summed over the logits.
    logits: (B, classes). class_labels: (B, T) int64.
    ledgers: One a class when an audit was asked for, else empty.
    """

    relevance: Tensor
    others: Tensor | None
    start: Tensor
    logits: Tensor
    class_labels: Tensor
    ledgers: list[Ledger]


class RelevanceEngine:
    """Keeps the private copy of a network and its modified weights between pictures.

    The copy is made again as soon as a parameter or buffer of the network changes. Copying or
    pickling the engine gives an empty one.

    Args:
        network: The classifier.
        read_logits: Takes logits out of what the classifier returns.
    """

    def __init__(self, read_logits: Callable[[object], Tensor]) -> None:
        self.read_logits = read_logits
        self.clear()

    def clear(self) -> None:
        """Forget the private copy."""
        self._lock = threading.RLock()
        self._copied: NetworkState | None = None
        self._private: PrivateNetwork | None = None

    def __deepcopy__(self, memo: dict) -> "RelevanceEngine":
        return RelevanceEngine(self.read_logits)

    def __reduce__(self) -> tuple:
        return RelevanceEngine, (self.read_logits,)

    def private_network(
        self, network: nn.Module, pixels: Tensor, derives_weights: bool = True
    ) -> PrivateNetwork:
        """The folded copy of the network as it is now.

        Args:
            network: The classifier.
            pixels: To compare logits on when the copy is made.
            derives_weights: Whether modified weights are kept, so that edits of weights that the
                copy shares with the network are to be looked for.
        """
        with exclusive_use(network), self._lock:
            if self._private is None or not self._copied.is_of(network, derives_weights):
                self._private = None
                self._private = private = PrivateNetwork(network, self.read_logits, pixels[:1])
                self._copied = NetworkState(network, private.made_by_a_pass, private.shared)
            if derives_weights and self._copied.keep_shared():
                self._private.forget_parts()
            return self._private

    def propagate(
        self,
        network: nn.Module,
        pixels: Tensor,
        class_labels: Tensor | None,
        rules: RuleSet,
        *,
        epsilon: float = 1e-6,
        start: str = "logit",
        bias_relevance: str = "absorb",
        bounds: tuple[Tensor, Tensor] | None = None,
        with_audit: bool = False,
        with_others: bool = False,
    ) -> Relevance:
        """Hand the score of each class down to the pixels.

        Args:
            network: The classifier; only its copy is run.
            pixels: Pictures, (B, C, H, W).
            class_labels: Classes to explain, (B, T) int64, or None for the most likely one.
            rules: Rule of each layer type.
            epsilon: Stabiliser of sums and poolings.
            start: Relevance of the explained logit; see `start_relevance`.
            bias_relevance: "absorb" lets biases keep their share, "ignore" leaves them out of the
                denominators, "uniform" spreads their share over the layer's inputs.
            bounds: Lowest and highest pixel, (1, C, 1, 1) each, for rule "z_box".
            with_audit: Keep the books of every layer.
            with_others: Also hand down the mean of all other classes.

        Raises:
            ValueError: An operation without a rule, or relevance that is not finite.
        """
        with torch.inference_mode(False), torch.enable_grad():
            pixels, device = pixels.detach(), pixels.device
            with (
                exclusive_use(network),  # whose weights may be those of the copy
                torch.autocast(device.type, enabled=False),
                exact_convolutions(device),
            ):
                private = self.private_network(network, pixels, rules.derives_weights)
                used = bounds if rules.first.name == "z_box" else None
                with private.lock:
                    cache = private.parts_cache((rules, bias_relevance))
                    state = PassState(
                        epsilon, bias_relevance, is_audited=with_audit, parts_cache=cache
                    )
                    _check_once(private, rules, state, used)
                    logits, pixels = _forward(private, pixels, rules, state, used)
                    labels = _labels(logits, class_labels)
                    starts = start_relevance(logits.detach(), labels, start)
                    seeds = [starts, others_start(logits, labels)] if with_others else [starts]
                    seeds = torch.cat(seeds, dim=1)
                    maps, ledgers = _backward(logits, pixels, seeds, state, with_audit)
        relevance = torch.stack(maps, dim=1).contiguous()
        if not with_audit and not bool(relevance.isfinite().all()):
            again = (network, pixels, labels, rules)
            settings = {"epsilon": epsilon, "start": start, "bias_relevance": bias_relevance}
            ledgers = self.propagate(*again, **settings, bounds=bounds, with_audit=True).ledgers
            raise _not_finite(ledgers)
        if not with_audit and bias_relevance == "uniform":
            _check_size(relevance, seeds)
        count = labels.shape[1]
        own, others = relevance[:, :count], relevance[:, count:] if with_others else None
        return Relevance(own, others, starts.sum(dim=2), logits.detach(), labels, ledgers)


@contextmanager
def exact_convolutions(device: torch.device) -> Generator[None]:
    """Keep cuDNN from rounding to TF32, three digits, which would not fold or conserve."""
    if device.type != "cuda":
        yield
        return
    was_allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = was_allowed


def start_relevance(logits: Tensor, class_labels: Tensor, start: str) -> Tensor:
    """Relevance of the logits that a pass starts with.

    Args:
        logits: (B, classes).
        class_labels: (B, T).
        start: "logit" is the class score itself, "one" is 1, "softmax_contrast" is 1 minus the
            softmax over all other classes (the gradient of the class probability, rescaled).

    Returns:
        (B, T, classes).

    Example:
        >>> start_relevance(torch.tensor([[2.0, 5.0]]), torch.tensor([[1]]), "logit")
        tensor([[[0., 5.]]])

    Source: the softmax contrast is that of Iwana et al. 2019, Softmax-Gradient LRP.
    """
    classes = logits.shape[1]
    chosen = torch.nn.functional.one_hot(class_labels, classes).to(logits.dtype)
    if start == "logit":
        return chosen * logits[:, None]
    if start == "one" or classes == 1:
        return chosen
    others = logits[:, None].masked_fill(chosen.bool(), -torch.inf)
    return chosen - others.softmax(dim=2)


def others_start(logits: Tensor, class_labels: Tensor) -> Tensor:
    """Relevance 1 shared by all classes but the explained one, (B, T, classes)."""
    classes = logits.shape[1]
    chosen = torch.nn.functional.one_hot(class_labels, classes).to(logits.dtype)
    return (1 - chosen) / max(classes - 1, 1)


def _forward(
    private: PrivateNetwork,
    pixels: Tensor,
    rules: RuleSet,
    state: PassState,
    bounds: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    layout = torch.channels_last if pixels.dim() == 4 else torch.contiguous_format
    # a copy, which may have a gradient and be changed by the network
    pixels = pixels.to(private.dtype, memory_format=layout, copy=True).requires_grad_()
    mode = RelevanceMode(rules, state, private.path, pixels, bounds)
    with mode:
        logits = private.logits(pixels)
        logits = _class_scores(logits)
    if not logits.requires_grad:
        raise ValueError(
            "the logits do not depend on the pixels through differentiable operations."
        )
    mode.check_seen([logits])
    return logits, pixels


def _class_scores(logits: Tensor) -> Tensor:
    """Of a fully convolutional classifier, positions averaged by their softmax, held constant."""
    if logits.dim() == 2:
        return logits
    if logits.dim() != 4:
        raise ValueError(
            "the classifier must return logits of shape (batch, classes) or (batch, "
            f"classes, height, width), got {tuple(logits.shape)}."
        )
    weights = logits.detach().flatten(2).softmax(dim=2)
    return (logits.flatten(2) * weights).sum(dim=2)


def _check_once(
    private: PrivateNetwork,
    rules: RuleSet,
    state: PassState,
    bounds: tuple[Tensor, Tensor] | None,
) -> None:
    """Compare the logits of a relevance pass with those of the network, once a copy."""
    if private.is_checked:
        return
    logits, _ = _forward(private, private.sample, rules, state, bounds)
    difference = relative_difference(logits.detach(), _class_scores(private.expected))
    if difference > MAX_LOGIT_DIFFERENCE:
        raise ValueError(
            f"the relevance pass gives logits that differ by {difference:.2g} of the largest "
            "from the network's, so the network contains an operation that cannot be "
            "traced, such as changing a tensor in place through a view; use NormGrad."
        )
    private.is_checked = True


def _labels(logits: Tensor, class_labels: Tensor | None) -> Tensor:
    if class_labels is None:
        return logits.argmax(dim=1, keepdim=True)
    check_class_range(class_labels, logits.shape[1])
    return class_labels.to(logits.device)


def _backward(
    logits: Tensor, pixels: Tensor, starts: Tensor, state: PassState, with_audit: bool
) -> tuple[list[Tensor], list[Ledger]]:
    maps, ledgers = [], []
    count = starts.shape[1]
    for index in range(count):  # inputs, outputs and denominators are shared by the classes
        state.ledger = Ledger() if with_audit else None
        state.is_last, state.is_everywhere = index + 1 == count, False
        (relevance,) = torch.autograd.grad(
            logits, pixels, starts[:, index], retain_graph=not state.is_last
        )
        maps.append(relevance)
        if state.ledger is not None:
            ledgers.append(state.ledger)
    return maps, ledgers


def _check_size(relevance: Tensor, seeds: Tensor) -> None:
    """Refuse a map that is made of rounding: relevance may cancel, but not all of its digits."""
    growth = relevance.flatten(2).abs().sum(dim=2) / seeds.abs().sum(dim=2).clamp(min=1e-30)
    largest = float(growth.max())
    if largest > _LARGEST_GROWTH:
        raise ValueError(
            f"relevance has grown to {largest:.1g} times its initial value, so only rounding "
            "errors are left: bias_relevance='uniform' keeps redistributing the share of "
            "small denominators; use bias_relevance='absorb', a larger epsilon, or rules "
            "with bounded shares such as linear_rule='z_plus'."
        )


def _not_finite(ledgers: list[Ledger]) -> ValueError:
    name = next(filter(None, (ledger.first_not_finite() for ledger in ledgers)), "the pixels")
    return ValueError(
        f"relevance is not finite from layer '{name}' downwards, because the denominators "
        "there are nearly zero. Use a larger epsilon, or a preset with bounded rules such "
        "as 'deep_taylor'."
    )
