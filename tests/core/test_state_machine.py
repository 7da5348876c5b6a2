"""The services against a model of them: random stories of jobs and pauses, each step compared.

Hypothesis writes the stories and shrinks the one that fails. All stories of a test share a database and its services;
each has a kind of jobs of its own, so that claims see no others.
"""

import os
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from holdfast_core.db import Database
from holdfast_core.errors import HoldfastError, JobNotOwned, JobStateConflict, KeyReused, LeaseLost, NotPaused
from holdfast_core.schemas import Job
from holdfast_core.services import Services
from holdfast_core.store import upkeep
from holdfast_core.store.metrics import violations
from support import core as verbs
from support.stores import core

#: Stories, and steps of each.
STORIES = int(os.environ.get("HOLDFAST_TEST_STORIES", "15"))
STEPS = 40
WORKERS = ("v", "w")
TERMINAL = {"succeeded", "failed", "cancelled", "dead_letter"}


@dataclass
class Modelled:
    """A job as it has to be."""

    job: Job
    place: tuple[int, int]
    max_attempts: int
    status: str = "queued"
    attempt: int = 1
    stale: bool = False
    cancel_asked: bool = False
    #: Of the last claim: who made it, its token, under which requestId, and how it ended.
    worker: str | None = None
    token: str | None = None
    request: str | None = None
    outcome: str | None = None

    def put_back(self, outcome: str, *, uses_attempt: bool) -> None:
        self.outcome, self.stale = outcome, False
        if self.cancel_asked:
            self.status = "cancelled"
        elif uses_attempt and self.attempt >= self.max_attempts:
            self.status = "dead_letter"
        else:
            self.status = "queued"
            self.attempt += uses_attempt


@dataclass
class Held:
    """What a claim was told. It may be over."""

    of: Modelled
    job: Job


@dataclass
class Shared:
    """What all stories of a test work on."""

    portal: BlockingPortal
    services: Services
    database: Database
    stories: list[int] = field(default_factory=list)


def machine(shared: Shared) -> type[RuleBasedStateMachine]:
    """The stories over these services."""

    class Stories(RuleBasedStateMachine):
        jobs = Bundle[Modelled]("jobs")
        helds = Bundle[Held]("helds")

        def __init__(self) -> None:
            super().__init__()
            shared.stories.append(len(shared.stories))
            self.kind = f"story-{shared.stories[-1]}"
            self.all: list[Modelled] = []
            self.paused = False
            self.mode: str | None = None
            self.version = 0
            self.requests = 0
            self.toggles = 0

        def run(self, call: Callable[..., Awaitable[Any]], *args: Any, **body: Any) -> Any:
            async def calling() -> Any:
                return await call(*args, **body)

            return shared.portal.call(calling)

        def refused(
            self,
            errors: type[HoldfastError] | tuple[type[HoldfastError], ...],
            call: Any,
            *args: Any,
            **body: Any,
        ) -> None:
            with pytest.raises(errors):
                self.run(call, *args, **body)

        @initialize()
        def begin(self) -> None:
            system = self.run(shared.services.pause.status, verbs.LOCAL_OPERATOR).system
            if system.workers_paused:
                system = self.run(verbs.resume, shared.services).system
            self.version = system.version

        # --- jobs

        @rule(target=jobs, priority=st.sampled_from((0, 0, 7)), attempts=st.integers(1, 3))
        def enqueue(self, priority: int, attempts: int) -> Modelled:
            body = {"type": self.kind, "priority": priority, "maxAttempts": attempts}
            job = self.run(verbs.enqueue, shared.services, **body)
            made = Modelled(job, (-priority, len(self.all)), attempts)
            self.all.append(made)
            return made

        @rule(target=helds, worker=st.sampled_from(WORKERS), named=st.booleans())
        def claim(self, worker: str, named: bool) -> Any:
            self.requests += 1
            request = f"{self.kind}-{self.requests}" if named else None
            answer = self.run(verbs.claim, shared.services, worker, **self.asking(request))
            assert answer.system.workers_paused == self.paused
            assert answer.system.version == self.version
            waiting = sorted((job for job in self.all if job.status == "queued"), key=lambda job: job.place)
            if self.paused or not waiting:
                assert answer.job is None
                return multiple()
            first = waiting[0]
            assert answer.job is not None
            assert answer.job.id == first.job.id, "not the one that stands first"
            assert (answer.job.attempt, answer.job.created_at) == (first.attempt, first.job.created_at)
            first.status, first.stale = "running", False
            first.worker, first.token, first.request = worker, answer.job.lease_token, request
            first.outcome = None
            return Held(first, answer.job)

        def asking(self, request: str | None) -> dict[str, Any]:
            asked: dict[str, Any] = {"allowedTypes": [self.kind], "leaseSeconds": 3600}
            return asked if request is None else {**asked, "requestId": request}

        @rule(target=helds, job=jobs)
        def claim_again(self, job: Modelled) -> Any:
            """The same claim, since its answer may have been lost."""
            if job.request is None or job.worker is None:
                return multiple()
            asked = self.asking(job.request)
            if self.paused:
                assert self.run(verbs.claim, shared.services, job.worker, **asked).job is None
                return multiple()
            if job.status != "running":
                self.refused(KeyReused, verbs.claim, shared.services, job.worker, **asked)
                return multiple()
            again = self.run(verbs.claim, shared.services, job.worker, **asked).job
            assert again is not None
            assert again.id == job.job.id
            assert again.lease_token != job.token, "the earlier token is to be void"
            job.token, job.stale = again.lease_token, False
            return Held(job, again)

        @rule(job=jobs)
        def lease_runs_out(self, job: Modelled) -> None:
            if job.status == "running":
                self.run(verbs.expire, shared.database, job.job)
                job.stale = True

        @rule()
        def sweep(self) -> None:
            def sweeping(connection: Any) -> Any:
                return upkeep.sweep(connection, grace_seconds=0, delay_seconds=0)

            self.run(shared.database.write, sweeping)
            for job in self.all:
                if job.stale and not self.paused:
                    job.put_back("void", uses_attempt=True)

        # --- what holders say

        def holds(self, held: Held) -> bool:
            return held.of.status == "running" and held.of.token == held.job.lease_token

        def ends(
            self, held: Held, verb: str, call: Any, end: Callable[[Modelled], None], **body: Any
        ) -> None:
            job = held.of
            if self.holds(held):
                end(job)
            elif not (job.token == held.job.lease_token and job.outcome == verb):
                self.refused(
                    (LeaseLost, JobNotOwned, JobStateConflict), call, shared.services, held.job, **body
                )
                return
            answer = self.run(call, shared.services, held.job, **body)
            assert (str(answer.status), answer.attempt) == (job.status, job.attempt)

        @rule(held=helds)
        def heartbeat(self, held: Held) -> None:
            if not self.holds(held):
                self.refused(
                    (LeaseLost, JobNotOwned), verbs.heartbeat, shared.services, held.job, leaseSeconds=3600
                )
                return
            answer = self.run(verbs.heartbeat, shared.services, held.job, leaseSeconds=3600)
            assert (answer.system.version, answer.system.workers_paused) == (self.version, self.paused)
            assert (answer.cancel_requested_at is not None) == held.of.cancel_asked
            held.of.stale = False

        @rule(held=helds)
        def complete(self, held: Held) -> None:
            def end(job: Modelled) -> None:
                job.status, job.outcome, job.stale = "succeeded", "complete", False

            self.ends(held, "complete", verbs.complete, end)

        @rule(held=helds, retryable=st.booleans())
        def fail(self, held: Held, retryable: bool) -> None:
            def end(job: Modelled) -> None:
                if retryable:
                    job.put_back("fail", uses_attempt=True)
                else:
                    job.status, job.outcome, job.stale = (
                        "cancelled" if job.cancel_asked else "failed",
                        "fail",
                        False,
                    )

            self.ends(held, "fail", verbs.fail, end, retryable=retryable)

        @rule(held=helds)
        def release(self, held: Held) -> None:
            self.ends(held, "release", verbs.release, lambda job: job.put_back("release", uses_attempt=False))

        @rule(held=helds)
        def cancel_ack(self, held: Held) -> None:
            if self.holds(held) and not held.of.cancel_asked:
                self.refused(JobStateConflict, verbs.cancel_ack, shared.services, held.job)
                return

            def end(job: Modelled) -> None:
                job.status, job.outcome, job.stale = "cancelled", "cancel_ack", False

            self.ends(held, "cancel_ack", verbs.cancel_ack, end)

        @rule(held=consumes(helds))
        def forget(self, held: Held) -> None:
            """A worker that is never heard of again."""

        # --- what people ask for

        @rule(job=jobs)
        def cancel(self, job: Modelled) -> None:
            if job.status in TERMINAL - {"cancelled"}:
                self.refused(JobStateConflict, verbs.cancel, shared.services, job.job)
                return
            if job.status == "running" and not job.stale:
                job.cancel_asked = True
            elif job.status != "cancelled":
                job.outcome = "void" if job.status == "running" else job.outcome
                job.status, job.stale, job.cancel_asked = "cancelled", False, True
            answer = self.run(verbs.cancel, shared.services, job.job)
            assert str(answer.status) == job.status

        @rule(job=jobs)
        def requeue(self, job: Modelled) -> None:
            if not job.stale:
                self.refused(JobStateConflict, verbs.requeue, shared.services, job.job)
                return
            job.put_back("void", uses_attempt=True)
            assert str(self.run(verbs.requeue, shared.services, job.job).status) == job.status

        @rule(job=jobs)
        def retry(self, job: Modelled) -> None:
            if job.status not in {"failed", "dead_letter", "cancelled"}:
                self.refused(JobStateConflict, verbs.retry, shared.services, job.job)
                return
            job.status, job.attempt, job.cancel_asked = "queued", 1, False
            assert str(self.run(verbs.retry, shared.services, job.job).status) == "queued"

        # --- the pause

        @rule(mode=st.sampled_from(("drain", "quiesce")))
        def pause(self, mode: str) -> None:
            self.toggles += 1
            snapshot = self.run(verbs.pause, shared.services, mode, reason=f"{self.kind} {self.toggles}")
            self.version += 1
            self.paused, self.mode = True, mode
            self.agrees(snapshot.system)

        @precondition(lambda self: self.paused)
        @rule()
        def pause_as_it_is(self) -> None:
            told = f"{self.kind} {self.toggles}"
            self.agrees(self.run(verbs.pause, shared.services, self.mode, reason=told).system)

        @rule(expected=st.booleans())
        def resume(self, expected: bool) -> None:
            body = {"expectedVersion": self.version} if expected else {}
            if not self.paused:
                self.refused(NotPaused, verbs.resume, shared.services, **body)
                return
            snapshot = self.run(verbs.resume, shared.services, **body)
            self.version += 1
            self.paused, self.mode = False, None
            self.agrees(snapshot.system)

        def agrees(self, system: Any) -> None:
            told = (system.version, system.workers_paused, system.mode and str(system.mode))
            assert told == (self.version, self.paused, self.mode)

        # --- what always holds

        @invariant()
        def no_claim_broke_the_pause(self) -> None:
            assert self.run(shared.database.read, violations) == 0

        def teardown(self) -> None:
            for job in self.all:
                now = self.run(verbs.get, shared.services, job.job)
                assert (str(now.status), now.attempt) == (job.status, job.attempt)
                assert now.created_at == job.job.created_at
                assert (now.lease_expires_at is not None) == (job.status == "running")
            if self.version:
                self.agrees(self.run(shared.services.pause.status, verbs.LOCAL_OPERATOR).system)

    return Stories


@pytest.mark.requirement("US1-1")
def test_stories_of_jobs_and_pauses_go_as_the_model_says(database_url: str) -> None:
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())
        opened = core(database_url, lease_grace_seconds=3600, lease_retry_delay_seconds=0)
        services, database = stack.enter_context(portal.wrap_async_context_manager(opened))
        shared = Shared(portal, services, database)
        run_state_machine_as_test(
            machine(shared),
            settings=settings(
                max_examples=STORIES,
                stateful_step_count=STEPS,
                deadline=None,
                derandomize="HOLDFAST_TEST_STORIES" not in os.environ,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        assert len(shared.stories) >= STORIES
