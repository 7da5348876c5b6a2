"""What the processes of a host count, side by side in one file."""

import tempfile
from collections.abc import Generator

import pytest

from holdfast_core.services.counters import BOUNDS, PAGE_BYTES, Counters, map_pages


@pytest.fixture
def file() -> Generator[int]:
    with tempfile.TemporaryFile() as found:
        found.truncate(2 * PAGE_BYTES)
        yield found.fileno()


def test_each_process_says_what_all_have_counted(file: int) -> None:
    one, other = (Counters(map_pages(file, 2), number) for number in range(2))
    one.add("heartbeats")
    other.add("heartbeats", 2)
    other.add("sessions")
    for seen in (one, other):
        assert (seen.totals().count("heartbeats"), seen.totals().count("sessions")) == (3, 1)
    assert (one.own().count("heartbeats"), other.own().count("heartbeats")) == (1, 2)


def test_a_process_that_is_started_anew_counts_on_and_has_no_sessions(file: int) -> None:
    ended, other = (Counters(map_pages(file, 2), number) for number in range(2))
    for seen in (ended, other):
        seen.add("sessions", 3)
        seen.add("pauses", 5)
    new = Counters(map_pages(file, 2), 0)
    new.add("pauses")
    assert (new.totals().count("pauses"), new.totals().count("sessions")) == (11, 3)


def test_a_time_is_counted_in_the_bucket_of_its_bound() -> None:
    counters = Counters()
    for seconds in (0.0, BOUNDS[0], 0.0006, 4.0, 60.0):
        counters.observe("claim_latency", seconds)
    totals = counters.totals()
    assert totals.buckets("claim_latency") == [2, 1, *[0] * (len(BOUNDS) - 3), 1, 1]
    assert totals.seconds("claim_latency") == pytest.approx(64.0011)
