"""Nothing is lost: clients against several servers while a nemesis is at work, and a checker that knows the promises.

Short versions of `python -m faults.run`; the long one is `make soak`. They need Linux and root, for namespaces, a small
tmpfs, and a clock that can be moved; where that is missing they are skipped, which fails the run in CI.
"""

import os
from collections import Counter
from typing import Any

import pytest

from faults.clients import Pace
from faults.nemesis import KINDS
from faults.run import Plan, describe, run_round
from faults.world import DatabaseKind, missing

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(bool(missing()), reason=f"this machine lacks {', '.join(missing())}"),
]

#: Another one for each run of the tests by chance would make CI's word depend on it; `make soak` takes new ones.
SEED = int(os.environ.get("HOLDFAST_TEST_SEED", "20261130"))
#: Without faults there is time for many toggles, which is what a broken server is found by.
EAGER = Pace(between=(0.0, 0.1), lasts=(0.01, 0.1))
SECONDS_TO_FIND = 8.0


@pytest.mark.requirement("US1-1", "FR-003")
@pytest.mark.parametrize("database", ["postgresql", "sqlite"])
async def test_no_promise_is_broken_whatever_goes_wrong(database: DatabaseKind, record_property: Any) -> None:
    done = await run_round(Plan(database, SEED, seconds=5))
    assert not done.violations, describe(done)
    kinds = Counter(fault.kind for fault in done.history.faults)
    assert kinds.keys() == set(KINDS[database])
    outcomes = Counter(op.outcome for op in done.history.ops)
    assert outcomes["ok"] > 1_000
    assert outcomes["unknown"] > 10, "the faults were hardly felt"
    assert done.final.version > 10
    for name, counts in (("faults", kinds), ("operations", outcomes)):
        print(f"{database}: {name} {dict(counts)}")
        record_property(name, dict(counts))


@pytest.mark.parametrize("database", ["postgresql", "sqlite"])
async def test_a_broken_gate_is_found(database: DatabaseKind) -> None:
    assert "gate" in await found("gate", database)


async def test_a_missing_fence_is_found() -> None:
    assert "fence" in await found("fence", "sqlite")


async def test_a_dropped_line_of_the_audit_log_is_found() -> None:
    assert "audit" in await found("audit", "sqlite")


async def test_without_a_mutant_the_same_run_finds_nothing() -> None:
    assert await found(None, "sqlite") == set()


async def found(mutant: str | None, database: DatabaseKind) -> set[str]:
    plan = Plan(database, SEED, SECONDS_TO_FIND, faults=False, mutant=mutant, pace=EAGER)
    return {violation.rule for violation in (await run_round(plan)).violations}
