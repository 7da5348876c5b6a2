"""A server for other people's clients, and a database for those that start one of their own."""

from collections.abc import Generator
from pathlib import Path

import httpx2
import pytest

from support.servers import Server, start_server


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    path = tmp_path_factory.mktemp("clients") / "holdfast.db"
    with start_server(f"sqlite:///{path}") as server:
        yield server


@pytest.fixture
def url(shared_server: Server) -> Generator[str]:
    """Where the server has MCP. It is running, and so again afterwards, whatever the test left behind."""
    yield f"{shared_server.url}/mcp"
    switch = f"{shared_server.url}/api/system/worker-pause"
    if httpx2.get(switch).json()["system"]["workersPaused"]:
        httpx2.post(switch, json={"action": "resume", "reason": "the next test"}).raise_for_status()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home folder for a client, which must not meet the settings of whoever runs the tests."""
    home = tmp_path / "home"
    home.mkdir()
    return home
