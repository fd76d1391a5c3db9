"""Forgetting each class in turn: what becomes of the others, and which weights it takes.

    python -m benchmarks.salun_classes --data cifar10_jpeg.npz

Half an hour; the numbers go into the results file of the shipped model, whose card and page show
them.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from benchmarks.experiments import add_to_results, new_results, read_options, run_once
from salhub.data.picture_archive import PictureArchive, as_rgb
from salhub.data.picture_preparation import PicturePreparation
from salhub.explaining.modeling_explained_classifier import load_classifier
from salhub.models.salun.evaluation_salun import block_densities
from salhub.models.salun.forget_set import evaluated_split
from salhub.models.salun.recipe_salun import SalUnRecipe
from salhub.models.salun.weight_mask import WeightMask
from salhub.results import Results, Table, measured, noted_as_it_comes

SCRIPT, MODEL = "salun_classes", "salun-resnet8-cifar10"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything that is missing, and add the numbers to the results file."""
    options = read_options(SCRIPT, __doc__, MODEL, arguments)
    results = new_results(SCRIPT, options)
    with noted_as_it_comes(options.results), measured(results):
        forget_each_class(results, options.data, options.runs)
    add_to_results(results, options.results)


def forget_each_class(
    results: Results,
    data: Path,
    folder: Path,
    *,
    original: str = f"salhub/{MODEL}-original",
    num_retain: int = 10_000,
    epochs: int = 2,
) -> None:
    """One run of SalUn for every class, each on the original.

    Args:
        results: To be filled with "forget/CLASS/accuracy/OTHER" and "forget/CLASS/density/PART".
        data: Archive that the original was trained on.
        folder: Where the runs go.
        original: The original, by name.
        num_retain: Retained pictures that each run learns, drawn by the seed.
        epochs: Passes of each run.
    """
    archive = PictureArchive(data)
    places = evaluated_split(original, archive).test
    images, labels = as_rgb(archive.images(places)), archive.labels[places]
    logits = PicturePreparation.of_model(original).logits
    before = logits(load_classifier(original), images)
    add_accuracy_by_class(results, "original", (before, labels), archive.class_names)
    rows = []
    for index, name in enumerate(archive.class_names):
        run = folder / name.replace(" ", "-")
        options = {
            "model": original,
            "data": str(data),
            "forget": f"class:{name}",
            "retain": f"random:{num_retain}",
            "augment": True,
            "batch_size": 128,
            "num_train_epochs": epochs,
            "attack": "none",
        }
        run_once(SalUnRecipe, run, options, "salun, class by class")
        model = load_classifier(run)
        after = logits(model, images)
        add_accuracy_by_class(results, f"forget/{name}", (after, labels), archive.class_names)
        mask = WeightMask.from_pretrained(run).for_model(model)
        for block, (opened, total) in block_densities(mask).items():
            results.add_metric(f"forget/{name}/density/{block}", opened / total, n=total)
        others = labels != index
        cells = [
            100 * float((one.argmax(-1) == labels)[part].double().mean())
            for part in (~others, others)
            for one in (before, after)
        ]
        rows.append([name, *cells])
    note = (
        f"Percent of test pictures that are recognized before and after SalUn forgets the class of "
        f"the row, with {num_retain} retained pictures and {epochs} passes."
    )
    columns = ["forgotten", "the class, before", "after", "the others, before", "after"]
    results.tables.append(Table("Each class in turn", note, columns, rows))


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


if __name__ == "__main__":
    main()
