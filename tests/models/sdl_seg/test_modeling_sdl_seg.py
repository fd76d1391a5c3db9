"""The U-Net, its windows, its losses, and how its volume depends on the clips."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig
from salhub.models.sdl_seg.modeling_sdl_seg import SDLSegForVolumeSegmentation
from salhub.models.sdl_seg.segmentation_loss import segmentation_loss
from salhub.models.sdl_seg.sensitivity import clip_sensitivity
from salhub.models.sdl_seg.sliding_window import sliding_window_logits, window_starts
from tests.testers import BatchTester, SavingTester

SMALL = {"channels": [4, 8, 8], "anisotropic_levels": 1, "foreground_prior": 0.3}


def network(**settings) -> SDLSegForVolumeSegmentation:
    """A small network whose norms and head say something."""
    torch.manual_seed(0)
    model = SDLSegForVolumeSegmentation(SDLSegConfig(**{**SMALL, **settings}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def pixels(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3))


class TestSDLSeg(SavingTester, BatchTester):
    model_class = SDLSegForVolumeSegmentation
    shipped = ("salhub/sdl-seg-phantom", "salhub/unet-phantom")
    half_tolerance = 0.2

    def config(self):
        return SDLSegConfig(**SMALL)

    def model(self):
        return network()

    def inputs(self):
        labels = pixels(2, 1, 4, 8, 8) > 0.7
        return {"pixel_values": pixels(2, 2, 4, 8, 8), "labels": labels.float()}

    def run(self, model, **replaced):
        found = model(**{**self.inputs(), **replaced}, output_hidden_states=True)
        # The loss is one number of the whole batch.
        return {key: value for key, value in found.items() if key != "loss"}

    def bad_inputs(self):
        return [
            (
                {"pixel_values": pixels(2, 1, 4, 8, 8)},
                ValueError,
                "saliency_kind='edt_gauss' needs 2",
            ),
            ({"pixel_values": pixels(2, 2, 8, 8)}, ValueError, r"must be \(B, 2, D, H, W\)"),
            ({"pixel_values": pixels(2, 2, 4, 8, 6)}, ValueError, "must be divisible by"),
            ({"labels": pixels(2, 4, 8, 8)}, ValueError, "labels must be"),
        ]


class TestSDLSegOfSlices(BatchTester):
    model_class = SDLSegForVolumeSegmentation

    def model(self):
        return network(spatial_dims=2, context_slices=1)

    def inputs(self):
        return {"pixel_values": pixels(2, 2, 5, 8, 8)}

    def bad_inputs(self):
        return [({"pixel_values": pixels(1, 2, 5, 8, 9)}, ValueError, "must be divisible by")]


# --- the network ----------------------------------------------------------------------------------


def slow_level(level, states: torch.Tensor) -> torch.Tensor:
    """Of (C, D, H, W), channel by channel."""
    for convolution, norm in (
        (level.first_convolution, level.first_norm),
        (level.second_convolution, level.second_norm),
    ):
        kernel = convolution.weight.permute(0, 1, 4, 2, 3)  # kept as (H, W, D)
        padding = [size // 2 for size in kernel.shape[2:]]
        found = F.conv3d(states[None], kernel, padding=padding)[0]
        channels = []
        for index, channel in enumerate(found):
            spread = (channel.var(unbiased=False) + 1e-5).sqrt()
            normal = (channel - channel.mean()) / spread
            channels.append(normal * norm.weight[index] + norm.bias[index])
        states = torch.stack(channels)
        states = torch.where(states > 0, states, 0.01 * states)
    return states


def slow_network(model, states: torch.Tensor) -> torch.Tensor:
    unet, pooling, found = model.unet, model.config.pooling, []
    for index, level in enumerate(unet.down_levels):
        if index:
            z, y, x = pooling[index - 1]
            for axis, factor in ((1, z), (2, y), (3, x)):
                states = states.unflatten(axis, (-1, factor)).amax(axis + 1)
        states = slow_level(level, states)
        found.append(states)
    for index, level in enumerate(unet.up_levels):
        skip = found[-2 - index]
        grown = F.interpolate(states[None], size=skip.shape[1:], mode="trilinear")[0]
        states = slow_level(level, torch.cat([grown, skip]))
    head = unet.head
    return (head.weight[0].flatten()[:, None, None, None] * states).sum(0) + head.bias


@torch.no_grad()
def test_the_network_is_that_of_plain_arithmetic():
    model, volume = network(), pixels(1, 2, 4, 16, 8)
    torch.testing.assert_close(
        model(volume).logits[0, 0], slow_network(model, volume[0]), rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_slices_are_seen_with_their_neighbours_and_no_others():
    model, volume = network(spatial_dims=2, context_slices=1), pixels(1, 2, 5, 8, 8)
    whole = model(volume).logits
    last = torch.cat([volume[:, :, 3:], volume[:, :, 4:]], 2)
    alone = model(last).logits
    torch.testing.assert_close(whole[:, :, 4], alone[:, :, 1], rtol=1e-4, atol=1e-5)
    # The channels of a slice: CT below, here, above, then the map alike.
    stacked = torch.cat([volume[0, c, k][None] for c in (0, 1) for k in (1, 2, 3)])
    flat = slow_network(model, stacked[:, None])
    torch.testing.assert_close(whole[0, 0, 2], flat[0], rtol=1e-4, atol=1e-5)


def test_it_begins_with_the_share_of_foreground_that_was_set():
    torch.manual_seed(0)
    model = SDLSegForVolumeSegmentation(SDLSegConfig(foreground_prior=0.02))
    logits = model(pixels(1, 2, 4, 16, 16)).logits
    assert logits.mean().item() == pytest.approx(np.log(0.02 / 0.98), rel=0.2)
    assert sum(p.numel() for p in model.parameters()) == 227_385


def test_the_baseline_differs_in_nothing_but_the_channel():
    model, plain = (SDLSegForVolumeSegmentation(SDLSegConfig(saliency_kind=kind)) for kind in
                    ("edt_gauss", "none"))  # fmt: skip
    shapes = {name: p.shape for name, p in model.named_parameters()}
    others = {name: p.shape for name, p in plain.named_parameters()}
    assert shapes.keys() == others.keys()
    unlike = [name for name in shapes if shapes[name] != others[name]]
    assert unlike == ["unet.down_levels.0.first_convolution.weight"]


def test_gradient_checkpointing_and_autocast_change_no_gradient():
    model = network().train()
    inputs = {
        "pixel_values": pixels(2, 2, 4, 8, 8),
        "labels": (pixels(2, 1, 4, 8, 8) > 0.5).float(),
    }
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(**inputs).loss.backward()
        gradients.append(model.unet.down_levels[0].first_convolution.weight.grad.clone())
        model.activation_checkpointing_enable()
    torch.testing.assert_close(*gradients)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(**inputs)
    assert found.loss.dtype == torch.float32
    assert found.loss.item() == pytest.approx(model(**inputs).loss.item(), rel=0.02)


@torch.no_grad()
def test_it_compiles_to_one_graph():
    model, volume = network(), pixels(1, 2, 4, 8, 8)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(volume).logits, model(volume).logits)


# --- losses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dice", "dice_ce", "focal_tversky"])
def test_losses_are_those_of_plain_sums(kind):
    logits, labels = 4 * pixels(3, 1, 2, 4, 5) - 2, (pixels(3, 1, 2, 4, 5) > 0.6).double()
    labels[2] = 0  # nothing there
    expected = []
    for score, truth in zip(logits.double().flatten(1), labels.flatten(1), strict=True):
        p = 1 / (1 + np.exp(-score.numpy()))
        g = truth.numpy()
        dice = 1 - (2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1)
        entropy = -(g * np.log(p) + (1 - g) * np.log(1 - p)).mean()
        hit, extra, lost = (p * g).sum(), (p * (1 - g)).sum(), ((1 - p) * g).sum()
        tversky = (1 - (hit + 1) / (hit + 0.3 * extra + 0.7 * lost + 1)) ** (4 / 3)
        expected.append({"dice": dice, "dice_ce": dice + entropy, "focal_tversky": tversky}[kind])
    found = segmentation_loss(logits.half().float(), labels, kind)
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-3)
    torch.testing.assert_close(
        segmentation_loss(logits, labels, kind),
        torch.tensor(expected).float(),
        rtol=1e-5,
        atol=1e-6,
    )


# --- windows --------------------------------------------------------------------------------------


def test_windows_cover_everything_and_are_averaged_by_their_weights():
    volume, window = pixels(2, 1, 5, 9, 7), (3, 4, 7)
    volume[1, :, :, :4] = 0
    calls = []

    def network(part):
        calls.append(len(part))
        return part + part.mean((2, 3, 4), keepdim=True)

    found = sliding_window_logits(network, volume, window, overlap=0.5, batch_size=4)
    lines = [np.exp(-(((np.arange(n) - (n - 1) / 2) / (0.125 * n)) ** 2) / 2) for n in window]
    weight = np.einsum("a,b,c->abc", *lines)
    weight = np.maximum(weight, 1e-3)
    for index in range(2):
        total, norm, image = np.zeros((5, 9, 7)), np.zeros((5, 9, 7)), volume[index, 0].numpy()
        for z in (0, 1, 2):
            for y in (0, 2, 4, 5):
                where = (slice(z, z + 3), slice(y, y + 4), slice(0, 7))
                part = image[where]
                if part.any():
                    total[where] += weight * (part + part.mean())
                    norm[where] += weight
        expected = np.where(norm > 0, total / np.where(norm > 0, norm, 1), -30.0)
        np.testing.assert_allclose(found[index, 0].numpy(), expected, rtol=1e-4, atol=1e-5)
    assert sum(calls) == 12 + 9 and max(calls) == 4
    assert window_starts(9, 4, 0.5) == [0, 2, 4, 5] and window_starts(4, 4, 0.5) == [0]


def test_windows_far_from_all_markers_are_passed_over():
    volume = pixels(1, 2, 4, 8, 24) + 0.1
    volume[:, 1] = 0
    volume[0, 1, 2, 3, 1] = 0.5
    seen = []

    def network(part):
        seen.append(len(part))
        return part[:, :1] * 0

    found = sliding_window_logits(network, volume, (4, 8, 8), overlap=0.5)[0, 0]
    assert sum(seen) == 1  # of the five along x
    assert (found[:, :, :8] == 0).all() and (found[:, :, 8:] == -30).all()
    # A map without a marker says nothing of where to look.
    seen.clear()
    volume[:, 1] = 0
    sliding_window_logits(network, volume, (4, 8, 8), overlap=0.5)
    assert sum(seen) == 5


def test_prediction_in_windows_and_with_flips():
    volume = pixels(1, 2, 4, 16, 16)
    model = network(window_size=[4, 8, 8])
    assert model.predict(volume[..., :8, :8]).logits.equal(
        model(volume[..., :8, :8]).logits.detach()
    )
    whole = model.predict(volume).logits
    assert not whole.requires_grad and whole.shape == (1, 1, 4, 16, 16)
    flips = network(tta=True)
    found = flips.predict(volume).logits
    torch.testing.assert_close(found.flip((2,)), flips.predict(volume.flip((2,))).logits)
    torch.testing.assert_close(found.flip((2, 4)), flips.predict(volume.flip((2, 4))).logits)
    assert not torch.allclose(found, network()(volume).logits)


def test_broken_weights_are_named():
    model = network()
    with torch.no_grad():
        model.unet.head.weight[0, 0] = float("nan")
    with pytest.raises(
        ValueError, match=r"infinite values, first in 'unet\.head\.weight', so its outputs would be"
    ):
        model.predict(pixels(1, 2, 4, 8, 8))


# --- a clip that moves ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["edt_gauss", "hull"])
def test_the_volume_by_the_place_of_a_clip_agrees_with_finite_differences(kind):
    model = network(saliency_kind=kind, target_spacing=[3.0, 1.5, 1.5]).double()
    rng = np.random.default_rng(0)
    image = rng.normal(-100, 60, (8, 20, 20)).astype(np.float32)
    spacing = np.array([2.5, 1.5, 1.2])
    clips = np.array([[2.2, 5.1, 6.3], [5.4, 14.2, 7.7], [3.3, 9.6, 15.2], [6.1, 6.2, 12.4]])
    with torch.no_grad():
        found = clip_sensitivity(model, image, spacing, clips)
    assert np.abs(found.gradient_cc_per_mm).max() > 1e-6
    for k, axis in ((0, 0), (1, 1), (2, 2), (3, 0)):
        move = np.zeros_like(clips)
        move[k, axis] = 1e-6  # mm, so that no voxel changes its nearest clip
        ends = [
            clip_sensitivity(model, image, spacing, clips + s * move / spacing) for s in (1, -1)
        ]
        slope = (ends[0].expected_cc - ends[1].expected_cc) / 2e-6
        assert found.gradient_cc_per_mm[k, axis] == pytest.approx(slope, rel=1e-3, abs=1e-7)
        assert found.after(move) == pytest.approx(ends[0].expected_cc, rel=1e-6)
    assert all(p.grad is None for p in model.parameters())


def test_a_plain_network_depends_on_no_clip():
    with pytest.raises(ValueError, match="does not depend on markers"):
        clip_sensitivity(network(saliency_kind="none"), np.zeros((4, 8, 8)) - 5, (3, 1.5, 1.5))


def test_settings_that_do_not_go_together_are_refused():
    for settings, message in (
        ({"channels": []}, "channels must have one number per level, got none"),
        ({"anisotropic_levels": 4}, "at most 3 for 4 levels"),
        ({"context_slices": 1}, "context_slices only applies to spatial_dims=2, which sees"),
        ({"target_spacing": [1, 1]}, "three numbers"),
        ({"hu_window": [200, 100]}, "low and high"),
        ({"window_size": [16, 60, 64]}, r"divisible by \[4, 8, 8\]"),
        ({"saliency_kind": "edt"}, "saliency_kind must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            SDLSegConfig(**settings)
