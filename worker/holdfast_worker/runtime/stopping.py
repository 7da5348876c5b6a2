"""Why a handler is stopped before its end."""

from enum import StrEnum

__all__ = ["Stop"]


class Stop(StrEnum):
    """The reasons, as they are logged and told to the server."""

    CANCELLED = "cancelled"
    LEASE_LOST = "lease lost"
    LEASE_RUNS_OUT = "the lease runs out and the server does not answer"
    WORKER_STOPS = "the worker stops"
