"""`holdfast resume`: let claims go on."""

import click

from holdfast_worker.terminal.options import as_json, connected, server
from holdfast_worker.terminal.output import say, write_facts, write_json
from holdfast_worker.terminal.surely import surely

__all__ = ["resume"]


@click.command()
@click.option("--reason", required=True, help="Why; it goes into the audit log.")
@click.option(
    "--force", is_flag=True, help="Resume though jobs of before the pause still run; this is audited."
)
@click.option(
    "--expected-version", type=click.IntRange(min=1), help="Refused (3) unless the pause is at this version."
)
@click.option("--idempotency-key", metavar="KEY", help="A repeat with the same key changes nothing more.")
@server
@as_json
def resume(
    reason: str,
    force: bool,
    expected_version: int | None,
    idempotency_key: str | None,
    url: str | None,
    token: str | None,
    as_json: bool,
) -> None:
    """End the pause. Warns of what was still running where the drain had not ended."""
    with connected(url, token) as client:
        snapshot = surely(
            lambda key: client.resume(
                reason, force=force, expected_version=expected_version, idempotency_key=key
            ),
            idempotency_key,
        )
        if snapshot.warning:
            say(f"Warning: {snapshot.warning}")
        said = "Resumed already, by an earlier request with this key" if snapshot.replayed else "Resumed"
        say(f"{said} (version {snapshot.system.version}).")
        if as_json:
            write_json(client.last_answer)
            return
        from holdfast_worker.terminal.views import snapshot_facts

        write_facts(snapshot_facts(snapshot))
