"""Who holds a job: whether a call comes from the claim that it speaks for, and why not."""

from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import Row

from holdfast_core.errors import HoldfastError, JobNotFound, JobNotOwned, JobStateConflict, LeaseLost
from holdfast_core.states import JobStatus
from holdfast_core.store.jobs import VOID

__all__ = ["Verb", "may_add", "repeated", "why_not"]

Verb = Literal["complete", "fail", "release", "cancel_ack"]

#: The ways in which a holder ends its own claim.
_BY_HOLDER: Final = frozenset({"complete", "fail", "release", "cancel_ack"})


def _same_claim(row: Row[Any], worker_id: str, token_hash: str | None) -> bool:
    return row.claim_worker == worker_id and token_hash in (None, row.claim_token_hash)


def repeated(row: Row[Any] | None, verb: Verb, worker_id: str, token_hash: str | None) -> bool:
    """Whether this very claim has made this very outcome before."""
    return row is not None and _same_claim(row, worker_id, token_hash) and row.claim_outcome == verb


def why_not(
    row: Row[Any] | None, job_id: UUID, worker_id: str, token_hash: str | None, verb: Verb | None
) -> HoldfastError:
    """Why the holder's call found nothing to change."""
    if row is None:
        return JobNotFound(f"No job has the id {job_id}.")
    if row.status == JobStatus.RUNNING:
        if row.claimed_by != worker_id:
            return JobNotOwned(f"Worker {row.claimed_by} holds the job, not {worker_id}. Stop working on it.")
        if verb == "cancel_ack" and _same_claim(row, worker_id, token_hash):
            return JobStateConflict(
                "Nobody asked to cancel this job. Complete it, fail it, or release it instead."
            )
        return LeaseLost(
            "The job was claimed again since, so this leaseToken is void. Stop working on the job."
        )
    if row.claim_worker is None:
        return JobStateConflict(f"The job is {row.status} and was never claimed. Claim it first.")
    if row.claim_worker != worker_id:
        return JobNotOwned(
            f"The job is {row.status}; worker {row.claim_worker} held it last, not {worker_id}."
        )
    if _same_claim(row, worker_id, token_hash) and row.claim_outcome in _BY_HOLDER and verb is not None:
        return JobStateConflict(
            f"This claim has already ended with {row.claim_outcome}; the job is {row.status}."
        )
    if row.claim_outcome == VOID:
        return LeaseLost(f"The claim was ended from outside; the job is {row.status}. Stop working on it.")
    return LeaseLost(f"The claim is over; the job is {row.status}. Stop working on it.")


def may_add(row: Row[Any] | None, job_id: UUID, worker_id: str, token_hash: str | None) -> None:
    """Whether a worker may add to the log or the artifacts of a job: while it holds it, and still after it has
    ended its claim itself, since output trails behind. Raises JobNotFound, JobNotOwned, LeaseLost or
    JobStateConflict (never claimed)."""
    if row is not None and _same_claim(row, worker_id, token_hash):
        if row.status == JobStatus.RUNNING and row.claimed_by == worker_id:
            return
        if row.claim_outcome in _BY_HOLDER:
            return
    raise why_not(row, job_id, worker_id, token_hash, None)
