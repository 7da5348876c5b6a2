"""What a handler may raise."""

__all__ = ["JobFailed"]


class JobFailed(Exception):
    """Raised by a handler: the job has failed for good and is not tried again. Any other exception of a handler brings
    the job back after a back-off, while attempts are left."""
