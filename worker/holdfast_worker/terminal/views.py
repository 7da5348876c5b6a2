"""Holdfast's answers as facts and rows. Times are the server's; this host's clock is not asked."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast_worker.terminal.output import COLOURS, Cell
from holdfast_worker.terminal.text import ago, moment

if TYPE_CHECKING:
    from holdfast_core.schemas import Blocker, ControlEvent, Job, JobEvent, Snapshot, Token, WorkerView

__all__ = [
    "ARTIFACT_COLUMNS",
    "BLOCKER_COLUMNS",
    "EVENT_COLUMNS",
    "JOB_COLUMNS",
    "TOKEN_COLUMNS",
    "WORKER_COLUMNS",
    "blocker_row",
    "event_row",
    "headline",
    "job_facts",
    "job_row",
    "log_line",
    "snapshot_facts",
    "token_row",
    "worker_row",
]

ARTIFACT_COLUMNS = ("ID", "NAME", "SIZE", "CONTENT_TYPE", "BY", "CREATED")
TOKEN_COLUMNS = ("ID", "KIND", "NAME", "ROLE", "USER", "WORKER", "EXPIRES", "LAST_USED", "REVOKED")
BLOCKER_COLUMNS = ("JOB", "TYPE", "WORKER", "VERDICT", "AGE", "HEARTBEAT", "CHECKPOINT", "ADVICE")
WORKER_COLUMNS = ("ID", "STATE", "VIA", "JOBS", "LAST_SEEN", "VERSION", "ENABLED", "CAPABILITIES")

JOB_COLUMNS = ("ID", "TYPE", "STATUS", "ATTEMPT", "CLAIMED_BY", "PRIO", "CREATED")
EVENT_COLUMNS = ("TIME", "ACTION", "MODE", "OUTCOME", "VERSION", "UNTIL", "BY", "REASON")


def headline(snapshot: "Snapshot") -> str:
    """The banner's words: `Running`, `Paused (Drain)`, `Paused (Quiesce)`."""
    system = snapshot.system
    if not system.workers_paused:
        return "Running"
    return f"Paused ({system.mode.capitalize()})" if system.mode else "Paused"


def snapshot_facts(snapshot: "Snapshot") -> Sequence[tuple[str, Cell]]:
    """The whole snapshot but the audit log."""
    system, metrics, workers = snapshot.system, snapshot.metrics, snapshot.workers
    facts: list[tuple[str, Cell]] = [
        ("Workers", (headline(snapshot), "bold yellow" if system.workers_paused else "bold green"))
    ]
    if system.workers_paused:
        facts.append(("Reason", system.reason or ""))
        since = moment(system.requested_at)
        if system.requested_at:
            since += f" ({ago((metrics.measured_at - system.requested_at).total_seconds())} ago)"
        facts.append(("Paused since", since))
    if system.resume_at:
        left = (system.resume_at - metrics.measured_at).total_seconds()
        facts.append(("Ends by itself", f"{moment(system.resume_at)} (in {ago(left)})"))
    change = f"{system.version}, of {moment(system.updated_at)}"
    facts.append(("Version", change + (f" by {system.requested_by}" if system.requested_by else "")))
    facts.append(
        ("Running", f"{metrics.running}" + (f" ({metrics.parked} parked)" if metrics.parked else ""))
    )
    stale = f"{metrics.stale_running}"
    facts.append(("Stale", (f"{stale} (nobody heartbeats)", "bold red") if metrics.stale_running else stale))
    queued = f"{metrics.queued}"
    if metrics.oldest_queued_seconds is not None:
        queued += f" (the oldest for {ago(metrics.oldest_queued_seconds)})"
    facts.append(("Queued", queued))
    if metrics.scheduled:
        facts.append(("Scheduled", f"{metrics.scheduled} for later"))
    facts.append(("Drained", "yes" if metrics.is_drained else "no"))
    if system.workers_paused:
        facts.append(
            ("Safe to upgrade", ("yes", "bold green") if metrics.safe_to_upgrade else ("not yet", "yellow"))
        )
    seen = f"{workers.connected} connected, {workers.acknowledged} of them have seen version {system.version}"
    facts.append(("Fleet", seen))
    if workers.unacknowledged:
        facts.append(("Not seen by", (", ".join(workers.unacknowledged), "yellow")))
    return facts


def event_row(event: "ControlEvent") -> Sequence[Cell]:
    """One line of the audit log."""
    outcome = event.outcome + (f":{event.code}" if event.code else "")
    return (
        moment(event.created_at),
        (str(event.action), COLOURS.get(event.action, "")),
        event.mode or "",
        (outcome, COLOURS.get(event.outcome, "")),
        str(event.version),
        moment(event.resume_at),
        event.actor or "",
        event.reason or "",
    )


def blocker_row(blocker: "Blocker") -> Sequence[Cell]:
    """One job that keeps the system from drained."""
    heard = (blocker.started_at - blocker.last_heartbeat_at).total_seconds() + blocker.age_seconds
    return (
        str(blocker.job_id),
        blocker.type,
        blocker.worker_id,
        (blocker.verdict, COLOURS.get(blocker.verdict, "")),
        ago(blocker.age_seconds),
        f"{ago(heard)} ago",
        blocker.checkpoint or "",
        blocker.advice,
    )


def worker_row(worker: "WorkerView", version: int) -> Sequence[Cell]:
    """One worker of the fleet; `version` is the pause's."""
    seen = "" if worker.observed_version is None else str(worker.observed_version)
    behind = worker.observed_version is None or worker.observed_version < version
    if seen and behind:
        seen += f"<{version}"
    return (
        worker.id,
        (str(worker.state), COLOURS.get(worker.state, "")),
        worker.transport,
        str(len(worker.jobs)),
        moment(worker.last_seen_at),
        (seen, "yellow" if behind else ""),
        "yes" if worker.auto_enabled else "no",
        ", ".join(worker.capabilities),
    )


def token_row(token: "Token") -> Sequence[Cell]:
    """One token, without its value."""
    bounds = [", ".join(names) for names in (token.types, token.capabilities) if names]
    worker = f"{token.worker_id or ''}" + (f" ({'; '.join(bounds)})" if bounds else "")
    return (
        str(token.id),
        token.kind,
        token.name,
        str(token.role),
        token.user or "",
        worker,
        moment(token.expires_at),
        moment(token.last_used_at),
        (moment(token.revoked_at), "red"),
    )


def log_line(event: "JobEvent") -> str:
    """One event of a job's log: time, level, who, what."""
    payload = f" {_compact(event.payload)}" if event.payload else ""
    who = event.worker_id or "server"
    return f"{moment(event.created_at)} {event.level.upper():<5} {who}: {event.message}{payload}"


def job_row(job: "Job") -> Sequence[Cell]:
    """One line of a list of jobs."""
    return (
        str(job.id),
        job.type,
        (str(job.status), COLOURS.get(job.status, "")),
        f"{job.attempt}/{job.max_attempts}",
        job.claimed_by or "",
        str(job.priority),
        moment(job.created_at),
    )


def job_facts(job: "Job") -> Sequence[tuple[str, Cell]]:
    """Everything that is known of one job; what is not set is left out."""
    facts: list[tuple[str, Cell | None]] = [
        ("Job", str(job.id)),
        ("Type", job.type),
        ("Status", (str(job.status), COLOURS.get(job.status, ""))),
        ("Attempt", f"{job.attempt} of {job.max_attempts}"),
        ("Priority", str(job.priority)),
        ("Requires", ", ".join(job.required_capabilities)),
        ("Affinity", job.affinity_key),
        ("Claimed by", job.claimed_by),
        ("Lease until", moment(job.lease_expires_at)),
        ("Phase", job.phase),
        ("Checkpoint", job.checkpoint),
        ("Progress", _compact(job.progress)),
        ("Not before", moment(job.next_attempt_at)),
        ("Result", job.result_summary),
        ("Error", (job.error_message, "red") if job.error_message else None),
        ("Cancel asked", moment(job.cancel_requested_at)),
        ("Cancel reason", job.cancel_reason),
        ("Created", moment(job.created_at)),
        ("Started", moment(job.started_at)),
        ("Finished", moment(job.finished_at)),
        ("Payload", _compact(job.payload)),
    ]
    return [(name, value) for name, value in facts if value]


def _compact(value: dict[str, object] | None) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)
