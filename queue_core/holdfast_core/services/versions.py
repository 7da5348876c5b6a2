"""The pause at each of its versions, put together from the audit log: for those who tell of every one in order."""

from sqlalchemy import Connection

from holdfast_core.schemas import ControlEvent, System
from holdfast_core.states import PauseAction
from holdfast_core.store.pause import changes_between

__all__ = ["system_after", "versions_between"]


def system_after(before: System, event: ControlEvent) -> System:
    """What the pause was once this event had changed it, from what it was before."""
    paused = event.action is PauseAction.PAUSE
    return System(
        workers_paused=paused,
        mode=event.mode if paused else None,
        reason=event.reason if paused else None,
        version=event.version,
        requested_by_user_id=event.actor_user_id,
        requested_by=event.actor,
        requested_at=(before.requested_at or event.created_at) if paused else None,
        updated_at=event.created_at,
        resume_at=event.resume_at if paused else None,
    )


def versions_between(connection: Connection, before: System, latest: System) -> list[System]:
    """The pause at each version after `before`, up to and with `latest`."""
    found: list[System] = []
    current = before
    for event in changes_between(connection, before.version, latest.version):
        current = system_after(current, event)
        found.append(current)
    return [*found, latest]
