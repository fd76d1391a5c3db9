"""Pictures as a network wants them, by its own image processor."""

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from salhub.hub import load
from salhub.ops.normalization import single_values_normalized

# Arithmetic that agrees with the processor to this is used in its place.
_TOLERANCE = 1e-5
# Shares of the picture, and ratios of its sides, that a part of it has.
_SHARES, _RATIOS = (0.3, 1.0), (3 / 4, 4 / 3)


class PicturePreparation:
    """What an image processor does to pictures of bytes.

    Where it only rescales and normalises them, that is done in three operations on the device;
    where it also resizes or crops, the processor itself does it.

    Args:
        image_processor: Of the network.
        view_shares: Least and largest share of a picture that a random part of it has.

    Example:
        >>> from salhub.backbones.cifar_resnet.image_processing_cifar_resnet import (
        ...     CifarResNetImageProcessor,
        ... )
        >>> prepare = PicturePreparation(CifarResNetImageProcessor())
        >>> prepare(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(self, image_processor: Any, view_shares: tuple[float, float] = _SHARES) -> None:
        self.image_processor, self._view_shares = image_processor, view_shares
        self._is_plain: dict[tuple[int, ...], bool] = {}
        self._view_size: tuple[int, int] | None = None

    @classmethod
    def of_model(cls, name: str) -> Self:
        """That of a model by name.

        Raises:
            OSError: It has no image processor.
        """
        from transformers import AutoImageProcessor

        return cls(load(AutoImageProcessor, name, backend="pil"))

    def __call__(self, images: Tensor) -> Tensor:
        """Prepare pictures.

        Args:
            images: uint8 (B, C, H, W), or float32 that are prepared already.

        Returns:
            float32 on the same device, of the size that the network wants.
        """
        if images.is_floating_point():
            return images
        shape = tuple(images.shape[1:])
        if shape not in self._is_plain:
            self._is_plain[shape] = self._check_plain(images[:1])
        if self._is_plain[shape]:
            return self.normalized(images.float() / 255)
        return self._by_processor(images)

    def normalized(self, images: Tensor) -> Tensor:
        """Pictures of numbers in [0, 1], less the mean and over the deviation."""
        mean, std = self._statistics(images)
        return (images - mean) / std

    def denormalized(self, pixel_values: Tensor) -> Tensor:
        """The inverse of `normalized`."""
        mean, std = self._statistics(pixel_values)
        return pixel_values * std + mean

    def of_picture(self, picture: Image.Image) -> Tensor:
        """One picture as the network sees it, float32 (C, H, W)."""
        return self.image_processor(picture, return_tensors="pt")["pixel_values"][0]

    def of_view(self, picture: Image.Image, view: Sequence[float]) -> Tensor:
        """A part of a picture, which fills all that the network sees.

        Args:
            picture: Of mode RGB.
            view: Says which part, see `view_box`; it is mirrored where the last number is below
                one half.

        Returns:
            float32 (C, H, W).
        """
        height, width = self.input_size
        resample = getattr(self.image_processor, "resample", None)
        box = view_box(picture.width, picture.height, view, self._view_shares)
        part = picture.resize(
            (width, height), Image.Resampling.BILINEAR if resample is None else resample, box=box
        )
        if view[-1] < 0.5:
            part = ImageOps.mirror(part)
        pixels = torch.from_numpy(np.array(part)).permute(2, 0, 1)
        return self.normalized(pixels.float() / 255)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of what the network sees, whatever the picture.

        Raises:
            ValueError: The image processor makes other sizes of other pictures, or does more than
                to resize, crop, rescale and normalise.
        """
        if self._view_size is None:
            colour = (11, 120, 250)
            wide, high = (
                self.of_picture(Image.new("RGB", size, colour)) for size in ((90, 60), (60, 80))
            )
            if wide.shape != high.shape:
                raise ValueError(
                    f"{type(self.image_processor).__name__} returns pictures of several "
                    f"sizes ({tuple(wide.shape[1:])} and {tuple(high.shape[1:])}), which "
                    "cannot form a batch; set image_size."
                )
            plain = torch.tensor(colour).view(3, 1, 1).expand(3, *wide.shape[1:]).float() / 255
            if wide.shape[0] != 3 or not torch.allclose(
                wide, self.normalized(plain), rtol=0, atol=_TOLERANCE
            ):
                raise ValueError(
                    f"{type(self.image_processor).__name__} does more than resize, rescale "
                    "and normalize, so random crops are not possible; set augment=false."
                )
            self._view_size = (int(wide.shape[1]), int(wide.shape[2]))
        return self._view_size

    @torch.no_grad()
    def logits(self, network: nn.Module, images: Any, batch_size: int | None = None) -> Tensor:
        """What a classifier says of pictures, (N, K) on the CPU.

        Args:
            network: In evaluation mode.
            images: uint8 (N, C, H, W), or `PictureRows` that are read when they are needed.
            batch_size: Pictures that pass through it at once; None for many of those in memory,
                and few of others, which may be large.
        """
        if not len(images):  # a network may not take a batch of none
            return torch.empty(0, network.config.num_labels)
        device = next(network.parameters()).device
        parts = (images[torch.tensor(rows)] for rows in batches_of_pictures(images, batch_size))
        return torch.cat([network(self(part.to(device))).logits.float().cpu() for part in parts])

    def check_fits(self, images: Tensor, network: nn.Module) -> None:
        """Try one picture, so that what does not fit is noticed before any work is done.

        Raises:
            ValueError: The network does not take what the image processor makes.
        """
        training = network.training
        try:
            with torch.no_grad(), single_values_normalized(network):
                network.eval()(self(images[:1]))
        except (RuntimeError, ValueError, TypeError) as error:
            raise ValueError(
                f"the network does not accept these pictures ({tuple(images.shape[1:])} "
                f"before preparation): {' '.join(str(error).split())}"
            ) from None
        finally:
            network.train(training)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        processor = self.image_processor
        if getattr(processor, "do_normalize", True) is False:
            return like.new_zeros(()), like.new_ones(())
        mean, std = (
            torch.tensor(values, device=like.device, dtype=like.dtype).view(-1, 1, 1)
            for values in (processor.image_mean, processor.image_std)
        )
        return mean, std

    def _by_processor(self, images: Tensor) -> Tensor:
        arrays = list(images.cpu().numpy())
        prepared = self.image_processor(
            arrays, return_tensors="pt", input_data_format="channels_first"
        )["pixel_values"]
        return prepared.to(images.device)

    def _check_plain(self, images: Tensor) -> bool:
        # Noise, as a resized picture of one colour would be equal by chance.
        noise = torch.randint(256, images.shape, generator=torch.Generator().manual_seed(0))
        noise = noise.to(torch.uint8)
        expected = self._by_processor(noise)
        found = self.normalized(noise.float() / 255)
        return expected.shape == found.shape and torch.allclose(
            expected, found, rtol=0, atol=_TOLERANCE
        )


def batches_of_pictures(images: Any, batch_size: int | None = None) -> list[range]:
    """Which pictures pass through a network together.

    Args:
        images, batch_size: As of `PicturePreparation.logits`.
    """
    size = batch_size or (512 if isinstance(images, Tensor) else 32)
    number = len(images)
    return [range(begin, min(begin + size, number)) for begin in range(0, number, size)]


def view_box(
    width: int, height: int, view: Sequence[float], shares: tuple[float, float] = _SHARES
) -> tuple[float, float, float, float]:
    """A part of a picture: a share of its area, a ratio of its sides, and a place.

    Args:
        width, height: Of the picture, in pixels.
        view: Four numbers in [0, 1): the share, the ratio, and how far it is to the right and down.
        shares: Of the area, the least and the largest.

    Returns:
        Left, top, right and bottom in pixels; where a side would be longer than the picture's, it
        is that long.

    Source: Szegedy et al. 2015 (arXiv 1409.4842), section 6, with the shares of a third to all
        that are usual in fine-tuning.

    Example:
        >>> view_box(40, 30, (0.999999, 0.5, 0, 0))[:2]
        (0.0, 0.0)
    """
    share = shares[0] + (shares[1] - shares[0]) * view[0]
    low, high = (math.log(ratio) for ratio in _RATIOS)
    root = math.exp((low + (high - low) * view[1]) / 2)
    side = math.sqrt(share * width * height)
    wide, tall = min(side * root, width), min(side / root, height)
    left, top = (width - wide) * view[2], (height - tall) * view[3]
    return left, top, left + wide, top + tall


def with_image_size(image_processor: Any, size: int) -> Any:
    """The same image processor for a square input of another size.

    Args:
        image_processor: Of transformers, or of ours.
        size: Side in pixels.
    """
    settings = image_processor.to_dict()
    before = dict(settings.get("size") or {})
    crop = settings.get("crop_size") if settings.get("do_center_crop") else None
    square = {"height": size, "width": size}
    if "shortest_edge" in before and crop:
        scale = before["shortest_edge"] / dict(crop)["height"]
        settings |= {"size": {"shortest_edge": round(size * scale)}, "crop_size": square}
    elif "shortest_edge" in before and settings.get("crop_pct"):
        settings["size"] = {"shortest_edge": size}
    else:
        settings["size"] = square
        if crop:
            settings["crop_size"] = square
    return type(image_processor).from_dict(settings)
