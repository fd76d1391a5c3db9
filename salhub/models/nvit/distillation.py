"""What a network being pruned or fine-tuned learns from labels, a teacher and its former self."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from salhub.models.nvit.modeling_nvit import NViTClassifierOutput, at_least_float32

Objective = Literal["paper", "reference"]
TaughtTokens = Literal["both", "own"]


@dataclass(frozen=True)
class DistillationLoss:
    """Loss of every picture: labels, a CNN teacher, and the network before it was pruned.

    L = kl_weight KL(original || network) + L_CNN, with L_CNN = CE(class token, label) +
    CE(distillation token, class of the CNN) [P], or half of CE(mean of both, label) and half of the
    latter [R]. Without a CNN, or a network with one classifier, L_CNN = CE(logits, label).

    Args:
        objective: "paper" or "reference", of L_CNN.
        kl_weight: Of the divergence from the original, a mean over pictures. The published alpha
            = 1e5 is of a mean over pictures and 1,000 classes, and so 100 here [R].
        temperature: Of that divergence, without the factor of its square [R]: 3 while pruning, 20
            while fine-tuning.
        is_by_token: Compare each token with that of the original, and average [R, fine-tuning];
            otherwise compare their mean [R, pruning].
    """

    objective: Objective = "paper"
    kl_weight: float = 100.0
    temperature: float = 3.0
    is_by_token: bool = False

    def __call__(
        self,
        outputs: NViTClassifierOutput,
        labels: Tensor,
        *,
        original: NViTClassifierOutput | None = None,
        cnn_labels: Tensor | None = None,
    ) -> Tensor:
        """The loss.

        Args:
            outputs: Of the network.
            labels: int64 (B,).
            original: What the network gave before it was pruned; None to leave it out.
            cnn_labels: Classes that the CNN sees, int64 (B,); None to leave it out.

        Returns:
            float32 (B,).
        """
        total = self._labels(outputs, labels, cnn_labels)
        if original is not None and self.kl_weight:
            total = total + self.kl_weight * self._divergence(outputs, original)
        return total

    def _labels(
        self, outputs: NViTClassifierOutput, labels: Tensor, cnn_labels: Tensor | None
    ) -> Tensor:
        second = outputs.distillation_logits
        if cnn_labels is None or second is None:
            return _cross_entropy(outputs.logits, labels)
        of_cnn = _cross_entropy(second, cnn_labels)
        if self.objective == "reference":
            return (_cross_entropy(outputs.logits, labels) + of_cnn) / 2
        return _cross_entropy(outputs.cls_logits, labels) + of_cnn

    def _divergence(self, outputs: NViTClassifierOutput, original: NViTClassifierOutput) -> Tensor:
        if not self.is_by_token or outputs.distillation_logits is None:
            return divergence(outputs.logits, original.logits, self.temperature)
        pairs = (
            (outputs.cls_logits, original.cls_logits),
            (outputs.distillation_logits, original.distillation_logits),
        )
        first, second = (divergence(own, other, self.temperature) for own, other in pairs)
        return (first + second) / 2


def divergence(logits: Tensor, of_teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher || network) of every picture, at a temperature, without its square as a factor.

    Args:
        logits: (B, K).
        of_teacher: (B, K), through which no gradient goes.
        temperature: Above 0.
    """
    wanted = (at_least_float32(of_teacher.detach()) / temperature).log_softmax(-1)
    found = (at_least_float32(logits) / temperature).log_softmax(-1)
    return F.kl_div(found, wanted, reduction="none", log_target=True).sum(-1)


def soft_label_loss(
    outputs: NViTClassifierOutput, labels: Tensor, teacher_logits: Tensor | None,
    weight: float, temperature: float, taught_tokens: TaughtTokens = "own",
) -> Tensor:  # fmt: skip
    """What a network trained from nothing learns: labels, and the soft labels of a teacher.

    With l = (1 - w) CE(a token, label) + w T^2 KL(teacher || a token), it is the mean of l over
    both tokens; or, where each learns its own, (1 - w) CE(class token, label) + w T^2 KL(teacher ||
    distillation token). Where there is one classifier, it learns both [C].

    Args:
        outputs: Of the network.
        labels: int64 (B,).
        teacher_logits: (B, K); None for CE(logits, label) alone.
        weight: w, in [0, 1].
        temperature: T, above 0.
        taught_tokens: "both" learn labels and teacher, or each its "own".

    Returns:
        float32 (B,).

    Source: Hinton et al. 2015 (arXiv 1503.02531); Touvron et al. 2021 (arXiv 2012.12877), equation
    2, for the two tokens.
    """
    if teacher_logits is None:
        return _cross_entropy(outputs.logits, labels)
    first, second = outputs.cls_logits, outputs.distillation_logits
    if second is None:
        of_label = of_teacher = (outputs.logits,)
    elif taught_tokens == "both":
        of_label = of_teacher = (first, second)
    else:
        of_label, of_teacher = (first,), (second,)
    hard = torch.stack([_cross_entropy(one, labels) for one in of_label]).mean(0)
    soft = torch.stack([divergence(one, teacher_logits, temperature) for one in of_teacher])
    return (1 - weight) * hard + weight * temperature**2 * soft.mean(0)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(at_least_float32(logits), labels, reduction="none")
