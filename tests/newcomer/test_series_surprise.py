"""Tests of the toy method of a new task, as CONTRIBUTING.md asks for them."""

from functools import partial

import pytest
import torch
from salhub.models.series_surprise.configuration_series_surprise import SeriesSurpriseConfig
from salhub.models.series_surprise.modeling_series_surprise import SeriesSurpriseModel
from salhub.models.series_surprise.recipe_series_surprise import (
    SeriesSurpriseArguments,
    SeriesSurpriseRecipe,
)

from tests.testers import AttributionTester, BatchTester, SavingTester
from tests.testers.recipe import RecipeTester


class TestSeriesSurprise(SavingTester, BatchTester, AttributionTester):
    model_class = SeriesSurpriseModel
    shipped = ("salhub/series-surprise-standard",)

    def config(self):
        return SeriesSurpriseConfig(threshold=0.5)

    def inputs(self):
        return {"values": torch.tensor([[0.0, 0.2, 3.0], [1.0, -2.0, 0.1]])}

    def bad_inputs(self):
        return [
            ({"values": torch.zeros(3)}, ValueError, r"shape \(B, N\), got \(3,\)"),
            ({"values": torch.full((1, 2), torch.nan)}, ValueError, "must be finite"),
        ]


class TestSeriesSurpriseRecipe(RecipeTester):
    @pytest.fixture
    def make(self, tmp_path):
        data = tmp_path / "series.csv"
        data.write_text("1\n2\n4\n")
        options = partial(SeriesSurpriseArguments, data=str(data), cpu=True)
        return lambda folder, **more: SeriesSurpriseRecipe(options(output_dir=str(folder), **more))
