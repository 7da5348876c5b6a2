"""Clients that work against several servers at once, each from its own seed, and note all they say and hear.

What a call's `args` and `answer` hold, for the checker:

verb | args | answer
enqueue | request, count | jobs: id, type, priority, created, plain
claim | worker, request | job (or None): id, token, attempt, started, expires; version, paused
heartbeat, complete, fail, release, cancel_ack | job, worker, token | status; heartbeat also expires, version, paused
cancel, requeue, retry | job | status
pause, resume | reason | version, paused
status | | version, paused
witness | | version, leaks

A token is its SHA-256, as the database has it. A refusal has its `code`, and a `version` where it carries one.
"""

import hashlib
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any, Final, Protocol, Self

import anyio
import httpx2

from faults.history import UNREACHABLE, History, Op

__all__ = [
    "KINDS",
    "REAL",
    "Company",
    "Pace",
    "Server",
    "janitor",
    "operator",
    "producer",
    "reader",
    "worker",
]

#: Kinds of jobs that these clients work on, and the one that real worker processes do.
KINDS: Final = ("a", "b", "c")
REAL: Final = "real"
#: How long a client waits for an answer, in seconds.
PATIENCE: Final = 4.0
#: A lease, in seconds.
LEASE: Final = 2
#: How long a worker rests between two jobs while rates are compared, in seconds, at least and at most: so that what
#: claims come to in a second is what they ask for, and not what a shared machine has to spare in that second.
STEADY: Final = (0.4, 1.2)
#: How often a client repeats a call whose answer was lost.
REPEATS: Final = 3
JOBS: Final = "/api/queue/jobs"
PAUSE: Final = "/api/system/worker-pause"


class Server(Protocol):
    """One of the servers, by the way on which clients come to it."""

    name: str

    @property
    def address(self) -> str: ...


@dataclass
class Pace:
    """How busy the clients are."""

    workers: int = 16
    producers: int = 2
    operators: int = 2
    #: Jobs that wait, at most and at least.
    most_waiting: int = 400
    #: Seconds between two pauses of an operator, and how long one lasts: at least and at most.
    between: tuple[float, float] = (0.3, 2.0)
    lasts: tuple[float, float] = (0.05, 0.8)


@dataclass
class Company:
    """What the clients of one run share."""

    history: History
    servers: Sequence[Server]
    seed: int
    #: Looks into the database behind the servers' back: the version of the pause, and how many claims broke it.
    look: Callable[[], Awaitable[tuple[int, int]]]
    pace: Pace = field(default_factory=Pace)
    #: The part of the jobs that is for real workers.
    real: float = 0.01
    #: Jobs that were seen by their clients lately.
    jobs: deque[str] = field(default_factory=lambda: deque(maxlen=2_000))
    waiting: int = 0
    requests: int = 0
    toggles: int = 0
    #: Set while rates are compared: nobody is to pause, and workers work at a steady rate.
    calm: bool = False
    #: Set when producers and operators are to end; workers go on until the queue is empty.
    closing: bool = False

    def random(self, name: str) -> Random:
        return Random(f"{self.seed}/{name}")


class Caller:
    """One client: its own connections, its own dice."""

    def __init__(self, company: Company, name: str) -> None:
        self.company = company
        self.name = name
        self.random = company.random(name)
        self._http: dict[str, httpx2.AsyncClient] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            for http in self._http.values():
                await http.aclose()

    def pick(self) -> Server:
        return self.random.choice(self.company.servers)

    async def call(
        self,
        server: Server,
        verb: str,
        args: dict[str, Any],
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        key: str | None = None,
    ) -> tuple[Op, Any]:
        """Make a call, and note it. Returns what was noted and the JSON of the answer, None where there is none."""
        http = self._http.get(server.name)
        if http is None:
            http = self._http[server.name] = httpx2.AsyncClient(
                timeout=PATIENCE, trust_env=False, verify=False
            )
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        content = None if body is None else json.dumps(body)
        op = self.company.history.begin(self.name, verb, server.name, args)
        try:
            with anyio.fail_after(PATIENCE + 1):
                answer = await http.request(method, server.address + path, content=content, headers=headers)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            op.end, op.outcome, op.answer = time.monotonic(), "refused", {"code": UNREACHABLE}
            await anyio.sleep(0.05)
            return op, None
        except (
            httpx2.HTTPError,
            TimeoutError,
            AttributeError,
        ):  # the last: anyio's, if it ends as it is made
            await anyio.sleep(0.05)
            return op, None
        try:
            told = answer.json()
        except ValueError:
            await anyio.sleep(0.05)
            return op, None
        op.status = answer.status_code
        if op.status >= 500:
            op.answer = {"code": told.get("code")}
            await anyio.sleep(0.02)
            return op, None
        op.end = time.monotonic()
        if op.status >= 400:
            op.outcome = "refused"
            op.answer = {"code": told.get("code")}
            if told.get("system"):
                op.answer.update(_system(told["system"]))
            return op, told
        op.outcome = "ok"
        return op, told


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _system(system: dict[str, Any]) -> dict[str, Any]:
    return {"version": system["version"], "paused": system["workersPaused"]}


def _made(job: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": job["id"],
        "type": job["type"],
        "priority": job["priority"],
        "created": _seconds(job["createdAt"]),
        "plain": job["nextAttemptAt"] is None,
    }


async def producer(company: Company, name: str) -> None:
    """Enqueues, alone and in batches, while few enough wait. A request without an answer is repeated under its key."""
    async with Caller(company, name) as caller:
        while not company.closing:
            if company.waiting > company.pace.most_waiting:
                await anyio.sleep(0.05)
                continue
            await _enqueue(caller)
            await anyio.sleep(caller.random.uniform(0, 0.05))


async def _enqueue(caller: Caller) -> None:
    company, random = caller.company, caller.random
    company.requests += 1
    request = company.requests
    count = random.choice((1, 1, 1, 10, 25))
    bodies = [
        {
            "type": REAL if random.random() < company.real else random.choice(KINDS),
            "priority": random.choice((0, 0, 0, 0, 5)),
            "payload": {"request": request, "number": number},
            "maxAttempts": random.choice((5, 10, 20)),
            # A batch is not repeated, so it needs no key.
            **({"idempotencyKey": f"request-{request}"} if count == 1 else {}),
        }
        for number in range(count)
    ]
    args = {"request": request, "count": count}
    for _ in range(1 + REPEATS):
        server = caller.pick()
        if count == 1:
            op, told = await caller.call(server, "enqueue", args, "POST", JOBS, bodies[0])
        else:
            op, told = await caller.call(server, "enqueue", args, "POST", f"{JOBS}/batch", {"jobs": bodies})
        if op.ok:
            op.answer = {"jobs": [_made(job) for job in ([told] if count == 1 else told["items"])]}
            company.waiting += count
            company.jobs.extend(job["id"] for job in op.answer["jobs"])
        if op.reached and (op.outcome != "unknown" or count > 1):
            return


@dataclass
class _Held:
    """A job that a worker has, and the token under which it has it."""

    job: str
    token: str

    @property
    def hashed(self) -> str:
        return hashlib.sha256(self.token.encode()).hexdigest()


async def worker(company: Company, name: str) -> None:
    """Claims and works, mostly well: some jobs fail, some are left to their leases, some are ended too late."""
    async with Caller(company, name) as caller:
        number = 0
        while True:
            if company.calm:
                await anyio.sleep(caller.random.uniform(*STEADY))
            number += 1
            request = f"{name}-{number}" if caller.random.random() < 0.5 else None
            held, paused = await _claim(caller, request)
            if held is not None:
                await _work(caller, held, request)
            elif paused:
                await anyio.sleep(caller.random.uniform(0.01, 0.1))
            else:
                await anyio.sleep(caller.random.uniform(0, 0.02))


async def _claim(caller: Caller, request: str | None, *, once: bool = False) -> tuple[_Held | None, bool]:
    """The job that a claim got, and whether it met a pause. A claim without an answer is repeated where it can be."""
    random = caller.random
    body: dict[str, Any] = {"workerId": caller.name, "leaseSeconds": LEASE}
    if random.random() < 0.3:
        body["waitSeconds"] = 1
    if random.random() < 0.3:
        body["allowedTypes"] = random.sample(KINDS, 2)
    else:
        body["allowedTypes"] = list(KINDS)
    if request is not None:
        body["requestId"] = request
    args = {"worker": caller.name, "request": request}
    for _ in range(1 if once else 1 + REPEATS):
        op, told = await caller.call(caller.pick(), "claim", args, "POST", f"{JOBS}/claim", body)
        if op.ok:
            op.answer = _system(told["system"])
            job = told["job"]
            if job is None:
                return None, op.answer["paused"]
            held = _Held(job["id"], job["leaseToken"])
            op.answer["job"] = {
                "id": job["id"],
                "token": held.hashed,
                "attempt": job["attempt"],
                "started": _seconds(job["startedAt"]),
                "expires": _seconds(job["leaseExpiresAt"]),
            }
            caller.company.waiting = max(0, caller.company.waiting - 1)
            return held, False
        if op.reached and (op.outcome == "refused" or request is None or random.random() < 0.3):
            break
    return None, False


async def _work(caller: Caller, held: _Held, request: str | None) -> None:
    random = caller.random
    how = random.choices(
        ("complete", "beat", "retry", "fail", "release", "leave", "late", "again", "twice"),
        (60, 12, 6, 2, 4, 3, 4, 5, 4),
    )[0]
    match "complete" if caller.company.closing else how:
        case "complete":
            await _end(caller, held, "complete")
        case "beat":
            for _ in range(random.randint(1, 3)):
                await anyio.sleep(random.uniform(0, 0.2))
                status = await _say(caller, held, "heartbeat")
            if status == "cancel":
                await _end(caller, held, "cancel_ack")
            else:
                await _end(caller, held, "complete")
        case "retry":
            await _end(caller, held, "fail", retryable=True)
        case "fail":
            await _end(caller, held, "fail")
        case "release":
            await _end(caller, held, "release")
        case "leave":
            pass
        case "late":
            # Its claim may be over by then, and somebody else's.
            await anyio.sleep(LEASE + random.uniform(0.2, 2))
            if random.random() < 0.3:
                await _say(caller, held, "heartbeat")
            await _end(caller, held, random.choice(("complete", "complete", "fail", "release")))
        case "again":
            # A repeat of the claim under the same requestId makes this token void.
            again = None if request is None else (await _claim(caller, request, once=True))[0]
            if again is not None and random.random() < 0.7:
                await _end(caller, held, random.choice(("complete", "release")))
            await _end(caller, again or held, "complete")
        case "twice":
            await _end(caller, held, "complete")
            await _end(caller, held, random.choice(("complete", "fail", "release")))


async def _end(caller: Caller, held: _Held, verb: str, *, retryable: bool = False) -> None:
    """End a claim; without an answer, say it again."""
    for _ in range(1 + REPEATS):
        if await _say(caller, held, verb, retryable=retryable) is not None:
            return


async def _say(caller: Caller, held: _Held, verb: str, *, retryable: bool = False) -> str | None:
    """What became of it; None where there was no answer."""
    body: dict[str, Any] = {"workerId": caller.name, "leaseToken": held.token}
    if verb == "heartbeat":
        body["leaseSeconds"] = LEASE
    elif verb == "fail":
        body |= {"errorMessage": "it broke", "retryable": retryable}
    path = f"{JOBS}/{held.job}/{verb.replace('_', '/')}"
    args = {"job": held.job, "worker": caller.name, "token": held.hashed}
    op, told = await caller.call(caller.pick(), verb, args, "POST", path, body)
    if not op.ok:
        return None if op.outcome == "unknown" or not op.reached else "refused"
    op.answer = {"status": told["status"]}
    if verb == "heartbeat":
        op.answer |= _system(told["system"])
        op.answer["expires"] = _seconds(told["leaseExpiresAt"])
        return "cancel" if told["cancelRequestedAt"] is not None else "held"
    if told["status"] == "queued":
        caller.company.waiting += 1
    return "ended"


async def operator(company: Company, name: str) -> None:
    """Pauses and resumes, and looks behind the servers' back before it does."""
    async with Caller(company, name) as caller:
        random, pace = caller.random, company.pace
        while not company.closing:
            await anyio.sleep(random.uniform(*pace.between))
            if company.calm or company.closing:
                continue
            if not await _toggle(caller, "pause"):
                continue
            if random.random() < 0.3:
                await _toggle(caller, "pause")  # another mode, another reason: a change
            await anyio.sleep(random.uniform(*pace.lasts))
            await witness(caller)
            await _toggle(caller, "resume")


async def witness(caller: Caller) -> None:
    """Note how many claims committed behind the door that the pause had closed, by the database itself."""
    op = caller.company.history.begin(caller.name, "witness", "database", {})
    try:
        with anyio.fail_after(PATIENCE):
            version, leaks = await caller.company.look()
    except Exception:  # the database is away, in one of many ways
        return
    op.end, op.outcome, op.answer = time.monotonic(), "ok", {"version": version, "leaks": leaks}


async def _toggle(caller: Caller, action: str) -> bool:
    """Whether it was accepted. Without an answer it is repeated under its key, with one it may be repeated as well."""
    company, random = caller.company, caller.random
    company.toggles += 1
    reason = f"toggle {company.toggles}"
    body: dict[str, Any] = {"action": action, "reason": reason}
    if action == "pause":
        body["mode"] = random.choice(("drain", "quiesce"))
    key = reason if random.random() < 0.8 else None
    for _ in range(1 + REPEATS):
        op, told = await caller.call(caller.pick(), action, {"reason": reason}, "POST", PAUSE, body, key)
        if op.ok:
            op.answer = _system(told["system"])
        if op.reached and (op.outcome != "unknown" or key is None):
            if op.ok and key is not None and random.random() < 0.1:
                continue
            return op.ok
    return False


async def make_run(company: Company, name: str) -> None:
    """Resume until it is certain that nothing is paused."""
    async with Caller(company, name) as caller:
        while True:
            op, told = await caller.call(caller.pick(), "status", {}, "GET", PAUSE)
            if op.ok:
                op.answer = _system(told["system"])
                if not op.answer["paused"]:
                    return
                await witness(caller)
                await _toggle(caller, "resume")


async def reader(company: Company, name: str) -> None:
    """Looks at the pause."""
    async with Caller(company, name) as caller:
        while True:
            await anyio.sleep(caller.random.uniform(0, 0.2))
            op, told = await caller.call(caller.pick(), "status", {}, "GET", PAUSE)
            if op.ok:
                op.answer = _system(told["system"])


async def janitor(company: Company, name: str) -> None:
    """Cancels, requeues and retries, now and then."""
    async with Caller(company, name) as caller:
        random = caller.random
        while not company.closing:
            await anyio.sleep(random.uniform(0, 0.2))
            if not company.jobs:
                continue
            job = random.choice(company.jobs)
            verb = random.choices(("cancel", "requeue", "retry"), (1, 2, 2))[0]
            body = {"reason": "tidying up"}
            op, told = await caller.call(
                caller.pick(), verb, {"job": job}, "POST", f"{JOBS}/{job}/{verb}", body
            )
            if op.ok:
                op.answer = {"status": told["status"]}
                if told["status"] == "queued":
                    company.waiting += 1
