"""A diffusion model and its record: class names, loss, drawing."""

import math

import pytest
import torch

from salhub.backbones.conditional_unet.configuration_conditional_unet import ConditionalUNetConfig
from salhub.backbones.conditional_unet.sampling import sample
from salhub.models.salun.configuration_salun_diffusion import SalUnDiffusionConfig
from salhub.models.salun.modeling_salun_diffusion import SalUnForConditionalDiffusion
from tests.testers import BatchTester, SavingTester


def network() -> SalUnForConditionalDiffusion:
    """A small model without the zeros of a fresh one, which would hide everything."""
    torch.manual_seed(0)
    backbone = ConditionalUNetConfig(image_size=8, base_channels=8)
    model = SalUnForConditionalDiffusion(SalUnDiffusionConfig(backbone_config=backbone))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


class TestSalUnDiffusion(SavingTester, BatchTester):
    model_class = SalUnForConditionalDiffusion
    half_tolerance = 0.1

    def config(self):
        return network().config

    def model(self):
        return network()

    def inputs(self):
        generator = torch.Generator().manual_seed(2)
        return {
            "sample": torch.randn(3, 1, 8, 8, generator=generator),
            "timestep": torch.tensor([0, 700, 999]),
            "class_labels": torch.tensor([0, 9, 10]),
        }

    def bad_inputs(self):
        given = self.inputs()
        picture, step, label = (given[key] for key in ("sample", "timestep", "class_labels"))
        return [
            ({"sample": picture[0]}, ValueError, r"shape \(B, 1, 8, 8\), got \(1, 8, 8\)"),
            ({"sample": picture.byte()}, TypeError, "floating point"),
            ({"timestep": step + 1}, ValueError, r"in \[0, 1000\), got 1 to 1000"),
            ({"class_labels": label + 1}, ValueError, "or 10 for no class, got 1 to 11"),
            (
                {"guidance_scale": 1.0},
                ValueError,
                "contains the null class 10, but guidance needs a real",
            ),
            ({"guidance_scale": math.nan}, ValueError, "got nan"),
            (
                {"noise": picture[:, :, 1:]},
                ValueError,
                r"noise must have the shape of the sample, \(3, 1, 8, 8\)",
            ),
            ({"noise": picture[:1]}, ValueError, r"got \(1, 1, 8, 8\)"),
        ]


def test_the_loss_is_the_mean_squared_error_against_the_noise():
    model, given = network(), TestSalUnDiffusion().inputs()
    noise = torch.randn(3, 1, 8, 8)
    output = model(**given, noise=noise)
    expected = (output.noise_pred - noise).double().pow(2).sum() / noise.numel()
    torch.testing.assert_close(output.loss.double(), expected)
    assert model(**given).loss is None
    torch.testing.assert_close(output.noise_pred, model.backbone(**given).noise_pred)


@pytest.mark.parametrize("labels", [[3, 1], torch.tensor([3, 1])])
def test_drawing_is_that_of_the_network_inside(labels):
    model, settings = network(), {"num_steps": 3, "guidance_scale": 1.5, "eta": 0.5}
    drawn = model.generate(labels, **settings, generator=torch.Generator().manual_seed(4))
    expected = sample(
        model.backbone,
        torch.tensor([3, 1]),
        **settings,
        generator=torch.Generator().manual_seed(4),
    )
    assert torch.equal(drawn, expected)
    assert drawn.shape == (2, 1, 8, 8) and drawn.abs().max() <= 1


def test_there_is_a_name_for_each_class():
    backbone = ConditionalUNetConfig(num_classes=3)
    config = SalUnDiffusionConfig(backbone_config=backbone)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    names = {0: "zero", 1: "one", 2: "two"}
    assert SalUnDiffusionConfig(backbone_config=backbone, id2label=names).id2label == names
    for wrong in ({"id2label": {0: "zero"}}, {"num_labels": 4}):
        with pytest.raises(ValueError, match="must name 3 classes"):
            SalUnDiffusionConfig(backbone_config=backbone, **wrong)
