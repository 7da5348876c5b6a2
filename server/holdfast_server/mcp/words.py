"""Words that a model reads: what several tools share, and the instructions."""

from typing import Final

__all__ = [
    "CAPABILITIES",
    "EXPECTED_VERSION",
    "IDEMPOTENCY_KEY",
    "JOB_ID",
    "LEASE_SECONDS",
    "LEASE_TOKEN",
    "MAX_INSTRUCTIONS",
    "OBSERVED_VERSION",
    "WORKER_ID",
    "instructions",
]

#: One client cuts what is longer.
MAX_INSTRUCTIONS: Final = 2_000

JOB_ID: Final = "The job's id, as queue.enqueue, queue.claim or queue.list answered it."
WORKER_ID: Final = "Your worker's name, the same in every call."
LEASE_SECONDS: Final = "How long the lease is to hold, counted from now."
LEASE_TOKEN: Final = "job.leaseToken as queue.claim answered it: it proves that the claim is still yours."
CAPABILITIES: Final = "What your worker can do; a job may require some of it."
OBSERVED_VERSION: Final = "The newest system.version that you have seen."
IDEMPOTENCY_KEY: Final = (
    "A repeat with the same key and arguments changes nothing more: use it when an answer was lost."
)
EXPECTED_VERSION: Final = "Refused with version_conflict unless this is the current system.version."


def instructions(pause_poll_seconds: float) -> str:
    """How to behave, for the model; with dotted names."""
    return f"""\
Holdfast is a job queue for AI-agent workers whose pause can be trusted: once workers are paused, no job \
is handed out anywhere until the resume. Pausing deletes and cancels nothing.

Working
1. queue.claim with your workerId and leaseSeconds. Keep job.leaseToken; pass it in every later call \
about the job.
2. While you work, queue.heartbeat at a third of leaseSeconds. It tells of a pause and of a cancellation.
3. End with queue.complete, queue.fail or queue.release.
job null with system.workersPaused true is NOT an error: wait {pause_poll_seconds:g} s and claim again, \
or call system.wait for running. Do not work around the pause. Otherwise job null means: nothing to do.
While you hold a job: mode drain: finish it. Mode quiesce: stop at the next safe point, heartbeat with \
phase parked, go on once workersPaused is false. cancelRequestedAt set: stop and call queue.cancel_ack. \
lease_lost or job_not_owned: stop at once, the job is not yours any more.

Operating
system.pause (drain: running jobs finish; quiesce: they park), then system.wait for drained again and \
again until reached is true, upgrade, system.resume. metrics.safeToUpgrade is the only go-ahead. When \
staleRunning stays above 0 a worker was lost: find its job with queue.list (status running, \
leaseExpiresAt in the past), then queue.requeue. Pause and resume only when a person asks.

Errors begin with a stable code in brackets, such as [lease_lost], and say what to do next. Unknown \
arguments are refused by name. Tool names may be called with a dot or an underscore alike."""
