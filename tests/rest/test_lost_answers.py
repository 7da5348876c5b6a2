"""Answers that are lost on their way: the connection is cut at one byte after the other, and the call repeated."""

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from support.servers import Server, start_server

#: Bytes of the answer that still come through: none, a part of the first line, of the headers, of the body.
CUTS = [0, 1, 12, 90, 400]


@contextmanager
def cut_after(url: str, count: int) -> Generator[str]:
    """A way to the server on which each answer breaks off after so many bytes. The request goes through whole."""
    parts = urlsplit(url)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    client, _ = listener.accept()
                except TimeoutError:
                    continue
                with client, socket.create_connection((parts.hostname or "", parts.port or 0), 10) as server:
                    client.settimeout(10)
                    request = b""
                    while not _whole(request):
                        request += client.recv(65_536)
                    server.sendall(request)
                    answer = server.recv(65_536)  # so it has been done
                    if count:
                        client.sendall(answer[:count])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            thread.join()


def _whole(request: bytes) -> bool:
    head, found, body = request.partition(b"\r\n\r\n")
    if not found:
        return False
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return not lengths or len(body) >= int(lengths[0].split(b":")[1])


def lose(server: Server, count: int, path: str, body: dict[str, Any], **headers: str) -> None:
    with cut_after(server.url, count) as url, pytest.raises(httpx2.TransportError):
        httpx2.post(
            url + path, json=body, headers={"Host": urlsplit(server.url).netloc, **headers}, timeout=10
        )


def post(server: Server, path: str, body: dict[str, Any], **headers: str) -> httpx2.Response:
    return httpx2.post(server.url + path, json=body, headers=headers, timeout=10)


@pytest.fixture
def server(database_url: str) -> Generator[Server]:
    with start_server(database_url) as running:
        yield running


def metrics(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = httpx2.get(server.url + "/api/system/worker-pause").json()["metrics"]
    return found


def test_a_lost_claim_answer_costs_nothing(server: Server) -> None:
    for number in range(len(CUTS) + 1):
        post(server, "/api/queue/jobs", {"type": "t", "payload": {"n": number}})
    claim = {"workerId": "w", "leaseSeconds": 60}
    for number, cut in enumerate(CUTS):
        lose(server, cut, "/api/queue/jobs/claim", {**claim, "requestId": f"r-{number}"})
        job = post(server, "/api/queue/jobs/claim", {**claim, "requestId": f"r-{number}"}).json()["job"]
        assert job["payload"] == {"n": number}, "the first call's job, not the next one"
        assert job["attempt"] == 1
        held = {"workerId": "w", "leaseToken": job["leaseToken"]}
        done = post(server, f"/api/queue/jobs/{job['id']}/complete", held)
        assert (done.status_code, done.json()["status"]) == (200, "succeeded")
    assert (metrics(server)["running"], metrics(server)["queued"]) == (0, 1)


def test_a_lost_answer_to_an_enqueue_is_asked_for_again_and_makes_no_second_job(server: Server) -> None:
    for number, cut in enumerate(CUTS):
        body = {"type": "t", "payload": {"n": number}}
        lose(server, cut, "/api/queue/jobs", {**body, "idempotencyKey": f"k-{number}"})
        again = post(server, "/api/queue/jobs", body, **{"Idempotency-Key": f"k-{number}"})
        assert again.status_code == 200
        assert again.json()["payload"] == {"n": number}
    assert metrics(server)["queued"] == len(CUTS)
    other = post(server, "/api/queue/jobs", {"type": "u", "idempotencyKey": "k-0"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_a_lost_answer_to_a_pause_is_asked_for_again_under_its_key(server: Server) -> None:
    path = "/api/system/worker-pause"
    for number, cut in enumerate(CUTS):
        pause = {"action": "pause", "mode": "drain", "reason": f"release {number}"}
        key = {"Idempotency-Key": f"p-{number}"}
        lose(server, cut, path, pause, **key)
        again = post(server, path, pause, **key)
        assert (again.status_code, again.json()["replayed"]) == (200, True)
        assert again.json()["system"]["reason"] == f"release {number}"
        version = again.json()["system"]["version"]
        resumed = post(server, path, {"action": "resume", "reason": "done"})
        stale = post(server, path, pause, **key)
        assert (stale.status_code, stale.json()["code"]) == (409, "idempotency_stale")
        assert stale.json()["version"] == version
        assert stale.json()["system"]["version"] == resumed.json()["system"]["version"] == version + 1
        assert not stale.json()["system"]["workersPaused"]
    events = httpx2.get(server.url + "/api/system/control-events").json()["items"]
    assert [event["outcome"] for event in events] == ["changed"] * 2 * len(CUTS)


def test_a_key_out_of_bounds_is_refused_by_name(server: Server) -> None:
    for key in ("", "k" * 256, "tab\there"):
        answer = post(server, "/api/queue/jobs", {"type": "t"}, **{"Idempotency-Key": key})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "Idempotency-Key")
    assert metrics(server)["queued"] == 0


def test_a_key_that_nothing_would_heed_is_refused_rather_than_passed_over(server: Server) -> None:
    batch = post(server, "/api/queue/jobs/batch", {"jobs": [{"type": "t"}]}, **{"Idempotency-Key": "k"})
    assert (batch.status_code, batch.json()["errors"][0]["field"]) == (422, "Idempotency-Key")
    both = post(server, "/api/queue/jobs", {"type": "t", "idempotencyKey": "a"}, **{"Idempotency-Key": "b"})
    assert (both.status_code, both.json()["errors"][0]["field"]) == (422, "idempotencyKey")
    assert metrics(server)["queued"] == 0


def test_a_job_may_still_be_completed_after_the_answer_to_complete_was_lost(server: Server) -> None:
    for cut in CUTS:
        post(server, "/api/queue/jobs", {"type": "t"})
        claim = post(server, "/api/queue/jobs/claim", {"workerId": "w", "leaseSeconds": 60}).json()["job"]
        path = f"/api/queue/jobs/{claim['id']}/complete"
        body = {"workerId": "w", "leaseToken": claim["leaseToken"], "resultSummary": "done"}
        lose(server, cut, path, body)
        again = post(server, path, body)
        assert (again.status_code, again.json()["resultSummary"]) == (200, "done")
