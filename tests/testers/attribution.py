"""Attribution: gradients are taken behind the scenes, and nobody sees them afterwards."""

import pytest
import torch

from tests.testers.state import DeliberateError, failing_part, state_of
from tests.testers.subject import Subject
from tests.testers.trees import assert_equal, changed, halved, leaves


class AttributionTester(Subject):
    """For models that say what mattered: their outputs have a `saliency`."""

    def test_nothing_leaks_in_training(self):
        model = self.model().train()
        for index, parameter in enumerate(model.parameters()):
            parameter.requires_grad_(index % 2 == 0 and parameter.is_floating_point())
        before = state_of(model)
        model(**self.inputs())
        assert state_of(model) == before

    def test_nothing_leaks_after_an_exception(self):
        model, inputs = self.model().train(), self.inputs()
        before = state_of(model)
        with failing_part(model, lambda: self.run(model)), pytest.raises(DeliberateError):
            model(**inputs)
        assert state_of(model) == before
        assert_equal(self.run(model), self.run(self.model().train()))

    def test_gradients_of_the_caller_are_not_touched(self):
        """Inputs that somebody differentiates, and gradients that are being collected."""
        model = self.model()
        expected = self.run(model)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
        inputs = changed(
            self.inputs(),
            lambda one: one.clone().requires_grad_() if one.is_floating_point() else one,
        )
        found = self.run(model, **inputs)
        assert_equal(changed(dict(found), torch.Tensor.detach), expected)
        assert all(tensor.grad is None for _, tensor in leaves(inputs))
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        assert all(gradient.eq(1).all() for gradient in gradients)

    def test_saliency_is_in_full_precision(self, tmp_path):
        self.model().save_pretrained(tmp_path)
        model = self.model_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
        saliency = self.run(model, **halved(self.inputs())).saliency
        assert saliency.dtype == torch.float32
        assert saliency.isfinite().all()
