"""OpenTelemetry: spans where its SDK takes them, and nothing at all where it does not."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from holdfast_core.services import Services
from holdfast_core.services.spans import traced
from holdfast_core.settings import load_settings
from holdfast_dashboard.hot_routes import Application
from holdfast_server.compose import create_application
from rest.harness import check_response
from support.core import claimed, complete, enqueue, expire
from support.stores import core

pytestmark = pytest.mark.anyio

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What takes all spans. A provider can be set only once in a process, so it is put in the place of one."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


@asynccontextmanager
async def served(url: str) -> AsyncGenerator[tuple[httpx2.AsyncClient, Application]]:
    """The whole app, with its lifespan."""
    app = create_application(load_settings(database_url=url))
    assert isinstance(app, Application)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app),
            base_url="http://127.0.0.1",
            event_hooks={"response": [check_response]},
        ) as http,
    ):
        yield http, app


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


async def test_a_claim_is_followed_from_its_caller_to_the_database(
    database_url: str, exporter: InMemorySpanExporter
) -> None:
    async with served(database_url) as (http, _):
        await http.post("/api/queue/jobs", json={"type": "t"})
        body = {"workerId": "w", "leaseSeconds": 60}
        headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        job = (await http.post("/api/queue/jobs/claim", json=body, headers=headers)).json()["job"]
        said = {"workerId": "w", "leaseToken": job["leaseToken"]}
        await http.post(f"/api/queue/jobs/{job['id']}/complete", json=said)
        refused = await http.post(f"/api/queue/jobs/{job['id']}/fail", json=said | {"errorMessage": "secret"})
        pause = {"action": "pause", "mode": "drain", "reason": "secret"}
        await http.post("/api/system/worker-pause", json=pause)
        paused = (await http.post("/api/queue/jobs/claim", json=body)).json()
        await http.get("/healthz")
        await http.get("/metrics")
    assert refused.status_code == 409
    assert paused["job"] is None
    asked, answered_from_memory = named(exporter, "POST /api/queue/jobs/claim")
    (looked,) = named(exporter, "holdfast.claims")
    assert f"{asked.context.trace_id:032x}" == TRACE
    assert looked.parent is not None
    assert (looked.context.trace_id, looked.parent.span_id) == (asked.context.trace_id, asked.context.span_id)
    assert dict(looked.attributes or {}) == {"holdfast.requests": 1}
    assert (answered_from_memory.attributes or {})["http.response.status_code"] == 200
    written, failed = named(exporter, "holdfast.outcomes")
    assert (written.status.is_unset, failed.status.is_unset) == (True, True)
    assert (failed.attributes or {})["error.type"] == "JobStateConflict"
    (toggle,) = named(exporter, "holdfast.toggle")
    assert dict(toggle.attributes or {}) == {
        "holdfast.action": "pause",
        "holdfast.outcome": "changed",
        "holdfast.pause_version": 2,
    }
    names = {span.name for span in exporter.get_finished_spans()}
    assert "POST /api/queue/jobs/{jobId}/complete" in names
    assert not any("healthz" in name or "metrics" in name for name in names)
    assert "secret" not in "".join(span.to_json() for span in exporter.get_finished_spans())


async def test_leases_that_are_put_back_have_a_span(sqlite_url: str, exporter: InMemorySpanExporter) -> None:
    async with core(sqlite_url, lease_grace_seconds=0) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        await services.sweeper.sweep()
        exporter.clear()
        await expire(database, job)
        await services.sweeper.sweep()
        swept = [(span.attributes or {})["holdfast.jobs"] for span in named(exporter, "holdfast.sweep")]
    assert sum(int(str(jobs)) for jobs in swept) == 1


async def alone() -> None:
    """Something that may be traced."""


async def test_where_nobody_takes_spans_nothing_stands_in_the_way(database_url: str) -> None:
    assert traced("holdfast.claims", alone) is alone
    async with served(database_url) as (http, app):
        for routes in (app.hot_routes, app.begins):
            assert routes.find({"method": "POST", "path": "/api/queue/jobs/claim"}) is not None
        await http.get("/readyz")
    async with core(database_url) as (services, _):
        assert_untraced(services)
        await enqueue(services)
        await complete(services, await claimed(services))


def assert_untraced(services: Services) -> None:
    for call in (services.claims._alone, services.claims._together, services.outcomes._write):
        assert not hasattr(call, "__wrapped__")
