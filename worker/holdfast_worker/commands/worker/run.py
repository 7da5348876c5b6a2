"""`holdfast worker run`: a worker process."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from holdfast_worker.terminal.exits import Exit, stop
from holdfast_worker.terminal.options import DURATION, server

if TYPE_CHECKING:
    from holdfast_worker.runtime.running import Handler

__all__ = ["ONE_OF_BOTH", "run"]

#: What is wrong where neither or both are given.
ONE_OF_BOTH: Final = "Say what a job is to run: either --exec 'COMMAND' or --handler MODULE:FUNCTION."

_BOUNDARIES: Final = ("stage", "step", "tool")


def _boundaries(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """Names with commas between; `none` is none of them."""
    named = tuple(part.strip() for part in value.split(",") if part.strip())
    if named == ("none",):
        return ()
    if unknown := [name for name in named if name not in _BOUNDARIES]:
        raise click.BadParameter(
            f"{unknown[0]!r} is none of stage, step and tool (with commas between), or none."
        )
    return named


@click.command()
@server
@click.option(
    "--worker-id",
    envvar="HOLDFAST_WORKER_ID",
    show_envvar=True,
    metavar="ID",
    help="Unique among all workers; this host's name by default.",
)
@click.option("--types", metavar="TYPE,…", help="Only jobs of these types, with commas between.")
@click.option(
    "--capability", "capabilities", multiple=True, metavar="NAME", help="What jobs may require. Repeatable."
)
@click.option(
    "--slots", type=click.IntRange(1, 1_024), default=1, show_default=True, help="Jobs that run at once."
)
@click.option(
    "--lease",
    "lease_seconds",
    type=DURATION,
    default=60.0,
    show_default="60s",
    help="How long a claim lasts without a heartbeat.",
)
@click.option(
    "--transport",
    type=click.Choice(["auto", "ws", "http", "mcp"]),
    default="auto",
    show_default=True,
    help="auto: a push session, and REST where that cannot be had.",
)
@click.option(
    "--mcp-command",
    metavar="COMMAND",
    help="With --transport mcp: a server on stdio, instead of the one at --url.",
)
@click.option(
    "--checkpoints",
    default="stage,step,tool",
    show_default=True,
    callback=_boundaries,
    metavar="stage,step,tool",
    help="Which boundaries count as safe to park at; none: explicit checkpoints only.",
)
@click.option(
    "--grace-seconds",
    type=click.FloatRange(0, 86_400),
    default=30.0,
    show_default="30",
    help="What running jobs get after SIGTERM.",
)
@click.option(
    "--kill-after",
    type=DURATION,
    default=10.0,
    show_default="10s",
    help="With --exec: from SIGTERM to SIGKILL of a command that is to stop.",
)
@click.option("--exec", "command", metavar="COMMAND", help="Run this in a shell for each job.")
@click.option("--handler", metavar="MODULE:FUNCTION", help="An `async def handle(job)` to import.")
@click.option(
    "--log-format",
    envvar="HOLDFAST_LOG_FORMAT",
    show_envvar=True,
    type=click.Choice(["console", "json"]),
    default="console",
)
def run(command: str | None, handler: str | None, log_format: Any, **given: Any) -> None:
    """Run jobs, until SIGTERM or Ctrl-C.

    With --exec the payload comes on stdin and in the file that HOLDFAST_PAYLOAD_FILE names, output goes into the job's
    log, and the result is the file that HOLDFAST_RESULT_FILE names or else the last line of stdout. Exit code 0 is
    success, 65 is final failure, any other is tried again while attempts are left. `holdfast checkpoint` is where such
    a command may be parked.

    A first signal lets running jobs end within --grace-seconds, a second one stops them; what is stopped or parked
    goes back to its place.
    """
    if (command is None) == (handler is None):
        raise click.UsageError(ONE_OF_BOTH)
    if not float(given["lease_seconds"]).is_integer():
        raise click.BadParameter("should be whole seconds.", param_hint="--lease")
    from holdfast_core.errors import ConfigurationError, InvalidRequest, NotAllowed, NotAuthenticated
    from holdfast_core.telemetry import configure_logs
    from holdfast_worker.runtime.worker import Worker

    configure_logs(log_format)
    chosen = _command(command, given) if command is not None else _imported(handler or "")
    types = given["types"]
    try:
        worker = Worker(
            chosen,
            url=given["url"],
            token=given["token"],
            worker_id=given["worker_id"],
            types=None if types is None else [part.strip() for part in types.split(",") if part.strip()],
            capabilities=given["capabilities"],
            slots=given["slots"],
            lease_seconds=int(given["lease_seconds"]),
            transport=given["transport"],
            mcp_command=_words(given["mcp_command"]),
            checkpoints=given["checkpoints"],
            grace_seconds=given["grace_seconds"],
        )
    except ConfigurationError as error:
        stop(Exit.USAGE, str(error))
    try:
        worker.run()
    except InvalidRequest as error:
        stop(Exit.USAGE, f"The server refuses this worker: {error.detail}")
    except (NotAuthenticated, NotAllowed) as error:
        stop(
            Exit.NOT_ALLOWED,
            f"The server does not let this worker in: {error.detail} A worker takes a token of its own, with"
            " HOLDFAST_TOKEN: `holdfast token create --worker-id ID` makes one.",
        )


def _words(command: str | None) -> list[str] | None:
    if command is None:
        return None
    import shlex

    try:
        return shlex.split(command)
    except ValueError as error:
        raise click.BadParameter(f"{error}", param_hint="--mcp-command") from None


def _command(command: str, given: dict[str, Any]) -> "Handler":
    if not command.strip():
        raise click.BadParameter("is empty.", param_hint="--exec")
    from holdfast_worker.runtime.execution import command_handler

    return command_handler(command, kill_after_seconds=given["kill_after"])


def _imported(where: str) -> "Handler":
    """The function that `module:function` names, from the folder that we are in or from what is installed."""
    import importlib
    import inspect
    import sys

    module_name, _, name = where.partition(":")
    if not module_name or not name:
        _refuse(where, "is not like package.module:function.")
    if os.getcwd() not in sys.path:  # noqa: PTH109 (sys.path holds text)
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise  # its own import fails: the traceback says where
        _refuse(where, f"there is no module {error.name!r} here or among what is installed.")
    found: Callable[..., Any] | None = getattr(module, name, None)
    if found is None:
        _refuse(where, f"the module {module_name!r} has no {name!r}.")
    call = getattr(found, "__call__", None)  # noqa: B004 (an object whose call is async)
    if not inspect.iscoroutinefunction(found) and not inspect.iscoroutinefunction(call):
        _refuse(
            where,
            "is not an `async def`. A plain function would block the heartbeats and could not be stopped: make it one"
            " (anyio.to_thread.run_sync for what blocks), or use --exec.",
        )
    return found


def _refuse(where: str, why: str) -> NoReturn:
    raise click.BadParameter(f"{where!r}: {why}", param_hint="--handler")
