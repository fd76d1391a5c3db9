"""The pipeline of the models that look for surprises in series."""

from typing import Any

import torch
from salhub.models.series_surprise.result_series_surprise import SeriesSurpriseResult
from salhub.models.series_surprise.series import read_series

from salhub.pipelines.base import TaskPipeline


class SeriesSaliencyPipeline(TaskPipeline):
    """Say which values of a series surprise.

    Example:
        >>> import salhub
        >>> salhub.pipeline("salhub/series-surprise-standard")([0, 1, 9]).summary()
        '1 of 3 values stand out.'
    """

    input_type = "text"
    input_suffixes = (".csv", ".txt")
    read = staticmethod(read_series)
    result_class = SeriesSurpriseResult
    sample = "0\n1\n9"
    example = """
import salhub

result = salhub.pipeline("{model}")([0, 1, 9])
print(result.summary())
"""
    hub_task = "time-series-forecasting"

    def __call__(self, series: Any, **kwargs: Any) -> Any:
        """Look at one series: a file with a number a line, or numbers; or at a list of series."""
        is_one = not isinstance(series, list) or not isinstance(series[0], list | str)
        found = super().__call__([read_series(one) for one in ([series] if is_one else series)])
        return found[0] if is_one else found

    def _sanitize_parameters(self, **settings):
        self._refuse_unknown(settings)
        return {}, {}, {}

    def choices(self) -> dict[str, list[str]]:
        """Return nothing: there is no list to choose from."""
        return {}

    def prepare(self, values: list[float]) -> dict[str, Any]:
        return {"values": torch.tensor([values])}

    def _forward(self, model_inputs):
        return {**self.model(**model_inputs), **model_inputs}

    def postprocess(self, model_outputs) -> SeriesSurpriseResult:
        parts = {
            name: model_outputs[name][0].numpy() for name in ("values", "saliency", "stands_out")
        }
        return SeriesSurpriseResult(**parts, model_name=self._model_name())
