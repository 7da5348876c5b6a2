"""Tools of people and producers: put jobs in, look at them, stop and restart them."""

from typing import Any, Final

from holdfast_core.schemas import (
    CancelRequest,
    EnqueueRequest,
    Job,
    JobEventPage,
    JobEventQuery,
    JobPage,
    JobQuery,
    RequeueRequest,
    RetryRequest,
)
from holdfast_server.mcp.arguments import (
    CancelArguments,
    EventsArguments,
    GetArguments,
    RequeueArguments,
    RetryArguments,
    plain_request,
)
from holdfast_server.mcp.tool import ADDS, DESTROYS, READS, Call, Effect, Tool
from holdfast_server.mcp.words import JOB_ID

__all__ = ["JOB_TOOLS"]


async def _enqueue(call: Call, arguments: EnqueueRequest) -> Job:
    return (await call.services.jobs.enqueue(call.caller, arguments)).job


async def _get(call: Call, arguments: GetArguments) -> Job:
    return await call.services.jobs.get(call.caller, arguments.job_id)


async def _list(call: Call, arguments: JobQuery) -> JobPage:
    return await call.services.jobs.list(call.caller, arguments)


async def _cancel(call: Call, arguments: CancelArguments) -> Job:
    request = plain_request(CancelRequest, arguments)
    return await call.services.jobs.cancel(call.caller, arguments.job_id, request)


async def _retry(call: Call, arguments: RetryArguments) -> Job:
    request = plain_request(RetryRequest, arguments)
    return await call.services.jobs.retry(call.caller, arguments.job_id, request)


async def _requeue(call: Call, arguments: RequeueArguments) -> Job:
    request = plain_request(RequeueRequest, arguments)
    return await call.services.jobs.requeue(call.caller, arguments.job_id, request)


async def _events(call: Call, arguments: EventsArguments) -> JobEventPage:
    query = JobEventQuery(after=arguments.after, limit=arguments.limit)
    return await call.services.logs.page(call.caller, arguments.job_id, query)


JOB_TOOLS: Final[tuple[Tool[Any], ...]] = (
    Tool(
        name="queue.enqueue",
        title="Enqueue a job",
        description=(
            "Put a new job into the queue. Works while workers are paused too: the job keeps its place"
            " and is handed out after the resume. Answers the job with its id."
        ),
        effect=ADDS,
        arguments=EnqueueRequest,
        answer=Job,
        run=_enqueue,
        words={
            "type": "What kind of work it is; workers claim by type.",
            "payload": "What the worker needs to know: any JSON object.",
            "priority": "The highest is handed out first.",
            "maxAttempts": "How often it is tried before it goes to dead_letter.",
            "requiredCapabilities": "Only a worker that has all of these may claim it.",
            "runAt": "Not handed out before this time (RFC 3339 with an offset).",
            "affinityKey": "Stored and shown, not used for claiming.",
            "idempotencyKey": (
                "Your own name for this job: a repeat with the same key and arguments answers the first job"
                " instead of making another. 1 to 255 printable ASCII characters."
            ),
        },
    ),
    Tool(
        name="queue.get",
        title="Read a job",
        description="Read one job: status, holder, attempt, progress, result or error.",
        effect=READS,
        arguments=GetArguments,
        answer=Job,
        run=_get,
        words={"jobId": JOB_ID},
    ),
    Tool(
        name="queue.list",
        title="List jobs",
        description="List jobs, newest first. For the next page pass nextCursor as cursor.",
        effect=READS,
        arguments=JobQuery,
        answer=JobPage,
        run=_list,
        words={
            "status": "Only jobs of this status.",
            "type": "Only jobs of this type.",
            "claimedBy": "Only jobs that this worker holds or held last.",
            "q": "Only jobs with this text in their type, id or worker.",
            "limit": "How many at most.",
            "cursor": "The nextCursor of the page before.",
        },
    ),
    Tool(
        name="queue.cancel",
        title="Cancel a job",
        description=(
            "Cancel a job. Queued or stale: cancelled at once. Running: its worker is asked through its"
            " next heartbeat and may still complete it. Answers the job; cancelRequestedAt tells that it"
            " was asked for."
        ),
        effect=DESTROYS,
        arguments=CancelArguments,
        answer=Job,
        run=_cancel,
        words={"jobId": JOB_ID, "reason": "Why; the worker and the job's record show it."},
    ),
    Tool(
        name="queue.retry",
        title="Retry a finished job",
        description=(
            "Run a failed, dead_letter or cancelled job again: it goes back to queued with the same id and"
            " place, from attempt 1. Works while workers are paused too."
        ),
        effect=ADDS,
        arguments=RetryArguments,
        answer=Job,
        run=_retry,
        words={"jobId": JOB_ID, "reason": "Why, for the record."},
    ),
    Tool(
        name="queue.requeue",
        title="Requeue a stale job",
        description=(
            "Take a stale job (running, but its lease has expired: nobody heartbeats) from its lost worker"
            " and put it back to its place with one attempt used, or to dead_letter when none are left."
            " The way out of a drain that a dead worker blocks. A job whose lease is alive is refused."
        ),
        # What the lost worker may still deliver is refused from then on.
        effect=Effect(read_only=False, destructive=True, idempotent=False),
        arguments=RequeueArguments,
        answer=Job,
        run=_requeue,
        words={"jobId": JOB_ID, "reason": "Why, for the record."},
    ),
    Tool(
        name="queue.events",
        title="Read a job's log",
        description=(
            "What the workers and the server have written into a job's log, oldest first. For what comes later"
            " pass nextAfter as after."
        ),
        effect=READS,
        arguments=EventsArguments,
        answer=JobEventPage,
        run=_events,
        words={
            "jobId": JOB_ID,
            "after": "Only events with a higher sequence; 0 begins at the start.",
            "limit": "How many at most.",
        },
    ),
)
