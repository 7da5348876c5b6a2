"""What the demo claims at its end, each claim checked against the server's own data and the files."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from holdfast_core.schemas import ControlEvent, Job, Snapshot
from holdfast_worker.demo.files import Selection
from holdfast_worker.demo.ledger import Ledger

__all__ = ["Check", "Run", "all_checks"]


@dataclass(frozen=True)
class Check:
    """One claim, whether it holds, and the figures behind it."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Run:
    """All that was observed."""

    selection: Selection
    jobs: Sequence[Job]
    events: Sequence[ControlEvent]
    ledger: Ledger
    workers: Sequence[str]
    died: Sequence[str]
    requeued: int
    paused: Snapshot
    resumed: Snapshot
    #: The ids of the queued jobs, in the order of the listing: after the pause, at its end, before the resume.
    queued: Sequence[tuple[str, ...]]
    drained: Snapshot

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """What the workers handed in, by job id; nothing for jobs without a readable result."""
        found: dict[str, dict[str, Any]] = {}
        for job in self.jobs:
            try:
                result: Any = json.loads(job.result_summary or "")
            except ValueError:
                continue
            if isinstance(result, dict):
                found[str(job.id)] = result
        return found


def all_checks(run: Run) -> Iterator[Check]:
    """Every check, whether it holds or not."""
    total = len(run.selection.files)
    done = [job for job in run.jobs if job.status == "succeeded"]
    others = sorted({str(job.status) for job in run.jobs} - {"succeeded"})
    yield Check(
        "Every job succeeded",
        len(done) == total == len(run.jobs),
        f"{len(done)} of {total}" + (f"; others are {', '.join(others)}" if others else ""),
    )

    completed = run.ledger.completed
    once = sum(completed[str(job.id)] == 1 for job in run.jobs)
    again = [job for job in run.jobs if job.attempt != 1]
    yield Check(
        "Each of them exactly once",
        once == total == completed.total() and not again,
        f"{completed.total()} completions for {total} jobs, {len(again)} needed a second attempt",
    )

    results = run.results
    right = sum(_hash_is_right(run, job, results.get(str(job.id))) for job in run.jobs)
    yield Check("Every hash is right", right == total, f"{right} of {total} computed again and compared")

    yield Check(
        "The drain ended in order",
        run.drained.metrics.safe_to_upgrade and run.requeued == 0,
        "running and stale fell to 0"
        + (f", {run.requeued} stale jobs put back by hand" if run.requeued else ""),
    )

    flat = len(set(run.queued)) == 1
    counts = " → ".join(str(len(ids)) for ids in run.queued)
    yield Check(
        "The queue stood still while paused", flat, f"queued {counts}, the same jobs in the same order"
    )

    early = [job for job in run.jobs if job.started_at and _while_paused(run, job.started_at)]
    refused = run.ledger.refused(run.paused.system.version)
    yield Check(
        "No job started while paused",
        not early and refused > 0,
        f"{len(early)} started, {refused} claims came back empty",
    )

    once_told = sum(run.ledger.told_once(worker, run.paused.system.version) for worker in run.workers)
    yield Check(
        "Every worker logged the pause once",
        once_told == len(run.workers),
        f"{once_told} of {len(run.workers)}",
    )

    toggles = [
        (str(event.action), event.version) for event in reversed(run.events) if event.outcome == "changed"
    ]
    expected = [("pause", run.paused.system.version), ("resume", run.paused.system.version + 1)]
    yield Check(
        "The audit log holds both toggles",
        toggles == expected,
        ", ".join(f"{action} (version {version})" for action, version in toggles) or "nothing",
    )

    yield Check(
        "Every worker lived to the end", not run.died, "; ".join(run.died) or f"{len(run.workers)} workers"
    )


def _hash_is_right(run: Run, job: Job, result: dict[str, Any] | None) -> bool:
    name = str((job.payload or {}).get("path"))
    if result is None or result.get("path") != name:
        return False
    try:
        content = (run.selection.root / name).read_bytes()
    except OSError:
        return False
    return bool(result.get("sha256") == hashlib.sha256(content).hexdigest())


def _while_paused(run: Run, moment: datetime) -> bool:
    return run.paused.system.updated_at < moment < run.resumed.system.updated_at
