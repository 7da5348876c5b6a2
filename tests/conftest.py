"""What all tests share: the event loop, databases of both kinds, and that no skip passes in CI."""

import gc
import importlib.util
import os
import shutil
import signal
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import pytest

from support.postgres import Template, open_cluster
from support.skips import SkipsFail


def pytest_configure(config: pytest.Config) -> None:
    # A developer's own settings must not decide what the tests see, nor the servers that they start.
    for name in list(os.environ):
        if name.startswith(("HOLDFAST_", "AUTH_PROVIDER")) and not name.startswith("HOLDFAST_TEST_"):
            del os.environ[name]
    # Who starts the tests in the background may have had these ignored, and all that they start would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if os.environ.get("CI") == "true":
        config.pluginmanager.register(SkipsFail())


#: Files that take longest, though their tests are few.
LONG: Final = {
    Path(__file__).parent / name
    for name in (
        "core/test_race.py",
        "dashboard/test_degraded.py",
        "demo/test_demo.py",
        "faults/test_faults.py",
        "test_hostile_requests.py",
        "worker/test_idle_cost.py",
        "worker/test_local_pause.py",
        "worker/test_lost_workers.py",
        "worker/test_outages.py",
    )
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first, then those of most tests: none is begun when all other processes are about to be done."""
    count = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in LONG, -count[item.path]))


def pytest_collection_finish() -> None:
    """What was collected is there to the end. To walk it again and again stops a process for half a second at a time,
    in which a server within it answers nobody, and PostgreSQL ends sessions that hold the door."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The loop that `holdfast serve` has: uvloop where there is one."""
    return "asyncio", {"use_uvloop": importlib.util.find_spec("uvloop") is not None}


@pytest.fixture(scope="session")
def postgres_url() -> Generator[str]:
    """The URL of a real PostgreSQL on which databases may be made."""
    with open_cluster() as url:
        yield url


@pytest.fixture(scope="session")
def _postgres_template(postgres_url: str) -> Generator[Template]:
    template = Template(postgres_url)
    template.create()
    try:
        _migrate(template.url)
        yield template
    finally:
        template.drop()


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "holdfast.db"
    _migrate(f"sqlite:///{path}")
    assert not path.with_name("holdfast.db-wal").exists(), "a copy of the file alone would not be all of it"
    return path


@pytest.fixture
def postgres_database_url(_postgres_template: Template) -> Generator[str]:
    """A migrated PostgreSQL database of this test's own."""
    with _postgres_template.clone() as url:
        yield url


@pytest.fixture
def sqlite_url(_sqlite_template: Path, tmp_path: Path) -> str:
    """A migrated SQLite database of this test's own."""
    path = shutil.copy(_sqlite_template, tmp_path / "holdfast.db")
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database of this test's own; the test runs once on each kind."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_database_url")
    return url


def _migrate(url: str) -> None:
    # Here, so that tests that need no database need no server's dependencies either.
    from holdfast_core.db.migrations import migrate
    from holdfast_core.settings import load_settings

    migrate(load_settings(database_url=url))
