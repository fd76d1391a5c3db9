"""Starting a run on several processes of this machine."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from salhub.runner.processes import EXPECTED_PROCESSES

# Set for the processes that are started here: the command as it was typed, for their results, and
# the folder where each writes the sentence that it ended with.
COMMAND = "SALHUB_COMMAND"
ERRORS = "SALHUB_ERRORS"
_MODULE = "salhub.runner"
_PAUSE = 0.1  # seconds
# How long the others may take to end by themselves when one has failed, in seconds.
_GRACE = 10.0


def launch(
    words: Sequence[str],
    processes: int,
    *,
    cpu: bool = False,
    quiet: bool = False,
    command: str = "",
) -> int:
    """Run `python -m salhub.runner WORDS` on several processes that work together.

    They find each other as those of torchrun do, and the first one speaks for all. When one fails
    the others are ended, and what it said is the last line on standard error.

    Args:
        words: The command, such as ["train", "NAME", "output_dir=out"].
        processes: How many.
        cpu: Use the CPU even where there are GPUs.
        quiet: Let the run print nothing to standard output.
        command: What the results name as the command that repeats it; that of `words` by default.

    Returns:
        The exit code of the run.

    Raises:
        ValueError: Fewer than one process, or more than there are GPUs.
    """
    if processes < 1:
        raise ValueError(f"nproc must be 1 or more, got {processes}.")
    environment = {**os.environ, EXPECTED_PROCESSES: str(processes), COMMAND: command}
    if cpu or not torch.cuda.is_available():
        environment["ACCELERATE_USE_CPU"] = "true"
        threads = max(1, (os.cpu_count() or 1) // processes)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    elif processes > torch.cuda.device_count():
        raise ValueError(
            f"nproc is {processes}, but there are {torch.cuda.device_count()} GPUs; give at most "
            "that many, or cpu=true."
        )
    with tempfile.TemporaryDirectory(prefix="salhub-") as errors:
        environment |= _meeting_place(processes) | {ERRORS: errors}
        children = [_start(words, environment, rank, quiet) for rank in range(processes)]
        try:
            code = _wait_for(children)
        finally:
            _end(children)
        if code:
            sys.stderr.write(f"Error: {_first_error(Path(errors), code)}\n")
    return code


def record_error(sentence: str) -> bool:
    """Leave the sentence that this process ends with to whoever started it.

    Returns:
        Whether anybody did; otherwise it is still to be said.
    """
    folder = os.environ.get(ERRORS)
    if folder is not None:
        (Path(folder) / os.environ["RANK"]).write_text(sentence, encoding="utf-8")
    return folder is not None


def _meeting_place(processes: int) -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }


def _start(
    words: Sequence[str], environment: dict[str, str], rank: int, quiet: bool
) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", _MODULE, *words],
        env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        stdout=subprocess.DEVNULL if quiet or rank else None,
        stderr=subprocess.DEVNULL if rank else None,
    )


def _wait_for(children: Sequence[subprocess.Popen]) -> int:
    """The exit code of the first one that fails, or 0 when all have ended well."""
    while True:
        codes = [child.poll() for child in children]
        failed = next((code for code in codes if code), None)
        if failed is not None or None not in codes:
            return failed or 0
        time.sleep(_PAUSE)


def _end(children: Sequence[subprocess.Popen]) -> None:
    """End those that still run, which may be waiting for one that has failed."""
    limit = time.monotonic() + _GRACE
    while any(child.poll() is None for child in children) and time.monotonic() < limit:
        time.sleep(_PAUSE)
    for child in children:
        child.kill()
        child.wait()


def _first_error(folder: Path, code: int) -> str:
    # The others may only have lost the one that failed first.
    found = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    if found:
        return found[0].read_text(encoding="utf-8")
    return f"a process of the run ended with code {code} and said nothing."
