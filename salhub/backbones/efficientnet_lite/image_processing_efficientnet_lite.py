"""Image processor of EfficientNet-Lite: a centre crop by a share of the short side, then a square.

Source: the evaluation preprocessing published with EfficientNet-Lite (Apache-2.0): crop
S / (S + 32) of the short side, bicubic to S x S, (value - 127) / 128.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack

from salhub.data.picture_arrays import tensor_to_array, to_8_bit
from salhub.errors import did_you_mean
from salhub.hub import LoadedByName
from salhub.processing import Box, load_image, map_to_picture

_CROP_PADDING = 32
# What transformers writes beside the settings.
_KEYS_OF_SAVED_FILES = {
    "auto_map",
    "feature_extractor_type",
    "image_processor_type",
    "processor_class",
    "transformers_version",
}


class EfficientNetLiteImageProcessorKwargs(ImagesKwargs, total=False):
    """Settings of `EfficientNetLiteImageProcessor` beyond those of every image processor.

    Args:
        crop_fraction: Side of the central square, as a share of the picture's short side, in
            (0, 1]; used when `do_center_crop` is set.
    """

    crop_fraction: float | int


class EfficientNetLiteImageProcessor(LoadedByName, PilBackend):
    """Turn any picture into the input of EfficientNet-Lite, and bring maps back to the picture.

    Takes whatever `salhub.processing.load_image` reads, alone or in a list, and batches
    (B, C, H, W) or (B, H, W, C). Needs no torchvision. Pictures pass through 8-bit RGB, so the
    range of floats is recognized and `do_rescale=False` is only for looking at the crop.

    Args:
        size: Height and width of the output in pixels, 224 by default.
        crop_fraction: Side of the central square as a share of the short side, 224 / 256 by
            default; `for_image_size` sets both as published.
        image_mean: Subtracted from values in [0, 1], 127 / 255 by default.
        image_std: Divides what is left, 128 / 255 by default.

    Raises:
        ValueError: A setting out of range, or a picture that cannot be read.

    Example:
        >>> processor = EfficientNetLiteImageProcessor()
        >>> processor("sample:cat", return_tensors="pt")["pixel_values"].shape
        torch.Size([1, 3, 224, 224])
    """

    valid_kwargs = EfficientNetLiteImageProcessorKwargs

    resample = PILImageResampling.BICUBIC
    image_mean = [127 / 255] * 3
    image_std = [128 / 255] * 3
    size = {"height": 224, "width": 224}
    crop_fraction = 224 / (224 + _CROP_PADDING)
    do_convert_rgb = True
    do_center_crop = True
    do_resize = True
    do_rescale = True
    do_normalize = True

    def __init__(self, **kwargs: Unpack[EfficientNetLiteImageProcessorKwargs]) -> None:
        self._check_names(kwargs.keys() - _KEYS_OF_SAVED_FILES)
        super().__init__(**kwargs)
        _check_settings(self.size, self.crop_fraction)

    def _check_names(self, names: Iterable[str]) -> None:
        known = EfficientNetLiteImageProcessorKwargs.__annotations__
        for name in names:
            if name not in known and not name.startswith("_"):
                hint = did_you_mean(name, known)
                raise TypeError(f"{type(self).__name__} has no setting '{name}'.{hint}")

    @classmethod
    def for_image_size(cls, image_size: int) -> "EfficientNetLiteImageProcessor":
        """Build the published preprocessing of the variant with inputs of this size.

        Args:
            image_size: Side of the input in pixels: 224 for lite0, 240 for lite1, 260 for lite2.

        Example:
            >>> EfficientNetLiteImageProcessor.for_image_size(224).crop_fraction
            0.875
        """
        return cls(
            size={"height": image_size, "width": image_size},
            crop_fraction=image_size / (image_size + _CROP_PADDING),
        )

    def viewed_box(self, picture_size: Sequence[int]) -> Box:
        """Return the part of the picture the network sees.

        Args:
            picture_size: Height and width of the picture.

        Returns:
            left, top, right, bottom in pixels of the picture.
        """
        height, width = picture_size
        if not self.do_center_crop:
            return (0, 0, width, height)
        return _central_square(height, width, self.crop_fraction)

    def post_process_saliency(
        self, outputs: Any, target_sizes: Sequence[Sequence[int]] | torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Bring a model's maps back to the pictures they explain.

        Args:
            outputs: What a saliency model returned (its `saliency` is read), or the maps
                themselves, shape (B, h, w) or (B, T, h, w).
            target_sizes: (height, width) of each original picture, after EXIF rotation; None
                keeps the network's own size.

        Returns:
            B float32 tensors of shape (H, W) or (T, H, W); 0 where the network did not look.

        Raises:
            ValueError: A wrong number of sizes, or maps with NaN or infinite values.

        Example:
            >>> maps = torch.rand(1, 224, 224)
            >>> EfficientNetLiteImageProcessor().post_process_saliency(maps, [(300, 451)])[0].shape
            torch.Size([300, 451])
        """
        saliency = getattr(outputs, "saliency", outputs)
        if target_sizes is None:
            return list(saliency.detach().float())
        maps = map_to_picture(saliency, self, target_sizes)
        return [torch.from_numpy(one) for one in maps]

    def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """Turn one picture, a list or a batch into `pixel_values` of shape (B, 3, H, W).

        Args:
            images: What `salhub.processing.load_image` reads, or lists and batches of it.
            *args: As in transformers.
            **kwargs: Settings for this call only.

        Raises:
            TypeError: An unknown setting, or an object that cannot be a picture.
            ValueError: A setting out of range, or a picture that cannot be read.
        """
        self._check_names(kwargs.keys())
        return super().preprocess(images, *args, **kwargs)

    def _validate_preprocess_kwargs(self, **kwargs: Any) -> None:
        _check_settings(kwargs["size"], kwargs["crop_fraction"])
        if kwargs["do_normalize"] and not kwargs["do_rescale"]:
            raise ValueError(
                "do_rescale=False with do_normalize=True would normalize values of [0, "
                "255]; keep do_rescale=True, which detects pictures in [0, 1]."
            )
        # The crop is a share of the picture, so there is no crop_size to check.
        super()._validate_preprocess_kwargs(**{**kwargs, "do_center_crop": False})

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        """Flatten lists and batches; every item is then one picture of any kind."""
        if isinstance(images, list | tuple):
            return [one for item in images for one in self._prepare_images_structure(item)]
        if isinstance(images, torch.Tensor):
            if images.ndim != expected_ndims + 1:
                return [images]
            return list(torch.from_numpy(to_8_bit(tensor_to_array(images))))
        if isinstance(images, np.ndarray) and images.ndim == expected_ndims + 1:
            # The range is read off the whole batch: one of its pictures may be black.
            return list(to_8_bit(images))
        return [images]

    def process_image(
        self, image: Any, input_data_format: str | None = None, **kwargs: Any
    ) -> np.ndarray:
        """Read one picture as uint8 RGB of shape (3, H, W)."""
        if input_data_format is not None and isinstance(image, np.ndarray | torch.Tensor):
            image = _in_default_layout(
                image, str(getattr(input_data_format, "value", input_data_format))
            )
        return np.moveaxis(np.asarray(load_image(image)), -1, 0)

    def _preprocess(
        self,
        images: list[np.ndarray],
        *,
        do_center_crop: bool,
        do_resize: bool,
        do_rescale: bool,
        do_normalize: bool,
        size: SizeDict,
        crop_fraction: float,
        resample: PILImageResampling,
        rescale_factor: float,
        image_mean: float | Sequence[float],
        image_std: float | Sequence[float],
        return_tensors: str | None,
        **kwargs: Any,
    ) -> BatchFeature:
        pixel_values = []
        for image in images:
            if do_center_crop:
                left, top, right, bottom = _central_square(*image.shape[1:], crop_fraction)
                image = image[:, top:bottom, left:right]
            if do_resize:
                image = self.resize(image, size, resample)
            if do_rescale:
                image = self.rescale(image, rescale_factor)
            if do_normalize:
                image = self.normalize(image, image_mean, image_std)
            pixel_values.append(image)
        return BatchFeature({"pixel_values": pixel_values}, tensor_type=return_tensors)


def _central_square(height: int, width: int, fraction: float) -> tuple[int, int, int, int]:
    # Rounding as published: the side down, the offset up.
    side = max(1, int(fraction * min(height, width)))
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    return left, top, left + side, top + side


def _check_settings(size: SizeDict, crop_fraction: float) -> None:
    if not (size.height and size.width):
        raise ValueError(
            f"size must be an integer or have 'height' and 'width' of at least 1, got {dict(size)}."
        )
    if not 0 < crop_fraction <= 1:
        raise ValueError(f"crop_fraction must be in (0, 1], got {crop_fraction}.")


def _in_default_layout(image: Any, layout: str) -> Any:
    """Move the channels to where `load_image` expects them in this kind of array."""
    if image.ndim != 3 or layout == "none":
        return image
    moveaxis = torch.movedim if isinstance(image, torch.Tensor) else np.moveaxis
    is_tensor = isinstance(image, torch.Tensor)
    if is_tensor and layout == "channels_last":
        return moveaxis(image, -1, 0)
    if not is_tensor and layout == "channels_first":
        return moveaxis(image, 0, -1)
    return image
