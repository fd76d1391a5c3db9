"""The two terms of Rep-MTL, as functions of shared features and the losses computed from them.

Source: "Rep-MTL: Unleashing the Power of Representation-level Task Saliency for Multi-Task
Learning", ICCV 2025 (arXiv 2507.21049), equations 3 to 9. There is no reference code. The affinity
matrices of C x C numbers, of which equations 7 to 9 speak, are never formed: their inner products
and norms are those of much smaller matrices, exactly.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from salhub.errors import check_choice

Reduction = Literal["mean", "sum"]
Denominator = Literal["negatives", "infonce"]
Pairing = Literal["index", "per_task"]
Losses = Mapping[str, Tensor] | Sequence[Tensor]

_LOG_EPSILON = 1e-8
# What rounding makes of a cosine of 1.
_ROUNDING = 1e-5


class Alignment(NamedTuple):
    """Cross-task alignment of a batch.

    Args:
        loss: L_csa, ().
        similarity: Mean cosine of a sample's anchor and its tasks' affinities, detached, in [0, 1].
    """

    loss: Tensor
    similarity: Tensor


class RepMTLTerms(NamedTuple):
    """What `rep_mtl_terms` finds.

    Args:
        tsr: Mean entropy over tasks, () in [0, ln T]; None with `multi_input="per_task"`, where
            tasks share no positions.
        csa: Cross-task alignment, (); None for a batch of one, which has no negatives.
        saliency: Task saliency without its graph, float32 or float64, (T, B, C, N): N positions.
        similarity: Mean cosine that `csa` raises, detached; None where `csa` is.
        silent: Share of the positions where no task has any saliency, (); they are left out of
            `tsr`.
    """

    tsr: Tensor | None
    csa: Tensor | None
    saliency: Tensor
    similarity: Tensor | None
    silent: Tensor


def rep_mtl_terms(
    shared: Tensor | Sequence[Tensor],
    losses: Losses,
    *,
    temperature: float = 0.5,
    reduction: Reduction = "mean",
    denominator: Denominator = "negatives",
    multi_input: Pairing = "index",
    create_graph: bool = True,
) -> RepMTLTerms:
    """Both terms of Rep-MTL, to be added to the losses before `backward`.

    They use second derivatives, so heads must be differentiable twice, and `shared` must be the
    same tensor that the heads receive.

    Args:
        shared: Features (B, C, H, W), tokens (B, N, C) or vectors (B, C); one tensor for all tasks,
            or one a task, of one shape, where each task has pictures of its own.
        losses: Scalar loss of each task, the mean over the batch, after log transform and weighting
            where there are any: name -> (), or a sequence.
        temperature: tau of equation 9, above 0; not given in the paper.
        reduction: Reduction of `csa` over tasks.
        denominator: "negatives" as printed, or "infonce" with the positive among them.
        multi_input: With one tensor a task: "index" pairs the tasks' pictures by their place in the
            batch; "per_task" takes anchors and negatives of each task alone, and has no `tsr`.
        create_graph: False to only compute the numbers, without gradients for training.

    Returns:
        The terms, in float32 at least.

    Raises:
        ValueError: Fewer than two tasks, a loss that is not a finite scalar or does not depend on
            `shared`, or features of another shape.

    Example:
        >>> shared = torch.rand(4, 8, 3, 3, requires_grad=True)
        >>> losses = {"a": shared.square().mean(), "b": shared[:, :4].exp().mean()}
        >>> terms = rep_mtl_terms(shared, losses)
        >>> 0 <= float(terms.tsr) <= 0.6932
        True

    Source: equations 3 to 9 of arXiv 2507.21049.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}.")
    check_choices(reduction, denominator, multi_input)
    named = named_losses(losses)
    if len(named) < 2:
        raise ValueError(f"Rep-MTL needs two tasks or more, got {len(named)}.")
    saliency = task_saliency(shared, named, create_graph=create_graph)
    with torch.autocast(saliency.device.type, enabled=False), torch.set_grad_enabled(create_graph):
        is_paired = multi_input == "index" or isinstance(shared, Tensor)
        tsr, silent = specific_saliency(saliency)
        found = None
        if saliency.shape[1] > 1:
            found = cross_task_alignment(
                saliency,
                temperature=temperature,
                reduction=reduction,
                denominator=denominator,
                own_anchors=not is_paired,
            )
    return RepMTLTerms(
        tsr if is_paired else None,
        found and found.loss,
        saliency.detach(),
        found and found.similarity,
        silent,
    )


def check_choices(reduction: str, denominator: str, multi_input: str, prefix: str = "") -> None:
    """Raise ValueError unless these are words that the terms know.

    Args:
        reduction, denominator, multi_input: As of `rep_mtl_terms`.
        prefix: What stands before the first two in the caller's names.
    """
    check_choice(f"{prefix}reduction", reduction, get_args(Reduction))
    check_choice(f"{prefix}denominator", denominator, get_args(Denominator))
    check_choice("multi_input", multi_input, get_args(Pairing))


def named_losses(losses: Losses) -> dict[str, Tensor]:
    """Losses by name, each a finite scalar.

    Raises:
        ValueError: One is no scalar, NaN or infinite; naming it.
    """
    named = dict(
        losses.items()
        if isinstance(losses, Mapping)
        else ((str(index), loss) for index, loss in enumerate(losses))
    )
    for name, loss in named.items():
        if not isinstance(loss, Tensor) or loss.ndim:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"The loss of task '{name}' must be a scalar tensor, got {shape}.")
    if named and not bool(
        torch.stack([one.detach().float() for one in named.values()]).isfinite().all()
    ):
        name = next(key for key, one in named.items() if not bool(one.isfinite()))
        raise ValueError(
            f"The loss of task '{name}' is {float(named[name])}; check for labels out of "
            "range, or use a smaller learning rate."
        )
    return named


def log_losses(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The logarithm of each loss plus 1e-8, so that no task rules by the scale of its loss.

    Args:
        losses: Name -> (), 0 or more; what rounding brings below 0 counts as 0.

    Raises:
        ValueError: A negative loss, naming it.

    Example:
        >>> {name: round(float(one), 3) for name, one in log_losses({"a": torch.ones(())}).items()}
        {'a': 0.0}

    Source: the appendix of arXiv 2507.21049, which says that all its benchmarks do so.
    """
    for name, loss in losses.items():
        if bool(loss < -_ROUNDING):
            raise ValueError(
                f"The loss of task '{name}' is {float(loss):.4g}, which has no logarithm; "
                "use losses of 0 or more, or log_transform=False."
            )
    return {name: log_of(loss) for name, loss in losses.items()}


def log_of(losses: Tensor) -> Tensor:
    """The logarithm of losses plus 1e-8, in float32 at least; below 0 they count as 0."""
    losses = losses if losses.dtype == torch.float64 else losses.float()
    return (losses.clamp_min(0) + _LOG_EPSILON).log()


def task_saliency(
    shared: Tensor | Sequence[Tensor], losses: Mapping[str, Tensor], *, create_graph: bool = True
) -> Tensor:
    """The gradient of each task's loss with respect to the shared features, (T, B, C, N).

    One pass back through each head, and none through the encoder.

    Args:
        shared: As of `rep_mtl_terms`.
        losses: Name -> ().
        create_graph: Whether it can be differentiated again.

    Raises:
        ValueError: A loss that does not depend on the features, naming its task.

    Source: equation 3 of arXiv 2507.21049.
    """
    of_tasks = [shared] * len(losses) if isinstance(shared, Tensor) else list(shared)
    if len(of_tasks) != len(losses) or len({one.shape for one in of_tasks}) != 1:
        raise ValueError(
            f"Each of {len(losses)} tasks needs features of one shape, got "
            f"{[tuple(one.shape) for one in of_tasks]}."
        )
    if of_tasks[0].ndim not in (2, 3, 4):
        raise ValueError(
            "Shared features have shape (B, C, H, W), (B, N, C) or (B, C), got "
            f"{tuple(of_tasks[0].shape)}."
        )
    gradients = []
    for (name, loss), features in zip(losses.items(), of_tasks, strict=True):
        gradient = None
        if loss.requires_grad and features.requires_grad:
            [gradient] = torch.autograd.grad(
                loss, features, create_graph=create_graph, retain_graph=True, allow_unused=True
            )
        if gradient is None:
            raise ValueError(
                f"The loss of task '{name}' does not depend on the shared features; pass the "
                "same tensor that its head receives, not detached and not created under "
                "no_grad."
            )
        if create_graph and not gradient.requires_grad:
            # What torch gives where it cannot differentiate again has no graph either.
            raise ValueError(
                f"The saliency of task '{name}' does not depend on any weight, so it cannot "
                "train anything; give its head trainable weights, and avoid operations with "
                "once_differentiable."
            )
        gradients.append(gradient)
    stacked = torch.stack(gradients)
    if create_graph:
        _refuse_single_derivatives(stacked, of_tasks)
    stacked = stacked if stacked.dtype == torch.float64 else stacked.float()
    if stacked.ndim == 4:  # tokens have their channels last
        return stacked.transpose(2, 3)
    return stacked[..., None] if stacked.ndim == 3 else stacked.flatten(3)


def specific_saliency(saliency: Tensor) -> tuple[Tensor, Tensor]:
    """L_tsr, the mean entropy over tasks of the positions, and the share of silent positions.

    Args:
        saliency: (T, B, C, N).

    Returns:
        The entropy, () in [0, ln T], and the share, ().

    Source: equations 4 to 6 of arXiv 2507.21049: the mean over channels keeps its sign, and then
    its absolute value is taken.
    """
    shares = position_shares(saliency)
    is_heard = shares.detach().sum(0) > 0
    # 0 ln 0 is 0, and so is its gradient.
    entropy = -(shares * torch.where(shares > 0, shares, 1).log()).sum(0)
    count = is_heard.sum()
    return entropy.sum() / count.clamp_min(1), 1 - count / is_heard.numel()


def position_shares(saliency: Tensor) -> Tensor:
    """How the tasks share each position, P of equation 5: (T, B, N), 0 where all are silent.

    Args:
        saliency: (T, B, C, N).
    """
    size = saliency.mean(2).abs()
    total = size.sum(0)
    return size / torch.where(total > 0, total, 1)


def cross_task_alignment(
    saliency: Tensor,
    *,
    temperature: float,
    reduction: Reduction = "mean",
    denominator: Denominator = "negatives",
    own_anchors: bool = False,
) -> Alignment:
    """L_csa: each task's channel affinities near the anchor of their own sample, by contrast.

    Samples and tasks without saliency have no direction, and take no part.

    Args:
        saliency: (T, B, C, N), B of 2 or more.
        temperature, reduction, denominator: As of `rep_mtl_terms`.
        own_anchors: Each task has anchors and negatives of its own.

    Source: equations 7 to 9 and figure 2 of arXiv 2507.21049.
    """
    tasks, batch = saliency.shape[:2]
    # The anchors mix tasks, so that all of them are divided by one number.
    low, high = saliency.detach().aminmax()
    largest = torch.maximum(-low, high)
    saliency = saliency * torch.where(largest > 0, largest, 1).reciprocal()
    means = saliency.mean(3)  # (T, B, C)
    # (G, B, K, C): columns of an anchor, of one group of all tasks or of a group for each.
    anchors = means[:, :, None] if own_anchors else means.transpose(0, 1)[None]
    groups, columns = anchors.shape[0], anchors.shape[2]
    # <A A^T, B B^T> = |A^T B|^2, and the same of the affinity S S^T.
    rows = anchors.reshape(groups, batch * columns, -1)
    products = (rows @ rows.transpose(1, 2)).square()
    between = products.view(groups, batch, columns, batch, columns).sum((2, 4))
    with_own, own = _Affinities.apply(saliency, anchors)  # (T, B) each

    anchor_sizes = between.diagonal(dim1=1, dim2=2)
    scale_of_anchor, scale_of_own = _reciprocal_root(anchor_sizes), _reciprocal_root(own)
    positive = with_own * scale_of_anchor * scale_of_own
    negative = between * scale_of_anchor[:, :, None] * scale_of_anchor[:, None]
    is_there = anchor_sizes > 0
    counts = is_there[:, None] & ~torch.eye(batch, dtype=torch.bool, device=saliency.device)
    has_negatives = counts.any(2)
    logits = (negative / temperature).masked_fill(~counts, float("-inf"))
    logits = torch.where(has_negatives[:, :, None], logits, 0).logsumexp(2).expand(tasks, batch)
    if denominator == "infonce":
        logits = torch.logaddexp(logits, positive / temperature)
    takes_part = (own > 0) & is_there & has_negatives
    number = takes_part.sum() if reduction == "mean" else takes_part.any(0).sum()
    loss = torch.where(takes_part, logits - positive / temperature, 0).sum() / number.clamp_min(1)
    similarity = torch.where(takes_part, positive, 0).sum() / takes_part.sum().clamp_min(1)
    return Alignment(loss, similarity.detach())


class _Affinities(torch.autograd.Function):
    """Inner products of affinities with anchors, |A S|^2, and squared sizes of them, |S S^T|^2.

    Written with its gradient, since both share the products that take the time.
    """

    @staticmethod
    def forward(ctx: Any, saliency: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        turned = saliency.transpose(2, 3)
        ctx.is_wide = saliency.shape[2] > saliency.shape[3]
        products = turned @ saliency if ctx.is_wide else saliency @ turned
        # The smaller of both kinds of products serves for A S as well: |A S|^2 = <A^T A, S S^T>.
        seen = anchors @ (saliency if ctx.is_wide else products)
        with_own = (seen.square() if ctx.is_wide else seen * anchors).sum((2, 3))
        ctx.save_for_backward(saliency, anchors, products, seen)
        return with_own, products.square().sum((2, 3))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_with_own: Tensor, of_own: Tensor) -> tuple:  # type: ignore[override]
        saliency, anchors, products, seen = ctx.saved_tensors
        double, fourfold = 2 * of_with_own[..., None, None], 4 * of_own[..., None, None]
        turned = anchors.transpose(2, 3)
        if ctx.is_wide:
            of_saliency = saliency @ (fourfold * products) + turned @ (double * seen)
            of_anchors = double * (seen @ saliency.transpose(2, 3))
        else:
            of_saliency = (fourfold * products + turned @ (double * anchors)) @ saliency
            of_anchors = double * seen
        # One group of anchors is that of all tasks.
        return of_saliency, of_anchors.sum_to_size(anchors.shape)


def _reciprocal_root(squares: Tensor) -> Tensor:
    """1 / sqrt, and 0 of 0 with a gradient of 0."""
    is_there = squares > 0
    return torch.where(is_there, torch.where(is_there, squares, 1).rsqrt(), 0)


def _refuse_single_derivatives(saliency: Tensor, shared: Sequence[Tensor]) -> None:
    """Refuse what cannot be differentiated again here, where it can be told why.

    Raises:
        ValueError: Some operation of a head has no second derivative.
    """
    # What lies before the features is differentiated once.
    seen = {features.grad_fn for features in shared}
    waiting = [saliency.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().split("::")[-1] in ("NotImplemented", "Error", "DelayedError"):
            raise ValueError(
                "A head contains an operation without a second derivative, which Rep-MTL "
                "needs; for attention set attn_implementation='eager', and in a "
                "torch.autograd.Function leave out once_differentiable."
            )
        waiting += [parent for parent, _ in node.next_functions]
