"""The promise as clients see it: several server processes, claimers and an operator, all over REST."""

import http.client
import json
import random
import threading
from contextlib import ExitStack
from datetime import datetime
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from support.servers import start_server

SERVERS = 2
CLAIMERS_EACH = 8
JOBS = 3_000
PAUSES = 20


class Client:
    """One connection to one server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        raw = None if body is None else json.dumps(body)
        self._connection.request(method, path, raw, {"Content-Type": "application/json"} if raw else {})
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status in {200, 201}, text
        return json.loads(text)


def claim_until_told(url: str, name: str, over: threading.Event, got: list[Any], refused: list[int]) -> None:
    with Client(url) as client:
        while not over.is_set():
            answer = client.call("POST", "/api/queue/jobs/claim", {"workerId": name, "leaseSeconds": 600})
            if answer["job"] is not None:
                assert not answer["system"]["workersPaused"]
                got.append(answer["job"])
            elif answer["system"]["workersPaused"]:
                refused.append(answer["system"]["version"])
                client.call("GET", "/api/system/worker-pause/wait?for=running&timeoutSeconds=5")
            else:
                return  # nothing is left


@pytest.mark.requirement("FR-003")
def test_no_job_starts_between_a_pause_and_its_resume_whichever_server_is_asked(database_url: str) -> None:
    """Each pause notes its time behind the closed door, and each claim its own while it holds the door open, all
    by the database's clock: so a job that started between a pause and its resume would be a broken promise."""
    chance = random.Random(7)
    over = threading.Event()
    got: list[Any] = []
    refused: list[int] = []
    with ExitStack() as stack:
        urls = [stack.enter_context(start_server(database_url)).url for _ in range(SERVERS)]
        operator = stack.enter_context(Client(urls[0]))
        others = [stack.enter_context(Client(url)) for url in urls]
        for _ in range(JOBS):
            operator.call("POST", "/api/queue/jobs", {"type": "race"})
        claimers = [
            threading.Thread(
                target=claim_until_told, args=(urls[n % SERVERS], f"claimer-{n}", over, got, refused)
            )
            for n in range(SERVERS * CLAIMERS_EACH)
        ]
        for claimer in claimers:
            claimer.start()
        try:
            for _ in range(PAUSES):
                threading.Event().wait(chance.uniform(0.01, 0.05))
                pause = {"action": "pause", "mode": "drain", "reason": "race"}
                version = operator.call("POST", "/api/system/worker-pause", pause)["system"]["version"]
                # Whoever asks after the answer is refused, on every server.
                for other in others:
                    asked = {"workerId": "late", "leaseSeconds": 600}
                    answer = other.call("POST", "/api/queue/jobs/claim", asked)
                    assert answer["job"] is None
                    assert answer["system"]["version"] == version
                operator.call("POST", "/api/system/worker-pause", {"action": "resume", "reason": "race"})
                # For up to a second another server may go by the pause before (CONTRACT section 3), so let each
                # hear of its end: what then says "paused" can only mean the next one.
                for other in others:
                    running = other.call("GET", "/api/system/worker-pause")["system"]
                    assert (running["workersPaused"], running["version"]) == (False, version + 1)
        finally:
            over.set()
            for claimer in claimers:
                claimer.join()
        events = operator.call("GET", "/api/system/control-events?limit=200")["items"]
    assert len({job["id"] for job in got}) == len(got)
    assert len(refused) > PAUSES, "the claimers hardly met a pause: the race proved nothing"
    times = [datetime.fromisoformat(event["createdAt"]) for event in reversed(events)]
    paused = list(zip(times[::2], times[1::2], strict=True))
    assert len(paused) == PAUSES
    started = sorted(datetime.fromisoformat(job["startedAt"]) for job in got)
    assert sum(start > paused[0][1] for start in started) > PAUSES, (
        "nothing was claimed after the first resume"
    )
    assert [s for s in started if any(begin <= s <= end for begin, end in paused)] == []
