"""Counts of what the processes of this host have done, for Prometheus and StatsD. Nothing is decided by them.

Each process counts in a page of its own: a row of whole numbers that it alone writes. `holdfast serve --workers N` lays
the pages of its processes side by side in one file that they all map, so whichever is scraped adds up what all have
counted, and a process that is started anew counts on where the one before it ended. To count is one addition in memory,
file or not.
"""

import mmap
from array import array
from bisect import bisect_left
from typing import Final, Literal, get_args
from zlib import crc32

from holdfast_core.states import JobStatus

__all__ = ["BOUNDS", "LAYOUT", "PAGE_BYTES", "Counted", "Counters", "Timed", "Totals", "map_pages"]

Counted = Literal[
    "claims_granted",
    "claims_empty",
    "claims_paused",
    "heartbeats",
    "jobs_enqueued",
    "jobs_complete",
    "jobs_fail",
    "jobs_release",
    "jobs_cancel_ack",
    "jobs_succeeded",
    "jobs_failed",
    "jobs_cancelled",
    "jobs_dead_letter",
    "leases_expired",
    "leases_expired_while_paused",
    "offers_accepted",
    "offers_rejected",
    "offers_unanswered",
    "offers_withdrawn",
    "checkpoint_timeouts",
    "pauses",
    "resumes",
    "alerts_delivered",
    "alerts_failed",
    # Of how many there are now, not how often it has happened.
    "sessions",
]
Timed = Literal["claim_latency"]

#: The upper bounds of a timer's buckets, in seconds; the last bucket has none.
BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

_COUNTS: Final[tuple[Counted, ...]] = get_args(Counted)
_TIMERS: Final[tuple[Timed, ...]] = get_args(Timed)
#: A timer's numbers: one for each bucket, then all durations together, in microseconds.
_WIDTH: Final = len(BOUNDS) + 2
_COUNT_AT: Final[dict[Counted, int]] = {name: at for at, name in enumerate(_COUNTS)}
_TIMER_AT: Final[dict[Timed, int]] = {name: len(_COUNTS) + at * _WIDTH for at, name in enumerate(_TIMERS)}
_ENDS: Final[dict[JobStatus, Counted]] = {
    JobStatus.SUCCEEDED: "jobs_succeeded",
    JobStatus.FAILED: "jobs_failed",
    JobStatus.CANCELLED: "jobs_cancelled",
    JobStatus.DEAD_LETTER: "jobs_dead_letter",
}
_SIZE: Final = len(_COUNTS) + len(_TIMERS) * _WIDTH
PAGE_BYTES: Final = _SIZE * 8
#: By this two processes know that they mean the same by a page.
LAYOUT: Final = crc32(repr((_COUNTS, _TIMERS, BOUNDS)).encode())


def map_pages(file: int, processes: int) -> "memoryview[int]":
    """The pages of so many processes, in an open file of `processes * PAGE_BYTES` bytes."""
    return memoryview(mmap.mmap(file, processes * PAGE_BYTES)).cast("Q")


class Counters:
    """Counts by fixed names. `pages`: those of all processes of this host, of which this one writes number `number`."""

    def __init__(self, pages: "memoryview[int] | None" = None, number: int = 0) -> None:
        self._pages = memoryview(array("Q", bytes(PAGE_BYTES))) if pages is None else pages
        self._page = self._pages[number * _SIZE : (number + 1) * _SIZE]
        self._page[_COUNT_AT["sessions"]] = 0  # those of a process before this one ended with it
        self.number = number

    def add(self, what: Counted, count: int = 1) -> None:
        """It has happened, once or `count` times."""
        self._page[_COUNT_AT[what]] += count

    def ended(self, status: JobStatus) -> None:
        """A job has come to this status; counted where that is an end."""
        if (what := _ENDS.get(status)) is not None:
            self.add(what)

    def observe(self, what: Timed, seconds: float) -> None:
        """It has taken so long."""
        at = _TIMER_AT[what]
        self._page[at + bisect_left(BOUNDS, seconds)] += 1
        self._page[at + _WIDTH - 1] += int(seconds * 1e6)

    def own(self) -> "Totals":
        """What this process has counted, and those that had its page before it."""
        return Totals(list(self._page))

    def totals(self) -> "Totals":
        """What all processes of this host have counted."""
        return Totals([sum(self._pages[at::_SIZE]) for at in range(_SIZE)])


class Totals:
    """Counts of one moment."""

    def __init__(self, numbers: list[int]) -> None:
        self._numbers = numbers

    def count(self, what: Counted) -> int:
        """How often it has happened."""
        return self._numbers[_COUNT_AT[what]]

    def buckets(self, what: Timed) -> list[int]:
        """How often it has taken up to each bound and more than the one before; the last: longer than all bounds."""
        at = _TIMER_AT[what]
        return self._numbers[at : at + _WIDTH - 1]

    def seconds(self, what: Timed) -> float:
        """How long it has taken in all."""
        return self._numbers[_TIMER_AT[what] + _WIDTH - 1] / 1e6
