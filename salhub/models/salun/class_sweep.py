"""Forgetting each class in turn: what becomes of the others, and which weights it takes."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from salhub.explaining.modeling_explained_classifier import load_classifier
from salhub.models.salun.recipe_salun import SalUnRecipe
from salhub.models.salun.weight_mask import WeightMask
from salhub.results import Results
from salhub.runner.loop import run
from salhub.runner.run_folder import RESULTS_NAME


@dataclass(frozen=True)
class ClassSweep:
    """One run of SalUn for every class, each on the original; runs that are there are not repeated.

    Args:
        data: Archive that the original was trained on.
        original: The original, by name.
        folder: Where the runs go.
        num_retain: Retained pictures that each run learns, drawn by the seed.
        epochs: Passes of each run.
        seed: Seed of the runs.
    """

    data: str
    original: str
    folder: Path
    num_retain: int = 10_000
    epochs: int = 2
    seed: int = 0

    def forgetting(self, class_name: str) -> nn.Module:
        """The model that has forgotten a class."""
        folder = self.folder / class_name.replace(" ", "-")
        if not (folder / RESULTS_NAME).is_file():
            arguments = SalUnRecipe.arguments_class.from_settings(
                {
                    "output_dir": str(folder),
                    "model": self.original,
                    "data": self.data,
                    "forget": f"class:{class_name}",
                    "retain": f"random:{self.num_retain}",
                    "augment": True,
                    "batch_size": 128,
                    "num_train_epochs": self.epochs,
                    "attack": "none",
                    "seed": self.seed,
                    "overwrite": True,
                }
            )
            run(SalUnRecipe(arguments), command="salun, class by class")
        return load_classifier(folder)

    def mask(self, class_name: str, model: nn.Module) -> WeightMask:
        """Which weights could move when a class was forgotten."""
        folder = self.folder / class_name.replace(" ", "-")
        return WeightMask.from_pretrained(folder).for_model(model)


def add_accuracy_by_class(
    results: Results, prefix: str, outputs: tuple[Tensor, Tensor], class_names: list[str]
) -> None:
    """Write the accuracy on the test pictures of every class.

    Args:
        results: To be filled with "PREFIX/accuracy/CLASS".
        prefix: Whose it is.
        outputs: Logits (n, K) and labels (n,).
        class_names: K names.
    """
    logits, labels = outputs
    right = (logits.argmax(-1) == labels).double()
    for index, name in enumerate(class_names):
        of_class = right[labels == index]
        results.add_metric(
            f"{prefix}/accuracy/{name}", float(of_class.mean()), n=len(of_class), unit="fraction"
        )


def block_densities(mask: WeightMask) -> dict[str, tuple[int, int]]:
    """Part of the network, from input to output -> weights that could move, and all of them."""
    found: dict[str, tuple[int, int]] = {}
    for name, tensor in mask.tensors.items():
        parts = name.removeprefix("backbone.").split(".")
        numbers = [place for place, part in enumerate(parts) if part.isdecimal()]
        block = ".".join(parts[: numbers[0] + 1]) if numbers else parts[0]
        opened, total = found.get(block, (0, 0))
        found[block] = opened + int(tensor.sum()), total + tensor.numel()
    return found
