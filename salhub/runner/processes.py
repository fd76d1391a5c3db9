"""The processes of a run: that they work together, and hold one model."""

import os
import sys

import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from torch import nn

# Set by whoever starts several processes, so that a run alone instead of together is noticed.
EXPECTED_PROCESSES = "SALHUB_EXPECTED_PROCESSES"
_IN_PIECES = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
_YES = ("1", "true", "yes", "on", "y", "t")


def check_whole_weights() -> None:
    """Refuse an environment that asks Accelerate to split the weights; on a CPU it would not.

    Raises:
        RuntimeError: Naming what was asked for.
    """
    for kind in _IN_PIECES:
        if os.environ.get(f"ACCELERATE_USE_{kind.value}", "").lower() in _YES:
            raise RuntimeError(_in_pieces(kind))


def check_processes(accelerator: Accelerator) -> None:
    """Notice when every process believes that it is alone, or weights that are in pieces.

    Raises:
        RuntimeError: Another number of processes than was asked for, or split weights.
    """
    if accelerator.distributed_type in _IN_PIECES:
        raise RuntimeError(_in_pieces(accelerator.distributed_type))
    count, wanted = accelerator.num_processes, os.environ.get(EXPECTED_PROCESSES)
    if wanted is not None and int(wanted) != count:
        raise RuntimeError(
            f"{wanted} processes were requested, but only {count} work together; start them "
            "with --nproc of salhub, with torchrun, or on GPUs with accelerate launch."
        )
    if count > 1 and accelerator.is_main_process:
        sys.stderr.write(f"{count} processes on {accelerator.device.type}\n")


def check_settled(precision: str) -> None:
    """Refuse a precision other than that of an `Accelerator` that somebody has made before.

    Raises:
        ValueError: There is one, and precision is settled once for a process.
    """
    settled = AcceleratorState._shared_state.get("_mixed_precision", precision)
    if settled != precision:
        raise ValueError(
            f"mixed_precision={precision} is not possible here, because this process already "
            f"has an Accelerator with mixed_precision={settled}; start the run in its own "
            "process."
        )


def check_precision(precision: str, accelerator: Accelerator) -> None:
    """Refuse a precision that a device computes without a word in another one.

    Raises:
        ValueError: Half precision on a CPU.
    """
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError(
            "mixed_precision=fp16 needs a GPU, but this run is on the CPU, which would "
            "compute in float32; use mixed_precision=bf16, or leave it out."
        )


@torch.no_grad()
def copy_from_main(model: nn.Module, accelerator: Accelerator) -> None:
    """Give every process the weights and buffers of the main one, which are those to be saved.

    Batch normalisation has seen other rows on every process.
    """
    if accelerator.num_processes == 1:
        return
    for tensor in (*model.parameters(), *model.buffers()):
        # As bytes, since not every backend knows every type.
        content = tensor.detach().to(accelerator.device).contiguous().view(-1).view(torch.uint8)
        shared = broadcast(content).view(tensor.dtype).view(tensor.shape)
        tensor.copy_(shared)


def _in_pieces(kind: DistributedType) -> str:
    return (
        f"Accelerate is configured for {kind.value}, which splits the weights over "
        "processes, but recipes need all weights in every process; configure several GPUs "
        "without it (accelerate launch --multi_gpu), or start with --nproc."
    )
