"""What fine-tuning gives on little data, and whole pictures beside cut ones: the guides' numbers.

    python -m benchmarks.fine_tuning --pictures cifar10_jpeg.npz --photos imagenet_sample \
        --texts ag_news_test.csv

Each run is that of `salhub train` with the options that its table names, for every seed: what is
drawn as training and test data, and the weights that begin from nothing. It writes
benchmarks/results/fine_tuning.json, and its tables beside it as .md.
"""

import argparse
import csv
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.classifier import load_classifier
from benchmarks.report import RESULTS, print_tables, save_results
from salhub.data.image_folder import LabelledImageFolder
from salhub.data.labelled_split import balanced_places
from salhub.data.labelled_texts import LabelledTexts, read_labelled_texts
from salhub.data.picture_archive import PictureArchive
from salhub.data.picture_fit import PictureFitter
from salhub.entries import recipe_named
from salhub.processing import load_image
from salhub.results import Results, Table, measured
from salhub.runner.run import run

NETWORK, TEXT_MODEL = "salhub/efficientnet-lite0", "salhub/verbalizer-movie-reviews"
PICTURE_OPTIONS = {"image_size": 96, "num_train_epochs": 5, "batch_size": 32}
TEXT_OPTIONS = {"num_train_epochs": 10, "learning_rate": 2e-3}
FITS = ("whole", "crop")
NOTHING = "nothing"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure and write."""
    options = _options(arguments)
    for place in (options.pictures, options.photos, options.texts):
        if not place.exists():
            raise SystemExit(f"There is no {place}; give the files and the folder by their paths.")
    torch.set_num_threads(options.threads)
    files = (f"--{name} {getattr(options, name).name}" for name in ("pictures", "photos", "texts"))
    results = Results("fine_tuning", f"python -m benchmarks.fine_tuning {' '.join(files)}", seed=0)
    with measured(results):
        fine_tuned_pictures(results, options)
        fine_tuned_texts(results, options)
        whole_and_cut(results, options.photos, options.num_photos)
    print_tables(results)
    for path in save_results(results, options.output, "What fine-tuning gives on little data"):
        print(f"Wrote {path}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fine_tuning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pictures", type=Path, required=True, help="archive of ten classes")
    parser.add_argument("--photos", type=Path, required=True, help="folder of ImageNet's classes")
    parser.add_argument("--texts", type=Path, required=True, help="labelled texts")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--per-class", type=int, default=20, help="pictures learned of each class")
    parser.add_argument("--num-test-images", type=int, default=500)
    parser.add_argument("--num-texts", type=int, default=680, help="texts learned")
    parser.add_argument("--num-test-texts", type=int, default=2000)
    parser.add_argument("--num-photos", type=int, default=1000, help="the first ones")
    parser.add_argument("--epochs", type=int, help="of every run, for a trial")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "fine_tuning.json")
    return parser.parse_args(arguments)


def fine_tuned_pictures(results: Results, options: argparse.Namespace) -> None:
    """Few pictures a class, from the shipped weights and from none."""
    classes = len(PictureArchive(options.pictures).class_names)
    chosen = _for_trial(PICTURE_OPTIONS, options)
    settings = {
        **chosen,
        "data": str(options.pictures),
        "num_train_images": options.per_class * classes,
        "num_test_images": options.num_test_images,
    }
    starts = {NETWORK: {"model": NETWORK}, NOTHING: {"config": NETWORK}}
    found = {
        start: [trained("image-classification", seed, **settings, **where)
                for seed in range(options.seeds)]
        for start, where in starts.items()
    }  # fmt: skip
    title = f"{options.per_class} pictures of each class of {options.pictures.stem}"
    _add(results, "pictures", title, chosen, found)


def fine_tuned_texts(results: Results, options: argparse.Namespace) -> None:
    """Few texts, from a classifier of other texts and from nothing."""
    texts, chosen = read_labelled_texts(options.texts), _for_trial(TEXT_OPTIONS, options)
    starts: dict[str, tuple[str, dict[str, Any]]] = {
        TEXT_MODEL: ("text-classification", {"model": TEXT_MODEL}),
        NOTHING: ("text-classifier", {}),
    }
    found: dict[str, list[float]] = {start: [] for start in starts}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            draw_texts(texts, options.num_texts, options.num_test_texts, seed, Path(folder))
            for start, (recipe, where) in starts.items():
                settings = {**chosen, **where, "data": folder}
                found[start].append(trained(recipe, seed, **settings))
    title = f"{options.num_texts} texts of {texts.name}, {options.num_test_texts} others to measure"
    _add(results, "texts", title, chosen, found)


def draw_texts(texts: LabelledTexts, learned: int, measured_on: int, seed: int, to: Path) -> None:
    """Write train.csv and test.csv, as many texts of each class, none in both."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(texts.labels)
    chosen = balanced_places(labels, learned + measured_on, generator)
    train = chosen[balanced_places(labels[chosen], learned, generator)]
    test = chosen[~torch.isin(chosen, train)]
    for name, places in (("train", train), ("test", test)):
        rows = [(texts.texts[p], texts.class_names[texts.labels[p]]) for p in places.tolist()]
        with (to / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])


def trained(recipe: str, seed: int, **settings: Any) -> float:
    """Accuracy on the test part after a run."""
    kind = recipe_named(recipe, "train").recipe_class
    with tempfile.TemporaryDirectory() as folder:
        where = {"output_dir": folder, "cpu": True, "seed": seed, "validation_steps": 0}
        found = run(kind(kind.arguments_class.from_settings({**where, **settings})))
    return found.metric("accuracy/test").value


def _for_trial(chosen: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    epochs = {} if options.epochs is None else {"num_train_epochs": options.epochs}
    return {**chosen, **epochs}


def _add(
    results: Results, key: str, title: str, options: Mapping[str, Any], found: dict[str, list]
) -> None:
    rows = []
    for start, values in found.items():
        results.add_metric(f"{key}/{start}", float(np.mean(values)), n=len(values), unit="fraction")
        rows.append([start, f"{100 * np.mean(values):.1f}", *(f"{100 * v:.1f}" for v in values)])
    said = ", ".join(f"{name}={value}" for name, value in options.items())
    note = f"Percent of the test part that is recognized, {said}; a column a seed."
    columns = ["begins from", "mean", *(f"seed {seed}" for seed in range(len(rows[0]) - 2))]
    results.tables.append(Table(title, note, columns, rows))


@torch.no_grad()
def whole_and_cut(results: Results, folder: Path, count: int) -> None:
    """Accuracy of the shipped network on photos that it sees whole, and cut as usual."""
    model, image_processor = load_classifier()
    fitter = PictureFitter(image_processor)
    right: dict[str, list[float]] = {fit: [] for fit in FITS}
    for path, class_index, _ in LabelledImageFolder(folder).images[:count]:
        picture = load_image(path)
        seen = {"whole": fitter.whole(picture, lambda crop: True), "crop": fitter.crop(picture)}
        for fit, fitted in seen.items():
            right[fit].append(float(model(fitted.pixel_values).logits.argmax() == class_index))
    rows = []
    for fit, values in right.items():
        one = results.add_mean(f"photos/{fit}", np.array(values), unit="fraction")
        cell = f"{100 * one.mean:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"
        rows.append([fit, cell, len(values)])
    note = f"Percent of {folder.name} that {NETWORK} recognizes; 95 % bootstrap interval."
    results.tables.append(
        Table("Whole pictures and cut ones", note, ["fit", "accuracy", "n"], rows)
    )


if __name__ == "__main__":
    main()
