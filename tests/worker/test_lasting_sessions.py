"""What a push session meets that must not end the worker."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from sqlalchemy import Connection
from websockets.asyncio.server import ServerConnection, serve

from holdfast import Job, Worker
from holdfast_core.errors import StoreUnavailable
from holdfast_core.schemas import Job as JobAnswer
from holdfast_core.schemas import System
from holdfast_core.schemas.sessions import (
    SUBPROTOCOL,
    ErrorFrame,
    HeartbeatAckFrame,
    HelloFrame,
    OfferFrame,
    RejectFrame,
    ServerFrame,
    WelcomeFrame,
    parse_worker_frame,
)
from holdfast_core.store import sessions
from holdfast_worker.runtime.hold import Hold
from holdfast_worker.runtime.transports.base import Identity
from holdfast_worker.runtime.transports.ws import WsTransport
from holdfast_worker.wire import Address
from rest.harness import PATIENCE, open_socket

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "failure", [StoreUnavailable("The database's disk is full."), RuntimeError("a bug")], ids=["away", "bug"]
)
async def test_a_worker_whose_hello_meets_a_server_in_trouble_comes_again(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    hellos = 0
    whole = sessions.write_session

    def failing_at_first(connection: Connection, worker_id: str, session_id: UUID) -> None:
        nonlocal hellos
        hellos += 1
        if hellos <= 2:
            raise failure
        whole(connection, worker_id, session_id)

    monkeypatch.setattr(sessions, "write_session", failing_at_first)
    done = anyio.Event()

    async def handle(_: Job) -> None:
        done.set()

    async with open_socket(sqlite_url) as api, anyio.create_task_group() as tasks:
        address = f"http://127.0.0.1:{api.port}"
        worker = Worker(handle, url=address, worker_id="w-1", transport="ws", control=False)
        tasks.start_soon(worker.serve)
        await api.enqueue()
        with anyio.fail_after(PATIENCE):
            await done.wait()
        tasks.cancel_scope.cancel()
    assert hellos == 3


@pytest.mark.parametrize("code", ["lease_lost", "conflict", "not_found"])
async def test_the_session_outlasts_an_offer_that_is_gone_when_it_is_rejected(code: str) -> None:
    system = System.model_validate({"workersPaused": False, "version": 1, "updatedAt": datetime.now(UTC)})
    offer = OfferFrame(job=_job("token-1"), system=system)
    hellos = 0
    rejected: list[UUID] = []
    refused = anyio.Event()

    def answers(frame: Any) -> list[ServerFrame]:
        nonlocal hellos
        match frame:
            case HelloFrame():
                hellos += 1
                welcome = WelcomeFrame(system=system, heartbeat_seconds=15, leases=[])
                return [welcome] if rejected else [welcome, offer]  # which nobody waits for
            case RejectFrame():
                rejected.append(frame.job_id)
                refused.set()
                return [ErrorFrame(code=code, message="The job is gone.", job_id=frame.job_id)]
            case _:
                return [HeartbeatAckFrame(system=system, leases=[])]

    async def speak(connection: ServerConnection) -> None:
        async for raw in connection:
            frame, _ = parse_worker_frame(str(raw))
            answer, *more = answers(frame)
            for said in (answer.model_copy(update={"ref": frame.ref}), *more):
                await connection.send(said.model_dump_json(by_alias=True, exclude_none=True))

    async with serve(speak, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL]) as server:  # type: ignore[list-item]
        (socket,) = server.sockets
        address = Address.of(f"http://127.0.0.1:{socket.getsockname()[1]}")
        transport = WsTransport(address, Identity("w-1", lease_seconds=60), Hold())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.run)
            with anyio.fail_after(PATIENCE):
                await refused.wait()
                await transport.presence()  # over the same session, behind the refusal
                await transport.presence()  # and behind what the worker has made of it
            tasks.cancel_scope.cancel()
    assert rejected == [offer.job.id]
    assert hellos == 1


def _job(token: str) -> JobAnswer:
    now = datetime.now(UTC)
    return JobAnswer.model_validate(
        {
            "id": uuid4(),
            "type": "review",
            "status": "running",
            "priority": 0,
            "payload": {},
            "requiredCapabilities": [],
            "attempt": 1,
            "maxAttempts": 3,
            "leaseToken": token,
            "createdAt": now,
            "updatedAt": now,
        }
    )
