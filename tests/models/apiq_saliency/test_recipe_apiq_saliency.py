"""Compression by ApiQ: from a LLaMA and a text to few bits and adapters that transformers loads."""

from pathlib import Path

import pytest

from salhub import entries, registration
from salhub.entries import Method, Model
from salhub.models.apiq_saliency.recipe_apiq_saliency import (
    ApiQSaliencyArguments,
    ApiQSaliencyRecipe,
)
from tests import small_llama
from tests.testers.recipe import RecipeTester

ENTRY = Model(
    "apiq_saliency",
    "apiq_saliency",
    "text-generation",
    "transformers.LlamaConfig",
    "transformers.LlamaForCausalLM",
    "AutoModelForCausalLM",
    quantizer="ApiQSaliencyQuantizer",
)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """The lines that `salhub.auto` gets with the first model that ships."""
    monkeypatch.setitem(entries.METHODS, ENTRY.name, Method(ENTRY.name, "arXiv:2504.13932"))
    monkeypatch.setitem(entries.MODELS, ENTRY.name, ENTRY)
    registration._register_quantizers()


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    """A model and a text."""
    folder = tmp_path_factory.mktemp("apiq")
    (folder / "text.txt").write_text("\n\n".join(small_llama.documents(60)))
    model = small_llama.save(folder / "model")
    return {"model": str(model), "calibration": str(folder / "text.txt")}


def recipe(folder: Path, sources: dict[str, str], **options) -> ApiQSaliencyRecipe:
    settings = {"num_calibration_windows": 6, "context_length": 24, "group_size": 4, "cpu": True}
    settings |= {"joint_epochs": 2, "lora_r": 2, "clip_learning_rate": 0.05}
    return ApiQSaliencyRecipe(
        ApiQSaliencyArguments(output_dir=str(folder), **{**sources, **settings, **options})
    )


class TestApiQSaliency(RecipeTester):
    @pytest.fixture
    def make(self, sources):
        return lambda folder, **options: recipe(folder, sources, **options)
