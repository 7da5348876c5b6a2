"""One shape of error from every source: the router, a bug of ours, a store that is away."""

from collections.abc import AsyncGenerator, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from holdfast_core.db.postgres import plain_url
from holdfast_core.errors import PauseNotConfirmed, StoreUnavailable
from rest.harness import PAGES, Api, open_api, open_socket, operations
from rest.test_bad_bodies import good_request
from rest.test_openapi import FOR_BROWSERS


def beside(url: str) -> str:
    """The server's own database, for what cannot be done from within the test's."""
    return urlsplit(url)._replace(path="/postgres").geturl()


pytestmark = pytest.mark.anyio

JOB_ID: Final = "0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90"
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE")
#: The service behind each operation; the names are compared with /openapi.json below.
BEHIND: Final = {
    "get_worker_pause": ("pause", "status"),
    "post_worker_pause": ("pause", "control"),
    "wait_for_worker_pause": ("pause", "wait"),
    "list_control_events": ("pause", "history"),
    "list_workers": ("workers", "list"),
    "enqueue_job": ("jobs", "enqueue"),
    "list_jobs": ("jobs", "list"),
    "get_job": ("jobs", "get"),
    "cancel_job": ("jobs", "cancel"),
    "requeue_job": ("jobs", "requeue"),
    "retry_job": ("jobs", "retry"),
    "claim_job": ("claims", "claim"),
    "heartbeat_job": ("leases", "heartbeat"),
    "heartbeat_worker": ("workers", "presence"),
    "complete_job": ("outcomes", "complete"),
    "fail_job": ("outcomes", "fail"),
    "release_job": ("outcomes", "release"),
    "acknowledge_cancel": ("outcomes", "cancel_ack"),
    "get_readiness": ("health", "ready"),
    "enqueue_jobs": ("jobs", "enqueue_batch"),
    "retry_jobs": ("jobs", "retry_many"),
    "log_job_event": ("logs", "append"),
    "list_job_events": ("logs", "page"),
    "stream_job_events": ("logs", "follow"),
    "stream_system_events": ("feed", "follow"),
    "list_blockers": ("blockers", "list"),
    "get_metrics_history": ("history", "history"),
    "get_metrics": ("snapshots", "recent"),
    "list_artifacts": ("artifacts", "list"),
    "download_artifact": ("artifacts", "download"),
    "upload_artifact": ("artifacts", "upload"),
    "create_token": ("access", "create"),
    "list_tokens": ("access", "list"),
    "revoke_token": ("access", "revoke"),
    "create_worker_token": ("access", "create"),
    "list_worker_tokens": ("access", "list"),
    "revoke_worker_token": ("access", "revoke"),
}
#: Nothing behind these is asked, while authentication is disabled.
ALONE: Final = frozenset({"get_health", "get_session", "log_in", "log_out"})


async def test_what_is_not_there_is_not_found(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        for path in (
            "/nothing",
            "/api",
            "/api/",
            "/api/queue/jobs/",
            "/api/queue/jobs/a/b",
            f"/api/queue/jobs/{JOB_ID}/",
            f"/api/queue/jobs/{JOB_ID}/nothing",
            "/api/queue/jobs/%2Fx/cancel",
            "//api/queue/jobs",
            "/API/queue/jobs",
            "/docs",
            "/redoc",
            "/tasks/",
            "/tasks/nothing",
            f"/tasks/jobs/{JOB_ID}/nothing",
            "/tasks.css",
            "/mcp/",
            "/mcpx",
            "/%00",
            "/%3Cscript%3Ealert(1)%3C/script%3E",
            "/" + "x" * 60_000,
        ):
            for method in ("GET", "POST"):
                body = None if method == "GET" else {}
                problem = await api.refused(404, "not_found", method, path, body)
                assert "script" not in problem["detail"]
                assert "openapi.json" in problem["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/nothing.js",
        "/tasks.html",
        "/../x",
        "/..%2fpages.py",
        "/%2e%2e/pages.py",
        "/..%5cpages.py",
        "/%00",
        "//etc/passwd",
    ],
)
async def test_beside_the_scripts_and_styles_of_the_pages_no_file_is_served(
    sqlite_url: str, path: str
) -> None:
    async with open_api(sqlite_url) as api:
        await api.refused(404, "not_found", "GET", f"/tasks/assets{path}")


async def test_a_wrong_method_is_told_all_the_right_ones(sqlite_url: str) -> None:
    by_path: dict[str, set[str]] = {
        **{path: {"GET"} for path in PAGES},
        "/tasks/assets/app.js": {"GET"},
        "/openapi.json": {"GET"},
        **{path: {method} for method, path in FOR_BROWSERS if path != "/tasks/jobs/{job_id}"},
    }
    for operation in operations():
        by_path.setdefault(operation.path, set()).add(operation.method)
    # Addresses more where the word for a verb stands in the place of an id.
    for verb in ("batch", "claim", "retry"):
        by_path[f"/api/queue/jobs/{verb}"].add("GET")
    async with open_api(sqlite_url) as api:
        for path, methods in by_path.items():
            allowed = methods | ({"HEAD"} if "GET" in methods else set())
            for method in METHODS:
                if method in allowed:
                    continue
                answer = await api.ask(method, path.replace("{jobId}", JOB_ID).replace("{tokenId}", JOB_ID))
                assert answer.status_code == 405, (method, path)
                assert set(answer.headers["allow"].split(", ")) == allowed, (method, path)
                assert method == "HEAD" or answer.json()["code"] == "method_not_allowed"


async def test_head_answers_as_get_does_without_the_body(sqlite_url: str) -> None:
    async with open_socket(sqlite_url) as api:
        for path in (
            "/healthz",
            "/readyz",
            "/api/system/worker-pause",
            "/api/queue/jobs",
            *PAGES,
            "/tasks/assets/app.js",
            "/openapi.json",
        ):
            head, get = await api.ask("HEAD", path), await api.ask("GET", path)
            assert (head.status_code, head.content) == (200, b""), path
            assert head.headers["content-type"] == get.headers["content-type"]
        assert (await api.ask("HEAD", f"/api/queue/jobs/{JOB_ID}")).status_code == 404
        assert (await api.ask("HEAD", "/nothing")).status_code == 404


def request_of(operation: Any) -> tuple[str, str, dict[str, Any]]:
    path = operation.at(JOB_ID).replace("{artifactId}", JOB_ID).replace("{tokenId}", JOB_ID)
    path += "?for=drained" if operation.id == "wait_for_worker_pause" else ""
    return operation.method, path, good_request(operation)


def break_all(api: Api, monkeypatch: pytest.MonkeyPatch, fail: Callable[[], Exception]) -> None:
    """Each service raises this."""

    async def raising(*_: object, **__: object) -> None:
        raise fail()

    async def breaking(*_: object, **__: object) -> AsyncGenerator[None]:
        raise fail()
        yield

    for service, verb in BEHIND.values():
        monkeypatch.setattr(getattr(api.services, service), verb, breaking if verb == "follow" else raising)


def test_no_operation_is_forgotten_here() -> None:
    assert BEHIND.keys() | ALONE == {operation.id for operation in operations()}


async def test_a_bug_of_ours_is_answered_without_its_text(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logged:
        async with open_api(sqlite_url) as api:
            await _answer_without_its_text(api, monkeypatch)
    seen = [line for line in logged if line["event"] == "unexpected_error"]
    assert len(seen) == len(operations()) - len(ALONE) + 2  # a claim that waits, and a page
    assert {repr(line["exc_info"]) for line in seen} == {"RuntimeError('secret')"}


async def _answer_without_its_text(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    break_all(api, monkeypatch, lambda: RuntimeError("secret"))
    for operation in operations():
        if operation.id in ALONE:
            continue
        method, path, sent = request_of(operation)
        problem = await api.refused(500, "internal_error", method, path, **sent)
        assert "secret" not in str(problem)
        assert "log" in problem["detail"]
    # While it waits, too.
    waiting = {"workerId": "w", "leaseSeconds": 60, "waitSeconds": 5}
    problem = await api.refused(500, "internal_error", "POST", "/api/queue/jobs/claim", waiting)
    assert "secret" not in str(problem)
    page = await api.ask("GET", "/tasks")
    assert page.status_code == 500
    assert "secret" not in page.text
    assert (await api.ask("GET", "/healthz")).status_code == 200


async def test_several_errors_at_once_are_a_bug_of_ours_too(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs():  # plain structlog would draw each frame's locals, which takes a minute
        async with open_api(sqlite_url) as api:
            await _answer_without_its_text_either(api, monkeypatch)


async def _answer_without_its_text_either(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    break_all(api, monkeypatch, lambda: ExceptionGroup("secret", [ValueError("secret")]))
    for path in ("/api/queue/jobs", "/api/system/worker-pause/wait?for=drained"):
        problem = await api.refused(500, "internal_error", "GET", path)
        assert "secret" not in str(problem)


async def test_a_store_that_is_away_is_said_with_a_time_to_come_again(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_api(sqlite_url) as api:
        break_all(api, monkeypatch, lambda: StoreUnavailable("The database does not answer.", retry_after=7))
        for operation in operations():
            if operation.id in {*ALONE, "get_metrics"}:
                continue
            method, path, sent = request_of(operation)
            answer = await api.ask(method, path, **sent)
            assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable"), operation.id
            assert answer.headers["retry-after"] == "7"
        page = await api.ask("GET", "/tasks")
        assert page.status_code == 503
        metrics = await api.ask("GET", "/metrics")
        assert metrics.status_code == 200
        assert "holdfast_store_up 0.0" in metrics.text.splitlines()
        assert "holdfast_jobs{" not in metrics.text


async def test_a_pause_that_is_not_confirmed_promises_nothing(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_api(sqlite_url) as api:
        break_all(api, monkeypatch, lambda: PauseNotConfirmed("Nothing is promised."))
        body = {"action": "pause", "mode": "drain", "reason": "a test"}
        answer = await api.ask("POST", "/api/system/worker-pause", body)
        assert (answer.status_code, answer.json()["code"]) == (503, "pause_not_confirmed")
        assert int(answer.headers["retry-after"]) >= 1


async def test_a_database_that_is_away_is_never_a_crash_and_never_zeros(postgres_database_url: str) -> None:
    """The real thing."""
    name = urlsplit(plain_url(postgres_database_url)).path[1:]
    with capture_logs():
        async with open_api(postgres_database_url) as api:
            admin = await asyncpg.connect(beside(postgres_database_url))
            try:
                await admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
                await admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
                )
                for operation in operations():
                    if operation.id in {*ALONE, "get_metrics", "heartbeat_worker"}:
                        continue
                    method, path, sent = request_of(operation)
                    answer = await api.ask(method, path, **sent)
                    assert answer.status_code == 503, (operation.id, answer.text)
                assert await api.get("/healthz") == {"ok": True}
                page = await api.ask("GET", "/tasks")
                assert page.status_code == 503
                assert "Workers: Unknown" in page.text
            finally:
                await admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true')
                await admin.close()


async def test_paused_and_the_database_away_it_is_ready_but_degraded_and_claims_are_answered(
    postgres_database_url: str,
) -> None:
    name = urlsplit(plain_url(postgres_database_url)).path[1:]
    with capture_logs():
        async with open_api(postgres_database_url) as api:
            paused = await api.pause()
            admin = await asyncpg.connect(beside(postgres_database_url))
            try:
                await admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
                await admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
                )
                ready = await api.get("/readyz")
                assert (ready["ok"], ready["degraded"]) == (True, True)
                assert await api.claim() == {"job": None, "system": paused["system"]}
            finally:
                await admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true')
                await admin.close()
