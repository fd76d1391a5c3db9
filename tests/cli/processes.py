"""Commands in several real processes that know each other as torchrun lets them."""

import os
from pathlib import Path
from typing import NamedTuple

from tests.machine import Machine

_DIGITS = 5  # of a port
# The toy task is known to the children, which are forks.
_PROGRAM = """
import os, sys
from salhub.cli import app
from salhub.entries import MODELS
from tests.cli.conftest import LETTERS

MODELS["letters"] = LETTERS
children, (told, tell) = [], os.pipe()
for rank in range({count}):
    child = os.fork()
    if child == 0:
        os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
        os.environ["MASTER_PORT"] = os.read(told, {digits}).decode()
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{{rank}}.{{name}}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        code = 1
        try:
            app({words!r}, prog_name="salhub")
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    children.append(child)
# As torchrun does: here they meet, at a port that nobody else can take meanwhile.
from torch.distributed import TCPStore
store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
os.write(tell, {count} * f"{{store.port:0{digits}}}".encode())
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(*codes)
"""


class Said(NamedTuple):
    """What the processes ended with and wrote, in their order."""

    codes: list[int]
    stdout: list[str]
    stderr: list[str]


def run_together(machine: Machine, folder: Path, words: list[str], count: int = 2) -> Said:
    """Run a command of salhub in processes that work together, in a folder."""
    launched = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "localhost",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    finished = machine.run(
        _PROGRAM.format(count=count, digits=_DIGITS, words=[str(word) for word in words]),
        folder=folder,
        environment={**os.environ, **launched, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr
    texts = [
        [(folder / f"{rank}.{name}").read_text() for rank in range(count)]
        for name in ("out", "err")
    ]
    return Said([int(code) for code in finished.stdout.split()], *texts)
