"""An issuer and a server that knows it, for each file of tests."""

from collections.abc import Generator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from oidc.harness import server_of
from support.browser import chromium
from support.provider import Provider, start_provider
from support.servers import Server
from support.stub_issuer import StubIssuer, stub_issuer


@pytest.fixture(scope="module")
def issuer() -> Generator[StubIssuer]:
    """Signs whatever a test asks for."""
    with stub_issuer() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of `server`."""
    return tmp_path_factory.mktemp("oidc") / "holdfast.db"


@pytest.fixture(scope="module")
def server(issuer: StubIssuer, database: Path) -> Generator[Server]:
    """Takes the tokens of `issuer`."""
    with server_of(f"sqlite:///{database}", issuer) as server:
        yield server


@pytest.fixture(scope="module")
def provider() -> Generator[Provider]:
    """The real provider, on what a browser takes for another site than 127.0.0.1."""
    with start_provider(host="localhost") as provider:
        yield provider


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with chromium() as browser:
        yield browser
