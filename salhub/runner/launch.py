"""Starting a run on several processes of this machine, by torchrun."""

import logging
import os
import sys
import tempfile
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from salhub.runner.processes import EXPECTED_PROCESSES

# Set for the processes that are started here: the command as it was typed, for their results, and
# the folder where each writes the sentence that it ended with.
COMMAND = "SALHUB_COMMAND"
ERRORS = "SALHUB_ERRORS"
_MODULE = "salhub.runner"
# Where torchrun tells that a process has failed, which says nothing that a person can use.
_TALK = "torch.distributed.elastic"


def launch(
    words: Sequence[str],
    processes: int,
    *,
    cpu: bool = False,
    quiet: bool = False,
    command: str = "",
) -> int:
    """Run `python -m salhub.runner WORDS` on several processes that work together.

    torchrun starts them, on CPUs as on GPUs; `accelerate launch --cpu` would start some that do not
    know of each other. When one fails the others are ended, and what it said is the last line on
    standard error.

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
    environment = {EXPECTED_PROCESSES: str(processes), COMMAND: command}
    if cpu or not torch.cuda.is_available():
        environment["ACCELERATE_USE_CPU"] = "true"
        threads = max(1, (os.cpu_count() or 1) // processes)
        environment.setdefault("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", str(threads)))
    elif processes > torch.cuda.device_count():
        raise ValueError(
            f"nproc is {processes}, but there are {torch.cuda.device_count()} GPUs; give at most "
            "that many, or cpu=true."
        )
    with tempfile.TemporaryDirectory(prefix="salhub-") as folder:
        errors = Path(folder) / "errors"
        errors.mkdir()
        with _environment({**environment, ERRORS: str(errors)}):
            code = _torchrun(words, processes, Path(folder) / "logs" if quiet else None)
        if code:
            sys.stderr.write(f"Error: {_first_error(errors, code)}\n")
    return code


def _torchrun(words: Sequence[str], processes: int, logs: Path | None) -> int:
    """The code of the first process that fails, or 0; `logs` takes what they print."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    redirects = Std.NONE if logs is None else Std.OUT
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        # What `torchrun --standalone` sets.
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=logs and str(logs), redirects=redirects),
    )
    before = logging.getLogger(_TALK).level
    logging.getLogger(_TALK).setLevel(logging.CRITICAL)
    try:
        elastic_launch(config, sys.executable)("-m", _MODULE, *words)
    except ChildFailedError as error:
        return next(iter(error.failures.values())).exitcode
    finally:
        logging.getLogger(_TALK).setLevel(before)
    return 0


@contextmanager
def _environment(changes: Mapping[str, str]) -> Generator[None]:
    """Environment variables for the processes that are started inside."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def record_error(sentence: str) -> bool:
    """Leave the sentence that this process ends with to whoever started it.

    Returns:
        Whether anybody did; otherwise it is still to be said.
    """
    folder = os.environ.get(ERRORS)
    if folder is not None:
        (Path(folder) / os.environ["RANK"]).write_text(sentence, encoding="utf-8")
    return folder is not None


def _first_error(folder: Path, code: int) -> str:
    # The others may only have lost the one that failed first.
    found = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    if found:
        return found[0].read_text(encoding="utf-8")
    return f"a process of the run ended with code {code} and no message."
