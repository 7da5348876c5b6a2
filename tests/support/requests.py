"""Every request of the core, with the least that it takes."""

from typing import Any

from holdfast_core.schemas import (
    CancelAckRequest,
    CancelRequest,
    ClaimRequest,
    CompleteRequest,
    EnqueueRequest,
    FailRequest,
    HeartbeatRequest,
    PresenceRequest,
    ReleaseRequest,
    Request,
    RequeueRequest,
    RetryRequest,
    WorkerPauseRequest,
)

__all__ = ["LEAST"]

LEAST: dict[type[Request], dict[str, Any]] = {
    CancelAckRequest: {"workerId": "w"},
    CancelRequest: {},
    ClaimRequest: {"workerId": "w", "leaseSeconds": 1},
    CompleteRequest: {"workerId": "w"},
    EnqueueRequest: {"type": "t"},
    FailRequest: {"workerId": "w", "errorMessage": "e"},
    HeartbeatRequest: {"workerId": "w", "leaseSeconds": 1},
    PresenceRequest: {"workerId": "w", "autoEnabled": True},
    ReleaseRequest: {"workerId": "w", "leaseToken": "x"},
    RequeueRequest: {"reason": "r"},
    RetryRequest: {},
    WorkerPauseRequest: {"action": "resume", "reason": "r"},
}
