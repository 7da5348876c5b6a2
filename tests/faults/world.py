"""What a run acts on: a database, several servers with their ways to it and from their clients, and a worker.

PostgreSQL: a cluster of its own, and three servers. `direct` has no proxy on its ways; `proxied` goes through one to
the database, and its clients through another; `apart` runs in a network namespace of its own, as on another host, with
one line to its clients and one to the database. SQLite: the file is on a small tmpfs of its own, and the first two
servers share it, as processes of one host do.

Needs Linux and root: `missing` says what a machine lacks.
"""

import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import anyio
import asyncpg
from anyio.to_thread import run_sync

from faults.history import Event, JobRow
from faults.history import Final as FinalState
from holdfast_core.db.migrations import migrate
from holdfast_core.settings import load_settings
from support.ports import lasting_port
from support.postgres import Cluster, Template, own_cluster
from support.proxy import Proxy
from support.reaper import reaper
from support.servers import Server, program, start_server
from support.workers import WorkerProcess, start_worker

__all__ = ["Clock", "DatabaseKind", "Line", "Node", "Store", "World", "missing", "open_world"]

DatabaseKind = Literal["postgresql", "sqlite"]

HERE: Final = Path(__file__).parent
#: Room for the SQLite file and its log, in MiB.
TMPFS_MIB: Final = 256
#: How long a server may take to be up again, with all that stands in its way.
SECONDS_TO_START: Final = 120.0
#: What all servers of a run have in common: short times, and no bounds for what is one caller here.
SETTINGS: Final = {
    "HOLDFAST_LEASE_GRACE_SECONDS": "0.5",
    "HOLDFAST_LEASE_RETRY_DELAY_SECONDS": "0.05",
    "HOLDFAST_RATE_LIMIT_PER_SECOND": "0",
    "HOLDFAST_MAX_CONNECTIONS_PER_CALLER": "0",
    "HOLDFAST_DATABASE_POOL_SIZE": "6",
    "HOLDFAST_LOG_FORMAT": "json",
}
NOWHERE: Final = "02:00:00:00:00:99"

# Claims that the door of the pause in force does not cover: they committed after it had closed.
_LEAKS_POSTGRESQL: Final = """
SELECT p.version, (
    SELECT count(*) FROM agent_jobs j
    WHERE p.paused AND (j.status = 'running' OR j.finished_at >= p.requested_at) AND j.claim_number IS NOT NULL
      AND NOT pg_visible_in_snapshot(j.claim_number::text::xid8, p.door::pg_snapshot))
FROM system_worker_pause_state p
"""
_LEAKS_SQLITE: Final = """
SELECT p.version, (
    SELECT count(*) FROM agent_jobs j
    WHERE p.paused AND (j.status = 'running' OR j.finished_at >= p.requested_at)
      AND j.claim_number > CAST(p.door AS INTEGER))
FROM system_worker_pause_state p
"""
_JOBS_POSTGRESQL: Final = """
SELECT id::text, type, status, priority, created_at, attempt, claim_token_hash, claim_outcome,
       (payload->>'request')::int, (payload->>'number')::int
FROM agent_jobs
"""
_JOBS_SQLITE: Final = """
SELECT id, type, status, priority, created_at, attempt, claim_token_hash, claim_outcome,
       payload->>'request', payload->>'number'
FROM agent_jobs
"""
_EVENTS: Final = (
    "SELECT action, outcome, code, reason, version FROM system_control_events ORDER BY created_at"
)
#: Lines of a worker's log that are told where something is stuck.
WORKER_LINES: Final = 30

_STATE: Final = "SELECT version, paused FROM system_worker_pause_state"
_UNFINISHED: Final = "SELECT count(*) FROM agent_jobs WHERE status IN ('queued', 'running')"


def missing() -> list[str]:
    """What this machine lacks for the faults."""
    lacks = [
        name for name in ("cc", "ip", "mount", "nsenter", "umount", "unshare") if shutil.which(name) is None
    ]
    if sys.platform != "linux":
        return ["Linux"]
    if os.geteuid() != 0:
        lacks.append("root")
    return lacks


class Store(Protocol):
    """The database, looked at behind the servers' back."""

    kind: DatabaseKind

    @property
    def url(self) -> str: ...

    async def fetch(self, statement: str) -> list[tuple[Any, ...]]: ...


class Postgres:
    """A database on a cluster that can be stopped."""

    kind: DatabaseKind = "postgresql"

    def __init__(self, cluster: Cluster, url: str) -> None:
        self.cluster = cluster
        self.url = url
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._turn = anyio.Lock()

    async def fetch(self, statement: str) -> list[tuple[Any, ...]]:
        async with self._turn:
            # Once more where the connection that we had turns out to be gone.
            for known in (self._connection is not None, False):
                try:
                    if self._connection is None:
                        self._connection = await asyncpg.connect(self.url, timeout=5)
                    return [tuple(row) for row in await self._connection.fetch(statement, timeout=30)]
                except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    self.close()
                    if not known:
                        raise
                except BaseException:
                    self.close()
                    raise
        raise AssertionError

    def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


class Sqlite:
    """A file on a tmpfs."""

    kind: DatabaseKind = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "holdfast.db"
        self.url = f"sqlite:///{self.path}"

    async def fetch(self, statement: str) -> list[tuple[Any, ...]]:
        def look() -> list[tuple[Any, ...]]:
            connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=5)
            try:
                return connection.execute(statement).fetchall()
            finally:
                connection.close()

        return await run_sync(look)


class Clock:
    """How wrong the clock of some processes is, in seconds: a page that they share with us (see clock.c)."""

    def __init__(self, library: Path, page: Path) -> None:
        self._page = page
        self.furthest = 0
        self.set(0)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(page)}

    def set(self, offset: int) -> None:
        self.furthest = max(self.furthest, offset)
        with os.fdopen(os.open(self._page, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            file.write(struct.pack("q", offset))


class Line:
    """A network between us and a namespace, that can be cut silently: packets go to nobody."""

    def __init__(self, holder: int, here: str, there: str, net: str, first: int) -> None:
        self.our_address, self.its_address = f"{net}.{first}", f"{net}.{first + 1}"
        self._here, self._there = here, there
        self._inside = ["nsenter", f"--net=/proc/{holder}/ns/net"]
        _run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", str(holder))
        for run, name, address in (([], here, self.our_address), (self._inside, there, self.its_address)):
            _run(*run, "ip", "address", "add", f"{address}/30", "dev", name)
            _run(*run, "ip", "link", "set", name, "up")

    def cut(self, *, to_it: bool, from_it: bool) -> None:
        for wanted, run, name, address in (
            (to_it, [], self._here, self.its_address),
            (from_it, self._inside, self._there, self.our_address),
        ):
            if wanted:
                _run(
                    *run,
                    "ip",
                    "neighbour",
                    "replace",
                    address,
                    "lladdr",
                    NOWHERE,
                    "nud",
                    "permanent",
                    "dev",
                    name,
                )

    def mend(self) -> None:
        for run, name, address in (
            ([], self._here, self.its_address),
            (self._inside, self._there, self.our_address),
        ):
            _run(*run, "ip", "neighbour", "del", address, "dev", name, check=False)

    def remove(self) -> None:
        """Take it away now: with its namespace it would go a moment after that, and its name be taken until then."""
        _run("ip", "link", "del", self._here)


def _run(*command: str, check: bool = True) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


class Node:
    """A server, its place, and the ways to it and from it. It comes back to the same address."""

    def __init__(self, name: str, host: str, command: Sequence[str], clock: Clock | None) -> None:
        self.name = name
        self.clock = clock
        self.to_clients: Proxy | None = None
        self.to_database: Proxy | None = None
        self.lines: tuple[Line, Line] | None = None
        self.url = f"http://{host}:{lasting_port()}"
        self._host = host
        self._command = list(command)
        self._database_url = ""
        self._server: Server | None = None
        self.logs: list[str] = []

    @property
    def address(self) -> str:
        return self.url if self.to_clients is None else self.to_clients.url

    @property
    def process(self) -> "subprocess.Popen[str]":
        assert self._server is not None
        return self._server.process

    async def start(self, database_url: str = "") -> None:
        """Start it, again and again while what it needs is away."""
        self._database_url = database_url or self._database_url
        environment = {**SETTINGS, "HOLDFAST_HOST": self._host}
        if self.lines is not None:
            environment["HOLDFAST_ALLOW_INSECURE"] = "true"  # nobody else is in that network
        if self.clock is not None:
            environment |= self.clock.environment
        with anyio.fail_after(SECONDS_TO_START):
            while True:
                server = start_server(
                    self._database_url,
                    "--port",
                    self.url.rpartition(":")[2],
                    command=self._command,
                    **environment,
                )
                try:
                    self._server = await run_sync(server.__enter__)
                    return
                except AssertionError as error:
                    self.logs.append("\n".join(error.__notes__))
                    await anyio.sleep(0.2)

    async def kill(self) -> None:
        """SIGKILL."""
        if self._server is None:
            return
        server, self._server = self._server, None
        await run_sync(server.kill)
        self.logs.append(server.log)
        await run_sync(server.__exit__, None, None, None)

    @property
    def log(self) -> str:
        """All that it has written to stderr, over its lives."""
        return "".join([*self.logs, self._server.log if self._server is not None else ""])


class World:
    """All of it."""

    def __init__(self, store: Store, nodes: list[Node], folder: Path) -> None:
        self.store = store
        self.nodes = nodes
        self.folder = folder
        self._worker: WorkerProcess | None = None

    async def start_worker(self) -> None:
        """A real worker process, on the first server."""
        worker = start_worker(
            self.nodes[0].url,
            "real",
            self.folder,
            *("--types", "real", "--slots", "2", "--lease", "2s"),
            handler="brief",
            HOLDFAST_PAUSE_POLL_INTERVAL_MS="200",
        )
        self._worker = await run_sync(worker.__enter__)

    async def kill_worker(self) -> None:
        if self._worker is not None:
            worker, self._worker = self._worker, None
            await run_sync(worker.kill)
            await run_sync(worker.__exit__, None, None, None)

    def worker_tells(self) -> str:
        """Whether the worker process runs, and the end of its log."""
        if self._worker is None:
            return "there is no worker process"
        code = self._worker.process.poll()
        lines = [f"the worker process {'runs' if code is None else f'has ended with {code}'}"]
        return "\n".join([*lines, *self._worker.text.splitlines()[-WORKER_LINES:]])

    async def look(self) -> tuple[int, int]:
        """The version of the pause, and how many claims broke it."""
        statement = _LEAKS_POSTGRESQL if self.store.kind == "postgresql" else _LEAKS_SQLITE
        ((version, leaks),) = await self.store.fetch(statement)
        return version, leaks

    async def unfinished(self) -> int:
        """How many jobs have not ended."""
        ((count,),) = await self.store.fetch(_UNFINISHED)
        return int(count)

    async def final(self, *, settled: bool) -> FinalState:
        """What the database holds."""
        statement = _JOBS_POSTGRESQL if self.store.kind == "postgresql" else _JOBS_SQLITE
        jobs = [
            JobRow(job_id, kind, status, priority, _epoch(created), attempt, token, outcome, request, number)
            for job_id, kind, status, priority, created, attempt, token, outcome, request, number in (
                await self.store.fetch(statement)
            )
        ]
        events = [Event(*row) for row in await self.store.fetch(_EVENTS)]
        ((version, paused),) = await self.store.fetch(_STATE)
        return FinalState(jobs, events, version, bool(paused), settled)


def _epoch(moment: datetime | str) -> float:
    return (datetime.fromisoformat(moment) if isinstance(moment, str) else moment).timestamp()


@contextmanager
def _tmpfs() -> Any:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-faults-"))
    reaper().watch_folder(str(folder))
    _run("mount", "-t", "tmpfs", "-o", f"size={TMPFS_MIB}m", "holdfast-faults", str(folder))
    reaper().watch_mount(str(folder))
    try:
        yield folder
    finally:
        _run("umount", "--lazy", str(folder))
        reaper().forget(str(folder))
        folder.rmdir()


@contextmanager
def _namespace() -> Any:
    """A network namespace that lasts as long as the process whose id this is."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo here && exec sleep infinity"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    reaper().watch_process(holder.pid)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"here\n"
        _run("nsenter", f"--net=/proc/{holder.pid}/ns/net", "ip", "link", "set", "lo", "up")
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        reaper().forget(holder.pid)


def _build_clock(folder: Path) -> Path:
    library = folder / "clock.so"
    _run("cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(HERE / "clock.c"))
    return library


def _free_network() -> str:
    taken = subprocess.run(["ip", "-o", "address"], check=True, capture_output=True, text=True).stdout
    start = os.getpid()
    nets = (f"10.231.{(start + number) % 250}" for number in range(250))
    return next(net for net in nets if f"{net}." not in taken)


@asynccontextmanager
async def open_world(
    kind: DatabaseKind, *, cluster: Cluster | None = None, mutant: str | None = None, small: bool = False
) -> AsyncGenerator[World]:
    """A world with all its processes up. `cluster`: to use this one, which others do not use meanwhile. `mutant`: the
    servers are broken in this way (faults.mutant). `small`: two plain servers and nothing else, for runs without
    faults."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-faults-")))
        if kind == "postgresql":
            cluster = cluster or await run_sync(stack.enter_context, own_cluster())
            template = Template(cluster.url)
            await run_sync(template.create)
            store: Store = Postgres(cluster, template.url)
            stack.callback(store.close)
        else:
            store = Sqlite(folder if small else stack.enter_context(_tmpfs()))
        await run_sync(migrate, load_settings(database_url=store.url))
        command = [program()] if mutant is None else [sys.executable, str(HERE / "mutant.py"), mutant]
        library = None if small else await run_sync(_build_clock, folder)
        nodes = await _nodes(stack, store, folder, command, library)
        world = World(store, nodes, folder)
        async with anyio.create_task_group() as tasks:
            for node in nodes:
                way = store.url if node.to_database is None else node.to_database.url
                tasks.start_soon(node.start, way)
        try:
            if not small:
                await world.start_worker()
            yield world
        finally:
            with anyio.CancelScope(shield=True):
                for node in nodes:
                    await node.kill()
                await world.kill_worker()
                if isinstance(store, Postgres):
                    store.close()
                    with suppress(OSError, asyncpg.PostgresError):
                        await run_sync(template.drop)


async def _nodes(
    stack: AsyncExitStack, store: Store, folder: Path, command: list[str], library: Path | None
) -> list[Node]:
    def clock(name: str) -> Clock | None:
        return None if library is None else Clock(library, folder / f"clock-{name}")

    on_sqlite = store.kind == "sqlite"
    shared = clock("host") if on_sqlite else None
    direct = Node("direct", "127.0.0.1", command, shared or clock("direct"))
    proxied = Node("proxied", "127.0.0.1", command, shared or clock("proxied"))
    nodes = [direct, proxied]
    if library is None:
        return nodes
    proxied.to_clients = await _way(stack, proxied.url)
    if on_sqlite:
        return nodes
    proxied.to_database = await _way(stack, store.url)
    holder, net = stack.enter_context(_namespace()), _free_network()
    name = f"hf{os.getpid()}"
    front = Line(holder, f"{name}a", "front", net, 1)
    back = Line(holder, f"{name}b", "back", net, 5)
    stack.callback(front.remove)
    stack.callback(back.remove)
    inside = ["nsenter", f"--net=/proc/{holder}/ns/net", *command]
    apart = Node("apart", front.its_address, inside, clock("apart"))
    apart.lines = (front, back)
    apart.to_database = await _way(stack, store.url, back.our_address)
    return [*nodes, apart]


async def _way(stack: AsyncExitStack, url: str, host: str = "127.0.0.1") -> Proxy:
    way = await Proxy(url, host).restore()
    stack.push_async_callback(way.cut)
    return way
