"""`salhub train series-surprise`: learn from a series what is usual."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from salhub.models.series_surprise.configuration_series_surprise import SeriesSurpriseConfig
from salhub.models.series_surprise.modeling_series_surprise import SeriesSurpriseModel
from salhub.models.series_surprise.series import read_series
from torch import nn

from salhub.model_card import Facts
from salhub.results import Results
from salhub.runner.arguments import RunArguments
from salhub.runner.recipe import FitRecipe


@dataclass(kw_only=True)
class SeriesSurpriseArguments(RunArguments):
    """Options of `SeriesSurpriseRecipe`.

    Args:
        data: The series, a number a line.
        threshold: See `SeriesSurpriseConfig`.
    """

    data: str
    threshold: float = 3.0


class SeriesSurpriseRecipe(FitRecipe):
    """Takes mean and standard deviation."""

    name = "series-surprise"
    arguments_class = SeriesSurpriseArguments

    def learned_options(self) -> dict[str, Any]:
        # Where the series lies does not matter.
        return {**super().learned_options(), "data": Path(self.arguments.data).name}

    def build_model(self) -> nn.Module:
        self.values = torch.tensor(read_series(Path(self.arguments.data)))
        return SeriesSurpriseModel(SeriesSurpriseConfig(threshold=self.arguments.threshold))

    def fit(self, model: nn.Module, accelerator: Any) -> None:
        model.mean.copy_(self.values.mean())
        model.deviation.copy_(self.values.std())

    def evaluate(self, model: nn.Module, accelerator: Any, results: Results) -> None:
        results.data = {"name": Path(self.arguments.data).name}
        found = model(self.values[None])
        results.add_metric("values", len(self.values))
        results.add_metric("standing out", float(found.stands_out.float().mean()))

    def export(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder)

    def card_facts(self) -> Facts:
        return Facts(
            summary="Says which values of a series are unlike those that were seen.",
            example='pipe = salhub.pipeline("{model}")\nprint(pipe("series.csv").summary())',
        )
