"""The residual networks for small pictures: arithmetic, sizes, layouts, training, preprocessing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.func import functional_call, grad, vmap
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
)

from salhub.backbones.cifar_resnet.configuration_cifar_resnet import CifarResNetConfig
from salhub.backbones.cifar_resnet.image_processing_cifar_resnet import CifarResNetImageProcessor
from salhub.backbones.cifar_resnet.modeling_cifar_resnet import CifarResNetForImageClassification
from tests.testers import BatchTester, SavingTester

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]


def network(**settings) -> CifarResNetForImageClassification:
    """A small network whose batch normalisation has seen something."""
    fields = {"depth": 8, "width": 4, "image_size": 9, "num_labels": 5}
    torch.manual_seed(0)
    model = CifarResNetForImageClassification(CifarResNetConfig(**{**fields, **settings}))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, std=0.3)
    return model.eval()


class TestCifarResNet(SavingTester, BatchTester):
    model_class = CifarResNetForImageClassification
    auto_classes = (AutoModel, AutoModelForImageClassification)
    half_tolerance = 0.2

    def config(self):
        return network().config

    def model(self):
        return network()

    def inputs(self):
        generator = torch.Generator().manual_seed(2)
        return {
            "pixel_values": torch.randn(3, 3, 9, 9, generator=generator),
        }

    def bad_inputs(self):
        pixels = self.inputs()["pixel_values"]
        size = r"shape \(B, 3, 9, 9\), got "
        return [
            ({"pixel_values": pixels[0]}, ValueError, size + r"\(3, 9, 9\)"),
            ({"pixel_values": pixels[:, :1]}, ValueError, size + r"\(3, 1, 9, 9\)"),
            ({"pixel_values": pixels[..., :8]}, ValueError, size),
            ({"pixel_values": pixels.byte()}, TypeError, "normalized, got torch.uint8; prepare"),
            ({"labels": torch.zeros(2, dtype=torch.int64)}, ValueError, r"\(3,\), .*got \(2,\)"),
            ({"labels": torch.zeros(3)}, TypeError, "int64, got torch.float32"),
            ({"labels": torch.zeros(3, 5)}, TypeError, "one-hot"),
        ]


# --- slow, obvious arithmetic ---------------------------------------------------------------------


def _convolve(pixels: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """Every output pixel as one sum over its window."""
    side = weight.shape[-1]
    margin = side // 2
    padded = np.pad(pixels, ((0, 0), (margin, margin), (margin, margin)))
    rows, columns = (range(0, size, stride) for size in pixels.shape[1:])
    return np.array(
        [
            [
                [(kernel * padded[:, y : y + side, x : x + side]).sum() for x in columns]
                for y in rows
            ]
            for kernel in weight
        ]
    )


def _convolve_normalise(state, name: str, pixels: np.ndarray, stride: int = 1) -> np.ndarray:
    out = _convolve(pixels, state[f"{name}.convolution.weight"], stride)
    scale, shift, mean, variance = (
        state[f"{name}.normalization.{key}"][:, None, None]
        for key in ("weight", "bias", "running_mean", "running_var")
    )
    return (out - mean) / np.sqrt(variance + 1e-5) * scale + shift


def _slow_logits(state, pixels: np.ndarray, blocks_per_stage: int, stem_stride: int) -> np.ndarray:
    hidden = np.maximum(_convolve_normalise(state, "stem", pixels, stem_stride), 0)
    for index in range(3 * blocks_per_stage):
        stride = 2 if index in (blocks_per_stage, 2 * blocks_per_stage) else 1
        name = f"blocks.{index}"
        residual = np.maximum(_convolve_normalise(state, f"{name}.first", hidden, stride), 0)
        residual = _convolve_normalise(state, f"{name}.second", residual)
        if stride == 2:
            hidden = _convolve_normalise(state, f"{name}.shortcut", hidden, stride)
        hidden = np.maximum(residual + hidden, 0)
    features = hidden.mean(axis=(1, 2))
    return state["classifier.weight"] @ features + state["classifier.bias"]


@pytest.mark.parametrize("stem_stride", [1, 2])
@pytest.mark.parametrize(("depth", "channels"), [(8, 3), (14, 1)])
def test_it_is_the_published_network(depth, channels, stem_stride):
    model = network(depth=depth, num_channels=channels, stem_stride=stem_stride).double()
    pixels = torch.randn(2, channels, 9, 9, dtype=torch.float64)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    logits = model(pixels).logits.detach().numpy()
    for one, expected in zip(pixels.numpy(), logits, strict=True):
        slow = _slow_logits(state, one, (depth - 2) // 6, stem_stride)
        np.testing.assert_allclose(slow, expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({"depth": 8, "width": 32, "stem_stride": 2}, 308_650),
        ({"depth": 8, "width": 16}, 78_042),
        ({}, 272_474),  # ResNet-20, 0.27 M in table 6 of the paper
        ({"depth": 32}, 466_906),  # 0.46 M
    ],
)
def test_sizes(settings, parameters):
    with torch.device("meta"):
        model = CifarResNetForImageClassification(CifarResNetConfig(num_labels=10, **settings))
    assert model.num_parameters() == parameters
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    on_the_longest_path = [m for m in layers if getattr(m, "kernel_size", None) != (1, 1)]
    assert len(on_the_longest_path) == model.config.depth


def test_fresh_weights_follow_he_and_keep_the_signal_alive():
    model = CifarResNetForImageClassification(CifarResNetConfig(width=32, num_labels=10)).eval()
    weight = model.blocks[-1].second.convolution.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    logits = model(torch.randn(4, 3, 32, 32)).logits
    assert 1e-3 < logits.std() < 30


# --- layouts and transforms -----------------------------------------------------------------------


def test_the_layout_of_the_input_does_not_matter_and_stays():
    model, pixels = network(), torch.randn(4, 3, 9, 9)
    expected = model(pixels).logits
    variants = [
        pixels.contiguous(memory_format=torch.channels_last),
        pixels.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2),
        torch.stack([pixels, pixels], dim=-1)[..., 0],
    ]
    for variant in variants:
        strides = variant.stride()
        logits = model(variant).logits
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
        assert variant.stride() == strides
        assert logits.is_contiguous()


def test_gradients_of_single_pictures_through_vmap():
    model, pixels, labels = network(), torch.randn(3, 3, 9, 9), torch.tensor([0, 4, 2])
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, pixel_values, label):
        arguments = {"pixel_values": pixel_values[None], "labels": label[None]}
        return functional_call(model, parameters, (), arguments).loss

    together = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, pixels, labels)
    for index in range(3):
        model.zero_grad()
        model(pixels[index : index + 1], labels=labels[index : index + 1]).loss.backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(together[name][index], parameter.grad, rtol=1e-4, atol=1e-5)


# --- the loss, and learning -----------------------------------------------------------------------


def test_a_loss_is_returned_for_labels():
    outputs = network()(torch.randn(2, 3, 9, 9), labels=torch.tensor([1, 2]))
    expected = -outputs.logits.log_softmax(-1)[[0, 1], [1, 2]].mean()
    torch.testing.assert_close(outputs.loss, expected)


def test_logits_are_linear_in_the_pooled_features():
    model, pixels = network(), torch.randn(2, 3, 9, 9)
    features = model.pooled_features(pixels)
    assert features.shape == (2, 16) and (features >= 0).all()
    expected = F.linear(features, model.classifier.weight, model.classifier.bias)
    assert torch.equal(model(pixels).logits, expected)


def test_it_learns_random_labels_by_heart():
    model = CifarResNetForImageClassification(
        CifarResNetConfig(depth=8, width=8, image_size=8, num_labels=4)
    ).train()
    pixels, labels = torch.randn(32, 3, 8, 8), torch.randint(0, 4, (32,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(40):
        optimizer.zero_grad()
        model(pixels, labels=labels).loss.backward()
        optimizer.step()
    assert (model.eval()(pixels).logits.argmax(-1) == labels).float().mean() > 0.95


# --- bad settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"depth": 18}, r"depth must be 6n \+ 2 \(8, 14, 20, ...\), got 18"),
        ({"depth": 2}, "got 2"),
        ({"stem_stride": 4}, "stem_stride must be 1 or 2, got 4"),
        ({"width": 0}, "width must be at least 1 and at most 16,384, got 0"),
        (
            {"batch_norm_momentum": 1.5},
            r"batch_norm_momentum must be at least 0 and at most 1, got 1\.5",
        ),
    ],
)
def test_bad_settings_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        CifarResNetConfig(**settings)


# --- preprocessing --------------------------------------------------------------------------------


def pixel_values(source, **settings) -> torch.Tensor:
    processor = CifarResNetImageProcessor(**settings)
    return processor(source, return_tensors="pt")["pixel_values"]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def expected_values(image: Image.Image) -> np.ndarray:
    scaled = np.asarray(image, np.float64) / 255
    return ((scaled - MEAN) / STD).transpose(2, 0, 1)


def test_a_picture_of_the_right_size_is_only_normalised():
    pixels = noise(32, 32)
    batch = torch.from_numpy(np.stack([pixels, pixels]).transpose(0, 3, 1, 2))
    for source in (pixels, Image.fromarray(pixels), pixels / 255, batch):
        values = pixel_values(source)
        assert values.dtype == torch.float32
        for one in values:
            assert np.abs(one.double().numpy() - expected_values(pixels)).max() < 1e-6


@pytest.mark.parametrize("shape", [(300, 451), (28, 28), (1, 5)])
def test_any_other_picture_is_resized_as_a_whole(shape):
    image = Image.fromarray(noise(*shape))
    expected = expected_values(image.resize((32, 32), Image.Resampling.BICUBIC))
    assert np.abs(pixel_values(image)[0].double().numpy() - expected).max() < 1e-6
    assert CifarResNetImageProcessor().viewed_box(shape) == (0, 0, shape[1], shape[0])
    grey = image.convert("L")
    assert torch.equal(pixel_values(grey), pixel_values(grey.convert("RGB")))
    central = pixel_values(image, do_center_crop=True)
    side = min(shape)
    left, top = (shape[1] - side + 1) // 2, (shape[0] - side + 1) // 2
    assert torch.equal(central, pixel_values(image.crop((left, top, left + side, top + side))))


def test_the_processor_is_saved_and_brings_maps_back(tmp_path):
    processor = CifarResNetImageProcessor.for_image_size(28)
    processor.save_pretrained(tmp_path)
    CifarResNetConfig(image_size=28).save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is CifarResNetImageProcessor
    assert loaded.to_dict() == processor.to_dict()
    assert loaded("sample:cat", return_tensors="pt")["pixel_values"].shape == (1, 3, 28, 28)
    placed = loaded.post_process_saliency(torch.ones(1, 28, 28), [(300, 451)])[0]
    assert placed.shape == (300, 451) and (placed == 1).all()


def test_a_misspelt_setting_is_refused():
    with pytest.raises(TypeError, match="Did you mean 'image_mean'"):
        CifarResNetImageProcessor(image_maen=[0.5] * 3)
