"""Sends the measures to a StatsD server, in its own plain format, over UDP.

It reads what is counted anyway, now and then, and sends what has come since: nothing is done for a request. A packet is
handed to the system or dropped: it waits for nobody, and that nobody listens is no error.

A client library would send (or buffer) at each count, and resolve names and open sockets in the way of it; this is a
page of text in datagrams.
"""

import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

import structlog
from anyio import getaddrinfo, sleep

from holdfast_core.clock import Clock
from holdfast_core.errors import StoreUnavailable
from holdfast_core.services.counters import BOUNDS, Counted, Counters, Totals
from holdfast_core.services.measures import TIMERS, Meter, Sample, counted

__all__ = ["StatsdReporter"]

log = structlog.get_logger(__name__)

#: How often what was counted is sent, and the pause.
FLUSH_SECONDS: Final = 1.0
#: How often what has to be asked of the database is sent.
SYSTEM_SECONDS: Final = 10.0
#: How often the server's name is looked up.
RESOLVE_SECONDS: Final = 60.0
#: What fits into one packet of an Ethernet.
PACKET_BYTES: Final = 1_432


class StatsdReporter:
    """Sends to one server."""

    def __init__(self, url: str, meter: Meter, counters: Counters, clock: Clock) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        prefix = parts.path.strip("/").replace("/", ".")
        self._prefix = f"{prefix}." if prefix else ""
        self._meter = meter
        self._counters = counters
        self._clock = clock
        self._socket: socket.socket | None = None
        self._resolved_at = float("-inf")
        self._asked_at = float("-inf")
        #: What has been sent of what this process counts. What another before it had counted is not sent again.
        self._sent = counters.own()

    async def run(self) -> None:
        """Send now and then, until cancelled; and what is left then."""
        try:
            while True:
                await self.resolve()
                await self.report()
                await sleep(FLUSH_SECONDS)
        finally:
            self._send(self._news())
            self.close()

    async def report(self) -> None:
        """Send what there is to be sent."""
        lines = list(self._news())
        with suppress(StoreUnavailable):  # then nothing is said of the pause, rather than what it was
            lines += map(self._gauge, await self._meter.pause())
        # All processes of a host would say the same.
        if self._counters.number == 0 and self._clock.monotonic() - self._asked_at >= SYSTEM_SECONDS:
            self._asked_at = self._clock.monotonic()
            lines += map(self._gauge, [*await self._meter.system(), self._meter.sessions()])
        self._send(lines)

    def _news(self) -> Iterator[str]:
        """What has been counted since this was asked last."""
        before, now = self._sent, self._counters.own()
        self._sent = now
        for old, sample in zip(counted(before), counted(now), strict=True):
            if (more := int(sample.number - old.number)) > 0:
                yield f"{self._prefix}{sample.measure.statsd(sample.value)}:{more}|c"
        yield from self._claims(before, now)
        for measure, what in TIMERS.items():
            # How many there were in a bucket, as one of them and the rate at which it stands for the others: the
            # server counts them all, and takes each for the longest that it can have been.
            buckets = zip((*BOUNDS, BOUNDS[-1]), before.buckets(what), now.buckets(what), strict=True)
            for bound, had, has in buckets:
                if (more := has - had) > 0:
                    rate = "" if more == 1 else f"|@{1 / more:.6g}"
                    yield f"{self._prefix}{measure.statsd(None)}:{bound * 1000:g}|ms{rate}"

    def _claims(self, before: Totals, now: Totals) -> Iterator[str]:
        """All claims in one, since StatsD adds nothing up by itself."""
        names: tuple[Counted, ...] = ("claims_granted", "claims_empty", "claims_paused")
        if (more := sum(now.count(name) - before.count(name) for name in names)) > 0:
            yield f"{self._prefix}claims:{more}|c"

    def _gauge(self, sample: Sample) -> str:
        return f"{self._prefix}{sample.measure.statsd(sample.value)}:{sample.number:.15g}|g"

    async def resolve(self) -> None:
        """Find the server, unless that was done just now. It is told in the log where there is none."""
        now = self._clock.monotonic()
        if now - self._resolved_at < RESOLVE_SECONDS:
            return
        self._resolved_at = now
        try:
            family, kind, protocol, _, address = (
                await getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)
            )[0]
            opened = socket.socket(family, kind, protocol)
            opened.setblocking(False)
            opened.connect(address)
        except OSError as error:
            log.warning("statsd_not_found", host=self._host, cause=str(error))
            return
        self.close()
        self._socket = opened

    def _send(self, lines: Iterable[str]) -> None:
        packet = ""
        for line in lines:
            if packet and len(packet) + 1 + len(line) > PACKET_BYTES:
                self._post(packet)
                packet = ""
            packet = f"{packet}\n{line}" if packet else line
        if packet:
            self._post(packet)

    def _post(self, packet: str) -> None:
        if self._socket is not None:
            with suppress(OSError):  # nobody listens, or the system has no room: it is lost
                self._socket.send(packet.encode())

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
