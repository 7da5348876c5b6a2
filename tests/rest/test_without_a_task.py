"""Requests that are begun without a task: the same answers, the same refusals, and nothing is left behind."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import httpx2
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from structlog.testing import capture_logs

from holdfast_core.db.locks import FileLock
from holdfast_core.errors import StoreUnavailable
from holdfast_core.settings import load_settings
from rest.harness import PATIENCE, Socket, check_answer, on_job, open_socket
from support import core
from support.core import until
from support.tokens import bearer, create_token

pytestmark = pytest.mark.anyio

CLAIM: Final = "/api/queue/jobs/claim"
BODY: Final = {"workerId": "w-1", "leaseSeconds": 60}
NOBODY: Final = "0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90"


class Worker:
    """One connection, over which every request has the same header fields: the first one is let through as a whole, and
    those after it need no task."""

    def __init__(self, stream: anyio.abc.SocketStream, token: str) -> None:
        self._stream = stream
        self._reader = BufferedByteReceiveStream(stream)
        self._token = token

    async def send(self, path: str, body: dict[str, Any]) -> None:
        content = json.dumps(body).ljust(400).encode()
        lines = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Authorization: {self._token}\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        await self._stream.send(lines.encode() + content)

    async def answer(self, path: str) -> tuple[int, Any]:
        first, *lines = (await self._reader.receive_until(b"\r\n\r\n", 65_536)).decode().split("\r\n")
        headers = httpx2.Headers([line.split(": ", 1) for line in lines])
        content = await self._reader.receive_exactly(int(headers["content-length"]))
        check_answer("POST", path, int(first.split()[1]), headers, content)
        return int(first.split()[1]), json.loads(content)

    async def ask(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        await self.send(path, body)
        return await self.answer(path)


@asynccontextmanager
async def connected(api: Socket) -> AsyncGenerator[anyio.abc.SocketStream]:
    with anyio.fail_after(PATIENCE):
        async with await anyio.connect_tcp("127.0.0.1", api.port) as stream:
            yield stream


async def worker(api: Socket, stream: anyio.abc.SocketStream, url: str) -> Worker:
    made = Worker(stream, bearer(await create_token(url, workerId="w-1"))["Authorization"])
    assert (await made.ask(CLAIM, BODY))[0] == 200
    assert len(api.app._authentication._passes) == 1  # type: ignore[attr-defined]
    return made


async def test_a_whole_job_needs_no_task(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_socket(database_url, auth_provider="token") as api, connected(api) as stream:
        one = await worker(api, stream, database_url)
        made = await enqueue(api, 2)
        monkeypatch.setattr(type(api.app), "__call__", None)  # what a task would call
        for job_id in made:
            status, got = await one.ask(CLAIM, BODY)
            job = got["job"]
            assert (status, job["id"], job["status"], got["system"]["workersPaused"]) == (
                200,
                job_id,
                "running",
                False,
            )
            held = {**BODY, "leaseToken": job["leaseToken"]}
            status, beat = await one.ask(on_job(job, "heartbeat"), {**held, "progress": {"ä": [1]}})
            assert (status, beat["progress"], beat["system"]) == (200, {"ä": [1]}, got["system"])
            status, ended = await one.ask(
                on_job(job, "complete"), {"workerId": "w-1", "leaseToken": job["leaseToken"]}
            )
            assert (status, ended["status"], ended["leaseToken"]) == (200, "succeeded", None)
        assert (await one.ask(CLAIM, BODY))[1]["job"] is None
        counted = api.services.counters.own()
        done = [counted.count(what) for what in ("claims_granted", "heartbeats", "jobs_complete")]
        assert done == [2, 2, 2]


async def test_what_is_refused_after_it_was_begun_is_told_as_ever(database_url: str) -> None:
    async with open_socket(database_url, auth_provider="token") as api, connected(api) as stream:
        one = await worker(api, stream, database_url)
        await enqueue(api, 1)
        job = (await one.ask(CLAIM, BODY))[1]["job"]
        held = {**BODY, "leaseToken": job["leaseToken"]}
        for path, body, status, code in (
            (f"/api/queue/jobs/{NOBODY}/heartbeat", held, 404, "job_not_found"),
            ("/api/queue/jobs/no-id/complete", held, 404, "job_not_found"),
            (on_job(job, "heartbeat"), {**held, "leaseToken": "x"}, 409, "lease_lost"),
            (on_job(job, "heartbeat"), {**held, "workerId": "w-2"}, 403, "not_allowed"),
            (on_job(job, "heartbeat"), {"workerId": "w-1"}, 422, "invalid_request"),
            (CLAIM, {**BODY, "leaseSeconds": 0}, 422, "invalid_request"),
        ):
            found, problem = await one.ask(path, body)
            assert (found, problem["code"]) == (status, code), path
        again = {**BODY, "requestId": "r"}
        await enqueue(api, 1)
        ended = (await one.ask(CLAIM, again))[1]["job"]
        assert (await one.ask(on_job(ended, "complete"), {"workerId": "w-1"}))[0] == 200
        assert (await one.ask(on_job(ended, "complete"), {"workerId": "w-1"}))[0] == 200, "a repeat"
        status, problem = await one.ask(CLAIM, again)
        assert (status, problem["code"]) == (422, "idempotency_key_reused")


async def test_a_store_that_is_away_is_told_and_the_place_is_free_again(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        open_socket(sqlite_url, auth_provider="token", max_connections_per_caller=1) as api,
        connected(api) as stream,
    ):
        one = await worker(api, stream, sqlite_url)
        batches: Any = api.services.claims._batches

        asked: list[Any] = []

        async def away(call: Any) -> Any:
            asked.append(call)
            raise StoreUnavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr(batches, "_alone", away)
            for _ in range(2):
                status, problem = await one.ask(CLAIM, BODY)
                assert (status, problem["code"]) == (503, "store_unavailable")
        assert len(asked) == 2, "what was begun is not asked for again"
        assert (await one.ask(CLAIM, BODY))[0] == 200


async def test_of_claims_that_share_a_statement_one_that_has_to_be_made_alone_is_made(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        open_socket(sqlite_url, auth_provider="token", rate_limit_per_second=3) as api,
        connected(api) as stream,
        connected(api) as other_stream,
    ):
        one = await worker(api, stream, sqlite_url)
        other = Worker(other_stream, one._token)
        batches: Any = api.services.claims._batches

        async def all_alone(asked: Sequence[Any]) -> list[None]:
            return [None for _ in asked]

        monkeypatch.setattr(batches, "_together", all_alone)
        made = await enqueue(api, 2)
        lock = FileLock(load_settings(database_url=sqlite_url).sqlite_path.with_suffix(".db.lock"))
        lock.acquire()
        await one.send(CLAIM, BODY)
        await until_waiting(api, 0)
        await other.send(CLAIM, BODY)
        await until_waiting(api, 1)
        lock.release()
        lock.close()
        got = [(await asker.answer(CLAIM))[1]["job"]["id"] for asker in (one, other)]
        assert sorted(got) == sorted(made)


async def test_a_client_that_has_gone_leaves_nothing_behind(sqlite_url: str) -> None:
    async with open_socket(sqlite_url, auth_provider="token", max_connections_per_caller=1) as api:
        lock = FileLock(load_settings(database_url=sqlite_url).sqlite_path.with_suffix(".db.lock"))
        async with connected(api) as stream:
            one = await worker(api, stream, sqlite_url)
            with capture_logs() as logs:
                async with connected(api) as gone:
                    lock.acquire()
                    await Worker(gone, one._token).send(CLAIM, BODY)
                    await until_waiting(api, 0)
                assert (await one.ask(CLAIM, BODY))[0] == 429, "its request is under way"
                lock.release()
                lock.close()

                async def has_room() -> bool:
                    return (await one.ask(CLAIM, BODY))[0] == 200

                await until(has_room)
            assert [line for line in logs if line["log_level"] == "error"] == []


async def test_a_claim_that_is_under_way_when_the_server_ends_is_answered(sqlite_url: str) -> None:
    async with open_socket(sqlite_url, auth_provider="token") as api, connected(api) as stream:
        one = await worker(api, stream, sqlite_url)
        (job_id,) = await enqueue(api, 1)
        lock = FileLock(load_settings(database_url=sqlite_url).sqlite_path.with_suffix(".db.lock"))
        lock.acquire()
        await one.send(CLAIM, BODY)
        await until_waiting(api, 0)
        api.server.should_exit = True
        with anyio.fail_after(PATIENCE):
            while api.server.servers and api.server.servers[0].is_serving():
                await anyio.lowlevel.checkpoint()
        lock.release()
        lock.close()
        assert (await one.answer(CLAIM))[1]["job"]["id"] == job_id
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()


async def enqueue(api: Socket, count: int) -> list[str]:
    return [str((await core.enqueue(api.services)).id) for _ in range(count)]


async def until_waiting(api: Socket, count: int) -> None:
    """Until so many claims stand behind the one that is under way."""
    with anyio.fail_after(PATIENCE):
        while api.services.claims._batches.waiting((None, ())) != count:
            await anyio.lowlevel.checkpoint()
