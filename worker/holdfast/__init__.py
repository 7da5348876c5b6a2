"""Holdfast: a job queue for AI-agent workers with a pause that can be trusted.

This is the public face; everything here is meant to be relied on. `Client` talks to a server, `Worker` runs its jobs
through a handler that takes a `Job`, and the exceptions are what they raise, all of them below `HoldfastError` but two:
`JobFailed`, which a handler raises, and `ConfigurationError`, with which a worker cannot start.
"""

from holdfast_core import __version__
from holdfast_core.errors import (
    ConfigurationError,
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
from holdfast_worker.runtime.errors import JobFailed
from holdfast_worker.runtime.job import Job
from holdfast_worker.runtime.worker import Worker

__all__ = [
    "Client",
    "ConfigurationError",
    "Conflict",
    "HoldfastError",
    "IdempotencyStale",
    "InvalidRequest",
    "Job",
    "JobFailed",
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
    "Worker",
    "__version__",
]
