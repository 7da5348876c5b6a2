"""What the verbs that control a worker of this host share: which one is meant, and how it is shown."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import click

from holdfast_worker.terminal.exits import Exit, stop
from holdfast_worker.terminal.output import COLOURS, Cell, write_facts, write_json
from holdfast_worker.terminal.text import moment

if TYPE_CHECKING:
    from holdfast_worker.runtime.discovery import Found
    from holdfast_worker.runtime.status import JobAtWork, WorkerStatus

__all__ = ["chosen", "show", "told", "which"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def which(verb: Callable[_P, _R]) -> Callable[_P, _R]:
    """The option `--worker-id`, needed only where several run."""
    return click.option(
        "--worker-id",
        envvar="HOLDFAST_WORKER_ID",
        show_envvar=True,
        metavar="ID",
        help="Which worker; needed where several run on this host.",
    )(verb)


def chosen(worker_id: str | None) -> "Found":
    """The worker that is meant. Ends with 6 where it does not run, with 2 where several could be meant."""
    from holdfast_worker.runtime.discovery import running_workers

    running = running_workers()
    if not running:
        named = "" if worker_id is None else f", and so no {worker_id!r}"
        stop(
            Exit.UNREACHABLE,
            f"No worker runs on this host under this user{named}. Start one with `holdfast worker run`.",
        )
    if worker_id is None:
        if len(running) > 1:
            stop(
                Exit.USAGE,
                f"Several workers run here: say which with --worker-id. They are {_listed(running)}.",
            )
        return running[0]
    found = next((one for one in running if one.worker_id == worker_id), None)
    if found is None:
        stop(
            Exit.UNREACHABLE,
            f"No worker {worker_id!r} runs on this host under this user; what runs is {_listed(running)}.",
        )
    return found


@contextmanager
def told(found: "Found") -> Generator[None]:
    """A worker that does not answer ends the verb with 6."""
    from holdfast_worker.runtime.control.asking import WorkerGone

    try:
        yield
    except WorkerGone as error:
        stop(
            Exit.UNREACHABLE,
            f"The worker {found.worker_id!r} (process {found.pid}) does not answer: {error}.",
        )


def show(body: bytes, *, as_json: bool) -> "WorkerStatus":
    """Write a WorkerStatus to stdout. Raises WorkerGone where it is none."""
    from holdfast_worker.runtime.control.asking import parsed

    status = parsed(body)
    if as_json:
        write_json(body)
    else:
        write_facts(_facts(status))
    return status


def _listed(running: "Sequence[Found]") -> str:
    return ", ".join(f"{one.worker_id} (process {one.pid})" for one in running)


def _facts(status: "WorkerStatus") -> Sequence[tuple[str, Cell]]:
    local: Cell = "takes work"
    if status.stopping:
        local = ("stopping: takes nothing new, ends once its jobs have", "yellow")
    elif status.locally_paused:
        local = ("paused by its operator, until resumed or restarted", "bold yellow")
    facts: list[tuple[str, Cell]] = [
        ("Worker", status.worker_id),
        ("State", (status.variant, _VARIANT_COLOURS.get(status.variant, ""))),
        ("Local", local),
        ("System", _system(status)),
        (
            "Server",
            f"{status.url} ({status.transport}, {'connected' if status.connected else 'not connected'})",
        ),
        ("Process", f"{status.pid}, version {status.version}, since {moment(status.started_at)}"),
        ("Slots", f"{len(status.jobs)} of {status.slots} taken"),
    ]
    return facts + [("Job", (_job(job), COLOURS.get(job.phase, ""))) for job in status.jobs]


_VARIANT_COLOURS = {"idle": "green", "busy": "blue", "paused": "yellow", "disconnected": "bold red"}


def _system(status: "WorkerStatus") -> Cell:
    system = status.system
    if system is None:
        return "not heard of yet"
    if not system.workers_paused:
        return (f"running, version {system.version}", "green")
    mode = f" ({system.mode.capitalize()})" if system.mode else ""
    return (f"paused{mode}, version {system.version}: {system.reason or ''}", "yellow")


def _job(job: "JobAtWork") -> str:
    at = f" at {job.checkpoint}" if job.checkpoint else ""
    return f"{job.id} {job.type} attempt {job.attempt}, {job.phase}{at}, since {moment(job.started_at)}"
