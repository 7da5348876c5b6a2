"""What only the control port refuses; everything else is in holdfast_core.errors."""

from holdfast_core.errors import HoldfastError

__all__ = ["MalformedRequest", "RequestTooSlow"]


class MalformedRequest(HoldfastError):
    """What was sent is no HTTP/1.1 that is understood here."""

    code = "malformed_request"
    status = 400
    title = "Malformed request"


class RequestTooSlow(HoldfastError):
    """The request did not come to its end in time."""

    code = "request_too_slow"
    status = 408
    title = "Request too slow"
