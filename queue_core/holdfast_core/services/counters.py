"""Counts of what this process has done since its start, for /metrics. Nothing is decided by them."""

from collections import Counter
from collections.abc import Mapping
from typing import Literal

__all__ = ["Counted", "Counters"]

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
    "leases_expired",
    "leases_expired_while_paused",
    "offers_accepted",
    "offers_rejected",
    "offers_unanswered",
    "offers_withdrawn",
    "checkpoint_timeouts",
    "pauses",
    "resumes",
]


class Counters:
    """Counts by fixed names."""

    def __init__(self) -> None:
        self._counts: Counter[Counted] = Counter()

    def add(self, what: Counted, count: int = 1) -> None:
        """It has happened, once or `count` times."""
        self._counts[what] += count

    @property
    def counts(self) -> Mapping[Counted, int]:
        """How often each has happened; 0 is left out."""
        return self._counts
