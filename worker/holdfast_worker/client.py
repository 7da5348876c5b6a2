"""A small synchronous client for Holdfast's REST interface (CONTRACT section 4).

    from holdfast import Client

    with Client() as client:
        job = client.enqueue("report", {"month": "2026-02"})
        snapshot = client.pause("drain", "Rolling API migration")

It sends what it is given and leaves the rules to the server, so that each rule stands in one place;
answers are read into the same models that the server writes them from.
"""

import hashlib
import json
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import IO, Any, Final, Self, TypeVar
from uuid import UUID

import httpx2
from pydantic import ValidationError

from holdfast_core.errors import InvalidRequest, JobNotFound, TokenNotFound
from holdfast_core.schemas import (
    Answer,
    Artifact,
    ArtifactList,
    BlockerList,
    BulkRetryAnswer,
    ClaimAnswer,
    ControlEventPage,
    ControlSnapshot,
    CreatedToken,
    EventOutcome,
    HeartbeatAnswer,
    Identity,
    Job,
    JobBatch,
    JobEventPage,
    JobPage,
    PresenceAnswer,
    Snapshot,
    Token,
    TokenList,
    WaitFor,
    WaitSnapshot,
    WorkerList,
)
from holdfast_core.states import JobPhase, JobStatus, PauseAction, PauseMode, Role
from holdfast_worker.events import ServerEvent, server_events
from holdfast_worker.failures import UnexpectedAnswer, failure_of
from holdfast_worker.wire import (
    ANSWER_SECONDS,
    CONNECT_SECONDS,
    DEFAULT_URL,
    KEEPALIVE_SECONDS,
    Address,
    failures_told,
)

__all__ = ["DEFAULT_URL", "Client"]

#: A stream says something at least every 15 s.
STREAM_SILENCE_SECONDS: Final = 40.0
_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
#: What a header of ours may hold.
_PRINTABLE: Final = re.compile(r"[\x20-\x7e]{1,255}")
_A = TypeVar("_A", bound=Answer)


class Client:
    """Speaks to one server. Belongs to one thread at a time; `with` or `close()` ends it.

    `url` falls back to HOLDFAST_URL and then to http://127.0.0.1:8790, `token` to HOLDFAST_TOKEN and then to what
    `holdfast login` has stored for that server ("" sends none). For HTTPS the system's CAs are trusted, or those in
    the file that SSL_CERT_FILE names. Every call raises a HoldfastError: the server's own refusal (`.code`, `.detail`,
    `.system`, `.errors`), ServerUnreachable (UntrustedServer), or UnexpectedAnswer. ValueError at the making where url,
    token or the CAs' file cannot be used, ConfigurationError where the file of stored tokens cannot be trusted.
    """

    #: The body of the latest answer as it came: it may hold fields that are newer than this client.
    last_answer: bytes = b""

    def __init__(self, url: str | None = None, *, token: str | None = None) -> None:
        address = Address.of(url, token)
        self.url = address.shown
        self._http = httpx2.Client(
            base_url=address.base,
            headers=address.headers,
            trust_env=address.through_proxies,
            verify=address.trusted(),
            limits=httpx2.Limits(max_connections=4, keepalive_expiry=KEEPALIVE_SECONDS),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connections. May be called twice."""
        self._http.close()

    # The pause

    def status(self) -> Snapshot:
        """The pause, the drain metrics, the workers and the newest audit events."""
        return self._get(Snapshot, "/api/system/worker-pause")

    def pause(
        self,
        mode: PauseMode | str,
        reason: str,
        *,
        resume_after_seconds: int | None = None,
        resume_at: datetime | str | None = None,
        expected_version: int | None = None,
        idempotency_key: str | None = None,
    ) -> ControlSnapshot:
        """Pause all claims. Once this returns, no claim commits until a resume.

        `resume_after_seconds` or `resume_at`: the pause ends by itself then, a minute to a week from now. A repeat
        under the same `idempotency_key` changes nothing more. Raises VersionConflict where `expected_version` is not
        the current one, IdempotencyStale where the pause has changed since the first call with the key, and
        PauseNotConfirmed where nothing is promised: read the status, or ask again.
        """
        return self._post(
            ControlSnapshot,
            "/api/system/worker-pause",
            {
                "action": "pause",
                "mode": str(mode),
                "reason": reason,
                "resumeAfterSeconds": resume_after_seconds,
                "resumeAt": _written(resume_at),
                "expectedVersion": expected_version,
            },
            key=idempotency_key,
        )

    def resume(
        self,
        reason: str,
        *,
        force: bool = False,
        expected_version: int | None = None,
        idempotency_key: str | None = None,
    ) -> ControlSnapshot:
        """Let claims go on. `warning` says what was still running where the drain had not ended.

        Raises NotPaused, VersionConflict, IdempotencyStale, and ResumeNotDrained where the server wants `force`
        for it.
        """
        return self._post(
            ControlSnapshot,
            "/api/system/worker-pause",
            {
                "action": "resume",
                "reason": reason,
                "forceResume": force or None,
                "expectedVersion": expected_version,
            },
            key=idempotency_key,
        )

    def wait(
        self, until: WaitFor, *, since_version: int | None = None, timeout_seconds: float = 25.0
    ) -> WaitSnapshot:
        """One bounded wait (at most 60 s); `reached` says whether it came. To be called again."""
        query = {"for": until, "sinceVersion": since_version, "timeoutSeconds": timeout_seconds}
        return self._get(WaitSnapshot, "/api/system/worker-pause/wait", query, waits=timeout_seconds)

    def history(
        self,
        *,
        limit: int | None = None,
        before: UUID | None = None,
        outcome: EventOutcome | None = None,
        action: PauseAction | str | None = None,
    ) -> ControlEventPage:
        """The audit log, newest first."""
        query = {"limit": limit, "before": before, "outcome": outcome, "action": action}
        return self._get(ControlEventPage, "/api/system/control-events", query)

    def workers(self) -> WorkerList:
        """Every worker that the server knows."""
        return self._get(WorkerList, "/api/system/workers")

    def blockers(self) -> BlockerList:
        """What keeps the system from drained, with a verdict on each job and the way out."""
        return self._get(BlockerList, "/api/system/blockers")

    def follow_system(self, *, last_event_id: str | None = None) -> Iterator[ServerEvent]:
        """What happens to the system, as it happens: `snapshot`, then `system`, `metrics`, `workers` and `audit`.

        Ends when the server does; come back with the id of the last event. Raises as every call does.
        """
        return self._follow("/api/system/events", last_event_id)

    # Jobs, as producers and operators see them

    def enqueue(
        self,
        job_type: str,
        payload: Mapping[str, Any] | None = None,
        *,
        priority: int | None = None,
        max_attempts: int | None = None,
        required_capabilities: Sequence[str] = (),
        run_at: datetime | str | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Put a job into the queue, also while paused. What is left out takes the server's default.

        A repeat with the same `idempotency_key` answers the first job, while it exists.
        """
        return self._post(
            Job,
            "/api/queue/jobs",
            {
                "type": job_type,
                "payload": None if payload is None else dict(payload),
                "priority": priority,
                "maxAttempts": max_attempts,
                "requiredCapabilities": list(required_capabilities) or None,
                "runAt": _written(run_at),
                "idempotencyKey": idempotency_key,
            },
        )

    def enqueue_batch(self, jobs: Sequence[Mapping[str, Any]]) -> JobBatch:
        """Put up to 1,000 jobs (as the API takes them) into the queue, all or none, in their order."""
        return self._post(JobBatch, "/api/queue/jobs/batch", {"jobs": [dict(job) for job in jobs]})

    def jobs(
        self,
        *,
        status: JobStatus | str | None = None,
        job_type: str | None = None,
        claimed_by: str | None = None,
        q: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> JobPage:
        """A page of jobs, newest first; `next_cursor` goes into `cursor` for the next."""
        query = {
            "status": status,
            "type": job_type,
            "claimedBy": claimed_by,
            "q": q,
            "limit": limit,
            "cursor": cursor,
        }
        return self._get(JobPage, "/api/queue/jobs", query)

    def job(self, job_id: UUID | str) -> Job:
        """One job. Raises JobNotFound."""
        return self._get(Job, _path(job_id))

    def cancel(self, job_id: UUID | str, reason: str | None = None) -> Job:
        """Cancel: at once if queued or stale, else the holder learns of it by its next heartbeat."""
        return self._post(Job, _path(job_id, "cancel"), {"reason": reason})

    def requeue(self, job_id: UUID | str, reason: str) -> Job:
        """Put a stale job back to its place, with one attempt used. Raises Conflict for a live lease."""
        return self._post(Job, _path(job_id, "requeue"), {"reason": reason})

    def retry(self, job_id: UUID | str, reason: str | None = None) -> Job:
        """Run a failed, cancelled or dead-lettered job again, from attempt 1 and at its place."""
        return self._post(Job, _path(job_id, "retry"), {"reason": reason})

    def retry_all(self, status: str, reason: str, *, job_type: str | None = None) -> BulkRetryAnswer:
        """Run all jobs again that ended in `status`, at most 10,000; `more` says to ask again."""
        body = {"status": status, "type": job_type, "reason": reason}
        return self._post(BulkRetryAnswer, "/api/queue/jobs/retry", body)

    def log_of(self, job_id: UUID | str, *, after: int = 0, limit: int = 200) -> JobEventPage:
        """A page of a job's log, oldest first."""
        return self._get(JobEventPage, _path(job_id, "events"), {"after": after, "limit": limit})

    def follow_log(self, job_id: UUID | str, *, after: int = 0) -> Iterator[ServerEvent]:
        """A job's log as it grows: `log` for each event, and `end` with the job once it has ended."""
        return self._follow(_path(job_id, "events/stream"), str(after) if after else None)

    def artifacts_of(self, job_id: UUID | str) -> ArtifactList:
        """The artifacts of a job, oldest first."""
        return self._get(ArtifactList, _path(job_id, "artifacts"))

    def download(self, artifact: Artifact, into: IO[bytes]) -> None:
        """Write an artifact's bytes into a file. Raises UnexpectedAnswer where they are not those of its digest."""
        path = _path(artifact.job_id, f"artifacts/{artifact.id}/download")
        found = hashlib.sha256()
        with self._streaming(path, {}) as response:
            for chunk in response.iter_bytes():
                found.update(chunk)
                into.write(chunk)
        if f"sha256:{found.hexdigest()}" != artifact.digest:
            raise UnexpectedAnswer(
                f"What {self.url} sent is not the artifact {artifact.id}: its digest is another."
            )

    # Jobs, as workers see them

    def claim(
        self,
        worker_id: str,
        lease_seconds: int,
        *,
        allowed_types: Sequence[str] | None = None,
        worker_capabilities: Sequence[str] = (),
        wait_seconds: float = 0.0,
        observed_version: int | None = None,
        request_id: str | None = None,
    ) -> ClaimAnswer:
        """Ask for one job. A null job with `system.workers_paused` is the pause, and no error.

        `request_id` names this one claim: where the answer was lost, a repeat gets the same job.
        """
        return self._post(
            ClaimAnswer,
            "/api/queue/jobs/claim",
            {
                "workerId": worker_id,
                "leaseSeconds": lease_seconds,
                "allowedTypes": None if allowed_types is None else list(allowed_types),
                "workerCapabilities": list(worker_capabilities) or None,
                "waitSeconds": wait_seconds or None,
                "observedVersion": observed_version,
                "requestId": request_id,
            },
            waits=wait_seconds,
        )

    def heartbeat(
        self,
        job_id: UUID | str,
        worker_id: str,
        lease_seconds: int,
        *,
        lease_token: str | None = None,
        observed_version: int | None = None,
        phase: JobPhase | str | None = None,
        checkpoint: str | None = None,
        progress: Mapping[str, Any] | None = None,
    ) -> HeartbeatAnswer:
        """Move the lease. Raises LeaseLost where the claim is over: stop working on the job."""
        return self._post(
            HeartbeatAnswer,
            _path(job_id, "heartbeat"),
            {
                "workerId": worker_id,
                "leaseSeconds": lease_seconds,
                "leaseToken": lease_token,
                "observedVersion": observed_version,
                "phase": phase,
                "checkpoint": checkpoint,
                "progress": None if progress is None else dict(progress),
                "compact": True,
            },
        )

    def complete(
        self,
        job_id: UUID | str,
        worker_id: str,
        result_summary: str | None = None,
        *,
        lease_token: str | None = None,
    ) -> Job:
        """The job succeeded. Repeated by the claim that said so before, it changes nothing."""
        body = {"workerId": worker_id, "resultSummary": result_summary, "leaseToken": lease_token}
        return self._post(Job, _path(job_id, "complete"), body)

    def fail(
        self,
        job_id: UUID | str,
        worker_id: str,
        error_message: str,
        *,
        retryable: bool = False,
        lease_token: str | None = None,
    ) -> Job:
        """The job failed; with `retryable` it comes back after a back-off while attempts are left."""
        body = {
            "workerId": worker_id,
            "errorMessage": error_message,
            "retryable": retryable,
            "leaseToken": lease_token,
        }
        return self._post(Job, _path(job_id, "fail"), body)

    def release(
        self, job_id: UUID | str, worker_id: str, lease_token: str, *, reason: str | None = None
    ) -> Job:
        """Give a claimed job back to its place; no attempt is used."""
        body = {"workerId": worker_id, "leaseToken": lease_token, "reason": reason}
        return self._post(Job, _path(job_id, "release"), body)

    def cancel_ack(
        self,
        job_id: UUID | str,
        worker_id: str,
        message: str | None = None,
        *,
        lease_token: str | None = None,
    ) -> Job:
        """Say that a job whose cancellation was asked for has been stopped."""
        body = {"workerId": worker_id, "message": message, "leaseToken": lease_token}
        return self._post(Job, _path(job_id, "cancel/ack"), body)

    def presence(
        self, worker_id: str, *, auto_enabled: bool = True, observed_version: int | None = None
    ) -> PresenceAnswer:
        """An idle or locally paused worker says that it is there."""
        body = {"workerId": worker_id, "autoEnabled": auto_enabled, "observedVersion": observed_version}
        return self._post(PresenceAnswer, "/api/queue/workers/heartbeat", body)

    # Who may come in

    def identity(self) -> Identity:
        """Who is asking, as the server knows it, and what they may do. Raises NotAuthenticated."""
        return self._get(Identity, "/api/session")

    def create_token(
        self,
        *,
        role: Role | str | None = None,
        user: str | None = None,
        name: str | None = None,
        worker_id: str | None = None,
        types: Sequence[str] | None = None,
        capabilities: Sequence[str] | None = None,
        expires_in_seconds: int | None = None,
    ) -> CreatedToken:
        """A new token: with a role and the user who stands behind it, or for one worker. Its value is in this answer
        and nowhere else."""
        return self._post(
            CreatedToken,
            "/api/tokens",
            {
                "role": role,
                "user": user,
                "name": name,
                "workerId": worker_id,
                "types": None if types is None else list(types),
                "capabilities": None if capabilities is None else list(capabilities),
                "expiresInSeconds": expires_in_seconds,
            },
        )

    def tokens(self, *, ended: bool = False) -> TokenList:
        """The tokens that are good, newest first; `ended`: also those that were."""
        return self._get(TokenList, "/api/tokens", {"all": "true"} if ended else None)

    def revoke_token(self, token_id: UUID | str) -> Token:
        """End a token: within five seconds every process refuses it. May be repeated. Raises TokenNotFound."""
        if not _ID.fullmatch(str(token_id)):
            raise TokenNotFound(f"No token has the id {str(token_id)[:64]!r}.")
        return self._call(Token, "DELETE", f"/api/tokens/{token_id}", waits=0.0)

    # The wire

    def _get(
        self, model: type[_A], path: str, query: Mapping[str, object] | None = None, *, waits: float = 0.0
    ) -> _A:
        params = {name: str(value) for name, value in (query or {}).items() if value is not None}
        return self._call(model, "GET", path, params=params, waits=waits)

    def _post(
        self,
        model: type[_A],
        path: str,
        body: Mapping[str, object],
        *,
        waits: float = 0.0,
        key: str | None = None,
    ) -> _A:
        # Written with \u escapes, so that text which is not valid Unicode reaches the server's judgement.
        given = {name: value for name, value in body.items() if value is not None}
        try:
            content = json.dumps(given, allow_nan=False).encode()
        except (ValueError, RecursionError):
            raise InvalidRequest(
                "The request cannot be written as JSON: a number is out of range, or it nests too deep."
            ) from None
        return self._call(model, "POST", path, content=content, waits=waits, key=key)

    def _call(
        self,
        model: type[_A],
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        content: bytes | None = None,
        waits: float,
        key: str | None = None,
    ) -> _A:
        self.last_answer = b""
        headers = {} if content is None else {"Content-Type": "application/json"}
        if key is not None:
            if not _PRINTABLE.fullmatch(key):
                raise InvalidRequest("An idempotency key is 1 to 255 printable ASCII characters.")
            headers["Idempotency-Key"] = key
        with failures_told(self.url, ANSWER_SECONDS + waits):
            response = self._http.request(
                method,
                path,
                params=params,
                content=content,
                headers=headers,
                timeout=httpx2.Timeout(ANSWER_SECONDS + waits, connect=CONNECT_SECONDS),
            )
        self.last_answer = response.content
        if not response.is_success:
            raise failure_of(self.url, response.status_code, response.headers, response.content)
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            raise UnexpectedAnswer(
                f"{self.url} answers {method} {path} with something else than a {model.__name__}:"
                " no Holdfast server, or one of another age."
            ) from error

    def _follow(self, path: str, last_event_id: str | None) -> Iterator[ServerEvent]:
        headers = {"Accept": "text/event-stream"}
        if last_event_id is not None and _PRINTABLE.fullmatch(last_event_id):
            headers["Last-Event-ID"] = last_event_id
        with self._streaming(path, headers) as response:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise UnexpectedAnswer(
                    f"{self.url} answers GET {path} with something else than a stream of events:"
                    " no Holdfast server, or one of another age."
                )
            yield from server_events(response.iter_bytes())

    @contextmanager
    def _streaming(self, path: str, headers: Mapping[str, str]) -> Generator[httpx2.Response]:
        timeout = httpx2.Timeout(STREAM_SILENCE_SECONDS, connect=CONNECT_SECONDS)
        with (
            failures_told(self.url, STREAM_SILENCE_SECONDS),
            self._http.stream("GET", path, headers=dict(headers), timeout=timeout) as response,
        ):
            if not response.is_success:
                raise failure_of(self.url, response.status_code, response.headers, response.read())
            yield response


def _written(time: datetime | str | None) -> str | None:
    return time.isoformat() if isinstance(time, datetime) else time


def _path(job_id: UUID | str, verb: str = "") -> str:
    # An id is put into a path, so what could lead elsewhere ("..", "a/b", "") is not sent at all.
    if not _ID.fullmatch(str(job_id)):
        raise JobNotFound(f"No job has the id {str(job_id)[:64]!r}.")
    return f"/api/queue/jobs/{job_id}" + (f"/{verb}" if verb else "")
