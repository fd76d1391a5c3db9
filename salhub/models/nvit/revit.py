"""ReViT: shapes that pruning large networks has found, for training from nothing."""

from typing import Any, Literal

from salhub.errors import check_choice
from salhub.models.nvit.configuration_nvit import NViTConfig

_DEPTH = 12


def revit_config(
    hidden_size: int,
    *,
    num_hidden_layers: int = _DEPTH,
    variant: Literal["code", "paper"] = "code",
    **settings: Any,
) -> NViTConfig:
    """The configuration of a network whose middle blocks are wider than both ends.

    With epsilon = 2 in blocks 4 to 9 of 12 and 1 elsewhere: epsilon E / 100 heads, to an even
    number; epsilon E / 20 channels of queries and keys, to a multiple of 8; 64 of values; and 3
    epsilon E neurons. The published code has 10 heads and twice the QK channels in the first and
    the last block instead, and its counts agree with the paper's table at E = 384, so that it is
    what is built unless asked otherwise.

    Args:
        hidden_size: E.
        num_hidden_layers: Blocks; those of other depths take the rule of their relative depth [C].
        variant: "code" or "paper".
        **settings: Further fields of `NViTConfig`.

    Example:
        >>> revit_config(384).num_attention_heads
        [10, 4, 4, 8, 8, 8, 8, 8, 8, 4, 4, 10]

    Source: Yang et al. 2023 (arXiv 2110.04869), section 4.3 and its published code.
    """
    check_choice("variant", variant, ("code", "paper"))
    places = (block * _DEPTH // num_hidden_layers for block in range(num_hidden_layers))
    times = [2 if 3 <= place < 9 else 1 for place in places]
    if variant == "paper":
        heads = [max(2, 2 * round(one * hidden_size / 200)) for one in times]
        qk = [max(8, 8 * round(one * hidden_size / 160)) for one in times]
    else:
        # There one block is rounded, and then doubled.
        heads = [one * max(2, 2 * round(hidden_size / 200)) for one in times]
        qk = [one * max(8, 8 * round(hidden_size / 160)) for one in times]
        heads[0] = heads[-1] = 10
        qk[0] = qk[-1] = 2 * max(8, 8 * round(hidden_size / 160))
    neurons = [one * 3 * hidden_size for one in times]
    return NViTConfig(
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=heads,
        qk_head_dim=qk,
        v_head_dim=64,
        intermediate_size=neurons,
        **settings,
    )
