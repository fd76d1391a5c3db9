"""Processes that need not import everything again: a machine with settings of its own.

torch, transformers and the Hub's client take seconds to import, and read their settings while
they are imported. A `Machine` imports them once for some settings; every program that it runs is a
fork of it, so that programs share nothing but what was imported.
"""

import atexit
import contextlib
import json
import logging
import os
import select
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tests import budget

_ROOT = Path(__file__).parent.parent
# What no setting of a machine changes.
_SAME_FOR_ALL = ("numpy", "scipy.stats", "torch", "PIL.Image", "yaml", "typer.testing")
_PRELOADED = (
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.image_processing_auto",
    "transformers.pipelines",
    "salhub.cli",
    "salhub.pipelines",
    "salhub.publishing",
)


@dataclass
class Finished:
    """What a program left: its exit code and all it wrote."""

    returncode: int
    stdout: str
    stderr: str


class Machine:
    """Runs Python programs, one at a time.

    Args:
        environment: Environment variables while libraries are imported.
        packages: Folders to import from, first.
        preload: Whether transformers and salhub are imported already, beside torch and the like.
    """

    def __init__(
        self, environment: Mapping[str, str], packages: Iterable[Path] = (), preload: bool = True
    ) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(_server())
        self._lines = self._socket.makefile("rw", encoding="utf-8")
        folders = [*map(str, packages), str(_ROOT)]
        modules = _PRELOADED if preload else ()
        self._ask({"environment": dict(environment), "packages": folders, "modules": modules})

    def run(
        self, code: str, *, folder: Path, environment: Mapping[str, str], timeout: float = 600
    ) -> Finished:
        """Run a program and wait for its end.

        Args:
            code: Its text.
            folder: Where it runs.
            environment: All its environment variables.
            timeout: Seconds that it may take.
        """
        self._socket.settimeout(timeout)
        with tempfile.TemporaryDirectory() as scratch:
            outputs = {name: str(Path(scratch, name)) for name in ("stdout", "stderr")}
            answer = self._ask(
                {"code": code, "folder": str(folder), "environment": dict(environment), **outputs}
            )
            budget.charge(answer["seconds"])
            texts = {name: Path(path).read_text("utf-8") for name, path in outputs.items()}
        return Finished(answer["returncode"], **texts)

    def close(self) -> None:
        """Let it go."""
        self._lines.close()
        self._socket.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        print(json.dumps(question), file=self._lines, flush=True)
        line = self._lines.readline()
        if not line:
            raise RuntimeError("The machine is gone; what it said is above.")
        return json.loads(line)


# --- the other side -------------------------------------------------------------------------------


def _server() -> str:
    """Address of the process that all machines are forks of; started when first asked for."""
    if not _started:
        address = str(Path(tempfile.mkdtemp()) / "socket")
        code = f"from tests.machine import serve; serve({address!r})"
        environment = {"PATH": os.environ.get("PATH", ""), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=_ROOT,
            env={**environment, "PYTHONPATH": str(_ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(process.terminate)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        _started.append(address)
    return _started[0]


_started: list[str] = []


def serve(address: str) -> None:
    """Fork a machine for everybody who calls."""
    for name in _SAME_FOR_ALL:
        __import__(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    print("ready", flush=True)
    # Its end of the pipe closes with whoever started this process, however that ends.
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            with connection, connection.makefile("rw", encoding="utf-8") as lines:
                _be_a_machine(lines)
            os._exit(0)
        connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _be_a_machine(lines: Any) -> None:
    wanted = json.loads(lines.readline())
    os.environ.clear()
    os.environ.update(wanted["environment"])
    # These belong to the checkout; a machine may have others of its own.
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    sys.path[:] = [*wanted["packages"], *(path for path in sys.path if path != str(_ROOT))]
    for name in wanted["modules"]:
        __import__(name)
    print("{}", file=lines, flush=True)
    for line in lines:
        program = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(program)
        _, status, usage = os.wait4(child, 0)
        seconds = usage.ru_utime + usage.ru_stime
        answer = {"returncode": os.waitstatus_to_exitcode(status), "seconds": seconds}
        print(json.dumps(answer), file=lines, flush=True)


def _become(program: dict[str, Any]) -> None:
    code = 1
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = os.open(program[name], os.O_WRONLY | os.O_CREAT)
            os.dup2(file, number)
        os.chdir(program["folder"])
        os.environ.clear()
        os.environ.update(program["environment"])
        main = ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(program["code"], "<program>", "exec"), vars(main))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
