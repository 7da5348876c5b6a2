"""What goes wrong, and when. Each fault is a small class: it begins, lasts, and ends."""

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, Protocol

import anyio
from anyio.to_thread import run_sync

from faults.checker import BACK_WITHIN, BEFORE, SLICE, recoveries
from faults.clients import Company, make_run
from faults.history import Fault, History
from faults.world import Node, Postgres, Sqlite, World

__all__ = ["KINDS", "Nemesis"]

#: Rest between two faults of a lane, in seconds: at least and at most.
REST: Final = (0.1, 0.8)
#: How long workers take to come to a steady rate, in seconds.
SECONDS_TO_STEADY: Final = 1.5


class Trouble(Protocol):
    """One fault that is about to be."""

    target: str
    #: How long it lasts, in seconds: at least and at most.
    lasts: tuple[float, float]

    async def begin(self) -> None: ...

    async def end(self) -> None: ...


class ServerKilled:
    """kill -9, and a new start."""

    lasts = (0.1, 1.0)

    def __init__(self, world: World, random: Random) -> None:
        self.node = random.choice(world.nodes)
        self.target = self.node.name

    async def begin(self) -> None:
        await self.node.kill()

    async def end(self) -> None:
        await self.node.start()


class ServerStopped:
    """SIGSTOP, in the middle of whatever it does, and SIGCONT."""

    lasts = (0.3, 6.0)

    def __init__(self, world: World, random: Random) -> None:
        self.node = random.choice(world.nodes)
        self.target = self.node.name

    async def begin(self) -> None:
        self.node.process.send_signal(signal.SIGSTOP)

    async def end(self) -> None:
        self.node.process.send_signal(signal.SIGCONT)


class WorkerKilled:
    """kill -9 of a worker process, with whatever it works on."""

    target = "real"
    lasts = (0.1, 3.0)

    def __init__(self, world: World, random: Random) -> None:
        del random
        self.world = world

    async def begin(self) -> None:
        await self.world.kill_worker()

    async def end(self) -> None:
        await self.world.start_worker()


class ClockJump:
    """The clock of a host is set forward or back. On PostgreSQL that is one server's; on SQLite that of the host with
    the file."""

    lasts = (0.5, 3.0)

    def __init__(self, world: World, random: Random) -> None:
        node = random.choice(world.nodes)
        assert node.clock is not None
        self.clock = node.clock
        largest = 20 if world.store.kind == "sqlite" else 100_000
        self.offset = random.choice((-1, 1)) * random.randint(1, largest)
        self.target = f"{node.name} by {self.offset} s"

    async def begin(self) -> None:
        self.clock.set(self.offset)

    async def end(self) -> None:
        self.clock.set(0)


class _PostgresDown:
    sign: signal.Signals
    lasts = (0.2, 2.0)
    target = "postgresql"

    def __init__(self, world: World, random: Random) -> None:
        del random
        assert isinstance(world.store, Postgres)
        self.cluster = world.store.cluster

    async def begin(self) -> None:
        await run_sync(self.cluster.stop, self.sign)

    async def end(self) -> None:
        await run_sync(self.cluster.start)


class PostgresRestarted(_PostgresDown):
    """PostgreSQL is stopped in good order, and started."""

    sign = signal.SIGINT


class PostgresCrashed(_PostgresDown):
    """PostgreSQL ends at once, and recovers from its log."""

    sign = signal.SIGQUIT


class _WayCut:
    lasts = (0.0, 2.0)

    def __init__(self, world: World, random: Random) -> None:
        self.way = self.choose(random.choice([node for node in world.nodes if self.choose(node)]))

    def choose(self, node: Node):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    async def begin(self) -> None:
        await self.way.cut()

    async def end(self) -> None:
        await self.way.restore()


class DatabaseCut(_WayCut):
    """All connections of one server to the database end, and new ones are refused."""

    target = "database"

    def choose(self, node: Node):  # type: ignore[no-untyped-def]
        return node.to_database


class ClientsCut(_WayCut):
    """All connections of clients to one server end, and new ones are refused."""

    target = "clients"

    def choose(self, node: Node):  # type: ignore[no-untyped-def]
        return node.to_clients


class _WayStalled(_WayCut):
    lasts = (0.3, 6.0)

    async def begin(self) -> None:
        self.way.freeze()

    async def end(self) -> None:
        self.way.thaw()


class DatabaseStalled(_WayStalled, DatabaseCut):
    """What one server and the database say to each other stands still, and goes on later."""


class ClientsStalled(_WayStalled, ClientsCut):
    """What clients and one server say to each other stands still, and goes on later."""


class _Partition:
    lasts = (0.5, 6.0)
    ends: tuple[int, ...]

    def __init__(self, world: World, random: Random) -> None:
        (node,) = [node for node in world.nodes if node.lines is not None]
        assert node.lines is not None
        self.lines = [node.lines[end] for end in self.ends]
        # Both ways, or one only: what is asked arrives, and no answer does, or the other way round.
        self.to_it, self.from_it = random.choice(((True, True), (True, False), (False, True)))
        self.target = f"{node.name}, to it: {self.to_it}, from it: {self.from_it}"

    async def begin(self) -> None:
        for line in self.lines:
            line.cut(to_it=self.to_it, from_it=self.from_it)

    async def end(self) -> None:
        for line in self.lines:
            line.mend()


class PartitionedFromAll(_Partition):
    """Packets between one server and everybody else are lost."""

    ends = (0, 1)


class PartitionedFromClients(_Partition):
    """Packets between one server and its clients are lost."""

    ends = (0,)


class PartitionedFromDatabase(_Partition):
    """Packets between one server and the database are lost."""

    ends = (1,)


class DiskFull:
    """There is no room left on the disk of the SQLite file."""

    target = "tmpfs"
    lasts = (0.3, 2.5)

    def __init__(self, world: World, random: Random) -> None:
        del random
        assert isinstance(world.store, Sqlite)
        self.ballast = world.store.folder / "ballast"

    async def begin(self) -> None:
        await run_sync(_fill, self.ballast)

    async def end(self) -> None:
        self.ballast.unlink()


def _fill(path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    os.write(file, bytes(size))
            except OSError:  # full
                continue
    finally:
        os.close(file)


class FileLocked:
    """Another program, one that does not know our lock file, holds the lock of the SQLite file."""

    target = "holdfast.db"
    lasts = (0.3, 6.0)

    def __init__(self, world: World, random: Random) -> None:
        del random
        assert isinstance(world.store, Sqlite)
        self.path = world.store.path
        self.foreign: sqlite3.Connection | None = None

    async def begin(self) -> None:
        self.foreign = await run_sync(self._lock)

    def _lock(self) -> sqlite3.Connection:
        foreign = sqlite3.connect(self.path, isolation_level=None, timeout=10, check_same_thread=False)
        foreign.execute("BEGIN EXCLUSIVE")
        return foreign

    async def end(self) -> None:
        if self.foreign is not None:
            await run_sync(self.foreign.close)


#: What happens to processes and clocks, and what to databases and networks: two lanes, side by side.
PROCESSES: Final[dict[str, Callable[[World, Random], Trouble]]] = {
    "server-killed": ServerKilled,
    "server-stopped": ServerStopped,
    "worker-killed": WorkerKilled,
    "clock-jump": ClockJump,
}
ON_POSTGRESQL: Final[dict[str, Callable[[World, Random], Trouble]]] = {
    "postgres-restarted": PostgresRestarted,
    "postgres-crashed": PostgresCrashed,
    "database-cut": DatabaseCut,
    "database-stalled": DatabaseStalled,
    "clients-cut": ClientsCut,
    "clients-stalled": ClientsStalled,
    "partitioned": PartitionedFromAll,
    "partitioned-from-clients": PartitionedFromClients,
    "partitioned-from-database": PartitionedFromDatabase,
}
ON_SQLITE: Final[dict[str, Callable[[World, Random], Trouble]]] = {
    "clients-cut": ClientsCut,
    "clients-stalled": ClientsStalled,
    "disk-full": DiskFull,
    "file-locked": FileLocked,
}
#: All kinds, by database.
KINDS: Final = {
    "postgresql": (*PROCESSES, *ON_POSTGRESQL),
    "sqlite": (*PROCESSES, *ON_SQLITE),
}


@dataclass
class Nemesis:
    """Makes faults, one after the other in each of the two lanes, until it is told to stop: each kind once at first."""

    world: World
    company: Company
    #: No fault is to begin after this moment (monotonic), once each kind has been.
    until: float
    #: Faults last this part of what they may.
    haste: float = 1.0
    #: Of outages of the database: how many are looked at by themselves, to see how soon claims are back.
    calm_share: float = 0.3
    _acting: anyio.Lock = field(default_factory=anyio.Lock)

    async def run(self) -> None:
        others = ON_POSTGRESQL if self.world.store.kind == "postgresql" else ON_SQLITE
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._lane, "processes", PROCESSES)
            tasks.start_soon(self._lane, "others", others)

    async def _lane(self, name: str, kinds: dict[str, Callable[[World, Random], Trouble]]) -> None:
        random = self.company.random(f"nemesis/{name}")
        first = list(kinds)
        random.shuffle(first)
        outages = 0
        while first or time.monotonic() < self.until:
            await anyio.sleep(random.uniform(*REST))
            kind = first.pop() if first else random.choice(list(kinds))
            trouble = kinds[kind](self.world, random)
            seconds = random.uniform(*trouble.lasts) * self.haste
            if not isinstance(trouble, _PostgresDown):
                if name == "processes":
                    async with self._acting:
                        await self._make(kind, trouble, seconds)
                else:
                    await self._make(kind, trouble, seconds)
                continue
            outages += 1
            if outages == 1 or random.random() < self.calm_share:
                await self._make_in_calm(kind, trouble, seconds)
            else:
                await self._make(kind, trouble, seconds)

    async def _make(self, kind: str, trouble: Trouble, seconds: float) -> Fault:
        fault = Fault(kind, trouble.target, time.monotonic(), 0.0)
        with anyio.CancelScope(shield=True):  # what has begun is ended
            try:
                await trouble.begin()
                await anyio.sleep(seconds)
            finally:
                await trouble.end()
        fault.end = time.monotonic()
        self.company.history.faults.append(fault)
        return fault

    async def _make_in_calm(self, kind: str, trouble: Trouble, seconds: float) -> None:
        async with self._acting:
            self.company.calm = True
            try:
                await make_run(self.company, f"calm-{len(self.company.history.ops)}")
                await anyio.sleep(SECONDS_TO_STEADY + BEFORE)
                fault = await self._make(kind, trouble, seconds)
                fault.calm = True
                seen = History(self.company.history.database, ops=self.company.history.ops, faults=[fault])
                with anyio.move_on_after(BACK_WITHIN + 2 * SLICE):
                    while not all(found.seconds is not None for found in recoveries(seen)):
                        await anyio.sleep(SLICE / 4)
            finally:
                self.company.calm = False
