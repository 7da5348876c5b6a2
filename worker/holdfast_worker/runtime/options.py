"""How a worker is to run: what is given in code or on the command line, and else the environment."""

import os
import socket
from dataclasses import dataclass
from typing import Final, Literal, get_args

from holdfast_core.errors import ConfigurationError
from holdfast_worker.runtime.status import CheckpointKind

__all__ = ["ALL_BOUNDARIES", "TRANSPORTS", "Options", "TransportChoice", "default_worker_id"]

TransportChoice = Literal["auto", "ws", "http", "mcp"]
TRANSPORTS: Final[tuple[str, ...]] = get_args(TransportChoice)
ALL_BOUNDARIES: Final[frozenset[CheckpointKind]] = frozenset(get_args(CheckpointKind))

LEASE_SECONDS: Final = 60
GRACE_SECONDS: Final = 30.0
#: How long one claim waits for work at the server.
WAIT_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Options:
    """The times and rules of a worker."""

    lease_seconds: int = LEASE_SECONDS
    grace_seconds: float = GRACE_SECONDS
    pause_poll_seconds: float = 5.0
    checkpoint_timeout_seconds: float = 300.0
    checkpoints: frozenset[CheckpointKind] = ALL_BOUNDARIES

    @property
    def wait_seconds(self) -> float:
        """How long a claim waits for work: never for long against the lease, which may begin at its start."""
        return min(WAIT_SECONDS, self.lease_seconds / 3)


def from_environment(
    name: str, default: float, *, least: float, most: float, bare: str | None = None
) -> float:
    """A number from HOLDFAST_name, or from the variable `bare`. Raises ConfigurationError."""
    for variable in (f"HOLDFAST_{name}", bare):
        given = os.environ.get(variable, "").strip() if variable else ""
        if not given:
            continue
        try:
            value = float(given)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise ConfigurationError(f"{variable} should be a number from {least:g} to {most:g}.")
        return value
    return default


def pause_poll_seconds() -> float:
    """HOLDFAST_PAUSE_POLL_INTERVAL_MS, in seconds; the older name MOONMIND_… is understood, too."""
    milliseconds = from_environment(
        "PAUSE_POLL_INTERVAL_MS", 5_000, least=50, most=600_000, bare="MOONMIND_PAUSE_POLL_INTERVAL_MS"
    )
    return milliseconds / 1_000


def checkpoint_timeout_seconds() -> float:
    """HOLDFAST_CHECKPOINT_TIMEOUT_SECONDS."""
    return from_environment("CHECKPOINT_TIMEOUT_SECONDS", 300.0, least=1, most=86_400)


def default_worker_id() -> str:
    """This host's name, as far as an id may hold it."""
    kept = "".join(c for c in socket.gethostname() if c.isascii() and (c.isalnum() or c in "._-"))
    return kept[:128] or "worker"
