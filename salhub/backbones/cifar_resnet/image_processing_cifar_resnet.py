"""Image processor of the residual networks for small pictures: the whole picture, made small."""

from typing import Self

from salhub.backbones.efficientnet_lite.image_processing_efficientnet_lite import (
    EfficientNetLiteImageProcessor,
)


class CifarResNetImageProcessor(EfficientNetLiteImageProcessor):
    """Turn any picture into the input of a residual network for small pictures.

    Takes whatever `salhub.processing.load_image` reads, alone or in a list, and batches
    (B, C, H, W) or (B, H, W, C). The whole picture is resized to a square; pass
    `do_center_crop=True` for the central square of a picture that is not one. Needs no torchvision.

    Args:
        size: Height and width of the output in pixels, 32 by default.
        image_mean: Subtracted from values in [0, 1]; by default the means of CIFAR-10's channels.
        image_std: Divides what is left; by default their standard deviations.

    Raises:
        ValueError: A setting out of range, or a picture that cannot be read.

    Example:
        >>> processor = CifarResNetImageProcessor()
        >>> processor("sample:cat", return_tensors="pt")["pixel_values"].shape
        torch.Size([1, 3, 32, 32])
    """

    image_mean = [0.4914, 0.4822, 0.4465]
    image_std = [0.2470, 0.2435, 0.2616]
    size = {"height": 32, "width": 32}
    crop_fraction = 1.0
    do_center_crop = False

    @classmethod
    def for_image_size(cls, image_size: int) -> Self:
        """Build the preprocessing of a network with inputs of this size.

        Args:
            image_size: Side of the input in pixels, `image_size` of the configuration.

        Example:
            >>> CifarResNetImageProcessor.for_image_size(28).size.height
            28
        """
        return cls(size={"height": image_size, "width": image_size})
