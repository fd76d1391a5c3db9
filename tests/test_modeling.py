"""The base classes: attribution inside any mode, and models without weights."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from salhub import ParameterFreeModel, SaliencyConfig, SaliencyOutput
from salhub.configuration import strict
from salhub.modeling import attribution_scope


@strict
class _CountingConfig(SaliencyConfig):
    """Configuration of a model that counts."""

    model_type = "salhub_test_counting"

    step: int = 2


class _Counting(ParameterFreeModel):
    config: _CountingConfig
    main_input_name = "values"

    def __init__(self, config):
        super().__init__(config)
        self.post_init()

    def forward(self, values):
        return SaliencyOutput(saliency=values * self.config.step)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_gradients_work_in_every_mode_and_the_mode_comes_back(mode):
    layer = nn.Sequential(nn.Linear(3, 1), nn.Dropout())
    layer[0].eval()
    with mode():
        before = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        with attribution_scope(layer):
            assert not layer.training and not layer[1].training
            inputs = torch.ones(1, 3, requires_grad=True)
            (gradient,) = torch.autograd.grad(layer(inputs).sum(), inputs)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    assert torch.equal(gradient, layer[0].weight)
    assert layer.training and layer[1].training and not layer[0].training


def test_modes_come_back_after_an_exception():
    layer = nn.Dropout()
    with pytest.raises(KeyError), attribution_scope(layer):
        raise KeyError
    assert layer.training


def test_a_model_without_weights_saves_and_loads(tmp_path):
    AutoConfig.register(_CountingConfig.model_type, _CountingConfig, exist_ok=True)
    AutoModel.register(_CountingConfig, _Counting, exist_ok=True)
    _Counting(_CountingConfig(step=5)).save_pretrained(tmp_path)
    for settings in ({}, {"dtype": torch.bfloat16}, {"device_map": "auto"}):
        model, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True, **settings)
        assert not any(info.values())
        assert model(torch.tensor([2])).saliency.tolist() == [10]
        assert model.anchor == 0
    assert model.num_parameters(only_trainable=True) == 0
    assert AutoModel.from_pretrained(tmp_path, step=7).config.step == 7


def test_values_assigned_after_construction_are_checked_before_a_model_is_built():
    from salhub import EfficientNetLiteConfig, EfficientNetLiteForImageClassification

    config = EfficientNetLiteConfig(image_size=32)
    with pytest.raises(Exception, match="dropout_rate"):
        config.dropout_rate = 3.0
        EfficientNetLiteForImageClassification(config)


def test_a_keyword_nobody_knows_is_refused(tmp_path):
    _Counting(_CountingConfig()).save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="stpe"):
        _Counting.from_pretrained(tmp_path, stpe=3)


def test_an_output_is_a_mapping_of_the_fields_that_it_has():
    output = SaliencyOutput(logits=torch.zeros(1))
    output.saliency = torch.ones(1)
    output.logits = None  # as transformers has it, what was there stays among the items
    output.other = 1
    assert list(output) == ["logits", "saliency"] and output.logits is None and output.other == 1
