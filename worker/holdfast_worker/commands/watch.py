"""`holdfast watch`: what happens to the system, in place on a terminal, line by line in a pipe."""

import json
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import click

from holdfast_worker.terminal.options import connected, server
from holdfast_worker.terminal.output import say
from holdfast_worker.terminal.text import escaped, moment

if TYPE_CHECKING:
    from holdfast_core.schemas import ControlEvent, Metrics, System, WorkerCounts
    from holdfast_worker.client import Client
    from holdfast_worker.events import ServerEvent

__all__ = ["watch"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Each event as one line of JSON: event, id, data.")
@click.option("--lines", is_flag=True, help="A line for each change on a terminal, too, as in a pipe.")
@server
def watch(url: str | None, token: str | None, as_json: bool, lines: bool) -> None:
    """Follow what happens.

    The pause, the counts and the workers, until Ctrl-C, which ends it with 0. On a terminal it is kept up
    to date in place, in a pipe there is a line for each change.

    When the server goes away it is waited for. Once it is back the state is told anew, and behind it
    what was missed of the audit log.
    """
    from holdfast_worker.terminal.following import following

    with connected(url, token) as client:
        client.status()  # a server that was never there is not waited for
        say(f"Following {client.url}. Ctrl-C ends.")
        if sys.stdout.isatty() and not lines and not as_json and _live(client):
            return
        tell = _as_json if as_json else _Teller().tell
        try:
            with closing(following(lambda after: client.follow_system(last_event_id=after))) as events:
                for event in events:
                    tell(event)
        except KeyboardInterrupt:
            return


def _live(client: "Client") -> bool:
    """Whether this terminal can show it in place; if so, it has been shown to the end."""
    from holdfast_worker.terminal.following import following
    from holdfast_worker.terminal.live import LiveView, can_draw

    if not can_draw():
        return False
    with (
        LiveView() as view,
        suppress(KeyboardInterrupt),
        closing(following(lambda after: client.follow_system(last_event_id=after), view.lost)) as events,
    ):
        for event in events:
            view.tell(event)
    return True


def _as_json(event: "ServerEvent") -> None:
    from holdfast_worker.failures import UnexpectedAnswer

    try:
        data = json.loads(event.data)
    except ValueError as error:
        raise UnexpectedAnswer(f"An event `{event.event[:64]}` came that is not JSON.") from error
    click.echo(json.dumps({"event": event.event, "id": event.id, "data": data}))


class _Teller:
    """Writes events as lines; those that this version does not know are left out."""

    def __init__(self) -> None:
        self._version = 0
        self._counts = ""

    def tell(self, event: "ServerEvent") -> None:
        """One event, if it is news."""
        from holdfast_core.schemas import ControlEvent, Metrics, Snapshot, System, WorkerCounts

        match event.event:
            case "snapshot":
                snapshot = event.read(Snapshot)
                self._counts = ""
                self._tell_system(snapshot.system)
                self._tell_metrics(snapshot.metrics)
                _write(_of_workers(snapshot.workers))
            case "system":
                self._tell_system(event.read(System))
            case "metrics":
                self._tell_metrics(event.read(Metrics))
            case "workers":
                _write(_of_workers(event.read(WorkerCounts)))
            case "audit":
                audit = event.read(ControlEvent)
                # A change is told by the `system` behind it. Of one that was missed nothing else comes.
                if audit.outcome != "changed" or audit.version <= self._version:
                    _write(_of_audit(audit))
            case _:
                pass

    def _tell_system(self, system: "System") -> None:
        self._version = system.version
        _write(_of_system(system))

    def _tell_metrics(self, metrics: "Metrics") -> None:
        # The server tells them anew every few seconds, for their ages.
        counts = _of_metrics(metrics)
        if counts != self._counts:
            self._counts = counts
            _write(f"{moment(metrics.measured_at)} {counts}")


def _write(line: str) -> None:
    click.echo(escaped(line))


def _of_system(system: "System") -> str:
    by = f" by {system.requested_by}" if system.requested_by else ""
    if not system.workers_paused:
        return f"{moment(system.updated_at)} running, version {system.version}{by}"
    until = f", ends by itself {moment(system.resume_at)}" if system.resume_at else ""
    return f"{moment(system.updated_at)} paused ({system.mode}), version {system.version}{by}: {system.reason}{until}"


def _of_metrics(metrics: "Metrics") -> str:
    safe = ", safe to upgrade" if metrics.safe_to_upgrade else ""
    return (
        f"{metrics.running} running ({metrics.parked} parked), {metrics.stale_running} stale,"
        f" {metrics.queued} queued, {metrics.scheduled} scheduled{safe}"
    )


def _of_workers(workers: "WorkerCounts") -> str:
    missing = f"; not yet: {', '.join(workers.unacknowledged)}" if workers.unacknowledged else ""
    return f"workers: {workers.connected} connected, {workers.acknowledged} have seen this version{missing}"


def _of_audit(event: "ControlEvent") -> str:
    mode = f" ({event.mode})" if event.mode else ""
    if event.outcome == "changed":
        how = f"{event.action}{mode} by {event.actor}, version {event.version}"
        return f"{moment(event.created_at)} missed meanwhile: {how}: {event.reason}"
    code = f" ({event.code})" if event.code else ""
    return f"{moment(event.created_at)} {event.action}{mode} by {event.actor} was {event.outcome}{code}: {event.reason}"
