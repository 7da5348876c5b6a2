"""`holdfast watch`: what happens to the system, line by line."""

import json
import time
from typing import TYPE_CHECKING, Any, Final

import click

from holdfast_worker.terminal.options import connected, server
from holdfast_worker.terminal.output import say
from holdfast_worker.terminal.text import escaped, moment

if TYPE_CHECKING:
    from holdfast_core.schemas import ControlEvent, Metrics, System, WorkerCounts
    from holdfast_worker.client import Client
    from holdfast_worker.events import ServerEvent

__all__ = ["watch"]

#: How long to wait before coming back, at first and at most, in seconds.
FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 15.0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Each event as one line of JSON: event, id, data.")
@server
def watch(url: str | None, token: str | None, as_json: bool) -> None:
    """Follow what happens, a line for each change.

    The pause, the counts and the workers, until Ctrl-C.

    When the server goes away it is waited for. What was toggled meanwhile is in `holdfast history`.
    """
    with connected(url, token) as client:
        _follow(client, _Teller(as_json))


def _follow(client: "Client", teller: "_Teller") -> None:
    from holdfast_worker.failures import ServerUnreachable

    last_id: str | None = None
    wait = FIRST_WAIT
    told_away = False
    while True:
        try:
            for event in client.follow_system(last_event_id=last_id):
                if told_away:
                    say("Connected again.")
                elif not teller.has_told:
                    say(f"Following {client.url}. Ctrl-C ends.")
                told_away, wait = False, FIRST_WAIT
                last_id = event.id or last_id
                teller.tell(event)
        except ServerUnreachable as error:
            if last_id is None and not teller.has_told:
                raise  # it was never there: more likely a wrong address than a restart
            cause = str(error)
        else:
            cause = "The server has ended the stream."
        if not told_away:
            say(f"{cause} Waiting for it to come back.")
            told_away = True
        time.sleep(wait)
        wait = min(wait * 2, LONGEST_WAIT)


class _Teller:
    """Writes events to stdout as they come."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self.has_told = False

    def tell(self, event: "ServerEvent") -> None:
        """One event; those that this version does not know are left out, except as JSON."""
        self.has_told = True
        if self._as_json:
            self._write(json.dumps({"event": event.event, "id": event.id, "data": json.loads(event.data)}))
            return
        from holdfast_core.schemas import ControlEvent, Metrics, Snapshot, System, WorkerCounts

        match event.event:
            case "snapshot":
                snapshot = Snapshot.model_validate_json(event.data)
                self._write(_of_system(snapshot.system))
                self._write(_of_metrics(snapshot.metrics))
                self._write(_of_workers(snapshot.workers))
            case "system":
                self._write(_of_system(System.model_validate_json(event.data)))
            case "metrics":
                self._write(_of_metrics(Metrics.model_validate_json(event.data)))
            case "workers":
                self._write(_of_workers(WorkerCounts.model_validate_json(event.data)))
            case "audit":
                audit = ControlEvent.model_validate_json(event.data)
                if audit.outcome != "changed":  # else `system` tells it
                    self._write(_of_audit(audit))
            case "error":
                said: dict[str, Any] = json.loads(event.data)
                say(f"The server: {said.get('detail')}")
            case _:
                pass

    def _write(self, line: str) -> None:
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
        f"{moment(metrics.measured_at)} {metrics.running} running ({metrics.parked} parked),"
        f" {metrics.stale_running} stale, {metrics.queued} queued, {metrics.scheduled} scheduled{safe}"
    )


def _of_workers(workers: "WorkerCounts") -> str:
    missing = f"; not yet: {', '.join(workers.unacknowledged)}" if workers.unacknowledged else ""
    return f"workers: {workers.connected} connected, {workers.acknowledged} have seen this version{missing}"


def _of_audit(event: "ControlEvent") -> str:
    code = f" ({event.code})" if event.code else ""
    return f"{moment(event.created_at)} {event.action} by {event.actor} was {event.outcome}{code}: {event.reason}"
