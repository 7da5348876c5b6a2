"""A server whose database goes away and comes back, as clients and probes see it."""

import anyio
import httpx2
import pytest

from support.proxy import proxy
from support.servers import start_server

pytestmark = pytest.mark.anyio

PATIENCE = 30.0
PAUSE = "/api/system/worker-pause"
PAUSED = {"action": "pause", "mode": "drain", "reason": "a test"}
CLAIM = {"workerId": "w", "leaseSeconds": 60}
CALLS = [
    ("GET", PAUSE, None),
    ("GET", "/api/queue/jobs", None),
    ("POST", "/api/queue/jobs", {"type": "t"}),
    ("POST", "/api/queue/jobs/claim", CLAIM),
    ("POST", PAUSE, PAUSED),
]


async def test_while_the_database_is_away_it_says_so_and_when_to_come_again_and_it_recovers_by_itself(
    postgres_database_url: str,
) -> None:
    async with (
        proxy(postgres_database_url) as way,
        start_server(way.url) as server,
        httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE) as client,
    ):
        added = await client.post("/api/queue/jobs", json={"type": "t"})
        assert added.status_code == 201
        await way.cut()
        for method, path, body in CALLS:
            answer = await client.request(method, path, json=body)
            wanted = "pause_not_confirmed" if body is PAUSED else "store_unavailable"
            assert (answer.status_code, answer.json()["code"]) == (503, wanted), path
            assert int(answer.headers["retry-after"]) >= 1
        assert (await client.get("/healthz")).status_code == 200, "a restart would mend nothing"
        assert (await client.get("/readyz")).status_code == 503
        await way.restore()
        with anyio.fail_after(PATIENCE):
            while (await client.get("/readyz")).status_code != 200:
                await anyio.sleep(0.05)
            while (answer := await client.post("/api/queue/jobs/claim", json=CLAIM)).status_code != 200:
                await anyio.sleep(0.05)
        assert answer.json()["job"]["id"] == added.json()["id"]
        assert (await client.post(PAUSE, json=PAUSED)).status_code == 200
        assert "Traceback" not in server.log
