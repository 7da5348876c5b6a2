"""The rules: one transaction each, then the announcement. Every transport calls these and nothing else."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
from anyio import create_task_group, sleep

from holdfast_core.changes import ChangeBus
from holdfast_core.clock import Clock, SystemClock
from holdfast_core.db import Database
from holdfast_core.gate import GateCache
from holdfast_core.services.access import AccessService
from holdfast_core.services.artifacts import ArtifactService
from holdfast_core.services.batches import Begun
from holdfast_core.services.blockers import BlockerService
from holdfast_core.services.checkpoints import CheckpointWatch
from holdfast_core.services.claims import ClaimService
from holdfast_core.services.counters import BOUNDS, Counters, Totals
from holdfast_core.services.feed import FeedEvent, FeedService
from holdfast_core.services.health import HealthService, Readiness
from holdfast_core.services.history import HistoryService
from holdfast_core.services.jobs import JobService
from holdfast_core.services.leases import LeaseService
from holdfast_core.services.logins import Login, Logins, Verifier, Vouched
from holdfast_core.services.logs import LogService
from holdfast_core.services.measures import MEASURES, TIMERS, Measure, Meter, Sample, counted
from holdfast_core.services.outbox import Closed, Outbox
from holdfast_core.services.outcomes import OutcomeService
from holdfast_core.services.pause import PauseService
from holdfast_core.services.presence import Presence
from holdfast_core.services.session import Session
from holdfast_core.services.sessions import SessionService
from holdfast_core.services.sla import PauseAlert
from holdfast_core.services.snapshots import Snapshots
from holdfast_core.services.spans import spans_are_taken
from holdfast_core.services.statsd import StatsdReporter
from holdfast_core.services.sweep import Sweeper
from holdfast_core.services.upkeep import Upkeep
from holdfast_core.services.waiters import Waiters
from holdfast_core.services.watch import PauseWatch
from holdfast_core.services.workers import WorkerService
from holdfast_core.settings import Settings
from holdfast_core.store.users import ensure_user

if TYPE_CHECKING:
    # What it stands on takes long to load, and few have a provider.
    from holdfast_core.services.issuer import Issuer
    from holdfast_core.services.sla import Send

__all__ = [
    "BOUNDS",
    "MEASURES",
    "TIMERS",
    "AccessService",
    "ArtifactService",
    "Begun",
    "BlockerService",
    "ClaimService",
    "Closed",
    "Counters",
    "FeedEvent",
    "FeedService",
    "HealthService",
    "HistoryService",
    "JobService",
    "LeaseService",
    "LogService",
    "Login",
    "Logins",
    "Measure",
    "Meter",
    "Outbox",
    "OutcomeService",
    "PauseService",
    "Readiness",
    "Sample",
    "Services",
    "Session",
    "SessionService",
    "Totals",
    "Verifier",
    "Vouched",
    "WorkerService",
    "counted",
    "run_services",
    "spans_are_taken",
]

log = structlog.get_logger(__name__)

#: How long a background task that failed rests before it begins again.
AFTER_FAILURE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Services:
    """What the transports may call."""

    pause: PauseService
    jobs: JobService
    claims: ClaimService
    leases: LeaseService
    outcomes: OutcomeService
    logs: LogService
    artifacts: ArtifactService
    feed: FeedService
    blockers: BlockerService
    history: HistoryService
    workers: WorkerService
    health: HealthService
    sessions: SessionService
    access: AccessService
    #: Who is asking: for those who receive requests.
    logins: Logins
    #: The OpenID provider, where there is one: for logins of browsers.
    issuer: "Issuer | None"
    #: For those who run the process, not for transports.
    watch: PauseWatch
    alert: PauseAlert
    counters: Counters
    meter: Meter
    snapshots: Snapshots
    sweeper: Sweeper
    upkeep: Upkeep
    checkpoints: CheckpointWatch
    presence: Presence
    waiters: Waiters


@asynccontextmanager
async def run_services(
    database: Database,
    bus: ChangeBus,
    settings: Settings,
    clock: Clock | None = None,
    issuer: "Issuer | None" = None,
    counters: Counters | None = None,
    send: "Send | None" = None,
) -> AsyncGenerator[Services]:
    """The services over an open store, with their background tasks, until the block ends.

    `issuer`: the OpenID provider that vouches for callers, where there is one. `counters`: those that are shared with
    other processes. `send`: the webhook that alerts go to, where there is one.
    """
    clock = clock or SystemClock()
    cache = GateCache(clock)
    waiters = Waiters(bus)
    presence = Presence(database, clock)
    counters = counters or Counters()
    watch = PauseWatch(database, bus, cache, waiters, counters, clock)
    snapshots = Snapshots(database, watch, clock)
    alert = PauseAlert(database, watch, counters, settings, clock, send)
    meter = Meter(database, snapshots, watch, alert, counters, clock)
    sweeper = Sweeper(database, bus, cache, counters, settings, clock)
    artifacts = ArtifactService(database, presence, settings)
    upkeep = Upkeep(database, bus, cache, artifacts, settings, clock)
    checkpoints = CheckpointWatch(database, bus, cache, counters, settings)
    claims = ClaimService(database, bus, cache, watch, waiters, presence, counters, clock)
    leases = LeaseService(database, bus, watch, presence, counters, settings, clock)
    outcomes = OutcomeService(database, bus, cache, presence, counters, settings)
    logs = LogService(database, bus, presence, settings)
    logins = Logins(database, clock, issuer)
    services = Services(
        pause=PauseService(database, bus, watch, snapshots, counters, settings, clock),
        jobs=JobService(database, bus, counters),
        claims=claims,
        leases=leases,
        outcomes=outcomes,
        logs=logs,
        artifacts=artifacts,
        feed=FeedService(database, bus, snapshots, clock),
        blockers=BlockerService(database, settings),
        history=HistoryService(database),
        workers=WorkerService(database, cache, watch, presence),
        health=HealthService(cache, watch),
        sessions=SessionService(
            database, bus, watch, claims, leases, outcomes, logs, presence, counters, clock
        ),
        access=AccessService(database, logins, settings, clock),
        logins=logins,
        issuer=issuer,
        watch=watch,
        alert=alert,
        counters=counters,
        meter=meter,
        snapshots=snapshots,
        sweeper=sweeper,
        upkeep=upkeep,
        checkpoints=checkpoints,
        presence=presence,
        waiters=waiters,
    )
    user_id = settings.default_user_id
    await database.write(lambda connection: ensure_user(connection, user_id, "local operator"))
    async with create_task_group() as tasks:
        for task in (
            bus.run,
            watch.run,
            watch.run_inspection,
            waiters.run,
            presence.run,
            snapshots.run,
            sweeper.run,
            upkeep.run,
            services.pause.run_timer,
            services.history.run,
            services.sessions.beside.run_system,
            services.sessions.beside.run_cancels,
            services.sessions.beside.run_superseded,
            services.sessions.handbacks.run,
            checkpoints.run,
            alert.run,
            logins.run,
        ):
            tasks.start_soon(_go_on, task)
        if issuer is not None:
            tasks.start_soon(_go_on, issuer.run)
        if settings.statsd_url is not None:
            tasks.start_soon(_go_on, StatsdReporter(settings.statsd_url, meter, counters, clock).run)
        try:
            yield services
        finally:
            tasks.cancel_scope.cancel()


async def _go_on(task: Callable[[], Awaitable[None]]) -> None:
    """Run a background task for good. What it does not handle itself is a bug: said loudly, then begun again,
    since the pause of a server that went down for it would be worth less than its log."""
    while True:
        try:
            await task()
        except Exception:
            log.exception("background_task_failed", task=getattr(task, "__qualname__", repr(task)))
        await sleep(AFTER_FAILURE_SECONDS)
