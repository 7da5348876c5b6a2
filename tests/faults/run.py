"""Runs: clients and a nemesis against servers, then the checker. `python -m faults.run --help` (PYTHONPATH=tests).

A run is made of rounds. Each has a database of its own, on PostgreSQL and on SQLite in turn, and a seed: that of the
run plus the round's number. The same seed makes the same clients with the same dice and the same faults; what the
machine makes of them may differ, so a violation is also kept: its history is written down, and shrunk to the calls that
show it.
"""

import argparse
import json
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, get_args

import anyio

from faults import clients
from faults.checker import Violation, check, recoveries, shrink
from faults.clients import Company, Pace
from faults.history import UNREACHABLE, History
from faults.history import Final as FinalState
from faults.nemesis import Nemesis
from faults.report import Report, RoundFigures, write_report
from faults.world import DatabaseKind, World, missing, open_world
from support.postgres import Cluster, own_cluster

__all__ = ["Plan", "Round", "describe", "run_round"]

#: How long a round's queue may take to run empty, once all faults are over.
SECONDS_TO_SETTLE: Final = 90.0
#: How often it is looked whether a rule that is sought is broken by now.
SECONDS_BETWEEN_CHECKS: Final = 0.5
#: Rounds of a long run, in seconds each: short enough that a history is easily checked.
ROUND_SECONDS: Final = 100.0
#: Many clients, since those that a stalled server keeps waiting do nothing meanwhile.
BUSY: Final = Pace(workers=48, producers=8)
DATABASES: Final[tuple[DatabaseKind, ...]] = get_args(DatabaseKind)


@dataclass(frozen=True)
class Plan:
    """One round."""

    database: DatabaseKind
    seed: int
    seconds: float
    faults: bool = True
    #: Faults last this part of what they may.
    haste: float = 1.0
    mutant: str | None = None
    #: It ends as soon as this rule is broken.
    sought: str | None = None
    pace: Pace = field(default_factory=Pace)


@dataclass
class Round:
    """What a round came to."""

    plan: Plan
    history: History
    final: FinalState
    violations: list[Violation]

    def figures(self) -> RoundFigures:
        """Its part of the report."""
        back = recoveries(self.history)
        return RoundFigures(
            database=self.plan.database,
            seed=self.plan.seed,
            operations=dict(
                Counter(f"{op.verb} {op.outcome}" if op.reached else UNREACHABLE for op in self.history.ops)
            ),
            faults=dict(Counter(fault.kind for fault in self.history.faults)),
            jobs=len(self.final.jobs),
            versions=self.final.version,
            recoveries=[found.seconds for found in back],
            rates=[found.rate_before for found in back],
            violations=[f"{one.rule}: {one.text}" for one in self.violations],
        )


async def run_round(plan: Plan, cluster: Cluster | None = None) -> Round:
    """One round on a new database, and what the checker says of it."""
    history = History(plan.database, plan.seed)
    async with open_world(plan.database, cluster=cluster, mutant=plan.mutant, small=not plan.faults) as world:
        company = Company(history, world.nodes, plan.seed, world.look, plan.pace)
        if not plan.faults:
            company.real = 0.0  # a small world has no worker process
        async with anyio.create_task_group() as at_work:
            for name, client, count in (
                ("worker", clients.worker, plan.pace.workers),
                ("reader", clients.reader, 1),
            ):
                for number in range(count):
                    at_work.start_soon(client, company, f"{name}-{number}")
            async with anyio.create_task_group() as making:
                for name, client, count in (
                    ("producer", clients.producer, plan.pace.producers),
                    ("operator", clients.operator, plan.pace.operators),
                    ("janitor", clients.janitor, 1),
                ):
                    for number in range(count):
                        making.start_soon(client, company, f"{name}-{number}")
                if plan.faults:
                    await Nemesis(world, company, time.monotonic() + plan.seconds, plan.haste).run()
                else:
                    with anyio.move_on_after(plan.seconds):
                        await _until_broken(plan.sought, history, world)
                company.closing = True
            died = [node.name for node in world.nodes if node.process.poll() is not None]
            # A mutant may keep the queue from ever running empty.
            settled = plan.mutant is None and await _settle(world, company)
            told = world.worker_tells()
            at_work.cancel_scope.cancel()
        final = await world.final(settled=plan.mutant is None)
        violations = check(history, final)
        violations += [Violation("crash", f"the server {name} ended by itself") for name in died]
        if not settled and plan.mutant is None:
            violations.insert(0, Violation("stuck", f"the queue did not run empty; {told}"))
        for node in world.nodes:
            if "pause_violated" in node.log or "pause_version_fell" in node.log or "Traceback" in node.log:
                violations.append(Violation("log", f"the log of {node.name}: {_telling(node.log)}"))
    return Round(plan, history, final, violations)


async def _until_broken(rule: str | None, history: History, world: World) -> None:
    before = set[str]()
    while True:
        await anyio.sleep(SECONDS_BETWEEN_CHECKS)
        final = await world.final(settled=False)
        broken = {found.text for found in check(history, final) if found.rule == rule}
        if broken & before:  # what is under way while we look may look broken once
            return
        before = broken


def _telling(log: str) -> str:
    words = ("pause_violated", "pause_version_fell", "Traceback")
    return next(line for line in log.splitlines() if any(word in line for word in words))[:2_000]


async def _settle(world: World, company: Company) -> bool:
    """Wait until all jobs have ended, with everything well. Returns whether they did."""
    for node in world.nodes:
        if node.clock is not None and world.store.kind == "sqlite":
            node.clock.set(node.clock.furthest)  # leases and back-offs may end only then
    with anyio.move_on_after(SECONDS_TO_SETTLE):
        await clients.make_run(company, "settling")
        while await world.unfinished():
            await anyio.sleep(0.2)
        return True
    return False


def describe(done: Round, folder: Path | None = None) -> str:
    """What was broken, with the fewest calls that show it, and how to run it again."""
    lines: list[str] = []
    if folder is not None:
        path = folder / f"history-{done.plan.database}-{done.plan.seed}.jsonl"
        done.history.save(path, done.final)
        lines.append(f"The whole history: {path}")
    rules: set[str] = set()
    for violation in done.violations:
        if violation.rule in rules:
            continue
        rules.add(violation.rule)
        lines.append(f"{violation.rule}: {violation.text}")
        if violation.ops:
            begin = done.history.ops[0].call
            for op in shrink(done.history, done.final, violation):
                end = "?" if op.end is None else f"{op.end - begin:.4f}"
                lines.append(
                    f"  {op.call - begin:.4f} to {end} {op.client} at {op.server}: {op.verb} {json.dumps(op.args)}"
                    f" -> {op.outcome} {op.status} {json.dumps(op.answer)}"
                )
    lines.append(
        f"Again: PYTHONPATH=tests python -m faults.run --database {done.plan.database} --seed {done.plan.seed}"
        f" --seconds {done.plan.seconds:g} --rounds 1"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The long run. Returns 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="faults.run", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the first round; else one by chance")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, help="so many, instead of so many minutes")
    parser.add_argument("--seconds", type=float, default=ROUND_SECONDS, help="of one round")
    parser.add_argument("--database", choices=DATABASES, help="else both, in turn")
    parser.add_argument("--report", type=Path, help="a folder for report.json, report.md and histories")
    said = parser.parse_args(arguments)
    lacks = missing()
    if lacks:
        print(f"This machine lacks {', '.join(lacks)}.", file=sys.stderr)
        return 2
    seed = secrets.randbelow(1_000_000) if said.seed is None else said.seed
    folder = said.report or Path(tempfile.mkdtemp(prefix="holdfast-faults-report-"))
    folder.mkdir(parents=True, exist_ok=True)
    databases = DATABASES if said.database is None else (said.database,)
    begun = time.monotonic()
    until = begun + said.minutes * 60
    report = Report(seed=seed)
    with ExitStack() as stack:
        cluster = stack.enter_context(own_cluster()) if "postgresql" in databases else None
        while time.monotonic() < until if said.rounds is None else len(report.rounds) < said.rounds:
            number = len(report.rounds)
            plan = Plan(databases[number % len(databases)], seed + number, said.seconds, pace=BUSY)
            print(f"round {number + 1}: {plan.database}, seed {plan.seed}", flush=True)
            done = anyio.run(run_round, plan, cluster, backend_options={"use_uvloop": True})
            report.rounds.append(done.figures())
            report.minutes = (time.monotonic() - begun) / 60
            print(f"  {report.rounds[-1].line()}", flush=True)
            if done.violations:
                print(describe(done, folder), flush=True)
            write_report(report, folder)
    print(report.markdown())
    print(f"Written to {folder}")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
