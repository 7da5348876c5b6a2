"""`/metrics` for Prometheus: what the system is, and what the processes of this host have done."""

from collections.abc import Iterator
from itertools import accumulate, groupby

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from holdfast_core.errors import StoreUnavailable
from holdfast_core.services import BOUNDS, TIMERS, Meter, Sample, Totals, counted
from holdfast_dashboard.context import Context
from holdfast_dashboard.operations import Operations

__all__ = ["metrics_operations"]


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
        """What is counted is the sum over the processes of this host, whichever of them answers. While the database is
        away `holdfast_store_up` is 0, and only what was counted is there."""
        services = context.services
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Scrape(await _samples(services.meter), services.counters.totals()))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return operations


async def _samples(meter: Meter) -> list[Sample]:
    samples = [*await meter.system(), meter.sessions()]
    try:
        return [*samples, *await meter.pause()]
    except StoreUnavailable:  # then nothing is said of the pause, rather than what it was
        return samples


class _Scrape(Collector):
    """One scrape."""

    def __init__(self, samples: list[Sample], totals: Totals) -> None:
        self._samples = samples
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        samples = [*self._samples, *counted(self._totals)]
        for measure, group in groupby(samples, lambda sample: sample.measure):
            labels = () if measure.label is None else (measure.label,)
            family = (GaugeMetricFamily if measure.kind == "gauge" else CounterMetricFamily)(
                measure.prometheus, measure.text, labels=labels
            )
            for sample in group:
                family.add_metric([] if sample.value is None else [sample.value], sample.number)
            yield family
        for measure, what in TIMERS.items():
            counts = list(accumulate(self._totals.buckets(what)))
            bounds = [*map(str, BOUNDS), "+Inf"]
            timer = HistogramMetricFamily(measure.prometheus, measure.text)
            timer.add_metric([], list(zip(bounds, counts, strict=True)), self._totals.seconds(what))
            yield timer
