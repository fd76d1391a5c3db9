"""What every model of salhub must be able to do: the specification of a good citizen.

A method subclasses `ModelTester` in its own tests, says how to build a small configuration and
an input, and inherits every test here.
"""

import copy
import dataclasses
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from salhub import AutoModelForSaliency, SaliencyConfig
from salhub.hub import bundled_model
from salhub.manifest import WEIGHTS_ROOT


class ModelTester:
    """Subclass it, name it `Test...`, and fill in the first four members."""

    model_class: ClassVar[type]
    # Names of the models shipped with this method, with their namespace.
    shipped: ClassVar[tuple[str, ...]] = ()
    # Largest difference between a batch and its items one by one.
    tolerance: ClassVar[float] = 1e-5

    def config(self) -> Any:
        """Return a small configuration."""
        raise AssertionError("say how a small configuration is built")

    def inputs(self) -> dict[str, torch.Tensor]:
        """Return the keywords of forward for a batch of two or more."""
        raise AssertionError("say what the model is called with")

    def bad_inputs(self) -> list[tuple[dict[str, Any], type[Exception], str]]:
        """Return (keywords of forward, exception, pattern of its message) triples."""
        raise AssertionError("say which inputs are refused, and how")

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.model_class(self.config()).eval()

    def run(self, model: nn.Module, **replaced: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        outputs = model(**{**self.inputs(), **replaced})
        return {key: value for key, value in outputs.items() if isinstance(value, torch.Tensor)}

    # --- configuration ------------------------------------------------------------------------

    def test_configuration_survives_a_round_trip(self, tmp_path):
        config = self.config()
        config.save_pretrained(tmp_path)
        for loader in (type(config), AutoConfig):
            loaded = loader.from_pretrained(tmp_path)
            assert type(loaded) is type(config)
            # Where it was loaded from is the one thing that must differ.
            loaded.name_or_path = config.name_or_path
            assert loaded.to_dict() == config.to_dict()

    def test_configuration_refuses_a_misspelt_field(self):
        inherited = {field.name for field in dataclasses.fields(SaliencyConfig)}
        fields = (field.name for field in dataclasses.fields(self.config()))
        field = next(name for name in fields if name not in inherited)
        with pytest.raises(Exception, match=f"Did you mean '{field}'"):
            type(self.config())(**{field + "x": 1})

    # --- saving and loading -------------------------------------------------------------------

    def test_loading_gives_the_saved_model(self, tmp_path):
        model = self.model()
        model.save_pretrained(tmp_path)
        loaded, info = self.model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values()), info
        assert not loaded.training
        _assert_equal(self.run(loaded), self.run(model))
        assert [path.suffix for path in tmp_path.iterdir() if "model" in path.name] == [
            ".safetensors"
        ]

    def test_auto_classes_load_it(self, tmp_path):
        self.model().save_pretrained(tmp_path)
        assert type(AutoModelForSaliency.from_pretrained(tmp_path)) is self.model_class
        assert type(AutoModel.from_pretrained(tmp_path)) is self.model_class

    def test_nothing_depends_on_uninitialised_memory(self, tmp_path):
        model = self.model()
        model.save_pretrained(tmp_path)
        expected = self.run(model)
        with _poisoned_memory():
            loaded = self.model_class.from_pretrained(tmp_path)
        for name, tensor in [*loaded.named_parameters(), *loaded.named_buffers()]:
            assert not (tensor.is_floating_point() and tensor.isnan().any()), name
        _assert_equal(self.run(loaded), expected)

    def test_no_tensor_hides_in_a_plain_attribute(self):
        # Loading builds the model on the meta device, where such a tensor would stay.
        for name, module in self.model().named_modules():
            hidden = [key for key, value in vars(module).items() if isinstance(value, torch.Tensor)]
            assert not hidden, f"{name}: {hidden}"

    def test_device_map_auto(self, tmp_path):
        model = self.model()
        model.save_pretrained(tmp_path)
        loaded = self.model_class.from_pretrained(tmp_path, device_map="auto")
        _assert_equal(self.run(loaded), self.run(model), tolerance=self.tolerance)

    def test_half_precision(self, tmp_path):
        self.model().save_pretrained(tmp_path)
        model = self.model_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert model.dtype == torch.bfloat16
        inputs = {
            key: value.bfloat16() if value.is_floating_point() else value
            for key, value in self.inputs().items()
        }
        saliency = model(**inputs).saliency
        assert saliency.dtype == torch.float32
        assert saliency.isfinite().all()

    def test_copies_behave_the_same(self):
        model = self.model()
        expected = self.run(model)
        _assert_equal(self.run(copy.deepcopy(model)), expected)
        _assert_equal(self.run(pickle.loads(pickle.dumps(model))), expected)

    # --- calling ------------------------------------------------------------------------------

    def test_a_batch_gives_what_its_items_give(self):
        model, inputs = self.model(), self.inputs()
        together = self.run(model)
        size = len(next(iter(inputs.values())))
        for index in range(size):
            alone = self.run(
                model, **{key: value[index : index + 1] for key, value in inputs.items()}
            )
            expected = {key: value[index : index + 1] for key, value in together.items()}
            _assert_equal(alone, expected, tolerance=self.tolerance)

    def test_two_calls_give_the_same(self):
        model = self.model()
        _assert_equal(self.run(model), self.run(model))

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_works_without_gradients(self, mode):
        model = self.model()
        expected = self.run(model)
        with mode():
            inputs = {key: value.clone() for key, value in self.inputs().items()}
            outputs = self.run(model, **inputs)
        _assert_equal(outputs, expected)
        assert not any(value.requires_grad for value in outputs.values())

    def test_inputs_are_not_modified(self):
        model, inputs = self.model(), self.inputs()
        before = {key: value.clone() for key, value in inputs.items()}
        model(**inputs)
        _assert_equal(inputs, before)
        assert all(value.grad is None for value in inputs.values())

    @pytest.mark.parametrize("training", [False, True])
    def test_nothing_leaks(self, training):
        model = self.model().train(training)
        for index, parameter in enumerate(model.parameters()):
            parameter.requires_grad_(index % 2 == 0 and parameter.is_floating_point())
        before = _state(model)
        model(**self.inputs())
        assert _state(model) == before

    def test_nothing_leaks_after_an_exception(self):
        model = self.model().train()
        before = _state(model)
        with _failing_part(model), pytest.raises(_DeliberateError):
            model(**self.inputs())
        assert _state(model) == before
        _assert_equal(self.run(model), self.run(self.model().train()))

    def test_bad_input_is_refused_with_one_sentence(self):
        model = self.model()
        for keywords, exception, pattern in self.bad_inputs():
            with pytest.raises(exception, match=pattern):
                model(**{**self.inputs(), **keywords})

    # --- what is shipped ----------------------------------------------------------------------

    def test_shipped_models_load_completely(self):
        for name in self.shipped:
            model, info = self.model_class.from_pretrained(name, output_loading_info=True)
            assert not any(info.values()), (name, info)
            assert model.config.name_or_path == name
            assert model.dtype == torch.float32

    def test_shipped_configurations_name_no_local_path(self):
        for name in self.shipped:
            text = (bundled_model(name).folder_of("config.json") / "config.json").read_text()
            assert str(WEIGHTS_ROOT) not in text
            assert not json.loads(text).get("_name_or_path")


class _DeliberateError(Exception):
    pass


@contextmanager
def _failing_part(model: nn.Module) -> Iterator[None]:
    """Make the last part of the model that is called raise."""
    leaves = [module for module in model.modules() if not list(module.children())]

    def fail(*_, **__):
        raise _DeliberateError

    original = leaves[-1].forward
    leaves[-1].forward = fail
    try:
        yield
    finally:
        leaves[-1].forward = original
        vars(leaves[-1]).pop("forward", None)


@contextmanager
def _poisoned_memory() -> Iterator[None]:
    """Fill memory that torch hands out uninitialised with NaN."""
    was_enabled = torch.are_deterministic_algorithms_enabled()
    was_filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_enabled)
        torch.utils.deterministic.fill_uninitialized_memory = was_filled


def _state(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that a call must leave alone."""
    modules = dict(model.named_modules())
    return {
        "training": {name: module.training for name, module in modules.items()},
        "hooks": {
            name: [len(hooks) for key, hooks in sorted(vars(module).items()) if "_hooks" in key]
            for name, module in modules.items()
        },
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "grad": {name: p.grad is None for name, p in model.named_parameters()},
        "values": {name: float(p.double().sum()) for name, p in model.state_dict().items()},
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
        "random": torch.get_rng_state().tolist(),
        "grad_mode": torch.is_grad_enabled(),
    }


def _assert_equal(
    actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 0.0
) -> None:
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            actual[key],
            value,
            rtol=tolerance,
            atol=tolerance,
            msg=lambda text, key=key: f"{key}: {text}",
        )
