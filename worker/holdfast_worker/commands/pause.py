"""`holdfast pause`: stop all claims, and wait for the drain if asked to."""

from typing import TYPE_CHECKING, Final

import click

from holdfast_worker.terminal.exits import Exit, stop
from holdfast_worker.terminal.options import DURATION, as_json, connected, server
from holdfast_worker.terminal.output import say, write_facts, write_json
from holdfast_worker.terminal.surely import surely

if TYPE_CHECKING:
    from holdfast_core.schemas import ControlSnapshot, Snapshot
    from holdfast_worker.terminal.waiting import Goal

__all__ = ["pause"]

#: The shortest and the longest time limit of a pause; the server holds them, too.
LEAST_SECONDS: Final = 60
MOST_SECONDS: Final = 7 * 86_400


@click.command()
@click.option(
    "--mode",
    type=click.Choice(["drain", "quiesce"]),
    required=True,
    help="drain: running jobs finish. quiesce: they park at their next checkpoint.",
)
@click.option("--reason", required=True, help="Why; it goes into the audit log and the banner.")
@click.option(
    "--expected-version", type=click.IntRange(min=1), help="Refused (3) unless the pause is at this version."
)
@click.option(
    "--for",
    "limit",
    type=DURATION,
    help="The pause ends by itself after this, like 30m, drained or not: a minute to 7 days.",
)
@click.option(
    "--until",
    metavar="TIME",
    help="The same, at this time, like 2026-02-20T01:55:00Z: at most 7 days from now.",
)
@click.option("--idempotency-key", metavar="KEY", help="A repeat with the same key changes nothing more.")
@click.option("--wait", is_flag=True, help="Wait until drained, or in quiesce until all that runs is parked.")
@click.option("--timeout", type=DURATION, help="How long to wait at most, like 90s, 30m, 2h; by default 30m.")
@server
@as_json
def pause(
    mode: str,
    reason: str,
    expected_version: int | None,
    limit: float | None,
    until: str | None,
    idempotency_key: str | None,
    wait: bool,
    timeout: float | None,
    url: str | None,
    token: str | None,
    as_json: bool,
) -> None:
    """Pause all workers: no new claims, anywhere.

    Running jobs finish (drain) or park (quiesce); nothing is deleted, nothing is cancelled.

    With --wait the verb ends with 0 once it is safe to upgrade, with 4 when time is up, with 5 when
    nothing runs any more but stale jobs remain, and with 8 when somebody else resumed or changed the
    pause meanwhile. The pause stays in all of these cases.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout belongs to --wait")
    if limit is not None and until is not None:
        raise click.UsageError("--for and --until exclude each other")
    if limit is not None and not (LEAST_SECONDS <= limit <= MOST_SECONDS and limit == int(limit)):
        raise click.BadParameter("takes a minute to 7 days, in whole seconds", param_hint="--for")
    with connected(url, token) as client:
        from holdfast_worker.terminal.views import snapshot_facts

        made = surely(
            lambda key: client.pause(
                mode,
                reason,
                resume_after_seconds=None if limit is None else int(limit),
                resume_at=until,
                expected_version=expected_version,
                idempotency_key=key,
            ),
            idempotency_key,
        )
        snapshot: Snapshot = made
        body = client.last_answer
        say(f"{_said(made)} (version {snapshot.system.version}).")
        code, message = Exit.DONE, ""
        if wait:
            from holdfast_worker.terminal.waiting import wait_until

            goal: Goal = "parked" if mode == "quiesce" else "drained"
            try:
                outcome = wait_until(
                    client, goal, timeout_seconds=1_800.0 if timeout is None else timeout, pinned=snapshot
                )
            except KeyboardInterrupt:
                say("Stopped waiting; the pause stays. `holdfast resume --reason …` ends it.")
                raise
            code, message, body, snapshot = outcome.exit, outcome.message, outcome.body, outcome.snapshot
        if as_json:
            write_json(body)
        else:
            write_facts(snapshot_facts(snapshot))
        if code is not Exit.DONE:
            stop(code, message)
        if snapshot.metrics.safe_to_upgrade:
            say("Safe to upgrade.")


def _said(made: "ControlSnapshot") -> str:
    if made.replayed:
        return "Paused already, by an earlier request with this key"
    if any(event.outcome == "unchanged" for event in made.audit.latest[:1]):
        return "Paused already, just so"
    return "Paused: no claim is handed out until a resume"
