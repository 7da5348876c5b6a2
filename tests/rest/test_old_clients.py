"""A worker that was written for an earlier system works unchanged: no tokens, unknown fields, a header of its own."""

from collections.abc import Generator
from typing import Any

import httpx2
import pytest

from support.servers import Server, start_server

TOKEN = {"X-MoonMind-Worker-Token": "mmwt_an_old_token_that_nobody_here_has_made"}


class OldWorker:
    """Its loop: claim, heartbeat, events, an upload, an outcome. What it does not know, it does not read."""

    def __init__(self, http: httpx2.Client) -> None:
        self._http = http

    def post(self, path: str, **body: Any) -> Any:
        answer = self._http.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def claim(self) -> Any:
        said = {"workerId": "codex-1", "leaseSeconds": 120, "allowedTypes": ["codex_exec"]}
        return self.post(
            "/api/queue/jobs/claim", **said, workerCapabilities=["codex", "git"], workerRuntime="codex"
        )

    def finish(self, job: dict[str, Any], verb: str, **body: Any) -> Any:
        return self.post(f"/api/queue/jobs/{job['id']}/{verb}", workerId="codex-1", **body)

    def upload(self, job: dict[str, Any], name: str, content: bytes) -> Any:
        answer = self._http.post(
            f"/api/queue/jobs/{job['id']}/artifacts/upload",
            data={"workerId": "codex-1", "name": name, "contentType": "text/plain"},
            files={"file": (name, content, "text/plain")},
        )
        assert answer.is_success, answer.text
        return answer.json()


@pytest.fixture
def server(database_url: str) -> Generator[Server]:
    with start_server(database_url, HOLDFAST_LEASE_RETRY_DELAY_SECONDS="0") as running:
        yield running


@pytest.fixture
def worker(server: Server) -> Generator[OldWorker]:
    with httpx2.Client(base_url=server.url, headers=TOKEN, timeout=20) as http:
        yield OldWorker(http)


@pytest.mark.requirement("FR-006")
def test_a_worker_written_for_an_earlier_system_goes_through_its_whole_loop(worker: OldWorker) -> None:
    for number in range(3):
        worker.post(
            "/api/queue/jobs", type="codex_exec", payload={"n": number}, requiredCapabilities=["codex"]
        )
    first = worker.claim()["job"]
    assert first["payload"] == {"n": 0}
    beat = worker.finish(first, "heartbeat", leaseSeconds=120, currentStage="execute", telemetry={"cpu": 3})
    assert (beat["id"], beat["status"], beat["claimedBy"]) == (first["id"], "running", "codex-1")
    worker.finish(
        first, "events", level="info", message="stage execute", payload={"stage": "execute"}, source="x"
    )
    worker.upload(first, "logs/codex_exec.log", b"line one\n")
    done = worker.finish(first, "complete", resultSummary="done", metadata={"commit": "abc"}, runtime="codex")
    assert (done["status"], done["resultSummary"]) == ("succeeded", "done")
    second = worker.claim()["job"]
    back = worker.finish(second, "fail", errorMessage="flaky", retryable=True, stage="tests", exitCode=2)
    assert (back["status"], back["attempt"]) == ("queued", 2)
    third = worker.claim()["job"]
    assert third["id"] == second["id"], "in its old place"
    assert worker.finish(third, "fail", errorMessage="broken", stage="tests")["status"] == "failed"
    assert worker.claim()["job"]["payload"] == {"n": 2}
    assert worker.claim()["job"] is None


def test_it_meets_a_pause_as_null_and_its_running_job_goes_on(server: Server, worker: OldWorker) -> None:
    worker.post("/api/queue/jobs", type="codex_exec")
    worker.post("/api/queue/jobs", type="codex_exec")
    job = worker.claim()["job"]
    pause = {"action": "pause", "mode": "quiesce", "reason": "upgrade"}
    httpx2.post(server.url + "/api/system/worker-pause", json=pause)
    assert worker.claim()["job"] is None
    beat = worker.finish(job, "heartbeat", leaseSeconds=120)
    assert (beat["status"], beat["system"]["mode"]) == ("running", "quiesce")
    assert worker.finish(job, "complete")["status"] == "succeeded"
    assert worker.claim()["job"] is None
    httpx2.post(server.url + "/api/system/worker-pause", json={"action": "resume", "reason": "done"})
    assert worker.claim()["job"] is not None


def test_what_it_says_that_is_not_known_here_is_named_and_nothing_else_is_changed_by_it(
    server: Server, worker: OldWorker
) -> None:
    worker.post("/api/queue/jobs", type="codex_exec")
    answer = httpx2.post(
        server.url + "/api/queue/jobs/claim",
        json={"workerId": "codex-1", "leaseSeconds": 60, "workerRuntime": "codex", "host": {"name": "a"}},
        headers=TOKEN,
    )
    assert answer.json()["job"]["claimedBy"] == "codex-1"
    assert answer.headers["Holdfast-Ignored-Fields"] == "workerRuntime, host"
