"""`holdfast doctor`: whether a server would run here, and whether its pause could be trusted."""

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from holdfast_server.commands import database_url_option, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast_core.settings import Settings
    from holdfast_server.doctor import Check

__all__ = ["doctor"]

_COLOURS: Final = {"ok": "green", "warning": "yellow", "problem": "red"}
_WRONG_SETTING: Final = 2


@click.command()
@database_url_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(ctx: click.Context, database_url: str | None, as_json: bool) -> None:
    """Look whether a server would run here, and whether its pause could be trusted.

    Reads the settings as `holdfast serve` does. Nothing in the live tables is changed: the gate is tried by a short
    race on a scratch database, which is removed again.

    Ends with 0 where there is no problem (there may be warnings), with 1 where there is one, and with 2 where a
    setting is wrong.
    """
    from holdfast_core.errors import ConfigurationError
    from holdfast_core.settings import load_settings
    from holdfast_server.doctor.checks import problem

    try:
        settings = load_settings(**({} if database_url is None else {"database_url": database_url}))
    except ConfigurationError as error:
        _report([problem("settings", str(error), "Mend it; docs/settings.md lists them all.")], as_json)
        ctx.exit(_WRONG_SETTING)

    import logging

    import anyio

    from holdfast_core.telemetry import configure_logs

    configure_logs(settings.log_format)
    logging.getLogger().setLevel(logging.CRITICAL)  # what goes wrong is in the report
    checks = anyio.run(_examine, settings)
    if checks is None:
        raise click.Abort
    _report(checks, as_json)
    ctx.exit(1 if any(check.status == "problem" for check in checks) else 0)


async def _examine(settings: "Settings") -> "Sequence[Check] | None":
    """All checks; None where a signal came first. What was put up for them is taken down in both cases."""
    import signal
    import sys

    import anyio

    from holdfast_server.doctor import examine

    checks: Sequence[Check] | None = None

    async def cancel_on_signal() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            async for _ in received:
                tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        if sys.platform != "win32":
            tasks.start_soon(cancel_on_signal)
        checks = await examine(settings)
        tasks.cancel_scope.cancel()
    return checks


def _report(checks: "Sequence[Check]", as_json: bool) -> None:
    if as_json:
        fine = all(check.status != "problem" for check in checks)
        click.echo(json.dumps({"checks": [asdict(check) for check in checks], "ok": fine}))
        return
    plain = bool(os.environ.get("NO_COLOR"))  # https://no-color.org; in a pipe click takes colour away itself
    width = max(len(check.name) for check in checks)
    for check in checks:
        status = f"{check.status:<7}"
        shown = status if plain else click.style(status, fg=_COLOURS[check.status], bold=check.status != "ok")
        click.echo(f"{shown}  {check.name:<{width}}  {one_line(check.found)}")
        if check.advice is not None:
            click.echo(f"{'':<7}  {'':<{width}}  {one_line(check.advice)}")
    problems = sum(check.status == "problem" for check in checks)
    warnings = sum(check.status == "warning" for check in checks)
    click.echo(
        f"{problems or 'No'} problem{'s'[problems == 1 :]}, {warnings or 'no'} warning{'s'[warnings == 1 :]}.",
        err=True,
    )
