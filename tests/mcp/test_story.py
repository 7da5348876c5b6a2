"""The whole story of a job and of a pause: over each transport, in each era of the protocol, on each store."""

from typing import Any

import anyio
import pytest

pytestmark = pytest.mark.anyio


@pytest.mark.requirement("FR-003", "FR-005", "FR-006", "RS-02")
async def test_a_job_goes_from_enqueue_to_complete_and_none_is_handed_out_while_paused(
    agents: Any, transport: str, mode: str, database_url: str
) -> None:
    async with agents.connect(transport, database_url, mode) as tools:
        first = await tools.ask("queue.enqueue", {"type": "review", "payload": {"pull": 7}})
        assert first["status"] == "queued"

        claim = await tools.ask("queue.claim", {"workerId": "w-1", "leaseSeconds": 60})
        assert claim["job"]["id"] == first["id"]
        assert claim["job"]["payload"] == {"pull": 7}
        assert claim["system"]["workersPaused"] is False
        held = {"jobId": first["id"], "workerId": "w-1", "leaseToken": claim["job"]["leaseToken"]}

        beat = await tools.ask("queue.heartbeat", {**held, "leaseSeconds": 60, "progress": {"step": 1}})
        assert beat["progress"] == {"step": 1}
        assert beat["system"] == claim["system"]

        second = await tools.ask("queue.enqueue", {"type": "review"})
        paused = await tools.ask("system.pause", {"mode": "drain", "reason": "Rolling API migration"})
        assert paused["system"]["workersPaused"] is True
        assert paused["system"]["version"] == claim["system"]["version"] + 1
        assert (await tools.ask("system.status"))["system"] == paused["system"]

        refused = await tools.ask("queue.claim", {"workerId": "w-2", "leaseSeconds": 60, "waitSeconds": 25})
        assert refused == {"job": None, "system": paused["system"]}
        beat = await tools.ask("queue.heartbeat", {**held, "leaseSeconds": 60, "compact": True})
        assert beat["system"] == paused["system"]
        assert beat["payload"] is None

        done = await tools.ask("queue.complete", {**held, "resultSummary": "Looks good."})
        assert (done["status"], done["resultSummary"]) == ("succeeded", "Looks good.")
        assert (await tools.ask("system.wait", {"for": "drained"}))["reached"] is True

        resumed = await tools.ask("system.resume", {"reason": "Migration done"})
        assert resumed["system"]["version"] == paused["system"]["version"] + 1
        claim = await tools.ask("queue.claim", {"workerId": "w-2", "leaseSeconds": 60, "waitSeconds": 25})
        assert claim["job"]["id"] == second["id"]

        history = await tools.ask("system.history")
        assert [(e["action"], e["outcome"]) for e in history["items"]] == [
            ("resume", "changed"),
            ("pause", "changed"),
        ]


async def test_every_outcome_and_every_way_back_has_its_tool(agents: Any, database_url: str) -> None:
    async with agents.in_process(database_url) as tools:
        job = await tools.ask("queue.enqueue", {"type": "t", "priority": 5, "maxAttempts": 2})
        assert await tools.ask("queue.get", {"jobId": job["id"]}) == job
        assert (await tools.ask("queue.list", {"status": "queued", "type": "t"}))["items"] == [job]

        async def claimed() -> dict[str, Any]:
            answer = await tools.ask("queue.claim", {"workerId": "w", "leaseSeconds": 60})
            return {"jobId": answer["job"]["id"], "workerId": "w", "leaseToken": answer["job"]["leaseToken"]}

        released = await tools.ask("queue.release", {**await claimed(), "reason": "going home"})
        assert (released["status"], released["attempt"]) == ("queued", 1)

        failed = await tools.ask("queue.fail", {**await claimed(), "errorMessage": "no such branch"})
        assert (failed["status"], failed["errorMessage"]) == ("failed", "no such branch")
        retried = await tools.ask("queue.retry", {"jobId": job["id"], "reason": "branch made"})
        assert (retried["status"], retried["attempt"]) == ("queued", 1)

        held = await claimed()
        asked = await tools.ask("queue.cancel", {"jobId": job["id"], "reason": "not needed"})
        assert (asked["status"], asked["cancelReason"]) == ("running", "not needed")
        ended = await tools.ask("queue.cancel_ack", {**held, "message": "stopped"})
        assert ended["status"] == "cancelled"

        present = await tools.ask("queue.presence", {"workerId": "w", "autoEnabled": True})
        assert present["system"] == (await tools.ask("system.status"))["system"]


async def test_a_stale_job_is_requeued_while_paused(agents: Any, database_url: str) -> None:
    async with agents.in_process(database_url) as tools:
        job = await tools.ask("queue.enqueue", {"type": "t"})
        await tools.ask("queue.claim", {"workerId": "lost", "leaseSeconds": 1})
        await tools.ask("system.pause", {"mode": "drain", "reason": "upgrade"})
        assert (await tools.refused("queue.requeue", {"jobId": job["id"], "reason": "lost"})).startswith(
            "[job_state_conflict] "
        )
        # A lease of a second runs out; that nothing runs any more is not yet "drained" then.
        with anyio.fail_after(30):
            while (await tools.ask("system.status"))["metrics"]["staleRunning"] == 0:
                await tools.ask("system.wait", {"for": "version", "sinceVersion": 2, "timeoutSeconds": 0.2})
        back = await tools.ask("queue.requeue", {"jobId": job["id"], "reason": "its worker is gone"})
        assert (back["status"], back["attempt"]) == ("queued", 2)
        assert (await tools.ask("system.wait", {"for": "drained"}))["reached"] is True
