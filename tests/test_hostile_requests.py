"""Requests that schemathesis makes up from the OpenAPI, as every role and as nobody: none is a 500, none leaks, and
none changes what its sender may not change. HOLDFAST_TEST_REQUESTS: how many for each; `make soak` sends 10,000."""

import os
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Final

import anyio
import httpx2
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from holdfast_core.clock import SystemClock
from holdfast_core.db import open_database
from holdfast_core.db.tables import api_tokens, metadata, worker_tokens
from holdfast_core.policy import ROUTES, Permission, effective, may
from holdfast_core.settings import load_settings
from holdfast_core.states import Role
from rest.harness import dump
from support.servers import Server, start_server
from support.tokens import bearer, create_token_now

REQUESTS: Final = int(os.environ.get("HOLDFAST_TEST_REQUESTS", "300"))
#: Some operations can be asked in few ways only, so it takes more than one round.
MOST_ROUNDS: Final = 20
#: What lasts by itself: a stream, a wait. Its other answers come at once.
LASTS: Final = frozenset({"stream_system_events", "stream_job_events", "wait_for_worker_pause", "claim_job"})
ANSWER_SECONDS: Final = 20.0
LASTING_SECONDS: Final = 1.0
#: No answer says anything of what it is made of.
INNARDS: Final = (
    "Traceback",
    'File "',
    "sqlalchemy",
    "asyncpg",
    "pydantic",
    "SELECT ",
    "INSERT ",
    "token_hash",
)
#: What a table may show of each permission: who lacks it leaves these as they were.
TABLES: Final = {
    Permission.PRODUCE: ("agent_jobs", "agent_job_lanes"),
    Permission.TOGGLE: ("system_worker_pause_state",),
    Permission.ADMINISTER: ("api_tokens", "agent_worker_tokens"),
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    from holdfast_core.db.migrations import migrate

    url = f"sqlite:///{tmp_path_factory.mktemp('hostile')}/holdfast.db"
    migrate(load_settings(database_url=url))
    return url


@pytest.fixture
def server(database: str) -> Generator[Server]:
    """One for each, since the guesses at logins of one would slow down the next."""
    with start_server(
        database,
        HOLDFAST_AUTH_PROVIDER="token",
        HOLDFAST_RATE_LIMIT_PER_SECOND="0",
        HOLDFAST_MAX_CONNECTIONS_PER_CALLER="0",
    ) as server:
        yield server


def tables(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """All that is stored, without what only says that somebody was there."""

    async def reading() -> dict[str, list[tuple[Any, ...]]]:
        loaded = load_settings(database_url=url)
        store = await open_database(loaded, SystemClock())
        try:
            return await dump(store)
        finally:
            await store.close()

    return anyio.run(reading)


def without_use(name: str, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The rows, of tokens without when they were used last."""
    if name not in {api_tokens.name, worker_tokens.name}:
        return rows
    used = list(metadata.tables[name].columns.keys()).index("last_used_at")
    return [(*row[:used], *row[used + 1 :]) for row in rows]


@pytest.mark.requirement("SEC-01")
@pytest.mark.parametrize("role", [*Role, None], ids=str)
def test_made_up_requests_are_no_500_leak_nothing_and_change_nothing_that_they_may_not(
    database: str, server: Server, role: Role | None, record_property: Callable[[str, object], None]
) -> None:
    admin = create_token_now(database, role="admin", user="root")
    held = create_token_now(database, workerId="holder")
    with httpx2.Client(base_url=server.url) as http:
        for _ in range(2):
            http.post("/api/queue/jobs", json={"type": "kept"}, headers=bearer(admin)).raise_for_status()
        claim = {"workerId": "holder", "leaseSeconds": 3_600}
        job = http.post("/api/queue/jobs/claim", json=claim, headers=bearer(held)).json()["job"]
        description = http.get("/openapi.json").json()
    token = None
    if role is Role.WORKER:
        token = create_token_now(database, workerId="w-1", types=["other"])
    elif role is not None:
        token = create_token_now(database, role=role, user=str(role))
    secrets = {admin.token[-40:], held.token[-40:], job["leaseToken"]}
    headers = {} if token is None else bearer(token)
    roles = frozenset() if role is None else effective({role})
    before = tables(database)

    schema = schemathesis.openapi.from_dict(description)
    schema.config.update(base_url=server.url)
    operations = [result.ok() for result in schema.get_all_operations()]
    session = requests.Session()
    session.trust_env = False
    told: Counter[int] = Counter()

    def send(case: Any) -> None:
        operation = case.operation
        operation_id = operation.definition.raw["operationId"]
        lasts = operation_id in LASTS
        if operation_id in {"revoke_token", "revoke_worker_token"} and role is Role.ADMIN:
            return  # it may, and what it would end is what these tests come in by
        case.headers = {
            name: value for name, value in (case.headers or {}).items() if name.casefold() != "authorization"
        }
        case.cookies = {}
        try:
            answer = case.call(
                session=session, headers=headers, timeout=LASTING_SECONDS if lasts else ANSWER_SECONDS
            )
        except (requests.exceptions.Timeout, requests.exceptions.ConnectionError):
            assert lasts, operation_id
            return
        status, text = answer.status_code, answer.text
        told[status] += 1
        permission = ROUTES[f"{operation.method.upper()} {operation.path}"]
        assert status < 500, (operation_id, status, text)
        if permission is not Permission.OPEN:
            if role is None:
                assert status in {400, 401, 403, 405, 413, 415, 421, 429, 431}, (operation_id, status)
            elif not may(roles, permission):
                assert status in {400, 401, 403, 404, 405, 413, 415, 421, 422, 431}, (operation_id, status)
                assert status != 422 or permission is Permission.TOGGLE, (operation_id, text)
        for innard in INNARDS:
            assert innard not in text, (operation_id, text)
        for secret in secrets:
            assert secret not in text, operation_id

    examples = max(1, REQUESTS // len(operations) // 2)
    rounds = 0
    while sum(told.values()) < REQUESTS and rounds < MOST_ROUNDS:
        rounds += 1
        for number, operation in enumerate(operations):
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                strategy = operation.as_strategy(generation_mode=mode)

                @seed(number + rounds * 1_000)
                @settings(
                    max_examples=examples,
                    deadline=None,
                    database=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                @given(case=strategy)
                def each(case: Any) -> None:
                    send(case)

                with suppress(Unsatisfiable):  # there is nothing in it that could be wrong
                    each()
    print(f"as {role}: {sum(told.values()):,} requests, answers by status {dict(sorted(told.items()))}")
    record_property("requests", sum(told.values()))
    record_property("answers by status", dict(sorted(told.items())))
    assert sum(told.values()) >= REQUESTS
    after = tables(database)
    for permission, names in TABLES.items():
        if may(roles, permission):
            continue
        for name in names:
            if name == "agent_jobs" and role is Role.WORKER:
                continue  # it may take jobs; the one that another holds is looked at below
            assert without_use(name, after[name]) == without_use(name, before[name]), name
    row = next(row for row in after["agent_jobs"] if str(row[0]) == job["id"])
    was = next(row for row in before["agent_jobs"] if str(row[0]) == job["id"])
    if not may(roles, Permission.PRODUCE):
        assert row == was
    assert "Traceback" not in server.log
    assert admin.token[-40:] not in server.log
