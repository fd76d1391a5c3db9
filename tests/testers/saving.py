"""Saving and loading: by every class, in every precision, without a word lost."""

import copy
import dataclasses
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoConfig, AutoModel

from salhub import AutoModelForSaliency, SaliencyConfig
from salhub.hub import bundled_model
from salhub.manifest import WEIGHTS_ROOT
from tests.testers.subject import Subject
from tests.testers.trees import assert_equal, halved, leaves


class SavingTester(Subject):
    """For every model that `save_pretrained` writes."""

    # Names of the models shipped with this method, with their namespace.
    shipped: ClassVar[tuple[str, ...]] = ()
    auto_classes: ClassVar[tuple[Any, ...]] = (AutoModelForSaliency, AutoModel)
    # Largest difference that half precision makes; None where it may be any.
    half_tolerance: ClassVar[float | None] = None

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
        if not isinstance(self.config(), SaliencyConfig):
            pytest.skip("the configuration is one of transformers")
        inherited = {field.name for field in dataclasses.fields(SaliencyConfig)}
        fields = (field.name for field in dataclasses.fields(self.config()))
        field = next(name for name in fields if name not in inherited)
        with pytest.raises(Exception, match=f"Did you mean '{field}'"):
            type(self.config())(**{field + "x": 1})

    def test_loading_gives_the_saved_model(self, tmp_path):
        model = self.model()
        model.save_pretrained(tmp_path)
        loaded, info = self.model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values()), info
        assert not loaded.training
        assert_equal(self.run(loaded), self.run(model))
        assert [path.suffix for path in tmp_path.iterdir() if "model" in path.name] == [
            ".safetensors"
        ]

    def test_auto_classes_load_it(self, tmp_path):
        self.model().save_pretrained(tmp_path)
        for auto_class in self.auto_classes:
            assert type(auto_class.from_pretrained(tmp_path)) is self.model_class

    def test_nothing_depends_on_uninitialised_memory(self, tmp_path):
        model = self.model()
        model.save_pretrained(tmp_path)
        expected = self.run(model)
        with _poisoned_memory():
            loaded = self.model_class.from_pretrained(tmp_path)
        for name, tensor in [*loaded.named_parameters(), *loaded.named_buffers()]:
            assert not (tensor.is_floating_point() and tensor.isnan().any()), name
        assert_equal(self.run(loaded), expected)

    def test_no_tensor_hides_in_a_plain_attribute(self):
        # Loading builds the model on the meta device, where such a tensor would stay.
        for name, module in self.model().named_modules():
            hidden = [key for key, value in vars(module).items() if isinstance(value, torch.Tensor)]
            assert not hidden, f"{name}: {hidden}"

    def test_device_map_auto(self, tmp_path):
        model = self.model()
        model.save_pretrained(tmp_path)
        loaded = self.model_class.from_pretrained(tmp_path, device_map="auto")
        assert_equal(self.run(loaded), self.run(model), tolerance=self.tolerance)

    def test_half_precision(self, tmp_path):
        self.model().save_pretrained(tmp_path)
        model = self.model_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert model.dtype == torch.bfloat16
        found = self.run(model, **halved(self.inputs()))
        assert all(tensor.isfinite().all() for _, tensor in leaves(found))
        if self.half_tolerance is not None:
            found = dict(leaves(found))
            for place, expected in leaves(self.run(self.model())):
                error = (found[place].double() - expected.double()).abs()
                bound = self.half_tolerance * (1 + expected.double().abs())
                assert (error <= bound).all(), f"{place}: {float(error.max()):.3g}"

    def test_copies_behave_the_same(self):
        model = self.model()
        expected = self.run(model)
        assert_equal(self.run(copy.deepcopy(model)), expected)
        assert_equal(self.run(pickle.loads(pickle.dumps(model))), expected)

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
