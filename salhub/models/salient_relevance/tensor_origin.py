"""What is known of a tensor on its way through a network, beyond its values."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(slots=True)
class Origin:
    """What is known of a tensor beyond its values.

    tensor: kept, so that its id is not given to another one. bounds: lowest and highest values of
    a tensor that is still pixels. support: 0 where it is padding. is_gate: it may only scale: a
    sigmoid, or a size to divide by. root: the tensor of which each element is a function of the
    same element, as in x * relu6(x + 3) / 6.
    family: ids of all tensors that share its memory, or do under another memory layout.
    spoilt_by: the in-place operation that has changed it through another one of its family.
    """

    tensor: Tensor
    bounds: tuple[Tensor, Tensor] | None = None
    support: Tensor | None = None
    is_gate: bool = False
    root: Tensor | None = None
    family: set[int] = field(default_factory=set)
    spoilt_by: str | None = None

    def __post_init__(self) -> None:
        self.family.add(id(self.tensor))

    @property
    def own_root(self) -> Tensor:
        """The root, which is the tensor itself where it is a function of no other."""
        return self.tensor if self.root is None else self.root

    @property
    def is_simple(self) -> bool:
        """Whether nothing but its family and being a gate is to be known of its views."""
        return self.bounds is None is self.support and self.spoilt_by is None

    def hand_on(self, views: Tensor | Sequence[Tensor], origins: dict[int, "Origin"]) -> None:
        """Enter what is known of the views of a simple one, or of a copy in another shape."""
        for view in (views,) if isinstance(views, Tensor) else views:
            if id(view) not in origins:  # not the tensor itself
                origins[id(view)] = Origin(view, is_gate=self.is_gate, family=self.family)


def common_root(origins: list[Origin], shape: torch.Size) -> Tensor | None:
    """The tensor of this shape of which all are functions, element by element, if there is one."""
    root = origins[0].own_root
    is_one = all(origin.own_root is root for origin in origins)
    is_in_place = all(origin.tensor.shape == shape for origin in origins)
    return root if is_one and is_in_place and root.shape == shape else None
