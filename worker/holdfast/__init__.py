"""Holdfast: a job queue for AI-agent workers with a pause that can be trusted.

This is the public face; everything here is meant to be relied on. `Client` talks to a server, and the
exceptions are what it raises, all of them below `HoldfastError`.
"""

from holdfast_core import __version__
from holdfast_core.errors import (
    Conflict,
    HoldfastError,
    IdempotencyStale,
    InvalidRequest,
    JobNotFound,
    JobNotOwned,
    JobStateConflict,
    KeyReused,
    LeaseLost,
    NotAllowed,
    NotAuthenticated,
    NotPaused,
    PauseNotConfirmed,
    ResumeNotDrained,
    StoreUnavailable,
    Unavailable,
    VersionConflict,
)
from holdfast_worker.client import Client
from holdfast_worker.failures import ServerUnreachable, UnexpectedAnswer

__all__ = [
    "Client",
    "Conflict",
    "HoldfastError",
    "IdempotencyStale",
    "InvalidRequest",
    "JobNotFound",
    "JobNotOwned",
    "JobStateConflict",
    "KeyReused",
    "LeaseLost",
    "NotAllowed",
    "NotAuthenticated",
    "NotPaused",
    "PauseNotConfirmed",
    "ResumeNotDrained",
    "ServerUnreachable",
    "StoreUnavailable",
    "Unavailable",
    "UnexpectedAnswer",
    "VersionConflict",
    "__version__",
]
