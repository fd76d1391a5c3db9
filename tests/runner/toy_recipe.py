"""Small recipes: a network learns which of eight numbers is the largest, and layers are rounded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_model
from torch import Tensor, nn

from salhub.runner.arguments import RunArguments, TrainingArguments
from salhub.runner.batches import Batch
from salhub.runner.blocks import CompressedBlock
from salhub.runner.plan import share_of
from salhub.runner.recipe import BlockRecipe, Stage, StepLoss, TrainingRecipe

ROWS = 50


def drawn_inputs() -> Tensor:
    """The rows, float32 (50, 8)."""
    return torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(5))


@dataclass(kw_only=True)
class ToyArguments(TrainingArguments):
    batch_size: int = 12
    num_train_epochs: int = 2
    learning_rate: float = 1e-2
    logging_steps: int = 3
    dropout: float = 0.0
    noise: float = 0.1
    use_two_stages: bool = False
    stop_below: float = 0.0
    snapshot_step: int | None = None


class ToyRecipe(TrainingRecipe):
    name = "toy"
    arguments_class = ToyArguments

    def build_model(self) -> nn.Module:
        self.inputs = drawn_inputs()
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

    def after_step(self, model: nn.Module, optimizer: Any, step: int) -> None:
        if step + 1 == self.arguments.snapshot_step:
            self.run.snapshot("early", model)

    def validate(self, model: nn.Module, accelerator: Any) -> dict[str, float]:
        assert not model.training and not torch.is_grad_enabled()
        logits = model(self.inputs.to(accelerator.device))
        return {"loss": float(F.cross_entropy(logits, self.labels.to(accelerator.device)))}

    def is_done(self) -> bool:
        return bool(self.validations) and self.validations[-1]["loss"] < self.arguments.stop_below

    def evaluate(self, model: nn.Module, accelerator: Any, results: Any) -> None:
        assert not model.training
        with torch.no_grad():
            logits = model(self.inputs.to(accelerator.device))
        is_right = logits.argmax(1).cpu() == self.labels
        results.add_metric("accuracy", is_right.double().mean(), n=ROWS, unit="fraction")

    def export(self, model: nn.Module, folder: Path) -> None:
        save_model(model, str(folder / "model.safetensors"))


@dataclass(kw_only=True)
class ToyBlockArguments(RunArguments):
    levels: int = 3
    steps: int = 4
    rate: float = 0.02


class ToyBlockRecipe(BlockRecipe):
    """Rounds four layers, one after the other, with steps that each learns on its inputs.

    Attributes:
        compressed: The layers that this recipe has rounded itself.
    """

    name = "toy-block"
    arguments_class = ToyBlockArguments

    def build_model(self) -> nn.Module:
        self.compressed: list[str] = []
        model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
        with torch.no_grad():
            self.stream = self.inputs = drawn_inputs()
            self.wanted = model(self.inputs)
        return model

    def block_names(self, model: nn.Module) -> Sequence[str]:
        return [name for name, _ in model.named_children()]

    def compress_block(self, model: nn.Module, name: str) -> CompressedBlock:
        weight, accelerator = model.get_submodule(name).weight.detach(), self.run.accelerator
        share = share_of(accelerator)
        rows = self.stream[share.index :: share.count]
        # What is drawn has to be the same however often the run was stopped.
        start = weight.abs().amax(1, keepdim=True) / self.arguments.levels
        step = (start * (0.8 + 0.4 * torch.rand(8, 1))).requires_grad_()
        for _ in range(self.arguments.steps):
            error = (rows @ (weight - self._rounded(weight, step)).T).square().sum()
            [gradient] = torch.autograd.grad(error, step)
            gradient = accelerator.reduce(gradient, "sum") / ROWS
            step = (step - self.arguments.rate * gradient).detach().requires_grad_()
        error = (rows @ (weight - self._rounded(weight, step)).T).square().sum().detach()
        self.compressed.append(name)
        return CompressedBlock(
            {"codes": (weight / step).round().to(torch.int8), "step": step},
            {"error": float(accelerator.reduce(error, "sum")) / ROWS},
        )

    def _rounded(self, weight: Tensor, step: Tensor) -> Tensor:
        scaled = weight / step
        return (scaled + (scaled.round() - scaled).detach()) * step

    @torch.no_grad()
    def take_block(self, model: nn.Module, name: str, block: CompressedBlock) -> None:
        layer = model.get_submodule(name)
        layer.weight.copy_(block.tensors["codes"] * block.tensors["step"])
        self.stream = layer(self.stream)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, accelerator: Any, results: Any) -> None:
        error = (model(self.inputs) - self.wanted).square().mean()
        results.add_metric("error", error, n=ROWS)

    def export(self, model: nn.Module, folder: Path) -> None:
        save_model(model, str(folder / "model.safetensors"))
        (folder / "steps").mkdir()
        (folder / "steps" / "levels.txt").write_text(str(self.arguments.levels))
