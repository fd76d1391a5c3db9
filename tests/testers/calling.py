"""Calling: what a call gives, and what it leaves alone."""

from typing import Any

import pytest
import torch

from tests.testers.state import state_of
from tests.testers.subject import Subject
from tests.testers.trees import assert_equal, changed, item, leaves


class CallingTester(Subject):
    """For every model that is called, whatever it gives."""

    def bad_inputs(self) -> list[tuple[dict[str, Any], type[Exception], str]]:
        """Return (keywords of a call, exception, pattern of its message) triples."""
        raise AssertionError("say which inputs are refused, and how")

    def test_two_calls_give_the_same(self):
        model = self.model()
        assert_equal(self.run(model), self.run(model))

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_works_without_gradients(self, mode):
        model = self.model()
        expected = self.run(model)
        with mode():
            inputs = changed(self.inputs(), torch.Tensor.clone)
            outputs = self.run(model, **inputs)
        assert_equal(outputs, expected)
        assert not any(tensor.requires_grad for _, tensor in leaves(outputs))

    def test_inputs_are_not_modified(self):
        model, inputs = self.model(), self.inputs()
        before = changed(inputs, torch.Tensor.clone)
        model(**inputs)
        assert_equal(inputs, before)
        assert all(tensor.grad is None for _, tensor in leaves(inputs))

    def test_a_call_leaves_the_model_alone(self):
        model = self.model()
        for index, parameter in enumerate(model.parameters()):
            parameter.requires_grad_(index % 2 == 0 and parameter.is_floating_point())
        before = state_of(model)
        model(**self.inputs())
        assert state_of(model) == before

    def test_bad_input_is_refused_with_one_sentence(self):
        model = self.model()
        for keywords, exception, pattern in self.bad_inputs():
            with pytest.raises(exception, match=pattern):
                model(**{**self.inputs(), **keywords})


class BatchTester(CallingTester):
    """For models that take several inputs at once."""

    def batch_size(self) -> int:
        """Return how many inputs there are: rows of the first tensor, unless said otherwise."""
        return len(next(tensor for _, tensor in leaves(self.inputs())))

    def test_a_batch_gives_what_its_items_give(self):
        model, inputs, size = self.model(), self.inputs(), self.batch_size()
        together = self.run(model)
        for index in range(size):
            kept = item(inputs, index, size)
            # Settings of a call are the same for all.
            kept = {name: inputs[name] if value is None else value for name, value in kept.items()}
            alone = item(self.run(model, **kept), 0, 1)
            assert_equal(alone, item(together, index, size), tolerance=self.tolerance)
