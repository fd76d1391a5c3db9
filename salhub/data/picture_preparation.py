"""Pictures in memory as a network wants them, by its own image processor."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from salhub.hub import load
from salhub.ops.normalization import single_values_normalized

# Arithmetic that agrees with the processor to this is used in its place.
_TOLERANCE = 1e-5


class PicturePreparation:
    """What an image processor does to pictures of bytes.

    Where it only rescales and normalises them, that is done in three operations on the device;
    where it also resizes or crops, the processor itself does it.

    Args:
        image_processor: Of the network.

    Example:
        >>> from salhub.backbones.cifar_resnet.image_processing_cifar_resnet import (
        ...     CifarResNetImageProcessor,
        ... )
        >>> prepare = PicturePreparation(CifarResNetImageProcessor())
        >>> prepare(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(self, image_processor: Any) -> None:
        self.image_processor = image_processor
        self._is_plain: dict[tuple[int, ...], bool] = {}

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
            images: uint8 (B, C, H, W).

        Returns:
            float32 on the same device, of the size that the network wants.
        """
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

    @torch.no_grad()
    def logits(self, network: nn.Module, images: Tensor, batch_size: int = 512) -> Tensor:
        """What a classifier says of pictures, (N, K) on the CPU.

        Args:
            network: In evaluation mode.
            images: uint8 (N, C, H, W).
            batch_size: Pictures that pass through it at once.
        """
        if not len(images):  # a network may not take a batch of none
            return torch.empty(0, network.config.num_labels)
        device = next(network.parameters()).device
        parts = images.split(batch_size)
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
                f"the network does not take these pictures, {tuple(images.shape[1:])} before "
                f"preparation: {' '.join(str(error).split())}"
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
