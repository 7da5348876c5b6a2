"""`holdfast serve --workers N`: the parent of several server processes that share one listening socket.

It binds the socket, brings the schema up to date once, and starts N fresh interpreters, each of which is handed
the socket and runs a whole server (`holdfast_server.commands.process`). Fresh ones, not forks: a fork would carry
over this process's threads' locks and open connections. They need nothing of each other, since all that they
share is in the database; but they count side by side in one file, so that each can say what all have counted
(`holdfast_core.services.counters`).

- The ready line comes once all of them accept connections.
- One that ends unasked is started again, after a rest that doubles while it keeps ending.
- SIGTERM or SIGINT ends them all in order; SIGINT again does not wait for the calls in flight.
- Each holds the end of a pipe that closes when this process is gone, however it went, and ends then.

uvicorn has a supervisor too. It starts its own `Server` only, where ours has a start and an end of its own, starts
one that keeps failing again at once, and leaves its children behind when it is killed.
"""

import json
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import anyio
import structlog
from anyio import BrokenResourceError, Event, create_task_group, current_time, move_on_after, open_process
from anyio.abc import Process

from holdfast_core.errors import ConfigurationError
from holdfast_core.services.counters import LAYOUT, PAGE_BYTES
from holdfast_core.settings import Settings
from holdfast_server.commands.migrate import prepare

__all__ = ["run_processes"]

log = structlog.get_logger(__name__)

#: The rest before a process that ended is started again, in seconds: at first, and at most.
REST_FIRST_SECONDS: Final = 0.1
REST_MOST_SECONDS: Final = 10.0
#: For one that has served for this long, the rest begins anew.
STEADY_SECONDS: Final = 10.0
#: How long an orderly end may take before it is made short.
END_SECONDS: Final = 15.0


def run_processes(
    settings: Settings, options: Mapping[str, Any], listener: socket.socket, on_ready: Callable[[], None]
) -> None:
    """Serve with `settings.workers` processes until a signal. `options` are the command line's, which the
    processes read on top of the environment. `on_ready` is called once all of them accept connections.

    Raises ConfigurationError where the database cannot be used, or one of them cannot start.
    """
    if sys.platform == "win32":
        raise ConfigurationError(
            "HOLDFAST_WORKERS above 1 needs a system on which a socket can be handed on. Start several servers"
            " on ports of their own instead, with a proxy in front."
        )
    prepare(settings)
    given = {name: str(value) for name, value in options.items() if value is not None}
    with tempfile.TemporaryFile(prefix="holdfast-counters-") as counters:
        counters.truncate(settings.workers * PAGE_BYTES)
        told = {
            "socket": listener.fileno(),
            "options": {**given, "migrate_on_start": False},
            "counters": {"file": counters.fileno(), "layout": LAYOUT, "processes": settings.workers},
        }
        anyio.run(_Parent(settings.workers, told, listener, on_ready).run)


class _Parent:
    def __init__(
        self, count: int, told: Mapping[str, Any], listener: socket.socket, on_ready: Callable[[], None]
    ) -> None:
        self._count = count
        self._told = told
        self._listener = listener
        self._on_ready = on_ready
        self._running: set[Process] = set()
        #: Those that accept connections, and since when.
        self._ready: dict[int, float] = {}
        self._is_ready = False
        self._ending = Event()
        self._failure: str | None = None

    async def run(self) -> None:
        async with create_task_group() as tasks:
            tasks.start_soon(self._heed_signals)
            tasks.start_soon(self._bound_the_end)
            async with create_task_group() as keepers:
                for number in range(self._count):
                    keepers.start_soon(self._keep, number)
            tasks.cancel_scope.cancel()
        if self._failure is not None:
            raise ConfigurationError(self._failure)

    async def _heed_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            async for number in received:
                if not self._ending.is_set():
                    self._end()
                elif number == signal.SIGINT:
                    self._send(signal.SIGINT)  # to a server that is ending already it means: now

    async def _bound_the_end(self) -> None:
        await self._ending.wait()
        await anyio.sleep(END_SECONDS)
        log.error("server_processes_killed", pids=[process.pid for process in self._running])
        self._send(signal.SIGKILL)

    def _end(self) -> None:
        self._ending.set()
        self._listener.close()  # who connects now is refused, instead of waiting for nobody
        self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        for process in self._running:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep(self, number: int) -> None:
        """Run one process, again and again, until the end."""
        rest = REST_FIRST_SECONDS
        while not self._ending.is_set():
            async with await self._start() as process:
                self._running.add(process)
                try:
                    if self._ending.is_set():  # while it was being started
                        process.terminate()
                    failure = await self._hear(process, number)
                    code = await process.wait()
                finally:
                    self._running.discard(process)
                    ready_since = self._ready.pop(number, None)
            if self._ending.is_set():
                return
            if not self._is_ready:
                self._failure = failure or f"A server process ended at its start (exit code {code})."
                self._end()
                return
            if ready_since is not None and current_time() - ready_since > STEADY_SECONDS:
                rest = REST_FIRST_SECONDS
            log.error(
                "server_process_ended", pid=process.pid, exit_code=code, cause=failure, restart_seconds=rest
            )
            with move_on_after(rest):
                await self._ending.wait()
            rest = min(rest * 2, REST_MOST_SECONDS)

    async def _start(self) -> Process:
        return await open_process(
            # -P: not from the current folder, where a module of the user's could have the name of one of ours.
            [sys.executable, "-P", "-m", "holdfast_server.commands.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None,
            pass_fds=[self._listener.fileno(), self._told["counters"]["file"]],
            # Ctrl-C is for this process, which passes it on.
            start_new_session=True,
        )

    async def _hear(self, process: Process, number: int) -> str | None:
        """Listen to a process until it ends. Returns why, where it could not start."""
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenResourceError):  # gone already
            await process.stdin.send(json.dumps({**self._told, "number": number}).encode() + b"\n")
        said = b""
        async for part in process.stdout:
            said += part
            if not said.endswith(b"\n"):
                continue
            failure: str | None = json.loads(said).get("failed")
            if failure is not None:
                return failure
            self._came_up(process, number)
            said = b""
        return None

    def _came_up(self, process: Process, number: int) -> None:
        log.info("server_process_ready", pid=process.pid)
        self._ready[number] = current_time()
        if len(self._ready) == self._count and not self._is_ready:
            self._is_ready = True
            self._on_ready()
