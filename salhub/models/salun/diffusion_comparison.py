"""Other ways to unlearn a diffusion model, beside which SalUn is shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salhub.models.salun.modeling_salun_diffusion import SalUnForConditionalDiffusion
from salhub.models.salun.recipe_salun_diffusion import (
    DiffusionUnlearningRecipe,
    GradientAscentDiffusionRecipe,
    RandomClassRecipe,
    SalUnDiffusionRecipe,
)
from salhub.runner.loop import run
from salhub.runner.run_folder import RESULTS_NAME

# Climbing a loss goes wrong soon; at the rate of the others nothing would be left.
_ASCENT_RATE = 2e-5
_OTHERS: Mapping[str, tuple[type[DiffusionUnlearningRecipe], dict[str, Any]]] = {
    "SalUn, random mask": (SalUnDiffusionRecipe, {"saliency": "random"}),
    "RL, no mask": (RandomClassRecipe, {}),
    "redirect to no class": (RandomClassRecipe, {"target": "null"}),
    "GA": (GradientAscentDiffusionRecipe, {"learning_rate": _ASCENT_RATE}),
}


@dataclass(frozen=True)
class DiffusionComparison:
    """Runs of other methods on one original; what is in the folder is not run again.

    Args:
        data: Archive that the original was trained on.
        original: The model before unlearning, by name.
        folder: Where the runs go.
        forget: What is forgotten.
        learning_rate, max_train_steps: Of all methods but GA, whose rate is its own.
        seed: Of the runs.
    """

    data: str
    original: str
    folder: Path
    forget: str
    learning_rate: float
    max_train_steps: int
    seed: int = 0

    @property
    def labels(self) -> list[str]:
        """The rows."""
        return list(_OTHERS)

    def model(self, label: str) -> SalUnForConditionalDiffusion:
        """The model of a row, unlearned now unless it is there."""
        recipe, options = _OTHERS[label]
        folder = self.folder / label.replace(", ", "-").replace(" ", "-").lower()
        if not (folder / RESULTS_NAME).is_file():
            settings = {
                "output_dir": str(folder),
                "model": self.original,
                "data": self.data,
                "forget": self.forget,
                "learning_rate": self.learning_rate,
                "max_train_steps": self.max_train_steps,
                "seed": self.seed,
                "checkpointing_steps": 100,
                "checkpoints_total_limit": 1,
                "resume_from_checkpoint": "latest",
                **options,
            }
            arguments = recipe.arguments_class.from_settings(settings)
            run(recipe(arguments), command=f"comparison of methods: {label}")
        return SalUnForConditionalDiffusion.from_pretrained(str(folder))
