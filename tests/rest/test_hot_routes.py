"""The hot routes answer in front of the framework, and exactly as it would."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from holdfast_dashboard.hot_routes import HotRoutes
from rest.harness import PATIENCE, Api, Socket, build_app, holder, on_job, open_api, open_socket
from support.tokens import bearer, create_token

pytestmark = pytest.mark.anyio

CLAIM: Final = "/api/queue/jobs/claim"
NOBODY: Final = "/api/queue/jobs/0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90"
BODY: Final = {"workerId": "w-1", "leaseSeconds": 60}
JSON: Final = {"content-type": "application/json"}


def found(method: str, path: str) -> bool:
    return build_app().hot_routes.find({"method": method, "path": path}) is not None  # type: ignore[attr-defined]


def test_what_busy_workers_ask_for_is_hot_and_nothing_else() -> None:
    assert found("POST", CLAIM)
    assert found("POST", f"{NOBODY}/heartbeat")
    assert found("POST", f"{NOBODY}/complete")
    for method, path in (
        ("GET", CLAIM),
        ("HEAD", CLAIM),
        ("PUT", f"{NOBODY}/complete"),
        ("POST", CLAIM + "/"),
        ("POST", "/prefix" + CLAIM),
        ("POST", "/api/queue/jobs"),
        ("POST", "/api/queue/jobs/"),
        ("POST", "/api/queue/jobs//heartbeat"),
        ("POST", "/api/queue/jobs/a/b/heartbeat"),
        ("POST", f"{NOBODY}/heartbeat/"),
        ("POST", f"{NOBODY}/fail"),
    ):
        assert not found(method, path), (method, path)


#: Method, path, and what is sent with it: all of it is answered without a job being taken.
ASKED: Final[list[tuple[str, str, dict[str, Any]]]] = [
    ("POST", CLAIM, {"json": BODY}),
    ("POST", CLAIM, {"json": {**BODY, "waitSeconds": 5}}),
    ("POST", CLAIM, {"json": {**BODY, "newer": 1, "même": 2}}),
    ("POST", CLAIM, {"json": {**BODY, **{f"newer{n}": n for n in range(30)}}}),
    ("POST", CLAIM, {"json": {**BODY, "wait_seconds": 5}}),
    ("POST", CLAIM, {"json": {"workerId": "not a name", "leaseSeconds": "60", "LEASESECONDS": 1}}),
    ("POST", CLAIM, {"content": b"", "headers": JSON}),
    ("POST", CLAIM, {"content": b"[" * 5_000, "headers": JSON}),
    ("POST", CLAIM, {"content": b'{"workerId": "w"', "headers": JSON}),
    ("POST", CLAIM, {"content": b"\xff\xfe{}", "headers": JSON}),
    ("POST", CLAIM, {"content": b"{}", "headers": {"content-type": "text/plain"}}),
    ("POST", CLAIM, {"content": b" " * 1_048_577, "headers": JSON}),
    ("POST", CLAIM, {"json": BODY, "headers": {"host": "elsewhere.example"}}),
    ("POST", CLAIM, {"json": BODY, "headers": {"origin": "https://elsewhere.example"}}),
    ("POST", CLAIM, {"json": BODY, "headers": {"sec-fetch-site": "cross-site"}}),
    ("POST", CLAIM, {"json": BODY, "headers": {"x-padding": "x" * 40_000}}),
    ("POST", CLAIM + "/", {"json": BODY}),
    ("POST", f"{NOBODY}/heartbeat", {"json": BODY}),
    ("POST", "/api/queue/jobs/no-id/heartbeat", {"json": BODY}),
    ("POST", "/api/queue/jobs/claim/heartbeat", {"json": BODY}),
    ("POST", f"{NOBODY}/complete", {"json": {"workerId": "w-1"}}),
    *(
        (method, path, {})
        for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS")
        for path in (CLAIM, f"{NOBODY}/heartbeat", f"{NOBODY}/complete")
    ),
]


async def test_the_framework_answers_the_same(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        await api.pause()
        for method, path, more in ASKED:
            await api.ask(method, path, **more)
            hot = await api.ask(method, path, **more)  # by the short way, where the first was let through
            api.app.hot_routes, kept = HotRoutes({}), api.app.hot_routes  # type: ignore[attr-defined]
            plain = await api.ask(method, path, **more)
            api.app.hot_routes = kept  # type: ignore[attr-defined]
            where = (method, path, str(more)[:100])
            assert (hot.status_code, hot.content) == (plain.status_code, plain.content), where
            assert sorted(hot.headers.multi_items()) == sorted(plain.headers.multi_items()), where


@pytest.mark.parametrize("hot", [True, False])
async def test_a_job_is_claimed_kept_and_completed(database_url: str, hot: bool) -> None:
    async with open_api(database_url) as api:
        if not hot:
            api.app.hot_routes = HotRoutes({})  # type: ignore[attr-defined]
        made = await api.enqueue(payload={"ä": [1, None]})
        job = await api.claimed()
        assert (job["id"], job["payload"]) == (made["id"], {"ä": [1, None]})
        assert (await api.post(on_job(job, "heartbeat"), holder(job, leaseSeconds=60)))["status"] == "running"
        assert (await api.post(on_job(job, "complete"), holder(job)))["status"] == "succeeded"
        assert (await api.claim())["job"] is None


async def test_each_version_of_the_pause_has_its_own_answer(database_url: str) -> None:
    async with open_api(database_url) as api:
        for mode in ("drain", "quiesce", "drain"):
            paused = await api.pause(mode, f"for {mode}")
            for worker in ("w-1", "w-2"):
                assert await api.claim(worker) == {"job": None, "system": paused["system"]}
        resumed = await api.resume()
        assert await api.claim() == {"job": None, "system": resumed["system"]}
        await api.enqueue()
        assert (await api.claim())["job"] is not None
        paused = await api.pause()
        assert await api.claim() == {"job": None, "system": paused["system"]}
        counts = api.services.counters.own()
        assert [
            counts.count("claims_paused"),
            counts.count("claims_empty"),
            counts.count("claims_granted"),
        ] == [7, 1, 1]


async def let_through(api: Socket, paused: bool) -> None:
    """Requests as ours are let through once, so that the next may be answered at once while paused."""
    if paused:
        await api.pause()
    async with raw(api) as (stream, reader):
        await stream.send(whole(CLAIM, BODY))
        assert (await answered(reader))[0] == 200


@asynccontextmanager
async def raw(api: Socket) -> AsyncGenerator[tuple[anyio.abc.SocketStream, BufferedByteReceiveStream]]:
    with anyio.fail_after(PATIENCE):
        async with await anyio.connect_tcp("127.0.0.1", api.port) as stream:
            yield stream, BufferedByteReceiveStream(stream)


async def answered(reader: BufferedByteReceiveStream) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of the next answer."""
    first, *lines = (await reader.receive_until(b"\r\n\r\n", 65_536)).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return (
        int(first.split()[1]),
        headers,
        json.loads(await reader.receive_exactly(int(headers["content-length"]))),
    )


def head(path: str, length: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{length}\r\n\r\n".encode()


def whole(path: str, body: Any) -> bytes:
    content = json.dumps(body).encode()
    return head(path, f"Content-Length: {len(content)}") + content


@pytest.mark.parametrize("paused", [True, False])
async def test_a_body_may_come_in_many_parts(sqlite_url: str, paused: bool) -> None:
    content = json.dumps({**BODY, "workerCapabilities": ["c" * 100] * 20}).encode()
    async with open_socket(sqlite_url) as api, raw(api) as (stream, reader):
        await let_through(api, paused)
        await stream.send(head(CLAIM, f"Content-Length: {len(content)}"))
        for start in range(0, len(content), 100):
            await stream.send(content[start : start + 100])
            await anyio.wait_all_tasks_blocked()
        assert (await answered(reader))[0] == 200
        await stream.send(head(CLAIM, "Transfer-Encoding: chunked"))
        for start in range(0, len(content), 100):
            part = content[start : start + 100]
            await stream.send(b"%x\r\n%s\r\n" % (len(part), part))
            await anyio.wait_all_tasks_blocked()
        await stream.send(b"0\r\n\r\n")
        assert (await answered(reader))[0] == 200


@pytest.mark.parametrize("paused", [True, False])
async def test_requests_on_one_connection_are_answered_in_turn_also_when_sent_at_once(
    sqlite_url: str, paused: bool
) -> None:
    async with open_socket(sqlite_url) as api, raw(api) as (stream, reader):
        await let_through(api, paused)
        await stream.send(
            whole(CLAIM, BODY)
            + whole(CLAIM, {"workerId": "w-1"})
            + whole(f"{NOBODY}/heartbeat", BODY)
            + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
            + whole(CLAIM, {**BODY, "waitSeconds": 0.1})
            + whole(CLAIM, {**BODY, "newer": 1})
        )
        assert [(await answered(reader))[0] for _ in range(5)] == [200, 422, 404, 200, 200]
        status, headers, _ = await answered(reader)
        assert (status, headers["holdfast-ignored-fields"]) == (200, "newer")
        await stream.send(whole(CLAIM, BODY))
        assert (await answered(reader))[0] == 200


@pytest.mark.parametrize("length", ["Content-Length: 1048577", "Transfer-Encoding: chunked"])
async def test_a_body_that_is_too_large_is_refused_while_it_comes(sqlite_url: str, length: str) -> None:
    async with open_socket(sqlite_url) as api, raw(api) as (stream, reader):
        await stream.send(head(CLAIM, length))
        if "chunked" in length:
            for _ in range(17):
                await stream.send(b"10000\r\n" + b" " * 65_536 + b"\r\n")
        status, headers, body = await answered(reader)
        assert (status, headers["connection"], body["code"]) == (413, "close", "body_too_large")


async def test_who_may_not_is_told_before_its_body_is_read(sqlite_url: str) -> None:
    async with open_api(sqlite_url, auth_provider="token", max_connections_per_caller=1) as api:
        worker = bearer(await create_token(sqlite_url, workerId="w-1"))
        viewer = bearer(await create_token(sqlite_url, role="viewer", user="vic"))
        for path in (CLAIM, f"{NOBODY}/heartbeat", f"{NOBODY}/complete"):
            await api.refused(403, "not_allowed", "POST", path, content=b"{", headers={**viewer, **JSON})
            await api.refused(422, "invalid_request", "POST", path, content=b"{", headers={**worker, **JSON})
            refused = await api.ask("POST", path, BODY)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (
                401,
                'Bearer realm="holdfast"',
            )
        other = {**BODY, "workerId": "w-2"}
        await api.refused(403, "not_allowed", "POST", CLAIM, other, headers=worker)
        assert (await api.ask("POST", CLAIM, BODY, headers=worker)).status_code == 200
        await one_at_a_time(api, worker)


async def one_at_a_time(api: Api, worker: dict[str, str]) -> None:
    """A claim that waits counts as one that is open; when it has ended there is room again."""
    async with anyio.create_task_group() as tasks:
        waiting = {**BODY, "waitSeconds": 30}
        tasks.start_soon(lambda: api.http.post(CLAIM, json=waiting, headers=worker, timeout=PATIENCE))
        with anyio.fail_after(PATIENCE):
            while not len(api.services.waiters):
                await anyio.sleep(0.01)
        await api.refused(429, "too_many_requests", "POST", CLAIM, BODY, headers=worker)
        tasks.cancel_scope.cancel()
    assert (await api.ask("POST", CLAIM, BODY, headers=worker)).status_code == 200


async def test_a_claim_that_waits_ends_with_its_credential(sqlite_url: str) -> None:
    async with open_api(sqlite_url, auth_provider="token") as api:
        admin = bearer(await create_token(sqlite_url, role="admin", user="root"))
        token = await create_token(sqlite_url, workerId="w-1")
        answers: list[Any] = []

        async def wait() -> None:
            waiting = {**BODY, "waitSeconds": 30}
            answers.append(await api.ask("POST", CLAIM, waiting, headers=bearer(token)))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                while not len(api.services.waiters):
                    await anyio.sleep(0.01)
                await api.ask("DELETE", f"/api/queue/worker-tokens/{token.id}", headers=admin)
        assert answers[0].status_code == 401
        assert answers[0].headers["www-authenticate"] == 'Bearer realm="holdfast"' + ', error="invalid_token"'
        assert len(api.services.waiters) == 0


async def test_the_short_way_is_open_to_those_alone_who_were_let_through(database_url: str) -> None:
    admin, worker = (
        await create_token(database_url, role="admin", user="a"),
        await create_token(database_url, workerId="w-1"),
    )
    async with open_api(database_url, auth_provider="token") as api:
        for _ in range(3):
            assert (await api.ask("POST", CLAIM, BODY, headers=bearer(worker))).status_code == 200
        passes = api.app._authentication._passes  # type: ignore[attr-defined]
        assert len(passes) == 1
        for strange in (
            {"host": "elsewhere.example"},
            {"origin": "https://elsewhere.example"},
            {"authorization": f"{bearer(worker)['Authorization']}x"},
            {"x-moonmind-worker-token": admin.token},
            {"cookie": "holdfast=x"},
        ):
            refused = await api.ask("POST", CLAIM, BODY, headers={**bearer(worker), **strange})
            assert refused.status_code in {401, 403, 421}, strange
        assert len(passes) == 1
        gone = await api.ask("DELETE", f"/api/queue/worker-tokens/{worker.id}", headers=bearer(admin))
        assert gone.status_code == 200
        with anyio.fail_after(5):
            while (now := await api.ask("POST", CLAIM, BODY, headers=bearer(worker))).status_code == 200:
                pass
        assert (now.status_code, now.json()["code"]) == (401, "not_authenticated")


async def test_the_short_way_has_the_same_limit(sqlite_url: str) -> None:
    worker = await create_token(sqlite_url, workerId="w-1")
    async with open_api(sqlite_url, auth_provider="token", rate_limit_per_second=1) as api:
        answers = [await api.ask("POST", CLAIM, BODY, headers=bearer(worker)) for _ in range(6)]
        assert answers[0].status_code == 200
        assert answers[-1].status_code == 429
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert answers[-1].headers["x-content-type-options"] == "nosniff"


async def test_while_paused_a_claim_is_answered_without_the_framework(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_socket(sqlite_url) as api:
        await let_through(api, paused=True)
        monkeypatch.setattr(type(api.app), "__call__", None)
        async with raw(api) as (stream, reader):
            for _ in range(3):
                await stream.send(whole(CLAIM, BODY))
                _, headers, body = await answered(reader)
                assert body["system"]["workersPaused"]
                assert headers["content-security-policy"].startswith("default-src 'none'")
                assert "date" in headers


async def test_while_paused_old_and_careful_clients_are_answered_too(sqlite_url: str) -> None:
    content = json.dumps(BODY).encode()
    async with open_socket(sqlite_url) as api:
        await let_through(api, paused=True)
        for more in ("Connection: close", ""):
            version = "1.1" if more else "1.0"
            async with raw(api) as (stream, reader):
                lines = head(CLAIM, f"Content-Length: {len(content)}" + (f"\r\n{more}" if more else ""))
                await stream.send(lines.replace(b"HTTP/1.1", f"HTTP/{version}".encode()) + content)
                status, headers, body = await answered(reader)
                assert (status, headers["connection"], body["job"]) == (200, "close", None)
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
        async with raw(api) as (stream, reader):
            await stream.send(head(CLAIM, f"Content-Length: {len(content)}\r\nExpect: 100-continue"))
            assert (await reader.receive_until(b"\r\n\r\n", 1_000)).startswith(b"HTTP/1.1 100 ")
            await stream.send(content)
            assert (await answered(reader))[0] == 200
