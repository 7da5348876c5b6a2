"""The load: a process of its own that keeps N connections busy for a while and times each answer.

Run as `python load.py`, with its orders as one JSON object on stdin:
`{url, kind, connections, seconds, jobs?: [[id, token], ...]}`. Prints one JSON object: `count` answers in `seconds`,
`p50` and `p99` in milliseconds. An answer that is not what its kind must get ends the run with an error. The client
is written by hand on asyncio's streams, since a library would cost more than the server that is measured.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

#: Answers that one slice may collect, so that a run is bounded in count as well as in time.
MAX_ANSWERS = 200_000

CLAIM = {"workerId": "bench", "leaseSeconds": 3600}
_META = "io.modelcontextprotocol"


class WrongAnswer(Exception):
    """The server said something that this kind of request must not get."""


@dataclass
class Request:
    """One request, and what its answer must fulfil."""

    path: str
    body: dict[str, Any]
    holds: Callable[[dict[str, Any]], bool]
    headers: dict[str, str] = field(default_factory=dict)

    def encoded(self, host: str) -> bytes:
        """The bytes on the wire."""
        raw = json.dumps(self.body).encode()
        lines = [
            f"POST {self.path} HTTP/1.1",
            f"Host: {host}",
            "Content-Type: application/json",
            f"Content-Length: {len(raw)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


def _got_job(answer: dict[str, Any]) -> bool:
    return answer["job"] is not None and not answer["system"]["workersPaused"]


def _got_pause(answer: dict[str, Any]) -> bool:
    return answer["job"] is None and answer["system"]["workersPaused"]


#: A script yields requests, gets each one's answer, and says with its end that there is nothing left to do.
Script = Generator[Request, dict[str, Any], None]


def noop(_: list[Any]) -> Script:
    """A claim's body, sent to a route that does nothing."""
    while True:
        yield Request("/noop", CLAIM, lambda answer: answer == {"ok": True})


def claim(_: list[Any]) -> Script:
    """Claims that each get a job."""
    while True:
        yield Request("/api/queue/jobs/claim", CLAIM, _got_job)


def paused(_: list[Any]) -> Script:
    """Claims that are each answered with the pause."""
    while True:
        yield Request("/api/queue/jobs/claim", CLAIM, _got_pause)


def either(_: list[Any]) -> Script:
    """Claims while pauses come and go: a job exactly where the system is not paused, and never an empty queue."""
    while True:
        yield Request("/api/queue/jobs/claim", CLAIM, lambda answer: _got_job(answer) or _got_pause(answer))


def heartbeat(jobs: list[Any]) -> Script:
    """Heartbeats of running jobs, one after the other."""
    while True:
        for job_id, token in jobs:
            body = {**CLAIM, "leaseToken": token, "compact": True}
            path = f"/api/queue/jobs/{job_id}/heartbeat"
            yield Request(path, body, lambda answer: answer["status"] == "running")


def whole(_: list[Any]) -> Script:
    """Whole jobs: a claim, then its complete."""
    while True:
        job = (yield Request("/api/queue/jobs/claim", CLAIM, _got_job))["job"]
        body = {"workerId": "bench", "leaseToken": job["leaseToken"]}
        path = f"/api/queue/jobs/{job['id']}/complete"
        yield Request(path, body, lambda answer: answer["status"] == "succeeded")


def _mcp(holds: Callable[[dict[str, Any]], bool]) -> Script:
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": "queue.claim",
    }
    meta = {f"{_META}/protocolVersion": "2026-07-28", f"{_META}/clientCapabilities": {}}
    params = {"name": "queue.claim", "arguments": CLAIM, "_meta": meta}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    while True:
        yield Request("/mcp", body, lambda answer: holds(answer["result"]["structuredContent"]), headers)


def mcp_claim(_: list[Any]) -> Script:
    """The same claims as tool calls over streamable HTTP (protocol 2026-07-28)."""
    return _mcp(_got_job)


def mcp_paused(_: list[Any]) -> Script:
    """The same paused claims as tool calls."""
    return _mcp(_got_pause)


KINDS: dict[str, Callable[[list[Any]], Script]] = {
    script.__name__: script
    for script in (noop, claim, paused, either, heartbeat, whole, mcp_claim, mcp_paused)
}


async def connection(url: str, script: Script, until: float, times: list[float]) -> None:
    """One connection: send, wait for the answer, check it, again."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        request = next(script)
        while time.perf_counter() < until and len(times) < MAX_ANSWERS:
            begun = time.perf_counter()
            writer.write(request.encoded(parts.netloc))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            raw = await reader.readexactly(length)
            times.append(time.perf_counter() - begun)
            answer = json.loads(raw)
            if not head.startswith(b"HTTP/1.1 200 ") or not request.holds(answer):
                raise WrongAnswer(f"{request.path}: {head.splitlines()[0].decode()} {raw[:300].decode()}")
            request = script.send(answer)
    finally:
        writer.close()


async def main(orders: dict[str, Any]) -> dict[str, Any]:
    """Keep the connections busy; what came of it."""
    times: list[float] = []
    size: int = orders["connections"]
    jobs: list[Any] = orders.get("jobs", [])
    begun = time.perf_counter()
    until = begun + orders["seconds"]
    async with asyncio.TaskGroup() as tasks:
        for number in range(size):
            script = KINDS[orders["kind"]](jobs[number::size])
            tasks.create_task(connection(orders["url"], script, until, times))
    took = time.perf_counter() - begun
    times.sort()
    return {
        "count": len(times),
        "seconds": took,
        "p50": statistics.median(times) * 1000,
        "p99": times[int(len(times) * 0.99)] * 1000,
    }


if __name__ == "__main__":
    import uvloop

    print(json.dumps(uvloop.run(main(json.load(sys.stdin)))))
