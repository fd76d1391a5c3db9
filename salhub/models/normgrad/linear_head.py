"""The linear layer that ends a classifier, and whether a feature map's mean is all it reads."""

import threading
from typing import Any

import torch
from torch import Tensor, nn

from salhub.models.normgrad.class_scores import check_logits


class LinearHead:
    """Context manager: watches the linear layers of a forward pass and keeps the last one.

    Args:
        network: The classifier.

    Example:
        >>> network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))
        >>> pictures = torch.rand(2, 3, 8, 8)
        >>> with LinearHead(network) as head:
        ...     logits = network(pictures)
        >>> head.is_fed_by(pictures, logits)
        True
    """

    def __init__(self, network: nn.Module):
        self.weight: Tensor | None = None
        self._features: Tensor | None = None
        self._output: Tensor | None = None
        self._linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
        self._handles: list[Any] = []
        self._thread = threading.get_ident()

    def __enter__(self) -> "LinearHead":
        for module in self._linears:
            self._handles.append(module.register_forward_hook(self._keep))
        return self

    def __exit__(self, *exception: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, module: nn.Linear, args: tuple, output: Tensor) -> None:
        if threading.get_ident() != self._thread or not args:
            return
        # The last one to run stays; the weight is the one in force, a shifted one included.
        self.weight, self._features = module.weight.detach(), args[0].detach()
        self._output = output.detach()

    def is_fed_by(self, feature_map: Tensor, logits: Tensor) -> bool:
        """True when the logits are the head's, and it read the mean over the map's positions.

        Args:
            feature_map: (B, K, H, W).
            logits: What the classifier put out, (B, C).
        """
        return self.reads(feature_map.float().mean((-2, -1)), logits)

    def reads(self, mean: Tensor, logits: Tensor) -> bool:
        """As `is_fed_by`, from the mean over a map's positions, (B, K)."""
        if self._output is None or not _is_same(self._output, logits.detach()):
            return False
        if self._features.ndim != 2 or mean.shape != self._features.shape:
            return False
        features = self._features.float()
        # Half precision keeps three digits of the mean.
        tolerance = 1e-4 if self._features.dtype.itemsize >= 4 else 2e-2
        return bool((mean - features).abs().amax() <= tolerance * features.abs().amax())


def _is_same(output: Tensor, logits: Tensor) -> bool:
    return output.shape == logits.shape and torch.equal(output, logits)


def logits_of(output: Any) -> Tensor:
    """Finds the logits in what a classifier returned.

    Args:
        output: A tensor, an output with `logits`, a dictionary with "logits", or a tuple led by
            the logits.

    Returns:
        (B, C) or (B, C, h, w).

    Raises:
        TypeError: There are no logits.
        ValueError: They have another shape.

    Example:
        >>> logits_of({"logits": torch.zeros(2, 10)}).shape
        torch.Size([2, 10])
    """
    logits = getattr(output, "logits", None)
    if isinstance(output, Tensor):
        logits = output
    elif logits is None and isinstance(output, dict):
        logits = output.get("logits")
    elif logits is None and isinstance(output, tuple | list) and output:
        logits = output[0]
    if not isinstance(logits, Tensor):
        keys = f" with {', '.join(map(str, output))}" if isinstance(output, dict) else ""
        raise TypeError(
            f"the classifier returned {type(output).__name__}{keys}, which contains no "
            "logits; it must return a tensor, an output with 'logits', or a tuple whose "
            "first element is the logits."
        )
    check_logits(logits)
    return logits
