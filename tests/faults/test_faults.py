"""Nothing is lost: clients against several servers while a nemesis is at work, and a checker that knows the promises.

Short versions of `python -m faults.run`; the long one is `make faults`. They need Linux and root, for namespaces, a
small tmpfs, and a clock that can be moved; where that is missing they are skipped, which fails the run in CI.
"""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from faults.checker import recoveries
from faults.clients import Pace
from faults.nemesis import KINDS
from faults.run import Plan, describe, run_round
from faults.world import DatabaseKind, missing
from support.postgres import Cluster, own_cluster

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(bool(missing()), reason=f"this machine lacks {', '.join(missing())}"),
]

#: Another one for each run of the tests by chance would make CI's word depend on it; `make faults` takes new ones.
SEED = int(os.environ.get("HOLDFAST_TEST_SEED", "20261130"))
#: Faults last this part of what they do in the long run.
HASTE = 0.4
#: Without faults there is time for many toggles, which a broken gate is found by, or for none at all.
EAGER = Pace(between=(0.0, 0.1), lasts=(0.01, 0.1))
CALM = Pace(operators=0)
#: At most: mostly it takes a second or two.
SECONDS_TO_FIND = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with own_cluster() as running:
        yield running


@pytest.mark.requirement("US1-1", "FR-003")
@pytest.mark.parametrize("database", ["postgresql", "sqlite"])
async def test_no_promise_is_broken_whatever_goes_wrong(
    database: DatabaseKind, cluster: Cluster, record_property: Any
) -> None:
    done = await run_round(Plan(database, SEED, seconds=5, haste=HASTE), cluster)
    assert not done.violations, describe(done)
    kinds = Counter(fault.kind for fault in done.history.faults)
    assert kinds.keys() == set(KINDS[database])
    outcomes = Counter(op.outcome for op in done.history.ops)
    assert outcomes["ok"] > 500
    assert outcomes["unknown"] > 10, "the faults were hardly felt"
    assert done.final.version > 5
    assert database == "sqlite" or recoveries(done.history), "no outage was looked at by itself"
    for name, counts in (("faults", kinds), ("operations", outcomes)):
        print(f"{database}: {name} {dict(counts)}")
        record_property(name, dict(counts))


@pytest.mark.parametrize("database", ["postgresql", "sqlite"])
async def test_a_broken_gate_is_found(database: DatabaseKind, cluster: Cluster) -> None:
    assert "gate" in await found("gate", database, EAGER, cluster)


async def test_a_missing_fence_is_found() -> None:
    assert "fence" in await found("fence", "sqlite", CALM)


async def test_a_dropped_line_of_the_audit_log_is_found() -> None:
    assert "audit" in await found("audit", "sqlite", EAGER)


async def found(mutant: str, database: DatabaseKind, pace: Pace, cluster: Cluster | None = None) -> set[str]:
    plan = Plan(database, SEED, SECONDS_TO_FIND, faults=False, mutant=mutant, sought=mutant, pace=pace)
    return {violation.rule for violation in (await run_round(plan, cluster)).violations}
