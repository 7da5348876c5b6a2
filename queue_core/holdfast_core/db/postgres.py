"""PostgreSQL: three small pools, one for each kind of session, all READ COMMITTED whatever the defaults say.

The gated sessions run one statement at a time in autocommit, under time-outs that make a frozen claimer
let go of the door: `statement_timeout` 2 s, `idle_in_transaction_session_timeout` 1 s, and
`transaction_timeout` where the server has it (17 or later).
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final, Literal, TypeVar
from urllib.parse import urlsplit

import asyncpg
import structlog
from pydantic_core import from_json
from sqlalchemy import AsyncAdaptedQueuePool
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from holdfast_core.db.database import Lane, Work, store_unavailable, uncancelled
from holdfast_core.errors import ConfigurationError
from holdfast_core.settings import Settings

__all__ = ["MINIMUM_SERVER", "PostgresDatabase", "plain_url"]

T = TypeVar("T")
log = structlog.get_logger(__name__)

MINIMUM_SERVER: Final = 140_000
CONNECT_SECONDS: Final = 5
POOL_WAIT_SECONDS: Final = 5
#: A client-side bound behind the server's own time-outs, for a network that swallows answers.
COMMAND_SECONDS: Final = 20


def plain_url(url: str) -> str:
    """The URL as asyncpg takes it, without SQLAlchemy's driver name."""
    return url.replace("postgresql+asyncpg://", "postgresql://", 1)


#: A claim walks its index in the order of the index and stops at the first job. With statistics taken while the
#: table was small, or none, the planner would rather fetch and sort all that is queued: 35 ms instead of 0.3 with
#: 60,000 jobs. These sessions run nothing but claims and sweeps, so they can be told.
_WALK_THE_INDEX: Final = {
    "enable_sort": "off",
    "enable_incremental_sort": "off",
    "enable_bitmapscan": "off",
    "enable_seqscan": "off",
    # So there is one plan for all their values. To make it anew for each claim takes a third of the claim.
    "plan_cache_mode": "force_generic_plan",
}
#: Heartbeats and outcomes of many jobs at once find their rows by the primary key. A plan that was made while the
#: table was small, and is kept, would read all of it. What else these sessions run has its index, too; a search of
#: all jobs walks the primary key, which is the order of its answer.
_PROBE_THE_KEY: Final = {"enable_seqscan": "off"}


class PostgresDatabase:
    """The store on PostgreSQL."""

    dialect: Literal["postgresql", "sqlite"] = "postgresql"

    def __init__(self, plain: AsyncEngine, gated: AsyncEngine, control: AsyncEngine) -> None:
        self.outages = 0
        self._engines = {
            Lane.PLAIN: plain,
            Lane.SINGLE: plain.execution_options(isolation_level="AUTOCOMMIT"),  # the same pool
            Lane.GATED: gated,
            Lane.CONTROL: control,
        }

    @classmethod
    async def open(cls, settings: Settings) -> "PostgresDatabase":
        """Connect, and refuse a server on which the gate would not hold. Raises ConfigurationError."""
        where = _where(settings.database_url)
        try:
            first = await asyncpg.connect(plain_url(settings.database_url), timeout=CONNECT_SECONDS)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise ConfigurationError(
                f"PostgreSQL at {where} cannot be used: {str(error) or type(error).__name__}."
                " Check HOLDFAST_DATABASE_URL, and that the server runs."
            ) from None
        try:
            version = int(await first.fetchval("SHOW server_version_num"))
        finally:
            await first.close()
        if version < MINIMUM_SERVER:
            raise ConfigurationError(f"PostgreSQL at {where} is too old: 14 or later is needed.")
        # The control pool has two: one that toggles, one that can end a session that holds the door.
        share = max(1, (settings.database_pool_size - 2) // 2)
        database = cls(
            plain=_engine(
                settings, share, {"statement_timeout": "10s", **_PROBE_THE_KEY, **_patience("10s", version)}
            ),
            gated=_engine(
                settings,
                share,
                {
                    "statement_timeout": "2s",
                    "idle_in_transaction_session_timeout": "1s",
                    **_WALK_THE_INDEX,
                    **_patience("3s", version),
                },
                autocommit=True,
            ),
            control=_engine(
                settings,
                2,
                {
                    "statement_timeout": "10s",
                    "idle_in_transaction_session_timeout": "1500ms",
                    "lock_timeout": "2s",
                    **_patience("10s", version),
                },
            ),
        )
        try:
            await database._refuse_other_isolation()
        except BaseException:
            await database.close()
            raise
        return database

    async def _refuse_other_isolation(self) -> None:
        # Under repeatable read the snapshot may be older than the lock, and the gate leaks (measured:
        # 27 of 200 pauses). A pooler in between could drop our session settings, so look, do not trust.
        for lane, engine in self._engines.items():
            async with engine.connect() as connection:
                found = (await connection.exec_driver_sql("SHOW transaction_isolation")).scalar_one()
            if found != "read committed":
                raise ConfigurationError(
                    f"The {lane.value} sessions run under {found!r}, and the pause cannot be trusted there."
                    " If a pooler is in between, let it pass the session's settings, or connect directly."
                )

    async def read(self, work: Work[T]) -> T:
        """Run `work`, statement by statement; once more where the connection turned out to be dead."""
        return await self._run(Lane.SINGLE, work, again=True)

    async def write(self, work: Work[T], *, lane: Lane = Lane.PLAIN) -> T:
        """Run `work` in one transaction and commit it."""
        return await self._run(lane, work, again=False)

    async def _run(self, lane: Lane, work: Work[T], *, again: bool) -> T:
        engine = self._engines[lane]
        begin: Callable[[], AbstractAsyncContextManager[AsyncConnection]] = (
            engine.connect if lane in {Lane.GATED, Lane.SINGLE} else engine.begin
        )

        async def once() -> T:
            async with begin() as connection:
                return await connection.run_sync(work)

        # A read may be cut at any time, and must be where somebody waits for it with a bound.
        with nullcontext() if again else uncancelled():
            try:
                return await _second_chance(once) if again else await once()
            except Exception as error:
                unavailable = store_unavailable(error)
                if unavailable is None:
                    raise
                self.outages += 1
                log.warning("store_unavailable", lane=lane.value, cause=_first_line(error))
                raise unavailable from error

    async def close(self) -> None:
        """Close the pools."""
        with uncancelled():
            for engine in self._engines.values():
                await engine.dispose()


async def _second_chance(once: Callable[[], Awaitable[T]]) -> T:
    try:
        return await once()
    except Exception as error:
        if store_unavailable(error) is None:
            raise
        return await once()


def _engine(
    settings: Settings, size: int, session: dict[str, str], *, autocommit: bool = False
) -> AsyncEngine:
    return create_async_engine(
        settings.database_url,
        isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
        json_deserializer=from_json,  # the quickest reader that is here
        hide_parameters=True,  # an error in the log must not show a payload
        poolclass=AsyncAdaptedQueuePool,
        pool_size=size,
        max_overflow=0,
        pool_timeout=POOL_WAIT_SECONDS,
        connect_args={
            "timeout": CONNECT_SECONDS,
            "command_timeout": COMMAND_SECONDS,
            # At the start of the session, so that they win over the role's and the database's defaults.
            "server_settings": {
                "application_name": "holdfast",
                # Every statement here is short; a plan with a switched-off step in it looks dear enough to the
                # planner to be compiled, which takes a second.
                "jit": "off",
                "default_transaction_isolation": "read committed",
                "synchronous_commit": "on",
                "timezone": "UTC",
                **session,
            },
        },
    )


def _patience(limit: str, version: int) -> dict[str, str]:
    return {"transaction_timeout": limit} if version >= 170_000 else {}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _where(url: str) -> str:
    parts = urlsplit(url)  # without the password
    return f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"
