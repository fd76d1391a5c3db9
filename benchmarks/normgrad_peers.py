"""The calls of the packages that NormGrad is compared with, as their documentation makes them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.classifier import own_copy
from benchmarks.interleaved import Contender
from benchmarks.peers import Peer

LAST_BLOCK = 15


@dataclass
class Task:
    """What is explained.

    Args:
        backbone: The classifier.
        photo: (1, 3, 224, 224).
        label: Its class.
        peers: By module name.
    """

    backbone: nn.Module
    photo: Tensor
    label: int
    peers: dict[str, Peer]

    def has(self, module: str) -> bool:
        """Whether a package can be used."""
        return self.peers[module].reason is None

    def label_of(self, module: str) -> str:
        """Its name and version."""
        return self.peers[module].label


def layer_contenders(task: Task) -> list[Contender]:
    """One map at the last block, by everybody who can."""
    found = []
    if task.has("captum"):
        found += _captum_at_layer(task)
    if task.has("torchcam"):
        found.append(
            Contender("torchcam GradCAM", torchcam_grad_cam(task), task.label_of("torchcam"))
        )
    if task.has("pytorch_grad_cam"):
        label = task.label_of("pytorch_grad_cam")
        found += [
            Contender(f"grad-cam {name}", grad_cam_method(task, name), label)
            for name in ("GradCAM", "HiResCAM", "LayerCAM", "EigenCAM")
        ]
    return found


def _captum_at_layer(task: Task) -> list[Contender]:
    from captum.attr import LayerGradCam, LayerGradientXActivation

    label = task.label_of("captum")
    pixels = task.photo.clone().requires_grad_()
    found = []
    for name, kind in (
        ("Captum LayerGradCam", LayerGradCam),
        ("Captum LayerGradientXActivation", LayerGradientXActivation),
    ):
        model = own_copy(task.backbone)
        method = kind(model, model.backbone.blocks[LAST_BLOCK])
        found.append(Contender(name, _attribute(method, pixels, task.label), label))
    frozen = own_copy(task.backbone, frozen=True)
    method = LayerGradCam(frozen, frozen.backbone.blocks[LAST_BLOCK])
    run = _attribute(method, task.photo, task.label)
    return [*found, Contender("Captum LayerGradCam, frozen by hand", run, label)]


def captum_layer_batch(task: Task, batch: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """Captum's LayerGradCam of a whole batch."""
    from captum.attr import LayerGradCam

    model = own_copy(task.backbone)
    method = LayerGradCam(model, model.backbone.blocks[LAST_BLOCK])
    return _attribute(method, batch.clone().requires_grad_(), labels)


def pixel_contenders(task: Task) -> list[Contender]:
    """One map at the pixels, by Captum."""
    if not task.has("captum"):
        return []
    pixels = task.photo.clone().requires_grad_()
    return [
        Contender(
            f"Captum {name}",
            _attribute(captum_pixel_method(task, name), pixels, task.label),
            task.label_of("captum"),
        )
        for name in ("Saliency", "InputXGradient", "GuidedBackprop", "Deconvolution")
    ]


def captum_pixel_method(task: Task, name: str):
    """A method of Captum on a copy of the classifier."""
    import captum.attr

    return getattr(captum.attr, name)(own_copy(task.backbone))


def captum_map(task: Task, name: str) -> Tensor:
    """The map of one of Captum's methods at the pixels, (1, 3, 224, 224)."""
    pixels = task.photo.clone().requires_grad_()
    return captum_pixel_method(task, name).attribute(pixels, target=task.label).detach()


def captum_eight_maps(task: Task, blocks: tuple[int, ...]) -> Callable[[], list[Tensor]]:
    """Grad-CAM and gradient x activation at each block, gradient and gradient x input, in turn."""
    from captum.attr import InputXGradient, LayerGradCam, LayerGradientXActivation, Saliency

    model = own_copy(task.backbone)
    methods = [
        kind(model, model.backbone.blocks[block])
        for kind in (LayerGradCam, LayerGradientXActivation)
        for block in blocks
    ]
    methods += [Saliency(model), InputXGradient(model)]
    pixels = task.photo.clone().requires_grad_()
    return lambda: [method.attribute(pixels, target=task.label) for method in methods]


def torchcam_grad_cam(task: Task, *, normalized: bool = True) -> Callable[[], Tensor]:
    """GradCAM of torchcam at the last block."""
    from torchcam.methods import GradCAM

    model = own_copy(task.backbone)
    extractor = GradCAM(model, target_layer=model.backbone.blocks[LAST_BLOCK])
    return lambda: extractor(task.label, model(task.photo), normalized=normalized)[0]


def grad_cam_method(task: Task, name: str) -> Callable[[], Tensor]:
    """A method of pytorch-grad-cam at the last block; it resizes and scales to [0, 1]."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = own_copy(task.backbone)
    layers = [model.backbone.blocks[LAST_BLOCK]]
    method = getattr(pytorch_grad_cam, name)(model=model, target_layers=layers)
    targets = [ClassifierOutputTarget(task.label)]
    return lambda: torch.from_numpy(method(input_tensor=task.photo, targets=targets))


def _attribute(method, pixels: Tensor, target) -> Callable[[], Tensor]:
    return lambda: method.attribute(pixels, target=target)
