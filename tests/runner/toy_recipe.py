"""A small recipe: a two-layer network learns which of eight numbers is the largest."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_model
from torch import Tensor, nn

from salhub.runner.arguments import TrainingArguments
from salhub.runner.batches import Batch
from salhub.runner.recipe import Stage, StepLoss, TrainingRecipe

ROWS = 50


@dataclass(kw_only=True)
class ToyArguments(TrainingArguments):
    batch_size: int = 12
    num_train_epochs: int = 2
    learning_rate: float = 1e-2
    logging_steps: int = 3
    dropout: float = 0.0
    noise: float = 0.1
    use_two_stages: bool = False


class ToyRecipe(TrainingRecipe):
    name = "toy"
    arguments_class = ToyArguments

    def build_model(self) -> nn.Module:
        generator = torch.Generator().manual_seed(5)
        self.inputs = torch.randn(ROWS, 8, generator=generator)
        self.labels = self.inputs.argmax(1)
        hidden = nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Dropout(self.arguments.dropout)
        return nn.Sequential(*hidden, nn.Linear(16, 8))

    def stages(self, epoch: int) -> list[Stage]:
        if self.arguments.use_two_stages:
            return [Stage("first", 20, self._fetch), Stage("second", ROWS, self._fetch)]
        return [Stage("train", ROWS, self._fetch)]

    def _fetch(self, batch: Batch) -> dict[str, Tensor]:
        return {"inputs": self.inputs[batch.rows], "labels": self.labels[batch.rows]}

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        noise = batch.draw(lambda n, generator: torch.randn(n, 8, generator=generator))
        logits = model(inputs["inputs"] + self.arguments.noise * noise.to(inputs["inputs"].device))
        samples = F.cross_entropy(logits, inputs["labels"], reduction="none")
        is_right = (logits.argmax(1) == inputs["labels"]).float()
        return StepLoss(samples, measures={"accuracy": is_right})

    def evaluate(self, model: nn.Module, accelerator: Any, results: Any) -> None:
        with torch.no_grad():
            logits = model(self.inputs.to(accelerator.device))
        is_right = logits.argmax(1).cpu() == self.labels
        results.add_metric("accuracy", is_right.double().mean(), n=ROWS, unit="fraction")

    def export(self, model: nn.Module, folder: Path) -> None:
        save_model(model, str(folder / "model.safetensors"))
