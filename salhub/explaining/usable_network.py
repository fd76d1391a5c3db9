"""Networks that cannot be explained, and why."""

import torch
from torch import nn

from salhub.modeling import all_modules


def refuse_unusable(network: nn.Module, *, needs_gradients: bool) -> None:
    """Refuse a network without weights, or one without gradients where they are needed.

    Args:
        network: To be explained.
        needs_gradients: Whether the explanation does.

    Raises:
        ValueError: Naming the first module that is in the way.
    """
    # Names take longer than the modules, and nearly always there is nothing to name.
    if not any(_is_away(m) or (needs_gradients and _is_quantized(m)) for m in all_modules(network)):
        return
    for name, module in network.named_modules():
        if _is_away(module):
            raise ValueError(
                f"The weights of '{name}' are on the device 'meta' and not loaded; load "
                "them, for example with from_pretrained."
            )
        if needs_gradients and _is_quantized(module):
            raise ValueError(
                f"'{name}' is quantized ({type(module).__name__}) and has no gradients, "
                "which this method needs; explain the network before quantization."
            )


def _is_away(module: nn.Module) -> bool:
    for one in module._parameters.values():
        # Accelerate fetches what it has put elsewhere when it is needed.
        if one is not None and one.is_meta:
            return not hasattr(module, "_hf_hook")
    return False


def _is_quantized(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.ao.nn.quantized")


def refuse_scripted(network: nn.Module) -> None:
    """Raises ValueError where a module is scripted."""
    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            where = f"'{name}' is a scripted module" if name else "the network is scripted"
            raise ValueError(
                f"{where}, so its inside cannot be inspected; explain the original module instead."
            )
