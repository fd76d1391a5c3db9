"""The blocks of a causal language model one by one, and what goes into each of them."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

logger = logging.getLogger(__name__)


class _Stop(Exception):
    """The place that is looked at has been reached."""


@dataclass
class BlockInputs:
    """What goes into a block, of all sequences.

    Args:
        hidden: float32 (S, L, d).
        keywords_of_blocks: Of a pass of one sequence, such as the positions, for every block: masks
            and rotary embeddings differ between blocks that look at a window and at everything.
        batch_size: Sequences that pass together.
        place: The block, counted from 0.
    """

    hidden: Tensor
    keywords_of_blocks: Sequence[Mapping[str, Any]]
    batch_size: int
    place: int = 0

    @property
    def keywords(self) -> Mapping[str, Any]:
        """Those of the block."""
        return self.keywords_of_blocks[self.place]

    def move_on(self, hidden: Tensor) -> None:
        """Go on to the next block, which is given `hidden`."""
        self.hidden, self.place = hidden, self.place + 1

    def batches(self) -> tuple[Tensor, ...]:
        """The hidden states of sequences that pass together, (B, L, d) each."""
        return self.hidden.split(self.batch_size)


def decoder_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a causal language model in order, by their names.

    Args:
        model: Of transformers.

    Raises:
        TypeError: It has no blocks that can be found.
    """
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    # As in BERT, which transformers loads as a causal model all the same.
    is_encoder = any(getattr(module, "is_causal", True) is False for module in model.modules())
    if len(found) != 1 or is_encoder or getattr(model.config, "is_encoder_decoder", False):
        raise TypeError(
            f"{type(model).__name__} is not a decoder with a single list of blocks; give a "
            "causal language model such as LlamaForCausalLM, Qwen2ForCausalLM or "
            "MistralForCausalLM."
        )
    [(name, blocks)] = found
    return {f"{name}.{place}": block for place, block in enumerate(blocks)}


def linear_layers(block: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a block by their names in it, in the order in which they stand.

    Raises:
        TypeError: Its weights are in layers of another kind.
    """
    for name, module in block.named_modules():
        if type(module).__module__.startswith("peft."):
            raise TypeError(
                f"the layer {name.removesuffix('.base_layer')} has an adapter of peft; call "
                "merge_and_unload() on the model first, and save the result."
            )
        if type(module).__name__ == "Conv1D":
            raise TypeError(
                f"the layer {name} is a Conv1D, as in GPT-2, but only linear layers can be "
                "quantized; give a model such as LlamaForCausalLM."
            )
    found = {name: module for name, module in block.named_modules() if type(module) is nn.Linear}
    if not found:
        kinds = {type(one).__name__ for one in block.modules() if isinstance(one, nn.Linear)}
        raise TypeError(
            f"the blocks have layers of type {' and '.join(sorted(kinds))}, but only plain "
            "linear layers can be quantized; give a model such as LlamaForCausalLM."
            if kinds
            else "the blocks have no linear layers; give a model such as LlamaForCausalLM."
        )
    return found


@torch.no_grad()
def check_blocks(model: nn.Module) -> None:
    """See whether the blocks of a model have linear layers and can be taken one by one.

    Raises:
        TypeError: They cannot, or are not there.
    """
    blocks = decoder_blocks(model)
    for block in blocks.values():
        linear_layers(block)
    _keywords_of_blocks(model, blocks, torch.zeros(1, 2, dtype=torch.int64, device=model.device))


@torch.no_grad()
def first_inputs(model: nn.Module, input_ids: Tensor, *, batch_size: int = 4) -> BlockInputs:
    """What goes into the first block.

    Args:
        model: A causal language model in evaluation mode.
        input_ids: int64 (S, L).
        batch_size: Sequences that pass together; one, with a warning, where what blocks are given
            beside hidden states is for one.
    """
    blocks = decoder_blocks(model)
    first = next(iter(blocks.values()))
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def look(module, inputs, keywords):
        seen.append((inputs, keywords))
        raise _Stop

    rows = [row.to(model.device) for row in input_ids.split(1)]
    keywords = _keywords_of_blocks(model, blocks, rows[0])
    if batch_size > 1 and not _serve_batches(model, blocks, rows[0], keywords):
        logger.warning("%s takes one sequence at a time: batch_size is 1.", type(model).__name__)
        batch_size = 1
    handle = first.register_forward_pre_hook(look, with_kwargs=True)
    try:
        for row in rows:
            with suppress(_Stop):
                model(input_ids=row, use_cache=False)
    finally:
        handle.remove()
    hidden = torch.cat([_hidden(*one) for one in seen]).float()
    return BlockInputs(hidden, keywords, batch_size)


def _serve_batches(
    model: nn.Module,
    blocks: Mapping[str, nn.Module],
    row: Tensor,
    keywords: Sequence[Mapping[str, Any]],
) -> bool:
    """Whether what is given with one sequence can be given with several, unlike Bloom's alibi."""
    both = _keywords_of_blocks(model, blocks, row.expand(2, -1))
    pairs = zip(tree_leaves(keywords), tree_leaves(both), strict=True)
    return all(
        one.shape == two.shape or (one.shape[0] == 1 and one.shape[1:] == two.shape[1:])
        for one, two in pairs
        if isinstance(one, Tensor) and one.dim()
    )


def _keywords_of_blocks(
    model: nn.Module, blocks: Mapping[str, nn.Module], row: Tensor
) -> list[dict[str, Any]]:
    """What each block is given beside hidden states, floating point numbers in float32."""
    found: dict[str, dict[str, Any]] = {}
    # What several blocks are given is kept once; the originals are held, lest an id comes again.
    converted: dict[int, tuple[Any, Any]] = {}

    def in_float(value: Any) -> Any:
        if id(value) not in converted:
            converted[id(value)] = value, _in_float(value)
        return converted[id(value)][1]

    def look(name: str):
        def see(module, inputs, keywords):
            if len(inputs) > 1:
                raise TypeError(
                    f"{type(model).__name__} passes its blocks more than hidden states and "
                    "positions, so it cannot be processed block by block; give a model such "
                    "as LlamaForCausalLM."
                )
            kept = {key: value for key, value in keywords.items() if key != "hidden_states"}
            found[name] = tree_map(in_float, kept)
            if len(found) == len(blocks):
                raise _Stop  # the head would cost as much as many blocks

        return see

    # What the first block gives, as some families want more than hidden states of a block.
    given: list[Any] = []

    def unchanged(hidden_states: Tensor, **keywords: Any) -> Any:
        kind = given[0]
        return hidden_states if isinstance(kind, Tensor) else (hidden_states, *kind[1:])

    def keep(module, inputs, outputs):
        given.append(outputs)

    handles = []
    # Offloading sets it on the module itself.
    own = {
        name: block.__dict__["forward"]
        for name, block in blocks.items()
        if "forward" in block.__dict__
    }
    try:
        for name, block in blocks.items():
            handles.append(block.register_forward_pre_hook(look(name), with_kwargs=True))
            # Nothing else is computed: only what the model passes on is of interest.
            if len(handles) == 1:
                handles.append(block.register_forward_hook(keep))
            else:
                block.forward = unchanged
        with suppress(_Stop):
            model(input_ids=row, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
        for name, block in blocks.items():
            block.__dict__.pop("forward", None)
            if name in own:
                block.forward = own[name]
    return [found[name] for name in blocks]


def block_outputs(block: nn.Module, inputs: BlockInputs) -> Tensor:
    """Pass all sequences through a block, float32 (S, L, d)."""
    return torch.cat([pass_block(block, batch, inputs.keywords) for batch in inputs.batches()])


def pass_block(block: nn.Module, hidden: Tensor, keywords: Mapping[str, Any]) -> Tensor:
    """Pass hidden states through a block, (B, L, d).

    Args:
        block: In the precision of `hidden`.
        hidden: (B, L, d).
        keywords: Of `BlockInputs`.
    """
    outputs = block(hidden, **keywords)
    # Before transformers 5 it was the first of several.
    return outputs if isinstance(outputs, Tensor) else outputs[0]


class StepwisePass:
    """Sequences that pass through a block whose linear layers are changed one after another.

    Layers have to be changed in the order of `groups`, those of a group together. Of attention or
    a feed-forward part that ends in a linear layer, what goes into that layer is then kept, so that
    later passes call the layer alone, with the same result.

    Args:
        block: In float32; it stays in use until `outputs` was called.
        inputs: What goes into it.
        with_outputs: Whether `outputs` will be called.

    Attributes:
        groups: The linear layers as they are called, those that read the same together.

    Raises:
        ValueError: A layer is not called once in a pass, as in a mixture of experts.

    Example:
        >>> block = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
        >>> steps = StepwisePass(block, BlockInputs(torch.ones(1, 4, 3), [{}], 1))
        >>> steps.groups, next(steps.layer_inputs("2")).shape
        ([['0'], ['2']], torch.Size([1, 4, 2]))
    """

    def __init__(self, block: nn.Module, inputs: BlockInputs, *, with_outputs: bool = True) -> None:
        self._block, self._batches = block, inputs.batches()
        self._keywords, self._with_outputs = inputs.keywords, with_outputs
        self.groups, self._ends = _call_order(block, inputs)
        # Of each part that was passed, what goes into its last layer, of every batch.
        self._kept: dict[str, list[Tensor]] = {}

    def layer_inputs(self, name: str) -> Iterator[Tensor]:
        """What goes into a layer, of sequences that pass together, (B, L, m) each.

        What comes after the layer is not computed.
        """
        seen: list[Tensor] = []

        def look(module, values):
            seen.append(values[0])
            raise _Stop

        [group] = [together for together in self.groups if name in together]
        is_needed = self._with_outputs or group != self.groups[-1]
        ended = [end for end in self._ends.values() if end.layer in group and is_needed]
        kept: list[Tensor] = []
        # The pass stops where the first of a group is called.
        layer = self._block.get_submodule(group[0])
        for place in range(len(self._batches)):
            handle = layer.register_forward_pre_hook(look)
            try:
                self._passed(place)
            except _Stop:
                pass
            finally:
                handle.remove()
            if ended:
                kept.append(seen[0])
            yield seen.pop()
        self._kept |= {end.part: kept for end in ended}

    def outputs(self) -> Tensor:
        """What the block gives with its layers as they are now, float32 (S, L, d)."""
        return torch.cat([self._passed(place) for place in range(len(self._batches))])

    @torch.no_grad()
    def _passed(self, place: int) -> Tensor:
        known = {part: self._block.get_submodule(part) for part in self._kept}
        try:
            for part, module in known.items():
                module.forward = self._ends[part].forward(self._block, self._kept[part][place])
            return pass_block(self._block, self._batches[place], self._keywords)
        finally:
            for module in known.values():
                module.__dict__.pop("forward", None)


@dataclass(frozen=True)
class _End:
    """The last layer of a part of a block, whose outputs are those of the part.

    Args:
        part, layer: Names in the block.
        rest: What the part gives beside them; None where it gives nothing but a tensor.
    """

    part: str
    layer: str
    rest: tuple[None, ...] | None

    def forward(self, block: nn.Module, values: Tensor) -> Callable[..., Any]:
        """What stands for the forward of the part while `values` go into the layer."""

        def ended(*_: Any, **__: Any) -> Any:
            outputs = block.get_submodule(self.layer)(values)
            return outputs if self.rest is None else (outputs, *self.rest)

        return ended


@torch.no_grad()
def _call_order(block: nn.Module, inputs: BlockInputs) -> tuple[list[list[str]], dict[str, _End]]:
    """Linear layers as they are called, and of each part that ends in one the end, outermost first.

    One sequence is passed.
    """
    # Tensors are held, lest another takes the place of one.
    called: list[tuple[str, Tensor, int]] = []
    given: list[tuple[str, Tensor, int]] = []
    found: list[_End] = []
    layers = linear_layers(block)

    def enter(name: str):
        return lambda module, values: called.append((name, values[0], values[0]._version))

    def leave(name: str):
        def look(module, values, outputs):
            if name in layers:
                given.append((name, outputs, outputs._version))
                return
            first, rest = (outputs, None) if isinstance(outputs, Tensor) else _divided(outputs)
            # The version tells whether it was changed in place meanwhile.
            layer = next(
                (
                    one
                    for one, made, version in given
                    if made is first and first._version == version
                ),
                None,
            )
            if layer is not None and layer.startswith(f"{name}."):
                found.append(_End(name, layer, rest))

        return look

    handles = []
    for name, module in block.named_modules():
        if name in layers:
            handles.append(module.register_forward_pre_hook(enter(name)))
        # Offloading sets a forward of its own.
        if name and "forward" not in module.__dict__:
            handles.append(module.register_forward_hook(leave(name)))
    try:
        pass_block(block, inputs.hidden[:1], inputs.keywords)
    finally:
        for handle in handles:
            handle.remove()
    names = [name for name, _, _ in called]
    unlike = next((name for name in layers if names.count(name) != 1), None)
    if unlike is not None:
        raise ValueError(
            f"the layer {unlike} is called {names.count(unlike)} times per pass, as in a "
            "mixture of experts; such layers cannot be quantized one by one."
        )
    groups: dict[tuple[int, int], list[str]] = {}
    for name, values, version in called:
        groups.setdefault((id(values), version), []).append(name)

    def can_stand_alone(end: _End) -> bool:
        """Whether the part ends in the layer, and nothing else decides what goes into that."""
        [group] = [together for together in groups.values() if end.layer in together]
        before = names[names.index(group[0]) : names.index(end.layer)]
        within = [name for name in names if name.startswith(f"{end.part}.")]
        # Hooks on what goes into the layer would be called twice.
        has_hooks = bool(block.get_submodule(end.layer)._forward_pre_hooks)
        return within[-1] == end.layer and set(before) <= set(group) and not has_hooks

    found = [end for end in found if can_stand_alone(end)]
    # What a part within a part gives is not asked for.
    ends = {
        end.part: end
        for end in found
        if not any(end.part.startswith(f"{other.part}.") for other in found)
    }
    return list(groups.values()), ends


def _divided(outputs: Any) -> tuple[Any, tuple[None, ...]]:
    """The first of several outputs and the rest, (None, ()) where more of them says something."""
    if type(outputs) is tuple and outputs and all(one is None for one in outputs[1:]):
        return outputs[0], outputs[1:]
    return None, ()


@torch.no_grad()
def passed_with_inputs(
    block: nn.Module, inputs: BlockInputs, names: Sequence[str]
) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """Pass all sequences through a block, and keep what goes into some of its linear layers.

    Args:
        block: In float32.
        inputs: What goes into it.
        names: Of the layers, each of which is called once in a pass.

    Returns:
        What the block gives, (S, L, d); and name -> the inputs of sequences that pass together,
        (B, L, m) each.
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in names}

    def look(name: str):
        return lambda module, values: seen[name].append(values[0])

    handles = [block.get_submodule(name).register_forward_pre_hook(look(name)) for name in names]
    try:
        return block_outputs(block, inputs), seen
    finally:
        for handle in handles:
            handle.remove()


def in_full_precision(block: nn.Module) -> nn.Module:
    """A copy of a block in float32, to be worked on."""
    return copy.deepcopy(block).float()


def autocast(hidden: Tensor, dtype: torch.dtype) -> torch.autocast:
    """A context in which layers multiply in a dtype on the device of some hidden states."""
    is_shorter = dtype != torch.float32
    short = dtype if is_shorter else torch.bfloat16
    return torch.autocast(hidden.device.type, short, enabled=is_shorter)


def _hidden(inputs: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor:
    return inputs[0] if inputs else keywords["hidden_states"]


def _in_float(value: Any) -> Any:
    is_number = isinstance(value, Tensor) and value.is_floating_point()
    return value.float() if is_number else value
