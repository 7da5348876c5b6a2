"""Tools of operators: the pause, its state, its drain and its history."""

import time
from typing import Any, Final

from holdfast_core.schemas import (
    ControlEventPage,
    ControlSnapshot,
    HistoryQuery,
    Snapshot,
    WaitQuery,
    WaitSnapshot,
    WorkerPauseRequest,
)
from holdfast_core.states import PauseAction
from holdfast_server.mcp.arguments import (
    NoArguments,
    PauseArguments,
    ResumeArguments,
    WaitArguments,
    plain_request,
)
from holdfast_server.mcp.tool import ADDS, CHANGES, READS, Call, Tool
from holdfast_server.mcp.words import EXPECTED_VERSION, IDEMPOTENCY_KEY

__all__ = ["SYSTEM_TOOLS"]


async def _status(call: Call, arguments: NoArguments) -> Snapshot:
    del arguments
    return await call.services.pause.status(call.caller)


async def _pause(call: Call, arguments: PauseArguments) -> ControlSnapshot:
    return await _control(call, PauseAction.PAUSE, arguments)


async def _resume(call: Call, arguments: ResumeArguments) -> ControlSnapshot:
    return await _control(call, PauseAction.RESUME, arguments)


async def _control(
    call: Call, action: PauseAction, arguments: PauseArguments | ResumeArguments
) -> ControlSnapshot:
    said = arguments.model_dump(exclude_unset=True, by_alias=False, exclude={"idempotency_key"})
    request = WorkerPauseRequest.model_validate({"action": action, **said}, by_name=True)
    return await call.services.pause.control(call.caller, request, key=arguments.idempotency_key)


async def _wait(call: Call, arguments: WaitArguments) -> WaitSnapshot:
    started = time.monotonic()

    async def report(snapshot: Snapshot) -> None:
        # Time is what grows for certain (jobs may come back to running), as the protocol demands of
        # progress; what there is to know stands in the message.
        elapsed = min(time.monotonic() - started, arguments.timeout_seconds)
        await call.progress(elapsed, arguments.timeout_seconds, _told(snapshot))

    query = plain_request(WaitQuery, arguments)
    return await call.services.pause.wait(call.caller, query, progress=report)


def _told(snapshot: Snapshot) -> str:
    system, metrics = snapshot.system, snapshot.metrics
    mode = system.mode.value if system.mode else "running"
    return (
        f"{mode}, version {system.version}: {metrics.running} running ({metrics.parked} parked),"
        f" {metrics.stale_running} stale, {metrics.queued} queued"
    )


async def _history(call: Call, arguments: HistoryQuery) -> ControlEventPage:
    return await call.services.pause.history(call.caller, arguments)


SYSTEM_TOOLS: Final[tuple[Tool[Any], ...]] = (
    Tool(
        name="system.status",
        title="Read the pause and the queue",
        description=(
            "Whether workers are paused, by whom and why, how many jobs are queued, running, parked and"
            " stale, and whether it is safe to upgrade (metrics.safeToUpgrade)."
        ),
        effect=READS,
        arguments=NoArguments,
        answer=Snapshot,
        run=_status,
        words={},
    ),
    Tool(
        name="system.pause",
        title="Pause all workers",
        description=(
            "Pause all workers: once this is answered no job is claimed anywhere until system.resume."
            " Nothing is deleted or cancelled, and jobs may still be enqueued. Calling it again with the"
            " same mode and reason changes nothing. Then call system.wait for drained before an upgrade."
        ),
        effect=CHANGES,
        arguments=PauseArguments,
        answer=ControlSnapshot,
        run=_pause,
        words={
            "mode": "drain: running jobs finish. quiesce: they also stop at their next safe point and wait.",
            "reason": "Why; everybody sees it.",
            "resumeAfterSeconds": "The pause ends by itself after this, drained or not; left out: it lasts.",
            "expectedVersion": EXPECTED_VERSION,
            "idempotencyKey": IDEMPOTENCY_KEY,
        },
    ),
    Tool(
        name="system.resume",
        title="Resume all workers",
        description=(
            "End the pause: workers claim again and parked jobs go on. If jobs were still running the"
            " answer's warning says so. Resuming what is not paused is an error, not_paused."
        ),
        effect=ADDS,  # not idempotent: a late repeat would end somebody's next pause
        arguments=ResumeArguments,
        answer=ControlSnapshot,
        run=_resume,
        words={
            "reason": "Why; everybody sees it.",
            "forceResume": "Resume though the drain has not ended; the risk is audited.",
            "expectedVersion": EXPECTED_VERSION,
            "idempotencyKey": IDEMPOTENCY_KEY,
        },
    ),
    Tool(
        name="system.wait",
        title="Wait for the system",
        description=(
            "Wait until the system has come to a state, at most timeoutSeconds. Answers the status with"
            " reached; when it is false and workers are still paused, call it again. Holds nothing: it may"
            " be repeated and given up at will."
        ),
        effect=READS,
        arguments=WaitArguments,
        answer=WaitSnapshot,
        run=_wait,
        words={
            "for": (
                "drained: paused, and nothing runs (safe to upgrade). parked: quiesced, and all running jobs"
                " are parked. running: not paused. version: the version is above sinceVersion."
            ),
            "sinceVersion": "For version: the system.version that you know.",
            "timeoutSeconds": "How long to wait at most.",
        },
        waits=lambda arguments: arguments.get("timeoutSeconds") != 0,
        reports_progress=True,
    ),
    Tool(
        name="system.history",
        title="Read the audit log",
        description=(
            "Who paused and resumed when and why, newest first, refused attempts included. For the next"
            " page pass nextBefore as before."
        ),
        effect=READS,
        arguments=HistoryQuery,
        answer=ControlEventPage,
        run=_history,
        words={
            "limit": "How many at most.",
            "before": "The nextBefore of the page before.",
            "outcome": "Only events of this outcome.",
            "action": "Only pauses, or only resumes.",
        },
    ),
)
