"""What calls are answered that a server's end cuts off, with one process and with several."""

from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from support.servers import start_server

PATIENCE = 60.0
PAUSE = "/api/system/worker-pause"
#: What protects a browser's user; every answer carries it.
PROTECTING = [
    "x-content-type-options",
    "referrer-policy",
    "cross-origin-resource-policy",
    "content-security-policy",
    "cache-control",
]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_call_that_the_end_cuts_off_is_refused_like_any_other(sqlite_url: str, workers: str) -> None:
    with start_server(sqlite_url, "--workers", workers) as server, ThreadPoolExecutor() as threads:
        usual = httpx2.get(server.url + PAUSE)

        def held() -> httpx2.Response:
            # A claim shows itself as a worker that is connected, so it is known to be under way.
            body = {"workerId": "w", "leaseSeconds": 60, "waitSeconds": 25}
            return httpx2.post(f"{server.url}/api/queue/jobs/claim", json=body, timeout=PATIENCE)

        answer = threads.submit(held)
        while httpx2.get(server.url + PAUSE).json()["workers"]["connected"] < 1:
            assert not answer.done()
        assert server.stop() == 0
        cut = answer.result(PATIENCE)
        assert "Traceback" not in server.log
    assert cut.status_code == 503
    assert cut.json()["code"] == "unavailable"
    assert cut.headers["content-type"] == "application/problem+json"
    assert cut.headers["retry-after"] == "1"
    assert cut.headers["connection"] == "close"
    assert {name: cut.headers.get(name) for name in PROTECTING} == {
        name: usual.headers[name] for name in PROTECTING
    }
