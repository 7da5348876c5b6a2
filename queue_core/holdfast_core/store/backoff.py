"""How long a job rests before its next attempt."""

from functools import cache
from typing import Any, Final

from sqlalchemy import BigInteger, Float, bindparam, func, literal_column

from holdfast_core.db.tables import jobs

__all__ = ["backoff"]

#: Back-off doubles with each attempt, up to this.
MAX_BACKOFF_SECONDS: Final = 3_600.0


def _backoff(dialect: str) -> Any:
    # ±20% around delay · 2^(attempt-1), so that jobs which failed together do not come back together.
    base = bindparam("delay_seconds", type_=Float())
    doubled = base * (func.power(2.0, jobs.c.attempt - 1) if dialect == "postgresql" else _two_to_sqlite())
    chance: Any = func.random()
    if dialect == "sqlite":
        chance = literal_column("(abs(random() % 1000) / 1000.0)", Float())
    least = func.least if dialect == "postgresql" else func.min
    return least(doubled, MAX_BACKOFF_SECONDS) * (0.8 + 0.4 * chance)


def _two_to_sqlite() -> Any:
    # SQLite has no power() unless built with it; attempts above 31 are far beyond the cap anyway.
    return literal_column("(1 << min(agent_jobs.attempt - 1, 30))", BigInteger())


@cache
def backoff(dialect: str) -> Any:
    """Seconds until the next attempt: `delay_seconds`, doubled with each attempt, with jitter, capped."""
    return _backoff(dialect)
