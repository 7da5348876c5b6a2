"""MCP: a worker's calls through the tools, over streamable HTTP or to a server on stdio."""

import base64
import os
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar
from uuid import UUID, uuid4

import httpx2
import structlog
from anyio import Event, fail_after, get_cancelled_exc_class, move_on_after, sleep
from pydantic import ValidationError

from holdfast_core.errors import (
    ConfigurationError,
    HoldfastError,
    KeyReused,
    NotAllowed,
    NotAuthenticated,
    Unavailable,
)
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
from holdfast_worker.failures import ServerUnreachable, UnexpectedAnswer, error_of, failure_of
from holdfast_worker.runtime.backoff import Backoff
from holdfast_worker.runtime.grouping import first_of
from holdfast_worker.runtime.hold import Hold
from holdfast_worker.runtime.transports.base import Beat, Held, Identity
from holdfast_worker.wire import ANSWER_SECONDS, CONNECT_SECONDS, Address

if TYPE_CHECKING:
    from mcp import Client

__all__ = ["McpTransport"]

log = structlog.get_logger(__name__)

_A = TypeVar("_A", bound=Answer)

INSTALL_LINE: Final = "pip install 'holdfast[mcp]'"
#: The most that a claim may wait over MCP.
MAX_WAIT_SECONDS: Final = 25.0
#: How long a call waits for the connection to come about.
THERE_SECONDS: Final = 2.0
HAND_BACK_SECONDS: Final = 5.0
_REFUSAL: Final = re.compile(r"\[([a-z_]+)\] (.*)", re.DOTALL)


class McpTransport:
    """A worker's calls through `queue.*`."""

    name: Literal["mcp"] = "mcp"
    pushes = False

    def __init__(
        self, address: Address, identity: Identity, hold: Hold, *, command: Sequence[str] | None = None
    ) -> None:
        """`command`: a server on stdio, instead of the one at the address. Raises ConfigurationError without the
        extra."""
        try:
            import mcp
        except ModuleNotFoundError:
            raise ConfigurationError(
                f"--transport mcp needs the MCP SDK. Install it: {INSTALL_LINE}"
            ) from None
        del mcp
        self._address = address
        self._identity = identity
        self._hold = hold
        self._command = None if command is None else list(command)
        self._where = address.shown if self._command is None else self._command[0]
        self._client: Client | None = None
        self._up = Event()
        self._broken = Event()
        self._connected = False
        self._spoke_at = float("-inf")
        self._not_let_in: HoldfastError | None = None
        #: Ids of claims that may have got a job of which nothing has been heard.
        self._unanswered: list[str] = []
        self.trouble: str | None = None

    @property
    def connected(self) -> bool:
        """Whether the latest call was answered."""
        return self._connected

    @property
    def idle_seconds(self) -> float:
        """How long ago the server last answered this worker."""
        return time.monotonic() - self._spoke_at

    def tell_cancels_to(self, heard: Callable[[UUID], None]) -> None:
        """Heartbeats bring it."""

    async def run(self) -> None:
        """Keep a connection, until cancelled. Raises NotAuthenticated or NotAllowed."""
        delays = Backoff()
        while True:
            try:
                async with self._connection() as client:
                    self._client, self._broken = client, Event()
                    self._up.set()
                    delays.reset()
                    await self._broken.wait()
            except Exception as error:  # whatever the SDK, its transports and their groups of tasks raise
                self.trouble = _cause(error)
            finally:
                self._client, self._up, self._connected = None, Event(), False
            if self._not_let_in is not None:
                raise self._not_let_in
            await sleep(delays.next())

    @asynccontextmanager
    async def _connection(self) -> "AsyncGenerator[Client]":
        from mcp import Client, StdioServerParameters

        if self._command is not None:
            # All of the environment: the server on stdio finds its database by it.
            program, *arguments = self._command
            parameters = StdioServerParameters(command=program, args=arguments, env=dict(os.environ))
            async with Client(parameters) as client:
                yield client
            return
        from mcp.client.streamable_http import streamable_http_client

        address = self._address
        async with (
            httpx2.AsyncClient(
                headers={name: value for name, value in address.headers.items() if name != "Accept"},
                trust_env=address.through_proxies,
                verify=address.trusted(),
                timeout=httpx2.Timeout(ANSWER_SECONDS + MAX_WAIT_SECONDS, connect=CONNECT_SECONDS),
                event_hooks={"response": [self._look_at]},
            ) as http,
            Client(streamable_http_client(f"{address.base}/mcp", http_client=http)) as client,
        ):
            yield client

    async def _look_at(self, response: httpx2.Response) -> None:
        if response.status_code in {401, 403}:
            body = await response.aread()
            failure = failure_of(self._address.shown, response.status_code, response.headers, body)
            if isinstance(failure, NotAuthenticated | NotAllowed):
                self._not_let_in = failure
                self._broken.set()

    async def claim(self, *, wait_seconds: float) -> tuple[Job, float] | None:
        """One job, or None. A claim whose answer was lost is asked again, by the next call."""
        if not self._hold.takes_work:
            return None
        request_id = self._unanswered.pop() if self._unanswered else uuid4().hex
        try:
            return await self._claim(request_id, min(wait_seconds, MAX_WAIT_SECONDS))
        except KeyReused:
            return None  # it had got a job, and lost it again
        except Unavailable as error:
            if not isinstance(error, ServerUnreachable) or error.sent:
                self._unanswered.append(request_id)  # it may have got a job
            raise
        except get_cancelled_exc_class():
            with move_on_after(HAND_BACK_SECONDS, shield=True):
                await self._hand_back(request_id)
            raise

    async def _claim(self, request_id: str, wait_seconds: float) -> tuple[Job, float] | None:
        identity = self._identity
        asked_at = time.monotonic()
        arguments = {
            "workerId": identity.worker_id,
            "leaseSeconds": identity.lease_seconds,
            "allowedTypes": None if identity.types is None else list(identity.types),
            "workerCapabilities": list(identity.capabilities),
            "waitSeconds": wait_seconds,
            "observedVersion": self._hold.version,
            "requestId": request_id,
        }
        answer = await self._ask(ClaimAnswer, "queue.claim", arguments, waits=wait_seconds)
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
        asked_at = time.monotonic()
        answer = await self._of_job(
            HeartbeatAnswer,
            "queue.heartbeat",
            held,
            leaseSeconds=self._identity.lease_seconds,
            observedVersion=self._hold.version,
            phase=phase.value,
            checkpoint=checkpoint,
            progress=None if progress is None else dict(progress),
            compact=True,
        )
        self._hold.learn(answer.system, asked_at=asked_at)
        return Beat(answer.cancel_requested_at is not None, answer.cancel_reason)

    async def complete(self, held: Held, summary: str | None) -> None:
        """The job succeeded."""
        await self._of_job(Job, "queue.complete", held, resultSummary=summary)

    async def fail(self, held: Held, message: str, *, retryable: bool) -> None:
        """The job failed."""
        await self._of_job(Job, "queue.fail", held, errorMessage=message, retryable=retryable)

    async def release(self, held: Held, reason: str) -> None:
        """The job goes back."""
        await self._of_job(Job, "queue.release", held, reason=reason)

    async def stopped(self, held: Held, message: str | None) -> None:
        """The job was stopped."""
        await self._of_job(Job, "queue.cancel_ack", held, message=message)

    async def log(self, held: Held, level: LogLevel, message: str, payload: Mapping[str, Any] | None) -> None:
        """Add to the job's log."""
        said = None if payload is None else dict(payload)
        await self._of_job(JobEvent, "queue.log", held, level=level, message=message, payload=said)

    async def upload(self, held: Held, name: str, content: bytes, content_type: str | None) -> Artifact:
        """Keep a file with the job: at most 700 KiB over MCP."""
        raw = base64.b64encode(content).decode()
        return await self._of_job(
            Artifact, "queue.upload_artifact", held, name=name, contentBase64=raw, contentType=content_type
        )

    async def presence(self) -> None:
        """Say that the worker is there."""
        asked_at = time.monotonic()
        arguments = {
            "workerId": self._identity.worker_id,
            "autoEnabled": not self._hold.locally_paused,
            "workerCapabilities": list(self._identity.capabilities),
            "observedVersion": self._hold.version,
            **self._identity.described,
        }
        answer = await self._ask(PresenceAnswer, "queue.presence", arguments)
        self._hold.learn(answer.system, asked_at=asked_at)

    async def _of_job(self, model: type[_A], tool: str, held: Held, **arguments: object) -> _A:
        mine = {
            "jobId": str(held.job_id),
            "workerId": self._identity.worker_id,
            "leaseToken": held.lease_token,
        }
        return await self._ask(model, tool, {**mine, **arguments})

    async def _ask(
        self, model: type[_A], tool: str, arguments: Mapping[str, object], *, waits: float = 0.0
    ) -> _A:
        if self._client is None:
            with move_on_after(THERE_SECONDS):
                await self._up.wait()
        client, broken = self._client, self._broken
        if client is None:
            raise ServerUnreachable(
                f"No MCP server answers at {self._where} ({self.trouble or 'not yet'}).", sent=False
            )
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            with fail_after(ANSWER_SECONDS + waits):
                result = await client.call_tool(tool, given)
        except Exception as error:  # the SDK's own, its transport's, or the time that is up
            broken.set()
            self._connected = False
            raise ServerUnreachable(
                f"{self._where} has not answered {tool} ({_cause(error)}).", sent=True
            ) from error
        self._connected = True
        self._spoke_at = time.monotonic()
        if result.is_error:
            text = getattr(result.content[0], "text", "") if result.content else ""
            found = _REFUSAL.match(text)
            if found is None:
                raise UnexpectedAnswer(f"{self._where} refuses {tool} without a code: {text[:200]}")
            raise error_of(found[1], found[2])
        try:
            return model.model_validate(result.structured_content)
        except ValidationError as error:
            raise UnexpectedAnswer(
                f"{self._where} answers {tool} with something else than a {model.__name__}:"
                " no Holdfast server, or one of another age."
            ) from error


def _cause(error: BaseException) -> str:
    error = first_of(error)
    return f"{type(error).__name__}: {error}"[:200]
