"""The client as a library: typed answers, typed failures, bounded waits."""

import json
import socket
import threading
from typing import Any

import pytest

import holdfast
from cli.harness import Bench, StandIn
from holdfast import Client
from holdfast_core.schemas import System
from holdfast_worker import client as client_module

SYSTEM: dict[str, Any] = {
    "workersPaused": True,
    "mode": "drain",
    "version": 12,
    "updatedAt": "2026-02-20T02:00:00Z",
}


def problem(code: str, status: int, **more: Any) -> bytes:
    return json.dumps(
        {"type": "x", "title": "No", "status": status, "code": code, "detail": "Why.", **more}
    ).encode()


def test_the_faces_names_are_sorted_and_all_there() -> None:
    assert holdfast.__all__ == sorted(holdfast.__all__)
    assert all(hasattr(holdfast, name) for name in holdfast.__all__)


def test_what_the_client_raises_stands_on_the_face() -> None:
    for name in ("ServerUnreachable", "UnexpectedAnswer", "VersionConflict", "LeaseLost"):
        assert issubclass(getattr(holdfast, name), holdfast.HoldfastError)


def test_a_job_goes_through_its_life(bench: Bench) -> None:
    client = bench.client
    (queued,) = bench.enqueue(month=2)
    answer = client.claim("holder", 60, allowed_types=["test"], observed_version=1)
    assert answer.job is not None
    assert answer.job.id == queued.id
    token = answer.job.lease_token
    beat = client.heartbeat(
        queued.id, "holder", 60, lease_token=token, progress={"done": 1}, checkpoint="half"
    )
    assert (beat.checkpoint, beat.progress, beat.payload) == ("half", {"done": 1}, None)
    assert beat.system.workers_paused is False
    assert client.release(queued.id, "holder", token or "").status == "queued"
    again = client.claim("holder", 60).job
    assert again is not None
    assert client.fail(again.id, "holder", "broken", lease_token=again.lease_token).status == "failed"
    assert client.retry(again.id, "once more").status == "queued"
    last = client.claim("holder", 60).job
    assert last is not None
    assert client.complete(last.id, "holder", "ok", lease_token=last.lease_token).result_summary == "ok"
    assert client.presence("holder", observed_version=1).system.version >= 1
    assert "holder" in [worker.id for worker in client.workers().items]


def test_a_paused_claim_is_an_answer_and_no_error(bench: Bench) -> None:
    bench.enqueue()
    version = bench.client.pause("drain", "test").system.version
    answer = bench.client.claim("holder", 60, wait_seconds=20)
    assert answer.job is None
    assert (answer.system.workers_paused, answer.system.version) == (True, version)


def test_the_servers_refusals_are_typed(bench: Bench) -> None:
    with pytest.raises(holdfast.NotPaused) as refused:
        bench.client.resume("too early")
    assert refused.value.code == "not_paused"
    with pytest.raises(holdfast.VersionConflict) as conflict:
        bench.client.pause("drain", "x", expected_version=10**6)
    assert isinstance(conflict.value.system, System)
    with pytest.raises(holdfast.InvalidRequest) as invalid:
        bench.client.enqueue("no name")
    assert [error.field for error in invalid.value.errors] == ["type"]
    with pytest.raises(holdfast.JobNotFound):
        bench.client.job("00000000-0000-0000-0000-000000000000")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "not_authenticated", holdfast.NotAuthenticated),
        (403, "not_allowed", holdfast.NotAllowed),
        (409, "lease_lost", holdfast.LeaseLost),
        (409, "idempotency_stale", holdfast.Conflict),
        (422, "idempotency_key_reused", holdfast.InvalidRequest),
        (503, "pause_not_confirmed", holdfast.PauseNotConfirmed),
        (503, "newer_than_this", holdfast.Unavailable),
        (418, "teapot", holdfast.HoldfastError),
    ],
)
def test_a_problem_becomes_the_class_of_its_code_or_of_its_status(
    stand_in: StandIn, status: int, code: str, kind: type[holdfast.HoldfastError]
) -> None:
    stand_in.answer(status, problem(code, status), Retry_After="7")
    with Client(stand_in.url, token="") as client, pytest.raises(kind) as refused:
        client.status()
    assert (refused.value.code, refused.value.status, refused.value.detail) == (code, status, "Why.")
    assert refused.value.retry_after == 7


def test_a_problem_brings_its_system_and_its_fields(stand_in: StandIn) -> None:
    fields = [{"field": "reason", "message": "is required"}]
    stand_in.answer(409, problem("version_conflict", 409, system=SYSTEM, errors=fields, newer="ignored"))
    with Client(stand_in.url, token="") as client, pytest.raises(holdfast.VersionConflict) as refused:
        client.status()
    assert refused.value.system is not None
    assert refused.value.system.version == 12
    assert [(error.field, error.message) for error in refused.value.errors] == [("reason", "is required")]


def test_a_newer_servers_fields_are_ignored_and_kept_as_they_came(stand_in: StandIn) -> None:
    body = json.dumps({"job": None, "system": {**SYSTEM, "mood": "calm"}, "hint": 1}).encode()
    stand_in.answer(200, body)
    with Client(stand_in.url, token="") as client:
        assert client.claim("w", 60).system.version == 12
        assert client.last_answer == body


def test_an_answer_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, token="") as client, pytest.raises(holdfast.ServerUnreachable) as away:
            client.pause("drain", "x")
        assert away.value.sent is True
        assert "has not answered within 0.3 s" in away.value.detail


def test_an_answer_that_breaks_off_may_have_been_carried_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as rude:

        def hang_up() -> None:
            connection, _ = rude.accept()
            with connection:
                connection.recv(65_536)

        thread = threading.Thread(target=hang_up)
        thread.start()
        url = f"http://127.0.0.1:{rude.getsockname()[1]}"
        with Client(url, token="") as client, pytest.raises(holdfast.ServerUnreachable) as away:
            client.pause("drain", "x")
        thread.join(10)
    assert away.value.sent is True


def test_nobody_listening_means_that_nothing_was_sent() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Client(url, token="") as client, pytest.raises(holdfast.ServerUnreachable) as away:
            client.status()
    assert away.value.sent is False
    assert isinstance(away.value, holdfast.Unavailable)


def test_the_environment_names_server_and_token_where_nobody_does(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.answer(200, json.dumps({"job": None, "system": SYSTEM}).encode())
    monkeypatch.setenv("HOLDFAST_URL", stand_in.url)
    monkeypatch.setenv("HOLDFAST_TOKEN", "secret")
    for token in (None, ""):
        with Client(token=token) as client:
            client.claim("w", 60)
    assert [seen.get("authorization") for seen in stand_in.seen] == ["Bearer secret", None]


def test_a_base_path_stays_in_front(stand_in: StandIn) -> None:
    stand_in.answer(200, json.dumps({"job": None, "system": SYSTEM}).encode())
    with Client(stand_in.url + "/team/a/", token="") as client:
        client.claim("w", 60)
    assert stand_in.seen[0][":path"] == "/team/a/api/queue/jobs/claim"


def test_a_client_may_be_closed_twice() -> None:
    client = Client("http://127.0.0.1:1")
    client.close()
    client.close()
