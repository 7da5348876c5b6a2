"""Jobs, claims, leases and outcomes, and workers' presence."""

from functools import lru_cache
from typing import Final

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from holdfast_core import errors
from holdfast_core.callers import Caller
from holdfast_core.schemas import (
    BulkRetryAnswer,
    BulkRetryRequest,
    CancelAckRequest,
    CancelRequest,
    ClaimAnswer,
    ClaimRequest,
    CompleteRequest,
    EnqueueBatchRequest,
    EnqueueRequest,
    FailRequest,
    HeartbeatAnswer,
    HeartbeatRequest,
    Job,
    JobBatch,
    JobPage,
    JobQuery,
    PresenceAnswer,
    PresenceRequest,
    ReleaseRequest,
    RequeueRequest,
    RetryRequest,
    parse_request,
)
from holdfast_dashboard.context import Context
from holdfast_dashboard.operations import Operations, Under, Wire
from holdfast_dashboard.paused_answer import PausedAnswer
from holdfast_dashboard.requests import (
    answer,
    json_of,
    read_body,
    read_key,
    read_query,
    refuse_key,
    while_connected,
    wire_of,
)

__all__ = ["queue_operations"]

_HOLDER = (errors.JobNotFound, errors.JobNotOwned, errors.LeaseLost)
_OUTCOME = (*_HOLDER, errors.JobStateConflict)
_PERSON = (errors.JobNotFound, errors.JobStateConflict)


#: Claims that a worker repeats byte by byte are read once.
SAME_BYTES: Final = 512
SAME_CLAIMS: Final = 1_024


@lru_cache(SAME_CLAIMS)
def _parsed(raw: bytes) -> tuple[ClaimRequest, list[str]]:
    return parse_request(ClaimRequest, raw)


def _wire_of(model: BaseModel) -> Wire:
    return wire_of(json_of(model))


def queue_operations(context: Context) -> Operations:
    """The routes under `/api/queue`."""
    operations = Operations("queue")
    _claims(operations, context)  # first, since routes are tried in turn and these are asked for most
    _outcomes(operations, context)
    _jobs(operations, context)
    return operations


def _jobs(operations: Operations, context: Context) -> None:
    @operations.add(
        "POST",
        "/api/queue/jobs",
        summary="Add a job",
        body=EnqueueRequest,
        answers=Job,
        status=201,
        also=200,
        takes_key=True,
        refuses=(errors.KeyReused,),
    )
    async def enqueue_job(request: Request) -> Response:
        """Works while paused, too; nothing hands the job out before the resume. A repeated idempotencyKey (or
        Idempotency-Key header) answers 200 with the first job."""
        body, _ = await read_body(request, EnqueueRequest)
        key = read_key(request)
        if key is not None and body.idempotency_key not in {None, key}:
            raise errors.InvalidRequest.of(
                errors.FieldError("idempotencyKey", "is another than the Idempotency-Key header's")
            )
        if key is not None:
            body = body.model_copy(update={"idempotency_key": key})
        made = await context.services.jobs.enqueue(context.caller(request), body)
        status = 201 if made.is_new else 200
        return answer(made.job, status=status, location=f"/api/queue/jobs/{made.job.id}")

    @operations.add(
        "POST",
        "/api/queue/jobs/batch",
        summary="Add many jobs, all or none",
        body=EnqueueBatchRequest,
        answers=JobBatch,
        status=201,
        refuses=(errors.KeyReused,),
    )
    async def enqueue_jobs(request: Request) -> Response:
        """Up to 1,000, with ids that rise in the order of the list. A job whose idempotencyKey is known already is
        answered as it is."""
        refuse_key(request, "give each job of the batch an idempotencyKey")
        body, _ = await read_body(request, EnqueueBatchRequest)
        return answer(await context.services.jobs.enqueue_batch(context.caller(request), body), status=201)

    @operations.add(
        "POST",
        "/api/queue/jobs/retry",
        summary="Run all jobs again that ended in one way",
        body=BulkRetryRequest,
        answers=BulkRetryAnswer,
    )
    async def retry_jobs(request: Request) -> Response:
        """At most 10,000 a call, those that ended first before the others; `more` says to ask again."""
        body, _ = await read_body(request, BulkRetryRequest)
        return answer(await context.services.jobs.retry_many(context.caller(request), body))

    @operations.add(
        "GET", "/api/queue/jobs", summary="List jobs, newest first", query=JobQuery, answers=JobPage
    )
    async def list_jobs(request: Request) -> Response:
        query = read_query(request, JobQuery)
        return answer(await context.services.jobs.list(context.caller(request), query))

    @operations.add(
        "GET",
        "/api/queue/jobs/{jobId}",
        summary="One job",
        answers=Job,
        refuses=(errors.JobNotFound,),
    )
    async def get_job(request: Request, jobId: str) -> Response:  # noqa: N803 (the contract's name)
        return answer(await context.services.jobs.get(context.caller(request), jobId))

    @operations.add(
        "POST",
        "/api/queue/jobs/{jobId}/cancel",
        summary="Cancel a job",
        body=CancelRequest,
        optional=True,
        answers=Job,
        refuses=_PERSON,
    )
    async def cancel_job(request: Request, jobId: str) -> Response:  # noqa: N803
        """A queued or stale job ends at once; the holder of a running one is asked through its heartbeat."""
        body, _ = await read_body(request, CancelRequest, optional=True)
        return answer(await context.services.jobs.cancel(context.caller(request), jobId, body))

    @operations.add(
        "POST",
        "/api/queue/jobs/{jobId}/requeue",
        summary="Put a stale job back",
        body=RequeueRequest,
        answers=Job,
        refuses=_PERSON,
    )
    async def requeue_job(request: Request, jobId: str) -> Response:  # noqa: N803
        """Also while paused: the way out of a drain that a dead worker blocks."""
        body, _ = await read_body(request, RequeueRequest)
        return answer(await context.services.jobs.requeue(context.caller(request), jobId, body))

    @operations.add(
        "POST",
        "/api/queue/jobs/{jobId}/retry",
        summary="Run a failed, dead or cancelled job again",
        body=RetryRequest,
        optional=True,
        answers=Job,
        refuses=_PERSON,
    )
    async def retry_job(request: Request, jobId: str) -> Response:  # noqa: N803
        body, _ = await read_body(request, RetryRequest, optional=True)
        return answer(await context.services.jobs.retry(context.caller(request), jobId, body))


def _claims(operations: Operations, context: Context) -> None:
    paused = PausedAnswer()

    @operations.add(
        "POST",
        "/api/queue/jobs/claim",
        summary="Ask for one job",
        body=ClaimRequest,
        answers=ClaimAnswer,
        refuses=(errors.KeyReused,),
        hot=True,
    )
    async def claim_job(request: Request) -> Response:
        """Null means paused (`system` says so), or nothing to do within `waitSeconds`."""
        body, ignored = await read_body(request, ClaimRequest)
        caller = context.caller(request)
        claims = context.services.claims
        if body.wait_seconds > 0:
            claimed = await while_connected(request, lambda: claims.claim(caller, body))
        else:
            claimed = await claims.claim(caller, body)
        if claimed is None:
            return Response(status_code=204)
        is_paused = claimed.job is None and claimed.system.workers_paused
        return answer(paused.wire(claimed)[1] if is_paused else claimed, ignored)

    def wire_of_claim(claimed: ClaimAnswer) -> Wire:
        is_paused = claimed.job is None and claimed.system.workers_paused
        return paused.wire(claimed) if is_paused else wire_of(json_of(claimed))

    def begin_claim(caller: Caller, raw: bytes, _: str) -> Wire | Under | None:
        body, ignored = _parsed(raw) if len(raw) <= SAME_BYTES else parse_request(ClaimRequest, raw)
        if ignored or body.wait_seconds > 0:
            return None
        begun = context.services.claims.begin(caller, body)
        return paused.wire(begun) if isinstance(begun, ClaimAnswer) else Under(begun, wire_of_claim, answer)

    operations.begins["/api/queue/jobs/claim"] = begin_claim

    @operations.add(
        "POST",
        "/api/queue/jobs/{jobId}/heartbeat",
        summary="Extend a lease, and hear of the pause",
        body=HeartbeatRequest,
        answers=HeartbeatAnswer,
        refuses=_HOLDER,
        hot=True,
    )
    async def heartbeat_job(request: Request, jobId: str) -> Response:  # noqa: N803
        body, ignored = await read_body(request, HeartbeatRequest)
        beat = await context.services.leases.heartbeat(context.caller(request), jobId, body)
        return answer(beat, ignored)

    def begin_heartbeat(caller: Caller, raw: bytes, job_id: str) -> Under | None:
        body, ignored = parse_request(HeartbeatRequest, raw)
        if ignored:
            return None
        begun = context.services.leases.begin(caller, job_id, body)
        return Under(begun, _wire_of, answer)

    operations.begins["/api/queue/jobs/{jobId}/heartbeat"] = begin_heartbeat

    @operations.add(
        "POST",
        "/api/queue/workers/heartbeat",
        summary="Say that an idle or locally paused worker is there",
        body=PresenceRequest,
        answers=PresenceAnswer,
    )
    async def heartbeat_worker(request: Request) -> Response:
        body, ignored = await read_body(request, PresenceRequest)
        return answer(await context.services.workers.presence(context.caller(request), body), ignored)


def _outcomes(operations: Operations, context: Context) -> None:
    @operations.add(
        "POST",
        "/api/queue/jobs/{jobId}/complete",
        summary="The job succeeded",
        body=CompleteRequest,
        answers=Job,
        refuses=_OUTCOME,
        hot=True,
    )
    async def complete_job(request: Request, jobId: str) -> Response:  # noqa: N803
        """Repeated by the claim that made it, this answers the job as it is and writes nothing."""
        body, ignored = await read_body(request, CompleteRequest)
        return answer(await context.services.outcomes.complete(context.caller(request), jobId, body), ignored)

    def begin_complete(caller: Caller, raw: bytes, job_id: str) -> Under | None:
        body, ignored = parse_request(CompleteRequest, raw)
        if ignored:
            return None
        begun = context.services.outcomes.begin_complete(caller, job_id, body)
        return Under(begun, _wire_of, answer)

    operations.begins["/api/queue/jobs/{jobId}/complete"] = begin_complete

    @operations.add(
        "POST",
        "/api/queue/jobs/{jobId}/fail",
        summary="The job failed",
        body=FailRequest,
        answers=Job,
        refuses=_OUTCOME,
    )
    async def fail_job(request: Request, jobId: str) -> Response:  # noqa: N803
        """With `retryable` it comes back after a back-off while attempts are left."""
        body, ignored = await read_body(request, FailRequest)
        return answer(await context.services.outcomes.fail(context.caller(request), jobId, body), ignored)

    @operations.add(
        "POST",
        "/api/queue/jobs/{jobId}/release",
        summary="Give the job back to its place",
        body=ReleaseRequest,
        answers=Job,
        refuses=_OUTCOME,
    )
    async def release_job(request: Request, jobId: str) -> Response:  # noqa: N803
        """No attempt is used."""
        body, ignored = await read_body(request, ReleaseRequest)
        return answer(await context.services.outcomes.release(context.caller(request), jobId, body), ignored)

    @operations.add(
        "POST",
        "/api/queue/jobs/{jobId}/cancel/ack",
        summary="The job has stopped, as was asked",
        body=CancelAckRequest,
        answers=Job,
        refuses=_OUTCOME,
    )
    async def acknowledge_cancel(request: Request, jobId: str) -> Response:  # noqa: N803
        body, ignored = await read_body(request, CancelAckRequest)
        job = await context.services.outcomes.cancel_ack(context.caller(request), jobId, body)
        return answer(job, ignored)
