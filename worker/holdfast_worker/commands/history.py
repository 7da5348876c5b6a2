"""`holdfast history`: the audit log."""

from typing import TYPE_CHECKING

import click

from holdfast_worker.terminal.options import as_json, connected, server
from holdfast_worker.terminal.output import say, write_json, write_table

if TYPE_CHECKING:
    from holdfast_core.schemas import EventOutcome

__all__ = ["history"]


@click.command()
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many events.")
@click.option(
    "--outcome", type=click.Choice(["changed", "unchanged", "refused"]), help="Only events that ended so."
)
@click.option("--action", type=click.Choice(["pause", "resume"]), help="Only pauses, or only resumes.")
@server
@as_json
def history(
    limit: int,
    outcome: "EventOutcome | None",
    action: str | None,
    url: str | None,
    token: str | None,
    as_json: bool,
) -> None:
    """List who paused and resumed, when and why; the newest first."""
    with connected(url, token) as client:
        page = client.history(limit=limit, outcome=outcome, action=action)
        if as_json:
            write_json(client.last_answer)
            return
        from holdfast_worker.terminal.views import EVENT_COLUMNS, event_row

        if page.items:
            write_table(EVENT_COLUMNS, [event_row(event) for event in page.items])
        else:
            say(
                "Nobody has paused or resumed yet."
                if outcome is None and action is None
                else "No such event."
            )
        if page.next_before is not None:
            say(f"There are older ones; --limit shows more than {limit}.")
