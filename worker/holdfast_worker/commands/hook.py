"""`holdfast hook`: what an agent's CLI runs before each tool call, so that the agent parks under a quiesce."""

import os
import signal
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

import click

from holdfast_worker.terminal.options import DURATION, server
from holdfast_worker.terminal.output import say

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

    from holdfast_worker.hook.answers import Verdict
    from holdfast_worker.hook.call import ToolCall

__all__ = ["hook"]


class _Hook(click.Group):
    """Ends with 0 whatever it is given: a CLI takes 2 for a refusal of the tool, and 1 for a broken hook."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["install"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "install":
            return None
        from holdfast_worker.hook.installing import install

        return install

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        with _never_refusing("install" in args):
            return super().make_context(info_name, args, parent, **extra)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        with _never_refusing(args[0] == "install" or ctx.resilient_parsing):
            return super().resolve_command(ctx, args)


@contextmanager
def _never_refusing(is_for_people: bool) -> "Generator[None]":
    """A line in somebody's settings that is wrong is told to the person at the CLI, and refuses no tool."""
    try:
        yield
    except click.UsageError as error:
        if is_for_people or sys.stdin is None or sys.stdin.isatty():
            raise
        _answer(_broken(f"its command line is wrong: {error.format_message()}"))
        raise click.exceptions.Exit(0) from None


class _Ended(BaseException):
    """Somebody ends the hook."""


@click.group(cls=_Hook, invoke_without_command=True)
@click.option(
    "--limit",
    type=DURATION,
    default="540s",
    show_default=True,
    help="How long it waits at most; then the tool is refused. Below the time-out that the CLI gives the hook.",
)
@click.option(
    "--worker-id",
    metavar="ID",
    help="Outside a worker: whose jobs are parked, and whose leases are kept, while it waits.",
)
@click.option(
    "--lease-seconds",
    type=click.IntRange(1, 86_400),
    default=300,
    show_default=True,
    help="With --worker-id: how long each heartbeat keeps a lease; a longer one stays longer.",
)
@server
@click.pass_context
def hook(
    ctx: click.Context,
    limit: float,
    worker_id: str | None,
    lease_seconds: int,
    url: str | None,
    token: str | None,
) -> None:
    """Park an agent between two tool calls while workers are quiesced.

    The command of a PreToolUse hook of Claude Code or Codex, which `holdfast hook install` sets up; it reads the
    call from stdin. While workers run it says nothing, and the tool runs. While they are quiesced it waits; after
    --limit the tool is refused, and the agent told to wait. Inside a job of `holdfast worker` the worker says which;
    elsewhere the server does, and where it does not answer the tool runs. It always ends with 0.
    """
    if ctx.invoked_subcommand is not None:
        return
    if sys.stdin is None or sys.stdin.isatty():
        say("This is what an agent's CLI runs before a tool call, with the call on stdin; see --help.")
        return
    with suppress(OSError, ValueError):
        _run(limit, worker_id, lease_seconds, url, token)


def _run(limit: float, worker_id: str | None, lease_seconds: int, url: str | None, token: str | None) -> None:
    from holdfast_worker.hook.answers import CUT_SHORT
    from holdfast_worker.hook.call import read_call

    signs = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
    try:
        for sign in signs:
            signal.signal(sign, _end)
        call = read_call(sys.stdin.buffer.read())
        if call is None:
            return
        verdict = _verdict(call, limit, worker_id, lease_seconds, url, token)
    except _Ended:
        verdict = CUT_SHORT
    for sign in signs:  # one answer, and a whole one
        signal.signal(sign, signal.SIG_IGN)
    _answer(verdict)


def _verdict(
    call: "ToolCall",
    limit: float,
    worker_id: str | None,
    lease_seconds: int,
    url: str | None,
    token: str | None,
) -> "Verdict":
    control_url, job_token = os.environ.get("HOLDFAST_CONTROL_URL"), os.environ.get("HOLDFAST_JOB_TOKEN")
    try:
        if control_url and job_token:
            from holdfast_worker.hook.jobs import hold_in_job

            return hold_in_job(call, control_url, job_token, limit=limit)
        from holdfast_worker.client import Client
        from holdfast_worker.hook.pulled import hold_for_server

        with Client(url, token=token) as client:
            return hold_for_server(
                client, call, limit=limit, worker_id=worker_id, lease_seconds=lease_seconds
            )
    except Exception as error:
        return _broken(str(error) or type(error).__name__)


def _broken(why: str) -> "Verdict":
    from holdfast_worker.hook.answers import Passed

    return Passed(f"Holdfast's hook cannot hold this tool, so it runs: {why}")


def _end(number: int, frame: "FrameType | None") -> NoReturn:
    raise _Ended


def _answer(verdict: "Verdict") -> None:
    # Past sys.stdout, which would complain at its end where nobody listens any more.
    if text := verdict.text:
        with suppress(OSError):
            os.write(1, text.encode())
