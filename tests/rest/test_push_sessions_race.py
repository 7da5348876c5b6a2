"""The promise as push sessions see it: servers, workers that are offered jobs as fast as they can take them, and an
operator who pauses at random moments."""

import random
from datetime import datetime
from typing import Any

import anyio
import httpx2
import pytest
from websockets.exceptions import ConnectionClosed

from support.push import PATIENCE, Push, of, push
from support.servers import start_server

pytestmark = pytest.mark.anyio

WORKERS_EACH = 6
JOBS = 2_000
PAUSES = 20


def check_order(worker: Push) -> int:
    """Every version once and in order, no offer behind a paused `system`. Returns how many offers there were."""
    welcome, *rest = worker.frames
    assert welcome["type"] == "welcome"
    system, offers = welcome["system"], 0
    for frame in rest:
        if frame["type"] == "system":
            assert frame["system"]["version"] == system["version"] + 1
            system = frame["system"]
        elif frame["type"] == "offer":
            assert not system["workersPaused"], "an offer follows a paused system"
            assert frame["system"] == system
            offers += 1
    return offers


@pytest.mark.requirement("FR-003")
async def test_no_offered_job_starts_between_a_pause_and_its_resume(database_url: str) -> None:
    """Each pause notes its time behind the closed door, and each offer's claim its own while it holds the door open,
    all by the database's clock."""
    chance = random.Random(5)
    workers: list[Push] = []
    began: list[dict[str, Any]] = []
    done: list[str] = []
    async with (
        start_server(database_url) as one,
        start_server(database_url) as two,
        httpx2.AsyncClient(base_url=one.url, timeout=PATIENCE) as operator,
        httpx2.AsyncClient(base_url=two.url, timeout=PATIENCE) as other,
        anyio.create_task_group() as tasks,
    ):

        async def ask(client: httpx2.AsyncClient, method: str, path: str, body: Any = None) -> Any:
            answer = await client.request(method, path, json=body)
            assert answer.status_code in {200, 201}, answer.text
            return answer.json()

        for _batch in range(JOBS // 1_000):
            batch = {"jobs": [{"type": "race"}] * 1_000}
            await ask(operator, "POST", "/api/queue/jobs/batch", batch)

        async def work(url: str, name: str) -> None:
            async with push(url, name) as worker:
                workers.append(worker)
                while True:
                    await worker.say("readyForMore", slots=2)
                    offer = await worker.hear("offer")
                    answer = await worker.ask("accept", **of(offer))
                    if answer["type"] == "error":
                        assert answer["code"] == "lease_lost"
                        continue
                    began.append(offer["job"])
                    answer = await worker.ask("complete", **of(offer))
                    assert answer["type"] == "completeAck", answer
                    done.append(offer["job"]["id"])

        async def work_until_told(url: str, name: str) -> None:
            try:
                await work(url, name)
            except (TimeoutError, ConnectionClosed):
                pytest.fail(f"{name} was left alone")

        for number in range(2 * WORKERS_EACH):
            tasks.start_soon(work_until_told, (one, two)[number % 2].url, f"w-{number}")
        for _pause in range(PAUSES):
            await anyio.sleep(chance.uniform(0.01, 0.1))
            pause = {"action": "pause", "mode": "drain", "reason": "race"}
            version = (await ask(operator, "POST", "/api/system/worker-pause", pause))["system"]["version"]
            late = {"workerId": "late", "leaseSeconds": 60}
            for client in (operator, other):
                answer = await ask(client, "POST", "/api/queue/jobs/claim", late)
                assert (answer["job"], answer["system"]["version"]) == (None, version)
            # What was offered and not accepted goes back by itself, so the drain ends.
            drained = await ask(
                operator, "GET", "/api/system/worker-pause/wait?for=drained&timeoutSeconds=10"
            )
            assert drained["reached"]
            resume = {"action": "resume", "reason": "race"}
            await ask(other, "POST", "/api/system/worker-pause", resume)
            for client in (operator, other):
                assert not (await ask(client, "GET", "/api/system/worker-pause"))["system"]["workersPaused"]
        await anyio.sleep(0.2)
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            events = (await ask(operator, "GET", "/api/system/control-events?limit=200"))["items"]
            tried = {job["id"] for job in began}
            attempts = {
                job["attempt"]
                for job in (await ask(operator, "GET", "/api/queue/jobs?limit=200&status=queued"))["items"]
            }
    assert len(workers) == 2 * WORKERS_EACH
    assert sum(check_order(worker) for worker in workers) > PAUSES
    assert len(done) == len(set(done)), "a job was done twice"
    assert attempts <= {1}, "an offer that was not accepted used an attempt"
    times = [datetime.fromisoformat(event["createdAt"]) for event in reversed(events)]
    paused = list(zip(times[::2], times[1::2], strict=True))
    assert len(paused) == PAUSES
    started = sorted(datetime.fromisoformat(job["startedAt"]) for job in began)
    assert sum(start > paused[0][1] for start in started) > PAUSES, (
        "nothing was offered after the first resume"
    )
    assert [s for s in started if any(begin <= s <= end for begin, end in paused)] == []
    assert len(tried) > PAUSES
