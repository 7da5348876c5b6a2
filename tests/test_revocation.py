"""A credential that ends is refused within five seconds by every process, and what is open by it ends, too."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import httpx2
import pytest

from support.push import push
from support.servers import Server, start_server
from support.tokens import bearer, create_token

pytestmark = pytest.mark.anyio

WITHIN_SECONDS: Final = 5.0
#: What the tests may lose to a slow machine, beyond what the server has.
SLACK_SECONDS: Final = 2.0
CLAIM: Final = {"workerId": "w", "leaseSeconds": 60}


@asynccontextmanager
async def two_servers(url: str) -> AsyncGenerator[tuple[Server, Server]]:
    async with (
        start_server(url, HOLDFAST_AUTH_PROVIDER="token") as here,
        start_server(url, HOLDFAST_AUTH_PROVIDER="token") as there,
    ):
        yield here, there


async def until_refused(server: Server, path: str, headers: dict[str, str], **more: Any) -> float:
    """When the server first refused it, by the monotonic clock."""
    async with httpx2.AsyncClient(base_url=server.url, headers=headers) as http:
        with anyio.fail_after(WITHIN_SECONDS + SLACK_SECONDS):
            while (await http.request("GET", path, **more)).status_code != 401:
                await anyio.sleep(0.05)
    return time.monotonic()


async def end_of_stream(server: Server, headers: dict[str, str], begun: anyio.Event) -> float:
    async with (
        httpx2.AsyncClient(base_url=server.url, timeout=30) as http,
        http.stream("GET", "/api/system/events", headers=headers) as answer,
    ):
        assert answer.status_code == 200
        async for _ in answer.aiter_raw():
            begun.set()
    return time.monotonic()


async def test_a_revoked_token_is_refused_by_every_process_and_its_streams_end(
    database_url: str, record_property: Any
) -> None:
    admin = await create_token(database_url, role="admin", user="root")
    token = await create_token(database_url, role="viewer", user="vic")
    ends: dict[str, float] = {}
    async with two_servers(database_url) as (here, there):
        async with httpx2.AsyncClient(base_url=there.url) as http:
            assert (await http.get("/api/session", headers=bearer(token))).status_code == 200
        async with anyio.create_task_group() as tasks:

            async def watch(name: str, server: Server, begun: anyio.Event) -> None:
                ends[name] = await end_of_stream(server, bearer(token), begun)

            begun = [anyio.Event(), anyio.Event()]
            tasks.start_soon(watch, "stream here", here, begun[0])
            tasks.start_soon(watch, "stream there", there, begun[1])
            with anyio.fail_after(20):
                for event in begun:
                    await event.wait()
            async with httpx2.AsyncClient(base_url=here.url) as http:
                answer = await http.delete(f"/api/tokens/{token.id}", headers=bearer(admin))
                assert answer.json()["revokedAt"] is not None
            revoked_at = time.monotonic()
            ends["rest here"] = await until_refused(here, "/api/session", bearer(token))
            ends["rest there"] = await until_refused(there, "/api/session", bearer(token))
        for name, at in ends.items():
            record_property(f"revoked to refused, {name}, s", round(at - revoked_at, 2))
            assert at - revoked_at < WITHIN_SECONDS, name
        for server in (here, there):
            assert token.token[-20:] not in server.log


async def test_a_revoked_worker_s_session_is_closed_with_4001_and_its_waiting_claim_ends(
    database_url: str,
) -> None:
    admin = await create_token(database_url, role="admin", user="root")
    token = await create_token(database_url, workerId="w")
    async with two_servers(database_url) as (here, there):
        async with (
            push(there.url, "w", ready=1, token=token.token) as worker,
            anyio.create_task_group() as tasks,
        ):
            waited: list[int] = []

            async def wait() -> None:
                async with httpx2.AsyncClient(base_url=here.url, timeout=60) as http:
                    body = {**CLAIM, "waitSeconds": 30}
                    answer = await http.post("/api/queue/jobs/claim", json=body, headers=bearer(token))
                    waited.append(answer.status_code)

            tasks.start_soon(wait)
            async with httpx2.AsyncClient(base_url=here.url) as http:
                fleet: list[str] = []
                with anyio.fail_after(20):
                    while "w" not in fleet:  # both are under way
                        items = (await http.get("/api/system/workers", headers=bearer(admin))).json()["items"]
                        fleet = [one["id"] for one in items]
                await http.delete(f"/api/queue/worker-tokens/{token.id}", headers=bearer(admin))
            revoked_at = time.monotonic()
            assert await worker.closed() == 4001
            assert time.monotonic() - revoked_at < WITHIN_SECONDS + SLACK_SECONDS
        assert waited == [401]
        assert time.monotonic() - revoked_at < WITHIN_SECONDS + SLACK_SECONDS


async def test_what_a_token_opened_ends_when_it_expires(sqlite_url: str) -> None:
    async with start_server(sqlite_url, HOLDFAST_AUTH_PROVIDER="token") as server:
        token = await create_token(sqlite_url, role="viewer", user="vic", expiresInSeconds=4)
        made_at = time.monotonic()
        begun = anyio.Event()
        ended_at = await end_of_stream(server, bearer(token), begun)
        assert begun.is_set()
        assert 3.0 < ended_at - made_at < 4.0 + WITHIN_SECONDS
        async with httpx2.AsyncClient(base_url=server.url) as http:
            assert (await http.get("/api/session", headers=bearer(token))).status_code == 401


async def test_a_session_ends_with_the_token_that_was_traded_for_it(sqlite_url: str) -> None:
    admin = await create_token(sqlite_url, role="admin", user="root")
    token = await create_token(sqlite_url, role="viewer", user="vic")
    async with two_servers(sqlite_url) as (here, there):
        async with httpx2.AsyncClient(base_url=here.url) as http:
            answer = await http.post("/login", json={"token": token.token})
            cookie = {"Cookie": answer.headers["set-cookie"].split(";")[0]}
            assert (await http.get("/api/session", headers=cookie)).json()["name"] == "vic"
            http.cookies.clear()  # or two credentials would come
            answer = await http.delete(f"/api/tokens/{token.id}", headers=bearer(admin))
            assert answer.status_code == 200
        await until_refused(here, "/api/session", cookie)
        await until_refused(there, "/api/session", cookie)


async def test_who_revokes_its_own_token_is_told_that_it_is_done(sqlite_url: str) -> None:
    admin = await create_token(sqlite_url, role="admin", user="root")
    async with (
        start_server(sqlite_url, HOLDFAST_AUTH_PROVIDER="token") as server,
        httpx2.AsyncClient(base_url=server.url) as http,
    ):
        answer = await http.delete(f"/api/tokens/{admin.id}", headers=bearer(admin))
        assert answer.status_code == 200
        await until_refused(server, "/api/session", bearer(admin))
