"""Labelled pictures in one .npz file, all of one size: CIFAR-10, MNIST and the like."""

import hashlib
import io
import itertools
import logging
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from salhub.files import require_file

_JPEG_KEYS = {"jpeg_bytes", "offsets", "labels", "is_test"}
_ARRAY_KEYS = {"train_images", "train_labels", "test_images", "test_labels"}
# JPEG files of two parts, as Tiny-ImageNet is passed on.
_PART_KEYS = {f"{part}_{what}" for part in ("train", "val") for what in ("bytes", "len", "label")}
# Grey, grey with opacity, RGB, RGB with opacity.
_CHANNELS = (1, 2, 3, 4)

logger = logging.getLogger(__name__)


class PictureArchive:
    """Reads labels at once, and pictures when they are asked for.

    Three layouts are known. Pictures as JPEG files one after another: `jpeg_bytes` uint8, `offsets`
    int64 (N + 1,), `labels` (N,), `is_test` bool (N,). The same in two parts: `train_bytes` uint8,
    `train_len` (n,) the bytes of every file, `train_label` (n,), and `val_bytes`, `val_len`,
    `val_label` for testing. Pictures as numbers: `train_images` uint8 (N, H, W), (N, H, W, C) or
    (N, C, H, W), `train_labels`, `test_images`, `test_labels`. What is transparent is put on white.
    Each may name its classes in `class_names` or `names`. Nothing in the file is ever unpickled.

    Args:
        path: The file.

    Attributes:
        labels: Class of every picture, int64 (N,).
        is_test: Which pictures are for testing, bool (N,).
        is_validation: Which are for validation: none, bool (N,).
        class_names: One name a class; numbers where the file has none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no archive of these layouts.

    Example:
        >>> archive = PictureArchive("cifar10.npz")  # doctest: +SKIP
        >>> archive.images(torch.arange(2)).shape  # doctest: +SKIP
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self.name, self.title = self.path.stem, self.path.name
        content = _read(self.path)
        self._pictures = _JpegFiles(content) if "offsets" in content else _Arrays(content)
        self.labels = torch.from_numpy(self._pictures.labels.astype(np.int64))
        self.is_test = torch.from_numpy(self._pictures.is_test.astype(bool))
        self.is_validation = torch.zeros_like(self.is_test)
        classes = int(self.labels.max()) + 1
        names = content.get("class_names", content.get("names", range(classes)))
        self.class_names = [str(name) for name in names]
        if len(self.class_names) < classes or int(self.labels.min()) < 0:
            raise ValueError(
                f"{self.path} has labels {int(self.labels.min())} to {classes - 1} but "
                f"{len(self.class_names)} class names; labels must be indices of the names."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def test_places(self) -> Tensor:
        """Places of the pictures for testing, int64 (n,)."""
        return self.is_test.nonzero()[:, 0]

    @cached_property
    def digests(self) -> list[int]:
        """A number of each picture, equal where their bytes are, in this process."""
        return self._pictures.digests()

    def images(self, indices: Tensor, size: int | None = None) -> Tensor:
        """Pictures by their places in the file.

        Args:
            indices: int64 (n,).
            size: Side that they are resized to, in pixels; None to leave them as they are.

        Returns:
            uint8 (n, C, H, W), C being 1 or 3.

        Raises:
            ValueError: A picture cannot be decoded, or has another size than the first.
        """
        arrays = self._pictures.read(indices.numpy())
        channels_last = arrays if arrays.ndim == 4 else arrays[..., None]
        images = torch.from_numpy(channels_last).permute(0, 3, 1, 2).contiguous()
        return images if size is None else resize_bytes(images, size)

    def picture(self, place: int) -> Image.Image:
        """One picture by its place, in 8-bit RGB."""
        array = as_rgb(self.images(torch.tensor([place])))[0].permute(1, 2, 0)
        return Image.fromarray(array.numpy().copy())

    def describe(self) -> dict[str, Any]:
        """Name, size and fingerprint for a results file; holds no path of this machine."""
        digest = hashlib.sha256(self.labels.numpy().tobytes())
        digest.update(self._pictures.sample_bytes())
        return {
            "name": self.path.stem,
            "num_images": len(self),
            "fingerprint": digest.hexdigest()[:16],
        }


def as_rgb(images: Tensor) -> Tensor:
    """Grey pictures in three channels, as image processors make them of a grey file."""
    return images.expand(-1, 3, -1, -1)


def resize_bytes(images: Tensor, size: int) -> Tensor:
    """Resize square pictures, averaging what falls together.

    Args:
        images: uint8 (N, C, H, H).
        size: New side, in pixels.

    Returns:
        uint8 (N, C, size, size).

    Example:
        >>> resize_bytes(torch.full((1, 1, 28, 28), 9, dtype=torch.uint8), 16).unique().tolist()
        [9]
    """
    if images.shape[-1] == size:
        return images
    parts = [
        F.interpolate(part.float(), size=(size, size), mode="bilinear", antialias=True)
        for part in images.split(4096)
    ]
    return torch.cat([part.round().clamp(0, 255).byte() for part in parts])


class _JpegFiles:
    def __init__(self, content: Mapping[str, np.ndarray]) -> None:
        self._bytes, self._offsets = content["jpeg_bytes"], content["offsets"]
        self.labels, self.is_test = content["labels"], content["is_test"]

    def read(self, indices: np.ndarray) -> np.ndarray:
        if not len(indices):  # of their shape
            return self.read(np.array([0]))[:0]
        # Decoding lets go of the interpreter, so threads share the work.
        with ThreadPoolExecutor() as pool:
            pictures = list(pool.map(self._decode, indices.tolist(), chunksize=256))
        if not pictures:
            return np.zeros((0, 1, 1, 3), dtype=np.uint8)
        if len({picture.ndim for picture in pictures}) > 1:  # some are grey
            pictures = [np.broadcast_to(np.atleast_3d(p), (*p.shape[:2], 3)) for p in pictures]
        sizes = {picture.shape for picture in pictures}
        if len(sizes) > 1:
            raise ValueError(
                f"the pictures have several sizes, {sorted(sizes)}; resize them to one size."
            )
        return np.stack(pictures)

    def _decode(self, index: int) -> np.ndarray:
        begin, end = self._offsets[index : index + 2]
        try:
            with Image.open(io.BytesIO(self._bytes[begin:end].tobytes()), formats=["JPEG"]) as one:
                return np.asarray(one if one.mode in ("L", "RGB") else one.convert("RGB"))
        except OSError:
            raise ValueError(f"picture {index} is not a JPEG file, or is damaged.") from None

    def digests(self) -> list[int]:
        places = self._offsets.tolist()
        return [hash(self._bytes[a:b].tobytes()) for a, b in itertools.pairwise(places)]

    def sample_bytes(self) -> bytes:
        return self._bytes[:: max(1, len(self._bytes) // 2**20)].tobytes()


class _Arrays:
    def __init__(self, content: Mapping[str, np.ndarray]) -> None:
        names = ("train_images", "test_images")
        self._parts = [_channels_last(name, content[name]) for name in names]
        for name, part in zip(names, self._parts, strict=True):
            _say_transparent(name, part)
        shapes = [part.shape[1:] for part in self._parts if len(part)]
        if len(set(shapes)) > 1:
            raise ValueError(
                f"train_images has pictures of {shapes[0]} and test_images of {shapes[1]} "
                "(height, width, channels); make them the same size."
            )
        self.labels = np.concatenate([content["train_labels"], content["test_labels"]])
        self.is_test = np.arange(len(self.labels)) >= len(content["train_labels"])

    def read(self, indices: np.ndarray) -> np.ndarray:
        train, test = self._parts
        pictures = np.empty((len(indices), *train.shape[1:]), dtype=np.uint8)
        is_test = indices >= len(train)
        pictures[~is_test] = train[indices[~is_test]]
        pictures[is_test] = test[indices[is_test] - len(train)]
        return _on_white(pictures) if pictures.ndim == 4 else pictures

    def digests(self) -> list[int]:
        return [hash(picture.tobytes()) for part in self._parts for picture in part]

    def sample_bytes(self) -> bytes:
        return b"".join(part[:: max(1, len(part) // 512)].tobytes() for part in self._parts)


def _channels_last(name: str, array: np.ndarray) -> np.ndarray:
    """Pictures as (N, H, W) or (N, H, W, C), from whichever layout they are in."""
    if array.ndim == 3 or (array.ndim == 4 and array.shape[3] in _CHANNELS):
        return array
    if array.ndim == 4 and array.shape[1] in _CHANNELS:
        logger.warning("%s is read as (N, channels, height, width).", name)
        return np.moveaxis(array, 1, 3)
    raise ValueError(
        f"{name} has shape {array.shape}; give (N, height, width), (N, height, width, channels) or "
        "(N, channels, height, width), with 1 to 4 channels."
    )


def _say_transparent(name: str, pictures: np.ndarray) -> None:
    if pictures.ndim == 4 and pictures.shape[3] % 2 == 0:
        count = int((pictures[..., -1] < 255).any(axis=(1, 2)).sum())
        if count:
            logger.warning(
                "%d of %d pictures of %s are partly transparent and were placed on white.",
                count, len(pictures), name,
            )  # fmt: skip


def _on_white(pictures: np.ndarray) -> np.ndarray:
    """Grey or RGB pictures of those that may have a channel of opacity."""
    channels = pictures.shape[3]
    if channels % 2:
        return pictures
    opacity = pictures[..., -1:].astype(np.float32) / 255
    colours = pictures[..., :-1] * opacity + 255 * (1 - opacity)
    return np.rint(colours).astype(np.uint8)


def _read(path: Path) -> dict[str, np.ndarray]:
    require_file(path, "archive of pictures")
    try:
        with np.load(path, allow_pickle=False) as archive:
            content = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError):
        raise ValueError(f"{path} is not an .npz file of plain arrays.") from None
    if content.keys() >= _PART_KEYS:
        content = _joined_parts(path, content)
    for keys in (_JPEG_KEYS, _ARRAY_KEYS):
        if keys <= content.keys():
            _check(path, content)
            return content
    layouts = (", ".join(sorted(keys)) for keys in (_JPEG_KEYS, _PART_KEYS, _ARRAY_KEYS))
    raise ValueError(
        f"{path} has {', '.join(sorted(content)) or 'nothing'}; expected {', or '.join(layouts)}."
    )


def _joined_parts(path: Path, content: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Files of two parts one after another, those of `val` for testing."""
    for part in ("train", "val"):
        files, lengths = content[f"{part}_bytes"], content[f"{part}_len"]
        if lengths.ndim != 1 or int(lengths.sum()) != len(files) or (lengths < 0).any():
            raise ValueError(
                f"{path} is damaged: {part}_len must give the number of bytes of each "
                f"picture in the {len(files)} bytes of {part}_bytes."
            )
    both = {
        what: np.concatenate([content[f"train_{what}"], content[f"val_{what}"]])
        for what in ("bytes", "len", "label")
    }
    offsets = np.concatenate([[0], np.cumsum(both["len"], dtype=np.int64)])
    is_test = np.arange(len(both["len"])) >= len(content["train_len"])
    found = {"jpeg_bytes": both["bytes"], "offsets": offsets, "labels": both["label"]}
    names = {name: content[name] for name in ("class_names", "names") if name in content}
    return {**found, "is_test": is_test, **names}


def _check(path: Path, content: Mapping[str, np.ndarray]) -> None:
    for name in ("labels", "train_labels", "test_labels"):
        labels = content.get(name)
        if labels is None or (labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)):
            continue
        raise ValueError(
            f"{path} has {name} of shape {labels.shape} and type {labels.dtype}; give one "
            "whole number per picture, its class."
        )
    if "offsets" in content:
        count = len(content["labels"])
        fits = len(content["offsets"]) == count + 1 and len(content["is_test"]) == count
    else:
        parts = ("train", "test")
        fits = all(len(content[f"{p}_images"]) == len(content[f"{p}_labels"]) for p in parts)
        fits = fits and all(content[f"{p}_images"].dtype == np.uint8 for p in parts)
        count = len(content["train_labels"])
    if not fits or not count:
        raise ValueError(f"{path} is damaged: it needs one label per picture, and uint8 pictures.")
