"""What a run is going to do: epochs, stages, steps and batches, and the memory it takes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from salhub.runner.batches import Share, epoch_order, mixed_seed, step_batches

if TYPE_CHECKING:
    from accelerate import Accelerator

    from salhub.runner.recipe import Recipe, Stage, TrainingRecipe

_MIB = 2**20


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    Args:
        number: From 0.
        epoch: From 0.
        stage: Where its rows come from.
        rows: Their numbers, int64 (n,).
        ends_stage: True for the last step of a stage.
        ends_epoch: True for the last step of an epoch.
    """

    number: int
    epoch: int
    stage: "Stage"
    rows: Tensor
    ends_stage: bool
    ends_epoch: bool


def steps_of_epoch(recipe: "TrainingRecipe", epoch: int) -> int:
    """Optimizer steps of an epoch."""
    return sum(-(-stage.size // recipe.arguments.batch_size) for stage in recipe.stages(epoch))


def count_steps(recipe: "TrainingRecipe") -> int:
    """Optimizer steps of the whole run."""
    arguments = recipe.arguments
    total = sum(steps_of_epoch(recipe, epoch) for epoch in range(arguments.num_train_epochs))
    return total if arguments.max_train_steps is None else min(total, arguments.max_train_steps)


def steps_after(recipe: "TrainingRecipe", done: int) -> Iterator[Step]:
    """The steps of a run that has already taken some.

    Args:
        recipe: Says what the stages are.
        done: Steps taken.
    """
    arguments, number, total = recipe.arguments, 0, count_steps(recipe)
    for epoch in range(arguments.num_train_epochs):
        end = number + steps_of_epoch(recipe, epoch)
        if end <= done:
            number = end
            continue
        for place, stage in enumerate(recipe.stages(epoch)):
            order = epoch_order(stage.size, arguments.seed, epoch, place)
            parts = order.split(arguments.batch_size) if stage.size else ()
            for index, rows in enumerate(parts):
                if number >= total:
                    return
                number += 1
                if number > done:
                    is_last = index + 1 == len(parts)
                    yield Step(number - 1, epoch, stage, rows, is_last, number == end)


def describe_machine(
    recipe: "Recipe", model: nn.Module, accelerator: "Accelerator"
) -> dict[str, Any]:
    """What `--dry-run` prints of every recipe.

    Args:
        recipe: The run.
        model: Where it lies when the work begins.
        accelerator: Of the run.

    Returns:
        Name -> value: processes and device, and memory in MiB.
    """
    return {
        "recipe": f"{recipe.verb} {recipe.name}",
        "processes": accelerator.num_processes,
        "device": str(accelerator.device),
        "memory_mib": {"weights": _in_mib(_bytes_of(model.parameters()))},
    }


def describe_training(
    recipe: "TrainingRecipe", model: nn.Module, accelerator: "Accelerator"
) -> dict[str, Any]:
    """What `--dry-run` prints of a training.

    Args:
        recipe: The run.
        model: On its device.
        accelerator: Of the run.

    Returns:
        Name -> value: processes, batches, epochs, steps, and memory in MiB. One pass is made to
        see how much the activations take; it changes nothing.
    """
    arguments = recipe.arguments
    part = -(-arguments.batch_size // accelerator.num_processes)
    device_batch = min(arguments.per_device_batch_size or part, part)
    trainable = [p for p in model.parameters() if p.requires_grad]
    gradients = _bytes_of(trainable)
    memory = {
        "weights": _bytes_of(model.parameters()),
        "gradients": gradients,
        "optimizer": _state_copies(recipe.build_optimizer(model)) * gradients,
        "activations_of_a_pass": _activation_bytes(recipe, model, accelerator),
    }
    memory["sum"] = sum(memory.values())
    return {
        **describe_machine(recipe, model, accelerator),
        "mixed_precision": accelerator.mixed_precision,
        "batch_size": arguments.batch_size,
        "rows_of_a_pass": device_batch,
        "passes_of_a_step": -(-part // device_batch),
        "stages": {stage.name: stage.size for stage in recipe.stages(0)},
        "epochs": arguments.num_train_epochs,
        "steps": count_steps(recipe),
        "trainable_parameters": sum(p.numel() for p in trainable),
        "memory_mib": {name: _in_mib(count) for name, count in memory.items()},
    }


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _in_mib(count: int) -> float:
    return round(count / _MIB, 1)


def _state_copies(optimizer: torch.optim.Optimizer) -> int:
    """Numbers that an optimizer keeps for every weight."""
    if "betas" in optimizer.defaults:
        return 2
    return int(bool(optimizer.defaults.get("momentum")))


def _activation_bytes(
    recipe: "TrainingRecipe", model: nn.Module, accelerator: "Accelerator"
) -> int:
    """Bytes that one pass keeps for its backward pass, the weights not counted."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    arguments, share = recipe.arguments, share_of(accelerator)
    step = next(steps_after(recipe, 0), None)
    if step is None:
        return 0
    batch = next(
        step_batches(
            step.rows,
            seed=arguments.seed,
            step=0,
            epoch=0,
            share=share,
            largest=arguments.per_device_batch_size,
        )
    )
    buffers = [buffer.clone() for buffer in model.buffers()]
    torch.manual_seed(mixed_seed(arguments.seed, 0, share.index))
    with accelerator.autocast(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        recipe.loss(model, to_device(step.stage.fetch(batch), accelerator), batch)
    for buffer, before in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(before)
    return sum(kept.values())


def share_of(accelerator: "Accelerator") -> Share:
    """The part of this process."""
    return Share(accelerator.process_index, accelerator.num_processes)


def to_device(inputs, accelerator: "Accelerator") -> dict[str, Tensor]:
    """What a stage fetched, where the model is."""
    return {
        name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in inputs.items()
    }
