"""Tools of workers: take a job, keep its lease, end it."""

import base64
import binascii
import io
from typing import Any, Final

from holdfast_core.errors import BodyTooLarge, FieldError, InvalidRequest
from holdfast_core.schemas import (
    Artifact,
    CancelAckRequest,
    ClaimAnswer,
    ClaimRequest,
    CompleteRequest,
    FailRequest,
    HeartbeatAnswer,
    HeartbeatRequest,
    Job,
    JobEvent,
    LogRequest,
    PresenceAnswer,
    PresenceRequest,
    ReleaseRequest,
    UploadRequest,
)
from holdfast_server.mcp.arguments import (
    MAX_UPLOAD_BYTES,
    CancelAckArguments,
    ClaimArguments,
    CompleteArguments,
    FailArguments,
    HeartbeatArguments,
    LogArguments,
    PresenceArguments,
    ReleaseArguments,
    UploadArguments,
    plain_request,
)
from holdfast_server.mcp.tool import ADDS, CHANGES, Call, Tool
from holdfast_server.mcp.words import (
    CAPABILITIES,
    JOB_ID,
    LEASE_SECONDS,
    LEASE_TOKEN,
    OBSERVED_VERSION,
    WORKER_ID,
)

__all__ = ["WORK_TOOLS"]


async def _claim(call: Call, arguments: ClaimArguments) -> ClaimAnswer:
    # A client that cancels or goes away cancels this call; the service then gives the job back.
    request = plain_request(ClaimRequest, arguments)
    return await call.services.claims.claim(call.caller, request, transport="mcp")


async def _heartbeat(call: Call, arguments: HeartbeatArguments) -> HeartbeatAnswer:
    request = plain_request(HeartbeatRequest, arguments)
    return await call.services.leases.heartbeat(call.caller, arguments.job_id, request, transport="mcp")


async def _complete(call: Call, arguments: CompleteArguments) -> Job:
    request = plain_request(CompleteRequest, arguments)
    return await call.services.outcomes.complete(call.caller, arguments.job_id, request)


async def _fail(call: Call, arguments: FailArguments) -> Job:
    request = plain_request(FailRequest, arguments)
    return await call.services.outcomes.fail(call.caller, arguments.job_id, request)


async def _release(call: Call, arguments: ReleaseArguments) -> Job:
    request = plain_request(ReleaseRequest, arguments)
    return await call.services.outcomes.release(call.caller, arguments.job_id, request)


async def _cancel_ack(call: Call, arguments: CancelAckArguments) -> Job:
    request = plain_request(CancelAckRequest, arguments)
    return await call.services.outcomes.cancel_ack(call.caller, arguments.job_id, request)


async def _presence(call: Call, arguments: PresenceArguments) -> PresenceAnswer:
    request = plain_request(PresenceRequest, arguments)
    return await call.services.workers.presence(call.caller, request, transport="mcp")


async def _log(call: Call, arguments: LogArguments) -> JobEvent:
    request = plain_request(LogRequest, arguments)
    return await call.services.logs.append(call.caller, arguments.job_id, request)


async def _upload(call: Call, arguments: UploadArguments) -> Artifact:
    try:
        content = base64.b64decode(arguments.content_base64, validate=True)
    except binascii.Error:
        raise InvalidRequest.of(FieldError("contentBase64", "is not valid base64")) from None
    if len(content) > MAX_UPLOAD_BYTES:
        raise BodyTooLarge(f"contentBase64: more than {MAX_UPLOAD_BYTES:,} bytes go over REST.")
    request = plain_request(UploadRequest, arguments)
    made = await call.services.artifacts.upload(call.caller, arguments.job_id, request, io.BytesIO(content))
    return made.artifact


_HOLDER: Final = {"jobId": JOB_ID, "workerId": WORKER_ID}

WORK_TOOLS: Final[tuple[Tool[Any], ...]] = (
    Tool(
        name="queue.claim",
        title="Claim a job",
        description=(
            "Take one job under a lease. Answers {job, system}. Keep job.leaseToken and pass it in every"
            " later call about the job. job null with system.workersPaused true: workers are paused; this"
            " is not an error, wait a few seconds and ask again. job null otherwise: nothing to do now."
        ),
        effect=ADDS,
        arguments=ClaimArguments,
        answer=ClaimAnswer,
        run=_claim,
        words={
            "workerId": WORKER_ID,
            "leaseSeconds": LEASE_SECONDS,
            "allowedTypes": "Only jobs of these types; left out: any type.",
            "workerCapabilities": CAPABILITIES,
            "waitSeconds": "Wait up to this long for a job to come; a pause ends the wait at once.",
            "observedVersion": OBSERVED_VERSION,
            "requestId": (
                "Your own name for this one claim, new for each: where the answer was lost, a repeat with the same"
                " id answers the same job under a new leaseToken. 1 to 128 printable ASCII characters."
            ),
        },
        waits=lambda arguments: arguments.get("waitSeconds", 0) != 0,
    ),
    Tool(
        name="queue.heartbeat",
        title="Keep a job's lease",
        description=(
            "Extend the lease of a job that you hold; call it at a third of leaseSeconds while you work,"
            " paused or not. Answers the job with system beside its fields. system.mode quiesce: stop at"
            " the next safe point, say phase parked, keep heartbeating, go on when workersPaused is false."
            " cancelRequestedAt set: stop and call queue.cancel_ack. Error lease_lost: stop, the job is no"
            " longer yours."
        ),
        effect=CHANGES,
        arguments=HeartbeatArguments,
        answer=HeartbeatAnswer,
        run=_heartbeat,
        words={
            **_HOLDER,
            "leaseSeconds": LEASE_SECONDS,
            "leaseToken": LEASE_TOKEN,
            "observedVersion": OBSERVED_VERSION,
            "phase": "What you do right now: running, parking (about to stop) or parked (waiting, paused).",
            "checkpoint": "The safe point that you have reached, in your words.",
            "progress": "How far you are: any small JSON object, up to 65,536 bytes.",
            "compact": "Leave the payload out of the answer.",
        },
    ),
    Tool(
        name="queue.complete",
        title="Complete a job",
        description="The job that you hold is done: status succeeded. A repeat answers the job as it is.",
        effect=CHANGES,
        arguments=CompleteArguments,
        answer=Job,
        run=_complete,
        words={**_HOLDER, "resultSummary": "What came out, for people.", "leaseToken": LEASE_TOKEN},
    ),
    Tool(
        name="queue.fail",
        title="Fail a job",
        description=(
            "The job that you hold could not be done. With retryable it comes back after a back-off while"
            " attempts are left; without, its status is failed. A repeat answers the job as it is."
        ),
        effect=CHANGES,
        arguments=FailArguments,
        answer=Job,
        run=_fail,
        words={
            **_HOLDER,
            "errorMessage": "What went wrong, for people.",
            "retryable": "Whether another try may succeed.",
            "leaseToken": LEASE_TOKEN,
        },
    ),
    Tool(
        name="queue.release",
        title="Release a job",
        description=(
            "Give the job that you hold back unfinished: it goes to its old place, and no attempt is used."
        ),
        effect=CHANGES,
        arguments=ReleaseArguments,
        answer=Job,
        run=_release,
        words={**_HOLDER, "leaseToken": LEASE_TOKEN, "reason": "Why you give it back."},
    ),
    Tool(
        name="queue.cancel_ack",
        title="Confirm a cancellation",
        description=(
            "You have stopped a job whose cancellation was asked for (cancelRequestedAt in the heartbeat's"
            " answer): status cancelled."
        ),
        effect=CHANGES,
        arguments=CancelAckArguments,
        answer=Job,
        run=_cancel_ack,
        words={**_HOLDER, "message": "How far you had come.", "leaseToken": LEASE_TOKEN},
    ),
    Tool(
        name="queue.presence",
        title="Report an idle worker",
        description=(
            "Say that your worker is there while it holds no job (claims and heartbeats say it by"
            " themselves). Answers {system}."
        ),
        effect=CHANGES,
        arguments=PresenceArguments,
        answer=PresenceAnswer,
        run=_presence,
        words={
            "workerId": WORKER_ID,
            "autoEnabled": "False while your worker is paused locally and takes nothing new.",
            "types": "The job types that you take, at most 64; null: any.",
            "slots": "How many jobs you run at once, 1 to 1,024.",
            "runtime": "What you run on, at most 200 characters.",
            "version": "Your own version, at most 200 characters.",
            "workerCapabilities": CAPABILITIES,
            "observedVersion": OBSERVED_VERSION,
        },
    ),
    Tool(
        name="queue.log",
        title="Write into a job's log",
        description=(
            "Add one event to the log of the job that you hold (or have just ended): what people should see of"
            " your work. Answers the event with its sequence."
        ),
        effect=ADDS,
        arguments=LogArguments,
        answer=JobEvent,
        run=_log,
        words={
            **_HOLDER,
            "level": "info, warn or error.",
            "message": "What happened, for people; 1 to 8,000 characters.",
            "payload": "What belongs to it: any small JSON object, up to 65,536 bytes.",
            "leaseToken": LEASE_TOKEN,
        },
    ),
    Tool(
        name="queue.upload_artifact",
        title="Leave a file with a job",
        description=(
            "Leave a small file with the job that you hold (or have just ended). Answers the artifact with its id"
            " and digest. The same bytes under the same name are kept once. Larger files go over REST."
        ),
        effect=CHANGES,
        arguments=UploadArguments,
        answer=Artifact,
        run=_upload,
        words={
            **_HOLDER,
            "name": "What to call it: a label of 1 to 255 characters, never a path.",
            "contentBase64": f"The bytes in base64; at most {MAX_UPLOAD_BYTES:,} once decoded.",
            "contentType": "Such as text/plain.",
            "digest": "sha256: and 64 hex digits; refused unless the bytes have it.",
            "leaseToken": LEASE_TOKEN,
        },
    ),
)
