"""What is sent to a StatsD server: a real socket hears it."""

import re

import pytest
from structlog.testing import capture_logs

from holdfast_core.clock import SystemClock
from holdfast_core.services.statsd import PACKET_BYTES, StatsdReporter
from support.core import claim, claimed, complete, enqueue, fail, heartbeat, pause, resume, until
from support.listeners import Statsd
from support.stores import core

pytestmark = pytest.mark.anyio

#: What StatsD servers take: a name, a value, a kind, and for timers a sample rate.
LINE = re.compile(r"[a-z_]+(\.[a-z_]+)*:\d+(\.\d+)?\|(c|g|ms(\|@0\.\d+)?)")


async def test_what_happens_is_sent_once_and_how_things_stand_again_and_again(database_url: str) -> None:
    with Statsd() as statsd:
        async with core(database_url, statsd_url=statsd.url) as (services, _):
            for _number in range(4):
                await enqueue(services)
            jobs = [await claimed(services, f"w-{number}") for number in range(3)]
            await heartbeat(services, jobs[0])
            await complete(services, jobs[0])
            await fail(services, jobs[1])
            await pause(services)
            assert (await claim(services)).job is None
            await statsd.heard(lambda s: s.last("worker_pause.state") == 1 and s.total("claims.paused") == 1)
            await resume(services)
            await statsd.heard(
                lambda s: s.last("worker_pause.state") == 0 and s.total("worker_pause.resume") == 1
            )
    assert all(LINE.fullmatch(line) for line in statsd.lines), statsd.lines
    assert max(map(len, statsd.packets)) <= PACKET_BYTES
    counted = {
        "claims": 4,
        "claims.granted": 3,
        "claims.paused": 1,
        "heartbeats": 1,
        "jobs.enqueued": 4,
        "jobs.succeeded": 1,
        "jobs.failed": 1,
        "worker_pause.pause": 1,
        "worker_pause.resume": 1,
    }
    assert {name: statsd.total(name) for name in counted} == counted
    gauges = {"worker_pause.violations": 0, "worker_pause.sla_exceeded": 0, "worker_pause.version": 3}
    assert {name: statsd.last(name) for name in gauges} == gauges
    assert statsd.last("jobs.queued") is not None
    assert statsd.last("workers.idle") is not None
    assert statsd.last("worker_pause.duration_seconds") == 0
    rates = [re.fullmatch(r"claim_latency:[\d.]+\|ms(?:\|@(.+))?", line) for line in statsd.lines]
    assert sum(round(1 / float(found[1] or 1)) for found in rates if found) == 3


async def test_a_prefix_stands_before_each_name(sqlite_url: str) -> None:
    with Statsd() as statsd:
        async with core(sqlite_url, statsd_url=f"{statsd.url}/team/holdfast"):
            await statsd.heard(lambda s: bool(s.lines))
        assert all(line.startswith("team.holdfast.") for line in statsd.lines)


async def test_what_was_counted_last_is_sent_at_the_end(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast_core.services.statsd.FLUSH_SECONDS", 3_600)
    with Statsd() as statsd:
        async with core(sqlite_url, statsd_url=statsd.url) as (services, _):
            await statsd.heard(lambda s: s.last("worker_pause.state") == 0)
            await enqueue(services)
        await statsd.heard(lambda s: s.total("jobs.enqueued") == 1)


async def test_that_nobody_listens_is_no_error_and_once_somebody_does_it_hears(sqlite_url: str) -> None:
    with Statsd() as gone:
        url = gone.url
    async with core(sqlite_url) as (services, _):
        reporter = StatsdReporter(url, services.meter, services.counters, SystemClock())
        await reporter.resolve()
        for _number in range(5):  # packets that are refused, and the errors that later ones meet for it
            await enqueue(services)
            await reporter.report()
        with Statsd(url) as statsd:
            for _number in range(2):
                await enqueue(services)
                await reporter.report()
            await statsd.heard(lambda s: s.total("jobs.enqueued") > 0)
        reporter.close()


async def test_a_name_that_cannot_be_resolved_is_said_and_nothing_else_happens(sqlite_url: str) -> None:
    with capture_logs() as lines:
        async with core(sqlite_url, statsd_url="udp://statsd.invalid:8125") as (services, _):

            async def said() -> bool:
                return any(line["event"] == "statsd_not_found" for line in lines)

            await until(said)
            await enqueue(services)
    assert not any(line["event"] == "background_task_failed" for line in lines)
