"""Server-sent events: each version once and in order, also over cuts; logs without gaps to their end."""

import json
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from support.servers import Server, start_server

PAUSE = "/api/system/worker-pause"
LIMIT = httpx2.Timeout(20)


class Event:
    """One event of a stream."""

    def __init__(self, lines: list[str]) -> None:
        fields = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
        self.kind = fields.get("event")
        self.id = fields.get("id")
        self.data: Any = json.loads(fields["data"]) if "data" in fields else None


@contextmanager
def following(url: str, **headers: str) -> Generator[Iterator[Event]]:
    """The events of a stream as they come; the connection is cut at the end of the block."""
    with httpx2.Client(timeout=LIMIT) as client, client.stream("GET", url, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")

        def events() -> Iterator[Event]:
            lines: list[str] = []
            for line in answer.iter_lines():
                if line:
                    lines.append(line)
                elif event := _event(lines):
                    lines = []
                    yield event
                else:
                    lines = []

        yield events()


def _event(lines: list[str]) -> Event | None:
    event = Event(lines)
    return event if event.data is not None else None


def post(server: Server, path: str, **body: Any) -> Any:
    answer = httpx2.post(server.url + path, json=body, timeout=LIMIT)
    assert answer.status_code < 300, answer.text
    return answer.json()


def toggle(server: Server, number: int) -> dict[str, Any]:
    """One change of the pause: two pauses, a change of its mode, a resume, over and over."""
    step = number % 3
    if step == 2:
        return post(server, PAUSE, action="resume", reason=f"r {number}")["system"]
    mode = ("drain", "quiesce")[step]
    return post(server, PAUSE, action="pause", mode=mode, reason=f"p {number}", resumeAfterSeconds=600)[
        "system"
    ]


@pytest.fixture
def server(database_url: str) -> Generator[Server]:
    with start_server(database_url) as running:
        yield running


def test_followers_of_two_servers_see_each_version_once_in_order_and_whole(
    server: Server, database_url: str
) -> None:
    count = 24
    made: dict[int, dict[str, Any]] = {}
    seen: dict[str, list[dict[str, Any]]] = {}
    ready = threading.Barrier(3)

    def follow(name: str, url: str) -> None:
        with following(url + "/api/system/events") as events:
            first = next(events)
            assert (first.kind, first.data["system"]["version"]) == ("snapshot", 1)
            ready.wait(20)
            systems = seen.setdefault(name, [])
            while len(systems) < count:
                event = next(events)
                if event.kind == "system":
                    systems.append(event.data)

    with start_server(database_url) as other:
        threads = [
            threading.Thread(target=follow, args=(name, url), daemon=True)
            for name, url in (("one", server.url), ("other", other.url))
        ]
        for thread in threads:
            thread.start()
        ready.wait(20)
        for number in range(count):
            system = toggle((server, other)[number % 2], number)
            made[system["version"]] = system
        for thread in threads:
            thread.join(20)
    for systems in seen.values():
        assert [system["version"] for system in systems] == list(range(2, count + 2))
        for system in systems:
            assert system == made[system["version"]], "what the stream tells is what the toggle answered"
    assert set(seen) == {"one", "other"}


def test_after_a_cut_a_follower_gets_a_fresh_snapshot_and_then_what_it_missed(server: Server) -> None:
    last: str | None = None
    versions: list[int] = []
    with following(server.url + "/api/system/events") as events:
        next(events)
        for number in range(3):
            toggle(server, number)
        while len(versions) < 3:
            event = next(events)
            if event.kind == "audit":
                versions.append(event.data["version"])
                last = event.id
                assert last == event.data["id"]
    for number in range(3, 8):
        toggle(server, number)
    httpx2.post(
        server.url + PAUSE, json={"action": "pause", "mode": "drain", "reason": "x", "expectedVersion": 1}
    )
    assert last is not None
    with following(server.url + "/api/system/events", **{"Last-Event-ID": last}) as events:
        snapshot = next(events)
        assert (snapshot.kind, snapshot.data["system"]["version"]) == ("snapshot", 9)
        missed = [next(events) for _ in range(6)]
        assert [event.kind for event in missed] == ["audit"] * 6, (
            "a system that is over is not told as one that is"
        )
        assert [event.data["version"] for event in missed] == [5, 6, 7, 8, 9, 9]
        assert missed[-1].data["outcome"] == "refused"
        toggle(server, 8)
        while (later := next(events)).kind != "system":
            assert later.kind != "audit" or later.data["version"] == 10
        assert later.data["version"] == 10
    with following(server.url + "/api/system/events", **{"Last-Event-ID": "no id of ours"}) as events:
        assert next(events).kind == "snapshot"


def test_a_follower_is_told_of_counts_and_workers(server: Server) -> None:
    with following(server.url + "/api/system/events") as events:
        snapshot = next(events).data
        assert (snapshot["metrics"]["queued"], snapshot["workers"]["connected"]) == (0, 0)
        post(server, "/api/queue/jobs", type="t")
        post(server, "/api/queue/jobs/claim", workerId="w", leaseSeconds=60)
        told: dict[str, Any] = {}
        while told.get("metrics", {}).get("running") != 1 or told.get("workers", {}).get("connected") != 1:
            event = next(events)
            told[str(event.kind)] = event.data


def test_a_follower_is_told_who_has_seen_each_version_though_the_numbers_are_the_same(server: Server) -> None:
    def seen(version: int) -> None:
        body = {"workerId": "w", "autoEnabled": True, "observedVersion": version}
        post(server, "/api/queue/workers/heartbeat", **body)

    seen(1)
    with following(server.url + "/api/system/events") as events:
        told = next(events).data["workers"]
        while (told["connected"], told["acknowledged"]) != (1, 1):
            event = next(events)
            told = event.data if event.kind == "workers" else told
        version = post(server, PAUSE, action="pause", mode="drain", reason="r")["system"]["version"]
        seen(version)
        kinds: list[str | None] = []
        until = time.monotonic() + 15  # the counts are told every ten seconds, so that the end of this comes
        while "system" not in kinds or kinds[-1] != "workers" or event.data["acknowledged"] != 1:
            event = next(events)
            kinds.append(event.kind)
            assert time.monotonic() < until, kinds


def test_a_jobs_log_has_no_gaps_and_its_stream_goes_on_behind_a_cut_and_ends_with_the_job(
    server: Server, database_url: str
) -> None:
    post(server, "/api/queue/jobs", type="t")
    job = post(server, "/api/queue/jobs/claim", workerId="w", leaseSeconds=60)["job"]
    path = f"/api/queue/jobs/{job['id']}"
    held = {"workerId": "w", "leaseToken": job["leaseToken"]}
    with start_server(database_url) as other:

        def write(number: int) -> None:
            for line in range(10):
                to = (server, other)[(number + line) % 2]
                message = f"{number}.{line}"
                post(to, path + "/events", **held, level="info", message=message, payload={"n": line})

        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        got: list[Event] = []
        with following(other.url + path + "/events/stream") as events:
            for writer in writers:
                writer.start()
            while len(got) < 15:
                got.append(next(events))
        with following(server.url + path + "/events/stream", **{"Last-Event-ID": str(got[-1].id)}) as events:
            while len(got) < 40:
                got.append(next(events))
            for writer in writers:
                writer.join()
            post(server, path + "/complete", **held, resultSummary="done")
            post(server, path + "/events", **held, level="warn", message="trailing output")
            rest = list(events)
    assert [event.kind for event in got] == ["log"] * 40
    assert [event.data["sequence"] for event in got] == list(range(1, 41))
    for number in range(4):
        mine = [event.data["message"] for event in got if event.data["message"].startswith(f"{number}.")]
        assert mine == [f"{number}.{line}" for line in range(10)], "in the order of their writer"
    assert [event.kind for event in rest][-1] == "end"
    assert rest[-1].data["status"] == "succeeded"
    page = httpx2.get(server.url + path + "/events?after=38&limit=2").json()
    assert ([item["sequence"] for item in page["items"]], page["nextAfter"]) == ([39, 40], 40)
    empty = httpx2.get(server.url + path + "/events?after=41").json()
    assert empty == {"items": [], "nextAfter": 41}


def test_a_stream_that_cannot_be_is_refused_like_any_other_call(server: Server) -> None:
    for path in (
        "/api/queue/jobs/0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90/events/stream",
        "/api/queue/jobs/0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90/events",
    ):
        answer = httpx2.get(server.url + path, timeout=LIMIT)
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
    wrong = httpx2.get(server.url + "/api/queue/jobs/x/events?after=-1", timeout=LIMIT)
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "after")
    assert httpx2.head(server.url + "/api/system/events", timeout=LIMIT).status_code == 200


def test_an_open_stream_does_not_hold_up_a_stop(server: Server) -> None:
    with following(server.url + "/api/system/events") as events:
        next(events)
        assert server.stop() == 0
        assert "Traceback" not in server.log
