"""Every request of the core, with the least that it takes."""

from typing import Any

from holdfast_core.schemas import (
    BulkRetryRequest,
    CancelAckRequest,
    CancelRequest,
    ClaimRequest,
    CompleteRequest,
    EnqueueBatchRequest,
    EnqueueRequest,
    FailRequest,
    HeartbeatRequest,
    LoginRequest,
    LogRequest,
    PresenceRequest,
    ReleaseRequest,
    Request,
    RequeueRequest,
    RetryRequest,
    TokenRequest,
    UploadRequest,
    WorkerPauseRequest,
    WorkerTokenRequest,
)

__all__ = ["LEAST"]

LEAST: dict[type[Request], dict[str, Any]] = {
    BulkRetryRequest: {"status": "failed", "reason": "r"},
    CancelAckRequest: {"workerId": "w"},
    CancelRequest: {},
    ClaimRequest: {"workerId": "w", "leaseSeconds": 1},
    CompleteRequest: {"workerId": "w"},
    EnqueueBatchRequest: {"jobs": [{"type": "t"}]},
    EnqueueRequest: {"type": "t"},
    FailRequest: {"workerId": "w", "errorMessage": "e"},
    HeartbeatRequest: {"workerId": "w", "leaseSeconds": 1},
    LoginRequest: {"token": "t"},
    LogRequest: {"workerId": "w", "message": "m"},
    PresenceRequest: {"workerId": "w", "autoEnabled": True},
    ReleaseRequest: {"workerId": "w", "leaseToken": "x"},
    RequeueRequest: {"reason": "r"},
    RetryRequest: {},
    UploadRequest: {"workerId": "w", "name": "n"},
    TokenRequest: {"workerId": "w"},
    WorkerTokenRequest: {"workerId": "w"},
    WorkerPauseRequest: {"action": "resume", "reason": "r"},
}
