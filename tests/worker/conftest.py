"""Workers as they are run: processes of their own against a real server."""

from collections.abc import Generator
from pathlib import Path

import pytest

from holdfast_worker.client import Client
from support.servers import Server, start_server
from support.workers import Ledger


@pytest.fixture
def server(database_url: str) -> Generator[Server]:
    """A server of this test's own, once on each database; leases that ran out are taken up at once."""
    with start_server(
        database_url, HOLDFAST_LEASE_GRACE_SECONDS="0", HOLDFAST_LEASE_RETRY_DELAY_SECONDS="0"
    ) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Generator[Client]:
    with Client(server.url, token="") as client:
        yield client


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")
