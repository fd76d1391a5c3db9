"""Tasks of the study of DiSa: Tiny-ImageNet as it is and in other domains, CIFAR-10, and boxes."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from salhub.data.class_names import first_name
from salhub.data.picture_archive import PictureArchive
from salhub.files import draft

# Of the classes whose names the small CLIP has met, in the order of their labels.
NUM_CLASSES, SHOTS, TRAIN, TEST, OTHER_TEST = 40, 16, 64, 25, 500
# Every tenth class was never met.
_UNMET = 10
_SIDE = 64
SETTING = (
    f"Half of {NUM_CLASSES} classes that the CLIP has met are learned from {SHOTS} pictures each, "
    f"and each half is tested among its own names, {TEST} pictures a class; nothing is augmented."
)


def clean(pictures: Tensor) -> Tensor:
    """Pictures as they are."""
    return pictures


def inverted(pictures: Tensor) -> Tensor:
    """Every colour becomes its opposite."""
    return 255 - pictures


def sketch(pictures: Tensor) -> Tensor:
    """Dark lines where the brightness changes, on white."""
    grey = pictures.float().mean(1, keepdim=True)
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    padded = torch.nn.functional.pad(grey, (1, 1, 1, 1), mode="replicate")
    across, down = (conv2d(padded, one[None, None]) for one in (kernel, kernel.T))
    edges = (across.square() + down.square()).sqrt() / 2
    return (255 - edges).clamp(0, 255).round().byte().expand(-1, 3, -1, -1).contiguous()


def pale(pictures: Tensor) -> Tensor:
    """Half of the contrast, and noise of 10 grey levels."""
    generator = torch.Generator().manual_seed(0)
    noise = 10 * torch.randn(pictures.shape, generator=generator)
    return (127 + (pictures.float() - 127) / 2 + noise).clamp(0, 255).round().byte()


DOMAINS: dict[str, Callable[[Tensor], Tensor]] = {
    "clean": clean,
    "pale": pale,
    "inverted": inverted,
    "sketch": sketch,
}


@dataclass(frozen=True)
class Tasks:
    """Archives of pictures on disk.

    Args:
        domains: Domain -> archive of all classes, of which half are learned.
        base: The same of the learned classes alone, for testing in another domain.
        others: Name of other data -> archive.
    """

    domains: dict[str, str]
    base: dict[str, str]
    others: dict[str, str]


def write_tasks(data: Path, others: Sequence[Path], folder: Path) -> Tasks:
    """Write the archives, unless they are there.

    Args:
        data: Tiny-ImageNet at 32 pixels, see `PictureArchive`.
        others: Further archives, of which `OTHER_TEST` test pictures are used.
        folder: Where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    domains = {name: folder / f"tiny-imagenet-{name}.npz" for name in DOMAINS}
    base = {name: folder / f"base-{name}.npz" for name in DOMAINS}
    if not all(path.is_file() for path in [*domains.values(), *base.values()]):
        archive = PictureArchive(data)
        known = [n for n in range(len(archive.class_names)) if n % _UNMET != _UNMET - 1]
        classes = known[:NUM_CLASSES]
        names = [first_name(archive.class_names[one]) for one in classes]
        train, test = (_places(archive, classes, is_test) for is_test in (False, True))
        for name, change in DOMAINS.items():
            parts = [change(archive.images(torch.cat(own))) for own in (train, test)]
            counts = [[len(one) for one in own] for own in (train, test)]
            _write(domains[name], parts, counts, names)
            half = len(names) // 2
            short = [part[: sum(own[:half])] for part, own in zip(parts, counts, strict=True)]
            _write(base[name], short, [own[:half] for own in counts], names[:half])
    found = {}
    for path in others:
        found[path.stem] = str(folder / f"{path.stem}-test.npz")
        if not Path(found[path.stem]).is_file():
            archive = PictureArchive(path)
            each = OTHER_TEST // len(archive.class_names)
            rows = [
                (archive.is_test & (archive.labels == label)).nonzero()[:each, 0]
                for label in range(len(archive.class_names))
            ]
            # An archive without training pictures is none, so one of each class is there too.
            places = (torch.stack([own[0] for own in rows]), torch.cat(rows))
            parts = [archive.images(one).expand(-1, 3, -1, -1) for one in places]
            counts = [len(own) for own in rows]
            _write(Path(found[path.stem]), parts, [[1] * len(counts), counts], archive.class_names)
    return Tasks(
        {name: str(path) for name, path in domains.items()},
        {name: str(path) for name, path in base.items()},
        found,
    )


def _places(archive: PictureArchive, classes: Sequence[int], is_test: bool) -> list[Tensor]:
    wanted = archive.is_test if is_test else ~archive.is_test
    most = TEST if is_test else TRAIN
    return [(wanted & (archive.labels == label)).nonzero()[:most, 0] for label in classes]


def _write(
    path: Path, parts: Sequence[Tensor], counts: Sequence[list[int]], names: Sequence[str]
) -> None:
    arrays = [part.permute(0, 2, 3, 1).numpy() for part in parts]
    labels = [np.repeat(np.arange(len(own)), own) for own in counts]
    with draft(path) as scratch, scratch.open("wb") as file:
        np.savez(
            file, train_images=arrays[0], train_labels=labels[0], test_images=arrays[1],
            test_labels=labels[1], class_names=np.array(list(names)),
        )  # fmt: skip


def read_boxes(path: Path) -> Tensor:
    """Left, top, right, bottom of the object of each validation picture, at 32 pixels, (N, 4).

    Rows are in the order of the archive's test pictures, that of file names as texts.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = sorted((row for row in csv.reader(file, delimiter="\t") if row), key=lambda r: r[0])
    corners = torch.tensor([[float(one) for one in row[2:6]] for row in rows])
    # The last pixel is inside.
    corners[:, 2:] += 1
    return corners * 32 / _SIDE
