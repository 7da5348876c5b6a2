"""Whether LISTEN and NOTIFY work by these URLs: what makes a pause and a resume known at once."""

import secrets
from typing import Any, Final

import asyncpg
from anyio import Event, move_on_after

from holdfast_core.settings import Settings
from holdfast_server.doctor.checks import Check, ok, warning
from holdfast_server.doctor.sessions import LOST, connect, said

__all__ = ["examine_announcements"]

HEAR_SECONDS: Final = 3.0

_NAME: Final = "announcements"
_POOLER: Final = (
    "Where a pooler is in between, give a direct connection to the same database in HOLDFAST_DATABASE_LISTEN_URL."
    " Until then other processes learn of a change by polling."
)


async def examine_announcements(speaking: "asyncpg.Connection[Any]", settings: Settings) -> Check:
    """Listen as a server does, and speak on another session, on a channel that nobody else knows."""
    try:
        listening = await connect(settings.database_listen_url or settings.database_url)
    except LOST as error:
        return warning(_NAME, f"No session can be opened to listen: {said(error)}.", _POOLER)
    try:
        heard = Event()
        channel = f"holdfast_doctor_{secrets.token_hex(8)}"

        def hear(*_: object) -> None:
            heard.set()

        await listening.add_listener(channel, hear)
        await speaking.execute("SELECT pg_notify($1, '')", channel)
        with move_on_after(HEAR_SECONDS):
            await heard.wait()
    except LOST as error:
        return warning(_NAME, f"LISTEN is refused: {said(error)}.", _POOLER)
    finally:
        listening.terminate()
    if not heard.is_set():
        return warning(_NAME, f"A NOTIFY did not arrive within {HEAR_SECONDS:.0f} s.", _POOLER)
    return ok(_NAME, "LISTEN and NOTIFY work.")
