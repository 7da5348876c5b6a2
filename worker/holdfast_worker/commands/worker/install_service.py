"""`holdfast worker install-service`: a worker that systemd starts, or that it keeps ready to be started."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from holdfast_worker.commands.worker.run import ONE_OF_BOTH, run
from holdfast_worker.terminal.exits import Exit, stop
from holdfast_worker.terminal.output import say

if TYPE_CHECKING:
    from holdfast_worker.service.systemd import Manager
    from holdfast_worker.service.unit import Unit

__all__ = ["install_service", "manager_option", "unit_name"]

#: What a worker reads, taken over from the environment of the installation.
_VARIABLES: Final = (
    "HOLDFAST_URL",
    "HOLDFAST_TOKEN",
    "HOLDFAST_WORKER_ID",
    "HOLDFAST_PAUSE_POLL_INTERVAL_MS",
    "HOLDFAST_CHECKPOINT_TIMEOUT_SECONDS",
    "HOLDFAST_LOG_FORMAT",
    "SSL_CERT_FILE",
)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")

manager_option = click.option(
    "--system/--user", "is_system", default=False, help="A service of the host, or (default) of this user."
)


def unit_name(name: str | None, worker_id: str | None) -> str:
    """The name of the unit, without its ending."""
    if name is None:
        return "holdfast-worker" + ("-" + re.sub(r"[^A-Za-z0-9._-]", "-", worker_id) if worker_id else "")
    if not _NAME.fullmatch(name.removesuffix(".service")):
        raise click.BadParameter("takes letters, digits, dots, dashes and underscores.", param_hint="--name")
    return name.removesuffix(".service")


@click.command(
    context_settings={"ignore_unknown_options": True},
    options_metavar="[--system] [--no-auto-start] [--name NAME]",
)
@manager_option
@click.option(
    "--auto-start/--no-auto-start",
    default=True,
    help="Start it now, with the host or the login, and after a failure (default); or only when somebody does.",
)
@click.option("--name", metavar="NAME", help="The unit's; by default holdfast-worker, and the worker's id.")
@click.option("--run-as", metavar="USER", help="With --system, and needed there: the user that it runs as.")
@click.option("--print", "print_it", is_flag=True, help="Print the unit, and install nothing.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="OPTIONS OF `holdfast worker run`")
def install_service(
    is_system: bool,
    auto_start: bool,
    name: str | None,
    run_as: str | None,
    print_it: bool,
    options: tuple[str, ...],
) -> None:
    """Install a worker as a service of systemd.

    It will run in the folder and with the PATH of this call. A token never goes into the unit: set HOLDFAST_TOKEN (and
    HOLDFAST_URL) for this call, and they go into a file beside it that only its owner can read.

    A local pause ends with the worker's process, so a worker that systemd starts again takes work. To keep one out of
    work across restarts install it with --no-auto-start: neither the host's start nor a failure brings it back.

    Run again it brings the service up to date. `holdfast worker uninstall-service` is the way back.
    """
    given = _checked(options)
    if is_system != (run_as is not None):
        raise click.UsageError(
            "--system and --run-as USER belong together: name the user that jobs may run as."
        )
    from holdfast_worker.service.systemd import Manager, is_here

    manager = Manager(is_system)
    unit = unit_name(name, given["worker_id"])
    described = _described(manager, unit, options, given, auto_start=auto_start, run_as=run_as)
    if print_it:
        click.echo(described.text(), nl=False)
        return
    if not is_here():
        stop(
            Exit.FAILED,
            "This host has no systemd. Have what it has in its place (launchd, the Task Scheduler, a supervisor) run"
            " `holdfast worker run` with these options.",
        )
    _write(manager, unit, described)
    _start(manager, unit, auto_start=auto_start)
    way_back = f"holdfast worker uninstall-service{' --system' if is_system else ''} --name {unit}"
    say(f"Its log: journalctl {'' if is_system else '--user '}-u {unit}. To undo this: {way_back}")


def _checked(options: tuple[str, ...]) -> dict[str, Any]:
    """What `holdfast worker run` makes of its options, so that what is wrong is told now."""
    with run.make_context("holdfast worker run", list(options)) as context:
        if context.get_parameter_source("token") is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(
                "--token would stand in the unit, which everybody on this host can read. Set HOLDFAST_TOKEN for this"
                " call instead."
            )
        if (context.params["command"] is None) == (context.params["handler"] is None):
            raise click.UsageError(ONE_OF_BOTH)
        return context.params


def _described(
    manager: "Manager",
    name: str,
    options: tuple[str, ...],
    given: dict[str, Any],
    *,
    auto_start: bool,
    run_as: str | None,
) -> "Unit":
    from holdfast_worker.service.unit import Unit
    from holdfast_worker.terminal.program import own_program

    program = own_program()
    if program is None:
        stop(Exit.FAILED, "The program `holdfast` is not on the PATH, so a service could not find it.")
    if run_as is not None:
        _check_user(run_as)
    return Unit(
        worker=given["worker_id"] or name,
        command=[program, "worker", "run", *options],
        folder=Path.cwd(),
        search_path=os.environ.get("PATH", os.defpath),
        variables_file=manager.settings / f"{name}.env",
        end_seconds=given["grace_seconds"] + given["kill_after"],
        auto_start=auto_start,
        run_as=run_as,
    )


def _check_user(name: str) -> None:
    import pwd

    try:
        pwd.getpwnam(name)
    except KeyError:
        raise click.BadParameter(f"there is no user {name!r} on this host.", param_hint="--run-as") from None


def _write(manager: "Manager", name: str, unit: "Unit") -> None:
    from holdfast_worker.service.files import Foreign, put, put_secret
    from holdfast_worker.service.unit import MARK, variables

    path = manager.units / f"{name}.service"
    given = {variable: os.environ[variable] for variable in _VARIABLES if os.environ.get(variable)}
    try:
        changed = put(path, unit.text(), mark=MARK)
        kept = put_secret(unit.variables_file, variables(given))
    except Foreign:
        stop(
            Exit.FAILED,
            f"{path} was not written by this command, so it is left as it is. Give another --name, or remove it first.",
        )
    except OSError as error:
        stop(Exit.FAILED, f"{error.filename or path} cannot be written: {error.strerror}.")
    say(f"Wrote {path}." if changed else f"{path} is up to date.")
    if kept:
        named = ", ".join(given) or "nothing yet"
        say(f"Wrote {unit.variables_file}, which only its owner can read: {named}.")
    else:
        say(f"{unit.variables_file} was there, and is left as it is.")


def _start(manager: "Manager", name: str, *, auto_start: bool) -> None:
    from holdfast_worker.service.systemd import Refused

    try:
        manager.tell("daemon-reload")
        was_running = manager.is_running(name)
        manager.tell("enable" if auto_start else "disable", name)
        if auto_start:
            manager.tell("start", name)
        runs = manager.is_running(name)
    except Refused as error:
        stop(
            Exit.FAILED,
            f"The unit is written, but systemd did not take it up: {error} Do it by hand: {manager.command}"
            f" daemon-reload; {manager.command} {'enable --now' if auto_start else 'disable'} {name}",
        )
    if was_running:
        say(f"It runs already, as it was started. To take up changes: {manager.command} restart {name}")
    if auto_start:
        say(f"It {'runs, and starts' if runs else 'starts'} {_when(manager)}.")
    else:
        say(f"Nothing starts it by itself. To start it: {manager.command} start {name}")


def _when(manager: "Manager") -> str:
    import getpass

    from holdfast_worker.service.systemd import lingers

    if manager.is_system or lingers(getpass.getuser()):
        return "with the host"
    return "when you log in; `loginctl enable-linger` has it start with the host"
