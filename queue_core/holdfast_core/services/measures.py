"""What operators can measure (CONTRACT section 11): each measure once, whether Prometheus asks or StatsD is told.

`docs/observability.md` lists them; a test compares the two.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Connection

from holdfast_core.clock import Clock
from holdfast_core.db import Database
from holdfast_core.errors import StoreUnavailable
from holdfast_core.services.counters import Counted, Counters, Timed, Totals
from holdfast_core.services.sla import PauseAlert
from holdfast_core.services.snapshots import Snapshots
from holdfast_core.services.watch import PauseWatch
from holdfast_core.states import PauseMode, WorkerState
from holdfast_core.store.checkpoints import parked_seconds
from holdfast_core.store.workers import fleet_states

__all__ = ["MEASURES", "TIMERS", "Measure", "Meter", "Sample", "counted"]

_STATE: Final[Mapping[PauseMode | None, int]] = {None: 0, PauseMode.DRAIN: 1, PauseMode.QUIESCE: 2}

#: Prometheus and StatsD have only fixed values as labels: what callers name is in no metric.
Label = Literal["answer", "outcome", "state", "status"]


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure. `name` has dots, as in StatsD; with a `label` there is one for each of its `values`."""

    name: str
    kind: Literal["counter", "gauge", "timer"]
    text: str
    label: Label | None = None
    values: tuple[str, ...] = ()
    #: What StatsD has before the values, where that differs.
    stem: str | None = None

    @property
    def prometheus(self) -> str:
        """Its name in Prometheus."""
        suffix = {"counter": "_total", "gauge": "", "timer": "_seconds"}[self.kind]
        return f"holdfast_{self.name.replace('.', '_')}{suffix}"

    def statsd(self, value: str | None) -> str:
        """Its name in StatsD, of one value."""
        return self.name if value is None else f"{self.stem or self.name}.{value}"


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured. `value`: that of the measure's label, if it has one."""

    measure: Measure
    value: str | None
    number: float


# What holds for the system, whichever process is asked.
_STORE_UP: Final = Measure("store_up", "gauge", "Whether the database answers.")
_STATE_OF_PAUSE: Final = Measure("worker_pause.state", "gauge", "0 running, 1 drain, 2 quiesce.")
_VERSION: Final = Measure("worker_pause.version", "gauge", "The pause's version.")
_DURATION: Final = Measure(
    "worker_pause.duration_seconds", "gauge", "How long the pause has lasted; 0 while running."
)
_SLA_EXCEEDED: Final = Measure(
    "worker_pause.sla_exceeded", "gauge", "1 while the pause has lasted longer than a pause should."
)
_VIOLATIONS: Final = Measure(
    "worker_pause.violations", "gauge", "Running jobs whose claim committed after the pause: must stay 0."
)
_SAFE: Final = Measure("safe_to_upgrade", "gauge", "1 when paused, and nothing runs or is stale.")
_JOBS: Final = Measure(
    "jobs",
    "gauge",
    "Jobs that have not ended. Parked ones are running, too.",
    label="state",
    values=("queued", "scheduled", "running", "parked", "stale"),
)
_OLDEST: Final = Measure("oldest_queued_seconds", "gauge", "Age of the oldest job that is due.")
_CHECKPOINT_WAIT: Final = Measure(
    "checkpoint_wait_seconds", "gauge", "How long the job has been parked that has been so for longest."
)
_WORKERS: Final = Measure(
    "workers", "gauge", "Workers that are known.", label="state", values=tuple(WorkerState)
)
_CONNECTED: Final = Measure("workers_connected", "gauge", "Workers that are connected.")
_ACKNOWLEDGED: Final = Measure(
    "workers_acknowledged", "gauge", "Connected workers that have seen the pause's version."
)
_SESSIONS: Final = Measure("worker_sessions", "gauge", "Push sessions that are open on this host.")

GAUGES: Final = (
    _STORE_UP,
    _STATE_OF_PAUSE,
    _VERSION,
    _DURATION,
    _SLA_EXCEEDED,
    _VIOLATIONS,
    _SAFE,
    _JOBS,
    _OLDEST,
    _CHECKPOINT_WAIT,
    _WORKERS,
    _CONNECTED,
    _ACKNOWLEDGED,
    _SESSIONS,
)


def _counter(name: str, text: str) -> Measure:
    return Measure(name, "counter", text)


def _counters(name: str, text: str, label: Label, *values: str, stem: str | None = None) -> Measure:
    return Measure(name, "counter", text, label, values, stem)


#: What the processes of a host have done, with what is counted for each value, in their order.
COUNTERS: Final[Mapping[Measure, tuple[Counted, ...]]] = {
    _counters("claims", "Claims that were answered.", "answer", "granted", "empty", "paused"): (
        "claims_granted",
        "claims_empty",
        "claims_paused",
    ),
    _counter("heartbeats", "Heartbeats of jobs."): ("heartbeats",),
    _counter("jobs.enqueued", "Jobs that were added."): ("jobs_enqueued",),
    _counters(
        "jobs.outcomes",
        "What holders said of their jobs.",
        "outcome",
        "complete",
        "fail",
        "release",
        "cancel_ack",
    ): ("jobs_complete", "jobs_fail", "jobs_release", "jobs_cancel_ack"),
    _counters(
        "jobs.ended",
        "Jobs that have ended.",
        "status",
        "succeeded",
        "failed",
        "cancelled",
        "dead_letter",
        stem="jobs",
    ): ("jobs_succeeded", "jobs_failed", "jobs_cancelled", "jobs_dead_letter"),
    _counters(
        "offers",
        "Jobs that were claimed for push sessions.",
        "outcome",
        "accepted",
        "rejected",
        "unanswered",
        "withdrawn",
    ): ("offers_accepted", "offers_rejected", "offers_unanswered", "offers_withdrawn"),
    _counter("leases_expired", "Jobs that were put back because their lease ran out."): ("leases_expired",),
    _counter("leases_expired_while_paused", "Leases that ran out while paused."): (
        "leases_expired_while_paused",
    ),
    _counter("checkpoint_timeouts", "Jobs that reached no checkpoint within a quiesce's time limit."): (
        "checkpoint_timeouts",
    ),
    _counter("worker_pause.pause", "Pauses and changes of a pause that were made."): ("pauses",),
    _counter("worker_pause.resume", "Resumes that were made."): ("resumes",),
    _counters(
        "worker_pause.webhooks",
        "Alerts of a pause that lasts too long, sent to the webhook.",
        "outcome",
        "delivered",
        "failed",
    ): ("alerts_delivered", "alerts_failed"),
}

TIMERS: Final[Mapping[Measure, Timed]] = {
    Measure(
        "claim_latency",
        "timer",
        "From a claim's question to the database's answer, standing in line included.",
    ): "claim_latency",
}

MEASURES: Final = (*GAUGES, *COUNTERS, *TIMERS)


#: How old what is told of the system may be, in seconds: who asks again within that shares one look at the database.
RECENT_SECONDS: Final = 1.0


class Meter:
    """Reads the measures."""

    def __init__(
        self,
        database: Database,
        snapshots: Snapshots,
        watch: PauseWatch,
        alert: PauseAlert,
        counters: Counters,
        clock: Clock,
    ) -> None:
        self._database = database
        self._snapshots = snapshots
        self._watch = watch
        self._alert = alert
        self._counters = counters
        self._clock = clock
        self._fleet: Mapping[WorkerState, int] = {}
        self._parked_seconds = 0.0
        self._looked_at = float("-inf")

    def sessions(self) -> Sample:
        """The push sessions of all processes of this host."""
        return Sample(_SESSIONS, None, self._counters.totals().count("sessions"))

    async def pause(self) -> list[Sample]:
        """The pause: from memory, or else by a look. Raises StoreUnavailable: unknown is not running."""
        system = await self._watch.recent(RECENT_SECONDS)
        return [
            Sample(_STATE_OF_PAUSE, None, _STATE[system.mode]),
            Sample(_VERSION, None, system.version),
            Sample(_DURATION, None, self._alert.seconds),
            Sample(_SLA_EXCEEDED, None, self._alert.exceeded),
            Sample(_VIOLATIONS, None, self._watch.violations),
        ]

    async def system(self) -> list[Sample]:
        """What holds for the system beside the pause; where the database is away, only that."""
        try:
            snapshot = await self._snapshots.recent(RECENT_SECONDS)
            await self._look_at_fleet()
        except StoreUnavailable:
            return [Sample(_STORE_UP, None, 0)]
        metrics, workers = snapshot.metrics, snapshot.workers
        jobs = (
            metrics.queued,
            metrics.scheduled,
            metrics.running,
            metrics.parked,
            metrics.stale_running,
        )
        return [
            Sample(_STORE_UP, None, 1),
            Sample(_SAFE, None, metrics.safe_to_upgrade),
            *(Sample(_JOBS, state, count) for state, count in zip(_JOBS.values, jobs, strict=True)),
            Sample(_OLDEST, None, metrics.oldest_queued_seconds or 0.0),
            Sample(_CHECKPOINT_WAIT, None, self._parked_seconds),
            *(Sample(_WORKERS, state, self._fleet[state]) for state in WorkerState),
            Sample(_CONNECTED, None, workers.connected),
            Sample(_ACKNOWLEDGED, None, workers.acknowledged),
        ]

    async def _look_at_fleet(self) -> None:
        now = self._clock.monotonic()
        if now - self._looked_at < RECENT_SECONDS:
            return

        def looking(connection: Connection) -> tuple[dict[WorkerState, int], float]:
            return fleet_states(connection), parked_seconds(connection)

        self._fleet, self._parked_seconds = await self._database.read(looking)
        self._looked_at = now


def counted(totals: Totals) -> Iterator[Sample]:
    """What has been counted, by its measures."""
    for measure, names in COUNTERS.items():
        for value, name in zip(measure.values or (None,), names, strict=True):
            yield Sample(measure, value, totals.count(name))
