"""Starting a run on several processes of this machine."""

import os
import subprocess
import sys
from collections.abc import Sequence

import torch

from salhub.runner.loop import EXPECTED_PROCESSES

_MODULE = "salhub.runner"


def launch(words: Sequence[str], processes: int, *, cpu: bool = False, quiet: bool = False) -> int:
    """Run `python -m salhub.runner WORDS` on several processes that work together.

    On a CPU that is torchrun: `accelerate launch --cpu` starts one process, or several that do not
    know of each other. On GPUs it is `accelerate launch`.

    Args:
        words: The command, such as ["train", "NAME", "output_dir=out"].
        processes: How many.
        cpu: Use the CPU even where there are GPUs.
        quiet: Let the run print nothing to standard output.

    Returns:
        The exit code of the run.

    Raises:
        ValueError: Fewer than one process, or more than there are GPUs.
    """
    if processes < 1:
        raise ValueError(f"nproc must be 1 or more, got {processes}.")
    environment = {**os.environ, EXPECTED_PROCESSES: str(processes)}
    if cpu or not torch.cuda.is_available():
        environment["ACCELERATE_USE_CPU"] = "true"
        threads = max(1, (os.cpu_count() or 1) // processes)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        command = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    else:
        if processes > torch.cuda.device_count():
            raise ValueError(
                f"nproc is {processes}, but there are {torch.cuda.device_count()} GPUs; give at "
                "most that many, or cpu=true."
            )
        command = ["accelerate.commands.launch", f"--num_processes={processes}", "-m"]
        command[1:1] = ["--multi_gpu"] if processes > 1 else []
    return subprocess.run(
        [sys.executable, "-m", *command, _MODULE, *words],
        env=environment,
        stdout=subprocess.DEVNULL if quiet else None,
        check=False,
    ).returncode
