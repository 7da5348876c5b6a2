"""`holdfast worker status`: one worker of this host, in the terminal or as a page."""

import click

from holdfast_worker.terminal.exits import Exit, stop
from holdfast_worker.terminal.local_workers import chosen, show, told, which
from holdfast_worker.terminal.options import as_json
from holdfast_worker.terminal.output import say

__all__ = ["status"]


@click.command()
@which
@as_json
@click.option("--open", "open_it", is_flag=True, help="Open the worker's status page in the browser.")
@click.option("--print-url", is_flag=True, help="Print an address that opens the page once, within a minute.")
def status(worker_id: str | None, as_json: bool, open_it: bool, print_url: bool) -> None:
    """Show a worker of this host: both pauses, and what it runs."""
    if (open_it or print_url) and as_json:
        raise click.UsageError("--json shows the status itself; it does not go with --open and --print-url")
    found = chosen(worker_id)
    with told(found):
        from holdfast_worker.runtime.control.asking import open_page, read_status

        if not open_it and not print_url:
            show(read_status(found), as_json=as_json)
            return
        url = open_page(found)
    if print_url:
        click.echo(url)
        return
    import webbrowser

    if not webbrowser.open(url):
        stop(Exit.FAILED, "No browser could be opened here. --print-url prints the address for one.")
    say(f"Opened the page of the worker {found.worker_id}.")
