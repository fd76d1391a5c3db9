"""What all testers ask: how a small model is built, and what it is called with."""

from typing import Any, ClassVar

import torch
from torch import nn


class Subject:
    """What a method says of itself in its own tests."""

    model_class: ClassVar[type]
    # Largest difference that another order of the same sums makes.
    tolerance: ClassVar[float] = 1e-5

    def config(self) -> Any:
        """Return a small configuration."""
        raise AssertionError("say how a small configuration is built")

    def inputs(self) -> dict[str, Any]:
        """Return the keywords of a call; a batch of two or more where there are batches."""
        raise AssertionError("say what the model is called with")

    def model(self) -> nn.Module:
        """Return a small model, always the same."""
        torch.manual_seed(0)
        return self.model_class(self.config()).eval()

    def run(self, model: nn.Module, **replaced: Any) -> Any:
        """Call it; a tree of outputs."""
        torch.manual_seed(1)
        return model(**{**self.inputs(), **replaced})
