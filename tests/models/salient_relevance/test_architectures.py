"""Classifiers of transformers, small and with random weights: explained, or refused by name."""

import pytest
import torch
import transformers
from torch import nn

from salhub.models.salient_relevance.modeling_salient_relevance import (
    SalientRelevanceForImageSaliency,
)
from tests.models.salient_relevance.networks import trained

LABELS = {"num_labels": 4}
EXPLAINED = {
    "resnet": lambda: transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 12], depths=[1, 2], layer_type="basic", **LABELS
        )
    ),
    "resnet bottleneck": lambda: transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="bottleneck", **LABELS
        )
    ),
    "regnet": lambda: transformers.RegNetForImageClassification(
        transformers.RegNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=4,
            layer_type="y", **LABELS,
        )
    ),
    "mobilenet v1": lambda: transformers.MobileNetV1ForImageClassification(
        transformers.MobileNetV1Config(depth_multiplier=0.25, image_size=64, **LABELS)
    ),
    "mobilenet v2": lambda: transformers.MobileNetV2ForImageClassification(
        transformers.MobileNetV2Config(depth_multiplier=0.25, image_size=64, **LABELS)
    ),
    "efficientnet": lambda: transformers.EfficientNetForImageClassification(
        transformers.EfficientNetConfig(
            width_coefficient=0.25, depth_coefficient=0.25, image_size=64, hidden_dim=320, **LABELS
        )
    ),
}  # fmt: skip
SMALL_VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 8,
    **LABELS,
}
SMALL_SWIN = {
    "embed_dim": 8,
    "depths": [1, 2],
    "num_heads": [1, 2],
    "image_size": 32,
    "patch_size": 2,
    **LABELS,
}
SMALL_CONVNEXT = {"hidden_sizes": [8, 12], "depths": [1, 2], "num_stages": 2, **LABELS}
WITH_ATTENTION = {
    "vit": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL_VIT)),
    "vit eager": lambda: transformers.ViTForImageClassification(
        transformers.ViTConfig(**SMALL_VIT, attn_implementation="eager", hidden_act="gelu_new")
    ),
    "deit": lambda: transformers.DeiTForImageClassification(transformers.DeiTConfig(**SMALL_VIT)),
    "deit with a teacher": lambda: transformers.DeiTForImageClassificationWithTeacher(
        transformers.DeiTConfig(**SMALL_VIT)
    ),
    "beit": lambda: transformers.BeitForImageClassification(
        transformers.BeitConfig(**SMALL_VIT, use_relative_position_bias=True)
    ),
    "dinov2": lambda: transformers.Dinov2ForImageClassification(
        transformers.Dinov2Config(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8,
            use_swiglu_ffn=True, **LABELS,
        )
    ),
    "swin": lambda: transformers.SwinForImageClassification(
        transformers.SwinConfig(**SMALL_SWIN, window_size=4)
    ),
    "swin with padded windows": lambda: transformers.SwinForImageClassification(
        transformers.SwinConfig(**SMALL_SWIN, window_size=3)
    ),
    "swin v2": lambda: transformers.Swinv2ForImageClassification(
        transformers.Swinv2Config(**SMALL_SWIN, window_size=4)
    ),
    "convnext": lambda: transformers.ConvNextForImageClassification(
        transformers.ConvNextConfig(**SMALL_CONVNEXT)
    ),
    "convnext v2": lambda: transformers.ConvNextV2ForImageClassification(
        transformers.ConvNextV2Config(**SMALL_CONVNEXT)
    ),
    "poolformer": lambda: transformers.PoolFormerForImageClassification(
        transformers.PoolFormerConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 8], **LABELS)
    ),
    "mobilevit": lambda: transformers.MobileViTForImageClassification(
        transformers.MobileViTConfig(
            image_size=32, hidden_sizes=[16, 20, 24], num_attention_heads=2,
            neck_hidden_sizes=[8, 8, 8, 8, 12, 12, 32], **LABELS,
        )
    ),
}  # fmt: skip


def pictures(size=64):
    return torch.rand(2, 3, size, size) * 2 - 1


@pytest.mark.parametrize("name", EXPLAINED)
def test_convolutional_classifier_is_explained(name):
    torch.manual_seed(0)
    classifier = trained(EXPLAINED[name]())
    for parameter in classifier.parameters():  # keep random activations within float32's reach
        parameter.data.mul_(0.5)
    model = SalientRelevanceForImageSaliency.from_classifier(
        classifier, input_low=[-1, -1, -1], input_high=[1, 1, 1], context_max_side=64
    )
    images = pictures()
    logits = classifier(images).logits.detach()
    output = model(images, [1, 2])
    torch.testing.assert_close(output.logits, logits, rtol=1e-3, atol=1e-3)
    assert output.saliency.shape == (2, 64, 64)
    assert float(output.relevance.abs().sum()) > 0
    audit = model.conservation_audit(images[:1], [1])[0][0]
    assert audit.largest_accounted_error < 1e-4
    convolutions = [row for row in audit.rows if row.layer_type in ("convolution", "linear")]
    weighted = [
        name
        for name, module in classifier.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and not is_of_gate(name)
    ]
    assert sorted(row.name for row in convolutions) == sorted(weighted)


def is_of_gate(name):
    """Layers of squeeze-excite gates, which are constants for relevance."""
    return ".squeeze_excite." in name or ".attention." in name


@pytest.mark.parametrize("name", WITH_ATTENTION)
def test_classifier_with_attention_or_layer_norm_is_explained(name):
    torch.manual_seed(0)
    classifier = WITH_ATTENTION[name]().eval()
    for parameter in classifier.parameters():  # biases and tokens begin at zero
        parameter.data += torch.randn(parameter.shape) * 0.1
    settings = {"input_low": [-1, -1, -1], "input_high": [1, 1, 1], "context_max_side": 32}
    model = SalientRelevanceForImageSaliency.from_classifier(classifier, start="one", **settings)
    images = pictures(32)
    output = model(images, [1, 2])
    torch.testing.assert_close(output.logits, classifier(images).logits, rtol=1e-4, atol=1e-4)
    assert output.saliency.shape == (2, 32, 32)
    assert float(output.relevance.abs().sum()) > 1e-6
    for preset in ("deep_taylor", "epsilon_plus"):
        model.config.preset = preset
        audit = model.conservation_audit(images[:1], [1])[0][0]
        assert audit.largest_accounted_error < 1e-4
        assert audit.accounted_error < 1e-5
        booked = {row.name for row in audit.rows}
        weighted = nn.Conv2d | nn.Linear | nn.LayerNorm | nn.GroupNorm
        used = {key for key, module in classifier.named_modules() if isinstance(module, weighted)}
        assert {key for key in used - booked if "continuous_position" not in key} == set()
    model.config.preset, model.config.bias_relevance = "deep_taylor", "uniform"
    spread = model.relevance(images[:1], [1]).relevance
    assert float(spread.sum()) == pytest.approx(1, abs=1e-2)
