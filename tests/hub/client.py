"""Runs code with the real `huggingface_hub` client, pointed at a loopback Hub.

The client reads its settings when it is imported, so the code runs in a process of its own:
`HubClient.run` takes source text, `HubClient.call` a function of a test module. Processes with the
same settings are forks of one that has imported everything already.
"""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.machine import Finished, Machine

from .server import OWNER_TOKEN, HubServer

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]
CLOSED_PORT = "http://127.0.0.1:9"
_MARK = "ANSWER "


@dataclass
class HubClient:
    """A person's machine: a home folder with its own Hugging Face cache, and one Hub to talk to.

    Args:
        server: the Hub; None for a machine whose Hub address leads nowhere.
        home: an existing folder for the cache and for the current directory.
        packages: folders to import from before the repository.
    """

    server: HubServer | None
    home: Path
    packages: list[Path] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        return self.home / "huggingface" / "hub"

    def environment(self, token: str | None = OWNER_TOKEN, offline: bool = False) -> dict[str, str]:
        """A small environment built from nothing, so that no setting of the machine leaks in."""
        settings = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.home),
            "PYTHONPATH": os.pathsep.join(map(str, [*self.packages, REPOSITORY_ROOT])),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HF_ENDPOINT": self.server.url if self.server else CLOSED_PORT,
            "HF_HOME": str(self.home / "huggingface"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "DISABLE_SAFETENSORS_CONVERSION": "1",
            "OMP_NUM_THREADS": "1",
            # Whatever would leave the machine meets a closed port.
            "HTTP_PROXY": CLOSED_PORT,
            "HTTPS_PROXY": CLOSED_PORT,
            "NO_PROXY": "127.0.0.1,localhost",
        }
        settings |= {"HF_TOKEN": token} if token else {}
        return settings | ({"HF_HUB_OFFLINE": "1"} if offline else {})

    def run(
        self,
        code: str,
        *,
        token: str | None = OWNER_TOKEN,
        offline: bool = False,
        check: bool = True,
        **settings: str,
    ) -> Finished:
        """Run Python source in a process of its own.

        Args:
            code: Python source, indented as the caller likes.
            token: the access token of the person; None when not logged in.
            offline: set `HF_HUB_OFFLINE`.
            check: fail with the client's own error output when the code raises.
            settings: further environment variables.
        """
        environment = self.environment(token, offline) | settings
        machine = _machine_for(environment, tuple(self.packages))
        finished = machine.run(textwrap.dedent(code), folder=self.home, environment=environment)
        if check and finished.returncode != 0:
            raise AssertionError(f"The client failed:\n{finished.stderr}")
        return finished

    def call(self, function: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
        """Run a function of a test module in a process of its own and return its answer.

        Args:
            function: a module-level function that returns something JSON can hold.
            arguments: what to give it; again what JSON can hold.
            settings: the keywords of `run`.
        """
        names = f"{function.__module__!r}, {function.__name__!r}"
        code = f"from tests.hub.client import answer\nanswer({names}, {json.dumps(arguments)!r})"
        lines = self.run(code, **settings).stdout.splitlines()
        return json.loads(next(line for line in lines if line.startswith(_MARK))[len(_MARK) :])


def _machine_for(environment: dict[str, str], packages: tuple[Path, ...]) -> Machine:
    """A machine whose libraries were imported with these settings; the last few are kept."""
    # The Hub's client asks for the token when it needs it, salhub for its settings too.
    read_late = ("HF_TOKEN", "SALHUB_")
    fixed = {name: value for name, value in environment.items() if not name.startswith(read_late)}
    key = (tuple(sorted(fixed.items())), packages)
    if key in _machines:
        _machines[key] = _machines.pop(key)
    else:
        if len(_machines) == 4:
            _machines.pop(next(iter(_machines))).close()
        _machines[key] = Machine(fixed, packages)
    return _machines[key]


_machines: dict[tuple, Machine] = {}


def answer(module: str, function: str, arguments: str) -> None:
    """What `HubClient.call` runs in the other process."""
    result = getattr(import_module(module), function)(*json.loads(arguments))
    print(_MARK + json.dumps(result))


def mark(phase: str) -> None:
    """Leave a mark in the request log; `HubServer.phase` returns what came after it."""
    from huggingface_hub import get_session
    from huggingface_hub.constants import ENDPOINT

    get_session().get(f"{ENDPOINT}/mark/{phase}")


def refusal(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> list[str] | None:
    """The kind and the text of the error that a call ends with; None when it succeeds."""
    try:
        function(*arguments, **keywords)
    except Exception as error:
        return [type(error).__name__, str(error)]
    return None
