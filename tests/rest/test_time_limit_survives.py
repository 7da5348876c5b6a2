"""The time limit of a pause lives in the database: it ends the pause though every process was killed in between."""

from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import httpx2
import pytest

from support.core import move_limit, until
from support.servers import start_server
from support.stores import core

pytestmark = pytest.mark.anyio

PAUSE = "/api/system/worker-pause"


async def set_limit(database_url: str, seconds: float) -> None:
    """Let the limit be that far from now, while nothing runs that could end the pause."""
    async with core(database_url) as (services, database):
        with pytest.MonkeyPatch.context() as patch:

            async def never() -> bool:
                return False

            patch.setattr(services.pause, "end_at_limit", never)
            await move_limit(database, seconds)


async def resumed(url: str) -> dict[str, Any] | None:
    async with httpx2.AsyncClient(timeout=10) as http:
        snapshot = (await http.get(url + PAUSE)).json()
    system: dict[str, Any] = snapshot["system"]
    return None if system["workersPaused"] else system


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize("ahead", [6.0, -5.0], ids=["limit to come", "limit passed while all were down"])
async def test_a_time_limit_ends_the_pause_within_a_second_though_every_process_was_killed(
    database_url: str, ahead: float
) -> None:
    async with start_server(database_url) as first, start_server(database_url) as second:
        body = {"action": "pause", "mode": "drain", "reason": "overnight", "resumeAfterSeconds": 3600}
        async with httpx2.AsyncClient(timeout=10) as http:
            assert (await http.post(first.url + PAUSE, json=body)).status_code == 200
        first.kill()
        second.kill()
    limit = datetime.now(UTC) + timedelta(seconds=ahead)
    await set_limit(database_url, ahead)
    async with start_server(database_url) as again:
        ready = datetime.now(UTC)
        system = await until(lambda: resumed(again.url), 15)
        assert (system["version"], system["requestedBy"], system["requestedByUserId"]) == (3, "timer", None)
        # From the limit, or from the start of a process, whichever was later.
        late = (at(system["updatedAt"]) - max(limit, ready)).total_seconds()
        assert late < 1, f"{late:.2f} s late"
        if ahead > 0:
            assert at(system["updatedAt"]) >= limit - timedelta(seconds=0.2)
        async with httpx2.AsyncClient(timeout=10) as http:
            events = (await http.get(again.url + "/api/system/control-events")).json()["items"]
        assert [(event["action"], event["actor"]) for event in events] == [
            ("resume", "timer"),
            ("pause", "local operator"),
        ]
    await anyio.lowlevel.checkpoint()
