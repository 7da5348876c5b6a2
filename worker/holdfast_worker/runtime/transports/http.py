"""REST with long polls: the way that works wherever HTTP does."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeVar
from uuid import UUID, uuid4

import httpx2
from anyio import CancelScope, get_cancelled_exc_class, move_on_after, sleep_forever
from pydantic import ValidationError

from holdfast_core.errors import HoldfastError, KeyReused, Unavailable
from holdfast_core.schemas import (
    Answer,
    Artifact,
    ClaimAnswer,
    HeartbeatAnswer,
    Job,
    JobEvent,
    LogLevel,
    PresenceAnswer,
)
from holdfast_core.states import JobPhase
from holdfast_worker.failures import ServerUnreachable, UnexpectedAnswer, failure_of
from holdfast_worker.runtime.hold import Hold
from holdfast_worker.runtime.transports.base import Beat, Held, Identity
from holdfast_worker.wire import ANSWER_SECONDS, CONNECT_SECONDS, KEEPALIVE_SECONDS, Address, failures_told

__all__ = ["HttpTransport"]

#: How long a claim that was cancelled may take to hand back what it got.
HAND_BACK_SECONDS: Final = 5.0

_A = TypeVar("_A", bound=Answer)


class HttpTransport:
    """A worker's calls over REST."""

    name: Literal["http"] = "http"
    pushes = False

    def __init__(self, address: Address, identity: Identity, hold: Hold) -> None:
        """Raises ValueError where the certificates that are to be trusted cannot be read."""
        self._address = address
        self._identity = identity
        self._hold = hold
        self._spoke_at = float("-inf")
        self._connected = False
        #: Ids of claims that may have got a job of which nothing has been heard.
        self._unanswered: list[str] = []
        self._http = httpx2.AsyncClient(
            base_url=address.base,
            headers=address.headers,
            trust_env=address.through_proxies,
            verify=address.trusted(),
            # A claim and a heartbeat for each slot, and some for logs and presence.
            limits=httpx2.Limits(max_connections=2 * identity.slots + 8, keepalive_expiry=KEEPALIVE_SECONDS),
        )

    @property
    def connected(self) -> bool:
        """Whether the latest request was answered."""
        return self._connected

    @property
    def idle_seconds(self) -> float:
        """How long ago the server last answered this worker."""
        return time.monotonic() - self._spoke_at

    def tell_cancels_to(self, heard: Callable[[UUID], None]) -> None:
        """Heartbeats bring it."""

    async def run(self) -> None:
        """Keep the connections, until cancelled."""
        try:
            await sleep_forever()
        finally:
            with CancelScope(shield=True):
                await self._http.aclose()

    async def claim(self, *, wait_seconds: float) -> tuple[Job, float] | None:
        """One job, or None. A claim whose answer was lost is asked again, by the next call."""
        if not self._hold.takes_work:
            return None
        request_id = self._unanswered.pop() if self._unanswered else uuid4().hex
        try:
            return await self._claim(request_id, wait_seconds)
        except KeyReused:
            return None  # it had got a job, and lost it again
        except Unavailable as error:
            if not isinstance(error, ServerUnreachable) or error.sent:
                self._unanswered.append(request_id)  # it may have got a job
            raise
        except get_cancelled_exc_class():
            # A job may have been taken for the call that is gone: the same id finds it.
            with move_on_after(HAND_BACK_SECONDS, shield=True):
                await self._hand_back(request_id)
            raise

    async def _claim(self, request_id: str, wait_seconds: float) -> tuple[Job, float] | None:
        identity = self._identity
        body = {
            "workerId": identity.worker_id,
            "leaseSeconds": identity.lease_seconds,
            "allowedTypes": None if identity.types is None else list(identity.types),
            "workerCapabilities": list(identity.capabilities),
            "waitSeconds": wait_seconds,
            "observedVersion": self._hold.version,
            "requestId": request_id,
        }
        asked_at = time.monotonic()
        answer = await self._post(ClaimAnswer, "/api/queue/jobs/claim", body, waits=wait_seconds)
        # What a long poll says was read when it was answered, and no later question can have been answered earlier.
        self._hold.learn(answer.system, asked_at=asked_at)
        return None if answer.job is None else (answer.job, asked_at)

    async def _hand_back(self, request_id: str) -> None:
        try:
            found = await self._claim(request_id, 0.0)
            if found is not None:
                job, _ = found
                await self.release(Held(job.id, job.lease_token or ""), "the claim was given up")
        except HoldfastError:
            return  # nothing was taken, or its lease runs out in its time

    async def heartbeat(
        self, held: Held, *, phase: JobPhase, checkpoint: str | None, progress: Mapping[str, Any] | None
    ) -> Beat:
        """Move the lease and say what the job does."""
        body = {
            "leaseSeconds": self._identity.lease_seconds,
            "observedVersion": self._hold.version,
            "phase": phase,
            "checkpoint": checkpoint,
            "progress": None if progress is None else dict(progress),
            "compact": True,
        }
        asked_at = time.monotonic()
        answer = await self._of_job(HeartbeatAnswer, held, "heartbeat", body)
        self._hold.learn(answer.system, asked_at=asked_at)
        return Beat(answer.cancel_requested_at is not None, answer.cancel_reason)

    async def complete(self, held: Held, summary: str | None) -> None:
        """The job succeeded."""
        await self._of_job(Job, held, "complete", {"resultSummary": summary})

    async def fail(self, held: Held, message: str, *, retryable: bool) -> None:
        """The job failed."""
        await self._of_job(Job, held, "fail", {"errorMessage": message, "retryable": retryable})

    async def release(self, held: Held, reason: str) -> None:
        """The job goes back."""
        await self._of_job(Job, held, "release", {"reason": reason})

    async def stopped(self, held: Held, message: str | None) -> None:
        """The job was stopped."""
        await self._of_job(Job, held, "cancel/ack", {"message": message})

    async def log(self, held: Held, level: LogLevel, message: str, payload: Mapping[str, Any] | None) -> None:
        """Add to the job's log."""
        body = {"level": level, "message": message, "payload": None if payload is None else dict(payload)}
        await self._of_job(JobEvent, held, "events", body)

    async def upload(self, held: Held, name: str, content: bytes, content_type: str | None) -> Artifact:
        """Keep a file with the job."""
        fields = {"workerId": self._identity.worker_id, "name": name, "leaseToken": held.lease_token}
        return await self._send(
            Artifact,
            f"/api/queue/jobs/{held.job_id}/artifacts/upload",
            data=fields if content_type is None else fields | {"contentType": content_type},
            files={"file": (name, content)},
        )

    async def presence(self) -> None:
        """Say that the worker is there."""
        body = {
            "workerId": self._identity.worker_id,
            "autoEnabled": not self._hold.locally_paused,
            "workerCapabilities": list(self._identity.capabilities),
            "observedVersion": self._hold.version,
            **self._identity.described,
        }
        asked_at = time.monotonic()
        answer = await self._post(PresenceAnswer, "/api/queue/workers/heartbeat", body)
        self._hold.learn(answer.system, asked_at=asked_at)

    async def _of_job(self, model: type[_A], held: Held, verb: str, body: Mapping[str, object]) -> _A:
        mine = {"workerId": self._identity.worker_id, "leaseToken": held.lease_token, **body}
        return await self._post(model, f"/api/queue/jobs/{held.job_id}/{verb}", mine)

    async def _post(
        self, model: type[_A], path: str, body: Mapping[str, object], *, waits: float = 0.0
    ) -> _A:
        given = {name: value for name, value in body.items() if value is not None}
        return await self._send(model, path, json=given, waits=waits)

    async def _send(self, model: type[_A], path: str, *, waits: float = 0.0, **content: Any) -> _A:
        patience = ANSWER_SECONDS + waits
        try:
            with failures_told(self._address.shown, patience):
                response = await self._http.post(
                    path, timeout=httpx2.Timeout(patience, connect=CONNECT_SECONDS), **content
                )
        except ServerUnreachable:
            self._connected = False
            raise
        self._connected = True
        self._spoke_at = time.monotonic()
        if not response.is_success:
            raise failure_of(self._address.shown, response.status_code, response.headers, response.content)
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            raise UnexpectedAnswer(
                f"{self._address.shown} answers POST {path} with something else than a {model.__name__}:"
                " no Holdfast server, or one of another age."
            ) from error
