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
REFUSED = {
    "convnext": (
        lambda: transformers.ConvNextForImageClassification(
            transformers.ConvNextConfig(hidden_sizes=[8, 8], depths=[1, 1], num_stages=2, **LABELS)
        ),
        r"'convnext\.embeddings\.layernorm' \(ConvNextLayerNorm\)",
    ),
    "vit": (
        lambda: transformers.ViTForImageClassification(
            transformers.ViTConfig(
                hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                image_size=64, **LABELS,
            )
        ),
        r"'vit\..*layernorm_before' \(LayerNorm\) uses the operation 'layer_norm'",
    ),
    "swin": (
        lambda: transformers.SwinForImageClassification(
            transformers.SwinConfig(
                embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, image_size=64, **LABELS
            )
        ),
        r"'swin\.embeddings\.norm' \(LayerNorm\)",
    ),
}  # fmt: skip


def pictures():
    return torch.rand(2, 3, 64, 64) * 2 - 1


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


@pytest.mark.parametrize("name", REFUSED)
def test_transformer_is_refused_by_the_name_of_its_layer(name):
    make, message = REFUSED[name]
    model = SalientRelevanceForImageSaliency.from_classifier(make(), preset="epsilon_plus")
    with pytest.raises(ValueError, match=message):
        model(pictures())
