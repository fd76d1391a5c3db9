"""How much each weight matters to what is to be forgotten."""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from salhub.errors import check_choice
from salhub.modeling import attribution_scope

logger = logging.getLogger(__name__)

Kind = Literal[
    "batch_mean_grad",
    "sample_mean_grad",
    "sum_abs",
    "fisher",
    "weight_times_grad",
    "magnitude",
    "random",
]
KINDS: tuple[str, ...] = get_args(Kind)
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
            are the keywords of the model and have "labels". All tensors, the first axis of each
            counts the samples. Moved to the model's device.
        loss: Takes the model and a batch and gives the loss of every sample, (B,). By default the
            cross-entropy of the logits, (B, C) or the `logits` of an output, with the labels.
        kind: What is scored.
            "batch_mean_grad": |sum over batches of the gradient of the batch's mean loss|, as the
            published experiments do it; a short last batch counts as much as a full one.
            "sample_mean_grad": |gradient of the mean loss over all samples|, the paper's formula.
            "sum_abs": sum over samples of |gradient|. "fisher": sum over samples of gradient^2.
            "weight_times_grad": |weight| times "sample_mean_grad". "magnitude": |weight|, and
            "random": uniform numbers, neither of which looks at data; they are controls.
        seed: Seed of "random", and of what loaders and losses draw, such as an order or noise; the
            state of torch's generators is put back.
        progress: Whether to show a bar over the batches.

    Returns:
        Parameter name -> float32 scores, 0 or more, of the parameter's shape, on its device; in the
        order of `named_parameters()`, frozen parameters left out.

    Raises:
        ValueError: An unknown kind, no data, labels that are no class, losses of a wrong shape,
            scores that are not finite or all 0, or a model with no trainable parameter.
        TypeError: Quantised parameters, parameters without values (device "meta"), or batches of
            another kind.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> batches = [(torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))]
        >>> compute_saliency(model, batches)["weight"].shape
        torch.Size([2, 3])

    Source: Fan et al. 2024 (arXiv 2310.12508), equation 4, and the code published with it. The sign
    of the loss does not matter to |gradient|.
    """
    check_choice("kind", kind, KINDS)
    parameters = _trainable(model)
    if kind == "random":
        return _random(parameters, seed)
    if kind == "magnitude":
        scores = {name: p.detach().float().abs() for name, p in parameters.items()}
    else:
        score = _over_samples if kind in _PER_SAMPLE else _of_means
        with attribution_scope(model), _seeded(seed):
            bar = tqdm(batches, desc="Weight saliency", unit="batch", disable=not progress)
            moved = on_device(bar, next(iter(parameters.values())).device)
            if loss is None:
                moved, loss = _with_known_labels(model, moved), classification_loss
            scores = score(model, parameters, moved, loss, kind)
    _check_scores(scores)
    return scores


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def classification_loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy of every sample of a batch, (B,); see `compute_saliency`.

    Raises:
        ValueError: No labels, or labels that are not one whole number a sample.
    """
    labels, logits = labels_of(batch), _logits(model, batch)
    if labels.is_floating_point() or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels must be one class number per sample, ({logits.shape[0]},), got "
            f"{labels.dtype} of shape {tuple(labels.shape)}."
        )
    return F.cross_entropy(logits, labels, reduction="none")


def gives_numbers(model: nn.Module, batches: Iterable[Any]) -> bool:
    """Whether the weights of a classifier, and its losses on some batches, are finite.

    Args:
        model: As of `compute_saliency`; its mode and running statistics stay.
        batches: As of `compute_saliency`.
    """
    device = next(model.parameters()).device
    with attribution_scope(model), torch.no_grad():
        losses = [classification_loss(model, batch) for batch in on_device(batches, device)]
    return all(bool(tensor.isfinite().all()) for tensor in (*model.parameters(), *losses))


def labels_of(batch: Any) -> Tensor:
    """The labels of a batch, which is a pair or a dictionary.

    Raises:
        ValueError: It has none.
    """
    if not isinstance(batch, Mapping):
        if len(batch) != 2:
            raise ValueError(
                f"a batch must be a pair (inputs, labels), got {len(batch)} tensors; give pairs, a "
                "dictionary, or a loss."
            )
        return batch[1]
    if "labels" not in batch:
        raise ValueError(
            f"a batch has {', '.join(batch)} and no 'labels'; name the classes 'labels', or give "
            "a loss."
        )
    return batch["labels"]


def _logits(model: nn.Module, batch: Any) -> Tensor:
    if isinstance(batch, Mapping):
        output = model(**{name: value for name, value in batch.items() if name != "labels"})
    else:
        output = model(batch[0])
    return output if isinstance(output, Tensor) else output.logits


@torch.no_grad()
def count_classes(model: nn.Module, batch: Any) -> int:
    """How many logits a model has for a sample of a batch."""
    return _logits(model, next(_parts(batch, 1))).shape[-1]


def _with_known_labels(model: nn.Module, batches: Iterator[Any]) -> Iterator[Any]:
    """Refuses labels that are no class: -100 would count as a loss of 0, unnoticed."""
    classes = None
    for batch in batches:
        labels = labels_of(batch)
        if classes is None:
            classes = count_classes(model, batch)
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(
                f"labels must be classes 0 to {classes - 1}, got {int(labels.min())} to "
                f"{int(labels.max())}; leave out samples without a class."
            )
        yield batch


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise TypeError(f"'{name}' is on the device 'meta' and has no values; load the model.")
        if parameter.is_quantized or not parameter.is_floating_point():
            raise TypeError(
                f"'{name}' is of {parameter.dtype}, which has no gradient; use the model "
                "before quantization."
            )
    for name, module in model.named_modules():
        # torch keeps their weights packed, where they are no parameters any more.
        if ".quantized" in type(module).__module__:
            raise TypeError(
                f"'{name}' is a {type(module).__name__} of {type(module).__module__}, whose "
                "weights have no gradient; use the model before quantization."
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


def on_device(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Batches, as of `compute_saliency`, where the model is.

    Raises:
        TypeError: Batches of another kind.
    """
    for batch in batches:
        named = isinstance(batch, Mapping)  # not only dict: processors give a class of their own
        values = list(batch.values()) if named else batch
        if not isinstance(values, tuple | list) or not all(isinstance(v, Tensor) for v in values):
            raise TypeError(
                "a batch must be a pair of tensors (inputs, labels) or a dictionary of "
                f"tensors, got {type(batch).__name__}; handle other inputs in the loss."
            )
        # A tensor made under inference mode takes no part in gradients, but its copy does.
        values = [(v.clone() if v.is_inference() else v).to(device) for v in values]
        yield dict(zip(batch, values, strict=True)) if named else tuple(values)


def gradient_sums(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    batches: Iterable[Any],
    loss: Loss = classification_loss,
    *,
    of_batch_means: bool = False,
) -> tuple[dict[str, Tensor], int]:
    """Sum gradients over data, signs kept, in the mode that the model is in.

    Args:
        model: Any module.
        parameters: Those to differentiate by, by name.
        batches: On the device of the model, as of `compute_saliency`.
        loss: As of `compute_saliency`.
        of_batch_means: Sum the gradient of the mean loss of each batch, not of each sample's.

    Returns:
        Name -> float32 sum, and the number of samples.

    Raises:
        ValueError: A loss of a wrong shape, or that does not depend on the weights.
    """
    tensors = list(parameters.values())
    sums = [torch.zeros_like(p, dtype=torch.float32) for p in tensors]
    count = 0
    for batch in batches:
        losses = _checked(loss(model, batch), _size(batch))
        if not losses.requires_grad:
            raise ValueError("the loss does not depend on the weights; it must not be detached.")
        count += len(losses)
        value = losses.mean() if of_batch_means else losses.sum()
        found = torch.autograd.grad(value, tensors, allow_unused=True)
        for total, one in zip(sums, found, strict=True):
            if one is not None:
                total += one
    return dict(zip(parameters, sums, strict=True)), count


def _of_means(
    model: nn.Module, parameters: dict[str, nn.Parameter], batches, loss: Loss, kind: str
) -> dict[str, Tensor]:
    """The size of one gradient summed over all batches, signs kept until the end."""
    of_batch_means = kind == "batch_mean_grad"
    found, count = gradient_sums(model, parameters, batches, loss, of_batch_means=of_batch_means)
    sums = list(found.values())
    if not of_batch_means and count:
        torch._foreach_div_(sums, float(count))
    if kind == "weight_times_grad":
        torch._foreach_mul_(sums, [p.detach().float() for p in parameters.values()])
    torch._foreach_abs_(sums)
    return dict(zip(parameters, sums, strict=True))


def _over_samples(
    model: nn.Module, parameters: dict[str, nn.Parameter], batches, loss: Loss, kind: str
) -> dict[str, Tensor]:
    """Sizes or squares of the gradients of single samples, summed."""
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    for gradients in gradients_of_samples(model, parameters, batches, loss):
        for name, found in gradients.items():
            values = found.float()
            sums[name] += (values.abs() if kind == "sum_abs" else values.square()).sum(0)
    return sums


def gradients_of_samples(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    batches: Iterable[Any],
    loss: Loss = classification_loss,
) -> Iterator[dict[str, Tensor]]:
    """The gradient of each sample's loss by itself, many samples in one pass.

    Args:
        model, parameters, batches, loss: As of `gradient_sums`.

    Yields:
        Name -> (B, ...) for some samples after the other, so few that they fit into memory.
    """
    fixed = {name: p.detach() for name, p in model.named_parameters() if name not in parameters}
    fixed |= dict(model.named_buffers())
    weights = {name: p.detach() for name, p in parameters.items()}
    module = _LossOfOne(model, loss)

    def of_one(weights: dict[str, Tensor], sample: Any) -> Tensor:
        state = {f"model.{name}": value for name, value in (weights | fixed).items()}
        return functional_call(module, state, (sample,))

    size = sum(p.numel() * p.element_size() for p in weights.values())
    at_once = max(1, _SAMPLE_GRADIENT_BYTES // size)
    gradients = vmap(grad(of_one), in_dims=(None, 0), randomness="different")
    for batch in batches:
        for part in _parts(batch, at_once):
            yield _sample_gradients(gradients, of_one, weights, part)


def _sample_gradients(gradients, of_one, weights: dict[str, Tensor], part: Any):
    """Parameter name -> gradients of single samples, (B, ...)."""
    try:
        # The fused attention has no rule for samples one by one.
        with sdpa_kernel(SDPBackend.MATH):
            return gradients(weights, part)
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
    # Code that looks at values, such as a padding mask, cannot run for several samples at once.
    found = [grad(of_one)(weights, _picked(part, place)) for place in range(_size(part))]
    return {name: torch.stack([one[name] for one in found]) for name in weights}


class _LossOfOne(nn.Module):
    """The loss of a single sample, which comes without the axis of the batch."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, sample: Any) -> Tensor:
        return _checked(self.loss(self.model, _picked(sample, None)), 1)[0]


def _parts(batch: Any, size: int) -> Iterator[Any]:
    return (_picked(batch, slice(i, i + size)) for i in range(0, _size(batch), size))


def _picked(batch: Any, samples: int | slice | None) -> Any:
    """Some samples of a batch; `None` makes a batch of a single sample."""
    if isinstance(batch, dict):
        return {name: value[samples] for name, value in batch.items()}
    return tuple(value[samples] for value in batch)


def _size(batch: Any) -> int:
    return len(next(iter(batch.values())) if isinstance(batch, dict) else batch[0])


def _checked(losses: Tensor, size: int) -> Tensor:
    if losses.shape != (size,):
        raise ValueError(
            f"the loss must return one number per sample, ({size},), got shape "
            f"{tuple(losses.shape)}; use reduction='none'."
        )
    return losses


def _check_scores(scores: dict[str, Tensor]) -> None:
    for name, values in scores.items():
        if not bool(torch.isfinite(values).all()):
            raise ValueError(
                f"the scores of '{name}' are not finite; check the data, the weights and their "
                "precision."
            )
    if not any(bool(values.any()) for values in scores.values()):
        raise ValueError(
            "all scores are 0: there was no data, or the loss does not depend on the "
            "weights; give the samples to forget."
        )
