"""`holdfast hook install`: what makes an agent's CLI call the hook, printed or written."""

import math
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Final

import click

from holdfast_worker.hook.clis import CLIS, Cli
from holdfast_worker.hook.files import ChangedMeanwhile, read, replace
from holdfast_worker.hook.settings import Unreadable, merged, parse, rendered
from holdfast_worker.hook.trust import CodexFails, trust_in_codex
from holdfast_worker.terminal.exits import Exit, stop
from holdfast_worker.terminal.options import DURATION
from holdfast_worker.terminal.output import say
from holdfast_worker.terminal.program import own_program
from holdfast_worker.terminal.text import escaped

__all__ = ["install"]

#: What the CLI's time-out of the hook lies above the hook's own limit.
MARGIN_SECONDS: Final = 60


@click.command(short_help="Print or write the settings that make an agent's CLI run it.")
@click.option("--client", type=click.Choice(list(CLIS)), required=True, help="For whom.")
@click.option(
    "--user/--project", "for_user", default=True, help="For all folders (default), or for this one."
)
@click.option("--write", is_flag=True, help="Put it into the file, and leave everything else there as it is.")
@click.option(
    "--trust",
    is_flag=True,
    help="With --write, for Codex: have it trust the hook, which it else skips silently.",
)
@click.option(
    "--codex",
    "program",
    metavar="PROGRAM",
    default="codex",
    help="With --trust: the Codex to ask; by default the one on the path.",
)
@click.option(
    "--limit",
    type=DURATION,
    default="55m",
    show_default=True,
    help="How long a tool call waits at most; then it is refused.",
)
@click.option("--worker-id", metavar="ID", help="For an agent that pulls jobs by itself: keep its leases.")
@click.option(
    "--lease-seconds", type=click.IntRange(1, 86_400), help="With --worker-id: how long each is kept."
)
@click.option("--url", metavar="URL", help="Outside a worker: the server to ask; else HOLDFAST_URL.")
def install(
    client: str,
    for_user: bool,
    write: bool,
    trust: bool,
    program: str,
    limit: float,
    worker_id: str | None,
    lease_seconds: int | None,
    url: str | None,
) -> None:
    """Print the settings that make an agent's CLI run `holdfast hook` before each tool call.

    With --write they go into the CLI's own file: what else is there stays, a copy of it is kept beside it, and a second
    run changes nothing. A token is never written: the hook takes it from HOLDFAST_TOKEN.
    """
    cli = CLIS[client]
    if trust and (not write or client != "codex"):
        raise click.UsageError("--trust belongs to --write --client codex")
    if lease_seconds is not None and worker_id is None:
        raise click.UsageError("--lease-seconds belongs to --worker-id")
    words = [_program(for_user=for_user), "hook", "--limit", f"{math.ceil(limit)}s"]
    for option, value in (("--url", url), ("--worker-id", worker_id), ("--lease-seconds", lease_seconds)):
        if value is not None:
            words += [option, str(value)]
    command = subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
    timeout = math.ceil(limit) + MARGIN_SECONDS
    path = cli.path(project=not for_user)
    if not write:
        click.echo(escaped_lines(rendered(merged({}, command, timeout))), nl=False)
        say(f"Put this into {path}, or add --write.")
        say(cli.trust)
        return
    _write(cli, path, command, timeout)
    if not trust:
        say(cli.trust)
        return
    _trust(cli, path, program)


def escaped_lines(text: str) -> str:
    """JSON on several lines, with nothing in it that a terminal would obey."""
    return "".join(escaped(line) + "\n" for line in text.splitlines())


def _program(*, for_user: bool) -> str:
    """How the hook names the program. In a project's file, which travels, by its name alone; else by its path, since a
    CLI passes over a hook that it cannot find."""
    return own_program() or "holdfast" if for_user else "holdfast"


def _write(cli: Cli, path: Path, command: str, timeout: int) -> None:
    try:
        before = read(path)
        document = parse("" if before is None else before.decode("utf-8-sig"))
        wanted = merged(document, command, timeout)
        if wanted == document:
            say(f"{path} has the hook already.")
            return
        backup = replace(path, before, rendered(wanted).encode())
    except (Unreadable, UnicodeDecodeError) as error:
        stop(
            Exit.FAILED,
            f"{path} is not touched, since it cannot be read: {error}. Mend it, then run this again.",
        )
    except ChangedMeanwhile:
        stop(Exit.FAILED, f"{path} is not touched, since somebody else is writing it. Run this again.")
    except OSError as error:
        stop(Exit.FAILED, f"{path} cannot be written: {error.strerror}.")
    kept = "" if backup is None else f" What was there is kept in {backup}."
    say(f"{path} has the hook of {cli.title} now.{kept}")


def _trust(cli: Cli, path: Path, program: str) -> None:
    try:
        changed = trust_in_codex(shutil.which(program) or program, path)
    except CodexFails as error:
        stop(Exit.FAILED, f"The hook is in {path}, but not trusted yet: {error}. {cli.trust}")
    say("Codex trusts it now." if changed else "Codex trusts it already.")
