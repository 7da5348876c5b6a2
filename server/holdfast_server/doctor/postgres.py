"""PostgreSQL: whether it can be reached and written, and what its sessions are like by this URL."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import asyncpg

from holdfast_core.clock import Clock
from holdfast_core.db import open_database
from holdfast_core.db.postgres import MINIMUM_SERVER
from holdfast_core.errors import ConfigurationError
from holdfast_core.settings import Settings
from holdfast_server.doctor.announcements import examine_announcements
from holdfast_server.doctor.checks import Check, ok, problem, warning
from holdfast_server.doctor.schema import examine_schema
from holdfast_server.doctor.sessions import LOST, connect, said

__all__ = ["examine_postgres"]

#: Leases and pauses go by the database's clock alone, so a host that differs only misleads those who read its logs.
CLOCK_SECONDS: Final = 1.0
#: Questions to the server's clock; the one that was answered fastest counts.
CLOCK_LOOKS: Final = 3

if TYPE_CHECKING:
    _Connection = asyncpg.Connection[Any]


async def examine_postgres(settings: Settings, clock: Clock) -> list[Check]:
    """Everything about the server; one problem only where it cannot be reached."""
    parts = urlsplit(settings.database_url)  # without the password
    where = f"PostgreSQL at {parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"
    try:
        connection = await connect(settings.database_url)
    except LOST as error:
        advice = "Check HOLDFAST_DATABASE_URL, and that the server runs."
        return [problem("database", f"{where} cannot be used: {said(error)}.", advice)]
    try:
        return [
            await _version(connection),
            await _writable(connection, where),
            examine_schema(await _revision(connection), settings),
            await _isolation(connection, settings),
            await _clock(connection, clock),
            await _connections(connection, settings),
            await examine_announcements(connection, settings),
        ]
    except LOST as error:
        advice = "Look at the server's log, and at what is between it and this host."
        return [problem("database", f"{where} was lost while it was looked at: {said(error)}.", advice)]
    finally:
        connection.terminate()


async def _version(connection: "_Connection") -> Check:
    number = int(await connection.fetchval("SHOW server_version_num"))
    name = await connection.fetchval("SHOW server_version")
    if number < MINIMUM_SERVER:
        return problem("postgresql", f"PostgreSQL {name} is too old.", "14 or later is needed.")
    return ok("postgresql", f"PostgreSQL {name}.")


async def _writable(connection: "_Connection", where: str) -> Check:
    failure = await _why_not_writable(connection)
    if failure is None:
        return ok("database", f"{where} can be reached and written.")
    found = f"{where} can be reached, but not written: {said(failure)}."
    if not isinstance(failure, asyncpg.ReadOnlySQLTransactionError):
        return problem("database", found, "Give the role the rights to it: the owner of the tables has them.")
    if await connection.fetchval("SELECT pg_is_in_recovery()"):
        return problem("database", found, "This is a standby: name the primary in HOLDFAST_DATABASE_URL.")
    return problem("database", found, "Reset default_transaction_read_only for the role and the database.")


async def _why_not_writable(connection: "_Connection") -> asyncpg.PostgresError | None:
    """Write, really, and roll back."""
    made = await connection.fetchval("SELECT to_regclass('alembic_version') IS NOT NULL")
    await connection.execute("BEGIN")
    try:
        await connection.execute("SET LOCAL lock_timeout = '3s'")
        if made:
            await connection.execute("INSERT INTO alembic_version (version_num) VALUES ('doctor')")
        else:
            await connection.execute("CREATE TABLE holdfast_doctor (id int)")
    except asyncpg.PostgresError as error:
        return error
    finally:
        await connection.execute("ROLLBACK")
    return None


async def _revision(connection: "_Connection") -> str | None:
    if await connection.fetchval("SELECT to_regclass('alembic_version') IS NULL"):
        return None
    revision: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
    return revision


async def _isolation(connection: "_Connection", settings: Settings) -> Check:
    """Open the sessions of a server, which look for themselves."""
    default = await connection.fetchval("SHOW default_transaction_isolation")
    try:
        database = await open_database(settings)
    except ConfigurationError as error:
        return problem("isolation", str(error), "Until then no server starts here.")
    await database.close()
    if default != "read committed":
        return ok(
            "isolation",
            f"The default here is {default}; Holdfast's sessions say read committed for themselves.",
        )
    return ok("isolation", "Read committed.")


async def _clock(connection: "_Connection", clock: Clock) -> Check:
    looks: list[tuple[timedelta, timedelta]] = []
    for _ in range(CLOCK_LOOKS):
        asked = clock.now()
        there = await connection.fetchval("SELECT clock_timestamp()")
        took = clock.now() - asked
        looks.append((took, asked + took / 2 - there))
    took, ahead = min(looks)
    seconds, unsure = ahead.total_seconds(), took.total_seconds() / 2
    side = "ahead of" if seconds > 0 else "behind"
    found = f"This host is {abs(seconds):.3f} s {side} the database (± {unsure:.3f} s)."
    if abs(seconds) - unsure > CLOCK_SECONDS:
        return warning(
            "clock",
            found,
            "Let both follow the same time servers. Leases go by the database; logs here mislead.",
        )
    return ok("clock", found)


async def _connections(connection: "_Connection", settings: Settings) -> Check:
    most = int(await connection.fetchval("SHOW max_connections"))
    most -= int(await connection.fetchval("SHOW superuser_reserved_connections"))
    wanted = settings.workers * (settings.database_pool_size + 1)  # and one that listens
    found = f"A server may open {wanted} connections, of the {most} that there are for all."
    if wanted > most:
        advice = "Lower HOLDFAST_WORKERS or HOLDFAST_DATABASE_POOL_SIZE, or raise max_connections."
        return warning("connections", found, advice)
    return ok("connections", found)
