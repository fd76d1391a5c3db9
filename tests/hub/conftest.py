"""Fixtures: a loopback Hub, and machines that talk to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.machine import Finished

from .client import HubClient
from .installation import install
from .server import HubServer


@pytest.fixture
def hub_server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def hub_client(hub_server: HubServer, tmp_path: Path) -> HubClient:
    """A machine with an empty cache that talks to `hub_server`."""
    home = tmp_path / "home"
    home.mkdir()
    return HubClient(hub_server, home)


@pytest.fixture
def run_client(hub_client: HubClient) -> Callable[..., Finished]:
    """Run Python source in a process whose `huggingface_hub` talks to `hub_server`."""
    return hub_client.run


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    """A Hub that the tests of a file share."""
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def client(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> HubClient:
    """A machine that the tests of a file share, talking to `server`."""
    return HubClient(server, tmp_path_factory.mktemp("person"))


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed copy of salhub that ships two small models, see `installation`."""
    return install(tmp_path_factory.mktemp("wheel") / "site")
