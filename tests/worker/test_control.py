"""The worker's control port: who may ask it what, and what it bears."""

import json
import os
import socket
import stat
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from holdfast_core.schemas import Problem
from holdfast_core.states import PauseMode
from holdfast_worker.runtime.control import server
from holdfast_worker.runtime.control.guards import CODE_SECONDS
from holdfast_worker.runtime.status import CheckpointAnswer, WorkerStatus
from support.control_port import JOB_TOKEN, Steered, ask, raw, steered
from support.workers import until

SWITCHES = ["/pause", "/resume", "/stop"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def port() -> Generator[Steered]:
    with steered() as port:
        yield port


def status_of(port: Steered) -> WorkerStatus:
    reply = ask(port.control.url, "GET", "/status", port.control.token)
    assert reply.status == 200
    return WorkerStatus.model_validate_json(reply.body)


@pytest.mark.requirement("ST-05")
def test_the_port_flips_the_local_pause_and_shows_what_code_has_set(port: Steered) -> None:
    assert status_of(port).locally_paused is False
    reply = ask(port.control.url, "POST", "/pause", port.control.token)
    assert (reply.status, reply.json["locallyPaused"], reply.json["variant"]) == (200, True, "paused")
    assert port.worker.hold.locally_paused is True
    port.worker.resume()  # in code, from another thread
    assert status_of(port).locally_paused is False
    port.worker.pause()
    assert status_of(port).locally_paused is True
    reply = ask(port.control.url, "POST", "/resume", port.control.token, {})
    assert (reply.status, reply.json["locallyPaused"], reply.json["variant"]) == (200, False, "idle")


@pytest.mark.requirement("ST-01")
def test_a_resume_of_the_system_does_not_clear_the_local_pause(port: Steered) -> None:
    ask(port.control.url, "POST", "/pause", port.control.token)
    port.learn(PauseMode.DRAIN, 2)
    assert status_of(port).system is not None
    port.learn(None, 3)
    now = status_of(port)
    assert now.system is not None
    assert (now.system.workers_paused, now.locally_paused) == (False, True)


def test_stop_asks_the_worker_to_end_and_is_answered(port: Steered) -> None:
    reply = ask(port.control.url, "POST", "/stop", port.control.token)
    assert (reply.status, reply.json["stopping"]) == (200, True)
    assert port.worker.hold.stopping is True


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/status"), *(("POST", path) for path in SWITCHES), ("POST", "/open")]
)
@pytest.mark.parametrize("token", [None, "", "wrong", JOB_TOKEN])
def test_without_the_control_token_nothing_is_shown_and_nothing_changes(
    port: Steered, method: str, path: str, token: str | None
) -> None:
    reply = ask(port.control.url, method, path, token)
    assert (reply.status, reply.code) == (401, "not_authenticated")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert (port.worker.hold.locally_paused, port.worker.hold.stopping) == (False, False)


@pytest.mark.parametrize("path", ["/checkpoint", "/log"])
def test_the_control_token_is_no_jobs_token(port: Steered, path: str) -> None:
    reply = ask(port.control.url, "POST", path, port.control.token, {"message": "hello"})
    assert (reply.status, reply.code) == (401, "not_authenticated")
    assert (port.worker.visits, port.worker.said) == ([], [])


def test_a_token_that_is_not_ascii_is_refused_like_any_other(port: Steered) -> None:
    host = urlsplit(port.control.url).netloc.encode()
    answer = raw(
        port.control.url,
        b"GET /status HTTP/1.1\r\nHost: " + host + b"\r\nAuthorization: Bearer \xff\xe4\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_a_job_at_a_checkpoint_goes_on_at_once_while_nothing_is_quiesced(port: Steered) -> None:
    reply = ask(
        port.control.url, "POST", "/checkpoint", JOB_TOKEN, {"label": "a", "kind": "tool", "waitSeconds": 60}
    )
    assert CheckpointAnswer.model_validate_json(reply.body) == CheckpointAnswer(hold=False)
    assert port.worker.visits == [("a", "tool", 60.0)]
    assert ask(port.control.url, "POST", "/checkpoint", JOB_TOKEN).json["hold"] is False
    assert port.worker.visits[1:] == [(None, None, 0.0)]


def test_a_job_at_a_checkpoint_is_held_while_quiesced_and_goes_on_with_the_resume(port: Steered) -> None:
    port.learn(PauseMode.QUIESCE, 2, "disk")
    held = ask(port.control.url, "POST", "/checkpoint", JOB_TOKEN, {"waitSeconds": 0})
    assert held.json == {"hold": True, "mode": "quiesce", "reason": "disk", "version": 2}
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask, port.control.url, "POST", "/checkpoint", JOB_TOKEN, {"waitSeconds": 60})
        until(lambda: len(port.worker.visits) == 2)
        assert not asked.done()
        port.learn(None, 3)
        assert asked.result(10).json["hold"] is False


def test_a_command_that_is_killed_at_a_checkpoint_is_not_waited_for(port: Steered) -> None:
    port.learn(PauseMode.QUIESCE, 2)
    parts = urlsplit(port.control.url)
    body = b'{"waitSeconds": 60}'
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(_post(port, "/checkpoint", JOB_TOKEN, body))
        until(lambda: len(port.worker.visits) == 1)
        assert port.worker.left == 0
    until(lambda: port.worker.left == 1, "the visit's end", seconds=5)


def test_many_may_wait_at_checkpoints_and_the_port_still_answers(port: Steered) -> None:
    port.learn(PauseMode.QUIESCE, 2)
    parts = urlsplit(port.control.url)
    waiting = [socket.create_connection((parts.hostname, parts.port)) for _ in range(3 * server.MAX_READING)]
    try:
        for connection in waiting:
            connection.sendall(_post(port, "/checkpoint", JOB_TOKEN, b'{"waitSeconds": 60}'))
        until(lambda: len(port.worker.visits) == len(waiting))
        assert status_of(port).variant == "paused"
        port.learn(None, 3)
        for connection in waiting:
            assert connection.recv(64).startswith(b"HTTP/1.1 200 ")
    finally:
        for connection in waiting:
            connection.close()


def test_a_job_adds_to_its_log(port: Steered) -> None:
    assert ask(port.control.url, "POST", "/log", JOB_TOKEN, {"message": "half"}).status == 200
    assert ask(port.control.url, "POST", "/log", JOB_TOKEN, {"level": "warn", "message": "ä"}).status == 200
    assert port.worker.said == [("info", "half"), ("warn", "ä")]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/checkpoint", {"waitSeconds": 61}, "waitSeconds"),
        ("/checkpoint", {"waitSeconds": -1}, "waitSeconds"),
        ("/checkpoint", {"waitSeconds": "1"}, "waitSeconds"),
        ("/checkpoint", {"kind": "nap"}, "kind"),
        ("/checkpoint", b"[", "body"),
        ("/checkpoint", {"wait_seconds": 1}, "wait_seconds"),
        ("/log", {"level": "info"}, "message"),
        ("/log", {"message": "x", "level": "loud"}, "level"),
        ("/session", {}, "code"),
        ("/session", {"code": "x", "more": 1}, "more"),
    ],
)
def test_what_is_wrong_with_a_body_is_told_by_field(
    port: Steered, path: str, body: object, field: str
) -> None:
    reply = ask(port.control.url, "POST", path, JOB_TOKEN, body)
    assert (reply.status, reply.code) == (422, "invalid_request")
    assert [error.field for error in Problem.model_validate_json(reply.body).errors or ()] == [field]


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:{port}", "[::1]:{port}", ""]
)
@pytest.mark.parametrize("path", ["/", "/status", "/nothing"])
def test_a_foreign_host_is_misdirected(port: Steered, host: str, path: str) -> None:
    number = urlsplit(port.control.url).port
    reply = ask(port.control.url, "GET", path, port.control.token, Host=host.format(port=number))
    assert (reply.status, reply.code) == (421, "misdirected_request")


def test_localhost_is_its_own_host_and_its_own_origin(port: Steered) -> None:
    host = f"localhost:{urlsplit(port.control.url).port}"
    reply = ask(port.control.url, "POST", "/pause", port.control.token, Host=host, Origin=f"http://{host}")
    assert (reply.status, reply.json["locallyPaused"]) == (200, True)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "Cross-Site"},
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/pause"), ("GET", "/status"), ("POST", "/session")])
def test_no_other_page_can_drive_the_worker(
    port: Steered, method: str, path: str, headers: dict[str, str]
) -> None:
    number = urlsplit(port.control.url).port
    sent = {name: value.format(port=number) for name, value in headers.items()}
    reply = ask(port.control.url, method, path, port.control.token, **sent)
    assert (reply.status, reply.code) == (403, "foreign_origin")
    assert port.worker.hold.locally_paused is False


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
def test_a_body_that_a_foreign_page_could_send_is_refused(port: Steered, kind: str | None) -> None:
    head = b"" if kind is None else f"Content-Type: {kind}\r\n".encode()
    answer = raw(port.control.url, _post(port, "/pause", port.control.token, b"{}", content_type=head))
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert port.worker.hold.locally_paused is False


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/page/index.html", 404, "not_found"),
        ("GET", "/../discovery.py", 404, "not_found"),
        ("GET", "/pause", 405, "method_not_allowed"),
        ("POST", "/", 405, "method_not_allowed"),
        ("OPTIONS", "/status", 405, "method_not_allowed"),
        ("DELETE", "/status", 405, "method_not_allowed"),
        ("GET", "/checkpoint", 405, "method_not_allowed"),
    ],
)
def test_what_is_not_there_is_told_in_the_one_error_shape(
    port: Steered, method: str, path: str, status: int, code: str
) -> None:
    reply = ask(port.control.url, method, path, port.control.token)
    assert (reply.status, reply.code) == (status, code)


def test_every_answer_is_kept_from_caches_frames_and_other_sites(port: Steered) -> None:
    for method, path in [("GET", "/"), ("GET", "/page.js"), ("GET", "/status"), ("GET", "/nothing")]:
        headers = ask(port.control.url, method, path, port.control.token).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy


def test_the_page_and_its_parts_hold_no_secret(port: Steered) -> None:
    for path, kind in [
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/page.css", "text/css"),
        ("/icon.svg", "image/svg+xml"),
    ]:
        reply = ask(port.control.url, "GET", path)
        assert reply.status == 200
        assert reply.headers["content-type"].split(";")[0] == kind
        assert port.control.token.encode() not in reply.body


# The page's way in


def code_of(port: Steered) -> str:
    url: str = ask(port.control.url, "POST", "/open", port.control.token).json["url"]
    assert url.startswith(f"{port.control.url}/#")
    assert port.control.token not in url
    return url.partition("#")[2]


def test_a_code_is_traded_once_for_a_pages_token_which_does_what_the_page_does(port: Steered) -> None:
    code = code_of(port)
    reply = ask(port.control.url, "POST", "/session", None, {"code": code})
    page = reply.json["token"]
    assert page not in {code, port.control.token}
    assert ask(port.control.url, "GET", "/status", page).status == 200
    for path in SWITCHES:
        assert ask(port.control.url, "POST", path, page).status == 200
    assert ask(port.control.url, "POST", "/open", page).status == 401
    again = ask(port.control.url, "POST", "/session", None, {"code": code})
    assert (again.status, again.code) == (401, "not_authenticated")


def test_a_code_grows_too_old(port: Steered, monkeypatch: pytest.MonkeyPatch) -> None:
    code, fresh = code_of(port), code_of(port)
    assert ask(port.control.url, "POST", "/session", None, {"code": fresh}).status == 200
    now = time.monotonic
    monkeypatch.setattr("holdfast_worker.runtime.control.guards.time.monotonic", lambda: now() + CODE_SECONDS)
    assert ask(port.control.url, "POST", "/session", None, {"code": code}).status == 401


def test_codes_that_nobody_uses_do_not_pile_up(port: Steered) -> None:
    first = code_of(port)
    latest = [code_of(port) for _ in range(20)][-1]
    assert ask(port.control.url, "POST", "/session", None, {"code": first}).status == 401
    assert ask(port.control.url, "POST", "/session", None, {"code": latest}).status == 200


# Bounds


def test_a_body_that_is_too_large_is_refused_and_the_refusal_arrives(port: Steered) -> None:
    for size in (70_000, 300_000):
        reply = ask(port.control.url, "POST", "/log", JOB_TOKEN, {"message": "x" * size})
        assert (reply.status, reply.code) == (413, "body_too_large")
    assert port.worker.said == []


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40 + b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"POST /session HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
    ],
    ids=["long", "no-host", "two-hosts", "tls", "nonsense", "negative-length"],
)
def test_what_is_no_request_is_told_so(port: Steered, sent: bytes) -> None:
    answer = raw(port.control.url, sent)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "malformed_request"
    assert status_of(port).variant == "idle"


def test_a_chunked_body_and_one_that_is_announced_are_read(port: Steered) -> None:
    host = urlsplit(port.control.url).netloc.encode()
    chunked = (
        b"POST /log HTTP/1.1\r\nHost: "
        + host
        + b"\r\nAuthorization: bearer "
        + JOB_TOKEN.encode()
        + b"\r\nContent-Type: application/json; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b'8\r\n{"messag\r\n8\r\ne": "ab"\r\n1\r\n}\r\n0\r\n\r\n'
    )
    assert raw(port.control.url, chunked).startswith(b"HTTP/1.1 200 ")
    expecting = _post(
        port,
        "/log",
        JOB_TOKEN,
        b'{"message": "c"}',
        content_type=b"Content-Type: application/json\r\nExpect: 100-continue\r\n",
    )
    assert raw(port.control.url, expecting).count(b"HTTP/1.1 200 ") == 1
    assert [message for _, message in port.worker.said] == ["ab", "c"]


def test_a_head_is_answered_without_a_body(port: Steered) -> None:
    host = urlsplit(port.control.url).netloc.encode()
    answer = raw(port.control.url, b"HEAD / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert answer.endswith(b"\r\n\r\n")


def test_a_request_that_never_ends_is_cut_off(port: Steered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.2)
    assert raw(port.control.url, b"GET / HTT").startswith(b"HTTP/1.1 408 ")
    body = _post(port, "/log", JOB_TOKEN, b'{"message": "half"}')[:-5]
    assert raw(port.control.url, body).startswith(b"HTTP/1.1 408 ")
    assert raw(port.control.url, b"") == b""  # only opened, as browsers do: closed without a word
    assert port.worker.said == []


def test_connections_that_bring_nothing_keep_others_waiting_but_not_for_long(
    port: Steered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.5)
    parts = urlsplit(port.control.url)
    idle = [socket.create_connection((parts.hostname, parts.port)) for _ in range(server.MAX_READING)]
    try:
        assert ask(port.control.url, "GET", "/").status == 200, "once they have had their time"
        assert [connection.recv(1) for connection in idle] == [b""] * len(idle)
    finally:
        for connection in idle:
            connection.close()


def test_more_connections_than_are_good_for_it_are_told_to_come_back(
    port: Steered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    port.learn(PauseMode.QUIESCE, 2)
    with ThreadPoolExecutor(2) as threads:
        waiting = [
            threads.submit(ask, port.control.url, "POST", "/checkpoint", JOB_TOKEN, {"waitSeconds": 60})
            for _ in range(2)
        ]
        until(lambda: len(port.worker.visits) == 2)
        reply = ask(port.control.url, "GET", "/")
        assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "unavailable", "1")
        port.learn(None, 3)
        assert [one.result(10).status for one in waiting] == [200, 200]
    assert ask(port.control.url, "GET", "/").status == 200


def test_who_does_not_get_a_turn_is_told_to_come_back(port: Steered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TURN_SECONDS", 0.2)
    parts = urlsplit(port.control.url)
    idle = [socket.create_connection((parts.hostname, parts.port)) for _ in range(server.MAX_READING)]
    try:
        reply = until(lambda: (r := ask(port.control.url, "GET", "/")).status == 503 and r, "the refusal")
        assert reply.code == "unavailable"
    finally:
        for connection in idle:
            connection.close()
    until(lambda: ask(port.control.url, "GET", "/").status == 200, "an answer again")


def test_a_client_that_is_gone_before_its_answer_harms_nobody(port: Steered) -> None:
    parts = urlsplit(port.control.url)
    for cut in (b"", b"GET / HT", _post(port, "/pause", port.control.token, b"{}")):
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )  # a reset, not an end
            connection.sendall(cut)
    assert status_of(port).worker_id == "w"


def test_a_bug_is_answered_without_its_trace(port: Steered) -> None:
    port.worker.breaks = True
    reply = ask(port.control.url, "GET", "/status", port.control.token)
    assert (reply.status, reply.code) == (500, "internal_error")
    assert b"secret" not in reply.body
    port.worker.breaks = False
    assert status_of(port).variant == "idle"


def test_it_listens_on_loopback_only_and_idles_without_a_thread_of_its_own(port: Steered) -> None:
    number = urlsplit(port.control.url).port
    listening = [
        connection.laddr.ip
        for connection in psutil.Process().net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == number
    ]
    assert listening == ["127.0.0.1"]


# Its beginning and end


def test_its_file_is_for_the_owner_alone_and_goes_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "holdfast" / "workers"
    with steered("a/b:c@d") as port:
        (file,) = folder.glob("*.json")
        said = json.loads(file.read_bytes())
        assert said.keys() == {"workerId", "url", "token", "pid", "startedAt"}
        assert (said["workerId"], said["pid"]) == ("a/b:c@d", os.getpid())
        assert (said["url"], said["token"]) == (port.control.url, port.control.token)
        assert len(port.control.token) >= 43  # 256 bits
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        for one in (folder, folder.parent):
            assert stat.S_IMODE(one.stat().st_mode) == 0o700
    assert list(folder.glob("*.json")) == []


def test_what_the_block_raises_comes_out_as_it_is() -> None:
    with pytest.raises(LookupError, match="mine"), steered():
        raise LookupError("mine")


def test_its_end_does_not_wait_for_who_only_holds_a_connection(tmp_path: Path) -> None:
    with steered() as port:
        port.learn(PauseMode.QUIESCE, 2)
        parts = urlsplit(port.control.url)
        idle = socket.create_connection((parts.hostname, parts.port))
        waiting = socket.create_connection((parts.hostname, parts.port))
        waiting.sendall(_post(port, "/checkpoint", JOB_TOKEN, b'{"waitSeconds": 60}'))
        until(lambda: port.worker.visits)
        began = time.monotonic()
    assert time.monotonic() - began < server.LAST_ANSWER_SECONDS
    for connection in (idle, waiting):
        assert connection.recv(64) == b""
        connection.close()


def _post(
    port: Steered,
    path: str,
    token: str,
    body: bytes,
    *,
    content_type: bytes = b"Content-Type: application/json\r\n",
) -> bytes:
    host = urlsplit(port.control.url).netloc.encode()
    return (
        b"POST "
        + path.encode()
        + b" HTTP/1.1\r\nHost: "
        + host
        + b"\r\nAuthorization: Bearer "
        + token.encode()
        + b"\r\n"
        + content_type
        + b"Content-Length: "
        + str(len(body)).encode()
        + b"\r\n\r\n"
        + body
    )
