"""The gradient of a class score by the pixels, as a map."""

import torch
from salhub.models.pixel_gradient.configuration_pixel_gradient import PixelGradientConfig

from salhub.explaining.modeling_explained_classifier import (
    ExplainedClassifierModel,
)
from salhub.modeling import attribution_scope
from salhub.outputs import ImageSaliencyOutput


class PixelGradientForImageSaliency(ExplainedClassifierModel):
    """Norm over the colours of the gradient of the class score (Simonyan et al., 2014)."""

    config: PixelGradientConfig

    def forward(self, pixel_values: torch.Tensor, class_labels=None) -> ImageSaliencyOutput:
        """Explain the given classes, or the most likely one; see `ExplainedClassifierModel`."""
        self.check_pixel_values(pixel_values)
        classes = self.check_class_labels(class_labels, len(pixel_values))
        with attribution_scope(self):
            pixels = pixel_values.detach().clone().requires_grad_()
            logits = self.classify(pixels)
            classes = logits.argmax(-1) if classes is None else classes[:, 0].clone()
            score = logits.gather(1, classes[:, None]).sum()
            gradient = torch.autograd.grad(score, pixels)[0].float()
        saliency = gradient.norm(self.config.order, dim=1)
        degenerate = saliency.flatten(1).amax(1) == saliency.flatten(1).amin(1)
        return ImageSaliencyOutput(
            saliency=saliency, logits=logits.detach(), class_labels=classes, degenerate=degenerate
        )
