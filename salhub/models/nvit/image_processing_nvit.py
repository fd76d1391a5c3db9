"""Image processor of NViT: the whole picture in the network's size, in -1 to 1."""

from salhub.backbones.efficientnet_lite.image_processing_efficientnet_lite import (
    EfficientNetLiteImageProcessor,
)


class NViTImageProcessor(EfficientNetLiteImageProcessor):
    """Turn any picture into the input of a vision transformer, as `ViTImageProcessor` does.

    Takes whatever `salhub.processing.load_image` reads, alone or in a list, and batches
    (B, C, H, W) or (B, H, W, C). Needs no torchvision. A network that was taken over from
    transformers or timm keeps the image processor it came with.

    Args:
        size: Height and width of the output in pixels, 224 by default.
        image_mean: Subtracted from values in [0, 1], 0.5 by default.
        image_std: Divides what is left, 0.5 by default.

    Raises:
        ValueError: A setting out of range, or a picture that cannot be read.

    Example:
        >>> processor = NViTImageProcessor.for_image_size(32)
        >>> processor("sample:cat", return_tensors="pt")["pixel_values"].shape
        torch.Size([1, 3, 32, 32])
    """

    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]
    size = {"height": 224, "width": 224}
    crop_fraction = 1.0
    do_center_crop = False

    @classmethod
    def for_image_size(cls, image_size: int) -> "NViTImageProcessor":
        """Build the preprocessing of a network with inputs of this size.

        Args:
            image_size: Side of the input in pixels, `image_size` of the configuration.
        """
        return cls(size={"height": image_size, "width": image_size})
