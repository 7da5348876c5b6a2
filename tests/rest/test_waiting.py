"""Calls that wait: answered when there is something to say, ended when nobody listens any more."""

import json
from functools import partial
from typing import Any

import anyio
import pytest

from rest.harness import Api, Socket, holder, on_job, open_api, open_socket, read_answer
from support.core import until

pytestmark = pytest.mark.anyio

CLAIM = "/api/queue/jobs/claim"
WAIT = "/api/system/worker-pause/wait"


async def so_many_wait(api: Api, count: int) -> bool:
    return len(api.services.waiters) == count


def raw_claim(worker: str, **more: Any) -> bytes:
    body = json.dumps({"workerId": worker, "leaseSeconds": 60, "waitSeconds": 30, **more}).encode()
    return (
        b"POST /api/queue/jobs/claim HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )


async def test_a_waiting_claim_is_answered_when_work_comes(database_url: str) -> None:
    got: list[Any] = []
    async with open_api(database_url) as api:

        async def wait() -> None:
            got.append(await api.claim(waitSeconds=30))

        with anyio.fail_after(15):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await until(lambda: so_many_wait(api, 1))
                assert not got
                job = await api.enqueue()
    assert got[0]["job"]["id"] == job["id"]
    assert got[0]["system"]["workersPaused"] is False


@pytest.mark.requirement("FR-005")
async def test_waiting_claims_are_answered_at_once_when_a_pause_comes(database_url: str) -> None:
    got: list[Any] = []
    async with open_api(database_url) as api:

        async def wait(worker: str) -> None:
            got.append(await api.claim(worker, waitSeconds=30))

        with anyio.fail_after(15):
            async with anyio.create_task_group() as tasks:
                for worker in ("w-1", "w-2", "w-3"):
                    tasks.start_soon(wait, worker)
                await until(lambda: so_many_wait(api, 3))
                paused = await api.pause()
        assert got == [{"job": None, "system": paused["system"]}] * 3
        # And one that meets the pause does not wait.
        with anyio.fail_after(5):
            assert (await api.claim(waitSeconds=30))["job"] is None


async def test_a_claim_that_waits_in_vain_is_answered_null_when_its_time_is_up(database_url: str) -> None:
    async with open_api(database_url) as api:
        with anyio.fail_after(10):
            answer = await api.claim(waitSeconds=0.2)
        assert (answer["job"], answer["system"]["workersPaused"]) == (None, False)
        assert len(api.services.waiters) == 0


async def test_a_claim_whose_client_hung_up_ends_and_work_goes_to_the_next(database_url: str) -> None:
    got: list[Any] = []
    async with open_socket(database_url) as api:

        async def stay() -> None:
            got.append(await api.claim("staying", waitSeconds=30))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                gone = await anyio.connect_tcp("127.0.0.1", api.port)
                await gone.send(raw_claim("gone"))
                await until(lambda: so_many_wait(api, 1))
                tasks.start_soon(stay)
                await until(lambda: so_many_wait(api, 2))
                await gone.aclose()
                await until(lambda: so_many_wait(api, 1))
                job = await api.enqueue()
        assert (got[0]["job"]["id"], got[0]["job"]["claimedBy"]) == (job["id"], "staying")
        assert got[0]["job"]["attempt"] == 1


async def test_a_client_that_hangs_up_as_work_comes_loses_no_job(database_url: str) -> None:
    """Whichever comes first: the job is running for nobody in the end."""
    async with open_socket(database_url) as api:
        with anyio.fail_after(30):
            for n in range(10):
                kind = f"t{n}"  # what one round leaves is not for the next
                gone = await anyio.connect_tcp("127.0.0.1", api.port)
                await gone.send(raw_claim("gone", allowedTypes=[kind]))
                await until(lambda: so_many_wait(api, 1))
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(partial(api.enqueue, type=kind))
                    tasks.start_soon(gone.aclose)
                await until(lambda: so_many_wait(api, 0))
            # An answer that was already on its way may have been lost with its connection; that is what leases
            # are for. All others are there for the next.
            jobs = (await api.get("/api/queue/jobs"))["items"]
            assert len(jobs) == 10
            assert {job["attempt"] for job in jobs} == {1}
            assert {job["status"] for job in jobs} <= {"queued", "running"}
            queued = [job for job in jobs if job["status"] == "queued"]
            for _ in queued:
                assert (await api.claim("next"))["job"] is not None
            assert (await api.claim("next"))["job"] is None


async def test_the_connection_of_a_claim_that_waited_goes_on_to_be_used(sqlite_url: str) -> None:
    async with open_socket(sqlite_url) as api, await anyio.connect_tcp("127.0.0.1", api.port) as stream:
        with anyio.fail_after(20):
            for n in range(3):
                await stream.send(raw_claim(f"w-{n}"))
                await until(lambda: so_many_wait(api, 1))
                job = await api.enqueue()
                answer = await read_answer(stream)
                assert answer.json()["job"]["id"] == job["id"]


async def test_a_wait_is_answered_when_the_drain_ends(database_url: str) -> None:
    got: list[Any] = []
    async with open_api(database_url) as api:
        await api.enqueue()
        job = await api.claimed()
        await api.pause()

        async def wait() -> None:
            got.append(await api.get(WAIT, **{"for": "drained", "timeoutSeconds": 60}))

        with anyio.fail_after(15):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await until(lambda: so_many_listen(api, 1))
                assert not got
                await api.post(on_job(job, "complete"), holder(job))
    assert (got[0]["reached"], got[0]["metrics"]["safeToUpgrade"]) == (True, True)


async def test_a_wait_is_answered_when_a_resume_comes_between(database_url: str) -> None:
    got: dict[str, Any] = {}
    async with open_api(database_url) as api:
        await api.enqueue()
        await api.claimed()
        await api.pause()

        async def wait(what: str, **query: Any) -> None:
            got[what] = await api.get(WAIT, **{"for": what, "timeoutSeconds": 60, **query})

        with anyio.fail_after(15):
            async with anyio.create_task_group() as tasks:
                for what in ("drained", "parked", "running"):
                    tasks.start_soon(wait, what)
                # From this version on: else it counts from its own first look, which may come after the resume.
                tasks.start_soon(partial(wait, "version", sinceVersion=2))
                await until(lambda: so_many_listen(api, 4))
                await api.resume()
    assert {what: answer["reached"] for what, answer in got.items()} == {
        "drained": False,
        "parked": False,
        "running": True,
        "version": True,
    }


async def test_a_wait_whose_client_hung_up_ends(database_url: str) -> None:
    async with open_socket(database_url) as api:
        await api.enqueue()
        await api.claimed()
        await api.pause()
        with anyio.fail_after(20):
            for what in ("drained", "running"):
                stream = await anyio.connect_tcp("127.0.0.1", api.port)
                query = f"{WAIT}?for={what}&timeoutSeconds=60"
                await stream.send(f"GET {query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                await until(lambda: so_many_listen(api, 1))
                await stream.aclose()
                await until(lambda: so_many_listen(api, 0))


def waits_on(api: Api) -> int:
    """Calls of `wait` in flight: who listens for both kinds of change."""
    subscriptions = api.services.watch.hub._subscriptions
    return sum(subscription._kinds >= {"system", "running"} for subscription in subscriptions)


async def so_many_listen(api: Api, count: int) -> bool:
    return waits_on(api) == count


async def test_many_calls_that_wait_leave_room_for_all_others(sqlite_url: str) -> None:
    async with open_socket(sqlite_url) as api:
        streams = []
        with anyio.fail_after(20):
            try:
                for n in range(60):
                    streams.append(await anyio.connect_tcp("127.0.0.1", api.port))
                    await streams[-1].send(raw_claim(f"w-{n}"))
                await until(lambda: so_many_wait(api, 60))
                await _all_else_is_answered(api)
            finally:
                for stream in streams:
                    await stream.aclose()
            await until(lambda: so_many_wait(api, 0))


async def _all_else_is_answered(api: Socket) -> None:
    with anyio.fail_after(5):
        for path in (
            "/healthz",
            "/readyz",
            "/api/system/worker-pause",
            "/api/queue/jobs",
            "/api/system/workers",
        ):
            assert (await api.ask("GET", path)).status_code == 200
