"""A small model, a text, and the recipe that compresses the one on the other."""

from pathlib import Path

from salhub.models.slim_llm.recipe_slim_llm import SlimLLMArguments, SlimLLMRecipe
from tests import small_llama

# Two blocks of seven layers, with 4 or 6 groups each.
NUM_WINDOWS, LENGTH, GROUP_SIZE = 6, 24, 4


def save_sources(folder: Path) -> dict[str, str]:
    """Write a model and a text; the options that name them."""
    (folder / "text.txt").write_text("\n\n".join(small_llama.documents(60)))
    model = small_llama.save(folder / "model")
    return {"model": str(model), "calibration": str(folder / "text.txt")}


def recipe(folder: Path, sources: dict[str, str], **options) -> SlimLLMRecipe:
    """The recipe with options for a small model."""
    settings = {"num_calibration_windows": NUM_WINDOWS, "context_length": LENGTH}
    settings |= {"group_size": GROUP_SIZE, "cpu": True}
    return SlimLLMRecipe(
        SlimLLMArguments(output_dir=str(folder), **{**sources, **settings, **options})
    )
