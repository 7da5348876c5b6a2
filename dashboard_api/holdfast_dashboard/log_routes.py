"""The logs of jobs: adding, reading, following."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from holdfast_core import errors
from holdfast_core.schemas import Job, JobEvent, JobEventPage, JobEventQuery, JobFollowQuery, LogRequest
from holdfast_core.services import Services
from holdfast_dashboard.context import Context
from holdfast_dashboard.operations import Operations
from holdfast_dashboard.requests import answer, last_event_id, read_body, read_query
from holdfast_dashboard.streams import event, stream

__all__ = ["log_operations"]


def log_operations(context: Context) -> Operations:
    """The routes under `/api/queue/jobs/{jobId}/events`."""
    operations = Operations("queue")

    @operations.add(
        "POST",
        "/api/queue/jobs/{jobId}/events",
        summary="Add to a job's log",
        body=LogRequest,
        answers=JobEvent,
        status=201,
        refuses=(errors.JobNotFound, errors.JobNotOwned, errors.LeaseLost, errors.JobStateConflict),
    )
    async def log_job_event(request: Request, jobId: str) -> Response:  # noqa: N803 (the contract's name)
        """By the holder of the job, or by who has just ended its claim. The sequence of a log has no gaps."""
        body, ignored = await read_body(request, LogRequest)
        made = await context.services.logs.append(context.caller(request), jobId, body)
        return answer(made, ignored, status=201)

    @operations.add(
        "GET",
        "/api/queue/jobs/{jobId}/events",
        summary="A job's log, oldest first",
        query=JobEventQuery,
        answers=JobEventPage,
        refuses=(errors.JobNotFound,),
    )
    async def list_job_events(request: Request, jobId: str) -> Response:  # noqa: N803
        query = read_query(request, JobEventQuery)
        return answer(await context.services.logs.page(context.caller(request), jobId, query))

    @operations.add(
        "GET",
        "/api/queue/jobs/{jobId}/events/stream",
        summary="Follow a job's log",
        query=JobFollowQuery,
        answers=JobEvent,
        media_type="text/event-stream",
        refuses=(errors.JobNotFound,),
    )
    async def stream_job_events(request: Request, jobId: str) -> Response:  # noqa: N803
        """Server-sent events: `log` for each event, its sequence as id, then `end` with the job once it has ended.
        `Last-Event-ID` goes on behind that event, as `after` does."""
        after = read_query(request, JobFollowQuery).after
        said = last_event_id(request)
        if said is not None and said.isdecimal() and len(said) < 16:
            after = int(said)
        return await stream(_followed(context.services, context, request, jobId, after))

    return operations


async def _followed(
    services: Services, context: Context, request: Request, job_id: str, after: int
) -> AsyncGenerator[ServerSentEvent]:
    async with aclosing(services.logs.follow(context.caller(request), job_id, after=after)) as following:
        async for found in following:
            if isinstance(found, Job):
                yield event("end", found)
                return
            if not found:
                yield ServerSentEvent(comment="nothing yet")  # so that the answer begins
            for one in found:
                yield event("log", one, at=str(one.sequence))
