"""The worker: slots that claim, run and report, under both pauses.

from holdfast import Job, Worker

async def handle(job: Job) -> str:
    ...

Worker(handle, types=["report"], slots=2).run()
"""

import logging
import os
import random
import secrets
import signal
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import anyio
import structlog
from anyio import CancelScope, Event, create_task_group, move_on_after, open_signal_receiver, sleep

from holdfast_core import __version__
from holdfast_core.errors import (
    ConfigurationError,
    HoldfastError,
    InvalidRequest,
    NotAllowed,
    NotAuthenticated,
)
from holdfast_core.schemas import Job as ClaimedJob
from holdfast_core.schemas import LogLevel
from holdfast_core.telemetry import configure_logs
from holdfast_worker.failures import UnexpectedAnswer
from holdfast_worker.runtime.backoff import Backoff
from holdfast_worker.runtime.choices import checked_identity, checked_options, chosen_transport
from holdfast_worker.runtime.grouping import one_failure
from holdfast_worker.runtime.hold import LOCALLY_PAUSED, Hold
from holdfast_worker.runtime.options import (
    ALL_BOUNDARIES,
    GRACE_SECONDS,
    LEASE_SECONDS,
    TransportChoice,
)
from holdfast_worker.runtime.running import Handler, JobRun
from holdfast_worker.runtime.status import CheckpointAnswer, CheckpointKind, WorkerStatus, WorkerVariant
from holdfast_worker.runtime.stopping import Stop
from holdfast_worker.runtime.transports.base import Held
from holdfast_worker.wire import Address

if TYPE_CHECKING:
    from uuid import UUID

__all__ = ["Worker"]

log = structlog.get_logger(__name__)

#: A worker from which the server has heard nothing for so long says that it is there.
PRESENCE_SECONDS: Final = 10.0
#: Between two tries to reach a server that is away, at most.
CLAIM_AGAIN_SECONDS: Final = 10.0
#: The pause between claims comes up to this part earlier or later.
JITTER: Final = 0.1
#: How long the claims that wait may take to be given up before a local pause is told.
GIVEN_UP_SECONDS: Final = 1.0
#: How often a worker that is to end looks whether a job has parked.
STOP_LOOK_SECONDS: Final = 0.1
#: How long outcomes may still be delivered once a worker has stopped its jobs to end.
LAST_WORDS_SECONDS: Final = 5.0
#: A claim that found nothing sooner than this is not repeated at once.
LEAST_CLAIM_SECONDS: Final = 0.2


class Worker:
    """Runs jobs of one server. `run` blocks, `serve` is for a loop that runs already; a worker runs once.

    `handler` is an `async def` that takes a Job: what it returns (a text, what can be written as JSON, or None) is the
    result; JobFailed ends the job in `failed`, any other exception brings it back while attempts are left. It shares
    the loop with the heartbeats, so it must not block: what does belongs into a thread or a process.

    - `url`, `token`: as for Client. `worker_id`: this host's name by default; unique among all workers.
    - `types`: only jobs of these types (None: any). `capabilities`: what jobs may require.
    - `slots`: jobs at once. `lease_seconds`: how long a claim lasts without a heartbeat.
    - `transport`: `auto` (a push session, and REST where that cannot be had), `ws`, `http` or `mcp`; `mcp_command`: for
      `mcp`, a server on stdio that the worker starts, instead of the one at `url`.
    - `checkpoints`: which boundaries count as safe: stage, step, tool.
    - `grace_seconds`: what running jobs get once the worker is to stop.
    - `pause_poll_seconds`, `checkpoint_timeout_seconds`: from the environment by default.
    - `control`: whether `holdfast worker …` on this host may reach it, and child processes their checkpoints.

    Raises ConfigurationError where something of this cannot be.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        url: str | None = None,
        token: str | None = None,
        worker_id: str | None = None,
        types: Sequence[str] | None = None,
        capabilities: Sequence[str] = (),
        slots: int = 1,
        lease_seconds: int = LEASE_SECONDS,
        transport: TransportChoice = "auto",
        mcp_command: Sequence[str] | None = None,
        checkpoints: Iterable[CheckpointKind] = ALL_BOUNDARIES,
        grace_seconds: float = GRACE_SECONDS,
        pause_poll_seconds: float | None = None,
        checkpoint_timeout_seconds: float | None = None,
        control: bool = True,
    ) -> None:
        self._handler = handler
        self._options = checked_options(
            lease_seconds, grace_seconds, pause_poll_seconds, checkpoint_timeout_seconds, checkpoints
        )
        self._identity = checked_identity(worker_id, lease_seconds, types, capabilities, slots)
        self._hold = Hold()
        self._control = control
        try:
            self._address = Address.of(url, token)
            self._transport = chosen_transport(
                transport, self._address, self._identity, self._hold, mcp_command
            )
        except ValueError as error:
            raise ConfigurationError(
                f"{error} (the worker's url or token, or HOLDFAST_URL, HOLDFAST_TOKEN)."
            ) from None
        self._transport.tell_cancels_to(self._cancelled)
        # Not by job: one that was lost here may be claimed here again, before the first run of it has ended.
        self._runs: set[JobRun] = set()
        self._claims: set[CancelScope] = set()
        self._claim_ended = Event()
        self._surroundings: dict[str, str] = {"HOLDFAST_URL": self._address.base}
        self._started_at = datetime.now(UTC)
        self._unreachable = False
        self._hurried = False

    # The operator's switch, in code

    @property
    def worker_id(self) -> str:
        """Its id."""
        return self._identity.worker_id

    @property
    def locally_paused(self) -> bool:
        """Whether its own operator has paused it. False after each start."""
        return self._hold.locally_paused

    def pause(self) -> None:
        """Take nothing new; what runs goes on. From any thread."""
        self._hold.pause_locally()

    def resume(self) -> None:
        """Take work again. Does not touch a pause of the system. From any thread."""
        self._hold.resume_locally()

    def stop(self) -> None:
        """Take nothing new, let what runs end within the grace, then end. From any thread."""
        self._hold.stop()

    def status(self) -> WorkerStatus:
        """What it does right now."""
        return WorkerStatus(
            worker_id=self.worker_id,
            pid=os.getpid(),
            version=__version__,
            url=self._address.shown,
            transport=self._transport.name,
            connected=self._transport.connected,
            variant=self._variant(),
            locally_paused=self._hold.locally_paused,
            stopping=self._hold.stopping,
            system=self._hold.system,
            slots=self._identity.slots,
            jobs=sorted((run.at_work() for run in self._runs), key=lambda job: job.started_at),
            started_at=self._started_at,
        )

    # Its run

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, or `stop()`. A second signal stops running jobs, which go back. Logs go to
        stderr, unless the program has configured structlog.

        Raises NotAuthenticated or NotAllowed where the server does not let the worker in, or no longer: then nothing
        that its jobs come to could be told, so they are stopped, and their leases run out. Raises ConfigurationError
        where it cannot start here.
        """
        if not structlog.is_configured():
            configure_logs("json" if os.environ.get("HOLDFAST_LOG_FORMAT") == "json" else "console")
        anyio.run(self._run_with_signals)

    async def serve(self) -> None:
        """The same inside a running loop, without signals. To cancel it stops at once: leases run out in their time."""
        self._hold.settle()
        async with AsyncExitStack() as stack:
            stack.enter_context(structlog.contextvars.bound_contextvars(worker_id=self.worker_id))
            if self._control:
                from holdfast_worker.runtime.control import running_control

                control = await stack.enter_async_context(running_control(self, self.worker_id))
                self._surroundings["HOLDFAST_CONTROL_URL"] = control.url
            log.info(
                "worker_started",
                url=self._address.shown,
                transport=self._transport.name,
                slots=self._identity.slots,
                version=__version__,
            )
            async with one_failure(), create_task_group() as around:
                for task in (self._transport.run, self._say_presence, self._heed_local, self._end_in_time):
                    around.start_soon(task)
                async with create_task_group() as slots:
                    for _ in range(self._identity.slots):
                        slots.start_soon(self._slot)
                around.cancel_scope.cancel()
            log.info("worker_ended")

    async def _run_with_signals(self) -> None:
        async with one_failure(), create_task_group() as tasks:

            async def listen() -> None:
                with open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                    async for _ in signals:
                        if not self._hold.stop():
                            self._hurried = True

            tasks.start_soon(listen)
            await self.serve()
            tasks.cancel_scope.cancel()

    # A slot: claim, run, claim again

    async def _slot(self) -> None:
        delays = Backoff(most=CLAIM_AGAIN_SECONDS)
        while not self._hold.stopping:
            if not self._hold.takes_work:
                await self._hold.changed(self._hold.revision)
                continue
            began = anyio.current_time()
            try:
                found = await self._claim()
            except (NotAuthenticated, NotAllowed, InvalidRequest):
                raise
            except HoldfastError as error:
                delay = delays.next()
                self._tell_unreachable(error, delay)
                await self._rest(delay)
                continue
            delays.reset()
            if found is not None:
                await self._work(*found)
            elif self._hold.system_paused:
                poll = self._options.pause_poll_seconds
                await self._rest(poll * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311 (no secret)
            elif self._hold.takes_work:
                await sleep(max(0.0, LEAST_CLAIM_SECONDS - (anyio.current_time() - began)))

    async def _claim(self) -> tuple[ClaimedJob, float] | None:
        """One claim, given up at once where the worker is paused locally or stops."""
        with CancelScope() as scope:
            self._claims.add(scope)
            try:
                found = await self._transport.claim(wait_seconds=self._options.wait_seconds)
            finally:
                self._claims.discard(scope)
                ended, self._claim_ended = self._claim_ended, Event()
                ended.set()
            self._tell_reachable()
            return found
        return None

    async def _rest(self, seconds: float) -> None:
        """Sleep; a pause that ends, a local pause and a stop end it."""
        revision, was_paused = self._hold.revision, self._hold.system_paused
        with move_on_after(seconds):
            while self._hold.takes_work and self._hold.system_paused >= was_paused:
                revision = await self._hold.changed(revision)

    async def _work(self, claimed: ClaimedJob, asked_at: float) -> None:
        if not self._hold.takes_work:
            await self._put_back(claimed)
            return
        run = JobRun(
            claimed,
            asked_at=asked_at,
            worker_id=self.worker_id,
            transport=self._transport,
            hold=self._hold,
            options=self._options,
            surroundings=self._surroundings,
        )
        self._runs.add(run)
        try:
            await run.run(self._handler)
        except BaseException:
            log.warning(
                "job_left", job_id=str(claimed.id), detail="its lease runs out, then it is tried again"
            )
            raise
        finally:
            self._runs.discard(run)

    async def _put_back(self, claimed: ClaimedJob) -> None:
        """It came in the moment in which the operator paused the worker, or stopped it."""
        reason = LOCALLY_PAUSED if self._hold.locally_paused else Stop.WORKER_STOPS.value
        try:
            await self._transport.release(Held(claimed.id, claimed.lease_token or ""), reason)
        except HoldfastError as error:
            log.warning("job_not_put_back", job_id=str(claimed.id), detail=error.detail)

    # Beside the slots

    async def _say_presence(self) -> None:
        """Tell the server of a version or a local pause at once, and now and then that the worker is there."""
        told: tuple[int | None, bool] | None = None
        delays = Backoff(most=CLAIM_AGAIN_SECONDS)
        while True:
            revision = self._hold.revision
            await self._claims_given_up()
            now = (self._hold.version, self._hold.locally_paused)
            if now != told or self._transport.idle_seconds >= PRESENCE_SECONDS:
                try:
                    await self._transport.presence()
                except (NotAuthenticated, NotAllowed, InvalidRequest):
                    raise
                except HoldfastError as error:
                    delay = delays.next()
                    self._tell_unreachable(error, delay)
                    await sleep(delay)
                    continue
                delays.reset()
                self._tell_reachable()
                # What the answer taught is told by the next round.
                told = now
            with move_on_after(PRESENCE_SECONDS / 2):
                await self._hold.changed(revision)

    async def _claims_given_up(self) -> None:
        """A claim says that its worker takes work: none may come behind the word that it does not."""
        with move_on_after(GIVEN_UP_SECONDS):
            while self._claims and not self._hold.takes_work:
                await self._claim_ended.wait()

    async def _heed_local(self) -> None:
        """Give up the claims that wait once nothing new is to be taken."""
        revision = 0
        while True:
            if not self._hold.takes_work:
                for scope in list(self._claims):
                    scope.cancel()
            revision = await self._hold.changed(revision)

    async def _end_in_time(self) -> None:
        """Once the worker is to stop: parked jobs go back, the others have the grace."""
        revision = 0
        while not self._hold.stopping:
            revision = await self._hold.changed(revision)
        with move_on_after(self._options.grace_seconds):
            while not self._hurried:
                for run in self._runs:
                    if run.parked:
                        run.stop(Stop.WORKER_STOPS)
                await sleep(STOP_LOOK_SECONDS)
        self._stop_runs(Stop.WORKER_STOPS)
        await sleep(LAST_WORDS_SECONDS)
        for run in self._runs:
            run.give_up()

    def _stop_runs(self, why: Stop) -> None:
        for run in self._runs:
            run.stop(why)

    def _cancelled(self, job_id: "UUID") -> None:
        for run in self._runs:
            if run.claimed.id == job_id:
                run.stop(Stop.CANCELLED)

    # For the control port

    async def checkpoint(
        self, job_token: str, label: str | None, kind: CheckpointKind | None, wait_seconds: float
    ) -> CheckpointAnswer:
        """A child process of a job is at a checkpoint. Raises KeyError where no job has this token."""
        return await self._by_token(job_token).visit(label, kind, wait_seconds)

    async def log(self, job_token: str, level: LogLevel, message: str) -> None:
        """A child process adds to the log of its job. Raises KeyError where no job has this token."""
        self._by_token(job_token).log.add(level, message)

    def _by_token(self, job_token: str) -> JobRun:
        for run in self._runs:
            if secrets.compare_digest(run.token.encode(), job_token.encode()):
                return run
        raise KeyError("no job of this worker has this token")

    # What it says of itself

    def _variant(self) -> WorkerVariant:
        if not self._transport.connected:
            return "disconnected"
        if self._hold.locally_paused or self._hold.system_paused:
            return "paused"
        return "busy" if self._runs else "idle"

    def _tell_unreachable(self, error: HoldfastError, delay: float) -> None:
        if not self._unreachable:
            self._unreachable = True
            log.log(
                logging.ERROR if isinstance(error, UnexpectedAnswer) else logging.WARNING,
                "server_unreachable",
                url=self._address.shown,
                detail=error.detail,
                again_in=round(delay, 1),
            )

    def _tell_reachable(self) -> None:
        if self._unreachable:
            self._unreachable = False
            log.info("server_back", url=self._address.shown)
