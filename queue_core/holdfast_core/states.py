"""States of jobs, of the pause and of workers, as tables. docs/states.md draws them; a test compares the two."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

__all__ = [
    "JOB_TRANSITIONS",
    "PAUSE_TRANSITIONS",
    "TERMINAL",
    "JobPhase",
    "JobStatus",
    "PauseAction",
    "PauseMode",
    "PauseState",
    "Role",
    "WorkerState",
]


class JobStatus(StrEnum):
    """Where a job stands. `queued` includes jobs that are due later; `running` includes stale ones."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD_LETTER = "dead_letter"


TERMINAL: Final = frozenset(
    {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.DEAD_LETTER}
)

#: From each status, the verbs that leave it and where each may lead.
JOB_TRANSITIONS: Final[Mapping[JobStatus, Mapping[str, frozenset[JobStatus]]]] = {
    JobStatus.QUEUED: {
        "claim": frozenset({JobStatus.RUNNING}),
        "cancel": frozenset({JobStatus.CANCELLED}),
    },
    JobStatus.RUNNING: {
        "complete": frozenset({JobStatus.SUCCEEDED}),
        "fail": frozenset({JobStatus.QUEUED, JobStatus.FAILED, JobStatus.DEAD_LETTER, JobStatus.CANCELLED}),
        "release": frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
        "cancel": frozenset({JobStatus.CANCELLED}),
        "cancel_ack": frozenset({JobStatus.CANCELLED}),
        "requeue": frozenset({JobStatus.QUEUED, JobStatus.DEAD_LETTER, JobStatus.CANCELLED}),
        "sweep": frozenset({JobStatus.QUEUED, JobStatus.DEAD_LETTER, JobStatus.CANCELLED}),
    },
    JobStatus.SUCCEEDED: {},
    JobStatus.FAILED: {"retry": frozenset({JobStatus.QUEUED})},
    JobStatus.CANCELLED: {"retry": frozenset({JobStatus.QUEUED})},
    JobStatus.DEAD_LETTER: {"retry": frozenset({JobStatus.QUEUED})},
}


class JobPhase(StrEnum):
    """What a running job does right now, as its holder reports it."""

    RUNNING = "running"
    PARKING = "parking"
    PARKED = "parked"


class PauseMode(StrEnum):
    """How the system is paused: drain lets running jobs finish, quiesce parks them at checkpoints."""

    DRAIN = "drain"
    QUIESCE = "quiesce"


class PauseAction(StrEnum):
    """What an operator asks for."""

    PAUSE = "pause"
    RESUME = "resume"


class PauseState(StrEnum):
    """The pause as a state: running, or paused in one of the modes."""

    RUNNING = "running"
    DRAIN = "drain"
    QUIESCE = "quiesce"


#: From each pause state, the requests that change it and where each leads.
PAUSE_TRANSITIONS: Final[Mapping[PauseState, Mapping[str, PauseState]]] = {
    PauseState.RUNNING: {
        "pause drain": PauseState.DRAIN,
        "pause quiesce": PauseState.QUIESCE,
    },
    PauseState.DRAIN: {
        "pause quiesce": PauseState.QUIESCE,
        "resume": PauseState.RUNNING,
    },
    PauseState.QUIESCE: {
        "pause drain": PauseState.DRAIN,
        "resume": PauseState.RUNNING,
    },
}


class WorkerState(StrEnum):
    """A worker as the fleet view shows it: the most telling of what is known of it."""

    IDLE = "idle"
    RUNNING = "running"
    PARKING = "parking"
    PARKED = "parked"
    PAUSED = "paused"
    MISSING = "missing"
    GONE = "gone"


class Role(StrEnum):
    """viewer ⊂ producer ⊂ operator ⊂ admin; worker stands apart (CONTRACT section 4)."""

    VIEWER = "viewer"
    PRODUCER = "producer"
    OPERATOR = "operator"
    ADMIN = "admin"
    WORKER = "worker"
