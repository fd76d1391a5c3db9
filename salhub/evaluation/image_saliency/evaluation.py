"""What the evaluations of image explainers share: their set-up, clock and table layout."""

import logging
import os
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from salhub.data.image_folder import LabelledImageFolder
from salhub.data.mosaic import Mosaic, confident_pictures, draw_mosaics
from salhub.evaluation.image_saliency.classified_sample import ClassifiedSample, Classify
from salhub.evaluation.image_saliency.scores import (
    Explainers,
    ScoreTable,
    measure_grid_game,
    mosaic_pixels,
)
from salhub.modeling import attribution_scope
from salhub.results import Results, Table, measured

logger = logging.getLogger(__name__)


@dataclass
class Evaluation:
    """One evaluation in progress.

    Attributes:
        results: Filled step by step.
        sample: The classified pictures.
        confident: Positions of the pictures classified right with enough probability.
        mosaics: Mosaics of confident pictures.
        positions: Random pictures for everything that needs no mosaic.
        mosaic_size: (height, width) of mosaics for networks of a fixed input size, else None.
        progress: Whether to show bars.
    """

    results: Results
    sample: ClassifiedSample
    confident: Tensor
    mosaics: list[Mosaic]
    positions: list[int]
    mosaic_size: tuple[int, int] | None = None
    progress: bool = True

    @property
    def chance(self) -> float:
        """Share of one cell."""
        return 1 / len(self.mosaics[0].members)

    def confident_positions(self, count: int) -> list[int]:
        """Some confident pictures, drawn by the evaluation's seed."""
        generator = torch.Generator().manual_seed(self.results.seed)
        order = torch.randperm(len(self.confident), generator=generator)[:count]
        return self.confident[order].tolist()

    def play_grid_game(self, explainers: Explainers, count: int | None = None) -> ScoreTable:
        """The grid game on the first `count` mosaics, or on all."""
        return measure_grid_game(
            explainers,
            self.sample,
            self.mosaics[:count],
            picture_size=self.mosaic_size,
            progress=self.progress,
        )

    @property
    def first_mosaic(self) -> Tensor:
        """The first mosaic as the network sees it, (1, 3, H, W)."""
        return mosaic_pixels(self.sample, self.mosaics[0], self.mosaic_size)

    @contextmanager
    def timed(self, section: str) -> Generator[None]:
        """Record and log what a section takes: "seconds/section" and "cpu_seconds/section"."""
        start, cpu_start = time.perf_counter(), time.process_time()
        yield
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        self.results.add_metric(f"seconds/{section}", round(seconds, 1), unit="s")
        self.results.add_metric(f"cpu_seconds/{section}", round(cpu_seconds, 1), unit="s")
        logger.info("%s took %.1f s, %.1f s of processor time", section, seconds, cpu_seconds)


@contextmanager
def evaluation_of(
    model: Any,
    image_processor: Any,
    data_path: str | os.PathLike[str],
    *,
    seed: int,
    num_mosaics: int,
    num_images: int,
    grid_size: int,
    min_probability: float,
    progress: bool,
) -> Generator[Evaluation]:
    """Classify a folder of pictures, draw from it, and record what is measured inside.

    Args:
        model: An `ExplainedClassifierModel`, in evaluation mode inside, and mute about maps that
            are constant.
        image_processor: The classifier's own image processor.
        data_path: Folder of labelled pictures, see `LabelledImageFolder`.
        seed: Seed of every draw.
        num_mosaics: Mosaics of the grid game.
        num_images: Pictures of the other measurements.
        grid_size: Tiles on a side.
        min_probability: Smallest probability of the true class of a tile.
        progress: Whether to show bars.

    Raises:
        FileNotFoundError, ValueError: The folder is missing, or has too few pictures that are
            classified right for a mosaic.
    """
    folder = LabelledImageFolder(data_path, id2label=model.id2label)
    results = Results.of_model(model, folder.describe()["name"], seed)
    with measured(results), attribution_scope(model), _muted_warnings(type(model)):
        sample = ClassifiedSample(
            folder,
            image_processor,
            classifier_of(model),
            progress=progress,
            config=model.config.backbone_config,
        )
        confident = confident_pictures(sample.probabilities, sample.class_labels, min_probability)
        sample.check_confident(confident, min_probability, grid_size)
        mosaics = draw_mosaics(
            confident, sample.class_labels, num_mosaics, grid_size=grid_size, seed=seed
        )
        first = sample.pixel_values([0])
        picture_size = tuple(first.shape[-2:])
        mosaic_size = _mosaic_size(sample.classify, first, grid_size)
        results.data = folder.describe() | {
            "num_mosaics": num_mosaics,
            "grid_size": grid_size,
            "min_probability": min_probability,
            "num_confident_images": len(confident),
            "num_measured_images": num_images,
            "picture_size": list(picture_size),
            "mosaic_size": list(mosaic_size or (side * grid_size for side in picture_size)),
        }
        for k in (1, 5):
            results.add_metric(f"top{k}", sample.top_accuracy(k), n=len(sample), unit="fraction")
        positions = sample.draw(num_images, seed)
        yield Evaluation(results, sample, confident, mosaics, positions, mosaic_size, progress)


def _mosaic_size(classify: Classify, picture: Tensor, grid_size: int) -> tuple[int, int] | None:
    """None where the network takes a whole mosaic; else the one size that it takes."""
    channels, height, width = picture.shape[1:]
    try:
        with torch.no_grad():
            classify(torch.zeros(1, channels, height * grid_size, width * grid_size))
    except (ValueError, RuntimeError):
        logger.info("the network only accepts %dx%d; mosaics are scaled down", height, width)
        return height - height % grid_size, width - width % grid_size
    return None


def classifier_of(model: Any) -> Classify:
    """The classifier of an explainer as a function of pictures in main memory.

    Args:
        model: An `ExplainedClassifierModel`, on any device and in any precision.
    """

    def classify(pixel_values: Tensor) -> Tensor:
        on_device = pixel_values.to(device=model.device, dtype=model.dtype)
        return model.classify(on_device).float().cpu()

    return classify


def add_summary(
    results: Results, rows: Sequence[tuple[str, str, float | None]], note: str = ""
) -> None:
    """Put the model's own numbers in front of all other tables.

    Args:
        results: Filled already.
        rows: (label, name of a metric, value of its control or None).
        note: Added to the note below the title.
    """
    accuracy = [
        ("top-1 of the classifier", "top1", None),
        ("top-5 of the classifier", "top5", None),
    ]
    body = []
    for label, name, control in (*accuracy, *rows):
        metric = results.metric(name)
        interval = metric.interval and f"[{metric.interval[0]:.3f}, {metric.interval[1]:.3f}]"
        shown = None if control is None else f"{control:.3f}"
        body.append([label, f"{metric.value:.3f}", interval, metric.n, shown])
    note = (
        f"Mean, 95 % bootstrap interval, number of examples; control: chance or a random map.{note}"
    )
    columns = ["what", "value", "95 % interval", "n", "control"]
    results.tables.insert(0, Table("This model", note, columns, body))


@contextmanager
def _muted_warnings(model_class: type) -> Generator[None]:
    """No warning a picture about constant maps from a model's file: the evaluation counts them."""
    model_logger = logging.getLogger(model_class.__module__)

    def refuse(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    model_logger.addFilter(refuse)
    try:
        yield
    finally:
        model_logger.removeFilter(refuse)


def add_grid(
    results: Results,
    title: str,
    note: str,
    cells: Mapping[tuple[str, str], str],
    columns: Sequence[str],
    first_column: str = "method",
) -> None:
    """Add a table of rows x columns from cells by (row, column); absent cells stay empty."""
    rows = list(dict.fromkeys(row for row, _ in cells))
    body = [[row, *(cells.get((row, column)) for column in columns)] for row in rows]
    results.tables.append(Table(title, note, [first_column, *columns], body))
