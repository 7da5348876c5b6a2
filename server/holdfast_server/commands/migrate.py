"""`holdfast migrate`: bring the schema up to date, for those who do it apart from the start."""

import json
from typing import TYPE_CHECKING

import click

from holdfast_server.commands import database_url_option, failures_in_one_line, read_settings

if TYPE_CHECKING:
    from holdfast_core.settings import Settings

__all__ = ["migrate", "prepare"]


@click.command()
@database_url_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def migrate(database_url: str | None, as_json: bool) -> None:
    """Bring the database's schema up to date and print its revision."""
    settings = read_settings(database_url=database_url)

    from holdfast_core.db.migrations import migrate as bring_up_to_date
    from holdfast_core.telemetry import configure_logs

    configure_logs(settings.log_format)
    with failures_in_one_line():
        revision = bring_up_to_date(settings)
    click.echo(json.dumps({"revision": revision}) if as_json else revision)


def prepare(settings: "Settings") -> None:
    """Migrate, or only look where the settings say so: once for all the processes that will be started.

    Raises ConfigurationError where the database cannot be used, or is not up to date.
    """
    from holdfast_core.db.migrations import check
    from holdfast_core.db.migrations import migrate as bring_up_to_date

    (bring_up_to_date if settings.migrate_on_start else check)(settings)
