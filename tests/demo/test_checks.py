"""The demo's checks bite: each way in which a run can be wrong fails the check that is meant for it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from holdfast_core.schemas import Audit, ControlEvent, Job, Metrics, Snapshot, System, WorkerCounts
from holdfast_core.states import JobStatus, PauseAction, PauseMode
from holdfast_worker.demo.checks import Run, all_checks
from holdfast_worker.demo.files import Selection
from holdfast_worker.demo.ledger import Ledger

START = datetime(2026, 2, 20, 2, 0, tzinfo=UTC)
PAUSED_AT = START + timedelta(seconds=10)
RESUMED_AT = START + timedelta(seconds=20)


def snapshot(version: int, *, paused: bool, at: datetime) -> Snapshot:
    return Snapshot(
        system=System(
            workers_paused=paused,
            mode=PauseMode.DRAIN if paused else None,
            reason="test" if paused else None,
            version=version,
            updated_at=at,
        ),
        metrics=Metrics(
            queued=1,
            scheduled=0,
            running=0,
            parked=0,
            stale_running=0,
            is_drained=True,
            is_parked=False,
            safe_to_upgrade=paused,
            oldest_queued_seconds=None,
            measured_at=at,
        ),
        workers=WorkerCounts(connected=1, acknowledged=1, unacknowledged=[]),
        audit=Audit(latest=[]),
    )


def event(action: PauseAction, version: int) -> ControlEvent:
    return ControlEvent(
        id=UUID(int=version),
        control="worker_pause",
        action=action,
        outcome="changed",
        version=version,
        created_at=START,
    )


def job(number: int, name: str, content: bytes, *, started_at: datetime) -> Job:
    return Job(
        id=UUID(int=number),
        type="demo.compile",
        status=JobStatus.SUCCEEDED,
        priority=0,
        payload={"path": name},
        required_capabilities=[],
        attempt=1,
        max_attempts=3,
        result_summary=json.dumps({"path": name, "sha256": hashlib.sha256(content).hexdigest()}),
        started_at=started_at,
        created_at=START,
        updated_at=START,
    )


def say(ledger: Ledger, event_name: str, **fields: Any) -> None:
    ledger.take(json.dumps({"event": event_name, "worker": "demo-1", **fields}))


@pytest.fixture
def good(tmp_path: Path) -> Run:
    """A run in which everything is as it should be."""
    names = ["a.py", "b.py"]
    jobs: list[Job] = []
    ledger = Ledger()
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(name.encode())
        started_at = START if number == 0 else RESUMED_AT + timedelta(seconds=1)
        jobs.append(job(number, name, name.encode(), started_at=started_at))
        say(ledger, "completed", jobId=str(UUID(int=number)))
    say(ledger, "paused", version=2)
    say(ledger, "refused", version=2)
    paused = snapshot(2, paused=True, at=PAUSED_AT)
    return Run(
        selection=Selection(tmp_path, tuple(names), 2, 0),
        jobs=jobs,
        events=[event(PauseAction.RESUME, 3), event(PauseAction.PAUSE, 2)],
        ledger=ledger,
        workers=["demo-1"],
        died=[],
        requeued=0,
        paused=paused,
        resumed=snapshot(3, paused=False, at=RESUMED_AT),
        queued=[("1",), ("1",), ("1",)],
        drained=paused,
    )


def failed(run: Run) -> list[str]:
    return [check.name for check in all_checks(run) if not check.ok]


def with_job(run: Run, **changes: Any) -> Run:
    return replace(run, jobs=[run.jobs[0], run.jobs[1].model_copy(update=changes)])


def done_twice(run: Run) -> Run:
    say(run.ledger, "completed", jobId=str(UUID(int=1)))
    return run


def told_twice(run: Run) -> Run:
    say(run.ledger, "paused", version=2)
    return run


def file_changed(run: Run) -> Run:
    (run.selection.root / "b.py").write_bytes(b"another")
    return run


def nobody_asked(run: Run) -> Run:
    silent = Ledger()
    for number in range(2):
        say(silent, "completed", jobId=str(UUID(int=number)))
    say(silent, "paused", version=2)
    return replace(run, ledger=silent)


def test_a_good_run_passes_every_check(good: Run) -> None:
    assert failed(good) == []


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        pytest.param(lambda run: with_job(run, status=JobStatus.FAILED), "Every job succeeded", id="failed"),
        pytest.param(lambda run: replace(run, jobs=run.jobs[:1]), "Every job succeeded", id="lost"),
        pytest.param(lambda run: with_job(run, attempt=2), "Each of them exactly once", id="second-attempt"),
        pytest.param(done_twice, "Each of them exactly once", id="done-twice"),
        pytest.param(file_changed, "Every hash is right", id="another-file"),
        pytest.param(lambda run: with_job(run, result_summary="[]"), "Every hash is right", id="no-result"),
        pytest.param(
            lambda run: with_job(run, result_summary=run.jobs[0].result_summary),
            "Every hash is right",
            id="result-of-another-job",
        ),
        pytest.param(lambda run: replace(run, requeued=1), "The drain ended in order", id="put-back-by-hand"),
        pytest.param(
            lambda run: replace(run, drained=run.resumed), "The drain ended in order", id="not-safe"
        ),
        pytest.param(
            lambda run: replace(run, queued=[("1",), ("2",), ("1",)]),
            "The queue stood still while paused",
            id="queue-moved",
        ),
        pytest.param(
            lambda run: with_job(run, started_at=PAUSED_AT + timedelta(seconds=1)),
            "No job started while paused",
            id="started-while-paused",
        ),
        pytest.param(nobody_asked, "No job started while paused", id="nobody-asked"),
        pytest.param(told_twice, "Every worker logged the pause once", id="logged-twice"),
        pytest.param(
            lambda run: replace(run, events=run.events[1:]),
            "The audit log holds both toggles",
            id="no-resume",
        ),
        pytest.param(
            lambda run: replace(run, died=["demo-1"]), "Every worker lived to the end", id="worker-died"
        ),
    ],
)
def test_a_run_that_went_wrong_fails_the_check_that_is_meant_for_it(
    good: Run, spoil: Callable[[Run], Run], name: str
) -> None:
    assert name in failed(spoil(good))


def test_a_line_that_is_no_event_is_passed_over() -> None:
    ledger = Ledger()
    for line in ("", "nope", "[]", "{}", '{"event": "completed"}', "null"):
        ledger.take(line)
    assert ledger.completed.total() == 0
