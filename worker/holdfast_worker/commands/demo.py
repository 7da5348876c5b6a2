"""`holdfast demo`: see a pause work, on this machine, with a server, workers and work that are real."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast_worker.terminal.exits import Exit, stop
from holdfast_worker.terminal.options import as_json
from holdfast_worker.terminal.output import say, write_facts, write_json, write_table

if TYPE_CHECKING:
    from holdfast_worker.demo.driver import Report

__all__ = ["demo"]


@click.command()
@click.option(
    "--source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The tree whose Python files are compiled; by default Python's own library without its tests.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 5_000),
    default=60,
    show_default=True,
    help="How many files at most, spread evenly over the tree.",
)
@click.option(
    "--workers", type=click.IntRange(1, 16), default=3, show_default=True, help="How many processes."
)
@click.option(
    "--pace",
    type=click.FloatRange(0, 60),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="How long a job takes at least, half of it to one and a half: compiling takes milliseconds,"
    " too short for a drain to be seen.",
)
@click.option("--keep", is_flag=True, help="Leave the server up at the end, until Ctrl-C.")
@as_json
def demo(source: Path | None, limit: int, workers: int, pace: float, keep: bool, as_json: bool) -> None:
    """Try it: pause real work on this machine, and see it drain.

    Starts a server on an empty database in a temporary folder, enqueues one job for each Python file
    (compile it, hash it), runs workers, pauses them when a third is done, waits until it is safe to
    upgrade, shows that nothing moves, resumes, and checks the server's own data: every job done exactly
    once, both toggles in the audit log. Takes about half a minute. Needs `pip install 'holdfast[server]'`.
    Your own database and settings are not touched; processes and files are gone at the end.
    """
    from holdfast_worker.demo.driver import DemoFailed, Plan, running_demo
    from holdfast_worker.demo.files import choose_files

    selection = choose_files(source, limit)
    if not selection.files:
        raise click.BadParameter(f"there is no Python file below {selection.root}", param_hint="--source")
    start = time.monotonic()

    def tell(line: str) -> None:
        say(f"[{time.monotonic() - start:5.1f} s] {line}")

    try:
        with running_demo(Plan(selection, workers, pace, tell)) as running:
            report = running.run()
            if as_json:
                write_json(json.dumps(_summary(report)).encode())
            else:
                _show(report)
            if keep:
                say(
                    f"The server stays up at {running.url}, its dashboard at {running.url}/tasks. Ctrl-C ends it."
                )
                try:
                    running.stay()
                except KeyboardInterrupt:
                    say("Ending.")
    except DemoFailed as error:
        if as_json:
            write_json(json.dumps({"ok": False, "error": str(error)}).encode())
        stop(Exit.FAILED, f"The demo failed. {error}")
    except KeyboardInterrupt:
        say("Interrupted; the demo's processes and files are gone.")
        raise
    failed = [check.name for check in report.checks if not check.ok]
    if failed:
        stop(Exit.FAILED, f"These checks failed: {'; '.join(failed)}.")


def _show(report: "Report") -> None:
    from holdfast_worker.terminal.views import EVENT_COLUMNS, event_row

    run = report.run
    checks = [
        (check.name, ("ok", "green") if check.ok else ("FAILED", "bold red"), check.detail)
        for check in report.checks
    ]
    write_table(("CHECK", "RESULT", "FIGURES"), checks)
    click.echo()
    click.echo("The audit log:")
    write_table(EVENT_COLUMNS, [event_row(event) for event in run.events])
    click.echo()
    bad = _not_compiled(report)
    paused = run.resumed.system.updated_at - run.paused.system.updated_at
    facts: list[tuple[str, Any]] = [
        ("Files", f"{len(run.selection.files)} of {run.selection.found} below {run.selection.root}"),
        (
            "Not compiled",
            f"{len(bad)}" + (f" (reported by the workers: {', '.join(bad[:5])})" if bad else ""),
        ),
        ("Workers", f"{len(run.workers)}"),
        ("Paused for", f"{paused.total_seconds():.1f} s"),
        ("Took", f"{report.seconds:.1f} s"),
        ("Result", ("all checks hold", "bold green") if report.ok else ("not all checks hold", "bold red")),
    ]
    if run.selection.too_large:
        facts.insert(1, ("Left out", f"{run.selection.too_large} files above 1 MiB"))
    write_facts(facts)


def _summary(report: "Report") -> dict[str, Any]:
    run = report.run
    return {
        "ok": report.ok,
        "seconds": round(report.seconds, 1),
        "source": str(run.selection.root),
        "filesFound": run.selection.found,
        "filesTooLarge": run.selection.too_large,
        "jobs": len(run.jobs),
        "workers": len(run.workers),
        "notCompiled": _not_compiled(report),
        "staleRequeued": run.requeued,
        "workersEnded": list(run.died),
        "checks": [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in report.checks],
        "audit": [event.model_dump(mode="json") for event in run.events],
    }


def _not_compiled(report: "Report") -> list[str]:
    return sorted(str(r["path"]) for r in report.run.results.values() if r.get("compiled") is False)
