"""Every route once, in one story, on both databases; each answer is also compared with /openapi.json."""

import pytest

from rest.harness import holder, on_job, open_api, operations
from support.core import sql, until

pytestmark = pytest.mark.anyio


@pytest.mark.requirement("FR-006")
async def test_a_job_goes_from_the_producer_through_a_worker_to_its_end(database_url: str) -> None:
    async with open_api(database_url) as api:
        answer = await api.ask(
            "POST", "/api/queue/jobs", {"type": "mail", "payload": {"to": "ü", "n": [1, 2.5]}}
        )
        assert answer.status_code == 201
        job = answer.json()
        assert answer.headers["location"] == f"/api/queue/jobs/{job['id']}"
        assert (job["status"], job["attempt"], job["leaseToken"], job["priority"]) == ("queued", 1, None, 0)
        assert await api.get(answer.headers["location"]) == job

        claim = await api.claim("w-1", allowedTypes=["mail"], workerCapabilities=["gpu"])
        assert claim["system"]["workersPaused"] is False
        held = claim["job"]
        assert (held["id"], held["status"], held["claimedBy"]) == (job["id"], "running", "w-1")
        assert held["payload"] == job["payload"]
        assert held["leaseToken"]
        assert (await api.get(f"/api/queue/jobs/{job['id']}"))["leaseToken"] is None

        body = holder(held, leaseSeconds=90, phase="parked", checkpoint="stage 2", progress={"done": 0.5})
        beat = await api.post(on_job(held, "heartbeat"), body)
        assert (beat["phase"], beat["checkpoint"], beat["progress"]) == ("parked", "stage 2", {"done": 0.5})
        assert beat["leaseExpiresAt"] > held["leaseExpiresAt"]
        assert beat["system"]["version"] == 1
        assert beat["payload"] == job["payload"]
        compact = await api.post(on_job(held, "heartbeat"), holder(held, leaseSeconds=90, compact=True))
        assert compact["payload"] is None

        done = await api.post(on_job(held, "complete"), holder(held, resultSummary="sent"))
        assert (done["status"], done["resultSummary"]) == ("succeeded", "sent")
        assert await api.post(on_job(held, "complete"), holder(held, resultSummary="sent")) == done
        problem = await api.refused(
            409, "job_state_conflict", "POST", on_job(held, "fail"), holder(held, errorMessage="no")
        )
        assert "complete" in problem["detail"]
        (listed,) = (await api.get("/api/queue/jobs", status="succeeded", type="mail", claimedBy="w-1"))[
            "items"
        ]
        assert listed["id"] == job["id"]


async def test_a_job_fails_is_retried_is_released_and_is_cancelled(database_url: str) -> None:
    async with open_api(database_url) as api:
        first = await api.enqueue()
        held = await api.claimed()
        failed = await api.post(on_job(held, "fail"), holder(held, errorMessage="it broke"))
        assert (failed["status"], failed["errorMessage"]) == ("failed", "it broke")
        again = await api.post(on_job(first, "retry"))  # no body at all
        assert (again["status"], again["attempt"]) == ("queued", 1)
        held = await api.claimed()
        late = await api.post(on_job(held, "fail"), holder(held, errorMessage="it broke", retryable=True))
        assert (late["status"], late["attempt"]) == ("queued", 2)
        assert late["nextAttemptAt"] > late["updatedAt"]
        assert (await api.claim())["job"] is None  # not due yet
        assert (await api.post(on_job(first, "cancel"), {"reason": "enough"}))["status"] == "cancelled"

        second = await api.enqueue()
        held = await api.claimed()
        back = await api.post(on_job(held, "release"), holder(held, reason="going home"))
        assert (back["status"], back["attempt"], back["createdAt"]) == ("queued", 1, second["createdAt"])
        held = await api.claimed()
        asked = await api.post(on_job(held, "cancel"))
        assert asked["status"] == "running"
        assert asked["cancelRequestedAt"]
        beat = await api.post(on_job(held, "heartbeat"), holder(held, leaseSeconds=60))
        assert beat["cancelRequestedAt"] == asked["cancelRequestedAt"]
        gone = await api.post(on_job(held, "cancel/ack"), holder(held, message="stopped"))
        assert gone["status"] == "cancelled"
        assert (await api.post(on_job(second, "retry"), {"reason": "again"}))["status"] == "queued"


@pytest.mark.requirement("QS-04")
async def test_a_stale_job_is_shown_and_put_back_while_paused(database_url: str) -> None:
    async with open_api(database_url) as api:
        job = await api.enqueue()
        held = await api.claimed()
        problem = await api.refused(
            409, "job_state_conflict", "POST", on_job(job, "requeue"), {"reason": "its worker is dead"}
        )
        assert "w-1" in problem["detail"]
        await api.pause()
        past = (
            "2020-01-01 00:00:00+00:00"
            if api.database.dialect == "postgresql"
            else "2020-01-01 00:00:00.000000"
        )
        await sql(api.database, f"UPDATE agent_jobs SET lease_expires_at = '{past}'")
        metrics = (await api.get("/api/system/worker-pause"))["metrics"]
        assert (metrics["running"], metrics["staleRunning"], metrics["safeToUpgrade"]) == (0, 1, False)
        back = await api.post(on_job(job, "requeue"), {"reason": "its worker is dead"})
        assert (back["status"], back["attempt"]) == ("queued", 2)
        assert (await api.get("/api/system/worker-pause"))["metrics"]["safeToUpgrade"] is True
        await api.refused(409, "lease_lost", "POST", on_job(job, "heartbeat"), holder(held, leaseSeconds=60))


@pytest.mark.requirement("FR-003", "FR-004", "FR-005", "US1-2")
async def test_a_pause_drains_is_waited_for_and_ends(database_url: str) -> None:
    async with open_api(database_url) as api:
        await api.enqueue()
        await api.enqueue()
        held = await api.claimed()
        paused = await api.pause("drain", "  an upgrade ", expectedVersion=1)
        system = paused["system"]
        assert (system["workersPaused"], system["mode"], system["reason"], system["version"]) == (
            True,
            "drain",
            "an upgrade",
            2,
        )
        assert system["requestedBy"] == "local operator"
        assert paused["audit"]["latest"][0]["outcome"] == "changed"
        assert await api.claim() == {"job": None, "system": system}
        waited = await api.get("/api/system/worker-pause/wait", **{"for": "drained", "timeoutSeconds": 0})
        assert (waited["reached"], waited["metrics"]["running"]) == (False, 1)
        assert (await api.pause("quiesce", "an upgrade"))["system"]["version"] == 3
        await api.post(
            on_job(held, "heartbeat"), holder(held, leaseSeconds=60, phase="parked", observedVersion=3)
        )
        waited = await api.get("/api/system/worker-pause/wait", **{"for": "parked"})
        assert (waited["reached"], waited["metrics"]["isParked"]) == (True, True)
        await api.post(on_job(held, "complete"), holder(held))
        waited = await api.get("/api/system/worker-pause/wait", **{"for": "drained"})
        assert (waited["reached"], waited["metrics"]["safeToUpgrade"]) == (True, True)
        waited = await api.get("/api/system/worker-pause/wait", **{"for": "version", "sinceVersion": 2})
        assert waited["reached"] is True

        problem = await api.refused(
            409,
            "version_conflict",
            "POST",
            "/api/system/worker-pause",
            {"action": "resume", "reason": "done", "expectedVersion": 2},
        )
        assert problem["system"]["version"] == 3
        resumed = await api.resume("done")
        assert (resumed["system"]["workersPaused"], resumed["warning"]) == (False, None)
        waited = await api.get("/api/system/worker-pause/wait", **{"for": "running"})
        assert waited["reached"] is True
        problem = await api.refused(
            409, "not_paused", "POST", "/api/system/worker-pause", {"action": "resume", "reason": "done"}
        )
        assert problem["system"]["version"] == 4
        page = await api.get("/api/system/control-events", limit=2)
        assert [e["outcome"] for e in page["items"]] == ["refused", "changed"]
        rest = await api.get("/api/system/control-events", before=page["nextBefore"])
        assert [e["version"] for e in rest["items"]] == [3, 3, 2]
        only = await api.get("/api/system/control-events", outcome="refused")
        assert [e["code"] for e in only["items"]] == ["not_paused", "version_conflict"]


async def test_a_resume_before_drained_warns_and_the_log_says_who_accepted_the_risk(
    database_url: str,
) -> None:
    async with open_api(database_url) as api:
        await api.enqueue()
        await api.claimed()
        await api.pause()
        resumed = await api.resume(forceResume=True)
        assert "1 job still running" in resumed["warning"]
        assert resumed["audit"]["latest"][0]["forceResume"] is True
    async with open_api(database_url, require_force_resume=True) as api:
        await api.pause()
        problem = await api.refused(
            409, "resume_not_drained", "POST", "/api/system/worker-pause", {"action": "resume", "reason": "x"}
        )
        assert problem["system"]["workersPaused"] is True


async def test_workers_that_are_idle_or_locally_paused_are_in_the_fleet(database_url: str) -> None:
    async with open_api(database_url) as api:
        body = {"workerId": "w-1", "autoEnabled": False, "workerCapabilities": ["gpu", "gpu", "a"]}
        answer = await api.post("/api/queue/workers/heartbeat", body)
        assert answer["system"]["workersPaused"] is False
        await api.claim("w-2", observedVersion=1)

        async def both() -> list[dict[str, object]]:
            items = (await api.get("/api/system/workers"))["items"]
            return items if len(items) == 2 else []

        first, second = await until(both)
        assert (first["id"], first["autoEnabled"], first["state"]) == ("w-1", False, "paused")
        assert first["capabilities"] == ["a", "gpu"]
        assert (second["id"], second["state"], second["observedVersion"]) == ("w-2", "idle", 1)
        assert {first["transport"], second["transport"]} == {"rest"}


async def test_lists_come_in_pages_newest_first(database_url: str) -> None:
    async with open_api(database_url) as api:
        made = [(await api.enqueue(type=f"t{n}"))["id"] for n in range(5)]
        seen: list[str] = []
        query: dict[str, object] = {"limit": 2}
        for _ in range(3):
            page = await api.get("/api/queue/jobs", **query)
            seen += [job["id"] for job in page["items"]]
            query["cursor"] = page["nextCursor"]
        assert seen == made[::-1]
        assert query["cursor"] is None
        assert [j["type"] for j in (await api.get("/api/queue/jobs", q="t3"))["items"]] == ["t3"]


async def test_health_the_page_and_the_description_are_there(database_url: str) -> None:
    async with open_api(database_url) as api:
        assert await api.get("/healthz") == {"ok": True}
        assert await api.get("/readyz") == {"ok": True, "degraded": False, "detail": "The database answers."}
        page = await api.ask("GET", "/tasks")
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        style = await api.ask("GET", "/tasks/assets/tasks.css")
        assert style.headers["content-type"].startswith("text/css")
        home = await api.ask("GET", "/")
        assert (home.status_code, home.headers["location"]) == (307, "/tasks")
        described = (await api.ask("GET", "/openapi.json")).json()
        assert {(m.upper(), p) for p, item in described["paths"].items() for m in item} == {
            (op.method, op.path) for op in operations()
        }
