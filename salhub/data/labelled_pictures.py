"""Labelled pictures as people have them: folders of classes, tables, archives; read when needed."""

import hashlib
import io
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from salhub.data.folder_listing import list_folder
from salhub.data.image_folder import LabelledImageFolder, has_index
from salhub.data.picture_archive import PictureArchive, as_rgb
from salhub.data.picture_decoding import (
    check_pixels,
    decode_picture,
    losses,
    picture_endings,
    to_upright_rgb,
)
from salhub.data.picture_preparation import PicturePreparation
from salhub.data.tables import (
    IMAGE_NAMES,
    LABEL_NAMES,
    TEST,
    TRAIN,
    VALIDATION,
    Table,
    check_learnable,
    choose_column,
    class_order,
    is_table_file,
    joined_order,
    labels_of,
    part_named,
    read_tables,
)

logger = logging.getLogger(__name__)

_NUM_SHOWN = 5
# Of how many pictures the bytes are looked at to tell two data sets apart.
_NUM_SAMPLED = 64
_SMALL = (16, 16)
_CHUNK = 1024


class PictureCollection:
    """Pictures of any sizes with their classes, each read when it is asked for.

    Args:
        name: Name of the data, without the path.
        read: Takes a place and gives the bytes of its picture.
        titles: What messages call each picture.
        labels: Name of the class of each picture.
        parts: "train", "validation" or "test" for each picture.
        class_names: All classes in order; by default those of the labels.
        title: What messages call the data, with its ending; the name by default.

    Attributes:
        labels: Class of every picture, int64 (N,).
        is_test, is_validation: Which pictures are for testing and for validation, bool (N,). Where
            there are only pictures for validation, they are the test pictures.
        class_names: One name a class.
        digests: A number of each picture, equal where their bytes are, in this process.

    Raises:
        ValueError: None can be read.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[int], bytes],
        titles: Sequence[str],
        labels: Sequence[str],
        parts: Sequence[str],
        class_names: Sequence[str] | None = None,
        title: str | None = None,
    ) -> None:
        self.name, self.title, self._read = name, title or name, read
        found = _readable(read, titles)
        kept = self._places = list(found)
        self.digests = list(found.values())
        self._titles = [titles[place] for place in kept]
        self.class_names = list(class_names or class_order(labels))
        index = {label: number for number, label in enumerate(self.class_names)}
        self.labels = torch.tensor([index[labels[place]] for place in kept], dtype=torch.long)
        of = [parts[place] for place in kept]
        last = TEST if TEST in of else VALIDATION
        self.is_test = torch.tensor([part == last for part in of], dtype=torch.bool)
        self.is_validation = torch.tensor([part == VALIDATION != last for part in of])

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def test_places(self) -> Tensor:
        """Places of the pictures for testing, int64 (n,)."""
        return self.is_test.nonzero()[:, 0]

    def picture(self, place: int) -> Image.Image:
        """A picture by its place, upright and in 8-bit RGB.

        Raises:
            OSError, ValueError: It cannot be read any more.
        """
        title = f"'{self._titles[place]}'"
        return to_upright_rgb(decode_picture(self._read(self._places[place]), title), title)

    def images(self, indices: Tensor, size: int | None = None) -> Tensor:
        """Pictures of one size, all in memory.

        Args:
            indices: Their places, int64 (n,).
            size: Side of the squares that they are made, in pixels; None where all have one size.

        Returns:
            uint8 (n, 3, H, W).

        Raises:
            ValueError: They are of several sizes.
        """

        def read(place: int) -> np.ndarray:
            picture = self.picture(place)
            return np.asarray(picture if size is None else picture.resize((size, size)))

        with ThreadPoolExecutor() as pool:
            arrays = list(pool.map(read, indices.tolist()))
        sizes = Counter(array.shape for array in arrays)
        if len(sizes) > 1:
            raise ValueError(
                f"the pictures of {self.title} have several sizes; set image_size, or use the "
                "recipe 'image-classification'."
            )
        if not arrays:
            return torch.zeros(0, 3, size or 1, size or 1, dtype=torch.uint8)
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()

    def describe(self) -> dict[str, Any]:
        """Name, size and fingerprint for a results file; holds no path of this machine."""
        digest = hashlib.sha256(self.labels.numpy().tobytes())
        digest.update("\0".join([*self.class_names, *self._titles]).encode())
        for place in range(0, len(self), max(1, len(self) // _NUM_SAMPLED)):
            digest.update(hashlib.sha256(self._read(self._places[place])).digest())
        return {
            "name": self.name,
            "num_images": len(self),
            "fingerprint": digest.hexdigest()[:16],
        }


PictureData = PictureArchive | PictureCollection


def read_labelled_pictures(
    data: str | PathLike[str],
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    dataset_config_name: str | None = None,
    class_names: Sequence[str] = (),
    to_learn: bool = True,
) -> PictureData:
    """Find labelled pictures.

    Classes keep their names as they are written. Pictures that cannot be read are named and left
    out; no picture is held in memory.

    Args:
        data: A folder with a sub-folder for each class, perhaps in sub-folders train, validation
            and test; a folder that `save_to_disk` of `datasets` wrote; Parquet; the name of a data
            set on the Hub; or an .npz archive, see `PictureArchive`.
        image_column: Column with the pictures; None for the only one that holds pictures.
        label_column: Column with their classes; None to find it by its heading.
        dataset_config_name: The configuration of a data set on the Hub.
        class_names: Those of a model; where the data have the same ones, in this order.
        to_learn: Whether there must be training pictures, of two classes at least and of all.

    Raises:
        FileNotFoundError: There is no such file, folder or data set.
        MissingExtraError: It needs the package `datasets`.
        ValueError: It is laid out otherwise, or it is not clear which columns are meant.

    Example:
        >>> read_labelled_pictures("pictures").class_names  # doctest: +SKIP
        ['cat', 'dog']
    """
    found = _found(Path(data), image_column, label_column, dataset_config_name, to_learn)
    is_training = ~(found.is_test | found.is_validation)
    if to_learn and isinstance(found, PictureCollection) and not is_training.any():
        raise ValueError(f"{found.title} has no training pictures, only held-out ones.")
    names = [normalize("NFC", name) for name in class_names]
    known = [normalize("NFC", name) for name in found.class_names]
    if sorted(names) == sorted(known) and len(set(names)) == len(names):
        order = torch.tensor([names.index(name) for name in known], dtype=torch.long)
        found.labels, found.class_names = order[found.labels], list(class_names)
    return found


def _found(
    path: Path,
    image_column: str | None,
    label_column: str | None,
    config_name: str | None,
    to_learn: bool,
) -> PictureData:
    if path.suffix.lower() == ".npz":
        return PictureArchive(path)
    if path.is_dir() and _has_classes(path):
        return _folder_of_classes(path, to_learn)
    if path.is_file() and not is_table_file(path):
        raise ValueError(
            f"{path.name} is not labelled pictures; give a folder with one sub-folder per class "
            "or of save_to_disk, an .npz archive, or a Parquet file."
        )
    wanted = ((image_column, IMAGE_NAMES), (label_column, LABEL_NAMES))
    tables = read_tables(str(path), config_name, wanted)
    return _of_tables(path, tables, image_column, label_column, to_learn)


class PictureRows:
    """Pictures as a network wants them, read in threads when rows of them are asked for.

    Args:
        data: Where they are.
        places: Which of them, and in which order, int64 (n,).
        preparation: Of the network.

    Example:
        >>> rows = PictureRows(data, torch.arange(9), preparation)  # doctest: +SKIP
        >>> rows[torch.tensor([3, 5])].shape  # doctest: +SKIP
        torch.Size([2, 3, 224, 224])
    """

    def __init__(self, data: PictureData, places: Tensor, preparation: PicturePreparation) -> None:
        self.data, self.places, self.preparation = data, places, preparation
        self._pool = ThreadPoolExecutor()

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Prepared pictures, float32 (m, C, H, W)."""
        return self.read(torch.arange(len(self))[rows])

    def read(self, rows: Tensor, views: Tensor | None = None) -> Tensor:
        """Prepared pictures, or a part of each.

        Args:
            rows: int64 (m,).
            views: Numbers in [0, 1) that say which part, see `random_view`, (m, 5); None for all
                that the network sees of a picture.

        Returns:
            float32 (m, C, H, W).
        """
        places = self.places[rows].tolist()
        if not places:
            return torch.zeros(0, 3, *self.preparation.input_size)
        drawn = [None] * len(places) if views is None else views.tolist()
        return torch.stack(list(self._pool.map(self._one, places, drawn)))

    def subset(self, rows: Tensor) -> "PictureRows":
        """Some of the pictures in another order."""
        return PictureRows(self.data, self.places[rows], self.preparation)

    def _one(self, place: int, view: Sequence[float] | None) -> Tensor:
        picture = self.data.picture(place)
        if view is None:
            return self.preparation.of_picture(picture)
        return self.preparation.of_view(picture, view)


def pictures_of(
    data: PictureData, places: Tensor, preparation: PicturePreparation
) -> Tensor | PictureRows:
    """Pictures for a network: those of an archive in memory, others read when they are needed.

    Args:
        data: Where they are.
        places: int64 (n,).
        preparation: Of the network; it prepares those in memory as well.
    """
    if isinstance(data, PictureArchive):  # small ones of one size
        return as_rgb(data.images(places))
    return PictureRows(data, places, preparation)


def some_of(images: Tensor | PictureRows, rows: Tensor) -> Tensor | PictureRows:
    """Some of such pictures in another order, int64 (m,), as they are: in memory or not."""
    return images[rows] if isinstance(images, Tensor) else images.subset(rows)


def joined(one: Tensor | PictureRows, other: Tensor | PictureRows) -> Tensor | PictureRows:
    """Pictures of one data set one after another."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return torch.cat([one, other])
    return PictureRows(one.data, torch.cat([one.places, other.places]), one.preparation)


def _has_classes(folder: Path) -> bool:
    """Whether a folder holds sub-folders of pictures, as one of `datasets` does not."""
    if has_index(folder):
        return True
    saved = ("dataset_dict.json", "state.json")
    if any((folder / name).is_file() for name in saved):
        return False
    inner = list_folder(folder, ()).folders
    return any(not any(child.rglob("*.parquet")) for child in inner)


def _folder_of_classes(path: Path, to_learn: bool) -> PictureCollection:
    children = {child.name: child for child in list_folder(path, ()).folders}
    # A class may be called "train" as well; its folder holds pictures, and no folders.
    parts = {
        child: part
        for name, child in children.items()
        if (part := part_named(name)) and list_folder(child, ()).folders
    }
    is_without = to_learn and TRAIN not in parts.values()
    if parts and is_without and not any(map(_has_pictures, parts)):
        only = ", ".join(sorted(child.name for child in parts))
        raise ValueError(
            f"{path.name} has the part {only} but no training pictures; put them into a "
            "folder train next to it, with one sub-folder per class."
        )
    if not parts or is_without:
        parts = {path: TRAIN}
    elif len(parts) < len(children):
        others = sorted(name for name, child in children.items() if child not in parts)
        shown = [name for name in others if not name.startswith((".", "_"))]
        if shown:
            logger.warning(
                "Ignored %s next to the parts of %s.", ", ".join(shown[:_NUM_SHOWN]), path.name
            )
    if children and parts == {path: TRAIN} and all(map(part_named, children)):
        raise ValueError(
            f"the folders {', '.join(sorted(children))} of {path.name} are named like the "
            "parts of a data set but have no class folders; put one sub-folder per class "
            "into each of them, or give a table with the columns image and label."
        )
    files, labels, of_part = [], [], []
    for folder, part in parts.items():
        found = LabelledImageFolder(folder)
        for image in found:
            files.append(image.path.relative_to(path).as_posix())
            labels.append(normalize("NFC", image.name))
            of_part.append(part)
        _say_empty(folder, set(labels))
    if to_learn:
        check_learnable(path.name, labels, of_part)
    name = path.resolve().name
    return PictureCollection(
        name, lambda place: (path / files[place]).read_bytes(), files, labels, of_part
    )


def _has_pictures(folder: Path) -> bool:
    return bool(list_folder(folder, picture_endings()).files)


def _say_empty(folder: Path, classes: set[str]) -> None:
    """Name the folders of classes that hold no picture; an index names its classes itself."""
    if has_index(folder):
        return
    names = [child.name for child in list_folder(folder, ()).folders]
    empty = [name for name in names if normalize("NFC", name) not in classes]
    if empty:
        more = f" and {len(empty) - _NUM_SHOWN} more" if len(empty) > _NUM_SHOWN else ""
        logger.warning(
            "The folders %s%s of %s contain no pictures, so they are not classes.",
            ", ".join(empty[:_NUM_SHOWN]), more, folder.name,
        )  # fmt: skip


def _of_tables(
    path: Path,
    tables: Mapping[str, Table],
    image_column: str | None,
    label_column: str | None,
    to_learn: bool,
) -> PictureCollection:
    columns: dict[str, tuple[Any, str]] = {}
    labels: list[str] = []
    parts: list[str] = []
    rows: list[tuple[str, int]] = []
    orders, label = [], label_column
    for part, table in tables.items():
        image = choose_column(table, image_column, _picture_columns(table), "image_column")
        label = choose_column(table, label_column, LABEL_NAMES, "label_column")
        columns[part] = (_undecoded(table, image), image)
        found, order = labels_of(table, label)
        orders.append(order)
        missing = [row for row, one in enumerate(found) if one is None]
        if missing:
            shown = ", ".join(table.place(row) for row in missing[:_NUM_SHOWN])
            logger.warning("Left out %d rows of %s without a label: %s%s", len(missing),
                           part, shown, " ..." if len(missing) > _NUM_SHOWN else ".")  # fmt: skip
        kept = [(row, one) for row, one in enumerate(found) if one is not None]
        rows += [(part, row) for row, _ in kept]
        labels += [one for _, one in kept]
        parts += [part] * len(kept)
    if to_learn:
        check_learnable(path.name, labels, parts, label)
    home = path if path.is_dir() else path.parent

    def read(place: int) -> bytes:
        part, row = rows[place]
        table, column = columns[part]
        return _bytes_of(table[row][column], home)

    titles = [f"{path.name}, {part} row {row + 1}" for part, row in rows]
    return PictureCollection(
        path.name.split(".")[0], read, titles, labels, parts, joined_order(orders), path.name
    )


def _picture_columns(table: Table) -> Sequence[str]:
    """Headings of a column of pictures: what `datasets` knows as such, or usual names."""
    features = (table.features or {}).items()
    known = [name.strip().lower() for name, kind in features if type(kind).__name__ == "Image"]
    return known if len(known) == 1 else [n for n in IMAGE_NAMES if n in known or not known]


def _undecoded(table: Table, column: str) -> Any:
    """The rows, with pictures as files in bytes, so that we decode them alike."""
    if type((table.features or {}).get(column)).__name__ != "Image":
        return table.rows
    from datasets import Image as ImageFeature

    return table.rows.cast_column(column, ImageFeature(decode=False))  # ty: ignore[missing-attribute]


def _bytes_of(value: Any, home: Path) -> bytes:
    if isinstance(value, Mapping):
        found = value.get("bytes")
        value = value.get("path") if found is None else found
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return (home / value).read_bytes()
    raise ValueError(f"{type(value).__name__} is not a picture")


def _readable(read: Callable[[int], bytes], titles: Sequence[str]) -> dict[int, int]:
    """Place -> digest of what can be read; the others are named, and so is what is lost."""
    lost: dict[str, list[str]] = {}

    def try_one(place: int) -> str | int:
        data = b""
        try:
            data = read(place)
            with Image.open(io.BytesIO(data)) as image:
                check_pixels(*image.size, f"'{titles[place]}'")
                # JPEG files are decoded to their size in small, which is enough to see damage.
                image.draft("RGB", _SMALL)
                image.load()
                words_lost = losses(image)
                to_upright_rgb(image, f"'{titles[place]}'")
            for words in words_lost:
                lost.setdefault(words, []).append(titles[place])
        except Exception:
            return _reason(read, place, titles[place]) or hash(data)
        return hash(data)

    found: list[str | int] = []
    with ThreadPoolExecutor() as pool:
        for begin in range(0, len(titles), _CHUNK):
            found += pool.map(try_one, range(begin, min(begin + _CHUNK, len(titles))))
    for words, of in lost.items():
        logger.warning("%d of %d pictures %s, such as %s.", len(of), len(titles), words, min(of))
    damaged = [reason for reason in found if isinstance(reason, str)]
    if damaged:
        more = f" {len(damaged) - _NUM_SHOWN} more." if len(damaged) > _NUM_SHOWN else ""
        logger.warning(
            "Left out %d of %d pictures that cannot be read: %s%s",
            len(damaged), len(titles), " ".join(damaged[:_NUM_SHOWN]), more,
        )  # fmt: skip
    if len(damaged) == len(titles):
        raise ValueError(f"none of the {len(titles)} pictures can be read; {damaged[0]}")
    return {place: digest for place, digest in enumerate(found) if isinstance(digest, int)}


def _reason(read: Callable[[int], bytes], place: int, title: str) -> str | None:
    try:
        to_upright_rgb(decode_picture(read(place), f"'{title}'"), f"'{title}'")
    except Exception as error:
        sentence = " ".join(str(error).split())
        return sentence if title in sentence else f"'{title}': {sentence}"
    return None
