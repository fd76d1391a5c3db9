"""Are the maps that ours and other packages both offer the same ones?"""

import torch
import torch.nn.functional as F
from torch import Tensor

import salhub
from benchmarks.classifier import LogitsOnly, relative_difference
from benchmarks.normgrad_peers import (
    LAST_BLOCK,
    Task,
    captum_map,
    grad_cam_method,
    torchcam_grad_cam,
)
from benchmarks.report import Agreement
from salhub.ops.maps import min_max, resize_maps

LAYER = f"blocks.{LAST_BLOCK}"
RULES = (("guided_backprop", "GuidedBackprop"), ("deconvnet", "Deconvolution"))


def agreements(task: Task) -> list[Agreement]:
    """Compare every method that a peer offers too."""
    found = []
    if task.has("captum"):
        found += _with_captum_at_layer(task)
        found += _with_captum_at_pixels(task)
        found += _rectifier_rules(task)
    if task.has("torchcam"):
        theirs = torchcam_grad_cam(task, normalized=False)()
        found.append(_compare("grad_cam", "torchcam GradCAM", our_map(task, "grad_cam"), theirs))
    if task.has("pytorch_grad_cam"):
        size = tuple(task.photo.shape[-2:])
        for ours, name in (("grad_cam", "GradCAM"), ("hires_cam", "HiResCAM")):
            # It scales, resizes and scales what it returns; ours is put through the same.
            scaled = min_max(resize_maps(our_map(task, ours).clamp(min=0), size))
            found.append(_compare(ours, f"grad-cam {name}", scaled, grad_cam_method(task, name)()))
    return found


def our_map(task: Task, method: str, layer: str = LAYER, network=None) -> Tensor:
    """Our map in the layer's own resolution."""
    model = salhub.NormGradForImageSaliency.from_classifier(
        task.backbone if network is None else network, method=method, layers=[layer]
    )
    return model(task.photo, class_labels=task.label).native_saliency


def _compare(what: str, peer: str, ours: Tensor, theirs: Tensor) -> Agreement:
    return Agreement(what, peer, relative_difference(ours, theirs))


def _with_captum_at_layer(task: Task) -> list[Agreement]:
    from captum.attr import LayerGradCam, LayerGradientXActivation

    found = []
    model = LogitsOnly(task.backbone)
    for block in (4, 10, LAST_BLOCK):
        layer = model.backbone.blocks[block]
        name = f"blocks.{block}"
        cam = LayerGradCam(model, layer).attribute(
            task.photo, target=task.label, relu_attributions=True
        )
        product = LayerGradientXActivation(model, layer).attribute(task.photo, target=task.label)
        for ours, peer, theirs in (
            ("grad_cam", "Captum LayerGradCam", cam),
            ("linear_approx", "Captum LayerGradientXActivation", product.sum(1)),
        ):
            found.append(_compare(f"{ours} at {name}", peer, our_map(task, ours, name), theirs))
    return found


def _with_captum_at_pixels(task: Task) -> list[Agreement]:
    gradient, product = captum_map(task, "Saliency"), captum_map(task, "InputXGradient")
    pairs = (
        ("gradient", "Captum Saliency", gradient.amax(1)),
        ("grad_x_input", "Captum InputXGradient", product.sum(1)),
    )
    return [
        _compare(ours, peer, our_map(task, ours, "input"), theirs) for ours, peer, theirs in pairs
    ]


def _rectifier_rules(task: Task) -> list[Agreement]:
    """On ReLU both agree; on ReLU6 Captum's maps are the plain gradient."""
    found = []
    relu = _relu_network()
    small = Task(relu, F.interpolate(task.photo, size=64), 3, task.peers)
    for ours, name in RULES:
        theirs = captum_map(small, name).abs().amax(1)
        found.append(
            _compare(
                f"{ours}, ReLU network", f"Captum {name}", our_map(small, ours, "input"), theirs
            )
        )
    plain = captum_map(task, "Saliency").amax(1)
    for ours, name in RULES:
        found += [
            _beside_gradient(f"Captum {name}", captum_map(task, name).abs().amax(1), plain),
            _beside_gradient(f"salhub {ours}", our_map(task, ours, "input"), plain),
        ]
    return found


def _beside_gradient(who: str, rule: Tensor, plain: Tensor) -> Agreement:
    return Agreement(
        f"{who}, ReLU6 network",
        "plain gradient",
        relative_difference(rule, plain),
        expected=False,
        note="equal: the rule is not applied" if torch.equal(rule, plain) else "differs",
    )


def _relu_network():
    """A small residual network with ordinary rectifiers and seeded weights."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic", num_labels=10
    )
    return ResNetForImageClassification(config).eval()
