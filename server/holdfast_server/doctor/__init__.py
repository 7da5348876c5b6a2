"""What `holdfast doctor` looks at: whether a server would run here, and whether its pause could be trusted.

One kind of check a file. Each answers with what it found and, where that is not in order, with a way out. Nothing
here writes to the live tables: what has to be tried is rolled back, or tried on a scratch copy (`gate`).
"""

from anyio.to_thread import run_sync

from holdfast_core.clock import Clock, SystemClock
from holdfast_core.settings import Settings
from holdfast_server.doctor.checks import Check, Status
from holdfast_server.doctor.gate import examine_gate
from holdfast_server.doctor.host import examine_host
from holdfast_server.doctor.postgres import examine_postgres
from holdfast_server.doctor.sqlite import examine_sqlite

__all__ = ["Check", "Status", "examine"]


async def examine(settings: Settings, clock: Clock | None = None) -> list[Check]:
    """Every check that these settings admit, in the order in which a person would mend things. Takes some seconds.

    `clock` is this host's, which is compared with PostgreSQL's.
    """
    checks = await run_sync(examine_host, settings)
    if settings.is_sqlite:
        checks += await run_sync(examine_sqlite, settings)
    else:
        checks += await examine_postgres(settings, clock or SystemClock())
    checks.append(await examine_gate(settings))
    return checks
