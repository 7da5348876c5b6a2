"""Calls that wait: they tell of progress, end in time, and leave nothing behind when their client goes away."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest

pytestmark = pytest.mark.anyio

MODERN = "2026-07-28"
HANDSHAKE = "2025-06-18"


async def claimed(tools: Any, worker: str = "w") -> dict[str, Any]:
    await tools.ask("queue.enqueue", {"type": "t"})
    job = (await tools.ask("queue.claim", {"workerId": worker, "leaseSeconds": 60}))["job"]
    return {"jobId": job["id"], "workerId": worker, "leaseToken": job["leaseToken"]}


@pytest.mark.requirement("FR-010")
async def test_a_wait_tells_of_the_drain_and_ends_when_it_is_reached(
    agents: Any, transport: str, mode: str, sqlite_url: str
) -> None:
    async with agents.connect(transport, sqlite_url, mode) as tools:
        jobs = [await claimed(tools, "w-1"), await claimed(tools, "w-2")]
        await tools.ask("system.pause", {"mode": "drain", "reason": "upgrade"})
        told: list[tuple[float, float | None, str | None]] = []
        waiting = [anyio.Event(), anyio.Event()]
        answers: list[Any] = []

        async def report(progress: float, total: float | None, message: str | None) -> None:
            told.append((progress, total, message))
            waiting[len(told) - 1 if len(told) <= len(waiting) else -1].set()

        async def wait() -> None:
            arguments = {"for": "drained", "timeoutSeconds": 30}
            answers.append(await tools.ask("system.wait", arguments, progress_callback=report))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                for event, job in zip(waiting, jobs, strict=True):
                    await event.wait()  # each time something has changed
                    await tools.ask("queue.complete", job)
        assert answers[0]["reached"] is True
        assert answers[0]["metrics"]["safeToUpgrade"] is True
        assert [progress for progress, _, _ in told] == sorted({progress for progress, _, _ in told})
        assert {total for _, total, _ in told} == {30}
        assert "2 running" in str(told[0][2])
        assert "1 running" in str(told[1][2])


async def test_a_wait_that_cannot_be_reached_answers_when_its_time_is_up(
    agents: Any, transport: str, sqlite_url: str
) -> None:
    async with agents.connect(transport, sqlite_url) as tools:
        held = await claimed(tools)
        await tools.ask("system.pause", {"mode": "drain", "reason": "upgrade"})
        answer = await tools.ask("system.wait", {"for": "drained", "timeoutSeconds": 0.3})
        assert answer["reached"] is False
        assert answer["metrics"]["running"] == 1
        await tools.ask("queue.release", held)
        assert (await tools.ask("system.wait", {"for": "drained"}))["reached"] is True


@pytest.mark.requirement("FR-005")
async def test_a_waiting_claim_is_answered_by_a_pause_at_once(
    agents: Any, transport: str, mode: str, sqlite_url: str
) -> None:
    async with agents.connect(transport, sqlite_url, mode) as tools:
        answers: list[Any] = []

        async def claim() -> None:
            arguments = {"workerId": "w", "leaseSeconds": 60, "waitSeconds": 25}
            answers.append(await tools.ask("queue.claim", arguments))

        with anyio.fail_after(15):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(claim)
                while (await tools.ask("system.status"))["workers"]["connected"] == 0:
                    pass  # until the claim has come in
                paused = await tools.ask("system.pause", {"mode": "drain", "reason": "upgrade"})
        assert answers == [{"job": None, "system": paused["system"]}]


async def test_a_client_that_cancels_its_claim_takes_no_job(
    agents: Any, transport: str, mode: str, sqlite_url: str
) -> None:
    async with agents.connect(transport, sqlite_url, mode) as tools:
        with anyio.move_on_after(0.5) as given_up:
            await tools.ask("queue.claim", {"workerId": "gone", "leaseSeconds": 60, "waitSeconds": 25})
        assert given_up.cancelled_caught
        await nobody_takes_the_next_job(tools)


@pytest.mark.parametrize("version", [MODERN, HANDSHAKE])
async def test_a_client_that_goes_away_takes_no_job(agents: Any, version: str, sqlite_url: str) -> None:
    async with agents.http_server(sqlite_url) as url, agents.over_url(url) as tools:
        async with raw_client(url, version) as post:
            with pytest.raises(httpx2.ReadTimeout):
                await post(
                    "queue.claim", {"workerId": "gone", "leaseSeconds": 60, "waitSeconds": 25}, timeout=0.5
                )
        await nobody_takes_the_next_job(tools)


async def nobody_takes_the_next_job(tools: Any) -> None:
    # A claim that still waited would be served before this one.
    job = await tools.ask("queue.enqueue", {"type": "t"})
    claim = await tools.ask("queue.claim", {"workerId": "here", "leaseSeconds": 60, "waitSeconds": 10})
    assert claim["job"]["id"] == job["id"]


async def test_a_call_answers_with_json_and_a_wait_with_progress_with_a_stream(
    agents: Any, sqlite_url: str
) -> None:
    async with agents.http_server(sqlite_url) as url, agents.over_url(url) as tools:
        await claimed(tools)
        await tools.ask("system.pause", {"mode": "drain", "reason": "upgrade"})
        async with raw_client(url, MODERN) as post:
            status = await post("system.status", {})
            assert status.headers["content-type"] == "application/json"
            wait = await post("system.wait", {"for": "drained", "timeoutSeconds": 0.3}, progress_token="p-1")
            assert wait.headers["content-type"] == "text/event-stream"
            events = [json.loads(line[6:]) for line in wait.text.splitlines() if line.startswith("data: ")]
            assert [event.get("method") for event in events] == ["notifications/progress", None]
            assert events[0]["params"]["progressToken"] == "p-1"


@asynccontextmanager
async def raw_client(url: str, version: str) -> AsyncGenerator[Any]:
    """Calls of tools without the SDK's client, which would not leave without a word."""
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": version}
    envelope: dict[str, Any] = {}
    async with httpx2.AsyncClient(headers=headers) as http:
        about = {"name": "raw", "version": "1"}
        if version == MODERN:
            prefix = "io.modelcontextprotocol"
            envelope = {
                f"{prefix}/protocolVersion": version,
                f"{prefix}/clientInfo": about,
                f"{prefix}/clientCapabilities": {},
            }
        else:
            hello = {"protocolVersion": version, "capabilities": {}, "clientInfo": about}
            begun = await http.post(url, json=message("initialize", hello, 1))
            http.headers["mcp-session-id"] = begun.headers["mcp-session-id"]
            await http.post(url, json=message("notifications/initialized", {}))

        async def post(
            name: str, arguments: dict[str, Any], progress_token: str | None = None, timeout: float = 10
        ) -> httpx2.Response:
            meta = envelope | ({"progressToken": progress_token} if progress_token else {})
            params = {"name": name, "arguments": arguments, "_meta": meta}
            routing = {"mcp-method": "tools/call", "mcp-name": name} if version == MODERN else {}
            call = message("tools/call", params, 2)
            return await http.post(url, json=call, headers=routing, timeout=timeout)

        yield post


def message(method: str, params: dict[str, Any], number: int | None = None) -> dict[str, Any]:
    body = {"jsonrpc": "2.0", "method": method, "params": params}
    return body if number is None else body | {"id": number}
