"""Image processor of NViT: the whole picture in the network's size, in -1 to 1."""

from salhub.backbones.cifar_resnet.image_processing_cifar_resnet import CifarResNetImageProcessor


class NViTImageProcessor(CifarResNetImageProcessor):
    """Turn any picture into the input of a vision transformer, as `ViTImageProcessor` does.

    That of the residual networks with other numbers. A network that was taken over from
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
