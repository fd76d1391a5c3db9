"""Meta-saliency: one gradient step on the network, for one picture and class, before its map."""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from salhub.models.normgrad.class_scores import class_scores


class ParameterizedClassifier(nn.Module):
    """Runs an explained classifier with other parameters than its own, leaving those untouched.

    Args:
        model: An `ExplainedClassifierModel`.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits of the pictures."""
        return self.model.classify(pixel_values)

    def classify(self, pixel_values: Tensor, parameters: Mapping[str, Tensor] | None) -> Tensor:
        """Logits with `parameters` (names as in this module) in place of the network's."""
        if parameters is None:
            return self(pixel_values)
        return functional_call(self, dict(parameters), (pixel_values,))


def stepped_parameters(
    classifier: ParameterizedClassifier,
    pixel_values: Tensor,
    class_labels: Tensor | None,
    *,
    step: float,
    ascend: bool = False,
) -> Iterator[tuple[Tensor, int, dict[str, Tensor]]]:
    """Yields, for each class of one picture, the parameters after one step on its loss.

    theta' = theta - step * d cross_entropy(logits(picture; theta), class) / d theta. All parameters
    move, those of batch normalisation included; its running statistics do not. First order: the
    map is not differentiated through the step.

    Args:
        classifier: The network, in evaluation mode.
        pixel_values: One picture, (1, 3, H, W).
        class_labels: int64 (T,), or None for the most likely class.
        step: Step size (eps).
        ascend: Step up the loss instead of down.

    Yields:
        Scores (1, C) before the step, the class, and the shifted parameters by name.

    Raises:
        ValueError: The network has no floating-point parameters, or its loss no finite gradient.

    Source: Rebuffi et al. 2020, meta-saliency; the step there is on the mean loss of a batch, here
    on each picture's own, so that a map does not depend on what it was batched with.
    """
    parameters = _shadow_parameters(classifier)
    logits = classifier.classify(pixel_values.clone(), parameters)
    scores = class_scores(logits)
    labels = scores.argmax(-1) if class_labels is None else class_labels
    for index, label in enumerate(labels):
        loss = F.cross_entropy(scores.float(), label[None])
        gradients = torch.autograd.grad(
            loss,
            list(parameters.values()),
            retain_graph=index < len(labels) - 1,
            allow_unused=True,
        )
        signed_step = step if ascend else -step
        shifted = _shift(parameters, gradients, signed_step)
        yield scores.detach(), int(label), shifted


def _shadow_parameters(classifier: nn.Module) -> dict[str, Tensor]:
    """Leaves with the parameters' values; the parameters' own flags are not touched."""
    # Copies: kernels round by the alignment of memory, and that of a loaded file varies.
    shadows = {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in classifier.named_parameters()
        if parameter.is_floating_point()
    }
    if not shadows:
        raise ValueError(
            "meta_step needs a network with floating-point parameters; this one has none, "
            "like all quantized networks. Use meta_step=0."
        )
    return shadows


def _shift(parameters: dict[str, Tensor], gradients, signed_step: float) -> dict[str, Tensor]:
    shifted = {}
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        if gradient is None:
            continue
        if not torch.isfinite(gradient).all():
            raise ValueError(
                f"the loss has a NaN or infinite gradient at '{name}', so no meta step can be "
                "taken; check the network's precision (try float32) and its weights."
            )
        shifted[name] = torch.add(parameter.detach(), gradient, alpha=signed_step)
    return shifted
