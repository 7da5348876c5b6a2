"""Pause, resume, status, wait, the audit log, and the fleet."""

from starlette.requests import Request
from starlette.responses import Response

from holdfast_core import errors
from holdfast_core.schemas import (
    ControlEventPage,
    HistoryQuery,
    Snapshot,
    WaitQuery,
    WaitSnapshot,
    WorkerList,
    WorkerPauseRequest,
)
from holdfast_dashboard.context import Context
from holdfast_dashboard.operations import Operations
from holdfast_dashboard.requests import answer, read_body, read_query, while_connected

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
        answers=Snapshot,
        refuses=(
            errors.NotAllowed,
            errors.NotPaused,
            errors.VersionConflict,
            errors.ResumeNotDrained,
            errors.PauseNotConfirmed,
        ),
    )
    async def post_worker_pause(request: Request) -> Response:
        """Once a pause is answered with 200, no claim commits until a resume."""
        body, _ = await read_body(request, WorkerPauseRequest)
        return answer(await context.services.pause.control(context.caller(request), body))

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

    @operations.add("GET", "/api/system/workers", summary="The fleet, by worker id", answers=WorkerList)
    async def list_workers(request: Request) -> Response:
        return answer(await context.services.workers.list(context.caller(request)))

    return operations
