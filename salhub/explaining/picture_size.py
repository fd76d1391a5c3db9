"""The size of pictures that a classifier was made for, and what is said where it takes no other."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedConfig

Size = tuple[int, int]  # height, width


def image_size_of(config: PreTrainedConfig | None) -> int | Sequence[int] | None:
    """The picture size of a classifier, also where it stands in its vision part's configuration."""
    if config is None:
        return None
    parts = [one for one in vars(config).values() if isinstance(one, PreTrainedConfig)]
    sizes = [getattr(config, "image_size", None), *map(image_size_of, parts)]
    return next((size for size in sizes if size is not None), None)


def sides(size: int | Sequence[int]) -> Size:
    """(height, width) of one side, or of both."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def refuse_other_size(
    network: nn.Module, config: PreTrainedConfig | None, pixel_values: torch.Tensor
) -> None:
    """Refuse pictures that a classifier failed on, if it is for their size.

    Args:
        network: The classifier.
        config: Its own configuration.
        pixel_values: What it failed on, (B, C, height, width).

    Raises:
        ValueError: It takes pictures of the size that its configuration names, and not of theirs.
    """
    own, given = image_size_of(config), tuple(pixel_values.shape[-2:])
    if own is None or sides(own) == given:
        return
    if _takes(network, pixel_values, given) or not _takes(network, pixel_values, sides(own)):
        return
    height, width = sides(own)
    raise ValueError(
        f"The network only accepts pictures of {height} x {width} pixels, got {given[0]} x "
        f"{given[1]}; give its image processor size={{'height': {height}, 'width': {width}}}."
    )


def _takes(network: nn.Module, like: torch.Tensor, size: Size) -> bool:
    weight = next((one for one in network.parameters() if one.is_floating_point()), like)
    try:
        with torch.no_grad():
            network(weight.new_zeros(1, like.shape[1], *size))
    except (RuntimeError, ValueError):
        return False
    return True
