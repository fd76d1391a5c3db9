"""How much the loss of a language model depends on each of its weights: squared gradients."""

import itertools
from collections.abc import Generator, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from tqdm.auto import tqdm

from salhub.ops.tensor_files import write_tensors
from salhub.quantization.decoder_blocks import (
    BlockInputs,
    autocast,
    block_outputs,
    decoder_blocks,
    first_inputs,
    in_full_precision,
    linear_layers,
    pass_block,
)

# Beside the layers of a block: what the blocks before it are still to be estimated by.
_GRADIENT = "gradient"


def estimate_saliency(
    model: nn.Module,
    input_ids: Tensor,
    *,
    batch_size: int = 4,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """How much the loss depends on each weight of the linear layers in the blocks.

    That is the sum over the windows of the squared gradient of the mean loss of a window, the
    diagonal of the empirical Fisher information.

    Args:
        model: A causal language model in evaluation mode.
        input_ids: Windows of text, int64 (S, L).
        batch_size: Windows that pass together; the result does not depend on it.
        dtype: In which layers multiply; torch.bfloat16 is faster on many machines.

    Returns:
        Name of a layer -> float32 (n, m), never below 0.

    Example:
        >>> saliency = estimate_saliency(model, windows)  # doctest: +SKIP
        >>> save_saliency(saliency, "saliency.safetensors")  # doctest: +SKIP

    Source: Kim et al. 2024 (arXiv 2306.07629), with a window as a sample; Cao and Aref 2025 (arXiv
        2504.13932) weigh errors by it.
    """
    found: dict[str, Tensor] = {}
    blocks = saliency_of_blocks(model, input_ids, batch_size=batch_size, dtype=dtype)
    for name, layers, _ in blocks:
        found = {f"{name}.{layer}": values for layer, values in layers.items()} | found
    return found


def saliency_of_blocks(
    model: nn.Module,
    input_ids: Tensor,
    *,
    batch_size: int,
    dtype: torch.dtype,
    kept: MutableMapping[int, Tensor] | None = None,
    last: tuple[int, Tensor] | None = None,
) -> Iterator[tuple[str, dict[str, Tensor], Tensor]]:
    """The same block by block, from the last to the first; one is in float32 at a time.

    Args:
        model, input_ids, batch_size, dtype: As of `estimate_saliency`.
        kept: Where the inputs of all blocks are kept meanwhile; in memory by default.
        last: The block to go on before, counted from 0, and the gradient that it gave.

    Yields:
        The name of a block; layer in it -> saliency; and the gradient of its inputs, (S, L, d).
    """
    kept = {} if kept is None else kept
    blocks = list(decoder_blocks(model).items())
    count = len(blocks) if last is None else last[0]
    inputs = first_inputs(model, input_ids, batch_size=batch_size)
    # What blocks give beside hidden states, in families whose models take no less of them.
    rest: tuple[Any, ...] | None = None

    def look(module: nn.Module, given: Any, made: Any) -> None:
        nonlocal rest
        rest = None if isinstance(made, Tensor) else tuple(made[1:])

    bar = tqdm(total=2 * count, desc="saliency", unit="block", leave=False)
    for place, (_, block) in enumerate(blocks[:count]):
        kept[place] = inputs.hidden
        if place + 1 < count or last is None:
            with torch.no_grad():
                working = in_full_precision(block)
                working.register_forward_hook(look)
                inputs.move_on(block_outputs(working, inputs))
        bar.update()
    gradient = (
        _loss_gradient(model, inputs.hidden, input_ids, dtype, rest) if last is None else last[1]
    )
    for place, (name, block) in reversed([*enumerate(blocks[:count])]):
        inputs.hidden, inputs.place = kept.pop(place), place
        found, gradient = _through_block(block, inputs, gradient, dtype)
        bar.update()
        yield name, found, gradient
    bar.close()


def _through_block(
    block: nn.Module, inputs: BlockInputs, gradient: Tensor, dtype: torch.dtype
) -> tuple[dict[str, Tensor], Tensor]:
    """The saliency of the layers of a block, and the gradient of its inputs."""
    with torch.no_grad():
        working = in_full_precision(block).requires_grad_(False)
    layers = linear_layers(working)
    found = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    gradients = []
    with _squares_added(layers, found):
        for hidden, outer in zip(inputs.batches(), gradient.split(inputs.batch_size), strict=True):
            hidden = hidden.detach().requires_grad_()
            with torch.enable_grad(), autocast(hidden, dtype):
                outputs = pass_block(working, hidden, inputs.keywords)
            outputs.backward(outer.to(outputs.dtype))
            gradients.append(hidden.grad)
    return found, torch.cat(gradients)


@contextmanager
def _squares_added(layers: Mapping[str, nn.Linear], found: Mapping[str, Tensor]) -> Generator[None]:
    """Add the squares of the gradient of every window, without making that of the sum of them."""

    def hook(squares: Tensor, module: nn.Module, inputs: Any, outputs: Tensor) -> None:
        rows = inputs[0].detach()

        def add(outer: Tensor) -> None:
            for one, other in zip(outer, rows, strict=True):
                window = (one.T @ other.to(one.dtype)).float()
                squares.addcmul_(window, window)

        outputs.register_hook(add)

    handles = [
        layer.register_forward_hook(lambda *call, squares=found[name]: hook(squares, *call))
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _loss_gradient(
    model: nn.Module,
    hidden: Tensor,
    input_ids: Tensor,
    dtype: torch.dtype,
    rest: tuple[Any, ...] | None,
) -> Tensor:
    """The gradient of the mean loss of each window by what the last block gives, (S, L, d)."""
    blocks = list(decoder_blocks(model).values())
    inside = {id(one) for block in blocks for one in block.parameters()}
    # The norm and the head, in float32 as well.
    outside = {
        name: one.detach().float()
        for name, one in model.named_parameters()
        if id(one) not in inside
    }
    gradients = []
    for row, tokens in zip(hidden.split(1), input_ids.to(hidden.device).split(1), strict=True):
        row = row.detach().requires_grad_()
        given = row if rest is None else (row, *rest)
        with torch.enable_grad(), _blocks_giving(blocks, given):
            settings = {"input_ids": tokens, "use_cache": False}
            with autocast(row, dtype):
                logits = functional_call(model, outside, (), settings).logits
            functional.cross_entropy(logits[0, :-1].float(), tokens[0, 1:]).backward()
        gradients.append(row.grad)
    return torch.cat(gradients)


@contextmanager
def _blocks_giving(blocks: list[nn.Module], outputs: Any) -> Generator[None]:
    """Do no work in the blocks, and let the last one give some outputs."""
    # Of blocks that accelerate moves between devices.
    before = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        vars(block)["forward"] = lambda *_, **__: outputs
    try:
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            del vars(block)["forward"]
            if forward is not None:
                vars(block)["forward"] = forward


def check_saliency(saliency: Mapping[str, Tensor], layers: Mapping[str, nn.Linear]) -> None:
    """Refuse a saliency that does not belong to some layers.

    Args:
        saliency: Name of a layer -> (n, m).
        layers: The layers by their names.

    Raises:
        ValueError: One is missing, of another shape, negative, not finite, or 0 all over.
    """
    missing = [name for name in layers if name not in saliency]
    if missing:
        raise ValueError(
            f"The saliency has no {missing[0]} and lacks {len(missing)} of {len(layers)} "
            "layers; estimate it on this model."
        )
    for name, layer in layers.items():
        values = saliency[name]
        if values.shape != layer.weight.shape:
            raise ValueError(
                f"The saliency of {name} has the shape {tuple(values.shape)}, but its weight "
                f"has {tuple(layer.weight.shape)}; estimate it on this model."
            )
        fault = (
            "is not finite" if not values.isfinite().all()
            else "has negative values" if (values < 0).any()
            else "is 0 everywhere" if not values.any()
            else None
        )  # fmt: skip
        if fault:
            raise ValueError(f"The saliency of {name} {fault}; it must be squared gradients.")


def save_saliency(saliency: Mapping[str, Tensor], path: str | Path) -> Path:
    """Write a saliency to a safetensors file, which `load_saliency` reads."""
    return write_tensors({name: one.contiguous() for name, one in saliency.items()}, Path(path))


class SaliencyFile(Mapping[str, Tensor]):
    """A saliency in a file, of which a layer is read when it is asked for.

    Args:
        path: Of `save_saliency`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no safetensors file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"The saliency file {path} does not exist.")
        try:
            with safe_open(self.path, framework="pt") as file:
                self._names = list(file.keys())
        except Exception as error:
            raise ValueError(f"{self.path.name} is not a safetensors file: {error}") from None

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(name).float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class SaliencyFolder(Mapping[str, Tensor]):
    """A saliency that is estimated into a folder, a file a block; one in memory at a time.

    Args:
        folder: Made when it is not there; what it holds already is not estimated again.
        model: As of `estimate_saliency`.
    """

    def __init__(self, folder: Path, model: nn.Module) -> None:
        self.folder = folder
        self._blocks = list(decoder_blocks(model))
        self._names = [
            f"{name}.{layer}"
            for name, block in decoder_blocks(model).items()
            for layer in linear_layers(block)
        ]

    def fill(
        self,
        model: nn.Module,
        input_ids: Tensor,
        *,
        batch_size: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Estimate what is not there yet; the arguments are those of `estimate_saliency`."""
        count = len(self._blocks)
        there = itertools.takewhile(
            lambda place: self._path(place).is_file(), range(count - 1, -1, -1)
        )
        first = min(there, default=count)
        if first == 0:
            return
        last = None if first == count else (first, _read(self._path(first), _GRADIENT))
        estimated = saliency_of_blocks(
            model,
            input_ids,
            batch_size=batch_size,
            dtype=dtype,
            kept=_OnDisk(self.folder),
            last=last,
        )
        for place, (_, layers, gradient) in zip(range(first - 1, -1, -1), estimated, strict=True):
            write_tensors({**layers, _GRADIENT: gradient}, self._path(place))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        place, block = next(
            (place, block)
            for place, block in enumerate(self._blocks)
            if name.startswith(f"{block}.")
        )
        return _read(self._path(place), name.removeprefix(f"{block}."))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _path(self, place: int) -> Path:
        return self.folder / f"block-{place:04}.safetensors"


class _OnDisk(MutableMapping[int, Tensor]):
    """Tensors by number, each in a file of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, place: int) -> Path:
        return self.folder / f"inputs-{place:04}.safetensors"

    def __getitem__(self, place: int) -> Tensor:
        return _read(self._path(place), "inputs")

    def __setitem__(self, place: int, values: Tensor) -> None:
        write_tensors({"inputs": values.contiguous()}, self._path(place))

    def __delitem__(self, place: int) -> None:
        self._path(place).unlink()

    def __iter__(self) -> Iterator[int]:
        found = self.folder.glob("inputs-*.safetensors")
        return iter(sorted(int(path.stem.rpartition("-")[2]) for path in found))

    def __len__(self) -> int:
        return len([*self])


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)
