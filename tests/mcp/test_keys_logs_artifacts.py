"""Over MCP as over REST: idempotency keys, request ids, time limits, a job's log and its artifacts."""

import base64
import hashlib
from typing import Any

import pytest

pytestmark = pytest.mark.anyio


async def refused(tools: Any, code: str, name: str, arguments: dict[str, Any]) -> str:
    result = await tools.result(name, arguments)
    assert result.is_error
    text: str = result.content[0].text
    assert text.startswith(f"[{code}] "), text
    return text


async def test_a_repeated_toggle_changes_nothing_and_never_says_what_is_no_longer_so(
    agents: Any, transport: str, sqlite_url: str
) -> None:
    async with agents.connect(transport, sqlite_url) as tools:
        pause = {"mode": "drain", "reason": "upgrade", "idempotencyKey": "k", "resumeAfterSeconds": 600}
        first = await tools.ask("system.pause", pause)
        again = await tools.ask("system.pause", pause)
        assert (first["replayed"], again["replayed"]) == (False, True)
        assert first["system"] == again["system"]
        assert first["system"]["resumeAt"] is not None
        await refused(
            tools, "idempotency_key_reused", "system.resume", {"reason": "r", "idempotencyKey": "k"}
        )
        await tools.ask("system.resume", {"reason": "done", "idempotencyKey": "k-2"})
        text = await refused(tools, "idempotency_stale", "system.pause", pause)
        assert "version 2" in text
        assert "version 3" in text
        history = await tools.ask("system.history", {})
        assert [event["action"] for event in history["items"]] == ["resume", "pause"]
        pauses = await tools.ask("system.history", {"action": "pause"})
        assert [event["action"] for event in pauses["items"]] == ["pause"]


async def test_a_repeated_enqueue_and_a_repeated_claim_get_the_same_job(
    agents: Any, transport: str, sqlite_url: str
) -> None:
    async with agents.connect(transport, sqlite_url) as tools:
        made = [
            await tools.ask("queue.enqueue", {"type": "t", "payload": {"n": 1}, "idempotencyKey": "k"})
            for _ in range(2)
        ]
        assert made[0] == made[1]
        await refused(tools, "idempotency_key_reused", "queue.enqueue", {"type": "u", "idempotencyKey": "k"})
        claim = {"workerId": "w", "leaseSeconds": 60, "requestId": "r"}
        first, again = [(await tools.ask("queue.claim", claim))["job"] for _ in range(2)]
        assert first["id"] == again["id"] == made[0]["id"]
        assert first["leaseToken"] != again["leaseToken"]
        held = {"jobId": first["id"], "workerId": "w"}
        await refused(tools, "lease_lost", "queue.complete", {**held, "leaseToken": first["leaseToken"]})
        await tools.ask("queue.complete", {**held, "leaseToken": again["leaseToken"]})
        text = await refused(tools, "idempotency_key_reused", "queue.claim", claim)
        assert "requestId" in text


async def test_a_worker_writes_into_the_log_and_leaves_files(
    agents: Any, transport: str, sqlite_url: str
) -> None:
    async with agents.connect(transport, sqlite_url) as tools:
        await tools.ask("queue.enqueue", {"type": "t"})
        job = (await tools.ask("queue.claim", {"workerId": "w", "leaseSeconds": 60}))["job"]
        held = {"jobId": job["id"], "workerId": "w", "leaseToken": job["leaseToken"]}
        for number in range(3):
            said = await tools.ask("queue.log", {**held, "message": f"line {number}", "level": "warn"})
            assert said["sequence"] == number + 1
        page = await tools.ask("queue.events", {"jobId": job["id"], "after": 1})
        assert ([item["message"] for item in page["items"]], page["nextAfter"]) == (["line 1", "line 2"], 3)
        content = b"\0\1binary" * 80_000
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        told = {**held, "name": "out.bin", "contentBase64": base64.b64encode(content).decode()}
        made = await tools.ask("queue.upload_artifact", {**told, "digest": digest})
        assert (made["size"], made["digest"], made["name"]) == (len(content), digest, "out.bin")
        assert await tools.ask("queue.upload_artifact", told) == made
        for wrong, code in (
            ({"contentBase64": "no base64!"}, "invalid_request"),
            ({"digest": "sha256:" + "0" * 64}, "invalid_request"),
            ({"workerId": "other"}, "job_not_owned"),
            ({"leaseToken": "another"}, "lease_lost"),
        ):
            await refused(tools, code, "queue.upload_artifact", {**told, **wrong})
        await refused(tools, "job_not_owned", "queue.log", {**held, "workerId": "other", "message": "x"})


async def test_a_file_above_700_kib_is_refused_and_one_of_that_size_is_taken(
    agents: Any, sqlite_url: str
) -> None:
    async with agents.connect("stdio", sqlite_url) as tools:
        await tools.ask("queue.enqueue", {"type": "t"})
        job = (await tools.ask("queue.claim", {"workerId": "w", "leaseSeconds": 60}))["job"]
        held = {"jobId": job["id"], "workerId": "w", "name": "n"}
        for size, fits in ((700 * 1024, True), (700 * 1024 + 1, False), (720_000, False)):
            told = {**held, "contentBase64": base64.b64encode(b"x" * size).decode()}
            if fits:
                assert (await tools.ask("queue.upload_artifact", told))["size"] == size
            else:
                result = await tools.result("queue.upload_artifact", told)
                assert result.is_error
                assert result.content[0].text.startswith(("[body_too_large]", "[invalid_request]"))
