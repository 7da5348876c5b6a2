"""What a handler came to, and how the server gets to know of it."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog
from anyio import CancelScope, sleep

from holdfast_core.errors import Conflict, HoldfastError, NotAllowed, NotAuthenticated, NotFound
from holdfast_core.schemas import MAX_TEXT
from holdfast_worker.runtime.backoff import Backoff
from holdfast_worker.runtime.errors import JobFailed
from holdfast_worker.runtime.stopping import Stop
from holdfast_worker.runtime.transports.base import Held, Transport

__all__ = ["Outcome", "deliver", "failed", "finished", "stopped"]

log = structlog.get_logger(__name__)

#: Between two tries to deliver an outcome, at most.
AGAIN_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Outcome:
    """What is to be said of a job; `say` None: nothing, since the claim is over."""

    name: str
    say: Callable[[Transport, Held], Awaitable[None]] | None


def finished(result: object) -> Outcome:
    """The handler has returned."""
    try:
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        return failed(JobFailed(f"The handler's result cannot be written as JSON: {error}"))
    summary = None if result is None else text[:MAX_TEXT]
    return Outcome("succeeded", lambda transport, held: transport.complete(held, summary))


def failed(failure: Exception | SystemExit) -> Outcome:
    """The handler has raised this."""
    final = isinstance(failure, JobFailed)
    said = str(failure) if final else f"{type(failure).__name__}: {failure}"
    text = (said or type(failure).__name__)[:MAX_TEXT]
    log.warning("job_failed", error=text, retryable=not final, exc_info=None if final else failure)
    return Outcome("failed", lambda transport, held: transport.fail(held, text, retryable=not final))


def stopped(why: Stop) -> Outcome:
    """The handler was stopped before its end."""
    match why:
        case Stop.LEASE_LOST:
            return Outcome("lost", None)
        case Stop.CANCELLED:
            return Outcome("cancelled", lambda transport, held: transport.stopped(held, "stopped on request"))
        case Stop.LEASE_RUNS_OUT | Stop.WORKER_STOPS:
            return Outcome("released", lambda transport, held: transport.release(held, why.value))


async def deliver(outcome: Outcome, transport: Transport, held: Held, scope: CancelScope) -> None:
    """Say it until it is answered, or `scope` is cancelled. The claim that has made an outcome may repeat it.

    Raises NotAuthenticated and NotAllowed.
    """
    if outcome.say is None:
        log.warning("job_lost")
        return
    delays = Backoff(most=AGAIN_SECONDS)
    with scope:
        while True:
            try:
                await outcome.say(transport, held)
            except (NotAuthenticated, NotAllowed):
                raise
            except (Conflict, NotFound) as error:
                log.warning("outcome_refused", outcome=outcome.name, code=error.code, detail=error.detail)
            except HoldfastError as error:
                delay = delays.next()
                log.warning(
                    "outcome_not_taken", outcome=outcome.name, detail=error.detail, again_in=round(delay, 1)
                )
                await sleep(delay)
                continue
            else:
                log.info("job_ended", outcome=outcome.name)
            return
    log.warning("outcome_not_delivered", outcome=outcome.name)
