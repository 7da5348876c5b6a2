"""The control port itself: a listener on loopback, and as many connections as are good for it.

A connection brings one request. Up to 32 are read at once, others wait for their turn: all jobs of a worker may come
to a checkpoint in the same moment, and wait there together.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio
import structlog
from anyio import CancelScope, Semaphore, create_task_group, create_tcp_listener, move_on_after, sleep
from anyio.abc import SocketAttribute, SocketStream

from holdfast_core.errors import HoldfastError, InternalError, Unavailable
from holdfast_worker.runtime.control.controlled import Controlled
from holdfast_worker.runtime.control.exchange import REQUEST_SECONDS, Answer, Exchange
from holdfast_worker.runtime.control.guards import Guards
from holdfast_worker.runtime.control.routes import Route, Routes
from holdfast_worker.runtime.discovery import Announcement, announced

__all__ = ["MAX_CONNECTIONS", "Control", "running_control"]

log = structlog.get_logger(__name__)

HOST: Final = "127.0.0.1"
#: Connections that are read at once.
MAX_READING: Final = 32
#: How long one waits for its turn to be read.
TURN_SECONDS: Final = 10.0
#: Connections in all: those that wait at checkpoints are most of them.
MAX_CONNECTIONS: Final = 2_048
#: How long answers that are under way may still take when the worker ends.
LAST_ANSWER_SECONDS: Final = 1.0
ACCEPT_AGAIN_SECONDS: Final = 0.5
#: How often the files by which the worker is found are shown to be in use.
RENEW_SECONDS: Final = 600.0


class Control:
    """A worker's control port. `url` is where it answers."""

    def __init__(self, controlled: Controlled, port: int) -> None:
        self.url = f"http://{HOST}:{port}"
        self._guards = Guards(port)
        self._routes = Routes(controlled, self._guards, self.url)
        self._connections = 0
        self._turns = Semaphore(MAX_READING)
        self._answering = 0
        self._answered = anyio.Event()

    @property
    def token(self) -> str:
        """What admits to all of it but what is a job's."""
        return self._guards.token

    async def serve(self, stream: SocketStream) -> None:
        """One connection, to its end."""
        async with stream:
            try:
                with suppress(anyio.BrokenResourceError, anyio.EndOfStream, TimeoutError):
                    await self._serve(Exchange(stream))
            except Exception:  # a bug must not end the worker
                log.exception("control_connection_failed")

    async def close(self) -> None:
        """Let answers that are under way be taken."""
        with move_on_after(LAST_ANSWER_SECONDS):
            while self._answering:
                self._answered = anyio.Event()
                await self._answered.wait()

    async def _serve(self, exchange: Exchange) -> None:
        self._connections += 1
        try:
            answer = await self._answer_to(exchange)
        finally:
            self._connections -= 1
        if answer is None:
            return
        self._answering += 1
        try:
            await exchange.answer(answer)
        finally:
            self._answering -= 1
            self._answered.set()

    async def _answer_to(self, exchange: Exchange) -> Answer | None:
        """None where nobody asks, or nobody waits for the answer any more."""
        try:
            if self._connections > MAX_CONNECTIONS:
                raise _too_many()
            with move_on_after(TURN_SECONDS) as waiting:
                await self._turns.acquire()
            if waiting.cancelled_caught:
                raise _too_many()
            try:
                found = await self._read(exchange)
            finally:
                self._turns.release()
        except HoldfastError as error:
            return Answer.of_error(error)
        if found is None:
            return None
        route, body = found
        return await (_wait(exchange, route, body) if route.waits else _run(route, body))

    async def _read(self, exchange: Exchange) -> tuple[Route, bytes] | None:
        with move_on_after(REQUEST_SECONDS):
            request = await exchange.request()
            if request is None:
                return None
            self._guards.admit(request)
            route = self._routes.find(request)
            return route, await exchange.body()
        if (too_slow := exchange.too_slow()) is not None:
            raise too_slow
        return None


@asynccontextmanager
async def running_control(controlled: Controlled, worker_id: str) -> AsyncGenerator[Control]:
    """A control port while the block runs, and the file by which it is found.

    Raises WorkerIdTaken where a worker of this id runs on this host, and ConfigurationError where its file cannot be
    kept. What the block raises comes out of it as it is.
    """
    failure: Exception | None = None
    async with await create_tcp_listener(local_host=HOST, local_port=0) as listener:
        port: int = listener.extra(SocketAttribute.local_port)  # noqa: S610 (no database)
        control = Control(controlled, port)
        with announced(worker_id, control.url, control.token) as announcement:
            async with create_task_group() as tasks:
                listening = CancelScope()

                async def listen() -> None:
                    with listening:
                        while True:
                            try:
                                await listener.serve(control.serve, tasks)
                            except* OSError:  # no file descriptor is left, say: that passes
                                await sleep(ACCEPT_AGAIN_SECONDS)

                tasks.start_soon(listen)
                tasks.start_soon(_renew, announcement)
                try:
                    yield control
                except Exception as error:
                    failure = error
                listening.cancel()
                announcement.withdraw()
                await control.close()
                tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _wait(exchange: Exchange, route: Route, body: bytes) -> Answer | None:
    """The answer that may take long, unless the client goes meanwhile."""
    answer: Answer | None = None
    async with create_task_group() as tasks:

        async def watch() -> None:
            await exchange.gone()
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        answer = await _run(route, body)
        tasks.cancel_scope.cancel()
    return answer


async def _run(route: Route, body: bytes) -> Answer:
    try:
        return await route.run(body)
    except HoldfastError as error:
        return Answer.of_error(error)
    except Exception:
        log.exception("control_request_failed")
        return Answer.of_error(InternalError("This is a bug; the worker's log has its trace."))


def _too_many() -> Unavailable:
    return Unavailable("Too many ask this worker at once.")


async def _renew(announcement: Announcement) -> None:
    while True:
        await sleep(RENEW_SECONDS)
        announcement.renew()
