"""Recording named layers' outputs in one forward pass, with no graph below the first of them."""

import threading
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from salhub.models.normgrad.methods import INPUT_LAYER


class LayerCapture:
    """Context manager: one forward pass inside it records the named layers' outputs.

    The pass runs without a graph until the first named layer fires; its output becomes a fresh
    leaf and gradients are switched on from there. So the cost below it is that of inference, and
    no parameter's `requires_grad` has to be touched.

    Args:
        network: The network whose layers are named.
        names: Names as in `network.named_modules()`; "input" is the pixels.
        input_names: The layers among them whose own input is needed too.
        use_graph: False records values only, without any gradient.

    Raises:
        ValueError: In the forward pass, for a layer that fires twice or puts out no floating-point
            tensor.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> with LayerCapture(network, ["0"]) as capture:
        ...     output = network(capture.enter_pixels(torch.zeros(1, 3, 8, 8)))
        >>> capture.outputs["0"].shape, output.requires_grad
        (torch.Size([1, 4, 6, 6]), True)
    """

    def __init__(
        self,
        network: nn.Module,
        names: Iterable[str],
        *,
        input_names: Iterable[str] = (),
        use_graph: bool = True,
    ):
        self.names = tuple(names)
        self.outputs: dict[str, Tensor] = {}
        self.inputs: dict[str, Tensor] = {}
        self._input_names = frozenset(input_names)
        self._network = network
        self._use_graph = use_graph
        self._scope = ExitStack()
        # Another thread may use the same network meanwhile; its passes are not ours.
        self._thread = threading.get_ident()

    def __enter__(self) -> "LayerCapture":
        with ExitStack() as scope:
            scope.enter_context(torch.no_grad())
            for name in self.names:
                if name != INPUT_LAYER:
                    scope.callback(self._hook(name).remove)
            self._scope = scope.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._scope.close()

    def enter_pixels(self, pixel_values: Tensor) -> Tensor:
        """Returns the pixels to feed, recorded when "input" is among the names.

        It is a copy: a network may change what it is given, and other passes need it unchanged.
        """
        if INPUT_LAYER in self.names:
            return self._record(INPUT_LAYER, pixel_values.clone())
        return pixel_values.clone()

    def check_complete(self, num_pictures: int) -> None:
        """Raises ValueError when a named layer did not run, or has no row for each picture."""
        for name in self.names:
            if name not in self.outputs:
                kind = type(self._network.get_submodule(name)).__name__
                raise ValueError(
                    f"layer '{name}' ({kind}) did not run in the forward pass, so it has no "
                    "map; model.saliency_layers() lists the layers that do."
                )
            if len(self.outputs[name]) != num_pictures:
                raise ValueError(no_row_for_each_picture(name))

    def _hook(self, name: str):
        # Another thread can meet this hook half removed, and then without the keywords.
        def record(module: nn.Module, args: tuple, *rest: Any) -> Any:
            if threading.get_ident() != self._thread:
                return None
            kwargs, output = rest
            given = [*args, *kwargs.values()]
            tensor, rebuild = split_output(output, name)
            if name in self._input_names:
                self.inputs[name] = given[0].detach().clone()
            if _shares_memory(tensor, given):
                # The caller holds the same memory and may overwrite it in place.
                tensor = tensor.clone()
            return rebuild(self._record(name, tensor))

        module = self._network.get_submodule(name)
        return module.register_forward_hook(record, with_kwargs=True)

    def _record(self, name: str, tensor: Tensor) -> Tensor:
        if name in self.outputs:
            raise ValueError(
                f"layer '{name}' runs more than once in a forward pass, so its map is ambiguous; "
                "choose a layer that runs once, such as the block around it."
            )
        if not tensor.is_floating_point():
            raise ValueError(
                f"layer '{name}' returns {tensor.dtype}, which has no gradient; gradients "
                "cannot explain quantized networks, so use the floating-point network."
            )
        if self._use_graph:
            torch.set_grad_enabled(True)  # the no_grad of __enter__ restores it on exit
            if not tensor.requires_grad:
                tensor = tensor.detach().requires_grad_()
        self.outputs[name] = tensor
        # An in-place operation downstream must overwrite a copy, never the record.
        return tensor.clone()


def no_row_for_each_picture(name: str) -> str:
    """Return the sentence for a layer whose output does not belong to one picture a row."""
    return (
        f"layer '{name}' does not return one row per picture, because it processes windows "
        "or data shared by all pictures, so its map would mix pictures; choose the block "
        "around it, or another layer of model.saliency_layers()."
    )


def split_output(output: Any, name: str) -> tuple[Tensor, Any]:
    """Returns a layer's tensor and a function that puts another one in its place.

    Args:
        output: What the module returned: a tensor, or a tuple, list or dictionary led by one.
        name: The layer, for the error.

    Raises:
        ValueError: There is no tensor to be found.
    """
    if isinstance(output, Tensor):
        return output, lambda tensor: tensor
    if isinstance(output, dict):
        key = next((key for key, value in output.items() if isinstance(value, Tensor)), None)
        if key is not None:
            return output[key], lambda tensor: type(output)(**{**output, key: tensor})
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        if hasattr(output, "_replace"):
            field = output._fields[0]
            return output[0], lambda tensor: output._replace(**{field: tensor})
        return output[0], lambda tensor: type(output)([tensor, *output[1:]])
    raise ValueError(
        f"layer '{name}' returns {type(output).__name__} whose first element is not a "
        "tensor; choose a layer that returns a feature map or tokens."
    )


def _shares_memory(tensor: Tensor, others: Iterable[Any]) -> bool:
    address = tensor.untyped_storage().data_ptr()
    return any(
        isinstance(other, Tensor) and other.untyped_storage().data_ptr() == address
        for other in others
    )
