"""The checker bites: for each rule a history that breaks it, and the nearest ones that do not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from faults.checker import check, recoveries, shrink
from faults.history import Event, Fault, Final, History, JobRow, Op


class Told:
    """A history as it is told, call by call; each takes from `at` to `at + 0.5`, unless it is `lost`.

    The database's clock is the clients', plus a thousand seconds.
    """

    def __init__(self, database: Literal["postgresql", "sqlite"] = "postgresql") -> None:
        self.history = History(database)
        self.final = Final([], [], 1, False)
        self._tokens = 0

    def op(
        self,
        verb: str,
        at: float,
        args: dict[str, Any],
        answer: dict[str, Any] | None = None,
        *,
        took: float = 0.5,
        lost: bool = False,
        refused: str | None = None,
        status: int = 200,
    ) -> Op:
        op = Op(len(self.history.ops), "client", verb, "server", at, args)
        if not lost:
            op.end, op.outcome, op.status = at + took, "ok", status
            op.answer = answer or {}
            if refused is not None:
                op.outcome, op.status, op.answer = "refused", 409, {"code": refused}
        self.history.ops.append(op)
        return op

    def enqueue(self, at: float, job: str, *, priority: int = 0, stored: bool = True, **more: Any) -> Op:
        request = len(self.history.ops) + 100
        made = {"id": job, "type": "t", "priority": priority, "created": at + 1000.0, "plain": True}
        if stored:
            self.final.jobs.append(
                JobRow(job, "t", "queued", priority, at + 1000.0, 1, None, None, request, 0)
            )
        return self.op("enqueue", at, {"request": request, "count": 1}, {"jobs": [made]}, **more)

    def claim(
        self,
        at: float,
        job: str,
        *,
        version: int = 1,
        paused: bool = False,
        lease: float = 10,
        worker: str = "w",
        request: str | None = None,
        attempt: int = 1,
        started: float | None = None,
        **more: Any,
    ) -> Op:
        self._tokens += 1
        moment = at + 1000.0 if started is None else started
        got = {
            "id": job,
            "token": f"token-{self._tokens}",
            "attempt": attempt,
            "started": moment,
            "expires": at + 1000.0 + lease,
        }
        answer = {"job": got, "version": version, "paused": paused}
        return self.op("claim", at, {"worker": worker, "request": request}, answer, **more)

    def says(self, at: float, verb: str, claim: Op, status: str, *, stored: bool = True, **more: Any) -> Op:
        job = claim.answer["job"]
        answer: dict[str, Any] = {"status": status}
        if verb == "heartbeat":
            answer |= {"expires": at + 1010.0, "version": 1, "paused": False}
        args = {"job": job["id"], "worker": claim.args["worker"], "token": job["token"]}
        op = self.op(verb, at, args, answer, **more)
        if stored and op.ok:
            for row in self.final.jobs:
                if row.id == job["id"]:
                    row.status, row.token, row.outcome = status, job["token"], verb
        return op

    def toggle(
        self,
        at: float,
        action: str,
        version: int,
        *,
        reason: str | None = None,
        logged: int | None = None,
        **more: Any,
    ) -> Op:
        reason = reason or f"toggle {len(self.history.ops)}"
        refused = more.get("refused")
        times = (0 if more.get("lost") else 1) if logged is None else logged
        outcome = "changed" if refused is None else "refused"
        self.final.events += [Event(action, outcome, refused, reason, version)] * times
        if refused is None and times:
            self.final.version, self.final.paused = version, action == "pause"
        answer = {"version": version, "paused": action == "pause"}
        return self.op(action, at, {"reason": reason}, answer, **more)

    def rules(self, *, settled: bool = False) -> set[str]:
        self.final.settled = settled
        return {violation.rule for violation in check(self.history, self.final)}


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_plain_story_breaks_nothing(told: Told) -> None:
    told.enqueue(1, "a")
    told.enqueue(2, "b")
    first = told.claim(3, "a")
    told.says(4, "heartbeat", first, "running")
    told.says(5, "complete", first, "succeeded")
    told.toggle(6, "pause", 2)
    told.op("witness", 7, {}, {"version": 2, "leaks": 0})
    told.op("claim", 8, {"worker": "w", "request": None}, {"job": None, "version": 2, "paused": True})
    told.toggle(9, "resume", 3)
    told.says(11, "complete", told.claim(10, "b", version=3), "succeeded")
    assert told.rules(settled=True) == set()


# --- the gate


def test_a_claim_after_an_answered_pause_is_found(told: Told) -> None:
    told.enqueue(1, "a")
    told.toggle(2, "pause", 2)
    told.claim(3, "a", version=1)
    assert "gate" in told.rules()


def test_a_claim_beside_a_pause_may_be_the_earlier_one(told: Told) -> None:
    told.enqueue(1, "a")
    told.toggle(2, "pause", 2, took=2)
    told.claim(3, "a", version=1)
    assert told.rules() == set()


def test_a_claim_after_a_lost_resume_may_be_right(told: Told) -> None:
    told.enqueue(1, "a")
    told.toggle(2, "pause", 2)
    told.toggle(3, "resume", 3, lost=True, logged=1)
    told.claim(4, "a", version=3)
    assert told.rules() == set()


def test_a_claim_after_a_lost_pause_is_not_held_against_it(told: Told) -> None:
    told.enqueue(1, "a")
    told.toggle(2, "pause", 2, lost=True)
    told.claim(4, "a", version=1)
    assert told.rules() == set()


def test_a_claim_that_says_itself_that_it_met_a_pause_is_found(told: Told) -> None:
    told.enqueue(1, "a")
    told.toggle(2, "pause", 2, took=5)
    told.claim(3, "a", version=2, paused=True)
    assert "gate" in told.rules()


def test_a_claim_that_committed_behind_the_door_is_found(told: Told) -> None:
    told.toggle(2, "pause", 2)
    told.op("witness", 3, {}, {"version": 2, "leaks": 1})
    assert "gate" in told.rules()


# --- leases


def test_a_job_that_is_handed_out_twice_within_a_lease_is_found(told: Told) -> None:
    told.enqueue(1, "a")
    told.claim(2, "a", lease=10)
    told.claim(5, "a", worker="v")
    assert "lease" in told.rules()


def test_a_heartbeat_makes_a_lease_longer(told: Told) -> None:
    told.enqueue(1, "a")
    first = told.claim(2, "a", lease=2)
    told.says(3, "heartbeat", first, "running")
    told.claim(5, "a", worker="v", attempt=2)
    assert "lease" in told.rules()


def test_a_lease_that_ran_out_may_be_somebody_elses(told: Told) -> None:
    told.enqueue(1, "a")
    told.claim(2, "a", lease=2)
    told.claim(5, "a", worker="v", attempt=2)
    assert told.rules() == set()


@pytest.mark.parametrize("lost", [False, True])
def test_a_claim_that_its_holder_ended_is_over(told: Told, lost: bool) -> None:
    told.enqueue(1, "a")
    first = told.claim(2, "a")
    told.says(3, "release", first, "queued", lost=lost)
    told.claim(5, "a", worker="v")
    assert told.rules() == set()


def test_a_repeat_of_a_claim_is_the_same_lease(told: Told) -> None:
    told.enqueue(1, "a")
    told.claim(2, "a", request="r")
    told.claim(3, "a", request="r", started=1002.0)
    assert told.rules() == set()


@pytest.mark.parametrize(("request_id", "found"), [("r", set[str]()), ("other", {"lease"})])
def test_a_repeat_of_a_claim_whose_answer_was_lost_may_give_the_job_back(
    told: Told, request_id: str, found: set[str]
) -> None:
    told.enqueue(1, "a")
    told.op("claim", 1, {"worker": "w", "request": request_id}, lost=True)
    told.claim(2, "a", request="r")
    told.claim(5, "a", worker="v")
    assert told.rules() == found


def test_leases_are_not_judged_across_a_jump_of_the_hosts_clock() -> None:
    for database, found in (("postgresql", {"lease"}), ("sqlite", set[str]())):
        told = Told(database)  # type: ignore[arg-type]
        told.enqueue(1, "a")
        told.claim(2, "a", lease=10)
        told.history.faults.append(Fault("clock-jump", "host", 3, 4))
        told.claim(5, "a", worker="v", attempt=2)
        assert told.rules() == found


def test_a_clock_that_is_set_back_does_not_turn_two_leases_around() -> None:
    told = Told("sqlite")
    told.enqueue(1, "a")
    told.says(2.5, "release", told.claim(2, "a"), "queued")
    told.claim(2.6, "a", worker="v", started=1001.0, took=3)  # it waits, and is made behind the jump
    told.history.faults.append(Fault("clock-jump", "host", 3, 6))
    assert told.rules() == set()


# --- fencing


@pytest.mark.parametrize("verb", ["complete", "fail", "release", "heartbeat"])
def test_a_word_of_the_earlier_claim_after_a_later_one_is_found(told: Told, verb: str) -> None:
    told.enqueue(1, "a")
    first = told.claim(2, "a", lease=1)
    told.claim(4, "a", worker="v", attempt=2)
    told.says(5, verb, first, "running" if verb == "heartbeat" else "queued")
    assert "fence" in told.rules()


def test_a_word_of_the_earlier_claim_beside_the_later_one_may_have_come_first(told: Told) -> None:
    told.enqueue(1, "a")
    first = told.claim(2, "a", lease=1)
    told.claim(4, "a", worker="v", attempt=2)
    told.says(4.2, "heartbeat", first, "running")
    assert "fence" not in told.rules()


def test_a_word_under_a_token_that_was_replaced_is_found(told: Told) -> None:
    told.enqueue(1, "a")
    first = told.claim(2, "a", request="r")
    told.claim(3, "a", request="r", started=1002.0)
    told.says(4, "complete", first, "succeeded")
    assert "fence" in told.rules()


@pytest.mark.parametrize("verb", ["requeue", "cancel"])
def test_a_word_under_a_claim_that_people_ended_is_found(told: Told, verb: str) -> None:
    told.enqueue(1, "a")
    first = told.claim(2, "a", lease=1)
    told.op(verb, 4, {"job": "a"}, {"status": "queued" if verb == "requeue" else "cancelled"})
    told.says(5, "complete", first, "succeeded")
    assert told.rules() == {"fence"}


def test_a_cancel_that_was_only_asked_for_ends_nothing(told: Told) -> None:
    told.enqueue(1, "a")
    first = told.claim(2, "a")
    told.op("cancel", 4, {"job": "a"}, {"status": "running"})
    told.says(5, "complete", first, "succeeded")
    assert told.rules() == set()


def test_a_claim_that_ended_in_two_ways_is_found(told: Told) -> None:
    told.enqueue(1, "a")
    first = told.claim(2, "a")
    told.says(3, "complete", first, "succeeded")
    told.says(4, "release", first, "succeeded", stored=False)
    assert "fence" in told.rules()


def test_an_outcome_that_is_repeated_is_right(told: Told) -> None:
    told.enqueue(1, "a")
    first = told.claim(2, "a")
    told.says(3, "complete", first, "succeeded")
    told.says(4, "complete", first, "succeeded")
    assert told.rules() == set()


# --- jobs


def test_a_job_that_succeeded_under_two_claims_is_found(told: Told) -> None:
    told.enqueue(1, "a")
    first = told.claim(2, "a", lease=1)
    second = told.claim(4, "a", worker="v", attempt=2)
    told.says(4.2, "complete", first, "succeeded")
    told.says(5, "complete", second, "succeeded")
    assert "twice" in told.rules()


def test_a_job_that_is_claimed_after_it_succeeded_is_found(told: Told) -> None:
    told.enqueue(1, "a")
    told.says(3, "complete", told.claim(2, "a"), "succeeded")
    told.claim(4, "a", worker="v")
    assert "twice" in told.rules()


def test_a_job_that_was_accepted_and_is_gone_is_found(told: Told) -> None:
    told.enqueue(1, "a", stored=False)
    assert told.rules() == {"lost"}


def test_a_job_whose_acceptance_was_lost_may_be_there_or_not(told: Told) -> None:
    told.enqueue(1, "a", stored=False, lost=True)
    told.enqueue(2, "b", stored=True, lost=True)
    assert told.rules() == set()


def test_a_job_that_is_not_found_any_more_is_found(told: Told) -> None:
    told.enqueue(1, "a")
    told.op("cancel", 2, {"job": "a"}, refused="job_not_found").status = 404
    assert told.rules() == {"lost"}


def test_half_a_batch_is_found(told: Told) -> None:
    told.enqueue(1, "a").args["count"] = 2
    assert told.rules() == {"lost"}


def test_an_outcome_that_was_accepted_and_is_gone_is_found(told: Told) -> None:
    told.enqueue(1, "a")
    told.says(3, "complete", told.claim(2, "a"), "succeeded", stored=False)
    assert told.rules() == {"lost"}


def test_a_failure_may_have_been_retried(told: Told) -> None:
    told.enqueue(1, "a")
    told.says(3, "fail", told.claim(2, "a"), "failed", stored=False)
    told.op("retry", 4, {"job": "a"}, lost=True)
    assert told.rules() == set()


def test_a_job_that_is_there_twice_or_unasked_is_found(told: Told) -> None:
    told.enqueue(1, "a")
    request = told.final.jobs[0].request
    told.final.jobs.append(JobRow("b", "t", "queued", 0, 1001.0, 1, None, None, request, 0))
    assert "doubled" in told.rules()
    told.final.jobs[-1].request = 1
    assert "doubled" in told.rules()


def test_a_job_that_never_ends_is_found(told: Told) -> None:
    told.enqueue(1, "a")
    assert told.rules(settled=True) == {"stuck"}


# --- the audit log


def test_a_toggle_that_is_missing_from_the_log_is_found(told: Told) -> None:
    told.toggle(1, "pause", 2, logged=0)
    assert "audit" in told.rules()


def test_a_toggle_that_is_in_the_log_twice_is_found(told: Told) -> None:
    told.toggle(1, "pause", 2, logged=2)
    assert "audit" in told.rules()


@pytest.mark.parametrize("logged", [0, 1])
def test_a_toggle_without_an_answer_may_be_in_the_log_or_not(told: Told, logged: int) -> None:
    told.toggle(1, "pause", 2, lost=True, logged=logged)
    assert told.rules() == set()


def test_repeats_under_one_key_are_one_toggle(told: Told) -> None:
    told.toggle(1, "pause", 2, reason="r", lost=True, logged=1)
    told.toggle(2, "pause", 2, reason="r", logged=0)
    told.toggle(3, "pause", 2, reason="r", logged=0)
    assert told.rules() == set()


def test_a_toggle_that_nobody_made_is_found(told: Told) -> None:
    told.toggle(1, "pause", 2)
    told.final.events[0].reason = "another"
    assert "audit" in told.rules()


def test_a_toggle_that_the_log_tells_otherwise_is_found(told: Told) -> None:
    told.toggle(1, "pause", 2)
    told.final.events[0].action = "resume"
    assert "audit" in told.rules()


def test_a_refusal_that_is_missing_from_the_log_is_found(told: Told) -> None:
    told.toggle(1, "resume", 1, refused="not_paused")
    assert told.rules() == set()
    told.final.events.clear()
    assert told.rules() == {"audit"}


# --- versions


def test_a_version_that_is_left_out_is_found(told: Told) -> None:
    told.toggle(1, "pause", 2)
    told.toggle(2, "resume", 4)
    assert told.rules() == {"version"}


def test_a_row_that_is_not_what_the_log_ends_with_is_found(told: Told) -> None:
    told.toggle(1, "pause", 2)
    told.final.paused = False
    assert told.rules() == {"version"}


def test_an_answer_that_goes_back_in_time_is_found(told: Told) -> None:
    told.toggle(1, "pause", 2)
    told.op("status", 2, {}, {"version": 1, "paused": False})
    assert told.rules() == {"version"}


def test_a_pause_that_is_answered_from_memory_may_be_a_moment_behind(told: Told) -> None:
    told.toggle(1, "pause", 2)
    told.toggle(2, "resume", 3)
    told.op("claim", 3, {"worker": "w", "request": None}, {"job": None, "version": 2, "paused": True})
    assert told.rules() == set()


def test_an_answer_that_knows_what_nobody_has_asked_for_is_found(told: Told) -> None:
    told.op("status", 1, {}, {"version": 2, "paused": True})
    told.toggle(2, "pause", 2)
    assert told.rules() == {"version"}


def test_an_answer_that_the_log_contradicts_is_found(told: Told) -> None:
    told.toggle(1, "pause", 2)
    told.op("status", 2, {}, {"version": 2, "paused": False})
    assert told.rules() == {"version"}


# --- order


def overtaking(told: Told) -> Iterator[Op]:
    yield told.enqueue(1, "a")
    yield told.enqueue(2, "b")
    yield told.toggle(3, "pause", 2)
    yield told.toggle(4, "resume", 3)
    yield told.claim(5, "b", version=3)
    yield told.claim(6, "a", version=3)


def test_a_job_that_is_handed_out_before_one_that_stood_before_it_is_found(told: Told) -> None:
    list(overtaking(told))
    assert told.rules() == {"order"}


def test_a_priority_goes_first(told: Told) -> None:
    told.enqueue(1, "a")
    told.enqueue(2, "b", priority=5)
    told.claim(5, "b")
    told.claim(6, "a")
    assert told.rules() == set()


def test_claims_side_by_side_may_be_answered_in_any_order(told: Told) -> None:
    *_, later = overtaking(told)
    later.call = 5.2
    assert told.rules() == set()


def test_a_claim_without_an_answer_may_have_held_the_job_for_a_moment(told: Told) -> None:
    list(overtaking(told))
    told.op("claim", 5.1, {"worker": "v", "request": None}, lost=True)
    assert told.rules() == set()


def test_a_job_that_came_back_may_come_later(told: Told) -> None:
    *_, later = overtaking(told)
    later.answer["job"]["attempt"] = 2
    assert told.rules() == set()


# --- recovery, answers


def outage(told: Told, back: float) -> None:
    told.history.faults.append(Fault("postgres-restarted", "postgresql", 10, 12, calm=True))
    moments = [n / 10 for n in range(60, 100)] + [12 + back + n / 10 for n in range(20)]
    for number, moment in enumerate(moments):
        told.claim(moment, f"job-{number}", took=0.01)


def test_claims_that_are_soon_back_are_right(told: Told) -> None:
    outage(told, 1)
    assert told.rules() == set()
    (found,) = recoveries(told.history)
    assert found.seconds == pytest.approx(1.01)


def test_claims_that_come_back_late_are_found(told: Told) -> None:
    outage(told, 6)
    assert told.rules() == {"recovery"}


def test_claims_that_come_back_never_or_slowly_are_found(told: Told) -> None:
    outage(told, 1)
    for op in told.history.ops[42::2]:
        op.outcome = "unknown"
    del told.history.ops[45:]
    assert told.rules() == {"recovery"}


def test_a_crash_and_a_malformed_call_are_found(told: Told) -> None:
    told.op("status", 1, {}, {}, status=500).outcome = "unknown"
    told.op("status", 2, {}, refused="invalid_request").status = 422
    assert told.rules() == {"answer"}


@pytest.mark.parametrize(("lost", "found"), [("r", set[str]()), ("other", {"answer"})])
def test_a_request_id_is_refused_only_where_it_was_used(told: Told, lost: str, found: set[str]) -> None:
    told.op("claim", 1, {"worker": "w", "request": lost}, lost=True)
    again = told.op("claim", 2, {"worker": "w", "request": "r"}, refused="idempotency_key_reused")
    again.status = 422
    assert told.rules() == found


# --- what is done with a finding


def test_a_history_is_shrunk_to_the_calls_that_show_it(told: Told) -> None:
    for number in range(20):
        told.enqueue(number / 10, f"job-{number}")
        told.says(
            number / 10 + 0.05, "complete", told.claim(number / 10, f"job-{number}", took=0.01), "succeeded"
        )
    told.enqueue(10, "a")
    first = told.claim(12, "a", lease=1)
    second = told.claim(14, "a", worker="v", attempt=2)
    late = told.says(15, "complete", first, "succeeded")
    told.says(16, "heartbeat", second, "running")
    (violation,) = [
        one for one in check(told.history, told.final) if one.ops == (first.id, second.id, late.id)
    ]
    assert shrink(told.history, told.final, violation) == [first, second, late]


def test_a_history_is_read_as_it_was_written(told: Told, tmp_path: Path) -> None:
    list(overtaking(told))
    told.history.faults.append(Fault("server-killed", "direct", 1, 2))
    told.op("claim", 7, {"worker": "w", "request": None}, lost=True)
    told.history.save(tmp_path / "history.jsonl", told.final)
    assert History.load(tmp_path / "history.jsonl") == (told.history, told.final)
