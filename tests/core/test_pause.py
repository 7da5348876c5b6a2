"""Pausing and resuming: the state, the log, the refusals (CONTRACT section 3)."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from sqlalchemy import select

from holdfast_core.callers import LOCAL_OPERATOR, Caller
from holdfast_core.db.tables import control_events
from holdfast_core.errors import Conflict, NotAllowed, NotPaused, ResumeNotDrained, VersionConflict
from holdfast_core.schemas import (
    ClaimRequest,
    CompleteRequest,
    ControlEventPage,
    EnqueueRequest,
    HistoryQuery,
    Snapshot,
    WaitQuery,
    WorkerPauseRequest,
    parse_query,
    parse_request,
)
from holdfast_core.services import Services
from holdfast_core.settings import load_settings
from holdfast_core.states import PauseMode, Role
from holdfast_server.compose import open_services
from support.core import claim, pause
from support.stores import core

pytestmark = pytest.mark.anyio


async def ask(services: Services, action: str, caller: Caller = LOCAL_OPERATOR, **body: Any) -> Snapshot:
    request, _ = parse_request(WorkerPauseRequest, {"action": action, "reason": "a test", **body})
    return await services.pause.control(caller, request)


async def running_job(services: Services, worker: str = "w-1") -> Any:
    await services.jobs.enqueue(LOCAL_OPERATOR, parse_request(EnqueueRequest, {"type": "t"})[0])
    body = {"workerId": worker, "leaseSeconds": 60}
    answer = await services.claims.claim(LOCAL_OPERATOR, parse_request(ClaimRequest, body)[0])
    assert answer.job is not None
    return answer.job


async def complete(services: Services, job: Any) -> None:
    body = {"workerId": job.claimed_by, "leaseToken": job.lease_token}
    await services.outcomes.complete(LOCAL_OPERATOR, str(job.id), parse_request(CompleteRequest, body)[0])


@pytest.mark.requirement("FR-001")
@pytest.mark.requirement("FR-004")
async def test_a_pause_and_a_resume_move_the_version_by_one_and_say_who_and_why(database_url: str) -> None:
    async with core(database_url) as (services, _):
        first = (await services.pause.status(LOCAL_OPERATOR)).system
        assert (first.version, first.workers_paused, first.requested_by) == (1, False, None)
        paused = (await ask(services, "pause", mode="drain", reason="  Rolling API migration ")).system
        assert paused.version == 2
        assert paused.workers_paused
        assert paused.mode is PauseMode.DRAIN
        assert paused.reason == "Rolling API migration"
        assert paused.requested_by == "local operator"
        assert paused.requested_by_user_id == LOCAL_OPERATOR.user_id
        assert paused.requested_at == paused.updated_at
        resumed = (await ask(services, "resume", reason="done", mode="quiesce")).system
        assert resumed.version == 3
        assert (resumed.workers_paused, resumed.mode, resumed.reason, resumed.requested_at) == (
            False,
            None,
            None,
            None,
        )
        assert resumed.updated_at > paused.updated_at
        assert (await services.pause.status(LOCAL_OPERATOR)).system == resumed


@pytest.mark.requirement("EDGE-01")
async def test_a_pause_while_paused_changes_only_what_differs_and_is_logged_either_way(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _):
        first = (await ask(services, "pause", mode="drain", reason="a")).system
        again = (await ask(services, "pause", mode="drain", reason=" a ")).system
        assert again == first
        quiesce = (await ask(services, "pause", mode="quiesce", reason="a")).system
        assert (quiesce.version, quiesce.mode) == (3, PauseMode.QUIESCE)
        assert quiesce.requested_at == first.requested_at
        assert quiesce.updated_at > first.updated_at
        other = (await ask(services, "pause", mode="quiesce", reason="b")).system
        assert (other.version, other.reason) == (4, "b")
        page = await services.pause.history(LOCAL_OPERATOR, parse_query(HistoryQuery, []))
        assert [(e.outcome, e.version, e.mode) for e in page.items] == [
            ("changed", 4, PauseMode.QUIESCE),
            ("changed", 3, PauseMode.QUIESCE),
            ("unchanged", 2, PauseMode.DRAIN),
            ("changed", 2, PauseMode.DRAIN),
        ]


@pytest.mark.requirement("EDGE-02")
async def test_a_resume_while_running_is_refused_in_words_and_logged(database_url: str) -> None:
    async with core(database_url) as (services, _):
        with pytest.raises(NotPaused, match="nothing to resume"):
            await ask(services, "resume")
        (event,) = (await services.pause.history(LOCAL_OPERATOR, parse_query(HistoryQuery, []))).items
        assert (event.outcome, event.code, event.version) == ("refused", "not_paused", 1)
        snapshot = await services.pause.status(LOCAL_OPERATOR)
        assert snapshot.system.version == 1
        assert snapshot.audit.latest == []  # refused ones are left out


async def test_another_version_than_expected_is_refused_with_the_current_one(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await ask(services, "pause", mode="drain", expectedVersion=1)
        with pytest.raises(VersionConflict) as caught:
            await ask(services, "resume", expectedVersion=1)
        assert caught.value.system is not None
        assert caught.value.system.version == 2
        assert (await ask(services, "resume", expectedVersion=2)).system.version == 3


async def test_who_is_no_operator_is_refused_and_the_attempt_is_in_the_log(database_url: str) -> None:
    worker = Caller(None, "exec-7", frozenset({Role.WORKER}))
    async with core(database_url) as (services, _):
        for action, body in (("pause", {"mode": "drain"}), ("resume", {})):
            with pytest.raises(NotAllowed, match="operator"):
                await ask(services, action, caller=worker, **body)
        events = (await services.pause.history(LOCAL_OPERATOR, parse_query(HistoryQuery, []))).items
        assert [(e.outcome, e.code, e.actor) for e in events] == [("refused", "not_allowed", "exec-7")] * 2
        assert (await services.pause.status(LOCAL_OPERATOR)).system.version == 1


@pytest.mark.requirement("US2-2")
async def test_a_resume_before_drained_warns_and_the_log_has_counts_and_the_accepted_risk(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _):
        await running_job(services)
        assert (await ask(services, "pause", mode="drain", reason="upgrade")).warning is None
        snapshot = await ask(services, "resume", reason="enough", forceResume=True)
        assert snapshot.warning == "Resumed before the drain ended: 1 job still running."
        event = snapshot.audit.latest[0]
        assert (event.action, event.mode, event.reason) == ("resume", "drain", "enough")
        assert (event.force_resume, event.running, event.stale_running) == (True, 1, 0)
        assert event.actor == "local operator"
        assert event.created_at == snapshot.system.updated_at


async def test_a_system_that_asks_for_force_refuses_a_resume_before_drained(database_url: str) -> None:
    settings = load_settings(database_url=database_url, require_force_resume=True)
    async with open_services(settings) as services:
        job = await running_job(services)
        await ask(services, "pause", mode="drain")
        with pytest.raises(ResumeNotDrained, match="1 job still running"):
            await ask(services, "resume")
        await ask(services, "pause", mode="quiesce")
        await ask(services, "resume")  # a quiesce is resumed while its jobs wait: that is what it is for
        await ask(services, "pause", mode="drain")
        await complete(services, job)
        assert (await ask(services, "resume")).warning is None


@pytest.mark.requirement("NFR-002")
@pytest.mark.requirement("FR-002")
async def test_conflicting_toggles_move_the_version_one_by_one_and_leave_one_event_each(
    database_url: str,
) -> None:
    answered: list[tuple[str, int | None]] = []

    async def toggle(services: Services, number: int) -> None:
        body: dict[str, Any] = (
            {"mode": ("drain", "quiesce")[number % 4 // 2], "reason": f"toggle {number}"}
            if number % 2
            else {}
        )
        if number % 5 == 0:
            body["expectedVersion"] = 2
        try:
            snapshot = await ask(services, "pause" if number % 2 else "resume", **body)
            answered.append(("ok", snapshot.system.version))
        except Conflict as error:
            answered.append((error.code, None))

    settings = load_settings(database_url=database_url)
    async with core(database_url) as (services, database), open_services(settings) as others:
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(toggle, (services, others)[number % 2 == number % 3], number)
        rows = await database.read(
            lambda c: c.execute(select(control_events).order_by(control_events.c.created_at)).all()
        )
        final = (await services.pause.status(LOCAL_OPERATOR)).system.version
    assert len(answered) == len(rows) == 50
    changed = [row.version for row in rows if row.outcome == "changed"]
    assert changed == list(range(2, final + 1))  # no gap, none twice, in the order of their making
    assert sorted(version for code, version in answered if code == "ok") == sorted(
        row.version for row in rows if row.outcome != "refused"
    )
    assert sorted(code for code, _ in answered if code != "ok") == sorted(
        row.code for row in rows if row.outcome == "refused"
    )
    versions = [row.version for row in rows]
    assert versions == sorted(versions)  # refused and confirmed ones stand between their versions, too
    assert len({row.created_at for row in rows}) == 50


@pytest.mark.requirement("US1-2")
@pytest.mark.requirement("FR-010")
async def test_a_drain_ends_when_the_last_job_does_and_stays_ended(database_url: str) -> None:
    async with core(database_url) as (services, _):
        job = await running_job(services)
        paused = await ask(services, "pause", mode="drain")
        assert (paused.metrics.running, paused.metrics.is_drained, paused.metrics.safe_to_upgrade) == (
            1,
            False,
            False,
        )
        query = parse_query(WaitQuery, [("for", "drained"), ("timeoutSeconds", "20")])
        waits = []

        async def wait() -> None:
            waits.append(await services.pause.wait(LOCAL_OPERATOR, query))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await complete(services, job)
        assert waits[0].reached
        assert waits[0].metrics.safe_to_upgrade
        await services.jobs.enqueue(LOCAL_OPERATOR, parse_request(EnqueueRequest, {"type": "t"})[0])
        body = {"workerId": "w-2", "leaseSeconds": 60, "waitSeconds": 1}
        answer = await services.claims.claim(LOCAL_OPERATOR, parse_request(ClaimRequest, body)[0])
        assert answer.job is None
        later = await services.pause.status(LOCAL_OPERATOR)
        assert (later.metrics.is_drained, later.metrics.safe_to_upgrade) == (True, True)
        await ask(services, "resume")
        assert not (await services.pause.status(LOCAL_OPERATOR)).metrics.safe_to_upgrade


async def test_a_wait_answers_at_once_where_what_it_waits_for_cannot_come(database_url: str) -> None:
    async with core(database_url) as (services, _):
        with anyio.fail_after(5):
            for what in ("drained", "parked"):
                query = parse_query(WaitQuery, [("for", what), ("timeoutSeconds", "60")])
                assert not (await services.pause.wait(LOCAL_OPERATOR, query)).reached
            query = parse_query(WaitQuery, [("for", "running"), ("timeoutSeconds", "60")])
            assert (await services.pause.wait(LOCAL_OPERATOR, query)).reached
            await running_job(services)
            await ask(services, "pause", mode="drain")
            ended = []

            async def wait_for(what: str) -> None:
                pairs = [("for", what), ("timeoutSeconds", "60"), ("sinceVersion", "2")]
                ended.append(
                    (what, (await services.pause.wait(LOCAL_OPERATOR, parse_query(WaitQuery, pairs))).reached)
                )

            async with anyio.create_task_group() as tasks:
                for what in ("drained", "running", "version"):
                    tasks.start_soon(wait_for, what)
                await ask(services, "resume")  # a resume comes between
        assert sorted(ended) == [("drained", False), ("running", True), ("version", True)]


@pytest.mark.requirement("SC-002")
async def test_another_process_shows_a_toggle_as_soon_as_it_is_answered(database_url: str) -> None:
    settings = load_settings(database_url=database_url)
    async with open_services(settings) as services, open_services(settings) as others:
        await services.jobs.enqueue(LOCAL_OPERATOR, parse_request(EnqueueRequest, {"type": "t"})[0])
        claim = parse_request(ClaimRequest, {"workerId": "w", "leaseSeconds": 60})[0]
        for version in range(2, 8, 2):
            await ask(services, "pause", mode="drain")
            assert (await others.pause.status(LOCAL_OPERATOR)).system.version == version
            answer = await others.claims.claim(LOCAL_OPERATOR, claim)
            assert (answer.job, answer.system.version) == (None, version)
            await ask(services, "resume")
            assert (await others.pause.status(LOCAL_OPERATOR)).system.version == version + 1
        with anyio.fail_after(2):  # a stale "paused" ends with the next refresh
            while (await others.claims.claim(LOCAL_OPERATOR, claim)).job is None:
                await anyio.sleep(0.01)


async def test_the_log_is_paged_newest_first_without_gaps(database_url: str) -> None:
    async with core(database_url) as (services, _):
        for _number in range(4):
            await ask(services, "pause", mode="drain")
            await ask(services, "resume")
        found = []
        before: list[tuple[str, str]] = []
        while True:
            page = await services.pause.history(
                LOCAL_OPERATOR, parse_query(HistoryQuery, [("limit", "3"), *before])
            )
            found += page.items
            if page.next_before is None:
                break
            before = [("before", str(page.next_before))]
        assert [event.version for event in found] == list(range(9, 1, -1))
        refused = await services.pause.history(
            LOCAL_OPERATOR, parse_query(HistoryQuery, [("outcome", "refused")])
        )
        assert refused.items == []


async def test_the_log_is_filtered_by_action_and_a_page_of_that_leads_to_the_next(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await ask(services, "pause", mode="drain")
        await ask(services, "pause", mode="drain")  # unchanged
        await ask(services, "resume")
        await ask(services, "pause", mode="quiesce")

        async def page(**query: str) -> ControlEventPage:
            return await services.pause.history(LOCAL_OPERATOR, parse_query(HistoryQuery, [*query.items()]))

        assert [event.version for event in (await page(action="resume")).items] == [3]
        first = await page(action="pause", limit="2")
        assert [(event.version, event.action) for event in first.items] == [(4, "pause"), (2, "pause")]
        rest = await page(action="pause", before=str(first.next_before))
        assert [(event.version, event.outcome) for event in rest.items] == [(2, "changed")]
        assert rest.next_before is None
        both = await page(action="pause", outcome="unchanged")
        assert [event.outcome for event in both.items] == ["unchanged"]


async def test_a_pause_whose_caller_goes_away_while_it_is_written_is_made_and_told(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with core(database_url) as (services, database):
        write, scope, written = database.write, anyio.CancelScope(), anyio.Event()

        async def gone(*what: Any, **how: Any) -> Any:
            scope.cancel()
            made = await write(*what, **how)
            written.set()
            return made

        async def count() -> None:
            with anyio.CancelScope(shield=True):  # a thread counts: it cannot be cut
                await written.wait()
                await anyio.lowlevel.checkpoint()

        with scope:
            monkeypatch.setattr(database, "write", gone)
            monkeypatch.setattr(services.snapshots, "count_ahead", count)
            await pause(services)
        monkeypatch.undo()
        assert services.counters.own().count("pauses") == 1
        assert (await claim(services)).system.version == 2
