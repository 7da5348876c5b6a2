"""`holdfast migrate`: bring the schema up to date, for those who do it apart from the start."""

import json

import click

from holdfast_server.commands import database_url_option, failures_in_one_line, read_settings

__all__ = ["migrate"]


@click.command()
@database_url_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def migrate(database_url: str | None, as_json: bool) -> None:
    """Bring the database's schema up to date and print its revision."""
    settings = read_settings(database_url=database_url)

    from holdfast_core.db.migrations import migrate as bring_up_to_date
    from holdfast_server.logs import configure_logs

    configure_logs(settings)
    with failures_in_one_line():
        revision = bring_up_to_date(settings)
    click.echo(json.dumps({"revision": revision}) if as_json else revision)
