"""Pause, resume, status, wait, the audit log, and the fleet."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from uuid import UUID

from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from holdfast_core import errors
from holdfast_core.schemas import (
    BlockerList,
    ControlEventPage,
    ControlSnapshot,
    HistoryQuery,
    MetricsHistory,
    MetricsHistoryQuery,
    Snapshot,
    WaitQuery,
    WaitSnapshot,
    WorkerList,
    WorkerPauseRequest,
)
from holdfast_dashboard.context import Context
from holdfast_dashboard.operations import Operations
from holdfast_dashboard.requests import (
    answer,
    last_event_id,
    read_body,
    read_key,
    read_query,
    while_connected,
)
from holdfast_dashboard.streams import event, stream

__all__ = ["system_operations"]


def system_operations(context: Context) -> Operations:
    """The routes under `/api/system`."""
    operations = Operations("system")

    @operations.add(
        "GET",
        "/api/system/worker-pause",
        summary="The pause, what runs, who has seen it, and the newest events",
        answers=Snapshot,
    )
    async def get_worker_pause(request: Request) -> Response:
        return answer(await context.services.pause.status(context.caller(request)))

    @operations.add(
        "POST",
        "/api/system/worker-pause",
        summary="Pause or resume",
        body=WorkerPauseRequest,
        answers=ControlSnapshot,
        takes_key=True,
        refuses=(
            errors.NotAllowed,
            errors.KeyReused,
            errors.IdempotencyStale,
            errors.NotPaused,
            errors.VersionConflict,
            errors.ResumeNotDrained,
            errors.PauseNotConfirmed,
        ),
    )
    async def post_worker_pause(request: Request) -> Response:
        """Once a pause is answered with 200, no claim commits until a resume."""
        body, _ = await read_body(request, WorkerPauseRequest)
        key = read_key(request)
        return answer(await context.services.pause.control(context.caller(request), body, key=key))

    @operations.add(
        "GET",
        "/api/system/worker-pause/wait",
        summary="Wait until drained, parked, running, or past a version",
        query=WaitQuery,
        answers=WaitSnapshot,
    )
    async def wait_for_worker_pause(request: Request) -> Response:
        """A bounded long poll: ask again while `reached` is false. For `drained` and `parked` that is answered
        at once where nothing is paused."""
        query = read_query(request, WaitQuery)
        caller = context.caller(request)
        snapshot = await while_connected(request, lambda: context.services.pause.wait(caller, query))
        return Response(status_code=204) if snapshot is None else answer(snapshot)

    @operations.add(
        "GET",
        "/api/system/control-events",
        summary="The audit log, newest first",
        query=HistoryQuery,
        answers=ControlEventPage,
    )
    async def list_control_events(request: Request) -> Response:
        query = read_query(request, HistoryQuery)
        return answer(await context.services.pause.history(context.caller(request), query))

    @operations.add(
        "GET",
        "/api/system/events",
        summary="Follow the system",
        answers=Snapshot,
        media_type="text/event-stream",
    )
    async def stream_system_events(request: Request) -> Response:
        """Server-sent events: a `snapshot` at each connection, then `system`, `metrics`, `workers` and `audit` as they
        change. After a cut `Last-Event-ID` brings the missed events of the audit log right behind the snapshot."""
        return await stream(_followed(context, request))

    @operations.add(
        "GET",
        "/api/system/blockers",
        summary="What keeps the system from drained, and the way out",
        answers=BlockerList,
    )
    async def list_blockers(request: Request) -> Response:
        return answer(await context.services.blockers.list(context.caller(request)))

    @operations.add(
        "GET",
        "/api/system/metrics/history",
        summary="The last hours by the minute",
        query=MetricsHistoryQuery,
        answers=MetricsHistory,
    )
    async def get_metrics_history(request: Request) -> Response:
        query = read_query(request, MetricsHistoryQuery)
        return answer(await context.services.history.history(context.caller(request), query))

    @operations.add("GET", "/api/system/workers", summary="The fleet, by worker id", answers=WorkerList)
    async def list_workers(request: Request) -> Response:
        return answer(await context.services.workers.list(context.caller(request)))

    return operations


async def _followed(context: Context, request: Request) -> AsyncGenerator[ServerSentEvent]:
    said = last_event_id(request)
    try:
        after = None if said is None else UUID(said)
    except ValueError:
        after = None  # not one of ours: begin anew
    async with aclosing(context.services.feed.follow(context.caller(request), after=after)) as following:
        async for found in following:
            yield event(found.kind, found.data, at=None if found.id is None else str(found.id))
