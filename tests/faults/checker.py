"""Whether a history and what the database holds in the end keep the promises. Pure functions.

Each rule is sound: it says no more than the history proves. A call whose outcome is unknown may have been done at any
time after it was made, or never; it excuses others, and is never held against anybody by itself.

What is known of the order of two calls: one came before the other if it was answered before the other was made. Where
two overlap, the database's clock decides, unless that clock was made to jump (on SQLite, whose clock is the hosts').
"""

import time
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final as Constant

from faults.history import Event, Final, History, JobRow, Op

__all__ = ["RULES", "Recovery", "Violation", "check", "recoveries", "shrink"]

#: What a holder ends its claim with.
ENDS: Constant = frozenset({"complete", "fail", "release", "cancel_ack"})
HELD: Constant = ENDS | {"heartbeat"}
TERMINAL: Constant = frozenset({"succeeded", "failed", "cancelled", "dead_letter"})
#: Refusals of a toggle that leave a line in the audit log.
NOTED: Constant = frozenset({"not_paused", "version_conflict", "resume_not_drained", "not_allowed"})
#: For so long a claim without an answer may keep others from a job that it does not get in the end, in seconds.
UNKNOWN_HOLDS: Constant = 15.0
#: Claims are back within this, in seconds after PostgreSQL is: at this part of the rate before, or more.
BACK_WITHIN: Constant = 5.0
FULL_RATE: Constant = 0.9
#: Rates are measured over this long before an outage, and this slice of time, in seconds.
BEFORE: Constant = 3.0
SLICE: Constant = 1.0
#: Below so many claims a second a rate says nothing.
LEAST_RATE: Constant = 5.0
#: How long is spent on making a history smaller, in seconds.
SHRINK_WITHIN: Constant = 60.0


@dataclass(frozen=True)
class Violation:
    """A promise that was broken, and the calls that show it."""

    rule: str
    text: str
    ops: tuple[int, ...] = ()


@dataclass(frozen=True)
class Recovery:
    """How long claims took to come back after an outage. `seconds` None: they did not."""

    at: float
    rate_before: float
    seconds: float | None


class _View:
    """A history, looked up from several sides."""

    def __init__(self, history: History, final: Final) -> None:
        self.history = history
        self.final = final
        self.ops = history.ops
        self.claims = [op for op in self.ops if op.verb == "claim" and op.ok and op.answer.get("job")]
        self.claims_of: dict[str, list[Op]] = defaultdict(list)
        for claim in self.claims:
            self.claims_of[_job(claim)].append(claim)
        #: All claims under a requestId, answered or not.
        self.asked_as: dict[tuple[str, str], list[Op]] = defaultdict(list)
        for op in self.ops:
            if op.verb == "claim" and op.args.get("request") is not None:
                self.asked_as[op.args["worker"], op.args["request"]].append(op)
        self.holders = [op for op in self.ops if op.verb in HELD]
        self.said_under: dict[str, list[Op]] = defaultdict(list)
        for op in self.holders:
            self.said_under[op.args["token"]].append(op)
        self.toggles = [op for op in self.ops if op.verb in {"pause", "resume"}]
        self.changes = [event for event in final.events if event.outcome == "changed"]
        #: Whether the system was paused at each version, as the audit log has it.
        self.paused_at = {1: False, **{event.version: event.action == "pause" for event in self.changes}}
        on_sqlite = history.database == "sqlite"
        self._jumps = sorted(
            moment
            for fault in history.faults
            if on_sqlite and fault.kind == "clock-jump"
            for moment in (fault.begin, fault.end)
        )

    def clock_is_steady(self, begin: float, end: float) -> bool:
        """Whether the database's clock went as time does between two moments."""
        return bisect_left(self._jumps, begin) == bisect_right(self._jumps, end)

    def later(self, first: Op, second: Op) -> bool:
        """Whether it is certain that of two claims that got a job the second came later."""
        if second.call > first.ended:
            return True
        if first.call > second.ended or not self.clock_is_steady(
            min(first.call, second.call), max(first.ended, second.ended)
        ):
            return False
        started: float = second.answer["job"]["started"]
        return started > first.answer["job"]["started"]

    def twins(self, claim: Op) -> list[Op]:
        """A claim and all others under the same requestId, answered or not."""
        if claim.args.get("request") is None:
            return [claim]
        return self.asked_as[claim.args["worker"], claim.args["request"]]

    def reserved(self, claim: Op) -> list[Op]:
        """A claim and its repeats under the same requestId that got its job."""
        job = _job(claim)
        return [op for op in self.twins(claim) if op.ok and op.answer.get("job") and _job(op) == job]


def _job(claim: Op) -> str:
    job_id: str = claim.answer["job"]["id"]
    return job_id


def _token(claim: Op) -> str:
    token: str = claim.answer["job"]["token"]
    return token


def no_claim_after_an_answered_pause(view: _View) -> Iterator[Violation]:
    """No claim that was made after a pause was answered got a job before a resume; nor did one commit later than the
    pause whose door was closed before it."""
    answered = sorted(
        (op.ended, op.answer["version"], op.id) for op in view.toggles if op.verb == "pause" and op.ok
    )
    times = [end for end, _, _ in answered]
    highest: list[tuple[int, int]] = []
    for _, version, number in answered:
        highest.append(max([*highest[-1:], (version, number)]))
    for claim in view.claims:
        version = claim.answer["version"]
        if claim.answer["paused"] or view.paused_at.get(version, False):
            yield Violation("gate", f"a claim got a job at version {version}, which is a pause", (claim.id,))
        before = bisect_left(times, claim.call)
        if before and version <= highest[before - 1][0]:
            pause_version, pause = highest[before - 1]
            yield Violation(
                "gate",
                f"a claim got a job at version {version} after the pause of version {pause_version}"
                " had been answered",
                (pause, claim.id),
            )
    for op in view.ops:
        if op.verb == "witness" and op.ok and op.answer["leaks"]:
            yield Violation(
                "gate",
                f"{op.answer['leaks']} claims committed after the pause of version {op.answer['version']} had"
                " closed the door",
                (op.id,),
            )


def no_two_live_leases(view: _View) -> Iterator[Violation]:
    """A job is handed out again only when the lease before it has run out, or its holder has ended it."""
    for job, claims in view.claims_of.items():
        if len(claims) == 1:
            continue
        for first, second in pairwise(sorted(claims, key=lambda op: (op.answer["job"]["started"], op.call))):
            same = view.reserved(first)
            span = (
                min(first.call, second.call),
                max(first.ended, second.ended),
            )  # set back, the clock turns them around
            if second in same or not view.clock_is_steady(*span):
                continue
            if any(op.outcome == "unknown" and op.call < second.ended for op in view.twins(first)):
                continue  # carried out late, it took the job over, and gave it back since nobody heard the answer
            said = [op for claim in same for op in view.said_under[_token(claim)]]
            if any(op.verb in ENDS and op.outcome != "refused" and op.call < second.ended for op in said):
                continue
            until = max(
                [
                    *(claim.answer["job"]["expires"] for claim in same),
                    *(op.answer["expires"] for op in said if op.verb == "heartbeat" and op.ok),
                ]
            )
            started = second.answer["job"]["started"]
            if started < until:
                yield Violation(
                    "lease",
                    f"job {job} was handed out {until - started:.3f} s before the lease before it ran out",
                    (first.id, second.id),
                )


def no_word_under_a_claim_that_is_over(view: _View) -> Iterator[Violation]:
    """No heartbeat and no outcome is accepted once the job was claimed again, its token replaced, or the claim ended
    from outside; and a claim ends once."""
    claim_by_token = {_token(claim): claim for claim in view.claims}
    ended_by_people: dict[str, list[Op]] = defaultdict(list)
    for op in view.ops:
        voided = op.verb == "requeue" or (op.verb == "cancel" and op.answer.get("status") == "cancelled")
        if op.ok and voided:
            ended_by_people[op.args["job"]].append(op)
    for op in view.holders:
        if not op.ok:
            continue
        claim = claim_by_token.get(op.args["token"])
        if claim is None:  # left out, while the history is shrunk
            continue
        job = _job(claim)
        for other in view.claims_of[job]:
            if other is not claim and other.ended < op.call and view.later(claim, other):
                yield Violation(
                    "fence",
                    f"{op.verb} of job {job} was accepted though it had been claimed again",
                    (claim.id, other.id, op.id),
                )
                break
        repeated = any(
            one.verb == op.verb and one.call < op.call and one.outcome != "refused"
            for one in view.said_under[op.args["token"]]
        )
        for ended in ended_by_people[job]:
            if claim.ended < ended.call and ended.ended < op.call and not repeated:
                yield Violation(
                    "fence",
                    f"{op.verb} of job {job} was accepted though {ended.verb} had ended the claim",
                    (claim.id, ended.id, op.id),
                )
                break
    for said in view.said_under.values():
        ends = {op.verb: op.id for op in said if op.verb in ENDS and op.ok}
        if len(ends) > 1:
            yield Violation(
                "fence",
                f"one claim of job {said[0].args['job']} ended in {' and in '.join(sorted(ends))}",
                tuple(ends.values()),
            )


def no_job_is_done_twice(view: _View) -> Iterator[Violation]:
    """A job succeeds under one claim, and nobody gets it after that."""
    succeeded: dict[str, dict[str, Op]] = defaultdict(dict)
    for op in view.holders:
        if op.verb == "complete" and op.ok:
            succeeded[op.args["job"]].setdefault(op.args["token"], op)
    for job, ends in succeeded.items():
        if len(ends) > 1:
            yield Violation(
                "twice", f"job {job} succeeded under two claims", tuple(op.id for op in ends.values())
            )
        for claim in view.claims_of[job]:
            first = min(ends.values(), key=lambda op: op.ended)
            if claim.call > first.ended:
                yield Violation(
                    "twice", f"job {job} was claimed after it had succeeded", (first.id, claim.id)
                )


def no_job_is_lost(view: _View) -> Iterator[Violation]:
    """Each accepted job is there once, as it was accepted, and ended as its holder was told; in the end, all have."""
    rows = {row.id: row for row in view.final.jobs}
    asked: dict[int, list[Op]] = defaultdict(list)
    for op in view.ops:
        if op.verb == "enqueue":
            asked[op.args["request"]].append(op)
            yield from _accepted(op, rows)
        elif op.status == 404:
            yield Violation("lost", f"{op.verb} was told that job {op.args['job']} is not there", (op.id,))
    made = Counter((row.request, row.number) for row in view.final.jobs)
    whole = Counter(row.request for row in view.final.jobs)
    for (request, number), count in made.items():
        ops = tuple(op.id for op in asked.get(request, ()))
        if not ops:
            yield Violation("doubled", f"nobody asked for job {number} of request {request}")
        if count > 1:
            yield Violation("doubled", f"job {number} of request {request} is there {count} times", ops)
    for request, ops in asked.items():
        if whole[request] not in {0, ops[0].args["count"]}:
            yield Violation(
                "lost",
                f"of the {ops[0].args['count']} jobs of request {request} there are {whole[request]}",
                tuple(op.id for op in ops),
            )
    yield from _ended_as_told(view, rows)
    if view.final.settled:
        left = [row for row in view.final.jobs if row.status not in TERMINAL]
        if left:
            one = left[0]
            yield Violation(
                "stuck",
                f"{len(left)} jobs never ended; one is {one.id}, {one.status} for attempt {one.attempt}",
            )


def _accepted(op: Op, rows: dict[str, JobRow]) -> Iterator[Violation]:
    for job in op.answer.get("jobs", ()):
        row = rows.get(job["id"])
        if row is None:
            yield Violation("lost", f"job {job['id']} was accepted and is gone", (op.id,))
        elif (row.type, row.priority, row.created_at) != (job["type"], job["priority"], job["created"]):
            yield Violation("lost", f"job {job['id']} is not what or where it was", (op.id,))


def _ended_as_told(view: _View, rows: dict[str, JobRow]) -> Iterator[Violation]:
    again = {op.args["job"] for op in view.ops if op.verb == "retry" and op.outcome != "refused"}
    for op in view.holders:
        row = rows.get(op.args["job"])
        if not op.ok or row is None or op.answer.get("status") not in TERMINAL or row.id in again:
            continue
        if (row.status, row.token) != (op.answer["status"], op.args["token"]):
            yield Violation(
                "lost",
                f"{op.verb} of job {row.id} was answered {op.answer['status']}, and the job is {row.status}",
                (op.id,),
            )


def the_audit_log_is_whole(view: _View) -> Iterator[Violation]:
    """Each accepted toggle is in the log once, each refused one too, and nothing else is. A toggle is known by its
    reason; repeats under one key are one toggle."""
    attempts: dict[str, list[Op]] = defaultdict(list)
    for op in view.toggles:
        attempts[op.args["reason"]].append(op)
    events: dict[str, list[Event]] = defaultdict(list)
    for event in view.final.events:
        events[event.reason].append(event)
    for reason in events.keys() - attempts.keys():
        yield Violation("audit", f"nobody asked for {reason!r}, which the audit log has")
    for reason, ops in attempts.items():
        ids = tuple(op.id for op in ops)
        accepted = [event for event in events[reason] if event.outcome != "refused"]
        unknown = sum(op.outcome == "unknown" for op in ops)
        told = [op for op in ops if op.ok]
        if told and not accepted:
            yield Violation("audit", f"{reason!r} was accepted and is missing from the audit log", ids)
        if len(accepted) > min(1, len(told) + unknown):
            yield Violation("audit", f"{reason!r} is in the audit log {len(accepted)} times", ids)
        for op in told:
            for event in accepted[:1]:
                if (event.action, event.version) != (op.verb, op.answer["version"]):
                    yield Violation(
                        "audit",
                        f"{reason!r} was answered as {op.verb} of version {op.answer['version']}, and logged as"
                        f" {event.action} of version {event.version}",
                        (op.id,),
                    )
        refused = len(events[reason]) - len(accepted)
        noted = sum(op.answer.get("code") in NOTED for op in ops if op.outcome == "refused")
        if not noted <= refused <= noted + unknown:
            yield Violation(
                "audit", f"{reason!r} was refused {noted} times, and logged so {refused} times", ids
            )


def versions_count_every_change(view: _View) -> Iterator[Violation]:
    """The log's versions are 2, 3, 4, … in its order, the row holds the last, and no answer goes back in time."""
    for place, event in enumerate(view.changes, 2):
        if event.version != place:
            yield Violation("version", f"change number {place} has version {event.version}: {event.reason!r}")
            break
    last = view.changes[-1] if view.changes else None
    state = (1, False) if last is None else (last.version, last.action == "pause")
    if (view.final.version, view.final.paused) != state:
        yield Violation(
            "version",
            f"the pause is at version {view.final.version}, paused: {view.final.paused}; the audit log ends at {state}",
        )
    yield from _answers_go_forward(view)
    made = {event.version: event.reason for event in view.changes}
    asked_at: dict[str, float] = {}
    for op in view.toggles:
        asked_at.setdefault(op.args["reason"], op.call)
    for op in view.ops:
        version = op.answer.get("version")
        if version is None or op.verb == "witness":
            continue
        if version > 1 and op.ended < asked_at.get(made.get(version, ""), float("-inf")):
            yield Violation(
                "version", f"{op.verb} knew version {version} before anybody asked for it", (op.id,)
            )
        if "paused" in op.answer and view.paused_at.get(version) != op.answer["paused"]:
            yield Violation(
                "version",
                f"{op.verb} was told version {version}, paused: {op.answer['paused']}; the audit log says"
                f" {view.paused_at.get(version)}",
                (op.id,),
            )


def _answers_go_forward(view: _View) -> Iterator[Violation]:
    seen = [op for op in view.ops if op.end is not None and "version" in op.answer and op.verb != "witness"]
    ends = sorted((op.ended, op.answer["version"], op.id) for op in seen)
    times = [end for end, _, _ in ends]
    highest: list[tuple[int, int]] = []
    for _, version, number in ends:
        highest.append(max([*highest[-1:], (version, number)]))
    toggled: dict[int, list[Op]] = defaultdict(list)
    for op in view.toggles:
        if op.ok:
            toggled[op.answer["version"]].append(op)
    for op in seen:
        # From the database itself; a claim that meets a pause may be answered from memory, and be a moment behind.
        if not op.ok or (op.verb == "claim" and not op.answer.get("job")):
            continue
        before = bisect_left(times, op.call)
        version = op.answer["version"]
        if before and version < highest[before - 1][0]:
            then, other = highest[before - 1]
            yield Violation(
                "version",
                f"{op.verb} was told version {version} after {then} had been seen",
                (other, op.id),
            )


@dataclass(frozen=True, slots=True)
class _Stay:
    """A job that waited in its place from a moment on, until one at which somebody asked and got it (never: inf)."""

    place: tuple[float, float, str]
    since: float
    until: float
    claim: Op | None


def order_is_kept(view: _View) -> Iterator[Violation]:
    """A job is not handed out while one of its kind that stands before it waits, pause or no pause.

    Looked at for jobs that were handed out once at most and never cancelled, so that they waited all the time; and
    for claims beside which none was without an answer, since such a one may hold a job for a moment and not get it.
    """
    touched = {op.args["job"] for op in view.ops if op.verb in {"cancel", "requeue", "retry"}}
    lost = sorted(op.call for op in view.ops if op.verb == "claim" and op.outcome == "unknown")
    rows = {row.id: row for row in view.final.jobs}
    stays: dict[str, list[_Stay]] = defaultdict(list)
    for op in view.ops:
        for job in op.answer.get("jobs", ()):
            claims = view.claims_of.get(job["id"], [])
            row = rows.get(job["id"])
            if job["id"] in touched or not job["plain"] or row is None or len(claims) > 1:
                continue
            place = (-job["priority"], job["created"], job["id"])
            if not claims:
                if row.status == "queued" and row.token is None:
                    stays[job["type"]].append(_Stay(place, op.ended, float("inf"), None))
            elif claims[0].answer["job"]["attempt"] == 1:  # else one without an answer had it first
                stays[job["type"]].append(_Stay(place, op.ended, claims[0].call, claims[0]))
    for kind in stays.values():
        kind.sort(key=lambda stay: stay.place)
        for claim, other in _overtaken(kind):
            if bisect_left(lost, claim.call - UNKNOWN_HOLDS) == bisect_left(lost, claim.ended):
                yield Violation(
                    "order",
                    f"job {_job(claim)} was handed out before one that stood before it",
                    (claim.id,) if other is None else (claim.id, other.id),
                )


def _overtaken(stays: list[_Stay]) -> Iterator[tuple[Op, Op | None]]:
    """Claims that got a job of these, which are in their order, over one before it; and the claim of that one."""
    # Each job comes in when it begins to wait, at the number of its place, and what is asked is which of those before a
    # place waits longest: a Fenwick tree of maxima.
    longest: list[int | None] = [None] * (len(stays) + 1)

    def better(one: int | None, other: int | None) -> int | None:
        if one is None or other is None:
            return one if other is None else other
        return one if stays[one].until >= stays[other].until else other

    coming = sorted(range(len(stays)), key=lambda number: stays[number].since)
    asking = sorted(
        ((stay.claim, number) for number, stay in enumerate(stays) if stay.claim is not None),
        key=lambda asked: asked[0].call,
    )
    come = 0
    for claim, number in asking:
        while come < len(coming) and stays[coming[come]].since < claim.call:
            at = coming[come] + 1
            while at < len(longest):
                longest[at] = better(longest[at], coming[come])
                at += at & -at
            come += 1
        best, at = None, number
        while at > 0:
            best = better(best, longest[at])
            at -= at & -at
        if best is not None and stays[best].until > claim.ended:
            yield claim, stays[best].claim


def answers_are_of_the_contract(view: _View) -> Iterator[Violation]:
    """No call crashes, and none of these is malformed."""
    for op in view.ops:
        reused = op.verb == "claim" and op.answer.get("code") == "idempotency_key_reused"
        if reused and any(twin.call < op.call and twin.outcome != "refused" for twin in view.twins(op)):
            continue  # the claim that this id stood for is over by now
        if op.status == 500 or op.status in {400, 401, 403, 405, 413, 415, 421, 422, 429}:
            yield Violation(
                "answer", f"{op.verb} was answered {op.status}: {op.answer.get('code')}", (op.id,)
            )


def recoveries(history: History) -> list[Recovery]:
    """How soon claims were back after each outage of the database around which nothing else went on."""
    got = sorted(op.ended for op in history.ops if op.verb == "claim" and op.ok and op.answer.get("job"))

    def count(begin: float, end: float) -> int:
        return bisect_left(got, end) - bisect_left(got, begin)

    found: list[Recovery] = []
    for fault in history.faults:
        if not fault.calm:
            continue
        slices = int(BEFORE / SLICE)
        before = median(
            count(fault.begin - n * SLICE, fault.begin - (n - 1) * SLICE) for n in range(1, slices + 1)
        )
        rate = before / SLICE
        if rate < LEAST_RATE:
            continue
        # The first slice at full rate that begins with a claim.
        later = got[bisect_left(got, fault.end) :]
        back = next((at for at in later if count(at, at + SLICE) >= FULL_RATE * before), None)
        found.append(Recovery(fault.end, rate, None if back is None else back - fault.end))
    return found


def claims_are_soon_back(view: _View) -> Iterator[Violation]:
    """Claims are back at full rate soon after the database is."""
    for found in recoveries(view.history):
        if found.seconds is None or found.seconds > BACK_WITHIN:
            took = "never" if found.seconds is None else f"{found.seconds:.1f} s later"
            yield Violation("recovery", f"claims came back {took} (before: {found.rate_before:.0f} a second)")


RULES: Constant[tuple[Callable[[_View], Iterable[Violation]], ...]] = (
    no_claim_after_an_answered_pause,
    no_two_live_leases,
    no_word_under_a_claim_that_is_over,
    no_job_is_done_twice,
    no_job_is_lost,
    the_audit_log_is_whole,
    versions_count_every_change,
    order_is_kept,
    claims_are_soon_back,
    answers_are_of_the_contract,
)


def check(history: History, final: Final) -> list[Violation]:
    """All that is broken."""
    view = _View(history, final)
    return [violation for rule in RULES for violation in rule(view)]


def shrink(history: History, final: Final, violation: Violation) -> list[Op]:
    """The fewest calls found within `SHRINK_WITHIN` that still break the same rule in the same words: those to read
    first."""

    def breaks(ops: list[Op]) -> bool:
        found = check(history.with_ops(ops), final)
        return any((one.rule, one.text) == (violation.rule, violation.text) for one in found)

    named = [op for op in history.ops if op.id in violation.ops]
    subjects = {op.args.get("job") for op in named} | {_job(op) for op in named if op.answer.get("job")}
    related = [
        op
        for op in history.ops
        if op.id in violation.ops
        or (op.args.get("job") or (op.answer.get("job") or {}).get("id")) in subjects - {None}
        or op.verb in {"pause", "resume"}
    ]
    ops = next((ops for ops in (named, related) if breaks(ops)), list(history.ops))
    until = time.monotonic() + SHRINK_WITHIN
    size = max(1, len(ops) // 2)
    while True:
        at = 0
        while at < len(ops):
            if time.monotonic() > until:
                return ops
            fewer = ops[:at] + ops[at + size :]
            if breaks(fewer):
                ops = fewer
            else:
                at += size
        if size == 1:
            return ops
        size = max(1, size // 2)
