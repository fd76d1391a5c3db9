"""The class-conditional U-Net: arithmetic, noise schedule, guidance, sampling."""

import math

import pytest
import torch
from torch.func import functional_call, grad, vmap
from transformers import AutoModel

from salhub.backbones.conditional_unet.configuration_conditional_unet import ConditionalUNetConfig
from salhub.backbones.conditional_unet.modeling_conditional_unet import (
    ConditionalUNetForDiffusion,
    ConditionalUNetOutput,
)
from salhub.backbones.conditional_unet.noise_schedule import (
    add_noise,
    alpha_bars,
    betas,
)
from salhub.backbones.conditional_unet.sampling import sample
from tests.backbones.slow_unet import SlowUNet
from tests.testers import BatchTester, SavingTester

SMALL = {
    "image_size": 8,
    "base_channels": 8,
    "channel_multipliers": [1, 2],
    "attention_resolutions": [4],
    "num_classes": 3,
    "num_train_timesteps": 20,
}


def network(**settings) -> ConditionalUNetForDiffusion:
    """A small network without the zeros of a fresh one, which would hide everything."""
    torch.manual_seed(0)
    model = ConditionalUNetForDiffusion(ConditionalUNetConfig(**{**SMALL, **settings}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "sample": torch.randn(4, 1, 8, 8, generator=generator),
        "timestep": torch.tensor([0, 7, 19, 19]),
        "class_labels": torch.tensor([0, 2, 3, 1]),
    }


class TestConditionalUNet(SavingTester, BatchTester):
    model_class = ConditionalUNetForDiffusion
    auto_classes = (AutoModel,)
    half_tolerance = 0.1

    def config(self):
        return ConditionalUNetConfig(**SMALL)

    def model(self):
        return network()

    def inputs(self):
        return inputs()

    def bad_inputs(self):
        given = inputs()
        picture, step, label = given["sample"], given["timestep"], given["class_labels"]
        real = label.clamp(max=2)
        return [
            ({"sample": picture[0]}, ValueError, r"shape \(B, 1, 8, 8\), got \(1, 8, 8\)"),
            ({"sample": picture[..., :4]}, ValueError, r"got \(4, 1, 8, 4\)"),
            ({"sample": picture.byte()}, TypeError, r"floating point in \[-1, 1\], got torch.ui"),
            ({"timestep": step[:2]}, ValueError, r"timestep must have shape \(4,\).*got \(2,\)"),
            ({"timestep": step.float()}, TypeError, "timestep must be int64, got torch.float32"),
            ({"timestep": step + 1}, ValueError, r"timestep must be in \[0, 20\), got 1 to 20"),
            ({"timestep": step - 1}, ValueError, "got -1 to 18"),
            ({"class_labels": label + 1}, ValueError, r"in \[0, 3\), or 3 for no class, got 1 to"),
            ({"class_labels": -label}, ValueError, "got -3 to 0"),
            ({"class_labels": label[:1]}, ValueError, "one per picture, got"),
            (
                {"guidance_scale": 1.0},
                ValueError,
                "contains the null class 3, but guidance needs a real",
            ),
            ({"guidance_scale": -1.0, "class_labels": real}, ValueError, "at least 0, got -1"),
            ({"guidance_scale": math.nan, "class_labels": real}, ValueError, "got nan"),
        ]


# --- slow, obvious arithmetic ---------------------------------------------------------------------


@torch.no_grad()
def test_it_is_the_network_written_out():
    model = network()
    slow, given = SlowUNet(model), inputs()
    expected = model(**given).noise_pred
    assert expected.std() > 0.1
    for index, noise_pred in enumerate(expected):
        picture, step, label = (given[key][index] for key in ("sample", "timestep", "class_labels"))
        restated = slow(picture, int(step), int(label))
        torch.testing.assert_close(noise_pred.double(), restated, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({}, 672_417),
        ({"attention_resolutions": []}, 622_113),
        ({"attention_resolutions": [8]}, 655_649),
    ],
)
def test_sizes(settings, parameters):
    with torch.device("meta"):
        model = ConditionalUNetForDiffusion(ConditionalUNetConfig(**settings))
    assert model.num_parameters() == parameters


@pytest.mark.parametrize("blocks", [1, 2])
def test_other_shapes_fit_together(blocks):
    config = ConditionalUNetConfig(
        image_size=12,
        num_channels=3,
        base_channels=8,
        channel_multipliers=[2, 1, 3],
        num_res_blocks=blocks,
        attention_resolutions=[12, 3],
    )
    model = ConditionalUNetForDiffusion(config)
    arguments = torch.randn(2, 3, 12, 12), torch.tensor([0, 999]), torch.tensor([0, 10])
    assert model(*arguments).noise_pred.shape == (2, 3, 12, 12)


def test_a_fresh_network_predicts_nothing_and_its_paths_start_as_nothing():
    model = ConditionalUNetForDiffusion(ConditionalUNetConfig(**SMALL))
    assert not model(**inputs()).noise_pred.any()
    assert not model.middle.residual.second_convolution.weight.any()
    assert not model.middle.attention.output.weight.any()
    weight = model.middle.residual.first_convolution.weight
    assert weight.std().item() == pytest.approx((2 / (2 * 9 * 16)) ** 0.5, rel=0.1)


# --- guidance -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_guidance_is_two_passes(scale):
    model = network()
    given = {**inputs(), "class_labels": torch.tensor([0, 2, 1, 1])}
    conditional = model(**given).noise_pred
    null = model(**{**given, "class_labels": torch.full((4,), 3)}).noise_pred
    guided = model(**given, guidance_scale=scale).noise_pred
    expected = (1 + scale) * conditional - scale * null
    torch.testing.assert_close(guided, expected, rtol=1e-5, atol=1e-5)
    assert (guided - conditional).abs().max() > 1e-3
    # The convention of diffusers, with the scale 1 + w.
    other = null + (1 + scale) * (conditional - null)
    torch.testing.assert_close(guided, other, rtol=1e-5, atol=1e-5)


def test_gradients_of_single_pictures_through_vmap():
    model = network().double()
    given = {**inputs(), "class_labels": torch.tensor([0, 2, 1, 1])}
    given["sample"] = given["sample"].double()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    clean = torch.randn(4, 1, 8, 8, dtype=torch.float64)

    def loss(parameters, clean, noise, timestep, label):
        arguments = clean[None], noise[None], timestep[None]
        noisy = add_noise(model.config, *arguments)
        keywords = {"guidance_scale": 2.0}
        arguments = noisy, timestep[None], label[None]
        noise_pred = functional_call(model, parameters, arguments, keywords).noise_pred
        return (noise_pred - noise).square().sum()

    together = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0))(parameters, clean, *given.values())
    for index in range(4):
        one = (tensor[index] for tensor in (clean, *given.values()))
        alone = grad(loss)(parameters, *one)
        for name, expected in alone.items():
            torch.testing.assert_close(together[name][index], expected)


# --- noise schedule -------------------------------------------------------------------------------


def test_the_schedule_is_its_closed_form():
    config = ConditionalUNetConfig()
    bars, product = alpha_bars(config), 1.0
    for step in range(1000):
        beta = 1e-4 + (0.02 - 1e-4) * step / 999
        product *= 1 - beta
        assert betas(config)[step].item() == pytest.approx(beta, rel=1e-12)
        assert bars[step].item() == pytest.approx(product, rel=1e-12)
    # What is left of the picture, as Ho et al. design it: next to nothing.
    assert bars[-1].item() == pytest.approx(4.0358e-5, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_noise_is_added(dtype):
    config, timestep = ConditionalUNetConfig(), torch.tensor([0, 3, 500, 999])
    clean = torch.rand(4, 1, 8, 8, dtype=dtype) * 2 - 1
    noise = torch.randn(4, 1, 8, 8, dtype=dtype)
    noisy = add_noise(config, clean, noise, timestep)
    assert noisy.dtype == dtype
    bars = alpha_bars(config)[timestep][:, None, None, None]
    expected = bars.sqrt() * clean.double() + (1 - bars).sqrt() * noise.double()
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(noisy.double(), expected, rtol=tolerance, atol=tolerance)


def test_a_schedule_first_used_under_inference_mode_serves_training():
    config = ConditionalUNetConfig(num_train_timesteps=17)
    clean, timestep = torch.ones(1, 1, 2, 2), torch.tensor([16])
    with torch.inference_mode():
        add_noise(config, clean, clean, timestep)
    noise = torch.ones(1, 1, 2, 2, requires_grad=True)
    add_noise(config, clean, noise, timestep).sum().backward()
    expected = (1 - alpha_bars(config)[16]).sqrt().float()
    torch.testing.assert_close(noise.grad, expected.expand(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("shape", "timestep", "error", "sentence"),
    [
        ((2, 1, 4, 5), [0, 1], ValueError, r"noise must have the pictures' shape"),
        ((2, 1, 4, 4), [0, 20], ValueError, r"timestep must be in \[0, 20\), got 0 to 20"),
        ((2, 1, 4, 4), [-1, -1], ValueError, "got -1"),
        ((2, 1, 4, 4), [1], ValueError, r"shape \(2,\), one per picture, got"),
        ((2, 1, 4, 4), [0.5, 1.0], TypeError, "timestep must be int64"),
    ],
)
def test_bad_noise_is_refused(shape, timestep, error, sentence):
    with pytest.raises(error, match=sentence):
        add_noise(
            ConditionalUNetConfig(**SMALL),
            torch.zeros(2, 1, 4, 4),
            torch.zeros(shape),
            torch.tensor(timestep),
        )


# --- sampling -------------------------------------------------------------------------------------


class KnowsThePicture(ConditionalUNetForDiffusion):
    """Predicts the exact noise between what it sees and one known picture a class."""

    def forward(self, sample, timestep, class_labels, guidance_scale=0.0):
        bar = alpha_bars(self.config)[timestep].float()[:, None, None, None]
        noise = (sample - bar.sqrt() * pictures()[class_labels]) / (1 - bar).sqrt()
        return ConditionalUNetOutput(noise_pred=noise)


def pictures() -> torch.Tensor:
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1


@pytest.mark.parametrize("steps", [1, 7, 1000])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_exact_noise_leads_to_the_picture(steps, eta):
    model = KnowsThePicture(ConditionalUNetConfig(**{**SMALL, "num_train_timesteps": 1000}))
    drawn = sample(model, torch.tensor([2, 0]), num_steps=steps, eta=eta)
    torch.testing.assert_close(drawn, pictures()[[2, 0]], rtol=0, atol=1e-4)


def test_all_steps_with_eta_one_are_ancestral_sampling():
    """Algorithm 2 of Ho et al. with the posterior of their equations 6 and 7, written out."""
    model = network()
    labels = torch.tensor([1, 2])
    drawn = sample(model, labels, num_steps=20, eta=1.0, generator=torch.Generator().manual_seed(3))
    seeds = torch.randint(2**63 - 1, (2,), generator=torch.Generator().manual_seed(3))
    streams = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    beta, bars = betas(model.config), alpha_bars(model.config)
    noisy = torch.stack([torch.randn(1, 8, 8, generator=stream) for stream in streams])
    for step in reversed(range(20)):
        bar, before = bars[step], bars[step - 1] if step else torch.tensor(1.0).double()
        with torch.no_grad():
            noise = model(noisy, torch.full((2,), step), labels, guidance_scale=2.0).noise_pred
        clean = ((noisy - (1 - bar).sqrt() * noise) / bar.sqrt()).clamp(-1, 1)
        mean = before.sqrt() * beta[step] / (1 - bar) * clean
        mean = mean + (1 - beta[step]).sqrt() * (1 - before) / (1 - bar) * noisy
        noisy = mean.float()
        if step:
            deviation = ((1 - before) / (1 - bar) * beta[step]).sqrt().float()
            fresh = [torch.randn(1, 8, 8, generator=stream) for stream in streams]
            noisy = noisy + deviation * torch.stack(fresh)
    torch.testing.assert_close(drawn, noisy, rtol=0, atol=1e-4)
    assert drawn.std() > 0.1


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_picture_does_not_depend_on_its_batch(eta):
    model, labels = network(), torch.tensor([0, 1, 2, 1, 0])
    settings = {"num_steps": 4, "eta": eta}
    together = sample(model, labels, generator=torch.Generator().manual_seed(7), **settings)
    assert together.dtype == torch.float32
    assert together.abs().max() <= 1
    generator = torch.Generator().manual_seed(7)
    parts = [
        sample(model, part, generator=generator, **settings) for part in labels.split([1, 3, 1])
    ]
    torch.testing.assert_close(torch.cat(parts), together, rtol=0, atol=1e-5)
    assert (together[1] - together[3]).abs().max() > 0.1


def test_steps_are_evenly_spaced_from_the_noisiest():
    seen = []

    class Watched(KnowsThePicture):
        def forward(self, sample, timestep, class_labels, guidance_scale=0.0):
            seen.append(timestep.tolist())
            return super().forward(sample, timestep, class_labels, guidance_scale)

    model = Watched(ConditionalUNetConfig(**{**SMALL, "num_train_timesteps": 1000}))
    sample(model, torch.tensor([0]), num_steps=4)
    assert seen == [[999], [749], [499], [249]]
    for steps in (3, 7, 999, 1000):
        seen.clear()
        sample(model, torch.tensor([0]), num_steps=steps)
        visited = [step for (step,) in seen]
        assert visited[0] == 999
        assert len(set(visited)) == steps
        assert visited == sorted(visited, reverse=True)
        assert visited[-1] >= 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_sampling_leaves_the_model_and_the_generator_of_torch_alone(mode):
    model = network(dropout=0.5).train()
    model.middle.eval()
    with mode():
        labels = torch.tensor([0, 3])
        before = torch.get_rng_state()
        drawn = sample(
            model, labels, num_steps=3, guidance_scale=0, generator=torch.Generator().manual_seed(1)
        )
        assert torch.equal(torch.get_rng_state(), before)
    assert not drawn.requires_grad
    assert model.training and not model.middle.training
    again = sample(
        model.eval(), torch.tensor([0, 3]), num_steps=3, guidance_scale=0,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    assert torch.equal(drawn, again)


def test_half_precision_samples_in_float32(capsys):
    drawn = sample(network().bfloat16(), torch.tensor([0]), num_steps=2, progress=True)
    assert drawn.dtype == torch.float32
    assert "2/2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "settings", "error", "sentence"),
    [
        ([3], {}, ValueError, "contains the null class 3, but guidance needs a real"),
        ([4], {"guidance_scale": 0}, ValueError, r"in \[0, 3\), or 3 for no class, got 4"),
        ([[0]], {}, ValueError, r"one class per picture, got \(1, 1\)\."),
        ([], {}, ValueError, r"got \(0,\)"),
        ([0.0], {}, TypeError, "class_labels must be int64"),
        ([0], {"num_steps": 0}, ValueError, "whole number from 1 to 20, got 0"),
        ([0], {"num_steps": 21}, ValueError, "got 21"),
        ([0], {"num_steps": 2.5}, ValueError, "got 2.5"),
        ([0], {"eta": 1.5}, ValueError, r"eta must be in \[0, 1\], got 1.5"),
        ([0], {"guidance_scale": -0.5}, ValueError, "at least 0, got -0.5"),
    ],
)
def test_bad_requests_are_refused_before_work(labels, settings, error, sentence):
    class Refused(KnowsThePicture):
        def forward(self, *arguments, **keywords):
            raise AssertionError("work was done")

    model, before = Refused(ConditionalUNetConfig(**SMALL)), torch.get_rng_state()
    with pytest.raises(error, match=sentence):
        sample(model, torch.tensor(labels), **{"num_steps": 5, **settings})
    assert torch.equal(torch.get_rng_state(), before)


# --- learning, and bad settings -------------------------------------------------------------------


def test_it_learns_one_picture_a_class():
    """The noisiest steps show nothing of the picture, so the class has to reach every block."""
    config = ConditionalUNetConfig(
        image_size=4,
        base_channels=8,
        channel_multipliers=[1],
        attention_resolutions=[],
        num_classes=2,
        num_train_timesteps=20,
        beta_end=0.5,
    )
    model = ConditionalUNetForDiffusion(config).train()
    known = torch.tensor([-0.8, 0.8])[:, None, None, None].expand(2, 1, 4, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(120):
        labels, timestep = torch.randint(0, 2, (32,)), torch.randint(0, 20, (32,))
        noise = torch.randn(32, 1, 4, 4)
        noisy = add_noise(config, known[labels], noise, timestep)
        loss = (model(noisy, timestep, labels).noise_pred - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    labels = torch.tensor([0, 1] * 8)
    drawn = sample(model, labels, num_steps=10, guidance_scale=0)
    # Without the class half of them would be the other picture: 1.28.
    assert (drawn - known[labels]).square().mean() < 0.4


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"image_size": 18}, "divisible by 4 for 3 levels, got 18"),
        ({"base_channels": 18}, "multiple of 4, got 18"),
        (
            {"channel_multipliers": []},
            "channel_multipliers must have one number per level, got none",
        ),
        ({"channel_multipliers": [1, 0]}, "channel_multipliers must all be at least 1"),
        ({"attention_resolutions": [5]}, r"resolutions of the levels, \[16, 8, 4\], got \[5\]\."),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"num_train_timesteps": 0}, "num_train_timesteps must be at least 1"),
        ({"beta_start": 0.0}, "0 < beta_start <= beta_end < 1, got 0.0 and 0.02"),
        ({"beta_end": 1.0}, "got 0.0001 and 1.0"),
        ({"beta_start": 0.1}, "got 0.1 and 0.02"),
    ],
)
def test_bad_settings_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        ConditionalUNetConfig(**settings)
