"""The shapes that clients see: names, times, and the one shape of errors (CONTRACT sections 2 and 4)."""

import json
import re
from typing import Any

import pytest

from holdfast_core import errors
from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.errors import FieldError, HoldfastError, InvalidRequest, NotPaused, StoreUnavailable
from holdfast_core.schemas import Problem, System
from support.core import claim, claimed, complete, enqueue, heartbeat, pause, resume
from support.stores import core

JOB = {
    "id", "type", "status", "priority", "payload", "requiredCapabilities", "affinityKey", "claimedBy", "leaseExpiresAt",
    "leaseToken", "nextAttemptAt", "attempt", "maxAttempts", "phase", "checkpoint", "progress", "resultSummary",
    "errorMessage", "cancelRequestedAt", "cancelReason", "createdByUserId", "startedAt", "finishedAt", "createdAt",
    "updatedAt",
}  # fmt: skip
SYSTEM = {
    "workersPaused", "mode", "reason", "version", "requestedByUserId", "requestedBy", "requestedAt", "updatedAt",
    "resumeAt",
}  # fmt: skip
SNAPSHOT = {
    "metrics": {
        "queued", "scheduled", "running", "parked", "staleRunning", "isDrained", "isParked", "safeToUpgrade",
        "oldestQueuedSeconds", "measuredAt",
    },
    "workers": {"connected", "acknowledged", "unacknowledged"},
    "audit": {"latest"},
}  # fmt: skip
EVENT = {
    "id", "control", "action", "outcome", "code", "mode", "reason", "actorUserId", "actor", "version", "forceResume",
    "resumeAt", "running", "staleRunning", "createdAt",
}  # fmt: skip


def wire(answer: Any) -> Any:
    return json.loads(answer.model_dump_json())


def all_names(value: Any) -> set[str]:
    match value:
        case dict():
            return set(value) | {name for inner in value.values() for name in all_names(inner)}
        case list():
            return {name for inner in value for name in all_names(inner)}
        case _:
            return set()


def times(value: Any, name: str = "") -> list[str]:
    match value:
        case dict():
            return [found for key, inner in value.items() for found in times(inner, key)]
        case list():
            return [found for inner in value for found in times(inner)]
        case str() if name.endswith("At"):
            return [value]
        case _:
            return []


@pytest.mark.anyio
@pytest.mark.requirement("RS-02")
async def test_the_answers_have_the_names_of_the_contract_and_times_in_utc(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await enqueue(services, runAt="2026-02-20T02:00:00+05:30")
        first = await claim(services)
        assert first.job is not None
        beat = wire(await heartbeat(services, first.job))
        paused = wire(await pause(services))
        refused = wire(await claim(services))
        done = wire(await complete(services, first.job))
        resumed = wire(await resume(services))
        answer = wire(first)
        assert set(answer) == {"job", "system"}
        assert set(answer["job"]) == set(done) == JOB
        assert set(beat) == JOB | {"system"}
        assert refused["job"] is None
        assert set(answer["system"]) == set(beat["system"]) == set(refused["system"]) == SYSTEM
        for snapshot in (paused, resumed):
            assert set(snapshot) >= {"system", "warning", *SNAPSHOT}
            assert set(snapshot["system"]) == SYSTEM
            for part, names in SNAPSHOT.items():
                assert set(snapshot[part]) == names
            assert all(set(event) == EVENT for event in snapshot["audit"]["latest"])
        assert refused["system"] == paused["system"]
        everything = [answer, beat, paused, refused, done, resumed]
        assert not [name for name in all_names(everything) if "_" in name]
        found = times(everything)
        assert len(found) > 20
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", text) for text in found), (
            found
        )


def test_a_client_of_the_models_ignores_fields_that_it_does_not_know() -> None:
    system = System.model_validate(
        {"workersPaused": False, "version": 1, "updatedAt": "2026-02-20T00:00:00Z", "fromTheFuture": {"a": 1}}
    )
    assert (system.workers_paused, system.version) == (False, 1)


def every_error(base: type[HoldfastError] = HoldfastError) -> list[type[HoldfastError]]:
    ours = [sub for sub in base.__subclasses__() if sub.__module__ == errors.__name__]  # not the client's own
    return [base, *(one for sub in ours for one in every_error(sub))]


def test_every_error_becomes_a_problem_with_its_own_code() -> None:
    found = every_error()[1:]  # the base itself is InternalError's shape
    assert {one.__name__ for one in found} <= set(errors.__all__)
    assert len({one.code for one in found}) == len({one.title for one in found}) == len(found)
    for one in found:
        problem = wire(Problem.of(one("What to do next.")))
        assert problem["type"].endswith(f"/problems/{one.code}")
        assert (problem["status"], problem["code"], problem["title"]) == (one.status, one.code, one.title)
        assert problem["detail"] == "What to do next."
        assert (problem["system"], problem["errors"]) == (None, None)
        assert 400 <= one.status <= 599
        assert re.fullmatch(r"[a-z_]+", one.code)


def test_a_problem_shows_the_system_and_each_refused_field() -> None:
    system = System(workers_paused=False, version=3, updated_at="2026-02-20T00:00:00Z")
    problem = wire(Problem.of(NotPaused("Nothing to resume.", system=system)))
    assert problem["system"]["version"] == 3
    assert set(problem["system"]) == SYSTEM
    refused = wire(
        Problem.of(InvalidRequest.of(FieldError("jobs[3].type", "is required"), FieldError("b", "no")))
    )
    assert refused["errors"] == [
        {"field": "jobs[3].type", "message": "is required"},
        {"field": "b", "message": "no"},
    ]
    assert refused["detail"] == "jobs[3].type: is required; b: no"


def test_what_passes_says_after_how_many_seconds_to_come_again() -> None:
    found = [one for one in every_error() if one.status == 503]
    assert len(found) >= 3
    for one in found:
        assert one("x").retry_after is not None
    assert StoreUnavailable("x", retry_after=7).retry_after == 7


@pytest.mark.anyio
async def test_the_ids_of_jobs_sort_as_the_jobs_were_made(database_url: str) -> None:
    async with core(database_url) as (services, _):
        made = [await enqueue(services) for _ in range(50)]
        assert made == sorted(made, key=lambda job: job.id)
        assert [job.created_at for job in made] == sorted(job.created_at for job in made)
        assert {job.created_by_user_id for job in made} == {LOCAL_OPERATOR.user_id}
        assert (await claimed(services)).id == made[0].id
