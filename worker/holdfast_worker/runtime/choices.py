"""What a worker was told, checked before anything begins. All of it raises ConfigurationError."""

import os
from collections.abc import Iterable, Sequence

from holdfast_core.errors import ConfigurationError, InvalidRequest
from holdfast_core.schemas import ClaimRequest, parse_request
from holdfast_core.schemas.sessions import MAX_SLOTS
from holdfast_worker.runtime.hold import Hold
from holdfast_worker.runtime.options import (
    ALL_BOUNDARIES,
    Options,
    TransportChoice,
    checkpoint_timeout_seconds,
    default_worker_id,
    pause_poll_seconds,
)
from holdfast_worker.runtime.status import CheckpointKind
from holdfast_worker.runtime.transports.base import Identity, Transport
from holdfast_worker.wire import Address

__all__ = ["checked_identity", "checked_options", "chosen_transport"]


def checked_options(
    lease_seconds: int,
    grace_seconds: float,
    poll: float | None,
    timeout: float | None,
    checkpoints: Iterable[CheckpointKind],
) -> Options:
    chosen = frozenset(checkpoints)
    if unknown := chosen - ALL_BOUNDARIES:
        raise ConfigurationError(
            f"checkpoints: {', '.join(sorted(unknown))} is none of stage, step and tool."
        )
    if grace_seconds < 0:
        raise ConfigurationError("grace_seconds should not be below 0.")
    return Options(
        lease_seconds=lease_seconds,
        grace_seconds=grace_seconds,
        pause_poll_seconds=pause_poll_seconds() if poll is None else poll,
        checkpoint_timeout_seconds=checkpoint_timeout_seconds() if timeout is None else timeout,
        checkpoints=chosen,
    )


def checked_identity(
    worker_id: str | None,
    lease_seconds: int,
    types: Sequence[str] | None,
    capabilities: Sequence[str],
    slots: int,
) -> Identity:
    """Checked by the server's own rules, so that a typing error is told before anything is begun."""
    identity = Identity(
        worker_id or os.environ.get("HOLDFAST_WORKER_ID") or default_worker_id(),
        lease_seconds,
        None if not types else tuple(types),
        tuple(capabilities),
        slots,
    )
    if not 1 <= slots <= MAX_SLOTS:
        raise ConfigurationError(f"slots should be from 1 to {MAX_SLOTS:,}.")
    try:
        parse_request(
            ClaimRequest,
            {
                "workerId": identity.worker_id,
                "leaseSeconds": lease_seconds,
                "allowedTypes": None if identity.types is None else list(identity.types),
                "workerCapabilities": list(identity.capabilities),
            },
        )
    except InvalidRequest as error:
        raise ConfigurationError(error.detail) from None
    return identity


def chosen_transport(
    choice: TransportChoice,
    address: Address,
    identity: Identity,
    hold: Hold,
    mcp_command: Sequence[str] | None,
) -> Transport:
    if mcp_command is not None and choice != "mcp":
        raise ConfigurationError("A command for MCP goes with the transport mcp.")
    match choice:
        case "http":
            from holdfast_worker.runtime.transports.http import HttpTransport

            return HttpTransport(address, identity, hold)
        case "ws":
            from holdfast_worker.runtime.transports.ws import WsTransport

            return WsTransport(address, identity, hold)
        case "auto":
            from holdfast_worker.runtime.transports.auto import AutoTransport

            return AutoTransport(address, identity, hold)
        case "mcp":
            from holdfast_worker.runtime.transports.mcp import McpTransport

            return McpTransport(address, identity, hold, command=mcp_command)
