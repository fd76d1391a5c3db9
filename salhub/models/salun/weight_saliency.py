"""How much each weight matters to what is to be forgotten."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from salhub.errors import did_you_mean
from salhub.modeling import attribution_scope

logger = logging.getLogger(__name__)

KINDS = (
    "batch_mean_grad",
    "sample_mean_grad",
    "sum_abs",
    "fisher",
    "weight_times_grad",
    "magnitude",
    "random",
)
_PER_SAMPLE = ("sum_abs", "fisher")
# Gradients of single samples that exist at one time.
_SAMPLE_GRADIENT_BYTES = 2**28

Loss = Callable[[nn.Module, Any], Tensor]


def compute_saliency(
    model: nn.Module,
    batches: Iterable[Any] = (),
    loss: Loss | None = None,
    *,
    kind: str = "batch_mean_grad",
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Tensor]:
    """Score every weight of a model by its part in the loss on some data.

    The model runs in evaluation mode: running statistics, no dropout. It is left as it was.

    Args:
        model: Any module.
        batches: The data, for example a DataLoader: pairs (inputs, labels), or dictionaries that
            are the keywords of the model and have "labels". Moved to the model's device.
        loss: Takes the model and a batch and gives the loss of every sample, (B,). By default the
            cross-entropy of the logits, (B, C) or the `logits` of an output, with the labels.
        kind: What is scored.
            "batch_mean_grad": |sum over batches of the gradient of the batch's mean loss|, as the
            published experiments do it; a short last batch counts as much as a full one.
            "sample_mean_grad": |gradient of the mean loss over all samples|, the paper's formula.
            "sum_abs": sum over samples of |gradient|. "fisher": sum over samples of gradient^2.
            "weight_times_grad": |weight| times "sample_mean_grad". "magnitude": |weight|, and
            "random": uniform numbers, neither of which looks at data; they are controls.
        seed: Seed of "random".
        progress: Whether to show a bar over the batches.

    Returns:
        Parameter name -> float32 scores, 0 or more, of the parameter's shape, on its device; in the
        order of `named_parameters()`, frozen parameters left out.

    Raises:
        ValueError: An unknown kind, no data, losses of a wrong shape or not finite, scores that are
            all 0, or a model with no trainable parameter.
        TypeError: Quantised parameters, or parameters without values (device "meta").

    Example:
        >>> model = nn.Linear(3, 2)
        >>> batches = [(torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))]
        >>> compute_saliency(model, batches)["weight"].shape
        torch.Size([2, 3])

    Source: Fan et al. 2024 (arXiv 2310.12508), equation 4, and the code published with it. The sign
    of the loss does not matter to |gradient|.
    """
    if kind not in KINDS:
        raise ValueError(
            f"kind must be one of {', '.join(KINDS)}, got {kind!r}.{did_you_mean(kind, KINDS)}"
        )
    parameters = _trainable(model)
    if kind == "random":
        return _random(parameters, seed)
    if kind == "magnitude":
        return {name: p.detach().abs().float() for name, p in parameters.items()}
    with attribution_scope(model):
        bar = tqdm(batches, desc="Weight saliency", unit="batch", disable=not progress)
        moved = _moved(bar, next(iter(parameters.values())).device)
        if kind in _PER_SAMPLE:
            scores = _over_samples(model, parameters, moved, loss or classification_loss, kind)
        else:
            scores = _of_means(model, parameters, moved, loss or classification_loss, kind)
    _check_scores(scores)
    return scores


def classification_loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy of every sample of a batch, (B,); see `compute_saliency`.

    Raises:
        ValueError: Labels that are no class of the logits, or no labels.
    """
    if isinstance(batch, dict):
        if "labels" not in batch:
            raise ValueError(
                f"a batch has {', '.join(batch)} and no 'labels'; name the classes 'labels', or "
                "give a loss."
            )
        labels = batch["labels"]
        output = model(**{name: value for name, value in batch.items() if name != "labels"})
    else:
        inputs, labels = batch
        output = model(inputs)
    logits = output if isinstance(output, Tensor) else output.logits
    if labels.is_floating_point() or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels must be one class number a sample, ({logits.shape[0]},), got {labels.dtype} "
            f"of shape {tuple(labels.shape)}."
        )
    return F.cross_entropy(logits, labels, reduction="none")


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise TypeError(f"'{name}' is on the device 'meta' and has no values; load the model.")
        if parameter.is_quantized or not parameter.is_floating_point():
            raise TypeError(
                f"'{name}' is of {parameter.dtype}, which has no gradient; use the model before it "
                "was quantised."
            )
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    if not parameters:
        raise ValueError("the model has no parameter with requires_grad, so none can be scored.")
    if frozen:
        logger.warning("%d frozen parameters get no score: %s", len(frozen), ", ".join(frozen))
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    tied = sorted(set(names) - parameters.keys() - set(frozen))
    if tied:
        logger.warning("tied to a parameter that is scored already: %s", ", ".join(tied))
    return parameters


def _random(parameters: dict[str, nn.Parameter], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(p.shape, generator=generator).to(p.device)
        for name, p in parameters.items()
    }


def _moved(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    for batch in batches:
        if isinstance(batch, dict):
            yield {name: value.to(device) for name, value in batch.items()}
        else:
            yield tuple(value.to(device) for value in batch)


def _of_means(
    model: nn.Module, parameters: dict[str, nn.Parameter], batches, loss: Loss, kind: str
) -> dict[str, Tensor]:
    """The size of one gradient summed over all batches, signs kept until the end."""
    tensors = list(parameters.values())
    sums = [torch.zeros_like(p, dtype=torch.float32) for p in tensors]
    count = 0
    for batch in batches:
        losses = _checked(loss(model, batch))
        count += len(losses)
        value = losses.mean() if kind == "batch_mean_grad" else losses.sum()
        found = torch.autograd.grad(value, tensors, allow_unused=True)
        for total, one in zip(sums, found, strict=True):
            if one is not None:
                total += one
    if kind != "batch_mean_grad" and count:
        torch._foreach_div_(sums, float(count))
    if kind == "weight_times_grad":
        torch._foreach_mul_(sums, [p.detach().float() for p in tensors])
    torch._foreach_abs_(sums)
    return dict(zip(parameters, sums, strict=True))


def _over_samples(
    model: nn.Module, parameters: dict[str, nn.Parameter], batches, loss: Loss, kind: str
) -> dict[str, Tensor]:
    """Sizes or squares of the gradients of single samples, summed."""
    fixed = {name: p.detach() for name, p in model.named_parameters() if name not in parameters}
    fixed |= dict(model.named_buffers())
    weights = {name: p.detach() for name, p in parameters.items()}
    module = _LossOfOne(model, loss)

    def of_one(weights: dict[str, Tensor], sample: Any) -> Tensor:
        state = {f"model.{name}": value for name, value in (weights | fixed).items()}
        return functional_call(module, state, (sample,))

    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in weights.items()}
    size = sum(p.numel() * p.element_size() for p in weights.values())
    at_once = max(1, _SAMPLE_GRADIENT_BYTES // size)
    gradients = vmap(grad(of_one), in_dims=(None, 0), randomness="error")
    for batch in batches:
        for part in _parts(batch, at_once):
            # The fused attention has no rule for samples one by one.
            with sdpa_kernel(SDPBackend.MATH):
                by_sample = gradients(weights, part)
            for name, found in by_sample.items():
                values = found.float()
                sums[name] += (values.abs() if kind == "sum_abs" else values.square()).sum(0)
    return sums


class _LossOfOne(nn.Module):
    """The loss of a single sample, which comes without the axis of the batch."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, sample: Any) -> Tensor:
        if isinstance(sample, dict):
            batch: Any = {name: value[None] for name, value in sample.items()}
        else:
            batch = tuple(value[None] for value in sample)
        return self.loss(self.model, batch)[0]


def _parts(batch: Any, size: int) -> Iterator[Any]:
    values = list(batch.values()) if isinstance(batch, dict) else list(batch)
    columns = zip(*(value.split(size) for value in values), strict=True)
    for column in columns:
        yield dict(zip(batch, column, strict=True)) if isinstance(batch, dict) else tuple(column)


def _checked(losses: Tensor) -> Tensor:
    if losses.ndim != 1:
        raise ValueError(
            f"the loss must give one number a sample, (B,), got shape {tuple(losses.shape)}; use "
            "reduction='none'."
        )
    if not losses.requires_grad:
        raise ValueError("the loss does not depend on the weights; it must not be detached.")
    return losses


def _check_scores(scores: dict[str, Tensor]) -> None:
    for name, values in scores.items():
        if not bool(torch.isfinite(values).all()):
            raise ValueError(
                f"the gradient of '{name}' is not finite; check the data and the model's precision."
            )
    if not any(bool(values.any()) for values in scores.values()):
        raise ValueError(
            "all scores are 0: there was no data, or the loss does not depend on the weights; give "
            "the samples that are to be forgotten."
        )
