"""`/metrics` for Prometheus: what the system is, and what this process has done."""

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from holdfast_core.errors import StoreUnavailable
from holdfast_core.schemas import Snapshot
from holdfast_core.services import Counted, Services
from holdfast_core.states import PauseMode
from holdfast_dashboard.context import Context
from holdfast_dashboard.operations import Operations

__all__ = ["metrics_operations"]

#: How old what is shown may be, in seconds: scrapers in a row share one look at the database.
RECENT_SECONDS: Final = 1.0
_STATE: Final[Mapping[PauseMode | None, int]] = {None: 0, PauseMode.DRAIN: 1, PauseMode.QUIESCE: 2}


def metrics_operations(context: Context) -> Operations:
    """`/metrics`."""
    operations = Operations("health")

    @operations.add(
        "GET",
        "/metrics",
        summary="Metrics for Prometheus",
        answers=None,
        media_type="text/plain",
    )
    async def get_metrics(request: Request) -> Response:
        """While the database is away `holdfast_store_up` is 0, and only what this process has counted is there."""
        services = context.services
        try:
            snapshot = await services.snapshots.recent(RECENT_SECONDS)
        except StoreUnavailable:
            snapshot = None
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(services, snapshot))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return operations


class _Collector(Collector):
    """One scrape."""

    def __init__(self, services: Services, snapshot: Snapshot | None) -> None:
        self._services = services
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "holdfast_store_up", "Whether the database answers.", value=self._snapshot is not None
        )
        if self._snapshot is not None:
            yield from _of_system(self._snapshot)
        yield GaugeMetricFamily(
            "holdfast_worker_pause_violations",
            "Running jobs whose claim committed after the pause: must stay 0.",
            value=self._services.watch.violations,
        )
        yield GaugeMetricFamily(
            "holdfast_worker_sessions",
            "Push sessions that are open here.",
            value=len(self._services.sessions),
        )
        yield from _of_process(self._services.counters.counts)


def _of_system(snapshot: Snapshot) -> Iterator[Metric]:
    system, metrics, workers = snapshot.system, snapshot.metrics, snapshot.workers
    yield GaugeMetricFamily(
        "holdfast_worker_pause_state", "0 running, 1 drain, 2 quiesce.", value=_STATE[system.mode]
    )
    yield GaugeMetricFamily("holdfast_worker_pause_version", "The pause's version.", value=system.version)
    yield GaugeMetricFamily(
        "holdfast_safe_to_upgrade",
        "1 when paused, and nothing runs or is stale.",
        value=metrics.safe_to_upgrade,
    )
    jobs = GaugeMetricFamily(
        "holdfast_jobs", "Jobs that have not ended. Parked ones are running, too.", labels=["state"]
    )
    for state, count in (
        ("queued", metrics.queued),
        ("scheduled", metrics.scheduled),
        ("running", metrics.running),
        ("parked", metrics.parked),
        ("stale", metrics.stale_running),
    ):
        jobs.add_metric([state], count)
    yield jobs
    yield GaugeMetricFamily(
        "holdfast_oldest_queued_seconds",
        "Age of the oldest job that is due.",
        value=metrics.oldest_queued_seconds or 0,
    )
    seen = GaugeMetricFamily("holdfast_workers", "Connected workers.", labels=["state"])
    seen.add_metric(["connected"], workers.connected)
    seen.add_metric(["acknowledged"], workers.acknowledged)
    yield seen


def _of_process(counts: Mapping[Counted, int]) -> Iterator[Metric]:
    claims = CounterMetricFamily("holdfast_claims", "Answered claims.", labels=["answer"])
    for answer, count in (
        ("granted", counts.get("claims_granted", 0)),
        ("empty", counts.get("claims_empty", 0)),
        ("paused", counts.get("claims_paused", 0)),
    ):
        claims.add_metric([answer], count)
    yield claims
    outcomes = CounterMetricFamily("holdfast_jobs_outcomes", "What holders said of jobs.", labels=["outcome"])
    for outcome, count in (
        ("complete", counts.get("jobs_complete", 0)),
        ("fail", counts.get("jobs_fail", 0)),
        ("release", counts.get("jobs_release", 0)),
        ("cancel_ack", counts.get("jobs_cancel_ack", 0)),
    ):
        outcomes.add_metric([outcome], count)
    yield outcomes
    offers = CounterMetricFamily(
        "holdfast_offers", "Jobs that were claimed for push sessions.", labels=["outcome"]
    )
    for outcome, count in (
        ("accepted", counts.get("offers_accepted", 0)),
        ("rejected", counts.get("offers_rejected", 0)),
        ("unanswered", counts.get("offers_unanswered", 0)),
        ("withdrawn", counts.get("offers_withdrawn", 0)),
    ):
        offers.add_metric([outcome], count)
    yield offers
    rest: tuple[tuple[str, Counted, str], ...] = (
        ("holdfast_jobs_enqueued", "jobs_enqueued", "Jobs that were added."),
        ("holdfast_heartbeats", "heartbeats", "Heartbeats of jobs."),
        ("holdfast_leases_expired", "leases_expired", "Jobs put back because their lease ran out."),
        (
            "holdfast_leases_expired_while_paused",
            "leases_expired_while_paused",
            "Leases that ran out while paused.",
        ),
        (
            "holdfast_checkpoint_timeouts",
            "checkpoint_timeouts",
            "Jobs that reached no checkpoint within a quiesce's time limit.",
        ),
        ("holdfast_worker_pause_pause", "pauses", "Pauses and changes of a pause that were made."),
        ("holdfast_worker_pause_resume", "resumes", "Resumes that were made."),
    )
    for name, key, text in rest:
        yield CounterMetricFamily(name, text, value=counts.get(key, 0))
