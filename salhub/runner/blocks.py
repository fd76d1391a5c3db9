"""One block after another: each is compressed once and saved, or taken as it was saved."""

import hashlib
import itertools
import json
import logging
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm.auto import tqdm

from salhub.ops.tensor_files import write_tensors
from salhub.runner.batches import mixed_seed

if TYPE_CHECKING:
    from accelerate import Accelerator

    from salhub.runner.recipe import BlockRecipe
    from salhub.runner.run import Run

logger = logging.getLogger(__name__)


@dataclass
class CompressedBlock:
    """What is left of a block.

    Args:
        tensors: Everything that its place in the model needs, by names of the recipe's own.
        measures: Finite numbers for the log, such as its error.
    """

    tensors: dict[str, Tensor]
    measures: dict[str, float] = field(default_factory=dict)


def compress_blocks(recipe: "BlockRecipe", run: "Run") -> None:
    """Compress the blocks of a recipe, those that the folder of the run holds left out."""
    accelerator, names = run.accelerator, list(recipe.block_names(run.model))
    # The main one decides before any block is written, as a slow process would find more of them.
    [whole] = broadcast_object_list([_count_whole(run.folder, names, accelerator)])
    seconds = 0.0
    logged = run.log.begin_after(whole) or 0
    for index, name in enumerate(
        tqdm(
            names,
            desc=f"{recipe.verb} {recipe.name}",
            unit="block",
            disable=not accelerator.is_local_main_process,
        )
    ):
        path = block_path(run.folder, index)
        if index >= whole:
            began = time.perf_counter()
            torch.manual_seed(mixed_seed(recipe.arguments.seed, index))
            block = recipe.compress_block(run.model, name)
            _check_finite(block, name, run)
            if accelerator.is_main_process:
                _write(path, name, block, time.perf_counter() - began)
            accelerator.wait_for_everyone()
        saved = _read(path, name)
        if saved is None:
            raise OSError(f"{path} differs from what was just saved there; check the disk.")
        block, spent = saved
        seconds += spent
        if index < whole:
            run.earlier_seconds += spent
        torch.manual_seed(mixed_seed(recipe.arguments.seed, index, 1))
        recipe.take_block(run.model, name, block)
        if index + 1 > logged:
            accelerator.log({"block": name, **block.measures}, step=index + 1)
        run.remove_when_finished(path)
    run.results.add_metric("seconds/blocks", seconds, n=len(names), unit="s")


def _count_whole(folder: Path, names: list[str], accelerator: "Accelerator") -> int:
    """How many blocks are there as they were written, up to the first one that is not.

    Those behind it may have been compressed after another one than it will be.
    """
    if not accelerator.is_main_process:
        return 0
    paths = [block_path(folder, index) for index in range(len(names))]
    is_whole = (_read(path, name) is not None for path, name in zip(paths, names, strict=True))
    return sum(itertools.takewhile(bool, is_whole))


def block_path(folder: Path, index: int) -> Path:
    """Where a compressed block lies, counted from 0."""
    return folder / f"block-{index:04}.safetensors"


def remove_blocks(folder: Path) -> None:
    """Remove all compressed blocks of a folder."""
    for path in folder.glob("block-[0-9]*.safetensors"):
        path.unlink()


def _write(path: Path, name: str, block: CompressedBlock, seconds: float) -> None:
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in block.tensors.items()}
    record = {
        "name": name,
        "measures": json.dumps(block.measures),
        "seconds": str(seconds),
        "sha256": _digest(tensors),
    }
    write_tensors(tensors, path, record)


def _read(path: Path, name: str) -> tuple[CompressedBlock, float] | None:
    """A block and the seconds that it took, or None where it is not there as it was written."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            record = file.metadata()
            # Copies: one tensor that is kept would hold the whole file in memory.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        if record["name"] == name and record["sha256"] == _digest(tensors):
            measures = json.loads(record["measures"])
            return CompressedBlock(tensors, measures), float(record["seconds"])
    except (SafetensorError, KeyError, TypeError, ValueError):
        pass
    logger.warning("%s is damaged; its block and the following ones are compressed again.", path)
    return None


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _check_finite(block: CompressedBlock, name: str, run: "Run") -> None:
    for measure, value in block.measures.items():
        if not math.isfinite(value):
            run.fail(f"the {measure} of the block {name} is {value}; check the calibration data.")
