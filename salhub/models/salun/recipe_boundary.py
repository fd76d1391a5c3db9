"""`salhub unlearn be` and `bs`: unlearning that moves the boundaries of the forgotten classes.

Source: Chen et al., "Boundary Unlearning", 2023 (arXiv 2303.11570), sections 4.1 and 4.2.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput

from salhub.modeling import attribution_scope
from salhub.models.salun.unlearning import UnlearningArguments, UnlearningRecipe
from salhub.models.salun.weight_mask import WeightMask
from salhub.runner.arguments import check_positive
from salhub.runner.batches import Batch


@dataclass(kw_only=True)
class BoundaryArguments(UnlearningArguments):
    """Options of `BoundaryExpandingRecipe`."""

    learning_rate: float = 1e-5


class BoundaryExpandingRecipe(UnlearningRecipe):
    """BE: learns an extra class for the pictures to forget, and removes that class afterwards."""

    name = "be"
    arguments_class = BoundaryArguments
    learns_retained = False

    def network(self) -> nn.Module:
        return ExpandedClassifier(self.base_model, self.num_classes)

    def mask_of(self, model: nn.Module) -> WeightMask:
        # The mask was made before there was a further output, which is dropped and may move.
        mask = super().mask_of(model)
        opened = {
            f"extra.{name}": torch.ones(p.shape, dtype=torch.bool)
            for name, p in model.extra.named_parameters()
        }
        inner = {f"classifier.{name}": tensor for name, tensor in mask.tensors.items()}
        return WeightMask(inner | opened, mask.saliency, mask.ratio)

    def fetch_forget(self, batch: Batch) -> dict[str, Tensor]:
        inputs = super().fetch_forget(batch)
        return {**inputs, "labels": torch.full_like(inputs["labels"], self.num_classes)}

    def finish(self, model: nn.Module) -> nn.Module:
        finished = super().finish(model)
        model.release()
        return finished


class ExpandedClassifier(nn.Module):
    """A classifier with one more output, computed from what its last linear layer sees.

    Args:
        classifier: Ends in a linear layer with one output a class.
        num_classes: Its classes.

    Raises:
        ValueError: It has no such layer.
    """

    def __init__(self, classifier: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.classifier = classifier
        heads = [
            module
            for module in classifier.modules()
            if isinstance(module, nn.Linear) and module.out_features == num_classes
        ]
        if not heads:
            raise ValueError(
                f"the recipe 'be' needs a linear layer with {num_classes} outputs at the end, and "
                f"{type(classifier).__name__} has none; use another recipe."
            )
        self.extra = nn.Linear(heads[-1].in_features, 1, dtype=heads[-1].weight.dtype)
        self._handle = heads[-1].register_forward_pre_hook(self._keep)
        self._seen: Tensor | None = None

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._seen = inputs[0]

    def forward(self, pixel_values: Tensor) -> ModelOutput:
        logits = self.classifier(pixel_values).logits
        seen, self._seen = self._seen, None
        return ModelOutput(logits=torch.cat([logits, self.extra(seen)], dim=-1))

    def release(self) -> None:
        """Leave the classifier as it would be without the further output."""
        self._handle.remove()


@dataclass(kw_only=True)
class BoundaryShrinkArguments(UnlearningArguments):
    """Options of `BoundaryShrinkRecipe`.

    Args:
        attack_step: How far each pixel is moved towards a boundary, with pixels in [0, 1].
    """

    attack_step: float = 0.1
    learning_rate: float = 1e-4

    def validate(self) -> None:
        """Check the options of the method, and those of all."""
        super().validate()
        check_positive("attack_step", self.attack_step)


class BoundaryShrinkRecipe(UnlearningRecipe):
    """BS: learns, for each picture to forget, the class across its nearest decision boundary."""

    name = "bs"
    arguments_class = BoundaryShrinkArguments
    learns_retained = False

    def build_model(self) -> nn.Module:
        model = super().build_model()
        # Until `prepare` has found the nearest ones; a dry run needs any.
        self.nearest_labels = self.forget.labels
        return model

    def prepare(self, model: nn.Module, accelerator: Any) -> None:
        super().prepare(model, accelerator)
        with attribution_scope(self.base_model):
            found = [
                self._nearest_classes(pixel_values, labels).cpu()
                for pixel_values, labels in self.batches(
                    self.forget, self.arguments.mask_batch_size
                )
            ]
        self.nearest_labels = torch.cat(found)

    def _nearest_classes(self, pixel_values: Tensor, labels: Tensor) -> Tensor:
        """What the original takes the pictures for after one step of the fast gradient sign."""
        pixel_values = pixel_values.requires_grad_()
        loss = F.cross_entropy(self.base_model(pixel_values).logits, labels)
        (gradient,) = torch.autograd.grad(loss, pixel_values)
        with torch.no_grad():
            images = self.preparation.denormalized(pixel_values.detach())
            moved = images + self.arguments.attack_step * gradient.sign()
            moved = (moved.clamp(0, 1) * 255).round() / 255
            return self.base_model(self.preparation.normalized(moved)).logits.argmax(-1)

    def fetch_forget(self, batch: Batch) -> dict[str, Tensor]:
        return {**super().fetch_forget(batch), "labels": self.nearest_labels[batch.rows]}
