"""NormGrad at a layer's own convolution: its geometry read off the module."""

from torch import Tensor, nn

from salhub.models.normgrad.extract_aggregate import convolution_map


def own_convolution_map(
    name: str, module: nn.Module, layer_input: Tensor, gradient: Tensor, aggregate: str
) -> Tensor:
    """Map of a real convolution, whatever its stride, padding, dilation and groups.

    Args:
        name: The layer, for the error.
        module: The convolution.
        layer_input: What it read, (B, C, H, W).
        gradient: d score / d output, (T, B, K, H', W').
        aggregate: One of `AGGREGATES`.

    Returns:
        (T, B, H', W').

    Raises:
        ValueError: The module is no 2-D convolution.
    """
    check_convolution(name, module)
    return convolution_map(
        layer_input,
        gradient,
        aggregate,
        kernel_size=module.kernel_size,
        stride=module.stride,
        padding=_padding(module, *layer_input.shape[-2:]),
        dilation=module.dilation,
        groups=module.groups,
        padding_mode=module.padding_mode,
    )


def check_convolution(name: str, module: nn.Module) -> None:
    """Raises ValueError unless the module is a 2-D convolution."""
    if not isinstance(module, nn.Conv2d):
        raise ValueError(
            f"layer '{name}' is a {type(module).__name__}, and norm_grad_proper "
            "(virtual_identity=False) looks at a Conv2d's own weights; choose a convolution of "
            "model.saliency_layers(), or method='norm_grad'."
        )


def _padding(module: nn.Conv2d, height: int, width: int) -> tuple[int, int, int, int]:
    """(left, right, top, bottom)."""
    if hasattr(module, "same_padding"):  # TensorFlow's rule, which depends on the input's size
        return module.same_padding(height, width)
    if module.padding == "valid":
        return (0, 0, 0, 0)
    if module.padding == "same":
        totals = [
            dilation * (kernel - 1)
            for dilation, kernel in zip(module.dilation, module.kernel_size, strict=True)
        ]
        (top, bottom), (left, right) = [(total // 2, total - total // 2) for total in totals]
        return (left, right, top, bottom)
    vertical, horizontal = module.padding
    return (horizontal, horizontal, vertical, vertical)
